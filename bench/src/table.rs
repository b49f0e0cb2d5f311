//! Collects figures and formats them as a table and as JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use crate::figures::{Figure, median};

/// All figures that were measured.
#[derive(Debug, Default)]
pub(crate) struct BenchReport {
    /// The values of each round, by figure and index into `cases`.
    samples: BTreeMap<(Figure, usize), Samples>,
    /// The cases in the order in which they were added; `""` for a figure without cases.
    cases: Vec<String>,
    /// Lines below the table, such as missing peers.
    notes: Vec<String>,
}

#[derive(Debug, Default)]
struct Samples {
    values: Vec<f64>,
    /// Why there are no values.
    missing: Option<String>,
}

impl BenchReport {
    /// Adds the value of a round.
    pub(crate) fn add(&mut self, figure: Figure, case: &str, value: f64) {
        self.samples(figure, case).values.push(value);
    }

    /// Records why a figure has no value.
    pub(crate) fn miss(&mut self, figure: Figure, case: &str, reason: &str) {
        self.samples(figure, case).missing = Some(reason.to_owned());
    }

    /// Adds a line below the table, unless it is there already.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Returns the medians of a figure by case, in the order in which the cases were added.
    pub(crate) fn medians(&self, figure: Figure) -> Vec<(&str, f64)> {
        let lines = self.lines().filter(|(of, ..)| *of == figure);
        lines.filter_map(|(_, case, samples)| Some((case, median(&samples.values)?))).collect()
    }

    fn samples(&mut self, figure: Figure, case: &str) -> &mut Samples {
        let index = self.cases.iter().position(|known| known == case).unwrap_or_else(|| {
            self.cases.push(case.to_owned());
            self.cases.len() - 1
        });
        self.samples.entry((figure, index)).or_default()
    }

    /// Formats the table, with the number of met and missed goals below it.
    pub(crate) fn table(&self, about: &Value) -> String {
        let mut rows = vec![["figure", "goal", "median", "spread", ""].map(str::to_owned)];
        let (mut met, mut missed, mut absent) = (0, 0, 0);
        for (figure, case, samples) in self.lines() {
            let definition = figure.definition();
            let name = [definition.name, case].join(if case.is_empty() { "" } else { ": " });
            let goal = definition.goal.text(definition.unit).unwrap_or_default();
            // A figure without values stays in the table with its reason: a goal must not vanish.
            let Some(middle) = median(&samples.values) else {
                absent += 1;
                let reason = samples.missing.as_deref().unwrap_or_default();
                rows.push([name, goal, "-".into(), String::new(), format!("not available: {reason}")]);
                continue;
            };
            let verdict = match definition.goal.is_met(&samples.values) {
                Some(true) => "met",
                // In capitals, to be found in a long table.
                Some(false) => "MISSED",
                None => "",
            };
            match verdict {
                "met" => met += 1,
                "MISSED" => missed += 1,
                _ => {}
            }
            let (least, most) = samples.spread();
            let spread = format!("{}..{}", number(least), number(most));
            let middle = format!("{} {}", number(middle), definition.unit);
            rows.push([name, goal, middle.trim_end().to_owned(), spread, verdict.to_owned()]);
        }
        let mut text = String::new();
        // The machine comes first: figures of two machines cannot be compared.
        for (name, value) in about.as_object().into_iter().flatten() {
            let _ = writeln!(text, "{name}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        text.push('\n');
        text.push_str(&aligned(&rows));
        for note in &self.notes {
            let _ = write!(text, "\n{note}");
        }
        let _ = writeln!(text, "\ngoals: {met} met, {missed} missed; {absent} figures not available");
        text
    }

    /// Returns all figures, with their definitions, as JSON.
    pub(crate) fn json(&self, about: &Value) -> Value {
        let figures: Vec<Value> = self
            .lines()
            .map(|(figure, case, samples)| {
                let definition = figure.definition();
                let (least, most) = samples.spread();
                json!({
                    "group": format!("{:?}", definition.group).to_lowercase(),
                    "figure": definition.id,
                    "name": definition.name,
                    "case": (!case.is_empty()).then_some(case),
                    "unit": definition.unit,
                    "goal": definition.goal.text(definition.unit),
                    "median": median(&samples.values),
                    "least": (!samples.values.is_empty()).then_some(least),
                    "most": (!samples.values.is_empty()).then_some(most),
                    "samples": samples.values,
                    "met": definition.goal.is_met(&samples.values),
                    "missing": samples.missing,
                    "method": definition.method,
                })
            })
            .collect();
        json!({"about": about, "figures": figures, "notes": self.notes})
    }

    fn lines(&self) -> impl Iterator<Item = (Figure, &str, &Samples)> {
        self.samples.iter().map(|((figure, case), samples)| (*figure, self.cases[*case].as_str(), samples))
    }
}

impl Samples {
    fn spread(&self) -> (f64, f64) {
        let values = || self.values.iter().copied();
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
    }
}

/// Formats a value with three significant digits, or a whole number with all its digits.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Aligns rows in columns: the first and the last column to the left, the others to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ if column == N - 1 => write!(line, "  {cell}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_everything() {
        let mut report = BenchReport::default();
        report.add(Figure::KeptFull, "fin", 0.5);
        report.add(Figure::KeptFull, "rst", 0.8);
        report.add(Figure::KeptFull, "rst", 0.761);
        report.add(Figure::FloodAlone, "rst", 117_000.4);
        report.miss(Figure::FasterDirect, "", "exit code 69");
        report.note("no bpftrace");
        report.note("no bpftrace");
        let expected = "\
rounds: 2

figure                                                                             goal  median        spread
flood, nothing beside it: rst                                                            117000 /s  117000..117000
kept with full events to a file: fin                                             ≥ 0.75       0.500  0.500..0.500  MISSED
kept with full events to a file: rst                                             ≥ 0.75       0.780  0.761..0.800  met
";
        let table = report.table(&json!({"rounds": 2}));
        let squeeze = |text: &str| {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(squeeze(&table)[..6], squeeze(expected));
        assert!(table.contains("≥ 20 x"), "{table}");
        assert!(
            table.ends_with(
                "not available: exit code 69\n\nno bpftrace\ngoals: 1 met, 1 missed; 1 figures not available\n"
            ),
            "{table}"
        );
        let json = report.json(&json!({}));
        assert_eq!(json["figures"][2]["samples"], json!([0.8, 0.761]));
        assert_eq!(json["figures"][3]["median"], Value::Null);
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 117_345.6, 12.345, 4.0, 1.234, 0.0123].map(number);
        assert_eq!(shown, ["0", "117346", "12.3", "4", "1.23", "0.012"]);
    }
}

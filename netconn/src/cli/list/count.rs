//! Counts rows instead of printing them.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use anyhow::Result;
use netconn_model::{
    row::{Row, RowColumn},
    term,
};
use serde_json::{Map, Value, json};

use crate::cli::presentation::Format;

/// Counts rows, in all or by group.
#[derive(Debug, Default)]
pub(super) struct Counter {
    total: u64,
    by: Option<&'static RowColumn>,
    /// Counts by the name of the group; `None` is the group of rows for which it is not known.
    groups: HashMap<Option<String>, u64>,
}

impl Counter {
    pub(super) fn new(by: Option<&'static RowColumn>) -> Self {
        Self { by, ..Self::default() }
    }

    /// Counts a row that is given as a JSON object.
    pub(super) fn add(&mut self, row: &[u8]) -> Result<()> {
        self.total += 1;
        // Rows need not be read to count them all, which is most of the work.
        if let Some(by) = self.by {
            let row: Row<'_> = serde_json::from_slice(row)?;
            *self.groups.entry(by.group(&row)).or_default() += 1;
        }
        Ok(())
    }

    /// Prints the counts; groups by size, the largest first.
    pub(super) fn print(self, out: &mut impl Write, format: Format, heading: bool) -> Result<()> {
        let Self { total, by, groups } = self;
        let Some(by) = by else {
            match format {
                Format::Table | Format::Other(_) => writeln!(out, "{total}")?,
                Format::Json | Format::Ndjson => writeln!(out, "{}", json!({ "count": total }))?,
                Format::Csv | Format::CsvRaw if heading => write!(out, "count\n{total}\n")?,
                Format::Csv | Format::CsvRaw => writeln!(out, "{total}")?,
            }
            return Ok(());
        };
        let mut groups: Vec<(Option<String>, u64)> = groups.into_iter().collect();
        // Names decide between equal groups: the order of a hash map changes from run to run.
        groups.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        match format {
            // Another format has no counts, and is refused before.
            Format::Table | Format::Other(_) => table(out, &groups)?,
            Format::Json => {
                let groups: Vec<Value> = groups.iter().map(|group| object(by, group)).collect();
                writeln!(out, "{}", json!({ "count": total, "groups": groups }))?;
            }
            Format::Ndjson => groups.iter().try_for_each(|group| writeln!(out, "{}", object(by, group)))?,
            Format::Csv | Format::CsvRaw => {
                let cells = format.csv_cells();
                let mut out = csv::Writer::from_writer(out);
                if heading {
                    out.write_record(["count", by.group_key()])?;
                }
                for (name, count) in &groups {
                    out.write_record([&*count.to_string(), &cells.text(name.as_deref().unwrap_or_default())])?;
                }
                out.flush()?;
            }
        }
        Ok(())
    }
}

fn table(out: &mut impl Write, groups: &[(Option<String>, u64)]) -> io::Result<()> {
    // The first group is the largest, so its number is the longest.
    let width = groups.first().map_or(0, |(_, count)| count.to_string().len());
    groups.iter().try_for_each(|(name, count)| {
        writeln!(out, "{count:>width$} {}", term::sanitize(name.as_deref().unwrap_or("-")))
    })
}

/// Returns a group as a JSON object; an unknown name is left out.
fn object(by: &RowColumn, (name, count): &(Option<String>, u64)) -> Value {
    let mut object = Map::new();
    object.insert("count".into(), json!(count));
    if let Some(name) = name {
        // Back to a number where the column has one: the key of the map is text.
        let number = name.parse::<u64>().ok().filter(|_| by.is_number());
        object.insert(by.group_key().into(), number.map_or_else(|| json!(name), |number| json!(number)));
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use netconn_model::row::column_by_name;

    use super::*;

    fn printed(by: Option<&str>, format: Format) -> String {
        let mut counter = Counter::new(by.map(|name| column_by_name(name).unwrap()));
        let rows = [(1_u16, "a, b"), (22, "x\u{1b}"), (22, "x\u{1b}")]
            .map(|(port, process)| json!({"state": "ESTABLISHED", "local_port": port, "process_name": process}));
        for row in rows.into_iter().chain([json!({"state": "LISTENING"})]) {
            counter.add(row.to_string().as_bytes()).unwrap();
        }
        let mut out = Vec::new();
        counter.print(&mut out, format, true).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_the_number() {
        assert_eq!(printed(None, Format::Table), "4\n");
        assert_eq!(printed(None, Format::Json), "{\"count\":4}\n");
        assert_eq!(printed(None, Format::Ndjson), "{\"count\":4}\n");
        assert_eq!(printed(None, Format::Csv), "count\n4\n");
    }

    #[test]
    fn the_number_of_each_group() {
        let process = Some("process");
        assert_eq!(printed(process, Format::Table), "2 x\u{fffd}\n1 -\n1 a, b\n");
        assert_eq!(printed(process, Format::Csv), "count,process_name\n2,x\u{1b}\n1,\n1,\"a, b\"\n");
        assert_eq!(
            printed(Some("local-port"), Format::Json),
            "{\"count\":4,\"groups\":[{\"count\":2,\"local_port\":22},{\"count\":1},{\"count\":1,\"local_port\":1}]}\n"
        );
        assert_eq!(
            printed(Some("state"), Format::Ndjson),
            "{\"count\":3,\"state\":\"ESTABLISHED\"}\n{\"count\":1,\"state\":\"LISTENING\"}\n"
        );
    }
}

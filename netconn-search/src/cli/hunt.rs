//! `netconn hunt`: lists, shows and runs hunts.

use std::io::{self, Write as _};

use anstyle::Style;
use anyhow::Result;
use clap::Args;
use netconn_model::{
    exit::{Exit, is_broken_pipe},
    term::{self, style},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    cli::{
        error::{RefusedQuery, WrongUse, report},
        options::{PresentationOptions, SourceOptions},
        session::{Counted, SearchSession},
    },
    engine::SearchError,
    hunt::{Hunt, HuntLibrary, HuntSeverity},
    output::{OutputFormat, recorded::GapJson},
};

/// The name that stands for all hunts.
const ALL: &str = "all";

/// The options of `netconn hunt`.
#[derive(Clone, Debug, Args)]
pub(super) struct HuntOptions {
    /// The hunt to run; `all` runs every hunt and names those that found something.
    #[arg(value_name = "NAME", required_unless_present = "list")]
    name: Option<String>,
    /// List the hunts.
    #[arg(short = 'l', long, conflicts_with_all = ["name", "show", "set"])]
    list: bool,
    /// Show the hunt instead of running it: what it looks for, why, false positives, its query.
    #[arg(long)]
    show: bool,
    /// Set a parameter of the hunt; --show lists its parameters.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    presentation: PresentationOptions,
    // Last, because its help heading applies to all options after it.
    #[command(flatten)]
    source: SourceOptions,
}

impl HuntOptions {
    /// Returns the options that say how the answer is shown.
    pub(super) fn presentation(&self) -> &PresentationOptions {
        &self.presentation
    }
}

/// Runs `netconn hunt`.
pub(super) fn run(options: &HuntOptions) -> Result<Exit> {
    let session = SearchSession::new(&options.source, &options.presentation)?;
    let library = HuntLibrary::new(Some(session.config().search.hunts.clone()));
    if (options.list || options.show) && session.presentation.output.is_some() {
        return Err(WrongUse(
            "--output takes the rows of a hunt: redirect standard output for --list and --show".into(),
        )
        .into());
    }
    if options.list {
        list(&all(&library), session.format)?;
        return Ok(Exit::Success);
    }
    // clap requires a name without --list, so that the default is never used.
    let name = options.name.as_deref().unwrap_or(ALL);
    if name == ALL {
        if options.show || !options.set.is_empty() || options.presentation.output.is_some() {
            return Err(WrongUse("--show, --set and --output need the name of one hunt".into()).into());
        }
        return run_all(&session, &all(&library));
    }
    let hunt = library.get(name)?;
    if options.show {
        show(&hunt, session.format)?;
        return Ok(Exit::Success);
    }
    let rows = run_one(&session, &hunt, &options.set, false)?;
    Ok(if rows == 0 && options.presentation.exit_code { Exit::Nothing } else { Exit::Success })
}

/// Returns all valid hunts, and reports the others on standard error.
fn all(library: &HuntLibrary) -> Vec<Hunt> {
    let (hunts, problems) = library.all();
    for problem in problems {
        report(&problem.into());
    }
    hunts
}

/// Runs a hunt and shows its rows; returns their number. `is_one_of_all`: its title belongs to the output, whose tables nobody could
/// tell apart without.
fn run_one(session: &SearchSession, hunt: &Hunt, settings: &[String], is_one_of_all: bool) -> Result<u64> {
    let session = over_its_range(session, hunt);
    let (mut query, diagnostics) = session.parse(&hunt.query)?;
    for setting in settings {
        // In the parsed query rather than in its text: a value cannot change the rest of the query.
        hunt.set(&mut query, setting)?;
    }
    let (heading, severity) = (style::HEADING, severity_style(hunt.severity));
    let title = format!(
        "{severity}{}{severity:#}: {heading}{}{heading:#} (details: `netconn hunt {} --show`)",
        hunt.severity.name(),
        term::sanitize(&hunt.title),
        hunt.name
    );
    if is_one_of_all {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{title}")?;
        out.flush()?;
    } else if session.format == OutputFormat::Table && !session.presentation.quiet {
        // On standard error, so that a table in a pipe has rows only.
        netconn_model::tell!("{title}");
    }
    session.block_on(session.show(&hunt.query, &query, diagnostics))
}

/// Runs a hunt without showing its rows.
fn count_one(session: &SearchSession, hunt: &Hunt) -> Result<Counted> {
    let session = over_its_range(session, hunt);
    let (query, _) = session.parse(&hunt.query)?;
    session.block_on(session.count_rows(&hunt.query, &query))
}

/// Returns a session over the hunt's own time range, unless the options give a beginning. Named files without a time
/// range are searched as a whole.
fn over_its_range(session: &SearchSession, hunt: &Hunt) -> SearchSession {
    let mut session = session.clone();
    let arguments = session.source.time_arguments();
    let is_all = arguments.is_empty() && !session.source.file.is_empty();
    if arguments.since.is_none() && arguments.last.is_none() && !is_all {
        session.source.set_length(&hunt.range);
    }
    session
}

/// The result of one hunt of `netconn hunt all`; its members are the keys of the JSON output.
#[derive(Serialize)]
struct HuntResult<'a> {
    name: &'a str,
    title: &'a str,
    severity: HuntSeverity,
    /// Number of rows; `None`: the hunt could not be run.
    rows: Option<u64>,
    /// Events of the time range that are known to be lost; `None` for tables, which show it with the rows of each hunt.
    #[serde(skip_serializing_if = "Option::is_none")]
    events_lost: Option<u64>,
    /// Lines left out because they are not an event; `None` for tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    bad_lines: Option<u64>,
    /// Times in which nothing was recorded; `None` for tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    gaps: Option<Vec<GapJson>>,
}

/// Runs all hunts; one that cannot be run does not stop the others. A table shows the rows, JSON only their number.
fn run_all(session: &SearchSession, hunts: &[Hunt]) -> Result<Exit> {
    let format = session.format;
    if matches!(format, OutputFormat::Csv | OutputFormat::CsvRaw | OutputFormat::Parquet | OutputFormat::Events(_))
        || session.presentation.chart
    {
        return Err(WrongUse(
            "all hunts can be shown as table, json or ndjson only: name one hunt for other formats".into(),
        )
        .into());
    }
    // Hunts look at much the same time.
    let session = session.telling_gaps_once();
    let mut found = Vec::new();
    for hunt in hunts {
        let rows = match format {
            OutputFormat::Table => run_one(&session, hunt, &[], true).map(|rows| (rows, None)),
            _ => count_one(&session, hunt).map(|counted| (counted.rows, Some(counted))),
        };
        let rows = match rows {
            Ok(rows) => Some(rows),
            // An error that all other hunts would have as well ends the run.
            Err(error) if is_broken_pipe(&error) || !concerns_one_hunt(&error) => return Err(error),
            Err(error) => {
                netconn_model::tell!("netconn: the hunt {} cannot be run:", hunt.name);
                report(&error);
                None
            }
        };
        // Tables show losses with the rows of each hunt, so only the other formats have them here.
        let counted = rows.as_ref().and_then(|(_, counted)| counted.as_ref());
        found.push(HuntResult {
            name: &hunt.name,
            title: &hunt.title,
            severity: hunt.severity,
            rows: rows.as_ref().map(|(rows, _)| *rows),
            events_lost: counted.map(|counted| counted.read.lost),
            bad_lines: counted.map(|counted| counted.read.bad_lines),
            gaps: counted.map(|counted| counted.gaps.iter().map(GapJson::from).collect()),
        });
    }
    show_results(&found, format)?;
    let rows: u64 = found.iter().filter_map(|found| found.rows).sum();
    // A hunt that could not run matters more than the absence of findings.
    Ok(if found.iter().any(|found| found.rows.is_none()) {
        Exit::Internal
    } else if rows == 0 && session.presentation.exit_code {
        Exit::Nothing
    } else {
        Exit::Success
    })
}

/// Returns whether an error concerns this hunt only. Missing files, timeouts and exhausted memory concern all hunts.
fn concerns_one_hunt(error: &anyhow::Error) -> bool {
    error.is::<RefusedQuery>()
        || matches!(error.downcast_ref(), Some(SearchError::Engine(_) | SearchError::Query { .. }))
}

/// Writes the results of all hunts.
fn show_results(found: &[HuntResult<'_>], format: OutputFormat) -> Result<()> {
    let mut out = io::stdout().lock();
    match format {
        OutputFormat::Json => writeln!(out, "{}", json!({ "hunts": found }))?,
        OutputFormat::Ndjson => {
            for found in found {
                writeln!(out, "{}", serde_json::to_string(found)?)?;
            }
        }
        OutputFormat::Table
        | OutputFormat::Csv
        | OutputFormat::CsvRaw
        | OutputFormat::Parquet
        | OutputFormat::Events(_) => {
            let some = found.iter().filter_map(|found| Some((found.name, found.rows.filter(|rows| *rows > 0)?)));
            let names: Vec<String> = some.map(|(name, rows)| format!("{name} ({rows})")).collect();
            let names = if names.is_empty() { "nothing".into() } else { names.join(", ") };
            netconn_model::tell!("{} hunts run; found: {names}", found.len());
        }
    }
    Ok(out.flush()?)
}

/// Lists the hunts.
fn list(hunts: &[Hunt], format: OutputFormat) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match format {
        OutputFormat::Table => {
            let row = |cells: [&str; 4]| cells.map(|cell| term::sanitize(cell).into_owned()).to_vec();
            let heading = row(["NAME", "SEVERITY", "RANGE", "TITLE"]);
            let rows: Vec<Vec<String>> =
                hunts.iter().map(|hunt| row([&hunt.name, hunt.severity.name(), &hunt.range, &hunt.title])).collect();
            let mut columns = term::Columns::new(&[false; 4], term::width());
            std::iter::once(&heading).chain(&rows).for_each(|row| columns.widen(row));
            writeln!(out, "{}", columns.line(&heading, |_| style::HEADING))?;
            for (row, hunt) in rows.iter().zip(hunts) {
                let severity = severity_style(hunt.severity);
                let style = |column| if column == 1 { severity } else { Style::new() };
                writeln!(out, "{}", columns.line(row, style))?;
            }
        }
        OutputFormat::Json => writeln!(out, "{}", json!({ "hunts": hunts }))?,
        OutputFormat::Ndjson => {
            for hunt in hunts {
                writeln!(out, "{}", serde_json::to_string(hunt)?)?;
            }
        }
        OutputFormat::Csv | OutputFormat::CsvRaw | OutputFormat::Parquet | OutputFormat::Events(_) => {
            return Err(WrongUse("hunts can be listed as table, json or ndjson only".into()).into());
        }
    }
    Ok(out.flush()?)
}

/// Shows one hunt.
fn show(hunt: &Hunt, format: OutputFormat) -> Result<()> {
    let mut out = anstream::stdout().lock();
    if format != OutputFormat::Table {
        writeln!(out, "{}", serde_json::to_string(hunt)?)?;
        return Ok(out.flush()?);
    }
    let (heading, severity) = (style::HEADING, severity_style(hunt.severity));
    let text = |text: &str| term::sanitize(text).into_owned();
    writeln!(out, "{heading}{}{heading:#}  {severity}{}{severity:#}", text(&hunt.title), hunt.severity.name())?;
    for (title, content) in [
        ("What it looks for", &hunt.description),
        ("Why", &hunt.reason),
        ("False positives", &hunt.false_positives),
        ("Default time range", &hunt.range),
    ] {
        writeln!(out, "\n{heading}{title}{heading:#}\n{}", wrapped(&text(content)))?;
    }
    if !hunt.parameters.is_empty() {
        writeln!(out, "\n{heading}Parameters (--set NAME=VALUE){heading:#}")?;
        for parameter in &hunt.parameters {
            let default =
                parameter.default.as_deref().map_or_else(String::new, |default| format!(" [default: {default}]"));
            writeln!(out, "  {}  {}{}", text(&parameter.name), text(&parameter.meaning), text(&default))?;
        }
    }
    writeln!(out, "\n{heading}Query{heading:#}")?;
    // The header has been shown above in a readable form.
    for line in hunt.query.lines().skip_while(|line| line.starts_with("//")) {
        writeln!(out, "{}", text(line))?;
    }
    Ok(out.flush()?)
}

/// Breaks a text into lines that fit the terminal, of at most 100 columns.
fn wrapped(text: &str) -> String {
    let width = term::width().unwrap_or(100).clamp(20, 100);
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && term::text_width(&line) + 1 + term::text_width(word) > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.join("\n")
}

/// Returns the style in which a severity is shown.
fn severity_style(severity: HuntSeverity) -> Style {
    match severity {
        HuntSeverity::Low => style::FAINT,
        HuntSeverity::Medium => style::CAUTION,
        HuntSeverity::High | HuntSeverity::Critical => style::BAD,
    }
}

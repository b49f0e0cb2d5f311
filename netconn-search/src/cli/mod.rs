//! The command lines of `netconn search` and `netconn hunt`.

mod options;
mod query;
mod error;
mod progress;
mod absent;
mod recording;
mod input;
mod session;
mod help;
mod follow;
mod pivot;
mod generate;
mod interactive;
mod hunt;
mod convert;
mod exit;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, ColorChoice, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ContextKind};
use netconn_model::{
    exit::{Exit, is_broken_pipe},
    term,
};
use netconn_query::{self, Fields, Severity};
use serde::Serialize;

use crate::{
    cli::{
        error::{RefusedQuery, WrongUse},
        options::{PresentationOptions, SourceOptions},
        pivot::PivotOptions,
        session::SearchSession,
    },
    confine, engine,
    output::OutputFormat,
};

/// Search the events recorded on this host, in the PowerQuery language.
///
/// QUERY is a filter, followed by any number of `| command`. Without QUERY, on a terminal, netconn reads queries
/// interactively.
#[derive(Debug, Parser)]
#[command(
    name = "netconn-search",
    bin_name = "netconn search",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    override_usage = "netconn search [OPTIONS] [QUERY]",
    after_help = EXAMPLES,
)]
struct SearchArguments {
    #[command(subcommand)]
    command: Option<SearchCommand>,
    #[command(flatten)]
    search: SearchOptions,
}

const EXAMPLES: &str = "\
Examples:
  netconn search \"event.type = 'IP Connect' and dst.port.number = 443\" --last 3d
  netconn search \"| top 10 bytes = sum(event.network.bytesSent) by dst.ip.address\" --chart
  netconn search @hunt.pq --file /evidence/events --format csv > found.csv
  netconn search --around 5f3a9c0d1e2b4a68-1234 10m
  netconn search --ioc indicators.txt \"event.network.direction = 'OUTGOING'\" --last 30d
  netconn search --help-language

`netconn hunt --list` lists ready-made searches for traces of attackers.

Exit codes: 0 success (also without rows; 1 with -e), 2 usage error, 65 invalid query,
69 no history, no daemon or not enough memory, 70 internal error, 74 I/O error, 75 timeout,
77 permission denied, 78 configuration error, 130 Ctrl-C.";

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, as long as the program runs")]
enum SearchCommand {
    /// Run ready-made searches for traces of attackers.
    #[command(
        hide = true,
        bin_name = "netconn hunt",
        override_usage = "netconn hunt [OPTIONS] <NAME|all>\n       netconn hunt --list"
    )]
    Hunt(hunt::HuntOptions),
    /// Write files of events in another format.
    #[command(
        hide = true,
        bin_name = "netconn convert",
        override_usage = "netconn convert [OPTIONS] --to <NAME> <FILE>...",
        after_help = convert::EXAMPLES
    )]
    Convert(convert::ConvertOptions),
    /// Write man pages and completions into a folder (for packages).
    #[command(hide = true)]
    Generate(generate::GenerateOptions),
}

#[derive(Debug, Args)]
struct SearchOptions {
    /// The query; @FILE reads it from a file, - from standard input.
    #[arg(value_name = "QUERY")]
    query: Option<String>,
    /// Save the query under this name and run it.
    #[arg(long, value_name = "NAME", requires = "query")]
    save: Option<String>,
    /// Run the query saved under this name; without NAME, list the saved queries.
    #[arg(long, value_name = "NAME", num_args = 0..=1, conflicts_with = "query")]
    #[expect(clippy::option_option, reason = "clap's form of an option whose value may be left out")]
    saved: Option<Option<String>>,
    /// Show the text of the query saved under --saved NAME instead of running it.
    #[arg(long, requires = "saved", conflicts_with = "remove")]
    show: bool,
    /// Remove the query saved under --saved NAME.
    #[arg(long, requires = "saved")]
    remove: bool,
    /// Show how the query is understood, how it is run and what it reads, instead of its rows.
    #[arg(long, conflicts_with_all = ["follow", "format", "chart", "output"])]
    explain: bool,
    /// Show new events from the daemon until Ctrl-C; for queries of a filter, `columns`, `let`, `parse` and `lookup`
    /// only.
    #[arg(long, conflicts_with_all = ["chart", "output"])]
    follow: bool,
    /// The daemon's socket, for --follow [default: `socket` in the configuration].
    #[arg(long, value_name = "PATH", env = "NETCONN_SOCKET")]
    socket: Option<PathBuf>,
    /// Show the commands, functions and fields of the query language.
    #[arg(long)]
    help_language: bool,
    /// Convert a closed segment of the history to Parquet (used by the daemon).
    #[arg(long, hide = true, exclusive = true, value_name = "SEGMENT")]
    convert: Option<PathBuf>,
    #[command(flatten)]
    presentation: PresentationOptions,
    // Last, because their help headings apply to all options after them.
    #[command(flatten)]
    pivot: PivotOptions,
    #[command(flatten)]
    source: SourceOptions,
}

/// Runs a command line and returns the exit code of the process; all output has been written by then.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = SearchArguments::command().try_get_matches_from(arguments);
    let arguments = match matches.and_then(|matches| SearchArguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version arrive as errors too. A write error is ignored: the reader has gone.
            let _ = error.print();
            // A query without quotes is split by the shell, and its second word looks like a subcommand.
            if error.get(ContextKind::InvalidSubcommand).is_some() {
                netconn_model::tell!(
                    "\nQuote the query, so that the shell passes it as one argument: \"event.type = 'IP Connect'\""
                );
            }
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let presentation = match &arguments.command {
        Some(SearchCommand::Hunt(options)) => options.presentation(),
        // The options of a search have their defaults then.
        None | Some(SearchCommand::Convert(_) | SearchCommand::Generate(_)) => &arguments.search.presentation,
    };
    match presentation.color {
        ColorChoice::Auto => {}
        ColorChoice::Always => anstream::ColorChoice::Always.write_global(),
        ColorChoice::Never => anstream::ColorChoice::Never.write_global(),
    }
    let result = match &arguments.command {
        Some(SearchCommand::Hunt(options)) => hunt::run(options),
        Some(SearchCommand::Convert(options)) => convert::run(options),
        Some(SearchCommand::Generate(options)) => generate::run(options),
        None => search(&arguments.search),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            error::report(&error);
            // `-` is standard output.
            let to_stdout = presentation.output.as_ref().is_none_or(|path| path.as_os_str() == "-");
            if presentation.format == Some(OutputFormat::Json) && to_stdout {
                // A program that expects one JSON object gets one. A write error is ignored: the reader has gone.
                let _ = writeln!(io::stdout(), "{}", error::to_json(&error));
            }
            exit::of(&error).into()
        }
    }
}

/// Runs `netconn search`.
fn search(options: &SearchOptions) -> Result<Exit> {
    if let Some(segment) = &options.convert {
        return convert(segment);
    }
    if options.help_language {
        let mut out = anstream::stdout().lock();
        write!(out, "{}\nFields\n{}", help::language(), help::fields())?;
        return Ok(Exit::Success);
    }
    let mut pivot = options.pivot.clone();
    let mut query = options.query.clone();
    if let Some(taken) = pivot.take_query() {
        if query.is_some() || options.saved.is_some() {
            return Err(WrongUse(format!("'{taken}' is not a length of time: use 30s, 15m, 4 hours or 3d")).into());
        }
        query = Some(taken);
    }
    if pivot.is_given() && options.follow {
        let message = "--around, --of-process, --of-connection and --ioc search what was recorded: leave out --follow";
        return Err(WrongUse(message.into()).into());
    }
    if (options.show || options.remove) && options.saved == Some(None) {
        return Err(WrongUse("--show and --remove need the name of a saved query: --saved NAME".into()).into());
    }
    if query.as_deref() == Some("-") && options.source.file.iter().any(|path| input::is_standard_input(path)) {
        let message =
            "the query and the events cannot both be standard input: write the query to a file and name it as @FILE";
        return Err(WrongUse(message.into()).into());
    }
    // Before the session is made: without a query nothing of the rest is needed.
    let text = match (&query, &options.saved) {
        (Some(query), _) => query::text(query)?,
        (None, Some(Some(name))) if options.remove => {
            query::saved()?.remove(name)?;
            netconn_model::tell!("netconn: removed {name}");
            return Ok(Exit::Success);
        }
        (None, Some(Some(name))) if options.show => {
            let text = query::saved()?.load(name)?;
            let mut out = anstream::stdout().lock();
            text.lines().try_for_each(|line| writeln!(out, "{}", term::sanitize(line)))?;
            return Ok(Exit::Success);
        }
        (None, Some(Some(name))) => query::saved()?.load(name)?,
        (None, None) if pivot.is_given() => String::new(),
        (None, Some(None)) => {
            let mut out = anstream::stdout().lock();
            for name in query::saved()?.names()? {
                writeln!(out, "{}", term::sanitize(&name))?;
            }
            return Ok(Exit::Success);
        }
        (None, None) if options.explain || options.follow || !interactive::is_possible() => {
            let message =
                "a query is needed: `netconn search \"event.type = 'IP Connect'\"`, @FILE or - for standard input";
            return Err(WrongUse(message.into()).into());
        }
        (None, None) => {
            let mut session = SearchSession::new(&options.source, &options.presentation)?;
            return interactive::run(&mut session);
        }
    };
    let mut session = SearchSession::new(&options.source, &options.presentation)?;
    let (mut query, diagnostics) = session.parse(&text)?;
    if let Some(name) = &options.save {
        // Checked before saving, so that a broken query cannot replace a saved one that works.
        let checked = netconn_query::check(&query, &Fields::new(Vec::<String>::new()));
        let errors = checked.diagnostics.into_iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
        let errors: Vec<_> = errors.collect();
        if !errors.is_empty() {
            return Err(RefusedQuery { text, diagnostics: errors }.into());
        }
        let replaced = query::saved()?.save(name, &text)?;
        let how = if replaced { "replaced" } else { "saved" };
        netconn_model::tell!("netconn: {how} {name}; run it with `netconn search --saved {name}`");
    }
    // Kept until the answer is complete.
    let _indicators = pivot::apply(&mut session, &pivot, &mut query)?;
    if options.follow {
        let socket = options.socket.as_deref().unwrap_or(Path::new(&session.config().socket));
        return session.block_on(follow::run(&session, socket, &text, query, diagnostics));
    }
    if options.explain {
        session.block_on(session.explain(&text, &query, diagnostics))?;
        return Ok(Exit::Success);
    }
    let rows = session.block_on(session.show(&text, &query, diagnostics))?;
    Ok(if rows == 0 && options.presentation.exit_code { Exit::Nothing } else { Exit::Success })
}

/// What the daemon hears of a conversion.
#[derive(Serialize)]
struct ConversionReport {
    #[serde(flatten)]
    rows: engine::ConvertedRows,
    #[serde(flatten)]
    layers: confine::Layers,
}

/// Converts a closed segment to Parquet, and writes a report as one line of JSON. `-` is how the daemon calls it: the segment
/// is standard input, and the Parquet file is open too.
fn convert(segment: &Path) -> Result<Exit> {
    let report = if segment == Path::new("-") {
        // First, because it is known by its number: a descriptor made before could have that.
        let parquet = confine::parquet_descriptor()?;
        let handed_over = engine::HandedOver::new(standard_input()?, parquet)?;
        // Before the first byte of the segment is read: strangers choose what is in it.
        let layers = confine::confine();
        serde_json::to_string(&ConversionReport { rows: handed_over.convert()?, layers })?
    } else {
        serde_json::to_string(&engine::convert(segment)?)?
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{report}")?;
    // Explicit, so that a report that cannot be written is an error and the daemon keeps the segment.
    out.flush()?;
    Ok(Exit::Success)
}

fn standard_input() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        SearchArguments::command().debug_assert();
    }

    /// Each option stands in the section of its command in docs/commands.md, with its letter if it has one.
    #[test]
    fn every_option_is_documented() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
        let text = std::fs::read_to_string(path).unwrap();
        let section = |title: &str| {
            let section = text.split("\n## ").find_map(|section| section.strip_prefix(title)).unwrap();
            section.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let (search, hunt, convert) = (section("Searches"), section("Hunts"), section("Conversions"));
        let command = SearchArguments::command();
        let of_hunts = command.find_subcommand("hunt").unwrap();
        for option in
            command.find_subcommand("convert").unwrap().get_arguments().filter_map(|argument| argument.get_long())
        {
            assert!(convert.contains(&format!("`--{option}`")), "--{option} is missing in docs/commands.md");
        }
        // What searches and hunts share is described once.
        let shared: Vec<_> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
        for (command, section) in [(&command, &search), (of_hunts, &hunt)] {
            let mut options = 0;
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let Some(long) = argument.get_long() else { continue };
                let section = if shared.contains(&long) { &search } else { section };
                let written = match argument.get_short() {
                    Some(letter) => format!("`-{letter}`, `--{long}"),
                    None => format!("`--{long}"),
                };
                let is_whole = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '-');
                assert!(section.split(&written).skip(1).any(is_whole), "{written} is missing in docs/commands.md");
                options += 1;
            }
            assert!(options > 5);
        }
        assert!(search.contains("`-` instead of a query"));
    }

    #[test]
    fn what_everybody_types_is_understood() {
        for line in [
            vec!["event.type = 'IP Connect'", "--since", "3d", "--format", "json", "-e"],
            vec!["-", "-f", "a", "-f", "b", "--last", "-15m", "--color", "never"],
            vec!["--saved"],
            vec!["--saved", "web", "--chart"],
            vec!["--saved", "web", "--show"],
            vec!["--saved", "web", "--remove"],
            vec!["--around", "a-1", "10m", "event.type = 'IP Close'", "--since", "1h"],
            vec!["--of-process", "a-1-2", "--ioc", "list.txt", "--utc"],
            vec!["a = 1", "--zone", "-03:00"],
            vec!["hunt", "--list", "--format", "json"],
            vec!["convert", "-", "a.ndjson", "--to", "ocsf", "-o", "b"],
            vec!["a = 1", "--format", "ecs"],
            vec!["hunt", "mining", "--since", "1w", "--set", "min_connections=2"],
            vec!["--convert", "events-1.ndjson"],
        ] {
            let arguments = std::iter::once("netconn-search").chain(line.iter().copied());
            SearchArguments::try_parse_from(arguments).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        }
        for line in [
            vec!["a = 1", "--since", "1h", "--last", "1h"],
            vec!["a = 1", "--saved", "x"],
            vec!["--save", "x"],
            vec!["--show"],
            vec!["--utc", "--zone", "UTC", "a = 1"],
            vec!["--zone", "Mars/Olympus", "a = 1"],
            vec!["a = 1", "--chart", "--format", "csv"],
            vec!["a = 1", "--explain", "--follow"],
            vec!["a = 1", "--convert", "x"],
            vec!["hunt"],
            vec!["convert", "a.ndjson"],
            vec!["convert", "--to", "zeek"],
            vec!["convert", "a.ndjson", "--to", "xml"],
        ] {
            let arguments = std::iter::once("netconn-search").chain(line.iter().copied());
            assert!(SearchArguments::try_parse_from(arguments).is_err(), "{line:?}");
        }
    }
}

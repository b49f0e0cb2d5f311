//! One query from its text to what is shown of its answer.

use std::{
    io::{self, IsTerminal as _, Write as _},
    num::NonZero,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use jiff::{Timestamp, Zoned, tz::TimeZone};
use netconn_model::{
    config::{Config, ConfigError},
    segment_name,
    term::{self, style},
};
use netconn_query::{self, Diagnostic, Fields, Query, diagnostic, printer};
use thiserror::Error;
use tokio::runtime::Runtime;

use crate::{
    cli::options::{PresentationOptions, SourceOptions},
    engine::{self, Answer, ProgressSnapshot, Search, SearchError},
    home,
    output::{
        AnswerWriter, OutputFormat, OutputStyle,
        destination::{Destination, PendingFile},
        intent::AnswerIntent,
        progress::{ProgressCounts, ProgressLine},
        summary::AnswerSummary,
    },
    range::RangeError,
};

/// A query that cannot be run. It shows the places.
#[derive(Debug, Error)]
#[error("the query cannot be read")]
pub(super) struct RefusedQuery {
    /// The query.
    pub(super) text: String,
    /// What is wrong with it.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// It took longer than it may.
#[derive(Clone, Copy, Debug, Error)]
#[error("the search did not end within {}: narrow the time or the filter, or raise --timeout", term::duration(self.0))]
pub(super) struct TimedOut(Duration);

/// Ctrl-C.
#[derive(Clone, Copy, Debug, Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// Options that do not go together.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub(super) struct WrongUse(pub(super) String);

/// There is nothing to search.
#[derive(Clone, Debug, Error)]
#[error(
    "there is no history in {}: start the daemon (`netconn run`) with `history = true`, or name files with --file",
    folder.display()
)]
pub(super) struct NoHistory {
    folder: PathBuf,
}

/// What queries are run on, and how their answers are shown.
#[derive(Clone, Debug)]
pub(super) struct SearchSession {
    pub(super) source: SourceOptions,
    pub(super) presentation: PresentationOptions,
    config: Config,
    runtime: Arc<Runtime>,
}

/// The line that says how far a search has come, from before it is known what there is to search: that takes time, too.
struct WatchedSearch {
    counters: Arc<OnceLock<Arc<engine::SearchProgress>>>,
    _line: ProgressLine,
}

impl WatchedSearch {
    fn start() -> Self {
        let counters = Arc::new(OnceLock::<Arc<engine::SearchProgress>>::new());
        let counts = Arc::clone(&counters);
        let counts =
            move || counts.get().map_or_else(ProgressCounts::default, |progress| counted(&progress.snapshot()));
        Self { counters, _line: ProgressLine::start(counts) }
    }

    /// From now on the line says this.
    fn watch(&self, progress: &Arc<engine::SearchProgress>) {
        // One search has one.
        let _ = self.counters.set(Arc::clone(progress));
    }
}

impl SearchSession {
    /// With these options and the configuration.
    pub(super) fn new(source: &SourceOptions, presentation: &PresentationOptions) -> Result<Self> {
        if source.file.iter().any(|path| path.as_os_str() == "-") && !Path::new("-").exists() {
            let message =
                "standard input cannot be searched, for a search reads files in pieces: write it to a file first";
            return Err(WrongUse(message.into()).into());
        }
        let mut presentation = presentation.clone();
        presentation.output.take_if(|path| path.as_os_str() == "-");
        if presentation.format == OutputFormat::Parquet && presentation.output.is_none() && io::stdout().is_terminal() {
            return Err(WrongUse("Parquet is not for a terminal: name a file with --output".into()).into());
        }
        let config = match Config::load(source.config.as_deref()) {
            // Whoever may not read it can still search files.
            Err(ConfigError::Read { error, path })
                if source.config.is_none() && error.kind() == io::ErrorKind::PermissionDenied =>
            {
                anstream::eprintln!("netconn: cannot read {} ({error}): its defaults are used", path.display());
                Config::default()
            }
            config => config?,
        };
        let runtime = Arc::new(engine::runtime()?);
        Ok(Self { source: source.clone(), presentation, config, runtime })
    }

    /// The configuration.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The time range; `None`: all that is in the files that were named.
    pub(super) fn range(&self) -> Result<Option<Range<i64>>> {
        let said = self.source.time_arguments();
        if said.is_nothing() && !self.source.file.is_empty() {
            return Ok(None);
        }
        Ok(Some(said.resolve(&Zoned::now())?))
    }

    /// The engine over what is to be searched.
    pub(super) fn search(&self) -> Result<Search> {
        let history = self.config.state_dir.join(segment_name::FOLDER);
        let paths = if self.source.file.is_empty() { vec![history.clone()] } else { self.source.file.clone() };
        if self.source.file.is_empty() && matches!(history.try_exists(), Ok(false)) {
            return Err(NoHistory { folder: history }.into());
        }
        self.search_in(paths, self.range()?)
    }

    /// The engine over other files.
    pub(super) fn search_in(&self, paths: Vec<PathBuf>, range: Option<Range<i64>>) -> Result<Search> {
        let mut search = Search::new(paths);
        search.range = range;
        search.memory = usize::try_from(self.source.memory_limit).unwrap_or(usize::MAX);
        let lookups = self.source.lookups.clone().or_else(|| self.config.search.lookups.clone());
        search.tables = lookups.or_else(home::lookups);
        search.geo_database.clone_from(&self.config.search.geo_database);
        Ok(search)
    }

    /// Reads a query.
    pub(super) fn parse(&self, text: &str) -> Result<(Query, Vec<Diagnostic>)> {
        let parsed = netconn_query::parse(text);
        match parsed.query {
            Some(query) if !diagnostic::has_errors(&parsed.diagnostics) => Ok((query, parsed.diagnostics)),
            _ => Err(RefusedQuery { text: text.into(), diagnostics: parsed.diagnostics }.into()),
        }
    }

    /// Checks a query against what is in the files; gives what is to be said of it.
    pub(super) async fn check(
        &self,
        search: &Search,
        text: &str,
        query: &Query,
        mut diagnostics: Vec<Diagnostic>,
    ) -> Result<Vec<Diagnostic>> {
        let mut found = netconn_query::check(query, &Fields::new(Vec::<String>::new())).diagnostics;
        if !found.is_empty() {
            // Only then it matters what other fields there are; to ask for them opens every file (50 ms for 236).
            found = netconn_query::check(query, &Fields::new(search.fields().await?)).diagnostics;
        }
        diagnostics.extend(found);
        if diagnostic::has_errors(&diagnostics) {
            return Err(RefusedQuery { text: text.into(), diagnostics }.into());
        }
        Ok(diagnostics)
    }

    /// Runs a query and shows its answer; gives how many rows it had.
    pub(super) async fn show(&self, text: &str, query: &Query, diagnostics: Vec<Diagnostic>) -> Result<u64> {
        self.ending(self.run(text, query, diagnostics)).await
    }

    /// How many rows a query has, and what was read for them.
    pub(super) async fn count(&self, text: &str, query: &Query) -> Result<(u64, ProgressSnapshot)> {
        self.ending(async {
            let watched = WatchedSearch::start();
            let mut answer = self.search()?.run(query).await.map_err(|error| located(error, text))?;
            watched.watch(&answer.progress);
            let mut rows = 0;
            while let Some(batch) = answer.batches.next().await {
                rows += batch.map_err(|error| located(error, text))?.num_rows() as u64;
            }
            drop(watched);
            let read = answer.progress.snapshot();
            self.tell_notes(&read.notes);
            Ok((rows, read))
        })
        .await
    }

    /// Shows how a query is understood, how it is run, and what was read for it.
    pub(super) async fn explain(&self, text: &str, query: &Query, diagnostics: Vec<Diagnostic>) -> Result<()> {
        self.ending(async {
            let search = self.search()?;
            let watched = WatchedSearch::start();
            let diagnostics = self.check(&search, text, query, diagnostics).await?;
            let explained = search.explain(query, |progress| watched.watch(progress)).await;
            let explained = explained.map_err(|error| located(error, text))?;
            drop(watched);
            self.tell(text, &diagnostics);
            let read = explained.read;
            let heading = style::HEADING;
            let mut out = anstream::stdout().lock();
            writeln!(out, "{heading}Understood as{heading:#}\n{}\n", lines(&printer::lines(query)))?;
            writeln!(out, "{heading}Run as{heading:#}\n{}", lines(explained.plan.trim_end()))?;
            let summary = self.summary(&read, Duration::ZERO);
            writeln!(out, "\n{heading}Read{heading:#}")?;
            if let Some(range) = &search.range {
                let moment = |ms| Timestamp::from_millisecond(ms).unwrap_or_default();
                writeln!(out, "from {} to {}", moment(range.start), moment(range.end))?;
            }
            writeln!(out, "{}", summary.read_line())?;
            out.flush()?;
            self.tell_notes(&read.notes);
            Ok(())
        })
        .await
    }

    /// Ends what takes too long, and what is interrupted.
    async fn ending<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.source.timeout;
        let interruptible = async {
            tokio::select! {
                done = work => done,
                _ = tokio::signal::ctrl_c() => Err(Interrupted.into()),
            }
        };
        match limit {
            None => interruptible.await,
            Some(limit) => tokio::time::timeout(limit, interruptible).await.map_err(|_| TimedOut(limit))?,
        }
    }

    async fn run(&self, text: &str, query: &Query, diagnostics: Vec<Diagnostic>) -> Result<u64> {
        let started = Instant::now();
        let search = self.search()?;
        let mut watched = Some(WatchedSearch::start());
        let diagnostics = self.check(&search, text, query, diagnostics).await?;
        let answer = search.run(query).await.map_err(|error| located(error, text))?;
        watched.iter().for_each(|watched| watched.watch(&answer.progress));
        let Answer { schema, mut batches, warnings, progress } = answer;
        let warnings = warnings
            .into_iter()
            .map(|warning| {
                let span = warning.span.unwrap_or(query.span);
                Diagnostic::warning(span, warning.message).suggest_any(warning.suggestion)
            })
            // Of what is known without the data it was warned already.
            .filter(|warning| warning.span == query.span || diagnostics.iter().all(|said| said.span != warning.span))
            .collect::<Vec<_>>();
        let diagnostics: Vec<Diagnostic> = diagnostics.into_iter().chain(warnings).collect();

        let (destination, file) = self.destination()?;
        let mut output = AnswerWriter::begin(destination, &self.style()?, schema, &AnswerIntent::of(query))?;
        let is_shown_at_once = self.presentation.output.is_none() && io::stdout().is_terminal();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| located(error, text))?;
            if is_shown_at_once && batch.num_rows() > 0 {
                // The line would stand between the rows.
                watched = None;
            }
            output.batch(&batch)?;
        }
        drop(watched);
        let read = progress.snapshot();
        let mut summary = self.summary(&read, started.elapsed());
        summary.warnings = diagnostics.iter().map(|diagnostic| said_in_a_line(diagnostic, text)).collect();
        summary.warnings.extend(read.notes.iter().cloned());
        summary.cut_at = read.cut.then_some(search.max_rows);
        output.end(&mut summary)?;
        if let Some(file) = file {
            file.commit()?;
        }
        self.tell(text, &diagnostics);
        self.tell_notes(&read.notes);
        self.tell_summary(&summary);
        Ok(summary.rows)
    }

    /// What was read, as far as it is known.
    fn summary(&self, read: &ProgressSnapshot, elapsed: Duration) -> AnswerSummary {
        AnswerSummary {
            events_read: read.rows,
            bytes_read: read.bytes,
            files: read.files_all + read.files_pruned,
            files_pruned: read.files_pruned,
            bad_lines: read.bad_lines,
            wrong_values: read.wrong_values,
            elapsed,
            events_lost: read.lost,
            ..AnswerSummary::default()
        }
    }

    /// Where the answer goes.
    fn destination(&self) -> Result<(Destination, Option<PendingFile>)> {
        let format = self.presentation.format;
        let Some(path) = &self.presentation.output else {
            let stdout = match format {
                OutputFormat::Table => Destination::stdout_for_people(),
                OutputFormat::Json | OutputFormat::Ndjson | OutputFormat::Csv | OutputFormat::Parquet => {
                    Destination::stdout()
                }
            };
            return Ok((stdout, None));
        };
        let made =
            if format == OutputFormat::Table { Destination::file_for_people(path) } else { Destination::file(path) };
        let (destination, file) = made.with_context(|| format!("cannot write {}", path.display()))?;
        Ok((destination, Some(file)))
    }

    /// How the answer is shown.
    pub(super) fn style(&self) -> Result<OutputStyle> {
        let PresentationOptions { format, chart, output, wide, .. } = &self.presentation;
        let width = if *wide || output.is_some() { None } else { term::width() };
        Ok(OutputStyle {
            format: *format,
            is_chart: *chart,
            is_live: false,
            width: width.and_then(NonZero::new),
            zone: TimeZone::system(),
        })
    }

    /// Says how a query was understood, where that may not be what was meant.
    pub(super) fn tell(&self, text: &str, diagnostics: &[Diagnostic]) {
        if !self.presentation.quiet {
            for diagnostic in diagnostics {
                anstream::eprintln!("{}", diagnostic.render(text));
            }
        }
    }

    /// Says what has to be known to trust the answer.
    pub(super) fn tell_notes(&self, notes: &[String]) {
        if self.presentation.quiet {
            return;
        }
        let caution = style::CAUTION;
        for note in notes {
            anstream::eprintln!("{caution}{}{caution:#}", term::sanitize(note));
        }
    }

    /// Says what stands behind the rows.
    fn tell_summary(&self, summary: &AnswerSummary) {
        if self.presentation.quiet {
            return;
        }
        self.tell_notes(&summary.notes());
        if self.presentation.format == OutputFormat::Table {
            let faint = style::FAINT;
            anstream::eprintln!("{faint}{}{faint:#}", summary.line());
        }
    }

    /// Runs something to its end.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(work)
    }
}

/// Says an error on standard error: a query that is refused with its places, anything else in a sentence.
pub(super) fn report(error: &anyhow::Error) {
    match error.downcast_ref::<RefusedQuery>() {
        Some(RefusedQuery { text, diagnostics }) => {
            for diagnostic in diagnostics {
                anstream::eprintln!("{}", diagnostic.render(text));
            }
        }
        None => anstream::eprintln!("netconn: {}", term::sanitize(&sentence(error))),
    }
}

/// An error as the daemon's socket has it: a code, a sentence; and, of a query, the places.
pub(super) fn error_json(error: &anyhow::Error) -> serde_json::Value {
    let (code, places) = match error.downcast_ref::<RefusedQuery>() {
        Some(RefusedQuery { text, diagnostics }) => {
            ("bad_request", diagnostics.iter().map(|diagnostic| diagnostic.report(text)).collect())
        }
        None if error.is::<WrongUse>() || error.is::<RangeError>() => ("bad_request", Vec::new()),
        None if error.is::<TimedOut>() => ("timeout", Vec::new()),
        None => ("command_failed", Vec::new()),
    };
    serde_json::json!({ "error": { "code": code, "message": sentence(error), "diagnostics": places } })
}

/// An error with its causes.
fn sentence(error: &anyhow::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain() {
        causes.push(cause.to_string());
        // It says its causes itself.
        if cause.is::<SearchError>() {
            break;
        }
    }
    causes.join(": ")
}

/// An error of the engine, at its place in the query if it has one.
pub(super) fn located(error: SearchError, text: &str) -> anyhow::Error {
    match error {
        SearchError::Query { message, span } => {
            RefusedQuery { text: text.into(), diagnostics: vec![Diagnostic::error(span, message)] }.into()
        }
        error => error.into(),
    }
}

fn counted(read: &ProgressSnapshot) -> ProgressCounts {
    ProgressCounts {
        events: read.rows,
        bytes: read.bytes,
        files_done: read.files,
        files: read.files_all,
        bytes_all: read.bytes_all,
    }
}

/// Lines for a terminal.
fn lines(text: &str) -> String {
    text.lines().map(term::sanitize).collect::<Vec<_>>().join("\n")
}

/// A remark without its picture.
fn said_in_a_line(diagnostic: &Diagnostic, text: &str) -> String {
    let report = diagnostic.report(text);
    let suggestion = report.suggestion.map(|suggestion| format!("; write: {suggestion}")).unwrap_or_default();
    format!("{} (line {}, column {}){suggestion}", report.message, report.line, report.column)
}

//! A search session: runs a query from its text to the answer that is shown.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    num::NonZero,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use jiff::{Timestamp, Zoned};
use netconn_model::{
    config::{Config, ConfigError},
    segment_name,
    term::{self, style},
};
use netconn_query::{self, Diagnostic, Fields, Query, alias, diagnostic, printer, short};
use tokio::runtime::Runtime;

use crate::{
    cli::{
        absent::absent,
        error::{Interrupted, NoHistory, RefusedQuery, TimedOut, WrongUse, diagnostic_line, located},
        input::{is_standard_input, spooled},
        options::{PresentationOptions, SourceOptions},
        progress::WatchedSearch,
        recording::{self, Recorded},
    },
    engine::{self, Answer, Gap, ProgressSnapshot, Recording, Search, search::ROWS},
    home,
    output::{
        AnswerWriter, OutputFormat, OutputStyle,
        destination::{OutputDestination, PendingFile, is_terminal},
        intent::AnswerIntent,
        recorded::{self, GapJson},
        summary::AnswerSummary,
    },
};

/// The options and the configuration with which queries are run, and the runtime that runs them.
#[derive(Clone, Debug)]
pub(super) struct SearchSession {
    pub(super) source: SourceOptions,
    pub(super) presentation: PresentationOptions,
    /// The format of answers, from `--format` or the name of `--output`.
    pub(super) format: OutputFormat,
    config: Config,
    runtime: Arc<Runtime>,
    /// What the time range is taken from.
    pub(super) time: SearchedTime,
    /// The table of indicators, if there are any.
    pub(super) indicators: Option<PathBuf>,
    /// Gaps that were told already, for several answers that are shown as one.
    told: Option<Arc<Mutex<BTreeSet<Gap>>>>,
    /// Keeps the copy of standard input open, which has no name.
    _input: Option<Arc<File>>,
}

impl SearchSession {
    /// Creates a session and reads the configuration.
    ///
    /// # Errors
    ///
    /// Options cannot be combined, or the configuration or standard input cannot be read.
    pub(super) fn new(source: &SourceOptions, presentation: &PresentationOptions) -> Result<Self> {
        let mut presentation = presentation.clone();
        // `-` is standard output, as without the option.
        presentation.output.take_if(|path| path.as_os_str() == "-");
        // Refused before the search, which may take minutes.
        let format = format_of(&presentation)?;
        if format == OutputFormat::Parquet && presentation.output.is_none() && io::stdout().is_terminal() {
            return Err(WrongUse("Parquet cannot be shown on a terminal: name a file with --output".into()).into());
        }
        let config = match Config::load(source.config.as_deref()) {
            // A user who may not read the default configuration can still search files.
            Err(ConfigError::Read { error, path })
                if source.config.is_none() && error.kind() == io::ErrorKind::PermissionDenied =>
            {
                netconn_model::tell!("netconn: cannot read {} ({error}): using defaults", path.display());
                Config::default()
            }
            config => config?,
        };
        let runtime = Arc::new(engine::runtime()?);
        let mut session = Self {
            source: source.clone(),
            presentation,
            format,
            config,
            runtime,
            time: SearchedTime::Options,
            indicators: None,
            told: None,
            _input: None,
        };
        // Only then, because Ctrl-C ends the process by itself no more from the first look for it on.
        if !session.source.file.iter().any(|path| is_standard_input(path)) {
            return Ok(session);
        }
        let mut files = session.source.file.clone();
        let input = session.block_on(session.interruptible(spooled(&mut files)))?;
        session.source.file = files;
        Ok(Self { _input: input, ..session })
    }

    /// Returns a session that tells each gap with one of its answers only.
    pub(super) fn telling_gaps_once(&self) -> Self {
        Self { told: Some(Arc::default()), ..self.clone() }
    }

    /// Returns the configuration.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the time range, epoch milliseconds; `None`: everything in the named files.
    pub(super) fn range(&self) -> Result<Option<Range<i64>>> {
        match &self.time {
            SearchedTime::Options => {}
            SearchedTime::All => return Ok(None),
            SearchedTime::Fixed(range) => return Ok(Some(range.clone())),
        }
        let arguments = self.source.time_arguments();
        // Named files are often older evidence, which the default of the last 24 hours would hide.
        if arguments.is_empty() && !self.source.file.is_empty() {
            return Ok(None);
        }
        Ok(Some(arguments.resolve(&Zoned::now().with_time_zone(self.presentation.zone()))?))
    }

    /// Creates a search over the named files or the history.
    pub(super) fn search(&self) -> Result<Search> {
        let history = self.config.state_dir.join(segment_name::FOLDER);
        let paths = if self.source.file.is_empty() { vec![history.clone()] } else { self.source.file.clone() };
        // Checked here, because the message can say how to get a history.
        if self.source.file.is_empty() && matches!(history.try_exists(), Ok(false)) {
            return Err(NoHistory { folder: history }.into());
        }
        Ok(self.search_in(paths, self.range()?))
    }

    /// Creates a search over other files.
    pub(super) fn search_in(&self, paths: Vec<PathBuf>, range: Option<Range<i64>>) -> Search {
        let mut search = Search::new(paths);
        search.range = range;
        // An export is whole; only what a person looks at is cut.
        search.max_rows = is_terminal(self.presentation.output.as_deref()).then_some(ROWS);
        search.memory = usize::try_from(self.source.memory_limit).unwrap_or(usize::MAX);
        // The option takes precedence over the configuration, and this over the user's own folder.
        let lookups = self.source.lookups.clone().or_else(|| self.config.search.lookups.clone());
        search.tables = lookups.or_else(home::lookups);
        search.indicators.clone_from(&self.indicators);
        search.geo_database.clone_from(&self.config.search.geo_database);
        search
    }

    /// Parses a query; returns it with its warnings.
    pub(super) fn parse(&self, text: &str) -> Result<(Query, Vec<Diagnostic>)> {
        let parsed = netconn_query::parse(text);
        let mut diagnostics = parsed.diagnostics;
        match parsed.query {
            // The parser can return a query together with errors, for completion; such a query must not run.
            Some(mut query) if !diagnostic::has_errors(&diagnostics) => {
                self.expand_short_names(&mut query)?;
                if self.config.search.sentinelone_alias {
                    diagnostics.extend(alias::sentinel_one(&mut query));
                }
                Ok((query, diagnostics))
            }
            _ => Err(RefusedQuery { text: text.into(), diagnostics }.into()),
        }
    }

    /// Replaces the short names of fields, which the headings of tables have, unless a file has a field of that name.
    fn expand_short_names(&self, query: &mut Query) -> Result<()> {
        if !short::has_short(query) {
            return Ok(());
        }
        // Files of the daemon have the fields of the field table only; to find others, every file is opened.
        let known = match self.source.file.is_empty() {
            true => Vec::new(),
            false => self.block_on(async { Ok(self.search()?.fields().await?) })?,
        };
        short::expand(query, |name| known.iter().any(|known| known == name));
        Ok(())
    }

    /// Checks a query against the fields in the files; returns its warnings together with `diagnostics`.
    pub(super) async fn check(
        &self,
        search: &Search,
        text: &str,
        query: &Query,
        mut diagnostics: Vec<Diagnostic>,
    ) -> Result<Vec<Diagnostic>> {
        // First without the fields in the files: most queries use those of the field table only.
        let mut found = netconn_query::check(query, &Fields::new(Vec::<String>::new())).diagnostics;
        if !found.is_empty() {
            // Only now the fields outside the field table matter: to find them, every file is opened (50 ms for 236).
            found = netconn_query::check(query, &Fields::new(search.fields().await?)).diagnostics;
        }
        diagnostics.extend(found);
        if diagnostic::has_errors(&diagnostics) {
            return Err(RefusedQuery { text: text.into(), diagnostics }.into());
        }
        Ok(diagnostics)
    }

    /// Runs a query and shows its answer; returns the number of rows.
    pub(super) async fn show(&self, text: &str, query: &Query, diagnostics: Vec<Diagnostic>) -> Result<u64> {
        self.interruptible(self.run(text, query, diagnostics)).await
    }

    /// Runs a query without showing its rows.
    pub(super) async fn count_rows(&self, text: &str, query: &Query) -> Result<Counted> {
        self.interruptible(async {
            let watched = WatchedSearch::start();
            // The number of rows is that of all rows, whoever looks at it.
            let search = Search { max_rows: None, ..self.search()? };
            let mut answer = search.run(query).await.map_err(|error| located(error, text))?;
            watched.watch(&answer.progress);
            let mut rows = 0;
            while let Some(batch) = answer.batches.next().await {
                rows += batch.map_err(|error| located(error, text))?.num_rows() as u64;
            }
            let gaps = self.gaps(&search, &answer.recording).await;
            drop(watched);
            let read = answer.progress.snapshot();
            self.show_notes(&read.notes);
            self.show_notes(&gaps.notes);
            Ok(Counted { rows, read, gaps: gaps.gaps })
        })
        .await
    }

    /// Runs a query and shows, instead of its rows, how it is understood, how it is run and what was read.
    pub(super) async fn explain(&self, text: &str, query: &Query, diagnostics: Vec<Diagnostic>) -> Result<()> {
        self.interruptible(async {
            let search = self.search()?;
            let watched = WatchedSearch::start();
            let diagnostics = self.check(&search, text, query, diagnostics).await?;
            let explained = search.explain(query, |progress| watched.watch(progress)).await;
            let explained = explained.map_err(|error| located(error, text))?;
            drop(watched);
            self.show_diagnostics(text, &diagnostics);
            let read = explained.read;
            let heading = style::HEADING;
            let mut out = anstream::stdout().lock();
            writeln!(out, "{heading}Understood as{heading:#}\n{}\n", sanitized_lines(&printer::lines(query)))?;
            writeln!(out, "{heading}Run as{heading:#}\n{}", sanitized_lines(explained.plan.trim_end()))?;
            let summary = AnswerSummary::of(&read, Duration::ZERO);
            writeln!(out, "\n{heading}Read{heading:#}")?;
            if let Some(range) = &search.range {
                let moment = |ms| Timestamp::from_millisecond(ms).unwrap_or_default();
                writeln!(out, "from {} to {}", moment(range.start), moment(range.end))?;
            }
            writeln!(out, "{}", summary.read_line())?;
            out.flush()?;
            self.show_notes(&read.notes);
            Ok(())
        })
        .await
    }

    /// Cancels `work` at Ctrl-C and after `--timeout`.
    pub(super) async fn interruptible<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.source.timeout;
        // Dropping the work cancels the search, and removes a partial output file.
        let cancelled = async {
            tokio::select! {
                done = work => done,
                _ = tokio::signal::ctrl_c() => Err(Interrupted.into()),
            }
        };
        match limit {
            None => cancelled.await,
            Some(limit) => tokio::time::timeout(limit, cancelled).await.map_err(|_| TimedOut(limit))?,
        }
    }

    /// Runs a query and writes its answer, then its warnings and its summary.
    async fn run(&self, text: &str, query: &Query, diagnostics: Vec<Diagnostic>) -> Result<u64> {
        let started = Instant::now();
        let search = self.search()?;
        // Before the files are listed and their footers are read, which takes time as well.
        let mut watched = Some(WatchedSearch::start());
        let diagnostics = self.check(&search, text, query, diagnostics).await?;
        let answer = search.run(query).await.map_err(|error| located(error, text))?;
        watched.iter().for_each(|watched| watched.watch(&answer.progress));
        let Answer { schema, mut batches, warnings, progress, recording } = answer;
        // A warning without a place in the text is shown at the whole query.
        let warnings = warnings
            .into_iter()
            .map(|warning| {
                let span = warning.span.unwrap_or(query.span);
                Diagnostic::warning(span, warning.message).suggest_any(warning.suggestion)
            })
            // The checker may have warned of the same place already.
            .filter(|warning| warning.span == query.span || diagnostics.iter().all(|said| said.span != warning.span))
            .collect::<Vec<_>>();
        let diagnostics: Vec<Diagnostic> = diagnostics.into_iter().chain(warnings).collect();

        // Opened only now: a query that is refused leaves no file behind.
        let (destination, file) = self.destination()?;
        let mut output = AnswerWriter::begin(destination, &self.style(), schema, &AnswerIntent::of(query))?;
        let is_shown_at_once = self.presentation.output.is_none() && io::stdout().is_terminal();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| located(error, text))?;
            if is_shown_at_once && batch.num_rows() > 0 {
                // The progress line would appear between the rows.
                watched = None;
            }
            output.batch(&batch)?;
        }
        // Complete only behind the last batch.
        let gaps = self.gaps(&search, &recording).await;
        drop(watched);
        let read = progress.snapshot();
        let mut summary = AnswerSummary::of(&read, started.elapsed());
        summary.gaps = gaps.gaps.iter().map(GapJson::from).collect();
        let is_person = is_terminal(self.presentation.output.as_deref());
        // Nobody would be told.
        let is_told = !self.presentation.quiet || self.format == OutputFormat::Json;
        let absent = if output.rows() == 0 && is_told {
            absent(&search, query, &diagnostics, started.elapsed(), is_person).await
        } else {
            Vec::new()
        };
        summary.warnings = diagnostics.iter().map(|diagnostic| diagnostic_line(diagnostic, text)).collect();
        summary.warnings.extend(read.notes.iter().chain(&absent).chain(&gaps.notes).cloned());
        summary.cut_at = search.max_rows.filter(|_| read.cut);
        // JSON has a place for the summary behind its rows; the other formats get it on standard error below.
        output.end(&mut summary)?;
        // Reached only without an error: otherwise the temporary file is removed and an existing one stays.
        if let Some(file) = file {
            file.commit()?;
        }
        self.show_diagnostics(text, &diagnostics);
        self.show_notes(&read.notes);
        self.show_notes(&absent);
        self.show_notes(&self.gap_sentences(&gaps.gaps));
        self.show_notes(&gaps.notes);
        self.show_summary(&summary);
        Ok(summary.rows)
    }

    /// Returns when nothing was recorded in the searched time, as far as that is known.
    async fn gaps(&self, search: &Search, recording: &Recording) -> Recorded {
        // Named files are older evidence, of which the daemon of this host says nothing.
        let socket = self.source.file.is_empty().then(|| Path::new(&self.config.socket));
        recording::recorded(recording, search.range.as_ref(), socket, &self.presentation.zone()).await
    }

    /// Returns the sentences about gaps that have not been told yet.
    fn gap_sentences(&self, gaps: &[Gap]) -> Vec<String> {
        let mut told = self.told.as_ref().map(|told| told.lock().unwrap_or_else(PoisonError::into_inner));
        let is_new = |gap: &&Gap| told.as_mut().is_none_or(|told| told.insert((*gap).clone()));
        let new: Vec<Gap> = gaps.iter().filter(is_new).cloned().collect();
        recorded::sentences(&new, &self.presentation.zone())
    }

    /// Opens the destination of the answer.
    fn destination(&self) -> Result<(OutputDestination, Option<PendingFile>)> {
        let format = self.format;
        let Some(path) = &self.presentation.output else {
            let stdout = match format {
                OutputFormat::Table => OutputDestination::stdout_for_people(),
                OutputFormat::Json
                | OutputFormat::Ndjson
                | OutputFormat::Csv
                | OutputFormat::CsvRaw
                | OutputFormat::Parquet
                | OutputFormat::Events(_) => OutputDestination::stdout(),
            };
            return Ok((stdout, None));
        };
        let made = if format == OutputFormat::Table {
            OutputDestination::file_for_people(path)
        } else {
            OutputDestination::file(path)
        };
        let (destination, file) = made.with_context(|| format!("cannot write {}", path.display()))?;
        Ok((destination, Some(file)))
    }

    /// Returns the style of the answer.
    pub(super) fn style(&self) -> OutputStyle {
        let PresentationOptions { chart, output, wide, .. } = &self.presentation;
        // A file is read later, perhaps on another terminal: its lines are not cut.
        let width = if *wide || output.is_some() { None } else { term::width() };
        OutputStyle {
            format: self.format,
            is_chart: *chart,
            is_live: false,
            width: width.and_then(NonZero::new),
            zone: self.presentation.zone(),
        }
    }

    /// Writes diagnostics to standard error, unless `--quiet` is given.
    pub(super) fn show_diagnostics(&self, text: &str, diagnostics: &[Diagnostic]) {
        if !self.presentation.quiet {
            for diagnostic in diagnostics {
                netconn_model::tell!("{}", diagnostic.render(text));
            }
        }
    }

    /// Writes notes about the answer to standard error, unless `--quiet` is given.
    pub(super) fn show_notes(&self, notes: &[String]) {
        if !self.presentation.quiet {
            notes.iter().for_each(|note| say(note));
        }
    }

    /// Writes the notes and the summary line to standard error; with `--quiet` only that rows were left out.
    fn show_summary(&self, summary: &AnswerSummary) {
        if self.presentation.quiet {
            // Without this word the rows on the terminal would pass for all there are.
            if let Some(cut) = summary.cut() {
                say(&cut);
            }
            return;
        }
        self.show_notes(&summary.notes());
        if self.format == OutputFormat::Table {
            let faint = style::FAINT;
            netconn_model::tell!("{faint}{}{faint:#}", summary.line());
        }
    }

    /// Runs a future to its end on the runtime.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(work)
    }
}

/// What the time range of a session is taken from.
#[derive(Clone, Debug)]
pub(super) enum SearchedTime {
    /// The options, or their defaults.
    Options,
    /// All that there is.
    All,
    /// This range, epoch milliseconds.
    Fixed(Range<i64>),
}

/// What a query without its rows has given.
pub(super) struct Counted {
    /// Number of rows.
    pub(super) rows: u64,
    /// Counters of what was read.
    pub(super) read: ProgressSnapshot,
    /// Times in which nothing was recorded.
    pub(super) gaps: Vec<Gap>,
}

/// Returns the format of answers: the one asked for, else that of the output file's name.
fn format_of(presentation: &PresentationOptions) -> Result<OutputFormat> {
    match (presentation.format, &presentation.output) {
        (Some(format), _) => Ok(format),
        (None, None) => Ok(OutputFormat::Table),
        (None, Some(path)) => match OutputFormat::of_name(path) {
            Ok(OutputFormat::Table) => Ok(OutputFormat::Table),
            // A chart has no other format than text.
            Ok(_) if presentation.chart => {
                Err(WrongUse("a chart is text: end the name of its file with .txt".into()).into())
            }
            Ok(format) => Ok(format),
            Err(error) => Err(WrongUse(error.to_string()).into()),
        },
    }
}

/// Writes a note to standard error.
pub(super) fn say(note: &str) {
    let caution = style::CAUTION;
    netconn_model::tell!("{caution}{}{caution:#}", term::sanitize(note));
}

/// Replaces control characters in a text of several lines.
fn sanitized_lines(text: &str) -> String {
    text.lines().map(term::sanitize).collect::<Vec<_>>().join("\n")
}

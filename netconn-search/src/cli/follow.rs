//! `--follow`: runs a query over new events from the daemon's socket.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use datafusion::arrow::{
    array::{RecordBatch, RecordBatchOptions, new_null_array},
    datatypes::SchemaRef,
};
use futures::StreamExt as _;
use netconn_model::{
    client::{Client, ClientError},
    exit::Exit,
    field::Field,
    lines,
    read_ahead::ReadAhead,
};
use netconn_query::{
    self,
    ast::{Command, CommandKind, Expr, ExprKind, Query, SortKey, Span},
    catalogue::RunningId,
    diagnostic::{self, Diagnostic},
    fields::Fields,
};
use thiserror::Error;
use tokio::time::MissedTickBehavior;

use crate::{
    cli::{
        error::{RefusedQuery, WrongUse, located},
        session::SearchSession,
    },
    output::{
        AnswerWriter, OutputFormat, OutputStyle, destination::OutputDestination, intent::AnswerIntent,
        summary::AnswerSummary,
    },
};

/// Time between two runs of the query over the events that have arrived: how late an event may be shown.
const SEARCH_INTERVAL: Duration = Duration::from_millis(200);

/// Amount of events after which the query runs at once, bytes. It bounds the memory that a burst takes.
const SEARCH_BYTES: usize = 4 << 20;

/// A query with a command or a function that needs all rows.
#[derive(Clone, Debug, Error)]
#[error(
    "`{command}` needs all rows and cannot be used with --follow, which allows a filter, `filter`, `columns`, `let`, `parse` \
     and `lookup`"
)]
pub(super) struct CannotFollow {
    command: &'static str,
}

/// Checks that a query can be followed: every command and function must work on each row by itself.
pub(super) fn check(query: &Query) -> Result<(), CannotFollow> {
    let mut commands = query.commands.iter().map(|command| command.kind.facts());
    let mut needs = commands.find(|facts| !facts.is_row_by_row).map(|facts| facts.name);
    let mut waiting = query.expressions();
    // Expressions are examined without recursion: they may be nested deeply.
    while let (None, Some(expr)) = (needs, waiting.pop()) {
        needs = match &expr.kind {
            ExprKind::InQuery { .. } => Some("in (subquery)"),
            ExprKind::Call { name, .. } => RunningId::by_name(name).map(|id| id.info().name),
            _ => None,
        };
        waiting.extend(expr.children());
    }
    match needs {
        Some(command) => Err(CannotFollow { command }),
        None => Ok(()),
    }
}

/// Shows the rows of the query over new events, until the reader ends, `--timeout` is over, or Ctrl-C. When the daemon ends it waits for
/// the next one.
pub(super) async fn run(
    session: &SearchSession,
    socket: &Path,
    text: &str,
    mut query: Query,
    mut diagnostics: Vec<Diagnostic>,
) -> Result<Exit> {
    if !session.source.file.is_empty() || !session.source.time_arguments().is_empty() {
        return Err(WrongUse("--follow shows new events only: leave out --file and the time range".into()).into());
    }
    let mut style = session.style();
    style.is_live = true;
    // One JSON object would never be complete: each row becomes an object of its own.
    style.format = match style.format {
        OutputFormat::Json => OutputFormat::Ndjson,
        OutputFormat::Parquet => return Err(WrongUse("--follow writes table, ndjson or csv".into()).into()),
        format => format,
    };
    check(&query)?;
    // Events from the daemon have the fields of the field table, and no others.
    diagnostics.extend(netconn_query::check(&query, &Fields::new(Vec::<String>::new())).diagnostics);
    if diagnostic::has_errors(&diagnostics) {
        return Err(RefusedQuery { text: text.into(), diagnostics }.into());
    }
    return_all_in_order(&mut query);
    // A search takes a while, and the reader of its rows may pause.
    let client = Client::new(socket);
    let mut events = ReadAhead::events(&client, &[], tell).await?;
    let mut follower = EventFollower::new(session, text, query, style)?;
    session.show_diagnostics(text, &diagnostics);
    let mut step = tokio::time::interval(SEARCH_INTERVAL);
    // After a slow search the next one waits for a full interval instead of catching up.
    step.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Without --timeout this never completes.
    let timeout = async {
        match session.source.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(timeout);
    // Made once: a signal that came during a search would be lost on a receiver that is made anew in each turn.
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    // Batches of events are cheaper than single ones: each run of the query has a fixed cost for planning.
    loop {
        tokio::select! {
            // `part` keeps no bytes of its own, so a tick may drop it without losing any.
            part = events.part() => {
                let end = match part {
                    Ok(Some(part)) => {
                        follower.waiting.extend_from_slice(&part);
                        if follower.waiting.len() >= SEARCH_BYTES {
                            follower.search_waiting().await?;
                        }
                        continue;
                    }
                    Ok(None) => "has stopped".to_owned(),
                    // A daemon that was killed.
                    Err(ClientError::Broken { error, .. }) => format!("has gone ({error})"),
                    Err(error) => return Err(error.into()),
                };
                follower.end_stream().await?;
                tell(&format!("the daemon at {} {end}; waiting for the next one", socket.display()));
                tokio::select! {
                    // It says which time is missing.
                    next = ReadAhead::events_of_next(&client, &[], tell) => match next? {
                        Some(next) => events = next,
                        None => break,
                    },
                    () = &mut timeout => break,
                    _ = &mut interrupt => break,
                }
            }
            _ = step.tick() => follower.search_waiting().await?,
            () = &mut timeout => break,
            _ = &mut interrupt => break,
        }
    }
    // Events that have arrived since the last search.
    follower.search_waiting().await?;
    if let Some(output) = follower.output {
        output.end(&mut AnswerSummary::default())?;
    }
    Ok(Exit::Success)
}

/// Tells the user something beside the rows.
fn tell(sentence: &str) {
    netconn_model::tell!("netconn: {sentence}");
}

/// Makes the query return all rows, the oldest first. By default a search returns the latest ones.
fn return_all_in_order(query: &mut Query) {
    let key = |field: Field| {
        let kind = ExprKind::Field(field.info().name.to_owned());
        SortKey { expr: Expr { kind, span: Span::default() }, descending: false }
    };
    let sort = CommandKind::Sort([Field::EventTime, Field::Timestamp].map(key).into());
    // At the beginning, because `columns` may drop the times.
    query.commands.insert(0, Command { kind: sort, span: Span::default() });
    query.commands.push(Command { kind: CommandKind::NoLimit, span: Span::default() });
}

/// Collects events in a file and runs the query over it, as a search over any file.
struct EventFollower<'a> {
    session: &'a SearchSession,
    text: &'a str,
    query: Query,
    style: OutputStyle,
    /// Events not searched yet; the last line may be incomplete.
    waiting: Vec<u8>,
    /// The folder of `file`; dropping it removes both.
    _folder: tempfile::TempDir,
    file: PathBuf,
    output: Option<AnswerWriter>,
    schema: Option<SchemaRef>,
}

impl<'a> EventFollower<'a> {
    fn new(session: &'a SearchSession, text: &'a str, query: Query, style: OutputStyle) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("live.ndjson");
        Ok(Self { session, text, query, style, waiting: Vec::new(), _folder: folder, file, output: None, schema: None })
    }

    /// Runs the query over the complete lines that wait, and shows its rows.
    async fn search_waiting(&mut self) -> Result<()> {
        // The daemon sends parts of any length, which may end within a line.
        let whole = lines::whole_length(&self.waiting);
        if whole == 0 {
            return Ok(());
        }
        // The file is overwritten each time, so that each event is searched once.
        fs::write(&self.file, &self.waiting[..whole])?;
        self.waiting.drain(..whole);
        let search = self.session.search_in(vec![self.file.clone()], None);
        let mut answer = search.run(&self.query).await.map_err(|error| located(error, self.text))?;
        while let Some(batch) = answer.batches.next().await {
            let batch = batch.map_err(|error| located(error, self.text))?;
            // The output takes its columns and their widths from the first batch, so that one must have rows.
            if batch.num_rows() > 0 {
                self.show(&batch)?;
            }
        }
        let lost = answer.progress.snapshot().lost;
        if lost != 0 {
            self.session.show_notes(&[format!("the daemon reports {lost} lost events here")]);
        }
        Ok(())
    }

    /// Shows what came before the end of a stream. A line without its end is dropped: the next stream does not go on with it.
    async fn end_stream(&mut self) -> Result<()> {
        self.search_waiting().await?;
        self.waiting.clear();
        Ok(())
    }

    /// Writes rows, beginning the output with the first ones.
    fn show(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.output.is_none() {
            let intent = AnswerIntent::of(&self.query);
            let out = match self.style.format {
                OutputFormat::Table => OutputDestination::stdout_for_people(),
                _ => OutputDestination::stdout(),
            };
            self.output = Some(AnswerWriter::begin(out, &self.style, batch.schema(), &intent)?);
            self.schema = Some(batch.schema());
        }
        if let (Some(output), Some(schema)) = (&mut self.output, &self.schema) {
            output.batch(&fitted(batch, schema)?)?;
            output.flush()?;
        }
        Ok(())
    }
}

/// Converts rows to the columns of the first batch: later events may have other fields.
fn fitted(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let column = |field: &datafusion::arrow::datatypes::FieldRef| match batch.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
        // A field outside the field table has the type of its values so far, which may differ from run to run.
        Some(column) => datafusion::arrow::compute::cast(column, field.data_type())
            .unwrap_or_else(|_| new_null_array(field.data_type(), batch.num_rows())),
        None => new_null_array(field.data_type(), batch.num_rows()),
    };
    let columns = schema.fields().iter().map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

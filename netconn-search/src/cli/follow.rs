//! `--follow`: a filter over the events as they happen, from the daemon's socket.

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
use netconn_model::{client::Client, exit::Exit, field::Field, lines};
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
    cli::session::{RefusedQuery, SearchSession, WrongUse, located},
    output::{
        AnswerWriter, OutputFormat, OutputStyle, destination::Destination, intent::AnswerIntent, summary::AnswerSummary,
    },
};

/// Time between two looks at what has come.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What has come is looked at earlier if it is so much, bytes.
const LOOK_BYTES: usize = 4 << 20;

/// A query that needs all rows.
#[derive(Clone, Debug, Error)]
#[error(
    "`{command}` cannot be followed, for it needs all rows: --follow takes a filter, then `filter`, `columns`, `let`, `parse` \
     and `lookup`"
)]
pub(super) struct CannotFollow {
    command: &'static str,
}

/// Whether a query can be followed: each row has to be judged by itself.
pub(super) fn check(query: &Query) -> Result<(), CannotFollow> {
    let mut commands = query.commands.iter().map(|command| command.kind.facts());
    let mut needs = commands.find(|facts| !facts.is_row_by_row).map(|facts| facts.name);
    let mut waiting = query.expressions();
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

/// Shows the events that the query lets through, until the daemon ends, the reader goes, it is time, or Ctrl-C.
pub(super) async fn run(
    session: &SearchSession,
    socket: &Path,
    text: &str,
    mut query: Query,
    mut diagnostics: Vec<Diagnostic>,
) -> Result<Exit> {
    if !session.source.file.is_empty() || !session.source.time_arguments().is_nothing() {
        return Err(
            WrongUse("--follow shows what happens from now on: leave out --file and the time range".into()).into()
        );
    }
    let mut style = session.style()?;
    style.is_live = true;
    style.format = match style.format {
        OutputFormat::Json => OutputFormat::Ndjson,
        OutputFormat::Parquet => return Err(WrongUse("--follow writes table, ndjson or csv".into()).into()),
        format => format,
    };
    check(&query)?;
    // The daemon's events have the fields of the schema, and no others.
    diagnostics.extend(netconn_query::check(&query, &Fields::new(Vec::<String>::new())).diagnostics);
    if diagnostic::has_errors(&diagnostics) {
        return Err(RefusedQuery { text: text.into(), diagnostics }.into());
    }
    in_order(&mut query);
    let mut events = Client::new(socket).events(&[]).await?;
    let mut follower = EventFollower::new(session, text, query, style)?;
    session.tell(text, &diagnostics);
    let mut step = tokio::time::interval(LOOK_INTERVAL);
    step.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let enough = async {
        match session.source.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(enough);
    loop {
        tokio::select! {
            part = events.part() => match part? {
                Some(part) => {
                    follower.waiting.extend_from_slice(&part);
                    if follower.waiting.len() >= LOOK_BYTES {
                        follower.look().await?;
                    }
                }
                None => break,
            },
            _ = step.tick() => follower.look().await?,
            () = &mut enough => break,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    follower.look().await?;
    if let Some(output) = follower.output {
        output.end(&mut AnswerSummary::default())?;
    }
    Ok(Exit::Success)
}

/// Lets all rows through, the oldest first: a search shows the latest ones.
fn in_order(query: &mut Query) {
    let key = |field: Field| {
        let kind = ExprKind::Field(field.info().name.to_owned());
        SortKey { expr: Expr { kind, span: Span::default() }, descending: false }
    };
    let sort = CommandKind::Sort([Field::EventTime, Field::Timestamp].map(key).into());
    query.commands.insert(0, Command { kind: sort, span: Span::default() });
    query.commands.push(Command { kind: CommandKind::NoLimit, span: Span::default() });
}

/// Looks at what has come, as a search looks at a file.
struct EventFollower<'a> {
    session: &'a SearchSession,
    text: &'a str,
    query: Query,
    style: OutputStyle,
    /// Bytes that have not been looked at; the last line may not be whole.
    waiting: Vec<u8>,
    /// Holds the file; it goes with it.
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

    /// Shows what the query lets through of the whole lines.
    async fn look(&mut self) -> Result<()> {
        let whole = lines::whole_length(&self.waiting);
        if whole == 0 {
            return Ok(());
        }
        fs::write(&self.file, &self.waiting[..whole])?;
        self.waiting.drain(..whole);
        let search = self.session.search_in(vec![self.file.clone()], None)?;
        let mut answer = search.run(&self.query).await.map_err(|error| located(error, self.text))?;
        while let Some(batch) = answer.batches.next().await {
            let batch = batch.map_err(|error| located(error, self.text))?;
            if batch.num_rows() > 0 {
                self.show(&batch)?;
            }
        }
        let lost = answer.progress.snapshot().lost;
        if lost != 0 {
            self.session.tell_notes(&[format!("{lost} events were lost here: the daemon says so.")]);
        }
        Ok(())
    }

    fn show(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.output.is_none() {
            let intent = AnswerIntent::of(&self.query);
            let out = match self.style.format {
                OutputFormat::Table => Destination::stdout_for_people(),
                _ => Destination::stdout(),
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

/// Rows with the columns of the first ones: other events may have other fields.
fn fitted(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let column = |field: &datafusion::arrow::datatypes::FieldRef| match batch.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
        Some(column) => datafusion::arrow::compute::cast(column, field.data_type())
            .unwrap_or_else(|_| new_null_array(field.data_type(), batch.num_rows())),
        None => new_null_array(field.data_type(), batch.num_rows()),
    };
    let columns = schema.fields().iter().map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

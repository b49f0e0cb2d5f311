//! A search (where, when, with which limits) and its answer.

use std::{
    ops::Range,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        datatypes::{DataType, Int64Type, SchemaRef},
    },
    datasource::provider_as_source,
    error::DataFusionError,
    execution::SessionState,
    functions::core::expr_fn::coalesce,
    functions_aggregate::{
        min_max::{max, min},
        sum::sum,
    },
    logical_expr::{LogicalPlanBuilder, lit, try_cast},
    physical_plan::{ExecutionPlan, collect, display::DisplayableExecutionPlan, execute_stream},
};
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use netconn_model::{
    field::{FIELDS, Field},
    segment_name,
};
use netconn_query::ast::{CommandKind, Query};

use super::{
    error::{Result, SearchError},
    function::geography,
    gaps::Recording,
    names::Names,
    plan::{HIDDEN, Planned, Planner, Planning, Settings, Warning, physical_plan, reach, rows_column},
    session::session,
    source::{
        losses,
        progress::{ProgressSnapshot, SearchProgress},
        table::EventTable,
    },
};

/// Default of the memory that a query may use, bytes.
pub const MEMORY: usize = 400_000_000;

/// Number of rows that a person is shown if the query does not say it.
pub const ROWS: u64 = 1_000;

/// Name of the table of indicators: no file in the folder of tables can have it.
pub const INDICATORS: &str = "/indicators";

/// Where to search, and within which limits.
#[derive(Clone, Debug)]
pub struct Search {
    /// Files and folders: lines, objects or arrays in JSON, compressed with gzip, zstd, bzip2 or xz or not, and Parquet.
    pub paths: Vec<PathBuf>,
    /// Time range of the events, epoch milliseconds; `None` for all.
    pub range: Option<Range<i64>>,
    /// Memory that the query may use, bytes. Beyond it the query uses temporary files, and fails if that is not enough.
    pub memory: usize,
    /// Number of rows of the answer if the query does not say it; `None` for all.
    pub max_rows: Option<u64>,
    /// Folder with the tables of `lookup`, `dataset` and `savelookup`.
    pub tables: Option<PathBuf>,
    /// The table that `lookup` finds under the name [`INDICATORS`], a CSV file.
    pub indicators: Option<PathBuf>,
    /// Database of places in MaxMind's format, for the functions `geo_ip_…`.
    pub geo_database: Option<PathBuf>,
}

/// The answer to a query.
pub struct Answer {
    /// Columns and their types: `Utf8View`, `Int64`, `Float64`, `Boolean`, `Timestamp(Nanosecond, UTC)`, lists of those.
    pub schema: SchemaRef,
    /// The rows. Dropping it ends the search.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    /// Warnings that are known before the first row. Those about files that are being read are in `progress`.
    pub warnings: Vec<Warning>,
    /// Counters. Those of losses and of bad lines are complete only after the last row.
    pub progress: Arc<SearchProgress>,
    /// Tells when no daemon recorded events.
    pub recording: Recording,
}

/// How a query was answered.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The steps of the plan, one a line, with their metrics.
    pub plan: String,
    /// What was read and what was skipped.
    pub read: ProgressSnapshot,
}

impl Search {
    /// Creates a search in these files and folders, with the default limits.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, range: None, memory: MEMORY, max_rows: None, tables: None, indicators: None, geo_database: None }
    }

    /// Returns the names of the fields: those of the schema first, then others found in the files.
    ///
    /// # Errors
    ///
    /// A path cannot be read, or there is nothing to search.
    pub async fn fields(&self) -> Result<Vec<String>> {
        let events = EventTable::open(&self.paths, self.range.as_ref(), &Names::default()).await?;
        let known = FIELDS.iter().map(|field| field.name.to_owned());
        Ok(known.chain(events.additional().iter().cloned()).collect())
    }

    /// Answers a query.
    ///
    /// # Errors
    ///
    /// A path cannot be read, there is nothing to search, or the query cannot be planned.
    pub async fn run(&self, query: &Query) -> Result<Answer> {
        // Losses are counted before the first row, so that an answer is never shown as complete while it is not known
        // to be.
        let prepared = self.prepare_aside(query, false).await?;
        let progress = Arc::clone(prepared.planner.events.progress());
        // Losses say nothing about the rows of a table.
        let reads_events = reads_events(query);
        if reads_events {
            progress.lost(lost(&prepared.planner, self.range.as_ref()).await?);
            read_unread(&prepared.planner).await?;
        }
        progress.runs(&prepared.plan);
        let schema = prepared.plan.schema();
        // An error about memory names the limit.
        let memory = self.memory;
        let stream = execute_stream(prepared.plan, prepared.planner.state.task_ctx())?;
        let batches = stream.map_err(move |error| SearchError::engine(error, memory));
        let batches = match prepared.cut_at {
            // The plan gives one row more than is shown; the last one is only counted.
            Some(rows) => cut(batches, rows, Arc::clone(&progress)).boxed(),
            None => batches.boxed(),
        };
        // All planning is done here, subqueries included, so no warning is added later.
        let Planner { events, state, planning, .. } = prepared.planner;
        let recording = Recording::new(events, state, self.range.clone(), reads_events);
        Ok(Answer { schema, batches, warnings: planning.warnings(), progress, recording })
    }

    /// Runs a query and returns how it was answered instead of its rows. `savelookup` writes nothing. `watch` is called
    /// with the counters as soon as they exist.
    ///
    /// # Errors
    ///
    /// Those of [`Self::run`], and errors while the query runs.
    pub async fn explain(&self, query: &Query, watch: impl FnOnce(&Arc<SearchProgress>)) -> Result<Explained> {
        let prepared = self.prepare_aside(query, true).await?;
        let progress = Arc::clone(prepared.planner.events.progress());
        progress.runs(&prepared.plan);
        watch(&progress);
        let mut stream = execute_stream(Arc::clone(&prepared.plan), prepared.planner.state.task_ctx())?;
        // The rows are read and dropped: metrics exist only for a plan that has run.
        while let Some(batch) = stream.next().await {
            batch.map_err(|error| SearchError::engine(error, self.memory))?;
        }
        let plan = DisplayableExecutionPlan::with_metrics(prepared.plan.as_ref()).indent(false).to_string();
        // Hidden columns have an unprintable character in their names.
        let plan = plan.replace(HIDDEN, "#");
        Ok(Explained { plan, read: progress.snapshot() })
    }

    /// Plans on a thread of the runtime, because its stack is large enough.
    async fn prepare_aside(&self, query: &Query, dry: bool) -> Result<Prepared> {
        let (search, query) = (self.clone(), query.clone());
        // Spawned even for a small plan: the thread that waits may belong to a caller's runtime or be the main thread.
        let planning = tokio::spawn(async move { search.prepare(&query, dry).await });
        planning.await.map_err(|error| SearchError::Engine(DataFusionError::External(Box::new(error))))?
    }

    async fn prepare(&self, query: &Query, dry: bool) -> Result<Prepared> {
        // A session for each query: it has the memory that the query may use.
        let state = Arc::new(session(self.memory)?);
        let database = match &self.geo_database {
            Some(path) => Some(Arc::new(geography::open(path)?)),
            None => None,
        };
        // Files are chosen once, for the searched time and for all that `compare` looks at; the plan filters by time
        // itself.
        let files = self.range.as_ref().map(|range| {
            let (back, ahead) = reach(query, range);
            range.start.saturating_add(back)..range.end.saturating_add(ahead)
        });
        let used = Names::of(query);
        let events = EventTable::open(&self.paths, files.as_ref(), &used).await?;
        self.range.iter().for_each(|range| events.note_beginning(range));
        let time = match &self.range {
            Some(range) => Some(range.clone()),
            // Costs a query of its own, so only if a function asks.
            None if used.asks_for_time => edges(&events, &state).await?,
            None => None,
        };
        // A clock before 1970 counts as 1970; one beyond 2262 does not fit into nanoseconds of 64 bits.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let planner = Planner {
            events: Arc::new(events),
            state,
            settings: Arc::new(Settings {
                max_rows: self.max_rows,
                tables: self.tables.clone(),
                indicators: self.indicators.clone(),
                database,
                memory: self.memory,
            }),
            range: self.range.clone(),
            time,
            now: i64::try_from(now).unwrap_or(i64::MAX),
            dry,
            planning: Arc::new(Planning::default()),
        };
        let Planned { plan, cut_at } = planner.plan(query).await?;
        let plan = physical_plan(&planner.state, &plan).await?;
        Ok(Prepared { planner, plan, cut_at })
    }
}

struct Prepared {
    planner: Planner,
    plan: Arc<dyn ExecutionPlan>,
    cut_at: Option<u64>,
}

/// Returns the first `max` rows and notes in `progress` if there are more.
fn cut(
    batches: impl Stream<Item = Result<RecordBatch>>,
    max: u64,
    progress: Arc<SearchProgress>,
) -> impl Stream<Item = Result<RecordBatch>> {
    // More rows than memory can address is no limit.
    let mut left = usize::try_from(max).unwrap_or(usize::MAX);
    batches.map_ok(move |batch| {
        // At most one row is cut off, as the plan has a limit of one more.
        if batch.num_rows() > left {
            progress.cut();
        }
        let batch = batch.slice(0, batch.num_rows().min(left));
        left -= batch.num_rows();
        batch
    })
}

/// Returns the times of the first and the last event; `None` if there are no events.
async fn edges(events: &EventTable, state: &SessionState) -> Result<Option<Range<i64>>> {
    // A table apart, so that this query does not add to the counters of the search.
    let table = provider_as_source(Arc::new(events.apart()));
    let time = || rows_column(Field::EventTime.info().name);
    let plan = LogicalPlanBuilder::scan("edges", table, None)?
        // Minimum and maximum of the time come from the statistics of the files where these have them.
        .aggregate(
            Vec::<datafusion::logical_expr::Expr>::new(),
            [min(time()).alias("first"), max(time()).alias("last")],
        )?
        .build()?;
    let physical = physical_plan(state, &plan).await?;
    let batches = collect(physical, state.task_ctx()).await?;
    Ok(batches.first().and_then(|batch| {
        let edge = |column: usize| batch.column(column).as_primitive_opt::<Int64Type>()?.iter().next()?;
        Some(edge(0)?..edge(1)?)
    }))
}

/// Whether the answer to a query depends on events. That of `| dataset 'x'` and of a join of tables does not.
fn reads_events(query: &Query) -> bool {
    let has_own_source = query.filter.is_none()
        && query.commands.first().is_some_and(|first| {
            matches!(first.kind, CommandKind::Dataset(_) | CommandKind::Join { .. } | CommandKind::Union(_))
        });
    // `dataset` drops the rows before it.
    let drops = query.commands.iter().any(|command| matches!(command.kind, CommandKind::Dataset(_)));
    !(has_own_source || drops) || query.subqueries().into_iter().any(reads_events)
}

/// Reads the lines that the plan does not read, for their losses and bad lines: an empty answer is trusted by these counters.
async fn read_unread(planner: &Planner) -> Result<()> {
    let Some(lines) = planner.events.unread_lines() else { return Ok(()) };
    let state: &SessionState = &planner.state;
    let plan = LogicalPlanBuilder::scan("lines", provider_as_source(Arc::new(lines)), None)?
        .aggregate(
            Vec::<datafusion::logical_expr::Expr>::new(),
            [max(rows_column(Field::EventTime.info().name)).alias("last")],
        )?
        .build()?;
    let physical = physical_plan(state, &plan).await?;
    collect(physical, state.task_ctx()).await?;
    Ok(())
}

/// Counts the lost events of the range that Parquet files report. Few files have such reports; the others are not read.
async fn lost(planner: &Planner, range: Option<&Range<i64>>) -> Result<u64> {
    // Lines need no query: their readers count losses as they pass.
    let Some(events) = planner.events.with_losses() else { return Ok(0) };
    let state: &SessionState = &planner.state;
    let table = provider_as_source(Arc::new(events));
    let field = |field: Field| rows_column(field.info().name);
    let mut condition = field(Field::EventType).eq(lit(losses::KIND));
    // Events that another output has lost are in the history.
    let output = field(Field::LossOutput);
    // Without an output the loss was before all of them.
    condition = condition.and(output.clone().is_null().or(output.eq(lit(segment_name::HISTORY))));
    if let Some(range) = range {
        // A loss is reported when it is over; its own time decides whether it is in the range.
        let time = |edge| coalesce(vec![try_cast(field(edge), DataType::Int64), field(Field::EventTime)]);
        let (from, to) = (time(Field::LossFrom), time(Field::LossTo));
        condition = condition.and(to.gt_eq(lit(range.start))).and(from.lt(lit(range.end)));
    }
    // In files of other programs the column may be a float or a text.
    let count = try_cast(field(Field::LossCount), DataType::Int64);
    let plan = LogicalPlanBuilder::scan("losses", table, None)?
        .filter(condition)?
        .aggregate(Vec::<datafusion::logical_expr::Expr>::new(), [sum(count).alias("lost")])?
        .build()?;
    let physical = physical_plan(state, &plan).await?;
    let batches = collect(physical, state.task_ctx()).await?;
    let sums = batches.iter().flat_map(|batch| {
        let column = batch.column(0);
        column.as_primitive_opt::<Int64Type>().map(|sums| sums.iter().flatten().collect::<Vec<_>>()).unwrap_or_default()
    });
    Ok(sums.map(|sum| u64::try_from(sum).unwrap_or(0)).sum())
}

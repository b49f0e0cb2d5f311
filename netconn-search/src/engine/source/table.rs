//! Presents all files of a search as one table of events.

use std::{
    collections::BTreeSet,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    error::Result as EngineResult,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::{
        ExecutionPlan,
        empty::EmptyExec,
        streaming::{PartitionStream, StreamingTableExec},
        union::UnionExec,
    },
};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use netconn_model::{field, segment_name::SegmentName};

use crate::engine::{
    error::{Result, SearchError, shown},
    names::Names,
    source::{
        find::{self, EventFile, FileFormat},
        losses::LossCounter,
        ndjson,
        parquet::{self, ParquetFile},
        progress::SearchProgress,
        sensor::SensorLog,
        shape::{TableShape, UNPARSED},
    },
};

/// Most portions of footers that are read at the same time.
const PORTIONS_READ_MAX: usize = 8;

/// Number of footers that one task reads: starting a task takes a good part of the time that a footer takes.
const PORTION_FOOTERS: usize = 16;

/// Memory for footers that are kept for the scans, bytes. Others are read again.
const FOOTER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Most bytes of files of lines that are read again for starts and ends of daemons, if the search has not read all of them.
const READ_AGAIN_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The path of a file, whether it was named, and the file with its footer: `None` if it has been removed, or why the
/// footer cannot be read.
type OpenedFile = (PathBuf, bool, std::result::Result<Option<ParquetFile>, String>);

/// Reads the footer of a file.
fn read_footer(file: EventFile) -> OpenedFile {
    // The Parquet reader panics on some damaged footers, which must not end the search over the other files.
    let footer = catch_unwind(AssertUnwindSafe(|| ParquetFile::open(&file)));
    let footer = match footer {
        Ok(footer) => footer.map_err(|error| error.to_string()),
        Err(_) => Err("its footer is damaged".to_owned()),
    };
    (file.path, file.is_named, footer)
}

/// The events of a search as a table for DataFusion.
#[derive(Debug)]
pub(crate) struct EventTable {
    schema: SchemaRef,
    range: Option<Range<i64>>,
    lines: Vec<EventFile>,
    parquet: Vec<ParquetFile>,
    /// Parquet files outside the range that may report losses within it, the start of the next daemon, or the end of the one
    /// before.
    outside: Vec<ParquetFile>,
    /// Starts and ends of daemons in the lines.
    sensors: Arc<SensorLog>,
    /// Time of the last event in files from before the range, epoch milliseconds.
    ended_before: Option<i64>,
    progress: Arc<SearchProgress>,
    /// Beginning of the history, epoch milliseconds; `None` if other files are read as well.
    begins: Option<i64>,
    /// Fields found in the files that the field table does not have.
    additional: BTreeSet<String>,
    /// Names that the query uses.
    wanted: BTreeSet<String>,
    /// Whether a scan has begun: only the first one counts losses.
    scanned: AtomicBool,
}

impl EventTable {
    /// Finds the files below `paths` that may hold events of `range` (epoch milliseconds) and determines their columns.
    /// The fields in `names`, which the query uses, become columns even if no file has them.
    ///
    /// # Errors
    ///
    /// A named file cannot be read, or none of the files can.
    pub(crate) async fn open(paths: &[PathBuf], range: Option<&Range<i64>>, names: &Names) -> Result<Self> {
        let found = find::find_files(paths, range)?;
        let progress = Arc::new(SearchProgress::default());
        progress.prune(found.pruned as u64);
        for problem in found.problems {
            progress.note(problem.to_string());
        }
        let (columnar, lines): (Vec<_>, Vec<_>) =
            found.files.into_iter().partition(|file| file.format == FileFormat::Parquet);
        // Footers come first: they have the columns, the times and the counts of Parquet files.
        let mut portions = Vec::new();
        let mut rest = columnar.into_iter().peekable();
        while rest.peek().is_some() {
            portions.push(rest.by_ref().take(PORTION_FOOTERS).collect::<Vec<_>>());
        }
        // On the runtime's own threads, which run the plan later: blocking threads would fill new heaps first, which is
        // slow.
        let footers = stream::iter(portions).map(|files| async move {
            // `read_footer` catches panics, so a task fails only while the runtime shuts down; nobody reads the result
            // then.
            tokio::spawn(async move { files.into_iter().map(read_footer).collect::<Vec<_>>() })
                .await
                .unwrap_or_default()
        });
        // `buffered` keeps the order of the files: `share` compares each schema with the one before.
        let mut footers = footers.buffered(PORTIONS_READ_MAX).flat_map(stream::iter);
        let mut known: Vec<ParquetFile> = Vec::new();
        let mut damaged = Vec::new();
        let mut room = FOOTER_BYTES_MAX;
        while let Some((path, is_named, file)) = footers.next().await {
            match file {
                Ok(Some(mut file)) => {
                    // The files of a history mostly have equal schemas; one copy for all saves 10 kB for each file.
                    file.share(known.last(), &mut room);
                    known.push(file);
                }
                Ok(None) => {}
                Err(why) if is_named => return Err(SearchError::Format { path, why }),
                Err(why) => damaged.push((path, why)),
            }
        }
        // One damaged file among others is only noted; if nothing else can be read, it is an error.
        if known.is_empty() && lines.is_empty() && !damaged.is_empty() {
            let (path, why) = damaged.swap_remove(0);
            return Err(SearchError::Format { path, why });
        }
        for (path, why) in damaged {
            progress.note(format!("{} was not read: {why}.", shown(&path)));
        }

        let mut shapes = TableShape::new();
        let mut others = Vec::new();
        for file in &known {
            for (name, shape) in file.columns(&mut others) {
                shapes.column(name, shape);
            }
        }
        others.sort_unstable();
        others.dedup();
        if !others.is_empty() {
            progress.note(format!("Columns of lists or structures are not read: {}.", others.join(", ")));
        }
        // NDJSON has no schema: its columns are found by reading parts of the files.
        shapes.look(&lines);
        shapes.search(&lines, &names.rare());
        let additional = shapes.additional_names();
        // Without a column, a query over an unknown field would fail instead of finding nulls.
        for name in &names.used {
            shapes.wanted(name);
        }
        let schema = shapes.schema();

        if range.is_some() {
            progress.untimed(known.iter().map(ParquetFile::untimed).sum());
        }
        let all = known.len();
        let (mut parquet, mut outside): (Vec<ParquetFile>, Vec<ParquetFile>) =
            known.into_iter().partition(|file| range.is_none_or(|range| !file.outside(range)));
        parquet.sort_by_key(ParquetFile::first);
        outside.retain(|file| file.may_report_losses() || file.may_have_sensor_events());
        progress.prune((all - parquet.len()) as u64);
        // Converted files have their counts in the statistics; readers of NDJSON count while they read.
        progress.bad_lines(parquet.iter().map(ParquetFile::unparsed).sum());
        progress.wrong_values(parquet.iter().map(ParquetFile::original).sum());
        // Progress is shown against what is left after pruning.
        let bytes = lines.iter().map(|file| file.size).sum::<u64>()
            + parquet.iter().map(|file| file.file.object_meta.size).sum::<u64>();
        progress.expect((lines.len() + parquet.len()) as u64, bytes);
        Ok(Self {
            schema,
            range: range.cloned(),
            lines,
            parquet,
            outside,
            progress,
            begins: found.begins,
            sensors: Arc::default(),
            ended_before: found.ended_before,
            additional,
            wanted: names.used.clone(),
            scanned: AtomicBool::new(false),
        })
    }

    /// Returns the counters of the search.
    pub(crate) fn progress(&self) -> &Arc<SearchProgress> {
        &self.progress
    }

    /// Adds a note if the history begins after the start of the range.
    pub(crate) fn note_beginning(&self, range: &Range<i64>) {
        let Some(begins) = self.begins.filter(|begins| range.start < *begins) else { return };
        let begins = Timestamp::from_millisecond(begins).unwrap_or_default();
        self.progress
            .note(format!("The history begins at {begins:.0}; of what was before, it has only what was open then."));
    }

    /// Returns the fields found in the files that the field table does not have.
    pub(crate) fn additional(&self) -> &BTreeSet<String> {
        &self.additional
    }

    /// Returns whether some rows may be lines that were not a JSON object.
    pub(crate) fn has_unparsed(&self) -> bool {
        self.schema.column_with_name(UNPARSED).is_some()
    }

    /// Returns whether the query uses the column of those lines.
    pub(crate) fn wants_unparsed(&self) -> bool {
        self.wanted.contains(UNPARSED)
    }

    /// Returns the columns of whole events: those of the field table, and others found in the files.
    pub(crate) fn shown(&self) -> Vec<String> {
        let names = self.schema.fields().iter().map(|field| field.name().clone());
        names
            .filter(|name| field::by_name(name).is_some() || self.additional.contains(name))
            .filter(|name| name != UNPARSED || self.wants_unparsed())
            .collect()
    }

    /// Returns a table of the lines, which count their losses, if the plan of the query reads none of them: the optimizer leaves
    /// out a scan whose rows no condition can keep.
    pub(crate) fn unread_lines(&self) -> Option<Self> {
        let is_unread = !self.lines.is_empty() && !self.scanned.load(Ordering::Relaxed);
        is_unread.then(|| Self {
            parquet: Vec::new(),
            progress: Arc::clone(&self.progress),
            sensors: Arc::clone(&self.sensors),
            scanned: AtomicBool::new(false),
            ..self.apart()
        })
    }

    /// Returns a table of only those Parquet files that may report losses; `None` if there are none.
    pub(crate) fn with_losses(&self) -> Option<Self> {
        let may_report = self.parquet.iter().filter(|file| file.may_report_losses());
        let outside = self.outside.iter().filter(|file| file.may_report_losses());
        let parquet: Vec<_> = may_report.chain(outside).cloned().collect();
        (!parquet.is_empty()).then(|| Self { lines: Vec::new(), parquet, ..self.apart() })
    }

    /// Returns the starts and ends of daemons that the readers of lines have found.
    pub(crate) fn sensor_log(&self) -> &SensorLog {
        &self.sensors
    }

    /// Returns whether files of lines are too large to be read again for starts and ends of daemons.
    pub(crate) fn has_large_lines(&self) -> bool {
        // Segments that are not converted are short.
        let others = self.lines.iter().filter(|file| !file.is_of_history());
        others.map(|file| file.size).sum::<u64>() > READ_AGAIN_BYTES_MAX
    }

    /// Returns a table of only those Parquet files that may have starts and ends of daemons, and, if asked for, of the files of
    /// lines that are not too large; `None` if there are none.
    pub(crate) fn with_sensor_events(&self, with_lines: bool) -> Option<Self> {
        let parquet = self.parquet.iter().chain(&self.outside).filter(|file| file.may_have_sensor_events());
        let parquet: Vec<_> = parquet.cloned().collect();
        let is_small = !self.has_large_lines();
        let is_read = |file: &&EventFile| with_lines && (is_small || file.is_of_history());
        let lines: Vec<_> = self.lines.iter().filter(is_read).cloned().collect();
        (!parquet.is_empty() || !lines.is_empty()).then(|| Self { lines, parquet, ..self.apart() })
    }

    /// Returns a table of the Parquet files that may have events from before this time, epoch milliseconds; `None` if there are
    /// none.
    pub(crate) fn parquet_before(&self, time: i64) -> Option<Self> {
        let parquet: Vec<_> = self.parquet.iter().filter(|file| file.first() < time).cloned().collect();
        (!parquet.is_empty()).then(|| Self { lines: Vec::new(), parquet, ..self.apart() })
    }

    /// Returns a table of the files of lines that may have events from before this time, epoch milliseconds; `None` if there are
    /// none.
    pub(crate) fn lines_before(&self, time: i64) -> Option<Self> {
        let begins_later = |file: &EventFile| {
            let name = file.path.file_name().and_then(|name| name.to_str()).and_then(SegmentName::parse);
            name.is_some_and(|name| i64::try_from(name.from()).is_ok_and(|from| from > time))
        };
        let lines: Vec<_> = self.lines.iter().filter(|file| !begins_later(file)).cloned().collect();
        (!lines.is_empty()).then(|| Self { lines, parquet: Vec::new(), ..self.apart() })
    }

    /// Returns the time of the last event in files of the history from before the searched time, epoch milliseconds.
    pub(crate) fn ended_before(&self) -> Option<i64> {
        self.ended_before
    }

    /// Returns a table of the same events whose scans are not counted as progress.
    pub(crate) fn apart(&self) -> Self {
        Self {
            schema: Arc::clone(&self.schema),
            range: self.range.clone(),
            lines: self.lines.clone(),
            parquet: self.parquet.clone(),
            outside: Vec::new(),
            progress: Arc::new(SearchProgress::default()),
            begins: self.begins,
            sensors: Arc::default(),
            ended_before: self.ended_before,
            additional: BTreeSet::new(),
            wanted: BTreeSet::new(),
            // The losses belong to the counters of the table that this one is derived from.
            scanned: AtomicBool::new(true),
        }
    }

    /// Builds the plan that reads the NDJSON files with at most `count` readers.
    fn readers(&self, projection: Option<&Vec<usize>>, count: usize) -> EngineResult<Arc<dyn ExecutionPlan>> {
        // Readers build only these columns, which is most of the saving: JSON is parsed either way.
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        // A query with subqueries or joins scans the table several times.
        let first = !self.scanned.swap(true, Ordering::Relaxed);
        let hands = ndjson::deal_pieces(&self.lines, count);
        if first {
            self.sensors.expect(hands.iter().map(Vec::len).sum());
        }
        let partitions = hands
            .into_iter()
            .map(|pieces| -> Arc<dyn PartitionStream> {
                Arc::new(ndjson::PieceReader {
                    pieces,
                    schema: Arc::clone(&schema),
                    progress: Arc::clone(&self.progress),
                    losses: first.then(|| LossCounter(self.range.clone())),
                    sensors: first.then(|| Arc::clone(&self.sensors)),
                })
            })
            .collect();
        Ok(Arc::new(StreamingTableExec::try_new(Arc::clone(&schema), partitions, None, [], false, None)?))
    }
}

#[async_trait]
impl TableProvider for EventTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// No filter is taken over completely: NDJSON readers do not filter, and Parquet scans get the filter from the
    /// optimizer.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> EngineResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Unsupported; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if !self.parquet.is_empty() {
            inputs.push(parquet::scan(&self.parquet, &self.schema, projection, state)?);
        }
        if !self.lines.is_empty() {
            inputs.push(self.readers(projection, state.config().target_partitions())?);
        }
        match inputs.pop() {
            // A union of a single input would only add a step to the plan.
            Some(only) if inputs.is_empty() => Ok(only),
            Some(last) => {
                inputs.push(last);
                UnionExec::try_new(inputs)
            }
            None => {
                let schema = match projection {
                    Some(columns) => Arc::new(self.schema.project(columns)?),
                    None => Arc::clone(&self.schema),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
        }
    }
}

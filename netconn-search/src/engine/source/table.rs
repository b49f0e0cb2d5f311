//! All files of a search as one table of events.

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
use netconn_model::field;

use super::{
    find::{self, EventFile, FileFormat},
    losses::LossCounter,
    ndjson,
    parquet::{self, ParquetFile},
    progress::SearchProgress,
    shape::{TableShape, UNPARSED},
};
use crate::engine::{
    error::{Result, SearchError},
    names::Names,
};

/// Portions of footers that are read at the same time.
const PORTIONS_READ_MAX: usize = 8;

/// Footers that are read one after the other: to have another thread begin takes a good part of what a footer takes.
const PORTION_FOOTERS: usize = 16;

/// Memory for footers that are kept from the beginning of a search to its scans, bytes.
const FOOTER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Where a file is, whether it was named, and what its footer says; nothing if the file has gone.
type OpenedFile = (PathBuf, bool, std::result::Result<Option<ParquetFile>, String>);

fn opened(file: EventFile) -> OpenedFile {
    // Of some damaged footers the reader makes a panic.
    let footer = catch_unwind(AssertUnwindSafe(|| ParquetFile::open(&file)));
    let footer = match footer {
        Ok(footer) => footer.map_err(|error| error.to_string()),
        Err(_) => Err("its footer is damaged".to_owned()),
    };
    (file.path, file.is_named, footer)
}

/// The events of a search.
#[derive(Debug)]
pub(crate) struct EventTable {
    schema: SchemaRef,
    range: Option<Range<i64>>,
    lines: Vec<EventFile>,
    parquet: Vec<ParquetFile>,
    /// Those of another time that may tell of losses: a loss is told when it is over.
    outside: Vec<ParquetFile>,
    progress: Arc<SearchProgress>,
    /// When the history begins, epoch milliseconds, if there is nothing else.
    begins: Option<i64>,
    additional: BTreeSet<String>,
    wanted: BTreeSet<String>,
    scanned: AtomicBool,
}

impl EventTable {
    /// Finds the files of `paths` that may hold events of `range` and what columns they have. `names` are the fields that
    /// the query uses: they become columns even if no file seems to have them.
    pub(crate) async fn open(paths: &[PathBuf], range: Option<&Range<i64>>, names: &Names) -> Result<Self> {
        let found = find::find_files(paths, range)?;
        let progress = Arc::new(SearchProgress::default());
        progress.prune(found.pruned as u64);
        for problem in found.problems {
            progress.note(problem.to_string());
        }
        let (columnar, lines): (Vec<_>, Vec<_>) =
            found.files.into_iter().partition(|file| file.format == FileFormat::Parquet);
        let mut portions = Vec::new();
        let mut rest = columnar.into_iter().peekable();
        while rest.peek().is_some() {
            portions.push(rest.by_ref().take(PORTION_FOOTERS).collect::<Vec<_>>());
        }
        // On the threads that search afterwards: others would have heaps of their own, and what is new to a heap is slow.
        let footers = stream::iter(portions).map(|files| async move {
            tokio::spawn(async move { files.into_iter().map(opened).collect::<Vec<_>>() }).await.unwrap_or_default()
        });
        let mut footers = footers.buffered(PORTIONS_READ_MAX).flat_map(stream::iter);
        let mut known: Vec<ParquetFile> = Vec::new();
        let mut damaged = Vec::new();
        let mut room = FOOTER_BYTES_MAX;
        while let Some((path, is_named, file)) = footers.next().await {
            match file {
                Ok(Some(mut file)) => {
                    file.share(known.last(), &mut room);
                    known.push(file);
                }
                Ok(None) => {}
                Err(why) if is_named => return Err(SearchError::Format { path, why }),
                Err(why) => damaged.push((path, why)),
            }
        }
        if known.is_empty() && lines.is_empty() && !damaged.is_empty() {
            let (path, why) = damaged.swap_remove(0);
            return Err(SearchError::Format { path, why });
        }
        for (path, why) in damaged {
            progress.note(format!("{} was not read: {why}.", path.display()));
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
        shapes.look(&lines);
        shapes.search(&lines, &names.rare());
        let additional = shapes.additional_names();
        for name in &names.used {
            shapes.wanted(name);
        }
        let schema = shapes.schema();

        let all = known.len();
        let (mut parquet, mut outside): (Vec<ParquetFile>, Vec<ParquetFile>) =
            known.into_iter().partition(|file| range.is_none_or(|range| !file.outside(range)));
        parquet.sort_by_key(ParquetFile::first);
        outside.retain(ParquetFile::may_tell_losses);
        progress.prune((all - parquet.len()) as u64);
        progress.bad_lines(parquet.iter().map(ParquetFile::unparsed).sum());
        progress.wrong_values(parquet.iter().map(ParquetFile::original).sum());
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
            additional,
            wanted: names.used.clone(),
            scanned: AtomicBool::new(false),
        })
    }

    /// Counters of the search.
    pub(crate) fn progress(&self) -> &Arc<SearchProgress> {
        &self.progress
    }

    /// Says that the history begins later than what is asked for.
    pub(crate) fn note_beginning(&self, range: &Range<i64>) {
        let Some(begins) = self.begins.filter(|begins| range.start < *begins) else { return };
        let begins = Timestamp::from_millisecond(begins).unwrap_or_default();
        self.progress.note(format!("The history begins at {begins:.0}: of the time before nothing is known."));
    }

    /// Fields that were found in the files and are not in the field table.
    pub(crate) fn additional(&self) -> &BTreeSet<String> {
        &self.additional
    }

    /// Whether some rows are lines that were no JSON object.
    pub(crate) fn has_unparsed(&self) -> bool {
        self.schema.column_with_name(UNPARSED).is_some()
    }

    /// Whether the query names that column.
    pub(crate) fn wants_unparsed(&self) -> bool {
        self.wanted.contains(UNPARSED)
    }

    /// Names of the columns that whole events are shown with: the field table's, and those found in the files.
    pub(crate) fn shown(&self) -> Vec<String> {
        let names = self.schema.fields().iter().map(|field| field.name().clone());
        names
            .filter(|name| field::by_name(name).is_some() || self.additional.contains(name))
            .filter(|name| name != UNPARSED || self.wants_unparsed())
            .collect()
    }

    /// The same events, of the Parquet files that may tell of losses only; nothing if there is no such file.
    pub(crate) fn with_losses(&self) -> Option<Self> {
        let may_tell = self.parquet.iter().filter(|file| file.may_tell_losses());
        let parquet: Vec<_> = may_tell.chain(&self.outside).cloned().collect();
        (!parquet.is_empty()).then(|| Self { lines: Vec::new(), parquet, ..self.apart() })
    }

    /// The same events, to be read without being counted.
    pub(crate) fn apart(&self) -> Self {
        Self {
            schema: Arc::clone(&self.schema),
            range: self.range.clone(),
            lines: self.lines.clone(),
            parquet: self.parquet.clone(),
            outside: Vec::new(),
            progress: Arc::new(SearchProgress::default()),
            begins: self.begins,
            additional: BTreeSet::new(),
            wanted: BTreeSet::new(),
            scanned: AtomicBool::new(true),
        }
    }

    fn readers(&self, projection: Option<&Vec<usize>>, count: usize) -> EngineResult<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        let first = !self.scanned.swap(true, Ordering::Relaxed);
        let partitions = ndjson::deal_pieces(&self.lines, count)
            .into_iter()
            .map(|pieces| -> Arc<dyn PartitionStream> {
                Arc::new(ndjson::PieceReader {
                    pieces,
                    schema: Arc::clone(&schema),
                    progress: Arc::clone(&self.progress),
                    losses: first.then(|| LossCounter(self.range.clone())),
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

    /// The readers of Parquet skip what the statistics rule out, and no reader leaves a row out.
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

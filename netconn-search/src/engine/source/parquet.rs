//! Reads the footers of Parquet files and builds the plan that scans them.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, path::PathBuf, sync::Arc};

use datafusion::{
    arrow::datatypes::{DataType, Schema, SchemaRef},
    catalog::Session,
    common::{Statistics, stats::Precision},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            FileGroup, FileScanConfigBuilder, ParquetSource,
            parquet::{ParquetFileMetrics, ParquetFileReaderFactory},
        },
        source::DataSourceExec,
    },
    error::{DataFusionError, Result},
    execution::object_store::ObjectStoreUrl,
    object_store::{PutPayload, path::Path},
    parquet::{
        arrow::{
            arrow_reader::{ArrowReaderOptions, statistics::StatisticsConverter},
            async_reader::AsyncFileReader,
            parquet_to_arrow_schema,
        },
        errors::{ParquetError, Result as ParquetResult},
        file::{
            metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
            statistics::Statistics as ColumnStatistics,
        },
    },
    physical_plan::{ExecutionPlan, metrics::ExecutionPlanMetricsSet},
    scalar::ScalarValue,
};
use futures::{
    FutureExt as _,
    future::{BoxFuture, ready},
};
use netconn_model::field::Field;

use crate::engine::source::{
    find::EventFile,
    shape::{ColumnShape, ORIGINAL, UNPARSED},
};

/// The type of bytes that the Parquet reader takes; named through DataFusion, so that the crate `bytes` is no
/// dependency.
type Bytes = <PutPayload as IntoIterator>::Item;

/// With more columns than this, the filter runs first and the other columns are read only for matching rows; with
/// fewer, reading everything is faster. Measured over 10 million events, filtering first takes 1.1 to 1.6 times as long
/// with 3 columns and a filter that keeps half of the rows, 0.9 times with 7 columns and a filter that keeps 0.05 %,
/// and 1/15 for whole events of one address (`cargo xtask bench search`, DataFusion 55).
const LATE_COLUMNS_MIN: usize = 6;

/// Most files for which the engine gets statistics (row count and times): with 70 columns these take 25 kB for each
/// file.
const STATISTICS_FILES_MAX: usize = 2_000;

/// A Parquet file and the contents of its footer.
#[derive(Clone, Debug)]
pub(crate) struct ParquetFile {
    pub(crate) file: PartitionedFile,
    schema: Arc<Schema>,
    /// Earliest and latest `event.time`, epoch milliseconds.
    time: Option<(i64, i64)>,
    rows: i64,
    /// Rows with a value in `line.unparsed`.
    unparsed: u64,
    /// Rows with a value in `line.original`.
    original: u64,
    /// Rows with a value in `loss.count`.
    losses: u64,
    /// Rows with a value in a field that only starts and ends of daemons have.
    sensor: u64,
    /// Events without a time.
    untimed: u64,
}

impl ParquetFile {
    /// Reads the footer and keeps it for the scan. `None`: the file was found in a folder and has been removed since.
    pub(crate) fn open(file: &EventFile) -> Result<Option<Self>> {
        let handle = match &file.handle {
            Some(handle) => Arc::clone(handle),
            None => match File::open(&file.path) {
                // The daemon has removed it since the folder was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !file.is_named => return Ok(None),
                handle => Arc::new(handle?),
            },
        };
        let metadata = read_footer(&handle)?;
        let header = metadata.file_metadata();
        let schema = parquet_to_arrow_schema(header.schema_descr(), header.key_value_metadata())?;
        let filled = |name: &str| count_filled(&metadata, &schema, name);
        let mut partitioned = PartitionedFile::new("", handle.metadata()?.len());
        partitioned.object_meta.location =
            Path::from_absolute_path(&file.path).map_err(datafusion::object_store::Error::from)?;
        Ok(Some(Self {
            time: time_range(&metadata, &schema),
            rows: header.num_rows(),
            unparsed: filled(UNPARSED),
            original: filled(ORIGINAL),
            losses: filled(Field::LossCount.info().name),
            sensor: filled(Field::KernelRelease.info().name) + filled(Field::EventsWritten.info().name),
            // Lines that are no JSON object have no time either, and are no events.
            untimed: u64::try_from(header.num_rows())
                .unwrap_or(0)
                .saturating_sub(filled(Field::EventTime.info().name) + filled(UNPARSED)),
            file: partitioned.with_extension(FileSource {
                path: file.path.clone(),
                handle: file.handle.clone(),
                metadata: Some(metadata),
            }),
            schema: Arc::new(schema),
        }))
    }

    /// Shares the schema with `before` if both are equal, and drops the footer if it does not fit into `room` (bytes
    /// left for footers); the scan then reads it again. In files of the history the schema takes about 10 kB, and the
    /// footer more.
    pub(crate) fn share(&mut self, before: Option<&Self>, room: &mut usize) {
        if let Some(before) = before.filter(|before| before.schema == self.schema) {
            self.schema = Arc::clone(&before.schema);
        }
        let Some(source) = self.file.extension::<FileSource>() else { return };
        let bytes = source.metadata.as_ref().map_or(0, |metadata| metadata.memory_size());
        if bytes <= *room {
            *room -= bytes;
        } else {
            let source = FileSource { path: source.path.clone(), handle: source.handle.clone(), metadata: None };
            self.file = self.file.clone().with_extension(source);
        }
    }

    /// Returns the columns, and adds the names of those that cannot be read (lists and structures) to `others`.
    pub(crate) fn columns<'a>(&'a self, others: &mut Vec<&'a str>) -> Vec<(&'a str, ColumnShape)> {
        let mut columns = Vec::new();
        for field in self.schema.fields() {
            // Every converted segment has these columns, and in most they are empty.
            let unused = [(UNPARSED, self.unparsed), (ORIGINAL, self.original)]
                .iter()
                .any(|(name, rows)| name == field.name() && *rows == 0);
            if unused {
                continue;
            }
            match ColumnShape::of(field.data_type()) {
                Some(shape) => columns.push((field.name().as_str(), shape)),
                None => others.push(field.name()),
            }
        }
        columns
    }

    /// Returns whether the statistics rule out events in this range.
    pub(crate) fn outside(&self, range: &Range<i64>) -> bool {
        self.time.is_some_and(|(first, last)| first >= range.end || last < range.start)
    }

    /// Returns the time of the earliest event, which is the order in which files are read.
    pub(crate) fn first(&self) -> i64 {
        self.time.map_or(i64::MIN, |(first, _)| first)
    }

    /// Returns the number of lines that were not a JSON object when the file was converted.
    pub(crate) fn unparsed(&self) -> u64 {
        self.unparsed
    }

    /// Returns the number of events with a value that did not have its field's type when the file was converted.
    pub(crate) fn original(&self) -> u64 {
        self.original
    }

    /// Returns the number of events without a time, which are in no range.
    pub(crate) fn untimed(&self) -> u64 {
        self.untimed
    }

    /// Returns whether some event may report a loss.
    pub(crate) fn may_report_losses(&self) -> bool {
        self.losses > 0
    }

    /// Returns whether some event may say that a daemon started or stopped.
    pub(crate) fn may_have_sensor_events(&self) -> bool {
        self.sensor > 0
    }

    /// Returns the file with statistics for a table of these columns: only the row count and the times. Statistics of
    /// all columns would take as long as reading the footers, and the scan skips row groups by the footer anyway.
    fn file(&self, schema: &SchemaRef) -> PartitionedFile {
        let mut statistics = Statistics::new_unknown(schema);
        let rows = usize::try_from(self.rows);
        statistics.num_rows = rows.map_or(Precision::Absent, Precision::Exact);
        if let Some((first, last)) = self.time
            && let Some((place, field)) = schema.column_with_name(Field::EventTime.info().name)
            // In files from elsewhere the column may have another type.
            && *field.data_type() == DataType::Int64
        {
            let column = &mut statistics.column_statistics[place];
            column.min_value = Precision::Exact(ScalarValue::Int64(Some(first)));
            column.max_value = Precision::Exact(ScalarValue::Int64(Some(last)));
        }
        self.file.clone().with_statistics(Arc::new(statistics))
    }
}

/// How the scan reads a file; attached to it as an extension.
#[derive(Debug)]
struct FileSource {
    path: PathBuf,
    /// The open file, if it is kept: it stays readable after the daemon has removed it.
    handle: Option<Arc<File>>,
    /// The footer, if there was room for it.
    metadata: Option<Arc<ParquetMetaData>>,
}

/// Creates the readers for scans of [`ParquetFile`]s.
#[derive(Debug)]
struct ParquetReaders;

impl ParquetFileReaderFactory for ParquetReaders {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        _: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let location = file.object_meta.location.as_ref();
        let Some(source) = file.extension::<FileSource>() else {
            return Err(DataFusionError::Internal(format!("{location} was not opened")));
        };
        let handle = match &source.handle {
            Some(handle) => Arc::clone(handle),
            None => Arc::new(File::open(&source.path)?),
        };
        let metadata = match &source.metadata {
            Some(metadata) => Arc::clone(metadata),
            None => read_footer(&handle)?,
        };
        Ok(Box::new(HandleReader { handle, metadata, metrics: ParquetFileMetrics::new(partition, location, metrics) }))
    }
}

/// Reads a file through its handle, with a known footer. It reads on the calling thread, which has to wait for the
/// bytes anyway: handing reads to another thread took a tenth of a query's time.
struct HandleReader {
    handle: Arc<File>,
    metadata: Arc<ParquetMetaData>,
    metrics: ParquetFileMetrics,
}

impl AsyncFileReader for HandleReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            let bytes = self.get_byte_ranges(vec![range]).await?.pop();
            bytes.ok_or_else(|| ParquetError::General("nothing was read".into()))
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        let total: u64 = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        // `SearchProgress` shows this metric. DataFusion increases it only in readers of its own.
        self.metrics.bytes_scanned.add(usize::try_from(total).unwrap_or(usize::MAX));
        let handle = &self.handle;
        let all = || -> io::Result<Vec<Bytes>> {
            let size = handle.metadata()?.len();
            ranges.iter().map(|range| read_bytes(handle, size, range).map(Bytes::from)).collect()
        };
        ready(all().map_err(ParquetError::from)).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        ready(Ok(Arc::clone(&self.metadata))).boxed()
    }
}

/// Reads a range of a file that has `size` bytes.
fn read_bytes(file: &File, size: u64, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let length = range.end.checked_sub(range.start).filter(|_| range.end <= size);
    // Checked before allocating: a damaged footer can ask for more bytes than there is memory.
    let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// Reads the footer of a file, without the page index: the engine loads that where it helps.
fn read_footer(handle: &File) -> ParquetResult<Arc<ParquetMetaData>> {
    // This reader checks the length of the footer against the file; the others panic on a damaged one.
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
    reader.parse_and_finish(handle).map(Arc::new)
}

/// Counts the rows with a value in a column by the statistics; without statistics, counts all rows.
fn count_filled(metadata: &ParquetMetaData, schema: &Schema, name: &str) -> u64 {
    let Some((column, _)) = schema.column_with_name(name) else { return 0 };
    let groups = metadata.row_groups().iter();
    groups
        .map(|group| {
            // Without statistics every row counts as filled, so that no loss and no bad line is overlooked.
            let nulls = group.column(column).statistics().and_then(ColumnStatistics::null_count_opt);
            u64::try_from(group.num_rows()).unwrap_or(0).saturating_sub(nulls.unwrap_or(0))
        })
        .sum()
}

/// Returns the earliest and the latest `event.time` by the statistics; `None` if a row group has none.
fn time_range(metadata: &ParquetMetaData, schema: &Schema) -> Option<(i64, i64)> {
    let name = Field::EventTime.info().name;
    let converter = StatisticsConverter::try_new(name, schema, metadata.file_metadata().schema_descr()).ok()?;
    let edge = |values: datafusion::arrow::array::ArrayRef| -> Option<Vec<i64>> {
        // One row group without statistics makes the whole range unknown.
        (0..values.len())
            .map(|row| match ScalarValue::try_from_array(&values, row) {
                Ok(ScalarValue::Int64(value)) => value,
                _ => None,
            })
            .collect()
    };
    let first = edge(converter.row_group_mins(metadata.row_groups()).ok()?)?.into_iter().min()?;
    let last = edge(converter.row_group_maxes(metadata.row_groups()).ok()?)?.into_iter().max()?;
    Some((first, last))
}

/// Builds the plan that reads the columns of `projection` from the files.
pub(crate) fn scan(
    files: &[ParquetFile],
    schema: &SchemaRef,
    projection: Option<&Vec<usize>>,
    state: &dyn Session,
) -> Result<Arc<dyn ExecutionPlan>> {
    let columns = projection.map_or(schema.fields().len(), Vec::len);
    let source = ParquetSource::new(Arc::clone(schema))
        .with_table_parquet_options(state.default_table_options().parquet)
        .with_pushdown_filters(columns > LATE_COLUMNS_MIN)
        .with_parquet_file_reader_factory(Arc::new(ParquetReaders));
    let has_statistics = files.len() <= STATISTICS_FILES_MAX;
    let files = files.iter().map(|file| if has_statistics { file.file(schema) } else { file.file.clone() }).collect();
    // One group of whole files for each thread.
    // `split_files` sorts by path first: within the folder of a history that is the order of time.
    let groups = FileGroup::new(files).split_files(state.config().target_partitions());
    let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
        .with_file_groups(groups)
        .with_projection_indices(projection.cloned())?
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{convert, source::find::find_files};

    #[test]
    fn footers_without_room_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        for time in [1, 2] {
            let path = folder.path().join("lines.ndjson");
            let line = format!("{{\"event.type\":\"IP Connect\",\"event.time\":{time},\"x\":2}}\n");
            std::fs::write(&path, line.repeat(3)).unwrap();
            convert(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
        }
        let found = find_files(&[folder.path().to_owned()], None).unwrap();
        let mut files: Vec<_> = found.files.iter().map(|file| ParquetFile::open(file).unwrap().unwrap()).collect();
        let [first, second] = &mut files[..] else { panic!("two files") };
        let mut room = 100_000;
        first.share(None, &mut room);
        assert!(room < 100_000, "its bytes are counted");
        room = 10;
        second.share(Some(first), &mut room);
        assert_eq!(room, 10);
        assert!(Arc::ptr_eq(&first.schema, &second.schema));
        let is_kept = |file: &ParquetFile| file.file.extension::<FileSource>().unwrap().metadata.is_some();
        assert_eq!((is_kept(first), is_kept(second)), (true, false));
        let metrics = ExecutionPlanMetricsSet::new();
        for file in files {
            let mut reader = ParquetReaders.create_reader(0, file.file, None, &metrics).unwrap();
            let metadata = futures::executor::block_on(reader.get_metadata(None)).unwrap();
            assert_eq!(metadata.file_metadata().num_rows(), 3);
        }
    }
}

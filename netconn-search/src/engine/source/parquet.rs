//! Parquet files: what their footers say, and the plan that reads them.

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

use super::{
    find::EventFile,
    shape::{ColumnShape, ORIGINAL, UNPARSED},
};

/// Bytes as the reader of Parquet takes them; the crate that they are of is no dependency here.
type Bytes = <PutPayload as IntoIterator>::Item;

/// Of more columns than so many, those that are only shown are read in the rows that the filter leaves; of fewer, all are read:
/// to pick the rows takes longer then. Measured over 10 million events: with 3 columns of which one is for a filter that
/// leaves half, picking takes 1.1 to 1.6 times as long; with 7 of which three leave 0.05 %, 0.9; whole events of one address
/// 1/15 (`cargo xtask bench search`, DataFusion 55).
const LATE_COLUMNS_MIN: usize = 6;

/// Files whose number of rows and times the engine is told; that takes 25 kB for each, with 70 columns.
const STATISTICS_FILES_MAX: usize = 2_000;

/// A Parquet file and what its footer says.
#[derive(Clone, Debug)]
pub(crate) struct ParquetFile {
    pub(crate) file: PartitionedFile,
    schema: Arc<Schema>,
    /// Earliest and latest `event.time`.
    time: Option<(i64, i64)>,
    rows: i64,
    /// Rows that have something in these columns.
    unparsed: u64,
    original: u64,
    losses: u64,
}

impl ParquetFile {
    /// Reads the footer; it is kept for the scan. Nothing if the file was found in a folder and the store has removed it.
    pub(crate) fn open(file: &EventFile) -> Result<Option<Self>> {
        let handle = match &file.handle {
            Some(handle) => Arc::clone(handle),
            None => match File::open(&file.path) {
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
            file: partitioned.with_extension(FileSource {
                path: file.path.clone(),
                handle: file.handle.clone(),
                metadata: Some(metadata),
            }),
            schema: Arc::new(schema),
        }))
    }

    /// Shares the columns with another file that has the same, and keeps the footer only if there are so many bytes of `room`
    /// left: else it is read again for the scan. Of the store's files each takes some 10 kB of columns and more of a footer.
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

    /// Its columns; the names of those that cannot be read (lists and structures) are put into `others`.
    pub(crate) fn columns<'a>(&'a self, others: &mut Vec<&'a str>) -> Vec<(&'a str, ColumnShape)> {
        let mut columns = Vec::new();
        for field in self.schema.fields() {
            // Every converted segment has the columns for what went wrong; most have nothing in them.
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

    /// Whether its statistics rule out that it has an event of this time.
    pub(crate) fn outside(&self, range: &Range<i64>) -> bool {
        self.time.is_some_and(|(first, last)| first >= range.end || last < range.start)
    }

    /// Earliest event, for the order in which files are read.
    pub(crate) fn first(&self) -> i64 {
        self.time.map_or(i64::MIN, |(first, _)| first)
    }

    /// Lines that were no JSON object when the file was made.
    pub(crate) fn unparsed(&self) -> u64 {
        self.unparsed
    }

    /// Events of which a value was not of its field's type when the file was made.
    pub(crate) fn original(&self) -> u64 {
        self.original
    }

    /// Whether some event may tell of losses.
    pub(crate) fn may_tell_losses(&self) -> bool {
        self.losses > 0
    }

    /// With what a table of these columns is told of its rows: how many, and the times. The statistics of all columns would
    /// take as long as the footers themselves, and the engine skips row groups by those without being told.
    fn file(&self, schema: &SchemaRef) -> PartitionedFile {
        let mut statistics = Statistics::new_unknown(schema);
        let rows = usize::try_from(self.rows);
        statistics.num_rows = rows.map_or(Precision::Absent, Precision::Exact);
        if let Some((first, last)) = self.time
            && let Some((place, field)) = schema.column_with_name(Field::EventTime.info().name)
            && *field.data_type() == DataType::Int64
        {
            let column = &mut statistics.column_statistics[place];
            column.min_value = Precision::Exact(ScalarValue::Int64(Some(first)));
            column.max_value = Precision::Exact(ScalarValue::Int64(Some(last)));
        }
        self.file.clone().with_statistics(Arc::new(statistics))
    }
}

/// What a file is read from.
#[derive(Debug)]
struct FileSource {
    path: PathBuf,
    /// With it the file can be read even when the store has removed it.
    handle: Option<Arc<File>>,
    /// The footer, if there was room for it.
    metadata: Option<Arc<ParquetMetaData>>,
}

/// Makes the readers of the files of [`ParquetFile`].
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

/// Reads a file through its handle; the footer is known. It reads on the thread that asks: that waits for the bytes anyway,
/// and to have another thread fetch them took a tenth of the time of a query.
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

/// Bytes of a file of this size.
fn read_bytes(file: &File, size: u64, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let length = range.end.checked_sub(range.start).filter(|_| range.end <= size);
    // A damaged footer can ask for more than there is memory.
    let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// The footer of a file, without the places of its pages: the engine asks for those where they help.
fn read_footer(handle: &File) -> ParquetResult<Arc<ParquetMetaData>> {
    // This reader looks first whether the file can have a footer of that length; the others panic.
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
    reader.parse_and_finish(handle).map(Arc::new)
}

/// Rows that have something in a column, if the statistics say so; all if they do not.
fn count_filled(metadata: &ParquetMetaData, schema: &Schema, name: &str) -> u64 {
    let Some((column, _)) = schema.column_with_name(name) else { return 0 };
    let groups = metadata.row_groups().iter();
    groups
        .map(|group| {
            let nulls = group.column(column).statistics().and_then(ColumnStatistics::null_count_opt);
            u64::try_from(group.num_rows()).unwrap_or(0).saturating_sub(nulls.unwrap_or(0))
        })
        .sum()
}

/// Earliest and latest `event.time`; `None` if a row group does not tell.
fn time_range(metadata: &ParquetMetaData, schema: &Schema) -> Option<(i64, i64)> {
    let name = Field::EventTime.info().name;
    let converter = StatisticsConverter::try_new(name, schema, metadata.file_metadata().schema_descr()).ok()?;
    let edge = |values: datafusion::arrow::array::ArrayRef| -> Option<Vec<i64>> {
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

/// The plan that reads these columns of a table out of the files.
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
    let is_told = files.len() <= STATISTICS_FILES_MAX;
    let files = files.iter().map(|file| if is_told { file.file(schema) } else { file.file.clone() }).collect();
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

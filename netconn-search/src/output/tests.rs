//! Compares the output in all formats for fixed rows with golden files.

use std::{
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, StringArray},
        datatypes::Int64Type,
    },
    parquet::arrow::arrow_reader::ParquetRecordBatchReader,
};

use super::*;
use crate::output::{intent::EventRows, moments::MomentColumns};

/// A writer whose bytes can be read while another writer owns it.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn zone() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn style(format: OutputFormat, width: usize) -> OutputStyle {
    OutputStyle { format, is_chart: false, is_live: false, width: NonZero::new(width), zone: zone() }
}

/// Returns the intent of a query that names its columns.
fn columns() -> AnswerIntent {
    AnswerIntent {
        moments: MomentColumns::of_events(),
        events: None,
        keys: Vec::new(),
        bucket: None,
        averages: Vec::new(),
    }
}

/// Returns the intent of a query whose rows are events, with a column that it adds.
fn of_events() -> AnswerIntent {
    AnswerIntent { events: Some(EventRows { made: vec!["made".into()] }), ..columns() }
}

fn grouped(keys: &[&str]) -> AnswerIntent {
    AnswerIntent { keys: keys.iter().map(|key| (*key).to_owned()).collect(), ..columns() }
}

fn summary() -> AnswerSummary {
    AnswerSummary { events_read: 10, files: 1, elapsed: Duration::from_millis(5), ..AnswerSummary::default() }
}

/// The bytes of an answer.
fn bytes(style: &OutputStyle, intent: &AnswerIntent, batches: &[RecordBatch]) -> Result<Vec<u8>, AnswerWriteError> {
    let written = Written::default();
    let out = OutputDestination::to(Box::new(written.clone()));
    let mut output = AnswerWriter::begin(out, style, batches[0].schema(), intent)?;
    for batch in batches {
        output.batch(batch)?;
    }
    output.end(&mut summary())?;
    let bytes = written.0.lock().unwrap().clone();
    Ok(bytes)
}

/// Compares an answer with the file of this name, or writes that file when `NETCONN_UPDATE` is set.
fn check(name: &str, style: &OutputStyle, batches: &[RecordBatch]) {
    check_as(name, style, &columns(), batches);
}

/// Compares an answer with this intent with the file of this name.
fn check_as(name: &str, style: &OutputStyle, intent: &AnswerIntent, batches: &[RecordBatch]) {
    let bytes = bytes(style, intent, batches).unwrap();
    let written = anstream::adapter::strip_str(std::str::from_utf8(&bytes).unwrap()).to_string();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/output/golden").join(name);
    if std::env::var_os("NETCONN_UPDATE").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(written, expected, "\n{name}:\n{written}");
}

fn rows() -> RecordBatch {
    let ports =
        ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(22), Some(443)]), None, Some(vec![])]);
    batch(vec![
        ("event.time", Arc::new(Int64Array::from(vec![Some(1_762_333_200_000), Some(1_762_333_201_500), None]))),
        ("src.process.name", Arc::new(StringArray::from(vec![Some("curl"), Some("\u{1b}[2Jévil, \"x\""), None]))),
        ("n", Arc::new(Int64Array::from(vec![Some(1), Some(-1_000_000), None]))),
        ("share", Arc::new(Float64Array::from(vec![Some(0.5), Some(66.666_666), Some(f64::NAN)]))),
        ("ok", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("ports", Arc::new(ports)),
        (
            "src.process.cmdline",
            Arc::new(StringArray::from(vec![Some("a long command line with words"), Some(""), None])),
        ),
    ])
}

/// Connections by hour, with none at 12, at 13 and in the evening.
fn hours() -> RecordBatch {
    let hours = [10, 11, 13, 14, 24].map(|hour| 1_762_300_800_000 + hour * 3_600_000);
    batch(vec![
        ("timestamp", Arc::new(Int64Array::from_iter_values(hours.map(|ms| ms * 1_000_000)))),
        ("count", Arc::new(Int64Array::from(vec![1, 250, 0, 1000, 40]))),
    ])
}

fn tops() -> RecordBatch {
    batch(vec![
        ("src.process.name", Arc::new(StringArray::from(vec![Some("a long name of a process"), Some("sshd"), None]))),
        ("dst.port.number", Arc::new(Int64Array::from(vec![443, 22, 53]))),
        ("Bytes", Arc::new(Float64Array::from(vec![1e9, 1.5, f64::NAN]))),
    ])
}

/// Events, in which most columns have no value.
fn events() -> RecordBatch {
    batch(vec![
        ("agent.version", Arc::new(StringArray::from(vec!["0.1.0", "0.1.0"]))),
        ("dst.ip.address", Arc::new(StringArray::from(vec!["203.0.113.50", "2001:db8::1"]))),
        ("dst.port.number", Arc::new(Int64Array::from(vec![443, 53]))),
        ("event.type", Arc::new(StringArray::from(vec!["IP Connect", "IP Connect"]))),
        ("event.network.connectionStatus", Arc::new(StringArray::from(vec!["SUCCESS", "FAILURE"]))),
        ("made", Arc::new(StringArray::from(vec![None, Some("up")]))),
        ("event.network.errno", Arc::new(Int64Array::from(vec![None::<i64>, None]))),
        ("event.time", Arc::new(Int64Array::from(vec![1_762_333_200_000, 1_762_333_201_000]))),
    ])
}

#[test]
fn tables_fit_the_terminal() {
    check("table-whole.txt", &style(OutputFormat::Table, 0), &[rows()]);
    check("table-80.txt", &style(OutputFormat::Table, 80), &[rows()]);
    check("table-40.txt", &style(OutputFormat::Table, 40), &[rows()]);
    check_as("table-events.txt", &style(OutputFormat::Table, 80), &of_events(), &[events()]);
    check_as("table-events-whole.txt", &style(OutputFormat::Table, 0), &of_events(), &[events()]);
    let live = OutputStyle { is_live: true, ..style(OutputFormat::Table, 120) };
    check_as("table-live.txt", &live, &of_events(), &[events(), events()]);
    check("table-empty.txt", &style(OutputFormat::Table, 80), &[rows().slice(0, 0)]);
    for width in 1..120 {
        let bytes = bytes(&style(OutputFormat::Table, width), &columns(), &[rows(), rows()]).unwrap();
        let text = anstream::adapter::strip_str(std::str::from_utf8(&bytes).unwrap()).to_string();
        // The first column of this table is a time, which is neither left out nor cut.
        assert!(text.lines().all(|line| netconn_model::term::text_width(line) <= width.max(23)), "{width}\n{text}");
    }
}

/// Events of a host: an outgoing connection, its end, an incoming one over IPv6.
fn host_events(second_day: bool) -> RecordBatch {
    let texts = |values: [Option<&str>; 3]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
    let numbers = |values: [Option<i64>; 3]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
    let day = if second_day { 86_400_000 } else { 0 };
    batch(vec![
        ("event.time", numbers([1_762_333_200_123, 1_762_333_201_500, 1_762_333_260_000 + day].map(Some))),
        ("event.type", texts([Some("IP Connect"), Some("IP Close"), Some("IP Connect")])),
        ("src.process.name", texts([Some("curl"), Some("curl"), Some("a-process-of-15")])),
        ("src.process.cmdline", texts([Some("curl https://example.org/some/long/path?query"), None, None])),
        ("src.process.pid", numbers([Some(4711), Some(4711), Some(1)])),
        ("src.ip.address", texts([Some("192.0.2.10"), Some("192.0.2.10"), Some("2001:db8::aaaa:bbbb:cccc:1")])),
        ("dst.ip.address", texts([Some("198.51.100.200"), Some("198.51.100.200"), Some("2001:db8::2")])),
        (
            "remote.ip.address",
            texts([Some("198.51.100.200"), Some("198.51.100.200"), Some("2001:db8::aaaa:bbbb:cccc:1")]),
        ),
        ("dst.port.number", numbers([Some(443), Some(443), Some(22)])),
        ("event.network.direction", texts([Some("OUTGOING"), Some("OUTGOING"), Some("INCOMING")])),
        ("event.network.connectionStatus", texts(["SUCCESS"; 3].map(Some))),
        ("event.network.bytesSent", numbers([None, Some(5170), None])),
        ("event.network.bytesReceived", numbers([None, Some(123_456), None])),
    ])
}

#[test]
fn what_is_looked_at_first_is_whole() {
    for width in [80, 100, 120, 160] {
        let events = AnswerIntent { events: Some(EventRows::default()), ..columns() };
        check_as(
            &format!("table-host-{width}.txt"),
            &style(OutputFormat::Table, width),
            &events,
            &[host_events(false)],
        );
        for second_day in [false, true] {
            let live = OutputStyle { is_live: second_day, ..style(OutputFormat::Table, width) };
            let bytes = bytes(&live, &events, &[host_events(second_day)]).unwrap();
            let text = anstream::adapter::strip_str(std::str::from_utf8(&bytes).unwrap()).to_string();
            // The other end is whole at any width, also that of an incoming connection.
            for expected in ["198.51.100.200", "2001:db8::aaaa:bbbb:cccc:1", "a-process-of-15", "dst.port", "INCOMING"]
            {
                assert!(text.contains(expected), "{width} {expected}\n{text}");
            }
            assert!(text.lines().all(|line| netconn_model::term::text_width(line) <= width), "{width}\n{text}");
            // Each heading is a name, and may be followed by the zone.
            let heading = text.lines().find(|line| line.contains("process")).unwrap();
            for name in heading.split_whitespace().filter(|name| *name != "+01:00") {
                assert!(
                    netconn_query::short::full(name).is_some() || netconn_query::short::short(name) != name,
                    "{name}"
                );
            }
        }
    }
    let live = OutputStyle { is_live: true, ..style(OutputFormat::Table, 80) };
    let events = AnswerIntent { events: Some(EventRows::default()), ..columns() };
    check_as("table-host-live.txt", &live, &events, &[host_events(false), host_events(true)]);
}

#[test]
fn series_are_parts_of_bars() {
    let chart = OutputStyle { is_chart: true, ..style(OutputFormat::Table, 60) };
    let hours = [10, 10, 11, 13, 13, 13].map(|hour| (1_762_300_800_000_i64 + hour * 3_600_000) * 1_000_000);
    let names = ["curl", "ssh", "curl", "ssh", "\u{1b}[2Jx", "curl"];
    let rows = batch(vec![
        ("timestamp", Arc::new(Int64Array::from_iter_values(hours))),
        ("src.process.name", Arc::new(StringArray::from(names.to_vec()))),
        ("n", Arc::new(Int64Array::from(vec![30, 10, 80, 5, 1, 34]))),
    ]);
    let parsed = netconn_query::parse("| group n = count() by timestamp = timebucket('1h'), src.process.name");
    check_as("chart-series.txt", &chart, &AnswerIntent::of(&parsed.query.unwrap()), &[rows]);
    // A long time without rows is shortened.
    let far = [0, 40].map(|hour| (1_762_300_800_000_i64 + hour * 3_600_000) * 1_000_000);
    let rows = batch(vec![
        ("timestamp", Arc::new(Int64Array::from_iter_values(far))),
        ("src.process.name", Arc::new(StringArray::from(vec!["curl", "ssh"]))),
        ("n", Arc::new(Int64Array::from(vec![3, 6]))),
    ]);
    let parsed = netconn_query::parse("| group n = count() by timestamp = timebucket('1h'), src.process.name");
    check_as("chart-series-gap.txt", &chart, &AnswerIntent::of(&parsed.query.unwrap()), &[rows]);
    // Averages do not add up: each has a bar of its own.
    let parsed = netconn_query::parse("| group n = avg(x) by timestamp = timebucket('1h'), src.process.name");
    let rows = batch(vec![
        ("timestamp", Arc::new(Int64Array::from_iter_values(hours))),
        ("src.process.name", Arc::new(StringArray::from(names.to_vec()))),
        ("n", Arc::new(Float64Array::from(vec![1.5, 1.0, 2.0, 3.0, 0.5, 1.0]))),
    ]);
    check_as("chart-averages.txt", &chart, &AnswerIntent::of(&parsed.query.unwrap()), &[rows]);
    // The columns that `transpose` makes.
    let wide = batch(vec![
        ("event.type", Arc::new(StringArray::from(vec!["IP Connect", "IP Close"]))),
        ("curl", Arc::new(Int64Array::from(vec![7, 6]))),
        ("ssh", Arc::new(Int64Array::from(vec![3, 0]))),
    ]);
    check_as("chart-transposed.txt", &chart, &columns(), &[wide]);
}

#[test]
fn programs_get_what_there_is() {
    check("rows.json", &style(OutputFormat::Json, 80), &[rows(), rows().slice(0, 1)]);
    check("rows.ndjson", &style(OutputFormat::Ndjson, 80), &[rows()]);
    check("rows.csv", &style(OutputFormat::Csv, 80), &[rows()]);
    check("empty.json", &style(OutputFormat::Json, 80), &[rows().slice(0, 0)]);
    check("empty.csv", &style(OutputFormat::Csv, 80), &[rows().slice(0, 0)]);
}

#[test]
fn a_command_line_is_no_formula_in_csv() {
    let rows = batch(vec![
        ("=n", Arc::new(Int64Array::from(vec![-5])) as ArrayRef),
        ("share", Arc::new(Float64Array::from(vec![-0.5]))),
        ("src.process.cmdline", Arc::new(StringArray::from(vec!["@SUM(1,1)"]))),
    ]);
    let written = |format| {
        let bytes = bytes(&style(format, 80), &columns(), std::slice::from_ref(&rows)).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(written(OutputFormat::Csv), "'=n,share,src.process.cmdline\n-5,-0.5,\"'@SUM(1,1)\"\n");
    assert_eq!(written(OutputFormat::CsvRaw), "=n,share,src.process.cmdline\n-5,-0.5,\"@SUM(1,1)\"\n");
}

#[test]
fn parquet_reads_back() {
    let written = bytes(&style(OutputFormat::Parquet, 80), &columns(), &[rows(), rows()]).unwrap();
    let reader = ParquetRecordBatchReader::try_new(bytes::Bytes::from(written), 1024).unwrap();
    let read: Vec<RecordBatch> = reader.collect::<Result<_, _>>().unwrap();
    let expected = datafusion::arrow::compute::concat_batches(&rows().schema(), &[rows(), rows()]).unwrap();
    assert_eq!(read, [expected]);
}

#[test]
fn charts_show_what_is_missing() {
    let chart = |width| OutputStyle { is_chart: true, ..style(OutputFormat::Table, width) };
    check_as("chart-time.txt", &chart(60), &grouped(&["timestamp"]), &[hours()]);
    check_as("chart-top.txt", &chart(60), &grouped(&["src.process.name", "dst.port.number"]), &[tops()]);
    let top = batch(vec![
        ("dst.port.number", Arc::new(Int64Array::from(vec![443, 22]))),
        ("count", Arc::new(Int64Array::from(vec![7, 3]))),
    ]);
    check_as("chart-ports.txt", &chart(0), &grouped(&["dst.port.number"]), &[top]);
    // Every second hour has rows, a bucket is an hour; an average of nothing is not 0; a second number has no bars.
    let gaps = [10, 12, 14].map(|hour| (1_762_300_800_000_i64 + hour * 3_600_000) * 1_000_000);
    let gaps = batch(vec![
        ("timestamp", Arc::new(Int64Array::from_iter_values(gaps))),
        ("average", Arc::new(Float64Array::from(vec![Some(2.5), None, Some(5.0)]))),
        ("count", Arc::new(Int64Array::from(vec![1, 0, 2]))),
    ]);
    let parsed = netconn_query::parse("| group average = avg(x), count() by timestamp = timebucket('1h')");
    check_as("chart-gaps.txt", &chart(60), &AnswerIntent::of(&parsed.query.unwrap()), &[gaps]);
    let refusal = |batch: RecordBatch| bytes(&chart(60), &columns(), &[batch]).unwrap_err().to_string();
    let names = batch(vec![("name", Arc::new(StringArray::from(vec!["a"])))]);
    assert!(refusal(names).starts_with("a chart needs a column with numbers"));
    let numbers = batch(vec![("n", Arc::new(Int64Array::from(vec![1])))]);
    assert!(refusal(numbers).starts_with("a chart needs a column to draw over"));
    let many = batch(vec![
        ("name", Arc::new(StringArray::from(vec!["a"; 2001]))),
        ("n", Arc::new(Int64Array::from(vec![1; 2001]))),
    ]);
    assert!(refusal(many).starts_with("a chart can have at most 2000 bars"));
}

#[test]
fn people_see_colours() {
    let bytes = bytes(&style(OutputFormat::Table, 80), &of_events(), &[events()]).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("\u{1b}[31mFAILURE\u{1b}[0m"), "{text:?}");
    assert!(text.starts_with("\u{1b}[1mtime +01:00\u{1b}[0m"), "{text:?}");
}

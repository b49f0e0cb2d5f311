//! Tests that the same events give the same rows in all file formats, and that broken files are reported.

use std::{
    fs,
    io::{Seek as _, Write},
    path::Path,
    process::Command,
    sync::Arc,
};

use futures::StreamExt;
use netconn_query::parser::parse;

use crate::engine::{
    Search, SearchError, convert, runtime,
    tests::{
        events::{START, event_lines, events, write},
        rows, search, table,
    },
};

/// Queries whose rows have a fixed order.
const QUERIES: [&str; 7] = [
    "event.type = 'IP Connect' | sort event.id | columns event.id, dst.ip.address, x.tag, event.network.preexisting",
    "dst.port.number > 100 | group n = count(), s = sum(event.network.bytesSent), m = max(event.network.durationMs) by dst.port.number",
    "x.tag = 'red' | group n = count() by src.process.name, event.network.preexisting",
    "!(x.tag = *) | group count()",
    "not (src.process.cmdline contains 'F3') | group n = count() by event.type",
    "* contains 'f7' | sort event.id | columns event.id",
    "| sort -event.time, event.id | limit 20 | columns event.time, timestamp, event.id, src.process.cmdline",
];

#[test]
fn all_formats_give_the_same() {
    let events = events(2_500);
    let text = event_lines(&events);
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("lines/events.ndjson");
    fs::create_dir(lines.parent().unwrap()).unwrap();
    write(&lines, &events);
    let expected: Vec<_> = QUERIES.iter().map(|query| rows(&lines, query)).collect();
    assert!(expected.iter().all(|rows| !rows.is_empty()));

    let packed = folder.path().join("a.ndjson.gz");
    let mut writer = flate2::write::GzEncoder::new(fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    writer.write_all(text.as_bytes()).unwrap();
    writer.finish().unwrap();
    let zstd = folder.path().join("a.ndjson.zst");
    fs::write(&zstd, zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
    let converted = convert(&lines).unwrap();
    let summary = &converted.summary;
    assert_eq!((summary.rows, summary.unparsed, summary.first.unwrap() >= START), (2_500, 0, true));

    // One folder holds a third of the events in each format.
    let mixed = folder.path().join("mixed");
    fs::create_dir(&mixed).unwrap();
    write(&mixed.join("events-1790000000000.ndjson"), &events[..800]);
    let first = convert(&mixed.join("events-1790000000000.ndjson")).unwrap();
    assert!(first.file.ends_with(format!("events-1790000000000-{}.parquet", first.summary.last.unwrap())), "{first:?}");
    write(&mixed.join("more.ndjson"), &events[800..1_600]);
    let rest = event_lines(&events[1_600..]);
    fs::write(mixed.join("rest.ndjson.zst"), zstd::encode_all(rest.as_bytes(), 1).unwrap()).unwrap();

    // By the usual programs. Several streams one after the other, as parallel compressors and `cat` make them, and for xz blocks
    // of its own.
    let [bzip2, xz] = ["a.ndjson.bz2", "a.ndjson.xz"].map(|name| folder.path().join(name));
    let (first, rest) = text.as_bytes().split_at(text.len() / 3);
    fs::write(&bzip2, [packed_by("bzip2", &["-1"], first), packed_by("bzip2", &["-9"], rest)].concat()).unwrap();
    let blocks = packed_by("xz", &["--block-size=50000", "-1"], first);
    fs::write(&xz, [blocks, vec![0; 8], packed_by("xz", &["-9", "--check=sha256"], rest)].concat()).unwrap();

    for path in [packed.as_path(), &zstd, &bzip2, &xz, &converted.file, &mixed] {
        for (query, expected) in QUERIES.iter().zip(&expected) {
            assert_eq!(&rows(path, query), expected, "{} {query}", path.display());
        }
    }
}

/// Returns what a program makes of its standard input.
fn packed_by(program: &str, options: &[&str], text: &[u8]) -> Vec<u8> {
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(text).unwrap();
    input.rewind().unwrap();
    let output = Command::new(program).args(options).arg("-c").stdin(input).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What is before the cut is searched, and the answer says that the rest is missing; of a file that needs more memory than a decoder gets
/// as well.
#[test]
fn a_packed_file_that_is_cut_or_too_dear_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.ndjson");
    let text = event_lines(&events(5_000));
    let whole = text[..text.len() / 3].rfind('\n').unwrap() + 1;
    let streams = |program: &str, options: &[&str]| {
        [packed_by(program, options, &text.as_bytes()[..whole]), packed_by(program, options, text.as_bytes())]
    };
    for [first, second] in [streams("bzip2", &["-1"]), streams("xz", &["-1"])] {
        for cut in [second.len() - 1, second.len() / 2, 40] {
            fs::write(&path, [&first[..], &second[..cut]].concat()).unwrap();
            let (_, read) = search(&Search::new(vec![path.clone()]), "| group n = count()").unwrap();
            assert!(read.rows > 1_000 && read.notes.len() == 1, "{cut}: {read:?}");
            assert!(read.notes[0].contains("cut.ndjson ends early"), "{cut}: {read:?}");
        }
        fs::write(&path, [&first[..], b"no stream"].concat()).unwrap();
        let (_, read) = search(&Search::new(vec![path.clone()]), "| group n = count()").unwrap();
        assert!(read.rows > 1_000 && read.notes[0].contains("could not be read to its end"), "{read:?}");
    }
    fs::write(&path, packed_by("xz", &["--lzma2=preset=0,dict=128MiB"], text.as_bytes())).unwrap();
    let (_, read) = search(&Search::new(vec![path.clone()]), "| group n = count()").unwrap();
    assert!(read.rows == 5_000 && read.notes.is_empty(), "{read:?}");
    fs::write(&path, packed_by("xz", &["--lzma2=preset=0,dict=129MiB"], text.as_bytes())).unwrap();
    let (_, read) = search(&Search::new(vec![path]), "| group n = count()").unwrap();
    assert!(read.rows == 0 && read.notes[0].contains("too much memory; decompress it first"), "{read:?}");
}

#[test]
fn nothing_is_lost_in_a_conversion() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events-1000000000000.ndjson");
    let lines: [&[u8]; 8] = [
        br#"{"event.time":1000000000005,"event.id":"b","dst.port.number":443}"#,
        br#"{"event.time":1000000000002,"event.id":"a","dst.port.number":"many","new":{"deep":1}}"#,
        b"{\"event.time\":1000000000003,\"ev\xff",
        b"",
        br#"{"event.id":"no time"}"#,
        br#"{"event.time":1000000000005,"event.id":"c","event.id":"d"}"#,
        br#"{"event.time":1000000000001,"event.id":"e","new":"text"}"#,
        br#"{"event.time":1000000000009,"event.id":"f","loss.count":18446744073709551615}"#,
    ];
    let mut text = lines.join(&b'\n');
    // The text after the last line feed is still being written.
    text.extend_from_slice(b"\n{\"event.id\":\"half");
    fs::write(&path, text).unwrap();
    let made = convert(&path).unwrap();
    assert_eq!((made.summary.rows, made.summary.unparsed), (8, 2));
    assert_eq!((made.summary.first, made.summary.last), (Some(1_000_000_000_001), Some(1_000_000_000_009)));
    assert_eq!(made.file.file_name().unwrap(), "events-1000000000000-1000000000009.parquet");
    assert_eq!(made.summary.bytes, fs::metadata(&made.file).unwrap().len());
    fs::remove_file(&path).unwrap();
    let found =
        rows(folder.path(), "| sort event.time, event.id | columns event.id, dst.port.number, new, line.original");
    let original = |line: usize| String::from_utf8_lossy(lines[line]).into_owned();
    assert_eq!(
        found,
        table(&[
            &["e", "null", "text", "null"],
            &["a", "null", r#"{"deep":1}"#, &original(1)],
            &["b", "443", "null", "null"],
            &["c", "null", "null", &original(5)],
            &["f", "null", "null", &original(7)],
            &["no time", "null", "null", "null"],
        ])
    );
    let broken = rows(folder.path(), "line.unparsed = * | columns line.unparsed | sort line.unparsed");
    assert_eq!(broken, table(&[&[""], &["{\"event.time\":1000000000003,\"ev\\xff"]]));
    let (_, read) = search(&Search::new(vec![folder.path().to_owned()]), "| group count()").unwrap();
    assert_eq!(read.bad_lines, 2);
}

#[test]
fn what_began_before_its_segment_is_found_by_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events-1000000000000.ndjson");
    // A daemon that starts tells of a connection that was there before, as of then.
    fs::write(
        &path,
        "{\"event.time\":1000000000007,\"event.id\":\"new\"}\n{\"event.time\":900000000000,\"event.id\":\"old\"}\n",
    )
    .unwrap();
    let found = |range| {
        let asked = Search { range: Some(range), ..Search::new(vec![folder.path().to_owned()]) };
        search(&asked, "| columns event.id").unwrap().0
    };
    for is_converted in [false, true] {
        if is_converted {
            let made = convert(&path).unwrap().file;
            assert_eq!(made.file_name().unwrap(), "events-1000000000000-1000000000007-0900000000000.parquet");
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(found(900_000_000_000..900_000_000_001), [["event.id"], ["old"]]);
        assert_eq!(found(1_000_000_000_000..1_000_000_000_008), [["event.id"], ["new"]]);
        assert_eq!(found(800_000_000_000..900_000_000_000), [["event.id"]]);
    }
}

#[test]
fn broken_lines_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.ndjson");
    let mut text = event_lines(&events(50)).into_bytes();
    text.extend_from_slice("{\"event.id\":\"\u{e4}".as_bytes());
    text.pop();
    fs::write(&path, &text).unwrap();
    let (found, read) = search(&Search::new(vec![path.clone()]), "| group n = count()").unwrap();
    assert_eq!((found[1][0].as_str(), read.rows, read.bad_lines), ("50", 50, 1));
    assert_eq!((read.files, read.files_all, read.bytes), (1, 1, text.len() as u64));

    // A file with a byte order mark, and a port that is not a number.
    let marked = folder.path().join("marked.ndjson");
    fs::write(&marked, "\u{feff}{\"event.id\":\"a\",\"dst.port.number\":\"abc\"}\n{\"event.id\":\"b\"}\n").unwrap();
    let query = "| sort event.id | columns event.id, dst.port.number";
    let (found, read) = search(&Search::new(vec![marked.clone()]), query).unwrap();
    assert_eq!((found.len(), read.bad_lines, read.wrong_values), (3, 0, 1), "{found:?}");
    let converted = convert(&marked).unwrap().file;
    fs::remove_file(&marked).unwrap();
    let (found, read) = search(&Search::new(vec![converted.clone()]), query).unwrap();
    assert_eq!((found.len(), read.bad_lines, read.wrong_values), (3, 0, 1), "{found:?}");
    fs::remove_file(&converted).unwrap();

    let packed = zstd::encode_all(event_lines(&events(5_000)).as_bytes(), 1).unwrap();
    fs::write(folder.path().join("cut.ndjson.zst"), &packed[..packed.len() / 2]).unwrap();
    let (_, read) = search(&Search::new(vec![folder.path().to_owned()]), "| group n = count()").unwrap();
    assert!(read.rows >= 50, "{read:?}");
    assert!(read.notes.iter().any(|note| note.contains("cut.ndjson.zst ends early")), "{read:?}");
}

#[test]
fn a_damaged_file_does_not_hide_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(&path("a.ndjson"), &events(50));
    let whole = fs::read(convert(&path("a.ndjson")).unwrap().file).unwrap();
    let (middle, end) = (whole.len() / 2, whole.len());
    let damaged: [(&str, Vec<u8>); 5] = [
        ("longer.parquet", b"PAR1garbage\xff\xff\xff\x7fPAR1".to_vec()),
        ("short.parquet", b"PAR1".to_vec()),
        ("garbage.parquet", b"PAR1garbage garbage\x10\0\0\0PAR1".to_vec()),
        ("cut.parquet", whole[..middle].to_vec()),
        ("hole.parquet", [&whole[..end - 200], &[0xff; 100], &whole[end - 100..]].concat()),
    ];
    for (name, bytes) in &damaged {
        fs::write(path(name), bytes).unwrap();
        let error = search(&Search::new(vec![path(name)]), "| group n = count()").unwrap_err();
        assert!(matches!(error, SearchError::Format { .. }), "{name}: {error}");
    }
    let all = Search::new(vec![folder.path().to_owned()]);
    let (found, read) = search(&all, "| group n = count()").unwrap();
    // The events count twice: in the NDJSON file and in the Parquet file made of it.
    assert_eq!(found[1][0], "100");
    for (name, _) in &damaged {
        let said = |note: &&String| note.contains(&format!("/{name} was not read: "));
        assert_eq!(read.notes.iter().filter(said).count(), 1, "{name}: {read:?}");
    }
}

#[test]
fn what_the_store_removes_meanwhile_is_still_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events-1790000000000.ndjson");
    write(&path, &events(500));
    let made = convert(&path).unwrap().file;
    fs::remove_file(&path).unwrap();
    let query = parse("| sort event.id | columns event.id").query.unwrap();
    let rows = runtime().unwrap().block_on(async {
        let mut answer = Search::new(vec![folder.path().to_owned()]).run(&query).await.unwrap();
        fs::remove_file(&made).unwrap();
        let mut rows = 0;
        while let Some(batch) = answer.batches.next().await {
            rows += batch.unwrap().num_rows();
        }
        rows
    });
    assert_eq!(rows, 500);
}

#[test]
fn only_the_time_asked_for_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let events = events(4_000);
    for (part, events) in events.chunks(1_000).enumerate() {
        let path = folder.path().join(format!("part{part}.ndjson"));
        write(&path, events);
        convert(&path).unwrap();
        fs::remove_file(&path).unwrap();
    }
    let time = |place: usize| events[place]["event.time"].as_i64().unwrap();
    let range = time(1_200)..time(1_300);
    let expected = events.iter().filter(|event| range.contains(&event["event.time"].as_i64().unwrap())).count();
    let narrow = Search { range: Some(range), ..Search::new(vec![folder.path().to_owned()]) };
    let (found, read) = search(&narrow, "| group n = count(), s = sum(dst.port.number)").unwrap();
    assert_eq!(found[1][0], expected.to_string());
    assert_eq!((read.files_pruned, read.files_all), (3, 1));
    let (_, whole) =
        search(&Search::new(vec![folder.path().to_owned()]), "| group n = count(), s = sum(dst.port.number)").unwrap();
    assert_eq!((read.rows <= 1_000, whole.rows), (true, 4_000), "{read:?}");
    assert!(read.bytes_all * 3 < whole.bytes_all, "{read:?} {whole:?}");
}

#[test]
fn losses_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ndjson");
    let loss = |time: i64, count: u64| {
        format!("{{\"event.type\":\"Data Loss\",\"event.time\":{time},\"loss.count\":{count}}}\n")
    };
    fs::write(&path, event_lines(&events(100)) + &loss(START + 5, 7) + &loss(START + 10_000_000_000, 9)).unwrap();
    let lost = |path: &Path, range| {
        let asked = Search { range, ..Search::new(vec![path.to_owned()]) };
        search(&asked, "event.type = 'nothing'").unwrap().1.lost
    };
    let soon = Some(START..START + 1_000_000_000);
    assert_eq!((lost(&path, None), lost(&path, soon.clone())), (16, 7));
    let parquet = convert(&path).unwrap().file;
    assert_eq!((lost(&parquet, None), lost(&parquet, soon)), (16, 7));
}

#[test]
fn memory_has_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ndjson");
    let events = events(60_000);
    write(&path, &events);
    let limited = |memory| Search { memory, ..Search::new(vec![path.clone()]) };
    // Sorting 40 MB of events spills to files.
    let (found, _) = search(&limited(16_000_000), "| sort event.id | columns event.id, src.process.cmdline").unwrap();
    let mut expected: Vec<&str> = events.iter().map(|event| event["event.id"].as_str().unwrap()).collect();
    expected.sort_unstable();
    assert!(found[1..].iter().map(|row| row[0].as_str()).eq(expected));

    let all = "| group a = array_agg(src.process.cmdline), b = array_agg(timestamp), c = array_agg(event.id)";
    let error = search(&limited(1_000_000), all).unwrap_err();
    assert!(matches!(error, SearchError::Memory { .. }), "{error}");
    assert!(error.to_string().contains("narrow the filter"), "{error}");
}

#[test]
fn what_is_beside_the_events_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ndjson");
    write(&path, &events(10));
    let lines = search(&Search::new(vec![path.clone()]), "| limit 1").unwrap().0;
    let parquet = search(&Search::new(vec![convert(&path).unwrap().file]), "| limit 1").unwrap().0;
    assert_eq!(lines, parquet);
    assert!(lines[0].contains(&"x.tag".to_owned()) && !lines[0].contains(&"line.original".to_owned()));
}

#[test]
fn a_search_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    write(&path, &events(10));
    for query in ["", "x.tag = 'red'", "| group count()"] {
        let parsed = parse(query).query.unwrap();
        let left = runtime().unwrap().block_on(async {
            let mut answer = Search::new(vec![path.clone()]).run(&parsed).await.unwrap();
            while answer.batches.next().await.is_some() {}
            Arc::downgrade(&answer.progress)
        });
        assert!(left.upgrade().is_none(), "{query}: its plan lives, and with it the runtime and its files");
    }
}

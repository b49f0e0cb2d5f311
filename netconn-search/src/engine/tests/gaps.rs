//! Tests that times without a daemon are found, wherever the events that tell of them are.

use std::{fs, ops::Range, path::Path, sync::Arc};

use futures::StreamExt;
use netconn_query::parser::parse;

use crate::engine::{
    Gap, Gaps, Recording, Search, convert,
    names::Names,
    runtime,
    session::session,
    source::{sensor::SENSOR_EVENTS_MAX, table::EventTable},
};

/// The first moment of the tests, epoch milliseconds.
const BEGIN: i64 = 1_795_255_200_000;

fn line(kind: &str, run: &str, number: u32, second: i64, more: &str) -> String {
    let time = BEGIN + second * 1000;
    format!(
        "{{\"event.type\":\"{kind}\",\"event.time\":{time},\"event.id\":\"{run}-{number}\",\"agent.uuid\":\"s\"{more}}}\n"
    )
}

/// A daemon that stops in order, one that is killed, and a third.
fn first() -> String {
    [
        line("Sensor Start", "aa", 1, 0, ",\"sensor.kernel\":\"6.1\""),
        line("IP Connect", "aa", 2, 10, ",\"src.process.name\":\"curl\""),
        line("Sensor Stop", "aa", 3, 20, ",\"sensor.events\":2"),
        line("Sensor Start", "bb", 1, 127, ",\"sensor.kernel\":\"6.1\""),
        line("IP Connect", "bb", 2, 150, ""),
    ]
    .concat()
}

fn second() -> String {
    [
        line("Sensor Start", "cc", 1, 300, ",\"sensor.kernel\":\"6.1\""),
        // It began when nobody saw it, and says nothing about when the second daemon was killed.
        line("IP Connect", "cc", 2, 250, ",\"event.network.preexisting\":true"),
        line("IP Connect", "cc", 3, 310, ",\"src.process.cmdline\":\"Sensor Start\""),
    ]
    .concat()
}

/// Returns the gaps beside the answer to a query, in seconds.
fn gaps(folder: &Path, query: &str, range: Option<Range<i64>>) -> Vec<(Option<i64>, Option<i64>, bool)> {
    let mut search = Search::new(vec![folder.to_owned()]);
    search.range = range.map(|range| BEGIN + range.start * 1000..BEGIN + range.end * 1000);
    let query = parse(query).query.unwrap();
    let gaps: Vec<Gap> = runtime().unwrap().block_on(async {
        let mut answer = search.run(&query).await.unwrap();
        while let Some(batch) = answer.batches.next().await {
            batch.unwrap();
        }
        let gaps = answer.recording.gaps().await.unwrap();
        assert_eq!(gaps.notes, Vec::<String>::new());
        gaps.gaps
    });
    let second = |ms: Option<i64>| ms.map(|ms| (ms - BEGIN) / 1000);
    gaps.iter().map(|gap| (second(gap.from), second(gap.to), gap.is_told)).collect()
}

#[test]
fn times_without_a_daemon_are_found() {
    let name = |second: i64| format!("events-{}.ndjson", BEGIN + second * 1000 - 10_000);
    let [stopped, killed] = [(Some(20), Some(127), true), (Some(150), Some(300), false)];
    // Both segments as lines, then the first as Parquet, then both.
    for converted in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        for (place, (begin, text)) in [(0, first()), (300, second())].into_iter().enumerate() {
            let path = folder.path().join(name(begin));
            fs::write(&path, text).unwrap();
            if place < converted {
                convert(&path).unwrap();
                fs::remove_file(path).unwrap();
            }
        }
        let gaps = |query: &str, range| gaps(folder.path(), query, range);
        for query in [
            "",
            "| limit 1",
            "| nolimit",
            "src.process.name = 'none'",
            "src.process.name = 'curl' and false",
            "| group count()",
            "src.process.name in (event.type = 'IP Connect' | columns src.process.name)",
        ] {
            assert_eq!(gaps(query, None), [stopped, killed], "{converted} {query}");
            assert_eq!(gaps(query, Some(0..1000)), [stopped, killed], "{converted} {query}");
        }
        for (range, expected) in [
            (0..20, vec![]),
            (0..21, vec![stopped]),
            (126..140, vec![stopped]),
            (127..150, vec![]),
            // The first file is left out by its name when it is Parquet.
            (290..400, vec![killed]),
            (200..250, vec![killed]),
            (301..400, vec![]),
        ] {
            assert_eq!(gaps("", Some(range.clone())), expected, "{converted} {range:?}");
        }
    }
}

/// A host that was shut down in the evening and booted in the morning: the file with the `Sensor Stop` is from before the range.
#[test]
fn an_end_in_a_file_before_the_range_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let parts = [
        (0, first().lines().take(2).map(|line| format!("{line}\n")).collect()),
        (20, line("IP Connect", "aa", 9, 25, "") + &line("Sensor Stop", "aa", 10, 30, ",\"sensor.events\":2")),
        (300, second()),
    ];
    for (begin, text) in parts {
        let path = folder.path().join(format!("events-{}.ndjson", BEGIN + begin * 1000 - 1000));
        fs::write(&path, text).unwrap();
        convert(&path).unwrap();
        fs::remove_file(path).unwrap();
    }
    let stopped = [(Some(30), Some(300), true)];
    for range in [240..400, 290..305, 301..400] {
        // At the third one the daemon was running all the time.
        let expected = if range.start < 300 { &stopped[..] } else { &[] };
        assert_eq!(gaps(folder.path(), "", Some(range.clone())), expected, "{range:?}");
    }
}

/// The last events of killed daemons are found where lines and Parquet files lie side by side.
#[test]
fn many_killed_daemons_are_found_in_lines_and_parquet() {
    let folder = tempfile::tempdir().unwrap();
    let run = |run: i64| {
        let name = format!("{run:02x}");
        let start = line("Sensor Start", &name, 1, run * 100, ",\"sensor.kernel\":\"6.1\"");
        start + &line("IP Connect", &name, 2, run * 100 + 10, "")
    };
    fs::write(folder.path().join("lines.ndjson"), (4..8).map(run).collect::<String>()).unwrap();
    let segment = folder.path().join(format!("events-{}.ndjson", BEGIN - 1000));
    fs::write(&segment, (0..4).map(run).collect::<String>()).unwrap();
    convert(&segment).unwrap();
    fs::remove_file(segment).unwrap();
    let expected: Vec<_> = (0..7).map(|run| (Some(run * 100 + 10), Some(run * 100 + 100), false)).collect();
    assert_eq!(gaps(folder.path(), "", None), expected);
}

/// Returns what is known of a named file of which the search has read nothing.
fn unread(path: &Path) -> Gaps {
    runtime().unwrap().block_on(async {
        let table = EventTable::open(&[path.to_owned()], None, &Names::default()).await.unwrap();
        let state = Arc::new(session(1 << 30).unwrap());
        Recording::new(Arc::new(table), state, None, true).gaps().await.unwrap()
    })
}

#[test]
fn gaps_of_lines_that_were_not_read_are_found_or_said_not_to_be_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("named.ndjson");
    fs::write(&path, first() + &second()).unwrap();
    let Gaps { gaps, notes } = unread(&path);
    assert_eq!((gaps.len(), notes), (2, Vec::new()));
    // A line that is no event makes the file too large to be read again.
    fs::write(&path, first() + &second() + &" ".repeat(17 * 1024 * 1024)).unwrap();
    let Gaps { gaps, notes } = unread(&path);
    assert!(
        gaps.is_empty() && notes[0].starts_with("the named files were not read to their ends"),
        "{gaps:?} {notes:?}"
    );
}

#[test]
fn of_many_gaps_the_latest_are_returned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("named.ndjson");
    let pair = |run: i64| {
        let name = format!("{run:04x}");
        line("Sensor Start", &name, 1, run * 10, "") + &line("Sensor Stop", &name, 2, run * 10 + 5, "")
    };
    fs::write(&path, (0..1_003).map(pair).collect::<String>()).unwrap();
    let Gaps { gaps, notes } = unread(&path);
    // The last stop begins a gap as well.
    assert_eq!((gaps.len(), gaps.last().and_then(|gap| gap.from)), (1_000, Some(BEGIN + 10_025_000)));
    assert_eq!(notes, ["before these 1000 times in which nothing was recorded there were 3 more"]);
}

#[test]
fn of_parquet_files_that_consist_of_starts_not_all_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("events-{BEGIN}.ndjson"));
    let count = i64::try_from(3 * SENSOR_EVENTS_MAX).unwrap();
    let text: String = (0..count).map(|second| line("Sensor Stop", "aa", 1, second, ",\"sensor.events\":2")).collect();
    fs::write(&path, text).unwrap();
    convert(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let gaps = unread(folder.path());
    let expected = format!("more than {SENSOR_EVENTS_MAX} starts and ends of daemons: it is not known");
    assert!(gaps.notes.iter().any(|note| note.contains(&expected)), "{gaps:?}");
}

#[test]
fn a_stop_without_a_start_has_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("events-{}.ndjson", BEGIN - 10_000));
    fs::write(&path, first().lines().take(3).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let open = [(Some(20), None, true)];
    assert_eq!(gaps(folder.path(), "", Some(0..1000)), open);
    // Tables have nothing to do with it.
    let tables = tempfile::tempdir().unwrap();
    fs::write(tables.path().join("t.csv"), "a\n1\n").unwrap();
    let mut search = Search::new(vec![folder.path().to_owned()]);
    search.tables = Some(tables.path().to_owned());
    let query = parse("| dataset 't'").query.unwrap();
    runtime().unwrap().block_on(async {
        let answer = search.run(&query).await.unwrap();
        let rows: usize = answer.batches.map(|batch| batch.unwrap().num_rows()).collect::<Vec<_>>().await.iter().sum();
        assert_eq!(rows, 1);
        // Nor is anything read for it.
        assert_eq!(answer.progress.snapshot().rows, 0);
        assert_eq!(answer.recording.gaps().await.unwrap().gaps, []);
    });
    // An event file of several hosts: one of them never stops.
    let path = folder.path().join("others.ndjson");
    let other = line("Sensor Start", "dd", 1, 60, "").replace("\"s\"", "\"t\"");
    fs::write(&path, other).unwrap();
    assert_eq!(gaps(folder.path(), "", Some(0..1000)), open);
}

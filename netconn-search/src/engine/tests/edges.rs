//! Tests edge cases: booleans as keys, units of time, the largest numbers, missing keys, implicit orders.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use datafusion::{
    arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray},
    parquet::arrow::ArrowWriter,
};

use crate::engine::{
    Search,
    tests::{rows, search, table},
};

/// 14 November 2023, 22:13:20 UTC, in milliseconds.
const START: i64 = 1_700_000_000_000;

/// Writes four events, one minute apart.
fn four() -> (tempfile::TempDir, PathBuf) {
    let lines = [
        r#"{"event.id":"a","event.time":1700000000000,"timestamp":"2023-11-14T22:13:20.000000000Z","n":1,"src.process.name":"x","text":"true","pattern":"t%e"}"#,
        r#"{"event.id":"b","event.time":1700000060000,"timestamp":"2023-11-14T22:14:20.000000000Z","n":2,"src.process.name":"x","text":"10.0.0.0/8","pattern":"t%e"}"#,
        r#"{"event.id":"c","event.time":1700000120000,"timestamp":"2023-11-14T22:15:20.000000500Z","n":3,"text":"10.1.2.3","pattern":"10.%"}"#,
        r#"{"event.id":"d","event.time":1700000180000,"timestamp":"2023-11-14T22:16:20.000000000Z","n":4,"src.process.name":"y","text":"z"}"#,
    ];
    written("four.ndjson", &lines.join("\n"))
}

fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[track_caller]
fn gives(query: &str, expected: &[&[&str]]) {
    let (_folder, path) = four();
    assert_eq!(rows(&path, query), table(expected), "{query}");
}

#[track_caller]
fn keeps(filter: &str, expected: &str) {
    let (_folder, path) = four();
    let found = rows(&path, &format!("{filter} | sort event.id | columns event.id")).concat().concat();
    assert_eq!(found, expected, "{filter}");
}

/// Runs a query over the last two of the four events; the first two are the time before the range.
fn later(query: &str) -> Result<super::Table, String> {
    let (_folder, path) = four();
    let asked = Search { range: Some(START + 120_000..START + 240_000), ..Search::new(vec![path]) };
    search(&asked, query).map(|(found, _)| found).map_err(|error| error.to_string())
}

#[test]
fn truth_values_are_keys_and_values() {
    let halves: &[&[&str]] = &[&["false", "2"], &["true", "2"]];
    gives("| let a = n > 2 | group count() by a", halves);
    gives("| group count() by a = n > 2", halves);
    gives("| columns n, a = n > 2 | top 2 count() by a", halves);
    gives("| let a = n > 2 | group any_true(a), all_true(a)", &[&["true", "false"]]);
    gives("| group min(n > 2), max(n > 2)", &[&["false", "true"]]);
    gives("| sort n | columns n, a = n > 2 | dedup a | sort n", &[&["1", "false"], &["3", "true"]]);
    gives("| columns a = not n > 2 | dedup | sort a", &[&["false"], &["true"]]);
    keeps("text in (| columns text = (n > 3))", "a");
}

#[test]
fn milliseconds_and_moments() {
    keeps("event.time >= '2023-11-14T22:15:20Z'", "cd");
    keeps("event.time >= '2023-11-14T22:15:19.999999999Z'", "cd");
    keeps("event.time <= '2023-11-14T22:15:20.000000001Z'", "abc");
    keeps("event.time < '2023-11-14T22:15:20.000000001Z'", "abc");
    keeps("'2023-11-14T22:15:20.000000001Z' <= event.time", "d");
    keeps("event.time = '2023-11-14T22:15:20Z'", "c");
    keeps("event.time = '2023-11-14T22:15:20.0000005Z'", "");
    keeps("event.time != '2023-11-14T22:15:20Z'", "abd");
    keeps("event.time in ('2023-11-14T22:15:20Z', 1700000000000)", "ac");
    keeps("event.time >= strptime('2023-11-14 22:15', '%Y-%m-%d %H:%M')", "cd");
    keeps("event.time = timestamp", "abd");
    keeps("timestamp > event.time", "c");
    keeps("now() > event.time", "abcd");
    // A day means its beginning.
    keeps("event.time >= '2023-11-14'", "abcd");
    keeps("event.time < '2023-11-15' and timestamp >= '2023-11-14'", "abcd");
    keeps("event.time >= '2023-11-15'", "");
    // A time without a zone is in UTC.
    keeps("event.time >= '2023-11-14 22:15:20'", "cd");
    keeps("timestamp >= '2023-11-14 22:15'", "cd");
    keeps("timestamp > '2023-11-14T22:15:20' and event.time < '2023-11-14T22:16:20.5'", "cd");
    let found = later("event.time > querystart() | columns event.id").unwrap();
    assert_eq!(found[1..], table(&[&["d"]]));
    let found = later("timestamp > querystart() | columns event.id | sort event.id").unwrap();
    assert_eq!(found[1..], table(&[&["c"], &["d"]]));
}

#[test]
fn whole_numbers_do_not_wrap() {
    let (_folder, path) = written(
        "large.ndjson",
        "{\"event.id\":\"a\",\"n\":9000000000000000000}\n{\"event.id\":\"b\",\"n\":9000000000000000000}\n",
    );
    let query = "| let p = n * 2 | columns large = p > 9000000000000000000 | dedup";
    assert_eq!(rows(&path, query), table(&[&["true"]]));
    assert_eq!(rows(&path, "| group large = sum(n * 1.0) > 17e18"), table(&[&["true"]]));
    for query in [
        "| group s = sum(n)",
        "| columns s = n + n",
        "| columns s = -n - n",
        "| columns s = running_sum(n)",
        "| columns s = overall_sum(n)",
    ] {
        let found = search(&Search::new(vec![path.clone()]), query);
        assert!(found.is_err_and(|error| error.to_string().contains("2^63")), "{query}");
    }
    gives("| group s = sum(n), t = sum(n) + 1 - 2", &[&["10", "9"]]);
    gives("| sort n | columns s = running_sum(n), t = overall_sum(n) | limit 2", &[&["1", "10"], &["3", "10"]]);
}

#[test]
fn whole_numbers_as_floats() {
    let (_folder, path) = four();
    let parquet = path.with_file_name("floats.parquet");
    let floats = |values: Vec<Option<f64>>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
    let kinds: ArrayRef = Arc::new(StringArray::from(vec!["IP Connect", "Data Loss"]));
    let batch = RecordBatch::try_from_iter([
        ("event.time", Arc::new(datafusion::arrow::array::Int64Array::from(vec![START, START])) as ArrayRef),
        ("event.type", kinds),
        ("dst.port.number", floats(vec![Some(443.0), None])),
        ("loss.count", floats(vec![None, Some(7.0)])),
    ])
    .unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&parquet).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let more = path.with_file_name("more.ndjson");
    std::fs::write(&more, "{\"dst.port.number\":443}\n{\"dst.port.number\":80}\n{\"dst.port.number\":8080}\n").unwrap();
    let asked = Search::new(vec![parquet, more]);
    let query = "dst.port.number = * | group n = count() by dst.port.number | sort -dst.port.number";
    let (found, read) = search(&asked, query).unwrap();
    assert_eq!(found[1..], table(&[&["8080", "1"], &["443", "2"], &["80", "1"]]));
    assert_eq!(read.lost, 7);
}

#[test]
fn another_time_without_keys_and_with_missing_ones() {
    let found = later("| group s = sum(n) | compare before = timeshift('-2m')").unwrap();
    assert_eq!(found, table(&[&["s", "before"], &["7", "3"]]));
    let found = later("| group s = sum(n) | compare before = timeshift('-1h')").unwrap();
    assert_eq!(found[1..], table(&[&["7", "null"]]));
    let found = later("| group s = sum(n) by missing.name | compare before = timeshift('-2m')").unwrap();
    assert_eq!(found[1..], table(&[&["null", "7", "3"]]));
    let found =
        later("n in (| group n = sum(n) - 3 | compare b = timeshift('-2m') | columns n = b) | columns event.id");
    assert_eq!(found.unwrap()[1..], table(&[]));
    let found = later("n in (| group m = sum(n) | compare b = timeshift('-2m') | columns n = b) | columns event.id");
    assert_eq!(found.unwrap()[1..], table(&[&["c"]]));
    let error = later("| group s = sum(n) by n | columns s | compare b = timeshift('-2m')").unwrap_err();
    assert!(error.contains("keep the keys"), "{error}");
    let error = later("| group s = sum(n) by n | compare n = timeshift('-2m')").unwrap_err();
    assert!(error.contains("another name"), "{error}");
}

#[test]
fn another_time_reads_the_files_of_that_time() {
    let folder = tempfile::tempdir().unwrap();
    for (start, id) in [(START, "a"), (START + 7_200_000, "b")] {
        let name = folder.path().join(format!("events-{start}.ndjson"));
        let line = format!("{{\"event.id\":\"{id}\",\"event.time\":{start},\"n\":2}}\n");
        std::fs::write(&name, line).unwrap();
        crate::engine::convert(&name).unwrap();
        std::fs::remove_file(&name).unwrap();
    }
    let range = START + 7_200_000..START + 7_300_000;
    let asked = Search { range: Some(range), ..Search::new(vec![folder.path().to_owned()]) };
    let query = "n in (| group m = sum(n) | compare n = timeshift('-2h') | columns n) | columns event.id";
    assert_eq!(search(&asked, query).unwrap().0[1..], table(&[&["b"]]));
}

#[test]
fn groups_without_a_key_belong_together() {
    gives(
        "| join a = (n < 4 | group x = sum(n) by src.process.name), b = (n > 1 | group y = sum(n) by src.process.name) on src.process.name | sort x",
        &[&["x", "3", "2"], &["null", "3", "3"]],
    );
    gives(
        "| sql inner join a = (| columns src.process.name, n), b = (| columns src.process.name, m = n) on src.process.name | group count()",
        &[&["5"]],
    );
}

#[test]
fn rows_follow_each_other_by_time() {
    gives("| columns n, timestamp | group first(n), last(n)", &[&["1", "4"]]);
    gives("| columns n | group a = array_agg(n)", &[&["[1, 2, 3, 4]"]]);
    gives("| columns n | let s = running_sum(n) | sort n | limit 2", &[&["1", "1"], &["2", "3"]]);
    gives("| columns n, src.process.name | dedup src.process.name | sort n | columns n", &[&["1"], &["3"], &["4"]]);
    gives("| columns n | limit 2", &[&["4"], &["3"]]);
    gives("| sort -n | columns n | group first(n)", &[&["4"]]);
    gives("| group s = 1 by n | sort s | columns n | limit 3", &[&["1"], &["2"], &["3"]]);
}

#[test]
fn patterns_and_sets_of_texts() {
    keeps("text like pattern", "ac");
    keeps("text in ('10.0.0.0/8')", "bc");
    keeps("text = (n = 1)", "a");
    keeps("text = true", "a");
    keeps("text != true", "bcd");
}

#[test]
fn columns_keep_their_names() {
    gives(
        "| group c = count() by event.id, kind = n < 3 ? 'event.id' : 'other' | transpose kind on event.id | limit 1",
        &[&["a", "1", "null"]],
    );
    gives(
        "| join a = (n = 1 | columns event.id, n), b = (n = 1 | columns event.id, m = n) on event.id | let n = 5 | columns a.n, n",
        &[&["1", "5"]],
    );
}

#[test]
fn conditions_are_counted() {
    gives(
        "| sort n | columns c = running_count(n > 2), d = overall_count(n > 2) | limit 3",
        &[&["0", "2"], &["0", "2"], &["1", "2"]],
    );
}

#[test]
fn the_first_moment_has_no_bucket() {
    let (_folder, path) = written("old.ndjson", "{\"n\":-9223372036854775808}\n");
    assert_eq!(rows(Path::new(&path), "| columns t = timebucket(n, '1w')"), table(&[&["null"]]));
}

#[test]
fn a_rare_field_has_its_type() {
    let filler = format!("{{\"event.id\":\"{}\"}}\n", "x".repeat(64 * 1024));
    let rare = "{\"event.id\":\"a\",\"rare.n\":9}\n{\"event.id\":\"b\",\"rare.n\":10}\n";
    let text = filler.repeat(80) + rare + &filler.repeat(20);
    let (_folder, path) = written("rare.ndjson", &text);
    assert_eq!(rows(&path, "| group m = max(rare.n)"), table(&[&["10"]]));
    assert_eq!(rows(&path, "rare.n = * | sort -rare.n | columns event.id"), table(&[&["b"], &["a"]]));
    let packed = path.with_file_name("rare.ndjson.zst");
    std::fs::write(&packed, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
    assert_eq!(rows(&packed, "| group m = max(rare.n)"), table(&[&["10"]]));
}

#[test]
fn cells_keep_their_form() {
    let (folder, path) = written("a.ndjson", "{\"event.id\":\"1.10\"}\n");
    let csv = "version,id,price,port\n1.1,12345678901234567890,9.50,80\n1.10,12345678901234567891,10.25,443\n";
    std::fs::write(folder.path().join("t.csv"), csv).unwrap();
    let asked = Search { tables: Some(folder.path().to_owned()), ..Search::new(vec![path]) };
    let found = |query: &str| search(&asked, query).unwrap().0.split_off(1);
    let first: &[&str] = &["1.1", "12345678901234567890", "9.5", "80"];
    let second: &[&str] = &["1.10", "12345678901234567891", "10.25", "443"];
    assert_eq!(found("| dataset 't' | sort price"), table(&[first, second]));
    assert_eq!(found("| lookup port from t by version = event.id | columns port"), table(&[&["443"]]));
}

#[test]
fn a_limit_leaves_the_other_rows_to_be_looked_at() {
    let first: &[&[&str]] = &[&["1", "1", "10"], &["2", "3", "10"]];
    gives("| sort n | columns n, s = running_sum(n) + 0, t = overall_sum(n) | limit 2", first);
    gives(
        "| sort n | let s = running_sum(n), t = overall_sum(n) | filter s > 2 | columns n, s | limit 1",
        &[&["2", "3"]],
    );
    let (_folder, path) = four();
    let more = path.with_file_name("more.ndjson");
    std::fs::write(&more, "{\"n\":5}\n{\"n\":0}\n").unwrap();
    let query = "| sort n | columns n, s = running_sum(n) * 2, t = overall_sum(n), p = running_percent(n) | limit 2";
    let found = search(&Search::new(vec![path, more]), query).unwrap().0;
    assert_eq!(found[1..], table(&[&["0", "0", "15", "0"], &["1", "2", "15", "6.666666666666667"]]));
}

/// An expression applied twice to a column of the same name takes effect twice.
#[test]
fn columns_out_of_columns_of_their_name() {
    gives(
        "| sort n | let n = n > 2 ? n * 2 : n + 1 | let n = n > 2 ? n * 2 : n + 1 | columns n",
        &[&["3"], &["6"], &["12"], &["16"]],
    );
    gives(
        "| sort n | let m = n | let m = m > 2 ? m * 2 : m + 1 | let m = m > 2 ? m * 2 : m + 1 | let m = m > 2 ? m * 2 : m + 1 | columns m",
        &[&["6"], &["12"], &["24"], &["32"]],
    );
    let swapped = "| columns n, x = event.id | columns n = x, x = n".to_owned() + " | columns n = x, x = n";
    gives(&format!("{swapped} | sort n | limit 1"), &[&["1", "a"]]);
    gives(&format!("{swapped} | columns n = x, x = n | sort n | limit 1"), &[&["a", "1"]]);
    let longer = "event.id = 'a' | let t = text | let t = t + t | let t = t + t | let t = t + t | columns len(t)";
    gives(longer, &[&["32"]]);
    gives("| columns n | columns n = n * n + n | columns n = n * n + n | sort n | limit 1", &[&["6"]]);
}

/// Sides of a union may have columns that are constant, missing or equal to others.
#[test]
fn a_union_is_sorted_by_columns_that_sides_do_not_have() {
    gives(
        "n < 3 | columns n, event.id | union (n < 3 | columns n, event.id, b = n) | sort n, b, event.id | let c = running_sum(1) | columns n, b, c",
        &[&["1", "1", "1"], &["1", "null", "2"], &["2", "2", "3"], &["2", "null", "4"]],
    );
    gives(
        "| columns n, a = 1 | union (| columns n, b = 2), (| columns a = n, n, b = n) | sort -n, a, b | limit 4 | columns n, a, b",
        &[&["4", "1", "null"], &["4", "4", "4"], &["4", "null", "2"], &["3", "1", "null"]],
    );
}

/// A group without keys has one row, for which a condition on a missing column is not true.
#[test]
fn a_group_without_keys_in_a_union_is_filtered() {
    let some = "'a', 'b', 'c', 'd', 'e', 'f'";
    for condition in [format!("event.id in ({some})"), "event.id in (event.id != '' | columns event.id)".to_owned()] {
        gives(
            &format!(
                "| columns event.id | union (| group o = count()) | filter {condition} | sort event.id | columns event.id, o"
            ),
            &[&["a", "null"], &["b", "null"], &["c", "null"], &["d", "null"]],
        );
    }
    gives("| group o = count() | let e = null | filter e in (1, 2, 3, 4, 5) | columns o", &[]);
    gives("| group o = count() | let e = null | filter not (e in (1, 2, 3, 4, 5)) | columns o", &[&["4"]]);
}

/// A running count follows the order at its place; a later sort does not change its values.
#[test]
fn rows_that_are_equal_keep_the_order_in_which_they_were_counted() {
    let lines: Vec<String> = (0..3_000_i64)
        .map(|n| format!(r#"{{"event.id":"{n}","event.time":{},"k":{},"j":{}}}"#, START + n, n % 2, n % 3))
        .collect();
    let (_folder, path) = written("many.ndjson", &lines.join("\n"));
    let query = "| sort k | let s = running_count(), t = running_sum(1) | sort -j | columns j, s, t | nolimit";
    let found: Vec<Vec<i64>> =
        rows(&path, query).iter().map(|row| row.iter().map(|cell| cell.parse().unwrap()).collect()).collect();
    assert_eq!(found.len(), 3_000);
    assert!(found.is_sorted_by_key(|row| (-row[0], row[1])), "{found:?}");
    assert!(found.iter().all(|row| row[1] == row[2]));
}

/// A computed key may have the name of a key of the group before; the keys after it are keys as well.
#[test]
fn keys_by_the_name_of_a_key() {
    let lines: Vec<String> = ["five5", "four", "nine99999", "two", "a", "ten0", "oh", "sixsix"]
        .iter()
        .map(|word| format!(r#"{{"event.id":"{word}","event.time":{START},"word":"{word}"}}"#))
        .collect();
    let (_folder, path) = written("words.ndjson", &lines.join("\n"));
    let query = "| group m = count(word = 'none') by a = word | group n = count() by a = m, c = len(a)";
    let rows_by_length = [
        ["0", "1", "1"],
        ["0", "2", "1"],
        ["0", "3", "1"],
        ["0", "4", "2"],
        ["0", "5", "1"],
        ["0", "6", "1"],
        ["0", "9", "1"],
    ];
    assert_eq!(rows(&path, query), rows_by_length);
}

/// With more than one partition, DataFusion rejects its own plan for this.
#[test]
fn a_side_of_a_join_that_is_a_group_by_a_constant() {
    let names =
        "| top 5 n = count() by src.process.name | let c = overall_max(n) | limit 3 | columns n, src.process.name, c";
    let query = format!("| join (src.process.name = 'x' | group n = count() by b = 3), ({names}) on n | nolimit");
    gives(&query, &[&["3", "2", "x", "2"]]);
}

/// A column that is constant on the other side of a join is null in rows without a match.
#[test]
fn a_constant_of_a_side_of_a_join() {
    for join in ["left join", "sql left join", "sql outer join"] {
        let joined = format!("| {join} (| columns n), (n > 1 | sort n | limit 2 | columns n, known = 5) on n");
        gives(
            &format!("{joined} | sort known, n | limit 3 | columns n, known"),
            &[&["2", "5"], &["3", "5"], &["1", "null"]],
        );
        gives(
            &format!("{joined} | sort known, -n | columns n, known"),
            &[&["3", "5"], &["2", "5"], &["4", "null"], &["1", "null"]],
        );
        gives(&format!("{joined} | group c = count() by known"), &[&["5", "2"], &["null", "2"]]);
        gives(&format!("{joined} | sort -n | dedup known | columns n, known"), &[&["4", "null"], &["3", "5"]]);
    }
}

/// Rows that a join has multiplied are counted each, and `dedup` keeps the order of the rest.
#[test]
fn orders_that_queries_cannot_name() {
    let lines: Vec<String> = (0..400_i64)
        .map(|n| format!(r#"{{"event.id":"{n}","event.time":{},"k":{},"n":{n}}}"#, START + n, n % 4))
        .collect();
    let (_folder, path) = written("many.ndjson", &lines.join("\n"));
    let found = |query: &str| -> Vec<Vec<i64>> {
        rows(&path, query).iter().map(|row| row.iter().map(|cell| cell.parse().unwrap()).collect()).collect()
    };
    let joined =
        "| sql join a = (| columns k, n | sort k, n | let s = running_count()), b = (n < 40 | columns k, m = n) on k";
    let joined = found(&format!("{joined} | let t = running_count() | sort -k | columns k, s, t | nolimit"));
    assert_eq!(joined.len(), 4_000);
    assert!(joined.is_sorted_by_key(|row| (-row[0], row[2])) && joined.is_sorted_by_key(|row| (-row[0], row[1])));
    // Of equal events the newest comes first, as without a sort.
    assert_eq!(found("| sort k | limit 3 | columns n"), [[396], [392], [388]]);
    assert_eq!(found("| columns k, n | sort k | limit 3 | columns n"), [[396], [392], [388]]);
    // Running counts over events still go by their time.
    assert_eq!(found("| sort -running_count() | limit 3 | columns n"), [[399], [398], [397]]);
    assert_eq!(found("| sort running_sum(n) | limit 3 | columns n"), [[0], [1], [2]]);
    for counted in ["", "| let s = running_count() | columns k", "| let s = overall_sum(k) | columns k, s"] {
        let left = found(&format!("| columns k | sort -k {counted} | dedup"));
        assert!(left.iter().map(|row| row[0]).eq([3, 2, 1, 0]), "{counted}: {left:?}");
    }
    assert_eq!(found("| top 2 c = count() by k = n % 3 | columns k | dedup"), [[0], [1]]);
    assert_eq!(found("| top 2 c = sum(n) by k | let r = running_count() | dedup | columns k, r"), [[3, 1], [2, 2]]);
}

/// Comparing whole events takes one step for each event, not one for each of its columns.
#[test]
fn whole_events_are_the_same_once() {
    let lines: Vec<String> = (0..3_000_i64)
        .map(|n| {
            let fields: Vec<String> = (0..90).map(|field| format!(r#""f{field}":"{}""#, n % 1_500 + field)).collect();
            format!(r#"{{"event.id":"{}","event.time":{START},{}}}"#, n % 1_500, fields.join(","))
        })
        .collect();
    let (_folder, path) = written("wide.ndjson", &lines.join("\n"));
    let query =
        "| sort event.id | let all = overall_sum(1) | sort -f0 | let s = running_count() | let s = 0 | dedup | nolimit";
    let limited = Search { memory: 300_000_000, ..Search::new(vec![path]) };
    assert_eq!(search(&limited, query).unwrap().0[1..].len(), 1_500);
}

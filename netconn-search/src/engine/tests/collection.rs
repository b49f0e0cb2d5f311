//! What queries of the official collection use beyond the rest: spellings, arrays, functions over rows within groups, totals.

use super::{rows, search, table};
use crate::engine::Search;

const EVENTS: &str = r#"{"event.id":"a","event.time":1790000000000,"event.type":"IP Connect","src.process.name":"curl","src.process.cmdline":"curl -A B a","dst.ip.address":"192.0.2.1","src.ip.address":"10.0.0.1","dst.port.number":443,"event.network.bytesSent":9007199254740993}
{"event.id":"b","event.time":1790000060000,"event.type":"IP Connect","src.process.name":"ssh","src.process.cmdline":"ssh -x","dst.ip.address":"192.0.2.2","src.ip.address":"10.0.0.2","dst.port.number":22,"event.network.bytesSent":9007199254740992}
{"event.id":"c","event.time":1790000120000,"event.type":"IP Close","src.process.name":"curl","dst.ip.address":"192.0.2.1","src.ip.address":"10.0.0.3","dst.port.number":443}
"#;

fn events() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    std::fs::write(&path, EVENTS).unwrap();
    (folder, path)
}

#[test]
fn arrays_are_taken_apart_and_put_together() {
    let (_folder, path) = events();
    let value = |expr: &str| rows(&path, &format!("event.id = 'a' | columns x = {expr}")).concat().concat();
    for (expr, expected) in [
        (
            "array_slice(array_split(src.process.cmdline, ' '), 0, len(array_split(src.process.cmdline, ' ')) - 1)",
            r#"["curl", "-A", "B"]"#,
        ),
        ("array_reduce(array_map(array(1, 2, 3), func(x) -> x * 2), 0, func(x,y) -> x+y)", "12"),
        ("array('a', 'b').reduce('', func(x, y) -> y + x)", "ba"),
        ("array(1, 2).reduce(dst.port.number, func(x, y) -> x - y)", "440"),
        ("array(1, 2).reduce(0.5, func(x, y) -> x + y)", "3.5"),
        ("array_from_json('[]').reduce(7, func(x, y) -> 0)", "7"),
        ("array(1, 2, 3).zip(array(10, 20), func(x, y) -> x + y + dst.port.number)", "[454, 465]"),
        ("array(3, 1, null, 2).sort_desc()", "[3, 2, 1, null]"),
        ("array(1, 2, 2, 3).intersect(array('2', 3))", "[2, 3]"),
        ("array(1, 2).set(-1, 9)", "[1, 9]"),
        ("array(1, 2).set(5, 9)", "[1, 2]"),
        ("array(3, 1, 2).max()", "3"),
        ("array('b', 'a').min()", "a"),
        ("array(3, 1, 2, 4).median()", "2.5"),
        ("array(3, 1).mean()", "2"),
        ("array(3, 1).sum()", "4"),
        ("array_from_json('[1, \"a\", {\"b\": 2}]')", r#"["1", "a", "{\"b\":2}"]"#),
        ("array_to_json(array('a', null))", r#"["a",null]"#),
        ("extract_matches(src.process.cmdline, '[a-b]')", r#"["A", "B", "a"]"#),
        ("extract_matches_matchcase(src.process.cmdline, '[a-b]')", r#"["a"]"#),
        ("replace(src.process.cmdline, 'a', '_')", "curl -_ B _"),
        ("replace_matchcase(src.process.cmdline, 'a', '_')", "curl -A B _"),
        ("split(src.process.cmdline, 'b').len()", "2"),
        ("split_matchcase(src.process.cmdline, 'b').len()", "1"),
        ("simpledateformat(event.time, 'yyyy-MM-dd HH:mm', 'GMT+8')", "2026-09-21 22:13"),
        ("pad_version('6.1.10')", "00006.00001.00010"),
        (
            "net_url_parts('https://me@www.example.org:8443/a?x#z').to_string('|')",
            "https|me@www.example.org:8443|www|example.org|org|8443|/a|x|z|me",
        ),
    ] {
        assert_eq!(value(expr), expected, "{expr}");
    }
    let elements = |query: &str| rows(&path, query);
    assert_eq!(
        elements("| sort event.id | let part = split(src.process.cmdline, ' ').expand() | columns event.id, part"),
        table(&[&["a", "curl"], &["a", "-A"], &["a", "B"], &["a", "a"], &["b", "ssh"], &["b", "-x"]])
    );
    assert_eq!(
        elements("| columns event.id, x = array(1, 2).expand() | limit 3"),
        table(&[&["c", "1"], &["c", "2"], &["b", "1"]])
    );
    assert_eq!(elements("| columns event.id, x = array_from_json('[]').expand()"), table(&[]));
    let error = search(&Search::new(vec![path.clone()]), "| let x = src.process.name | let y = mean(x)").unwrap_err();
    assert!(error.to_string().contains("mean takes an array"), "{error}");
}

#[test]
fn groups_have_functions_over_rows_and_columns_once() {
    let (_folder, path) = events();
    assert_eq!(
        rows(
            &path,
            "| group n = count(), share = percent_of_total(count()), all = overall_sum(count()), twice = 2 * overall_mean(sum(dst.port.number)), so_far = running_sum(count()) by src.process.name"
        ),
        table(&[
            &["curl", "2", "66.66666666666667", "3", "908", "2"],
            &["ssh", "1", "33.333333333333336", "3", "908", "3"]
        ])
    );
    assert_eq!(
        rows(&path, "| group count() by event.type, event.type"),
        table(&[&["IP Close", "1"], &["IP Connect", "2"]])
    );
    assert_eq!(rows(&path, "event.id = 'a' | columns event.id, event.id"), table(&[&["a"]]));
    assert_eq!(rows(&path, "event.id = 'a' | columns *, x = 1 | columns event.id, x"), table(&[&["a", "1"]]));
    assert_eq!(
        rows(
            &path,
            "| group n = count() by src.process.name, event.type | transpose event.type on src.process.name with_totals"
        ),
        table(&[&["curl", "1", "1", "2"], &["ssh", "null", "1", "1"]])
    );
}

#[test]
fn rows_before_and_behind_are_seen() {
    let (_folder, path) = events();
    assert_eq!(
        rows(
            &path,
            "| sort event.time | columns event.id, before = prev(event.id), then = next(event.id), same = prev(event.id by src.process.name), two = prev(dst.port.number, 2), n = running_count(by src.process.name)"
        ),
        table(&[
            &["a", "null", "b", "null", "null", "1"],
            &["b", "a", "c", "null", "null", "1"],
            &["c", "b", "null", "a", "443", "2"],
        ])
    );
    // A connection of a process within two minutes of the one before.
    let within =
        "| let gap = event.time - prev(event.time by src.process.name) | filter gap <= 120000 | columns event.id";
    assert_eq!(rows(&path, within), table(&[&["c"]]));
}

#[test]
fn times_without_a_width_and_of_the_whole_search() {
    let (_folder, path) = events();
    assert_eq!(rows(&path, "| group n = count() by t = timebucket() | group n = sum(n), t = count()").concat()[0], "3");
    assert_eq!(
        rows(&path, "| group n = count() by t = timebucket(queryspan())"),
        table(&[&["2026-09-21T14:13:20Z", "3"]])
    );
}

#[test]
fn places_without_a_database_are_missing() {
    let (_folder, path) = events();
    let query =
        netconn_query::parse("| columns a = geo_ip_city(dst.ip.address), b = geo_ip_country(src.ip.address) | limit 1");
    let answer = crate::engine::runtime()
        .unwrap()
        .block_on(async { Search::new(vec![path.clone()]).run(&query.query.unwrap()).await.unwrap() });
    assert_eq!(answer.warnings.len(), 1, "{:?}", answer.warnings);
    assert_eq!(rows(&path, "event.id = 'a' | columns geo_ip_city(dst.ip.address)"), table(&[&["null"]]));
}

#[test]
fn whole_numbers_keep_their_digits() {
    let (_folder, path) = events();
    let found = |filter: &str| rows(&path, &format!("{filter} | sort event.id | columns event.id")).concat().concat();
    assert_eq!(found("event.network.bytesSent = 9007199254740993"), "a");
    assert_eq!(found("event.network.bytesSent = 9007199254740992"), "b");
    assert_eq!(found("event.network.bytesSent in (9007199254740993, 1)"), "a");
    assert_eq!(found("event.network.bytesSent in (event.id = 'a' | columns event.network.bytesSent)"), "a");
    assert_eq!(rows(&path, "event.id = 'a' | columns x = 9007199254740993 - 1"), table(&[&["9007199254740992"]]));
}

#[test]
fn tables_are_found_by_any_of_several_columns() {
    let (folder, path) = events();
    let known = "ip,who\n10.0.0.2,lab\n192[.]0[.]2[.]1,web\n10.0.0.1,desk\n";
    std::fs::write(folder.path().join("known.csv"), known).unwrap();
    let search = Search { tables: Some(folder.path().to_owned()), ..Search::new(vec![path]) };
    let found = |query: &str| super::search(&search, query).unwrap().0.split_off(1).concat();
    let by = "ip =:anyof src.ip.address, ip =:anyof dst.ip.address";
    assert_eq!(
        found(&format!("| lookup who from known by {by} | sort event.id | columns who")),
        ["desk", "lab", "web"]
    );
    // The name of a table may have a dot.
    found("| group n = count() by event.type | savelookup 'a.b'");
    assert_eq!(found("| dataset 'a.b' | columns n"), ["1", "2"]);
    std::fs::write(folder.path().join("j.json"), "[{\"x\":1}]").unwrap();
    let error = super::search(&search, "| group n = count() | savelookup 'j'").unwrap_err();
    assert!(error.to_string().contains("is in JSON"), "{error}");
}

#[test]
fn many_sides_have_letters() {
    let (_folder, path) = events();
    let sides = vec!["(event.id = 'a' | columns event.type, event.id)"; 28].join(", ");
    let query = format!("| join {sides} on event.type | columns a.event.id, z.event.id, aa.event.id, ab.event.id");
    assert_eq!(rows(&path, &query), table(&[&["a", "a", "a", "a"]]));
}

#[test]
fn newest_goes_by_time_behind_dedup() {
    let (_folder, path) = events();
    let query =
        "| columns event.id, src.process.name, event.type | dedup | group last = newest(event.id) by src.process.name";
    assert_eq!(rows(&path, query), table(&[&["curl", "c"], &["ssh", "b"]]));
    // By the values of the columns the newest would be another one.
    let by_port = "| columns x = 0 - event.time, src.process.name | dedup | group x = newest(x)";
    assert_eq!(rows(&path, by_port), table(&[&["-1790000120000"]]));
}

//! Tests each rule of the language's description.

use std::path::PathBuf;

use crate::engine::{
    Search,
    tests::{rows, search, table},
};

/// Ten events, each with the values that some rules need.
fn few() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("few.ndjson");
    let lines = [
        r#"{"event.id":"a","event.time":1790000000000,"timestamp":"2026-09-21T14:13:20.000000000Z","event.type":"IP Connect","dst.ip.address":"10.0.0.9","dst.port.number":443,"src.process.name":"Curl","src.process.cmdline":"curl https://me@example.org:8443/a/b?x=1#z","event.network.bytesSent":100}"#,
        r#"{"event.id":"b","event.time":1790000060000,"timestamp":"2026-09-21T14:14:20.000000000Z","event.type":"IP Connect","dst.ip.address":"10.0.0.10","dst.port.number":80,"src.process.name":"curl","event.network.bytesSent":0}"#,
        r#"{"event.id":"c","event.time":1790000120000,"timestamp":"2026-09-21T14:15:20.000000000Z","event.type":"IP Close","dst.ip.address":"203.0.113.7","dst.port.number":22,"src.process.name":"sshd","src.process.cmdline":"sshd: 100% root_x","event.network.durationMs":1.5}"#,
        r#"{"event.id":"d","event.time":1790000180000,"timestamp":"2026-09-21T14:16:20.000000000Z","event.type":"IP Close","dst.ip.address":"2001:db8::1","dst.port.number":443,"src.process.name":"nc","event.network.preexisting":true,"event.network.durationMs":2.5}"#,
        r#"{"event.id":"e","event.time":1790000600000,"timestamp":"2026-09-21T14:23:20.000000000Z","event.type":"IP Listen","dst.port.number":8080,"src.process.name":"","event.network.preexisting":false,"x.list":"3,1,2,1"}"#,
    ];
    std::fs::write(&path, lines.join("\n")).unwrap();
    (folder, path)
}

/// Returns the ids of the events that a filter keeps.
fn kept(filter: &str) -> String {
    let (_folder, path) = few();
    rows(&path, &format!("{filter} | sort event.id | columns event.id")).concat().concat()
}

#[track_caller]
fn check(filter: &str, expected: &str) {
    assert_eq!(kept(filter), expected, "{filter}");
}

/// Checks a filter, and that its negation keeps all others.
#[track_caller]
fn both(filter: &str, expected: &str) {
    check(filter, expected);
    let others: String = "abcde".chars().filter(|id| !expected.contains(*id)).collect();
    check(&format!("not ({filter})"), &others);
}

#[track_caller]
fn value(expression: &str, expected: &str) {
    let (_folder, path) = few();
    let found = rows(&path, &format!("event.id = 'a' | columns v = {expression}"));
    assert_eq!(found, table(&[&[expected]]), "{expression}");
}

#[track_caller]
fn gives(query: &str, expected: &[&[&str]]) {
    let (_folder, path) = few();
    assert_eq!(rows(&path, query), table(expected), "{query}");
}

#[test]
fn equality() {
    both("dst.port.number = 443", "ad");
    both("dst.port.number = '443'", "ad");
    both("dst.port.number = '443.0'", "ad");
    both("dst.port.number = 443.5", "");
    both("dst.port.number = 'https'", "");
    both("dst.port.number != 443", "bce");
    both("src.process.name = 'curl'", "b");
    both("src.process.name =:anycase 'CURL'", "ab");
    both("src.process.name != 'curl'", "acde");
    both("dst.ip.address = null", "e");
    both("dst.ip.address != null", "abcd");
    both("dst.ip.address = *", "abcd");
    both("!(dst.ip.address = *)", "e");
    both("nowhere.to.be.found = 'x'", "");
    both("nowhere.to.be.found = null", "abcde");
    both("event.network.preexisting = true", "d");
    both("event.network.preexisting = 'true'", "d");
    both("event.network.preexisting", "d");
    both("event.network.durationMs = 1.5", "c");
    both("event.network.durationMs = '1.5'", "c");
    both("src.process.cmdline = event.network.durationMs", "be");
}

#[test]
fn order() {
    both("dst.port.number < 100", "bc");
    both("dst.port.number >= '443'", "ade");
    both("dst.port.number > 79.5 and dst.port.number <= 443", "abd");
    both("src.process.name > 'a'", "bcd");
    both("dst.ip.address < '10.0.0.10'", "a");
    both("dst.ip.address >= '10.0.0.10'", "bcd");
    both("'10.0.0.10' <= dst.ip.address", "bcd");
    both("event.network.durationMs > 2", "d");
    both("event.network.bytesSent < 'many'", "");
    both("timestamp >= '2026-09-21T14:16:20Z'", "de");
    both("timestamp < '2026-09-21T16:16:20.000000001+02:00'", "abcd");
    both("timestamp > 1790000120000000000", "de");
}

#[test]
fn logic() {
    both("dst.port.number = 443 src.process.name = 'nc'", "d");
    both("dst.port.number = 80 or dst.port.number = 22 && src.process.name = 'sshd'", "bc");
    both("(dst.port.number = 80 || dst.port.number = 22) and src.process.name = 'sshd'", "c");
    both("event.network.bytesSent or event.network.durationMs", "acd");
    both("not (src.process.cmdline contains 'x')", "bde");
    both("!(src.process.cmdline contains 'x') and not dst.port.number = 80", "de");
    value("event.network.bytesSent or 'none'", "100");
    value("event.network.durationMs or 'none'", "none");
    value("false or 0 or '' or 'end'", "end");
    value("0 or false or null or 'end' or 'later'", "end");
    value("event.network.preexisting or 0 or src.process.user or src.process.name", "Curl");
    value("false or (0 or null) or 0", "0");
    value("(dst.port.number > 0 ? false : 'a') ? 'T' : 'F'", "F");
    both("dst.port.number > 100 ? false : 'a'", "bc");
    value("true and false", "false");
    value("dst.port.number = 443 ? 'tls' : 'other'", "tls");
    value("null ? 1 : 2.5", "2.5");
}

#[test]
fn patterns() {
    both("src.process.name contains 'UR'", "ab");
    both("src.process.name contains:matchcase 'Cu'", "a");
    both("src.process.name contains ('CU', 'ss')", "abc");
    both("src.process.cmdline contains '100%'", "c");
    both("src.process.cmdline contains 'T_X'", "c");
    both("src.process.cmdline contains 'o%g'", "");
    both("src.process.name starts_with 'c'", "ab");
    both("src.process.name startswith:matchcase 'c'", "b");
    both("src.process.name ends_with 'D'", "c");
    both("src.process.name matches '^[cs].*[dl]$'", "abc");
    both("src.process.name matches:matchcase '^c'", "b");
    both("src.process.name matches ('^n', 'hd')", "cd");
    both(r"src.process.cmdline matches 'example\.org'", "a");
    both(r"src.process.cmdline matches '\d+%'", "c");
    both("src.process.name like 'c_r%'", "ab");
    both("dst.port.number contains '4'", "ad");
    both("src.process.cmdline contains src.process.name", "ac");
    check("* contains '8443'", "a");
    check("* contains '8080'", "e");
    check("* matches '^203\\.'", "c");
    check("'DB8'", "d");
    check("$'db8::\\d'", "d");
}

#[test]
fn sets() {
    both("dst.port.number in (22, '80', 'x')", "bc");
    both("src.process.name in ('curl', 'nc')", "bd");
    both("src.process.name in:anycase ('CURL', 'nc')", "abd");
    both("dst.port.number not in (22, 80)", "ade");
    both("dst.ip.address in ('10.0.0.0/29', '203.0.113.7')", "c");
    both("dst.ip.address in ('10.0.0.8/29', '2001:db8::/32')", "abd");
    both("dst.ip.address in (null, '10.0.0.9')", "ae");
    both("443 in (dst.port.number, 1)", "ad");
    both("dst.port.number in (event.type = 'IP Close' | columns dst.port.number)", "acd");
    both("src.process.name in (event.type = 'IP Close' | group count() by src.process.name)", "cd");
    both("dst.ip.address in (event.id = 'e' | columns dst.ip.address)", "e");
}

#[test]
fn arithmetic() {
    value("7 / 2", "3.5");
    value("7 % 4 + 2 * 3 - -1", "10");
    value("1 / 0", "null");
    value("5 % 0", "null");
    value("'a' + 1 + 2", "a12");
    value("1 + 2 + 'a'", "3a");
    value("dst.port.number + 0.5", "443.5");
    value("event.network.durationMs + 1", "null");
    value("max(timestamp, 0) - 1790000000000000000", "0");
}

#[test]
fn numbers_and_texts() {
    value("abs(-3)", "3");
    value("ceiling(1.2) + floor(-1.2)", "0");
    value("min(3, 1.5, 2)", "1.5");
    value("max(3, 1, 2)", "3");
    value("sqrt(16) + pow(2, 3) + log(1000) + ln(exp(1))", "16");
    value("log(8, 2)", "3");
    value("sqrt(-1)", "null");
    value("len(src.process.name)", "4");
    value("src.process.name.len()", "4");
    value("lower(src.process.name) + upper('x')", "curlX");
    value("trim('  x ') + ltrim('xxa', 'x') + rtrim('b  ')", "xab");
    value("substr('abcdef', 2, 3) + substr('abcdef', -1)", "cdef");
    value("isempty('') and isempty(null) and not isempty(' ') and isblank(' ')", "true");
    value("bool('no')", "false");
    value("string(1.0) + string(true)", "1true");
    value("number('1.50')", "1.5");
    value("number('x')", "null");
    value(r"replace('a1b22', '[0-9]+', '#')", "a#b#");
    value("format('%,d of %s (%.2f%%)', 1234567, 'x', 12.345)", "1,234,567 of x (12.35%)");
    value(r#"json_object_value('{"a":{"b":1},"c":"d"}', 'c')"#, "d");
}

#[test]
fn network() {
    value("net_ip(dst.ip.address) and net_ipv4(dst.ip.address) and not net_ipv6(dst.ip.address)", "true");
    value("net_ipsubnet(dst.ip.address, '10.0.0.0/8')", "true");
    value("net_url_scheme('https://a.example.org/x') + net_url_path('https://a.example.org/x')", "https/x");
    value(
        "net_url_subdomain('https://a.example.org/x') + net_url_domain('https://a.example.co.uk/x')",
        "aexample.co.uk",
    );
    value("net_url_port('https://u@h:8443') + net_url_userinfo('https://u@h:8443')", "8443u");
    both("net_private(dst.ip.address)", "ab");
    both("net_rfc1918(dst.ip.address)", "ab");
    both("net_ipv6(dst.ip.address)", "d");
}

#[test]
fn arrays() {
    value("array(1, 2, 3)", "[1, 2, 3]");
    value("array_get(array('a', 'b'), 1)", "b");
    value("array(1, 2).get(-1)", "2");
    value("array_to_string(array(1, 2), '-')", "1-2");
    value("split('3,1,2', ',').sort().slice(0, 2)", r#"["1", "2"]"#);
    value("array(1, 2, 1).distinct().len()", "2");
    value("array(1, 2).contains(2)", "true");
    value("array(1, 2).concat(array(3)).map(func(x) -> x * dst.port.number)", "[443, 886, 1329]");
    value("array_filter(array(1, 2, 3), func(x) -> x > 1)", "[2, 3]");
    value("array(1, 2, 3).filter(func(x) -> x > 5)", "[]");
    value("array('a', 'B').match_any(func(s) -> s contains 'b')", "true");
    value("array(1, 2).match_all(func(x) -> x > 1)", "false");
    value("extract_matches('a1b22c3', '[0-9]+', 2).len() + split('a1b22c', '[0-9]+').len()", "5");
    value("split('a b c', ' ', 2)", r#"["a", "b c"]"#);
    value("extract_matches('a1b22', '[0-9]+')", r#"["1", "22"]"#);
    gives(
        "x.list = * | columns a = split(x.list, ',').map(func(x) -> number(x) + len(event.id))",
        &[&["[4, 2, 3, 2]"]],
    );
}

#[test]
fn times() {
    value("timebucket('10m')", "2026-09-21T14:10:00Z");
    value("timebucket(timestamp, '1 hour')", "2026-09-21T14:00:00Z");
    value("strftime(timestamp, '%H:%M')", "14:13");
    value("strftime(event.time, '%Y')", "2026");
    value("strftime(event.time)", "2026-09-21T14:13:20Z");
    value("strftime(event.time, '%H:%M', 'Europe/Berlin')", "16:13");
    value("strptime('2026-09-21 13:33', '%Y-%m-%d %H:%M')", "2026-09-21T13:33:00Z");
    value("now() > timestamp", "true");
    gives(
        "| group n = count() by t = timebucket('10m') | sort t",
        &[&["2026-09-21T14:10:00Z", "4"], &["2026-09-21T14:20:00Z", "1"]],
    );
    let (_folder, path) = few();
    let range = 1_790_000_060_000..1_790_000_600_000;
    let asked = Search { range: Some(range), ..Search::new(vec![path]) };
    let query = "| group n = count(), span = any(queryspan('minutes')), start = any(querystart())";
    let (found, _) = search(&asked, query).unwrap();
    assert_eq!(found[1..], table(&[&["3", "9", "2026-09-21T14:14:20Z"]]));
    // Without a time range, from the first event to the last.
    let whole = Search { range: None, ..asked.clone() };
    let (found, read) = search(&whole, "| group n = count(), a = any(querystart()), b = any(queryend())").unwrap();
    let edges = table(&[&["5", "2026-09-21T14:13:20Z", "2026-09-21T14:23:20Z"]]);
    assert_eq!((&found[1..], read.rows), (&edges[..], 5));
    let (found, _) = search(&whole, "| group n = count() by t = timebucket(5) | sort t").unwrap();
    assert_eq!(found[1..].iter().map(|row| row[1].as_str()).collect::<Vec<_>>(), ["1", "2", "1", "1"]);
    let (found, _) = search(&asked, "| group n = count() by t = timebucket('auto')").unwrap();
    assert_eq!(found[1][0], "2026-09-21T14:14:20Z");
}

#[test]
fn aggregates() {
    gives(
        "| group count(), n = count(dst.port.number = 443), sum(dst.port.number), s = sum(event.network.preexisting), avg(dst.port.number)",
        &[&["5", "2", "9068", "1", "1813.6"]],
    );
    gives(
        "| group min(dst.port.number), max(src.process.name), median(dst.port.number), p50(event.network.durationMs), pct(75, dst.port.number), percentile(dst.port.number, 25)",
        &[&["22", "sshd", "443", "2", "443", "80"]],
    );
    gives("| group round = floor(stddev(dst.port.number))", &[&["3508"]]);
    gives(
        "| group e = estimate_distinct(dst.port.number), d = count_distinct(src.process.name), x = count_distinct(event.network.preexisting)",
        &[&["4", "5", "2"]],
    );
    gives(
        "| group a = array_agg(dst.port.number), b = array_agg(dst.port.number, 2), c = array_agg_distinct(dst.port.number), h = hacklist(event.type)",
        &[&["[443, 80, 22, 443, 8080]", "[443, 80]", "[22, 80, 443, 8080]", "IP Close, IP Connect, IP Listen"]],
    );
    gives(
        "| group any_true(dst.port.number = 22), all_true(dst.port.number > 22), any(dst.ip.address = null ? 1 : 1)",
        &[&["true", "false", "1"]],
    );
    gives(
        "| group first(event.id), last(event.id), newest(event.id), oldest(event.id), min_by(event.id, dst.port.number), max_by(event.id, event.network.durationMs)",
        &[&["a", "e", "e", "a", "c", "d"]],
    );
    gives(
        "| sort -event.id | group first(event.id), last(event.id), array_agg(event.id, 2)",
        &[&["e", "a", r#"["e", "d"]"#]],
    );
    gives("| group n = count() + 1, share = count(dst.port.number = 443) / count() * 100", &[&["6", "40"]]);
    gives("| group s = sum(dst.port.number where event.type = 'IP Close')", &[&["465"]]);
    gives("event.id = 'none' | group count(), sum(dst.port.number), hacklist(event.id)", &[&["0", "null", "null"]]);
}

#[test]
fn groups_are_sorted_by_their_keys() {
    gives(
        "| group n = count() by dst.ip.address, event.type | limit 3",
        &[&["10.0.0.10", "IP Connect", "1"], &["10.0.0.9", "IP Connect", "1"], &["2001:db8::1", "IP Close", "1"]],
    );
    gives("| group n = count() by p = event.network.preexisting", &[&["false", "1"], &["true", "1"], &["null", "3"]]);
    gives(
        "| group n = count() by event.type | sort -n, event.type | limit 2",
        &[&["IP Close", "2"], &["IP Connect", "2"]],
    );
    gives("| top 1 n = sum(dst.port.number) by event.type", &[&["IP Listen", "8080"]]);
}

#[test]
fn columns_and_order() {
    gives("| columns event.id, p = dst.port.number | sort -p, event.id | limit 2", &[&["e", "8080"], &["a", "443"]]);
    gives("| let p = dst.port.number * 2 | let p = p + 1, q = p | columns p, q | sort p | limit 1", &[&["45", "45"]]);
    gives("| sort dst.ip.address | columns event.id | limit 5", &[&["b"], &["a"], &["d"], &["c"], &["e"]]);
    gives("| sort -dst.ip.address | columns event.id", &[&["c"], &["d"], &["a"], &["b"], &["e"]]);
    gives("| columns event.id", &[&["e"], &["d"], &["c"], &["b"], &["a"]]);
    gives("| limit 2 | columns event.id", &[&["e"], &["d"]]);
    gives("| dedup event.type | sort event.id | columns event.id", &[&["a"], &["c"], &["e"]]);
    gives("| columns event.type | dedup | sort event.type", &[&["IP Close"], &["IP Connect"], &["IP Listen"]]);
    let (_folder, path) = few();
    assert_eq!(rows(&path, "| columns event.id | nolimit").len(), 5);
}

#[test]
fn rows_that_look_at_others() {
    gives(
        "| group n = count() by event.type | let r = running_sum(n), c = running_count(), p = percent_of_total(n)",
        &[
            &["IP Close", "2", "2", "1", "40"],
            &["IP Connect", "2", "4", "2", "40"],
            &["IP Listen", "1", "5", "3", "20"],
        ],
    );
    gives(
        "| sort dst.port.number, event.id | columns event.id, s = running_sum(dst.port.number), m = overall_max(dst.port.number), c = overall_count() | limit 2",
        &[&["c", "22", "8080", "5"], &["b", "102", "8080", "5"]],
    );
    gives("| filter dst.port.number > overall_avg(dst.port.number) | columns event.id", &[&["e"]]);
    gives(
        "| group n = count() by event.type | sort -n, event.type | columns event.type, p = running_percent(n)",
        &[&["IP Close", "40"], &["IP Connect", "80"], &["IP Listen", "100"]],
    );
}

#[test]
fn texts_are_taken_apart() {
    gives(
        "event.id = 'a' | parse '$program$ $scheme$://$rest$' from src.process.cmdline | columns program, scheme, rest",
        &[&["curl", "https", "me@example.org:8443/a/b?x=1#z"]],
    );
    gives(
        "src.process.cmdline = * | parse ':$port=digits$/$x{regex=[a-z]}$' from src.process.cmdline | columns event.id, port, x",
        &[&["c", "null", "null"], &["a", "8443", "a"]],
    );
}

#[test]
fn queries_side_by_side() {
    gives(
        "| join a = (event.type = 'IP Connect' | columns event.id, dst.port.number), b = (event.type = 'IP Close' | columns event.id, dst.port.number) on dst.port.number",
        &[&["a", "443", "d"]],
    );
    gives(
        "| left join a = (event.type = 'IP Connect' | columns event.id, dst.port.number), b = (event.type = 'IP Close' | columns other = event.id, port = dst.port.number) on a.dst.port.number = b.port | sort event.id",
        &[&["a", "443", "d", "443"], &["b", "80", "null", "null"]],
    );
    gives(
        "| outer join (event.type = 'IP Connect' | group n = count() by dst.port.number), (event.type = 'IP Close' | group m = count() by dst.port.number) on dst.port.number | sort dst.port.number",
        &[&["22", "null", "1"], &["80", "1", "null"], &["443", "1", "1"]],
    );
    gives(
        "| sql inner join a = (| columns event.id, p = dst.port.number), b = (| columns other = event.id, p = dst.port.number) on p | filter p = 443 | sort event.id, other",
        &[&["a", "443", "a"], &["a", "443", "d"], &["d", "443", "a"], &["d", "443", "d"]],
    );
    gives(
        "| inner join a = (| columns event.id, p = dst.port.number), b = (| columns other = event.id, p = dst.port.number | sort -other) on p | filter a.p = 443 | sort event.id",
        &[&["a", "443", "d"], &["d", "443", "d"]],
    );
    gives(
        "| union (event.id = 'a' | columns event.id, x = 1), (event.id = 'b' | columns x = 'two', y = true)",
        &[&["a", "1", "null"], &["null", "two", "true"]],
    );
    gives("event.id = 'a' | union (event.id = 'c'), (event.id = 'b') | columns event.id", &[&["c"], &["b"], &["a"]]);
}

#[test]
fn values_become_columns() {
    gives(
        "| group n = count() by event.type, dst.port.number | transpose event.type on dst.port.number",
        &[
            &["22", "1", "null", "null"],
            &["80", "null", "1", "null"],
            &["443", "1", "1", "null"],
            &["8080", "null", "null", "1"],
        ],
    );
    let (_folder, path) = few();
    let query =
        "| group n = count() by dst.port.number, event.type | sort -n, event.type | transpose event.type limit 2";
    let (found, _) = search(&Search::new(vec![path]), query).unwrap();
    assert_eq!(found[0], ["dst.port.number", "IP Close", "IP Connect"]);
}

#[test]
fn another_time_beside_this_one() {
    let (_folder, path) = few();
    let asked = Search { range: Some(1_790_000_120_000..1_790_000_240_000), ..Search::new(vec![path]) };
    let query = "| group n = count() by src.port = dst.port.number = 443 | compare before = timeshift('-2m')";
    let (found, _) = search(&asked, query).unwrap();
    assert_eq!(found, table(&[&["src.port", "n", "before"], &["false", "1", "1"], &["true", "1", "1"]]));
    // The time range is two minutes long.
    let query = "| group n = count() by src.port = dst.port.number = 443 | compare before = timeshift(-queryspan())";
    assert_eq!(search(&asked, query).unwrap().0, found);
    let query = "| group n = count() by t = timebucket('1m') | compare before = timeshift('-2m')";
    let (found, _) = search(&asked, query).unwrap();
    assert_eq!(found[1..], table(&[&["2026-09-21T14:15:00Z", "1", "1"], &["2026-09-21T14:16:00Z", "1", "1"]]));
}

#[test]
fn tables_in_files() {
    let (folder, path) = few();
    let tables = folder.path().join("tables");
    std::fs::create_dir(&tables).unwrap();
    std::fs::write(tables.join("ports.csv"), "port,service\n443,https\n22,ssh\n").unwrap();
    std::fs::write(
        tables.join("nets.json"),
        r#"[{"net":"10.0.0.0/8","zone":"all"},{"net":"10.0.0.8/31","zone":"small"}]"#,
    )
    .unwrap();
    std::fs::write(tables.join("names.csv"), "pattern,group\nCU*,web\n?c,net\n").unwrap();
    let asked = Search { tables: Some(tables.clone()), ..Search::new(vec![path]) };
    let found = |query: &str| search(&asked, query).unwrap().0.split_off(1);
    assert_eq!(
        found(
            "| lookup service, again = service from ports by port = dst.port.number | sort event.id | columns event.id, service, again"
        ),
        table(&[
            &["a", "https", "https"],
            &["b", "null", "null"],
            &["c", "ssh", "ssh"],
            &["d", "https", "https"],
            &["e", "null", "null"]
        ])
    );
    assert_eq!(
        found("| lookup zone from nets by net =:cidr dst.ip.address | sort event.id | columns zone").concat(),
        ["small", "all", "null", "null", "null"]
    );
    assert_eq!(
        found("| lookup group from names by pattern =:wildcard src.process.name | sort event.id | columns group")
            .concat(),
        ["web", "web", "null", "net", "null"]
    );
    assert_eq!(found("| dataset 'ports' | filter port > 100"), table(&[&["443", "https"]]));
    assert_eq!(found("event.type = 'IP Close' | group n = count() by dst.port.number | savelookup 'seen'").len(), 2);
    assert_eq!(std::fs::read_to_string(tables.join("seen.csv")).unwrap(), "dst.port.number,n\n22,1\n443,1\n");
    found("event.type = 'IP Connect' | group n = count() by dst.port.number | savelookup 'seen', 'merge'");
    assert_eq!(found("| dataset 'seen' | sort dst.port.number"), table(&[&["22", "1"], &["80", "1"], &["443", "1"]]));
    // With a new column, the rows written before have null in it.
    found("event.type = 'IP Close' | group z = count() by dst.port.number | savelookup 'seen', 'merge'");
    let merged = std::fs::read_to_string(tables.join("seen.csv")).unwrap();
    assert_eq!(merged, "dst.port.number,n,z\n22,1,\n443,1,\n80,1,\n22,,1\n443,,1\n");
    std::fs::write(tables.join("twice.csv"), "a,a\n1,2\n").unwrap();
    std::fs::write(tables.join("nothing.csv"), "").unwrap();
    std::fs::write(tables.join("none.json"), "[]").unwrap();
    for (query, expected) in [
        ("| dataset '../x'", "not a name of a table"),
        ("| dataset 'twice'", "two columns called 'a'"),
        ("| dataset 'nothing'", "it has no columns"),
        ("| lookup a from none by a = event.id", "it has no columns"),
        ("| dataset 'port'", "has names, nets, none, nothing, ports, seen, twice"),
    ] {
        let error = search(&asked, query).unwrap_err().to_string();
        assert!(error.contains(expected), "{query}: {error}");
    }
}

#[test]
fn what_cannot_be_is_said() {
    let (_folder, path) = few();
    let error = |query: &str| search(&Search::new(vec![path.clone()]), query).unwrap_err().to_string();
    assert!(error("| compare x = timeshift('-1d')").contains("give one with"));
    let timeless = path.with_file_name("timeless.ndjson");
    std::fs::write(&timeless, "{\"event.id\":\"a\"}\n").unwrap();
    let timeless = search(&Search::new(vec![timeless]), "| group n = count() by t = timebucket('auto')");
    assert!(timeless.unwrap_err().to_string().contains("--since"));
    assert!(error("| dataset 'x'").contains("search.tables"));
    assert!(error("dst.port.number in (| columns event.id, event.type)").contains("columns"));
}

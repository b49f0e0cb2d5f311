//! What filters say of single events: a table, and what the evaluator refuses. That it says the same as a search is tested with
//! the search.

#![expect(clippy::panic, reason = "a test that cannot go on has failed")]

use netconn_model::field::Field;
use netconn_query::{
    evaluate::{EventFields, Predicate, SumBeyond},
    parse,
    value::{Value, ValueKind},
};

/// An event, by the names of its fields.
struct Event(Vec<(&'static str, Value<'static>)>);

impl EventFields for Event {
    fn value(&self, field: Field) -> Option<Value<'_>> {
        self.other(field.info().name)
    }

    fn other(&self, name: &str) -> Option<Value<'_>> {
        self.0.iter().find(|(own, _)| *own == name).map(|(_, value)| value.borrowed())
    }
}

fn connect() -> Event {
    Event(vec![
        ("event.type", "IP Connect".into()),
        ("event.time", 1_790_000_000_000_i64.into()),
        ("timestamp", "2026-09-21T14:13:20.000000500Z".into()),
        ("event.network.direction", "OUTGOING".into()),
        ("src.ip.address", "192.168.1.2".into()),
        ("src.port.number", 40_000_i64.into()),
        ("dst.ip.address", "10.0.1.20".into()),
        ("dst.port.number", 443_i64.into()),
        ("event.network.bytesSent", 0_i64.into()),
        ("event.network.durationMs", 12.5.into()),
        ("event.network.preexisting", true.into()),
        ("src.process.name", "Firefox".into()),
        ("src.process.cmdline", "firefox -P work\nhttps://www.example.org/a?b=c".into()),
    ])
}

#[track_caller]
fn holds(filter: &str, expected: bool) {
    match Predicate::parse(filter) {
        Ok(compiled) => assert_eq!(compiled.predicate.verdict(&connect()), Ok(expected), "{filter}"),
        Err(diagnostics) => panic!("{filter}: {diagnostics:?}"),
    }
}

#[test]
fn filters_have_the_verdict_of_a_search() {
    for filter in [
        // Comparisons, by the kinds of both sides.
        "",
        "event.type = 'IP Connect'",
        "event.type =:anycase 'ip CONNECT'",
        "dst.port.number = '443'",
        "dst.port.number = ' 443.0 '",
        "dst.port.number < 443.5",
        "event.network.durationMs > dst.port.number / 100",
        "event.network.preexisting = 'TRUE'",
        "event.network.preexisting = 1",
        "dst.ip.address > '10.0.1.9'",
        "src.process.name < 'Firefoy'",
        "event.time = '2026-09-21T14:13:20Z'",
        "event.time < '2026-09-21T14:13:20.0000005Z'",
        "timestamp >= '2026-09-21 14:13:20'",
        "timestamp > event.time",
        "timestamp < '2026-09-21T16:13:20.000001+02:00'",
        // Missing values.
        "src.process.user = null",
        "src.process.user = nowhere.at.all",
        "src.process.user != 'root'",
        "not (src.process.user < 'root')",
        "dst.port.number = *",
        "src.process.user = null and not src.process.user = *",
        // Sets.
        "dst.port.number in (22, '443')",
        "dst.port.number not in (22, 443.5)",
        "dst.ip.address in ('10.0.0.0/8')",
        "src.process.name in:anycase ('curl', 'FIREFOX')",
        "src.process.user in ('root', null)",
        "event.time in ('2026-09-21T14:13:20Z')",
        // Patterns.
        "src.process.name contains 'FIRE'",
        "not (src.process.name contains:matchcase 'FIRE')",
        "src.process.cmdline matches 'https://[a-z.]+/'",
        "src.process.cmdline matches:matchcase '^firefox -P work$|^firefox'",
        "src.process.cmdline like '%work_https%'",
        "dst.port.number starts_with 44",
        "src.process.name ends_with ('curl', 'fox')",
        "src.process.cmdline contains src.process.name",
        "* contains 'example.org'",
        "'OUTGOING' and $'^10\\.'",
        "#cmdline contains 'P WORK'",
        // Values as conditions, and conditions as values.
        "dst.port.number",
        "not event.network.bytesSent",
        "(event.network.bytesSent or 'none') = 'none'",
        "(src.process.user or src.process.name) = 'Firefox'",
        "(dst.port.number = 443 ? 'web' : 'other') = 'web'",
        "(dst.port.number = 443) = true",
        "event.network.bytesSent ? false : true",
        // Arithmetic.
        "dst.port.number + 1 = 444",
        "'port ' + dst.port.number = 'port 443'",
        "(dst.port.number / event.network.bytesSent) = null",
        "dst.port.number % 100 = 43",
        "-dst.port.number < -442.5",
        "src.port.number - dst.port.number > 39000",
        // Functions.
        "len(src.process.name) = 7",
        "lower(src.process.name) = 'firefox'",
        "net_private(dst.ip.address) and net_ipsubnet(dst.ip.address, '10.0.0.0/15')",
        "split(src.process.cmdline, '[ \\n]').get(-1).net_url_domain() = 'example.org'",
        "array(1, dst.port.number).contains(443)",
        "array(1, dst.port.number) contains ('443', 2)",
        "array(1, 2, 3).filter(func(x) -> x > 1).map(func(x) -> x * dst.port.number).array_to_string() = '886,1329'",
        "array('a', 'b').match_any(func(x) -> array(x).match_all(func(y) -> y = x and x = 'b'))",
        "strftime(event.time, '%H:%M') = '14:13'",
        "timebucket('1h') = '2026-09-21T14:00:00Z'",
        "format('%s:%05d', dst.ip.address, dst.port.number) = '10.0.1.20:00443'",
        // The word that the language has for it.
        "filter dst.port.number = 443",
        "dst.port.number = 443 | filter event.type = 'IP Connect'",
    ] {
        holds(filter, true);
        if !filter.contains('|') && !filter.is_empty() && !filter.starts_with("filter") {
            holds(&format!("not ({filter})"), false);
        }
    }
}

#[track_caller]
fn refused(filter: &str, expected: &[&str]) {
    let Err(diagnostics) = Predicate::parse(filter) else { panic!("{filter} is compiled") };
    let found: Vec<String> = diagnostics.iter().map(|diagnostic| diagnostic.to_string_in(filter)).collect();
    assert_eq!(found, expected, "{filter}");
}

#[test]
fn what_needs_more_than_one_event_is_refused() {
    refused(
        "dst.port.number = 443 | group count() by dst.ip.address",
        &[
            "error 1:25 this is a filter over one event, so no command can follow but filter: search the history for more (netconn search)",
        ],
    );
    refused(
        "dst.ip.address in (dst.port.number = 22 | columns dst.ip.address)",
        &[
            "error 1:20 a filter over one event cannot ask for the values of a query: list them -> dst.ip.address in ('…', '…')",
        ],
    );
    refused(
        "geo_ip_country(dst.ip.address) = 'France'",
        &[
            "error 1:1 geo_ip_country needs a database of places, which a filter over one event does not have -> net_ipsubnet(dst.ip.address, '192.0.2.0/24')",
        ],
    );
    refused(
        "event.time > now()",
        &[
            "error 1:14 a filter over one event has no present: compare with a time that is written out -> event.time > '2026-09-21T14:40:00Z'",
        ],
    );
    refused(
        "timebucket('auto') = null",
        &["error 1:1 a filter over one event needs to know how long a span of timebucket is -> timebucket('10m')"],
    );
    refused(
        "queryspan('hours') > 1",
        &["error 1:1 queryspan is about the time that is searched, and a filter over one event searches none"],
    );
    refused(
        "count() > 1",
        &[
            "error 1:1 count makes one value of many rows, so it can only stand in group or top -> | group n = count() by …",
        ],
    );
    refused(
        "| filter running_count() > 1",
        &["error 1:10 running_count goes over several events, and a filter here looks at one at a time"],
    );
    refused("map(dst.port.number, func(x) -> x) = 1", &["error 1:1 map takes an array, and this is none"]);
    refused("src.process.name matches 'a('", &["error 1:26 this regular expression cannot be used: unclosed group"]);
    refused("dst.port.number =", &["error 1:18 a value is expected here, not the end of the query -> field = 'value'"]);
}

#[test]
fn warnings_come_with_the_filter() {
    let compiled = Predicate::parse("dst.port.nubmer = 443").unwrap();
    let warnings: Vec<String> =
        compiled.warnings.iter().map(|warning| warning.to_string_in("dst.port.nubmer = 443")).collect();
    assert_eq!(
        warnings,
        ["warning 1:1 there is no field 'dst.port.nubmer', so it is null in every row -> dst.port.number"]
    );
    assert!(!compiled.predicate.matches(&connect()));
}

#[test]
fn events_can_have_other_fields() {
    let query = parse("x.count = '7' and x.tag in ('red') and 'RED'").query.unwrap();
    let compiled = Predicate::compile(&query, &[("x.count", ValueKind::Integer), ("x.tag", ValueKind::Text)]).unwrap();
    assert_eq!(compiled.warnings, []);
    assert!(compiled.predicate.matches(&Event(vec![("x.count", 7_i64.into()), ("x.tag", "red".into())])));
    assert!(!compiled.predicate.matches(&Event(vec![("x.count", 7_i64.into())])));
}

#[test]
fn values_of_another_type_become_those_of_the_field() {
    let event = Event(vec![
        ("dst.port.number", "443".into()),
        ("event.network.durationMs", 3_i64.into()),
        ("src.process.name", 7_i64.into()),
        ("event.network.bytesSent", u64::MAX.into()),
    ]);
    for filter in [
        "dst.port.number + 1 = 444",
        "event.network.durationMs / 2 = 1.5",
        "src.process.name = '7'",
        "event.network.bytesSent = null",
    ] {
        assert!(Predicate::parse(filter).unwrap().predicate.matches(&event), "{filter}");
    }
}

#[test]
fn a_sum_that_is_too_large_has_no_verdict() {
    let largest = Event(vec![("event.network.bytesSent", i64::MAX.into())]);
    for filter in ["event.network.bytesSent + 1 > 0", "not (event.network.bytesSent + 1 > 0)"] {
        let predicate = Predicate::parse(filter).unwrap().predicate;
        assert_eq!(predicate.verdict(&largest), Err(SumBeyond), "{filter}");
        assert!(!predicate.matches(&largest), "{filter}");
    }
    let first = Predicate::parse("event.network.bytesSent > 0 or event.network.bytesSent + 1 > 0").unwrap().predicate;
    assert!(first.matches(&largest), "what is not needed is not counted");
}

#[test]
fn predicates_are_shared_by_threads() {
    fn shared<T: Send + Sync + Clone>(_: &T) {}
    shared(&Predicate::parse("replace(src.process.name, 'a', 'b') matches 'c'").unwrap().predicate);
}

/// Values that are repeated in a plan, but not here: the size of a filter stays that of its text.
#[test]
fn nested_filters_stay_small() {
    let mut value = "src.process.name".to_owned();
    for _ in 0..40 {
        value = format!("({value} in (dst.port.number, null, x.tag, true))");
    }
    holds(&value, false);
}

/// Each level may be compiled twice, so their number is limited: 25 of them would be 33 million.
#[test]
fn nested_reduces_are_limited() {
    let nested = |levels: usize| {
        (0..levels).fold("x".to_owned(), |inner, _| format!("array(1).reduce(0, func(x, y) -> {inner} + 0.5)"))
    };
    holds(&format!("{} = 0.5", nested(1)), true);
    assert!(Predicate::parse(&format!("{} > 0", nested(8))).is_ok());
    for levels in [9, 25] {
        let refused = Predicate::parse(&format!("{} > 0", nested(levels))).unwrap_err();
        let said: Vec<&str> = refused.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
        assert_eq!(said, ["reduce is nested too deeply: 8 levels are allowed, so split it with let"], "{levels}");
    }
}

//! Differences of moments, and moments moved by spans of time.

use super::{rows, table};

const EVENT: &str = r#"{"event.id":"a","event.time":1790000000000,"timestamp":"2026-09-21T14:13:21.000000500Z","loss.from":1789999990000}
"#;

#[test]
fn moments_of_different_units_have_one_unit_in_differences() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    std::fs::write(&path, EVENT).unwrap();
    let value = |expr: &str| rows(&path, &format!("| columns x = {expr}")).concat().concat();
    for (expr, expected) in [
        // Both in milliseconds, then in different units.
        ("event.time - loss.from", "10000"),
        ("timestamp - event.time", "1000000500"),
        ("event.time - timestamp", "-1000000500"),
        ("timebucket('1h') - event.time", "-800000000000"),
        ("event.time - '1h'", "2026-09-21T13:13:20Z"),
        ("timestamp + '1m'", "2026-09-21T14:14:21.0000005Z"),
        ("'90s' + event.time", "2026-09-21T14:14:50Z"),
        ("(event.time + '1d') - event.time", "86400000000000"),
    ] {
        assert_eq!(value(expr), expected, "{expr}");
    }
    for (filter, count) in [
        ("event.time > now() - '1h'", 0),
        ("event.time < now() - '1h' and event.time > now() - '9000w'", 0),
        ("event.time > timestamp - '2s' and event.time < timestamp - '1s'", 1),
        ("timestamp = event.time + '1000000500ns'", 1),
    ] {
        // The clock may stand anywhere: what depends on it is compared with the clock.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
        let expected = match filter {
            "event.time > now() - '1h'" => usize::from(1_790_000_000_000 + 3_600_000 > now),
            "event.time < now() - '1h' and event.time > now() - '9000w'" => {
                usize::from(1_790_000_000_000 + 3_600_000 < now)
            }
            _ => count,
        };
        assert_eq!(rows(&path, filter).len(), expected, "{filter}");
    }
    assert_eq!(rows(&path, "| group n = count() by t = event.time - '1h' | columns n"), table(&[&["1"]]));
}

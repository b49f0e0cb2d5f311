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

/// Columns that are made of moments are moments, and their differences are spans of time.
#[test]
fn moments_stay_moments_behind_commands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    let event = |id: &str, time: i64, text: &str| {
        format!(
            "{{\"event.id\":\"{id}\",\"event.type\":\"IP Connect\",\"event.time\":{time},\"timestamp\":\"{text}\"}}\n"
        )
    };
    let events = event("a", 1_790_000_000_000, "2026-09-21T14:13:20.000000000Z")
        + &event("b", 1_790_005_400_000, "2026-09-21T15:43:20.000000001Z");
    std::fs::write(&path, events).unwrap();
    let cells = |query: &str| rows(&path, query).concat();
    let group = "| group first = min(event.time), last = max(event.time), text = max(timestamp)";
    for (rest, expected) in [
        ("columns x = last - first", "5400000"),
        ("columns x = text - first", "5400000000001"),
        ("columns x = (last - first) / 1000", "5400"),
        ("columns x = first + (text - first)", "2026-09-21T15:43:20.000000001Z"),
        ("columns x = first + (last - first)", "2026-09-21T15:43:20Z"),
        ("columns x = last - '90m'", "2026-09-21T14:13:20Z"),
        ("columns x = last - first = '90m' and last - first < '2h' and text - first > '90m'", "true"),
        ("columns x = text - first > last - first", "true"),
        ("columns x = (last - first) in ('90m', '1s')", "true"),
        ("columns x = (text - first) - (last - first)", "1"),
        ("let span = last - first | columns x = span >= '1.5h'", "true"),
        ("columns x = (last > first ? last : first) - '90m' = first", "true"),
        ("columns x = text = '2026-09-21T15:43:20.000000001+00:00'", "true"),
    ] {
        assert_eq!(cells(&format!("{group} | {rest}")), [expected], "{rest}");
    }
    assert_eq!(cells("| let event.time = 5 | columns x = event.time + 1 | limit 1"), ["6"]);
    let gap = "| sort event.time | let gap = event.time - prev(event.time) | filter gap > '1h' | columns event.id";
    assert_eq!(cells(gap), ["b"]);
    let joined = "| join a = (event.id = 'a' | columns k = event.type, t = event.time), b = (event.id = 'b' | columns k = \
                  event.type, t = event.time) on k | columns x = b.t - a.t = '90m'";
    assert_eq!(cells(joined), ["true"]);
    let union = "| union (event.id = 'a' | columns t = event.time), (event.id = 'b' | columns t = event.time) | columns x = \
                 t - '1h' | limit 1";
    assert_eq!(cells(union), ["2026-09-21T13:13:20Z"]);
    let average =
        "| sort event.time | let gap = event.time - prev(event.time) | group m = avg(gap) | columns x = m > '89m'";
    assert_eq!(cells(average), ["true"]);
}

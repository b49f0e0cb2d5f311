//! Compares the eight reference queries, verbatim, with a direct evaluation over the same events.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::tests::{
    Table,
    events::{Event, events, folder, integer, text},
    rows,
};

/// Returns the ids of the events that a filter keeps, the newest first.
fn ids(events: &[Event], keep: impl Fn(&Event) -> bool) -> Table {
    let mut kept: Vec<(i64, String, String)> = events
        .iter()
        .filter(|event| keep(event))
        .map(|event| {
            let own = |name| text(event, name).unwrap().to_owned();
            (integer(event, "event.time").unwrap(), own("timestamp"), own("event.id"))
        })
        .collect();
    kept.sort_by_key(|event| std::cmp::Reverse(event.0));
    kept.into_iter().map(|(_, _, id)| vec![id]).collect()
}

fn connect(event: &Event) -> bool {
    text(event, "event.type") == Some("IP Connect")
}

fn outgoing(event: &Event) -> bool {
    connect(event) && text(event, "event.network.direction") == Some("OUTGOING")
}

fn check_filter(query: &str, keep: impl Fn(&Event) -> bool) {
    let events = events(3_000);
    let (_folder, path) = folder(&events);
    let mut expected = ids(&events, keep);
    let mut found = rows(&path, &format!("{query} | columns event.id"));
    assert!(!expected.is_empty());
    // Events of the same millisecond have no fixed order.
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "{query}");
}

#[test]
fn filters() {
    check_filter("event.type = 'IP Connect'", connect);
    check_filter("event.type = 'IP Connect' and event.network.direction = 'OUTGOING'", outgoing);
    check_filter("event.type = 'IP Connect' and dst.port.number = 443", |event| {
        connect(event) && integer(event, "dst.port.number") == Some(443)
    });
    check_filter("event.type = 'IP Connect' and dst.ip.address starts_with '10.'", |event| {
        connect(event) && text(event, "dst.ip.address").unwrap().starts_with("10.")
    });
}

#[test]
fn the_newest_events_come_first() {
    let events = events(3_000);
    let (_folder, path) = folder(&events);
    let found = rows(&path, "event.type = 'IP Connect' | columns event.time");
    let mut expected: Vec<_> =
        events.iter().filter(|event| connect(event)).map(|event| integer(event, "event.time").unwrap()).collect();
    expected.sort_unstable_by(|left, right| right.cmp(left));
    assert_eq!(found, expected.into_iter().map(|time| vec![time.to_string()]).collect::<Table>());
}

#[test]
fn connections_by_destination() {
    let events = events(3_000);
    let (_folder, path) = folder(&events);
    let query = "event.type = 'IP Connect' | group ConnectionCount = count() by dst.ip.address, dst.port.number | sort -ConnectionCount";
    let mut counts: BTreeMap<(String, i64), i64> = BTreeMap::new();
    for event in events.iter().filter(|event| connect(event)) {
        let key = (text(event, "dst.ip.address").unwrap().to_owned(), integer(event, "dst.port.number").unwrap());
        *counts.entry(key).or_default() += 1;
    }
    let mut found = rows(&path, query);
    assert!(found.windows(2).all(|pair| pair[0][2].parse::<i64>().unwrap() >= pair[1][2].parse::<i64>().unwrap()));
    let mut expected: Table =
        counts.into_iter().map(|((address, port), count)| vec![address, port.to_string(), count.to_string()]).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn destinations_with_many_ports() {
    let events = events(3_000);
    let (_folder, path) = folder(&events);
    let query = "event.type = 'IP Connect' and event.network.direction = 'OUTGOING' | group ConnectionCount = count(), DistinctPorts = estimate_distinct(dst.port.number) by dst.ip.address | filter DistinctPorts > 5 | sort -ConnectionCount";
    let mut seen: BTreeMap<String, (i64, BTreeSet<i64>)> = BTreeMap::new();
    for event in events.iter().filter(|event| outgoing(event)) {
        let entry = seen.entry(text(event, "dst.ip.address").unwrap().to_owned()).or_default();
        entry.0 += 1;
        entry.1.insert(integer(event, "dst.port.number").unwrap());
    }
    let mut expected: Table = seen
        .into_iter()
        .filter(|(_, (_, ports))| ports.len() > 5)
        .map(|(address, (count, ports))| vec![address, count.to_string(), ports.len().to_string()])
        .collect();
    let mut found = rows(&path, query);
    assert!(found.len() > 5);
    assert!(found.windows(2).all(|pair| pair[0][1].parse::<i64>().unwrap() >= pair[1][1].parse::<i64>().unwrap()));
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn transfers_by_process() {
    let events = events(20_000);
    let (_folder, path) = folder(&events);
    let query = "event.type = 'IP Connect' and event.network.direction = 'OUTGOING' and dst.port.number in (21, 22, 25, 53, 80, 443, 993, 995) | group TransferCount = count() by src.process.name, dst.ip.address, dst.port.number | filter TransferCount > 10";
    let mut counts: BTreeMap<(String, String, i64), i64> = BTreeMap::new();
    for event in events.iter().filter(|event| outgoing(event)) {
        let port = integer(event, "dst.port.number").unwrap();
        if [21, 22, 25, 53, 80, 443, 993, 995].contains(&port) {
            let own = |name| text(event, name).unwrap().to_owned();
            *counts.entry((own("src.process.name"), own("dst.ip.address"), port)).or_default() += 1;
        }
    }
    let expected: Table = counts
        .into_iter()
        .filter(|(_, count)| *count > 10)
        .map(|((name, address, port), count)| vec![name, address, port.to_string(), count.to_string()])
        .collect();
    assert!(!expected.is_empty());
    // Without a sort, groups are in the order of their keys.
    assert_eq!(rows(&path, query), expected);
    assert!(rows(&path, &query.replace("> 10", "> 100")).is_empty());
}

#[test]
fn scanners_inside() {
    let events = events(3_000);
    let (_folder, path) = folder(&events);
    let query = "event.type = 'IP Connect' and dst.ip.address starts_with '192.168.' | group TargetCount = estimate_distinct(dst.ip.address) by src.ip.address, src.process.name | filter TargetCount > 20";
    let mut targets: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for event in events.iter().filter(|event| connect(event)) {
        let own = |name| text(event, name).unwrap().to_owned();
        if own("dst.ip.address").starts_with("192.168.") {
            targets.entry((own("src.ip.address"), own("src.process.name"))).or_default().insert(own("dst.ip.address"));
        }
    }
    let expected: Vec<_> = targets.into_iter().filter(|(_, targets)| targets.len() > 20).collect();
    let found = rows(&path, query);
    assert!(!expected.is_empty());
    assert_eq!(found.len(), expected.len());
    for (row, ((address, name), targets)) in found.iter().zip(expected) {
        assert_eq!(row[..2], [address, name]);
        let count: f64 = row[2].parse().unwrap();
        // An estimate may differ a little.
        assert!((count - targets.len() as f64).abs() <= 1.0 + targets.len() as f64 * 0.03, "{row:?}");
    }
}

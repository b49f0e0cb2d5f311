//! The order of rows: their usual one, and the one that `--sort` asks for.

use std::{cmp::Reverse, net::IpAddr};

use netconn_model::{row::Row, state};

/// What a row is sorted by. Within one column there is only one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Number(u64),
    Text(String),
    End(IpAddr, Option<u16>),
}

type Key = fn(&Row) -> Option<Value>;

fn text(value: Option<&String>) -> Option<Value> {
    value.cloned().map(Value::Text)
}

fn number<T: Into<u64>>(value: Option<T>) -> Option<Value> {
    value.map(|value| Value::Number(value.into()))
}

fn end(address: Option<&String>, port: Option<u16>) -> Option<Value> {
    Some(Value::End(address?.parse().ok()?, port))
}

/// What can be sorted by: its name, the name of its member in JSON or its heading, what is compared.
const KEYS: [(&str, &str, Key); 20] = [
    ("state", "state", |row| Some(Value::Number(place(row) as u64))),
    ("protocol", "proto", |row| text(Some(&row.protocol))),
    ("direction", "direction", |row| text(row.direction.as_ref())),
    ("local", "local_address", |row| end(Some(&row.local_address), row.local_port)),
    ("local-port", "local_port", |row| number(row.local_port)),
    ("remote", "remote_address", |row| end(row.remote_address.as_ref(), row.remote_port)),
    ("remote-port", "remote_port", |row| number(row.remote_port)),
    ("pid", "pid", |row| number(row.pid)),
    ("process", "process_name", |row| text(row.process_name.as_ref())),
    ("user", "user", |row| text(row.user.as_ref())),
    ("command", "command_line", |row| text(row.command_line.as_ref().or(row.executable.as_ref()))),
    // RFC 3339 in UTC with nanoseconds: the order of the text is that of time.
    ("started", "started_at", |row| text(row.started_at.as_ref())),
    ("sent", "bytes_sent", |row| number(row.bytes_sent)),
    ("received", "bytes_received", |row| number(row.bytes_received)),
    ("namespace", "netns", |row| number(row.namespace)),
    ("unit", "systemd_unit", |row| text(row.systemd_unit.as_ref())),
    ("container", "container_id", |row| text(row.container_id.as_ref())),
    ("known-by", "attribution", |row| text(row.attribution.as_ref())),
    ("ended", "ended_at", |row| text(row.ended_at.as_ref())),
    ("reason", "close_reason", |row| text(row.close_reason.as_ref().or(row.failure_reason.as_ref()))),
];

/// A column to sort by.
#[derive(Clone, Copy, Debug)]
pub(super) struct SortKey {
    key: Key,
    descending: bool,
}

/// Reads `sent` or `-sent`; in any case, with `_` for `-`, by either name.
///
/// # Errors
///
/// When there is no such column: the sentence names those there are.
pub(super) fn parse(given: &str) -> Result<SortKey, String> {
    let (name, descending) = given.strip_prefix('-').map_or((given, false), |name| (name, true));
    let plain = name.to_ascii_lowercase().replace('_', "-");
    let found = KEYS.iter().find(|(name, member, _)| plain == *name || plain == member.replace('_', "-"));
    let names = || KEYS.map(|(name, _, _)| name).join(", ");
    let (_, _, key) = found.ok_or_else(|| format!("'{name}' is not a column; there are {}", names()))?;
    Ok(SortKey { key: *key, descending })
}

/// A value in the order that was asked for. What is unknown comes last in either.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Ascending(Value),
    Descending(Reverse<Value>),
    Unknown,
}

/// Sorts by columns, the first most; what they leave open is in the usual order.
pub(super) fn sort<T>(entries: &mut [T], keys: &[SortKey], row: impl Fn(&T) -> &Row) {
    entries.sort_by_cached_key(|entry| {
        let row = row(entry);
        let rank = |SortKey { key, descending }: &SortKey| match (key(row), descending) {
            (None, _) => Rank::Unknown,
            (Some(value), false) => Rank::Ascending(value),
            (Some(value), true) => Rank::Descending(Reverse(value)),
        };
        (keys.iter().map(rank).collect::<Vec<_>>(), usual(row))
    });
}

/// Place of a row's state in the order in which states are listed.
pub(super) fn place(row: &Row) -> usize {
    state::ALL.iter().position(|known| state::name(*known) == row.state).unwrap_or(state::ALL.len())
}

fn usual(row: &Row) -> (usize, Option<Value>, Option<Value>) {
    (place(row), end(Some(&row.local_address), row.local_port), end(row.remote_address.as_ref(), row.remote_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: &str, local: &str, port: u16, sent: Option<u64>) -> Row {
        let (state, local_address) = (state.into(), local.into());
        Row { state, local_address, local_port: Some(port), bytes_sent: sent, ..Row::default() }
    }

    fn sorted(keys: &str) -> Vec<u16> {
        let mut rows = vec![
            row("TIME_WAIT", "10.0.0.10", 1, None),
            row("LISTENING", "::1", 2, Some(7)),
            row("ESTABLISHED", "10.0.0.9", 30, Some(5)),
            row("ESTABLISHED", "10.0.0.9", 4, Some(7)),
            row("CLOSED", "10.0.0.9", 5, Some(6)),
        ];
        let keys: Vec<SortKey> = keys.split(',').filter(|key| !key.is_empty()).map(|key| parse(key).unwrap()).collect();
        sort(&mut rows, &keys, |row| row);
        rows.into_iter().filter_map(|row| row.local_port).collect()
    }

    #[test]
    fn rows_have_a_usual_order() {
        assert_eq!(sorted(""), [2, 4, 30, 1, 5]);
    }

    #[test]
    fn columns_are_sorted_as_what_they_are_with_the_unknown_last() {
        assert_eq!(sorted("sent"), [30, 5, 2, 4, 1]);
        assert_eq!(sorted("-sent"), [2, 4, 5, 30, 1]);
        assert_eq!(sorted("-bytes_sent,-local-port"), [4, 2, 5, 30, 1]);
        assert_eq!(sorted("local"), [4, 5, 30, 1, 2], "as numbers, not as text");
        assert_eq!(sorted("-LOCAL_PORT"), [30, 5, 4, 2, 1]);
        assert_eq!(sorted("-state"), [5, 1, 4, 30, 2]);
        assert_eq!(sorted("pid"), sorted(""), "nothing known");
    }

    #[test]
    fn columns_that_are_none_are_named() {
        let error = parse("-size").unwrap_err();
        assert!(error.starts_with("'size' is not a column; there are state, protocol, direction, local,"), "{error}");
    }
}

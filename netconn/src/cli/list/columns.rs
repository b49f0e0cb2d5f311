//! What is shown of a row: the columns of the table and the fields of CSV.

use netconn_model::{row::Row, term};

use crate::cli::presentation::end;

/// One column of the table.
pub(super) struct Column {
    pub(super) heading: &'static str,
    /// Numbers stand to the right.
    pub(super) right: bool,
    pub(super) cell: fn(&Row) -> String,
}

pub(super) fn or_dash(value: Option<&str>) -> String {
    term::sanitize(value.unwrap_or("-")).into_owned()
}

fn number<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

fn bytes(value: Option<u64>) -> String {
    value.map_or_else(|| "-".into(), term::bytes)
}

/// RFC 3339 up to the seconds.
fn time(value: Option<&str>) -> String {
    value.map_or_else(|| "-".into(), |time| time.chars().take(19).collect())
}

/// Place of the column whose style tells the state.
pub(super) const STATE: usize = 1;

const FIRST: [Column; 7] = [
    Column { heading: "PROTO", right: false, cell: |row| row.protocol.to_lowercase() },
    Column { heading: "STATE", right: false, cell: |row| row.state.clone() },
    Column { heading: "LOCAL", right: false, cell: |row| end(&row.protocol, &row.local_address, row.local_port) },
    Column {
        heading: "REMOTE",
        right: false,
        cell: |row| {
            row.remote_address
                .as_ref()
                .map_or_else(|| "*".into(), |address| end(&row.protocol, address, row.remote_port))
        },
    },
    Column { heading: "PID", right: true, cell: |row| number(row.pid) },
    Column { heading: "PROCESS", right: false, cell: |row| or_dash(row.process_name.as_deref()) },
    Column {
        heading: "USER",
        right: false,
        cell: |row| row.user.as_deref().map_or_else(|| number(row.user_id), |user| or_dash(Some(user))),
    },
];

/// With `-e`.
const EXTENDED: [Column; 8] = [
    Column { heading: "DIRECTION", right: false, cell: |row| or_dash(row.direction.as_deref()).to_lowercase() },
    Column { heading: "KNOWN BY", right: false, cell: |row| or_dash(row.attribution.as_deref()) },
    Column { heading: "STARTED", right: false, cell: |row| time(row.started_at.as_deref()) },
    Column { heading: "SENT", right: true, cell: |row| bytes(row.bytes_sent) },
    Column { heading: "RECEIVED", right: true, cell: |row| bytes(row.bytes_received) },
    Column { heading: "NETNS", right: true, cell: |row| number(row.namespace) },
    Column { heading: "UNIT", right: false, cell: |row| or_dash(row.systemd_unit.as_deref()) },
    Column {
        heading: "CONTAINER",
        right: false,
        cell: |row| row.container_id.as_deref().map_or_else(|| "-".into(), |id| id.chars().take(12).collect()),
    },
];

/// With `-e`, where connections that have ended are shown.
const ENDED: [Column; 2] = [
    Column { heading: "ENDED", right: false, cell: |row| time(row.ended_at.as_deref()) },
    Column {
        heading: "REASON",
        right: false,
        cell: |row| or_dash(row.close_reason.as_deref().or(row.failure_reason.as_deref())),
    },
];

/// Last, because it takes what is left of the terminal.
const COMMAND: Column = Column {
    heading: "COMMAND",
    right: false,
    cell: |row| or_dash(row.command_line.as_deref().or(row.executable.as_deref())),
};

/// The columns of the table, with those of `-e` and those of connections that have ended.
pub(super) fn table(extended: bool, ended: bool) -> Vec<&'static Column> {
    let extended_columns = EXTENDED.iter().filter(|_| extended);
    let ended_columns = ENDED.iter().filter(|_| extended && ended);
    FIRST.iter().chain(extended_columns).chain(ended_columns).chain([&COMMAND]).collect()
}

type Field = fn(&Row) -> Option<String>;

/// The fields of CSV, named as in JSON.
pub(super) const FIELDS: [(&str, Field); 24] = [
    ("state", |row| Some(row.state.clone())),
    ("protocol", |row| Some(row.protocol.clone())),
    ("direction", |row| row.direction.clone()),
    ("local_address", |row| Some(row.local_address.clone())),
    ("local_port", |row| row.local_port.map(|port| port.to_string())),
    ("remote_address", |row| row.remote_address.clone()),
    ("remote_port", |row| row.remote_port.map(|port| port.to_string())),
    ("pid", |row| row.pid.map(|pid| pid.to_string())),
    ("process_name", |row| row.process_name.clone()),
    ("user", |row| row.user.clone()),
    ("user_id", |row| row.user_id.map(|uid| uid.to_string())),
    ("executable", |row| row.executable.clone()),
    ("command_line", |row| row.command_line.clone()),
    ("attribution", |row| row.attribution.clone()),
    ("started_at", |row| row.started_at.clone()),
    ("namespace", |row| row.namespace.map(|inode| inode.to_string())),
    ("container_id", |row| row.container_id.clone()),
    ("systemd_unit", |row| row.systemd_unit.clone()),
    ("connection_id", |row| row.connection_id.clone()),
    ("bytes_sent", |row| row.bytes_sent.map(|bytes| bytes.to_string())),
    ("bytes_received", |row| row.bytes_received.map(|bytes| bytes.to_string())),
    ("ended_at", |row| row.ended_at.clone()),
    ("close_reason", |row| row.close_reason.clone()),
    ("failure_reason", |row| row.failure_reason.clone()),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_where_its_style_is_looked_for() {
        assert_eq!(table(false, false)[STATE].heading, "STATE");
    }

    #[test]
    fn columns_come_with_their_options() {
        let headings =
            |extended, ended| table(extended, ended).iter().map(|column| column.heading).collect::<Vec<_>>().join(" ");
        assert_eq!(headings(false, true), "PROTO STATE LOCAL REMOTE PID PROCESS USER COMMAND");
        assert_eq!(
            headings(true, true),
            "PROTO STATE LOCAL REMOTE PID PROCESS USER DIRECTION KNOWN BY STARTED SENT RECEIVED NETNS UNIT CONTAINER \
             ENDED REASON COMMAND"
        );
        assert!(!headings(true, false).contains("ENDED"));
    }

    #[test]
    fn fields_are_members_of_rows() {
        let text = FIELDS.iter().map(|(name, _)| (*name).into()).collect::<Vec<String>>();
        let full = Row {
            bytes_sent: Some(1),
            ended_at: Some("2026-01-01T00:00:00.000000000Z".into()),
            failure_reason: Some("refused".into()),
            ..Row::default()
        };
        let members: serde_json::Value = serde_json::to_value(&full).unwrap();
        for (name, value) in members.as_object().unwrap() {
            let field = FIELDS.iter().find(|(field, _)| field == name).unwrap_or_else(|| panic!("{name}: {text:?}"));
            let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!((field.1)(&full), Some(plain), "{name}");
        }
    }
}

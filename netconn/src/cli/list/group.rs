//! Groups of rows.

use std::collections::HashMap;

use clap::ValueEnum;
use netconn_model::row::Row;

use crate::cli::list::order;

/// What rows can be grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum GroupBy {
    State,
    Protocol,
    Direction,
    Process,
    Pid,
    User,
    /// The address of this end.
    Local,
    #[value(alias = "port")]
    LocalPort,
    /// The address of the other end.
    Remote,
    RemotePort,
    Namespace,
    Unit,
    Container,
    /// How the process is known.
    KnownBy,
    /// Why it ended.
    Reason,
}

impl GroupBy {
    /// The name of the group that a row is in; `None`: that of all for which it is unknown.
    pub(super) fn name(self, row: &Row) -> Option<String> {
        match self {
            Self::State => Some(row.state.clone()),
            Self::Protocol => Some(row.protocol.clone()),
            Self::Direction => row.direction.clone(),
            Self::Process => row.process_name.clone(),
            Self::Pid => row.pid.map(|pid| pid.to_string()),
            Self::User => row.user.clone().or_else(|| row.user_id.map(|uid| uid.to_string())),
            Self::Local => Some(row.local_address.clone()),
            Self::LocalPort => row.local_port.map(|port| port.to_string()),
            Self::Remote => row.remote_address.clone(),
            Self::RemotePort => row.remote_port.map(|port| port.to_string()),
            Self::Namespace => row.namespace.map(|inode| inode.to_string()),
            Self::Unit => row.systemd_unit.clone(),
            Self::Container => row.container_id.clone(),
            Self::KnownBy => row.attribution.clone(),
            Self::Reason => row.close_reason.clone().or_else(|| row.failure_reason.clone()),
        }
    }

    /// The member of a row in JSON that has the name.
    pub(super) fn member(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Protocol => "protocol",
            Self::Direction => "direction",
            Self::Process => "process_name",
            Self::Pid => "pid",
            Self::User => "user",
            Self::Local => "local_address",
            Self::LocalPort => "local_port",
            Self::Remote => "remote_address",
            Self::RemotePort => "remote_port",
            Self::Namespace => "namespace",
            Self::Unit => "systemd_unit",
            Self::Container => "container_id",
            Self::KnownBy => "attribution",
            Self::Reason => "reason",
        }
    }

    /// Whether the name is a number in JSON.
    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Pid | Self::LocalPort | Self::RemotePort | Self::Namespace)
    }
}

/// Entries in groups: states in their own order, everything else by size, the largest first. Within a group the order
/// stays.
pub(super) fn groups<T>(entries: Vec<T>, by: GroupBy, row: impl Fn(&T) -> &Row) -> Vec<(String, Vec<T>)> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<(String, Vec<T>)> = Vec::new();
    for entry in entries {
        let name = by.name(row(&entry)).unwrap_or_else(|| "-".into());
        let place = places.get(&name).copied().unwrap_or(groups.len());
        match groups.get_mut(place) {
            Some((_, members)) => members.push(entry),
            None => {
                places.insert(name.clone(), place);
                groups.push((name, vec![entry]));
            }
        }
    }
    if by == GroupBy::State {
        groups.sort_by_key(|(_, members)| members.first().map(|entry| order::place(row(entry))));
    } else {
        groups.sort_by(|one, other| other.1.len().cmp(&one.1.len()).then_with(|| one.0.cmp(&other.0)));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted() {
        let row = |state: &str, process: &str| Row {
            state: state.into(),
            process_name: Some(process.into()),
            ..Row::default()
        };
        let rows = [row("LISTENING", "a"), row("ESTABLISHED", "b"), row("ESTABLISHED", "b"), row("FIN_WAIT1", "c")];
        let by = |by| -> Vec<(String, usize)> {
            groups(rows.to_vec(), by, |row| row).into_iter().map(|(name, rows)| (name, rows.len())).collect()
        };
        let named = |pairs: &[(&str, usize)]| -> Vec<(String, usize)> {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        assert_eq!(by(GroupBy::State), named(&[("LISTENING", 1), ("ESTABLISHED", 2), ("FIN_WAIT1", 1)]));
        assert_eq!(by(GroupBy::Process), named(&[("b", 2), ("a", 1), ("c", 1)]));
        assert_eq!(by(GroupBy::Unit), named(&[("-", 4)]));
    }

    #[test]
    fn every_key_has_the_name_of_a_member_and_its_type() {
        let row = Row {
            state: "CLOSED".into(),
            protocol: "UDP".into(),
            direction: Some("INCOMING".into()),
            process_name: Some("a".into()),
            pid: Some(1),
            user: Some("root".into()),
            local_address: "::1".into(),
            local_port: Some(1),
            remote_address: Some("::2".into()),
            remote_port: Some(2),
            namespace: Some(3),
            systemd_unit: Some("a.service".into()),
            container_id: Some("ab".into()),
            attribution: Some("scan".into()),
            ..Row::default()
        };
        let json = serde_json::to_value(&row).unwrap();
        for by in GroupBy::value_variants().iter().filter(|by| **by != GroupBy::Reason) {
            let member = &json[by.member()];
            let expected = member.as_str().map_or_else(|| member.to_string(), str::to_owned);
            assert_eq!(by.name(&row), Some(expected), "{by:?}");
            assert_eq!(by.is_number(), member.is_number(), "{by:?}");
        }
    }
}

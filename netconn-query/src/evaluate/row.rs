//! Gives a filter the fields of a row of a snapshot: those that an event of the same connection has, and those that only rows have.

use std::net::IpAddr;

use netconn_model::{
    fact::Direction,
    field::{self, Field},
    row::{ROW_FIELDS, Row, RowField},
    value::JsonValue,
};

use super::EventFields;
use crate::{
    ast::{ExprKind, Query},
    diagnostic::Diagnostic,
    value::{Value, ValueKind},
};

/// Where a row has the value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// In this member.
    In(RowField),
    /// In this member, which has it in upper case.
    Lower(RowField),
    /// In the first of these, if this end began the connection, else in the second; neither without a remote end.
    ByRole(RowField, RowField),
}

/// The fields of events that rows have.
const FIELDS: &[(Field, Held)] = &[
    (Field::ConnectionId, Held::In(RowField::ConnectionId)),
    (Field::Direction, Held::In(RowField::Direction)),
    (Field::Protocol, Held::In(RowField::Protocol)),
    (Field::ProtocolName, Held::Lower(RowField::Protocol)),
    (Field::FailureReason, Held::In(RowField::FailureReason)),
    (Field::CloseReason, Held::In(RowField::CloseReason)),
    (Field::BytesSent, Held::In(RowField::BytesSent)),
    (Field::BytesReceived, Held::In(RowField::BytesReceived)),
    (Field::Namespace, Held::In(RowField::Namespace)),
    (Field::Folded, Held::In(RowField::Folded)),
    (Field::Raw, Held::In(RowField::Raw)),
    (Field::Interface, Held::In(RowField::Interface)),
    (Field::Subflow, Held::In(RowField::Subflow)),
    (Field::SrcAddress, Held::ByRole(RowField::LocalAddress, RowField::RemoteAddress)),
    (Field::SrcPort, Held::ByRole(RowField::LocalPort, RowField::RemotePort)),
    (Field::DstAddress, Held::ByRole(RowField::RemoteAddress, RowField::LocalAddress)),
    (Field::DstPort, Held::ByRole(RowField::RemotePort, RowField::LocalPort)),
    (Field::LocalAddress, Held::In(RowField::LocalAddress)),
    (Field::LocalPort, Held::In(RowField::LocalPort)),
    (Field::RemoteAddress, Held::In(RowField::RemoteAddress)),
    (Field::RemotePort, Held::In(RowField::RemotePort)),
    (Field::Attribution, Held::In(RowField::Attribution)),
    (Field::ProcessPid, Held::In(RowField::Pid)),
    (Field::ProcessName, Held::In(RowField::ProcessName)),
    (Field::ProcessPath, Held::In(RowField::Executable)),
    (Field::ProcessCmdline, Held::In(RowField::CommandLine)),
    (Field::ProcessUser, Held::In(RowField::User)),
    (Field::ProcessUserId, Held::In(RowField::UserId)),
    (Field::SystemdUnit, Held::In(RowField::SystemdUnit)),
    (Field::ContainerId, Held::In(RowField::ContainerId)),
];

/// Returns the members of rows that no field of events stands for, as a filter over rows names them, for
/// [`Predicate::compile`](super::Predicate::compile).
pub fn fields_of_rows() -> Vec<(&'static str, ValueKind)> {
    let is_own = |member: RowField| FIELDS.iter().all(|(_, held)| *held != Held::In(member));
    let own = ROW_FIELDS.iter().filter(|info| is_own(info.field));
    own.map(|info| (info.name, info.r#type.into())).collect()
}

/// Warns of each field that events have and rows do not.
pub fn without_fields_of_events(query: &Query) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    let mut waiting = query.expressions();
    while let Some(expr) = waiting.pop() {
        if let ExprKind::Field(name) = &expr.kind
            && field::by_name(name).is_some_and(|info| FIELDS.iter().all(|(field, _)| *field != info.field))
        {
            let message = format!(
                "'{name}' is a field of events that connections in a list do not have, so it is null in every row: \
                 `netconn watch` and `netconn search` have it"
            );
            warnings.push(Diagnostic::warning(expr.span, message));
        }
        waiting.extend(expr.children());
    }
    warnings.sort_by_key(|warning| warning.span.start);
    warnings
}

impl EventFields for Row<'_> {
    fn value(&self, field: Field) -> Option<Value<'_>> {
        let value = match held(field)? {
            Held::In(member) => self.value(member)?,
            Held::Lower(member) => match self.value(member)? {
                JsonValue::Text(text) => JsonValue::Text(text.to_lowercase().into()),
                other => other,
            },
            Held::ByRole(outgoing, incoming) => self.value(by_role(self, outgoing, incoming)?)?,
        };
        Some(value.into())
    }

    fn address(&self, field: Field) -> Option<IpAddr> {
        let member = match held(field)? {
            Held::In(member) => member,
            Held::Lower(_) => return None,
            Held::ByRole(outgoing, incoming) => by_role(self, outgoing, incoming)?,
        };
        match member {
            RowField::LocalAddress => self.local_address,
            RowField::RemoteAddress => self.remote_address,
            _ => None,
        }
    }

    fn other(&self, name: &str) -> Option<Value<'_>> {
        let info = ROW_FIELDS.iter().find(|info| info.name == name)?;
        self.value(info.field).map(Value::from)
    }
}

fn held(field: Field) -> Option<Held> {
    FIELDS.iter().find(|(known, _)| *known == field).map(|(_, held)| *held)
}

/// Chooses a member by the end that began the connection, as events do: of one whose direction is not known, this end.
fn by_role(row: &Row<'_>, outgoing: RowField, incoming: RowField) -> Option<RowField> {
    // A listener and a folded flow have one end and no roles.
    row.remote_address?;
    Some(if row.direction == Some(Direction::Incoming) { incoming } else { outgoing })
}

#[cfg(test)]
mod tests {
    use netconn_model::value::PlainText;

    use super::*;
    use crate::{evaluate::Predicate, parse};

    fn row() -> Row<'static> {
        Row {
            state: Some(PlainText::new("ESTABLISHED")),
            protocol: Some(PlainText::new("TCP")),
            direction: Some(Direction::Incoming),
            local_address: "192.0.2.1".parse().ok(),
            local_port: Some(443),
            remote_address: "2001:db8::1".parse().ok(),
            remote_port: Some(40_000),
            process_name: Some("nginx".into()),
            bytes_sent: Some(7),
            ..Row::default()
        }
    }

    fn holds(filter: &str, row: &Row<'_>) -> bool {
        let query = parse(filter).query.unwrap();
        Predicate::compile(&query, &fields_of_rows()).unwrap().predicate.matches(row)
    }

    #[test]
    fn a_row_answers_as_an_event_would() {
        for filter in [
            "dst.port.number = 443 and not src.process.name = 'curl'",
            "src.ip.address = '2001:DB8::1' and src.port.number = 40000",
            "dst.ip.address in ('192.0.2.0/24')",
            "local.port.number < 1024 and remote.port.number > 1024",
            "event.network.direction = 'INCOMING' and event.network.protocol = 'TCP'",
            "event.network.protocolName = 'tcp'",
            "src.process.name contains 'GIN' and event.network.bytesSent = 7",
            "state = 'ESTABLISHED' and ended_at = null",
            "src.process.pid = null",
        ] {
            assert!(holds(filter, &row()), "{filter}");
        }
        let other_way = Row { direction: Some(Direction::Outgoing), ..row() };
        assert!(holds("src.port.number = 443 and dst.ip.address = '2001:db8::1'", &other_way));
        let listener = Row { remote_address: None, remote_port: None, direction: None, ..row() };
        assert!(holds("src.port.number = null and dst.port.number = null and local.port.number = 443", &listener));
    }

    #[test]
    fn every_member_has_one_name() {
        let own = fields_of_rows();
        assert!(own.iter().any(|(name, _)| *name == "state"));
        for info in ROW_FIELDS {
            let names = FIELDS.iter().filter(|(_, held)| *held == Held::In(info.field)).count();
            let is_own = own.iter().any(|(name, _)| *name == info.name);
            assert_eq!(names + usize::from(is_own), 1, "{}", info.name);
            assert!(!is_own || field::by_name(info.name).is_none(), "{} is a field of events", info.name);
        }
        // The same type in both, or a comparison would not mean the same.
        for (field, held) in FIELDS {
            let (Held::In(member) | Held::Lower(member) | Held::ByRole(member, _)) = held;
            assert_eq!(field.info().r#type, member.info().r#type, "{}", field.info().name);
        }
    }

    #[test]
    fn fields_that_rows_lack_are_said() {
        let warnings = |filter: &str| {
            let query = parse(filter).query.unwrap();
            without_fields_of_events(&query).into_iter().map(|warning| warning.message).collect::<Vec<_>>()
        };
        assert!(warnings("dst.port.number = 443 and state = 'x'").is_empty());
        let found = warnings("event.type = 'IP Connect' or not (endpoint.name contains 'x')");
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("'event.type' is a field of events that connections in a list do not have"));
    }
}

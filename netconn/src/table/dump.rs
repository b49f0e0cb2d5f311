//! What a record of a dump means, beside what it says itself.

use std::rc::Rc;

use netconn_common::{Owner, TcpRecord, attribution, role, tcp_state};

use crate::{
    process::Process,
    table::{Connection, Table},
};

impl Table {
    /// A connection of a dump as it would be in the table, of which this needs the listeners only; `None` if it would not
    /// be there. For whoever looks once: a table of all costs more than the dump.
    pub fn dumped(
        &self,
        record: &mut TcpRecord,
        process: impl FnOnce(&Owner) -> Option<Rc<Process>>,
    ) -> Option<Connection> {
        record.state.role = self.role_in_dump(record);
        if !is_shown(record) {
            return None;
        }
        let mut connection = self.begin(record, process);
        connection.update(record);
        Some(connection)
    }

    /// Who began a connection of a dump: of those that are older than netconn the listeners tell.
    pub(super) fn role_in_dump(&self, record: &TcpRecord) -> u32 {
        if record.state.role != role::UNKNOWN || matches!(record.new_state, tcp_state::LISTEN | tcp_state::SYN_SENT) {
            return record.state.role;
        }
        let is_incoming = self.listeners.contains_key(&(record.namespace, record.local_port));
        if is_incoming { role::PASSIVE } else { role::ACTIVE }
    }
}

/// Whether a record of a dump is a connection: a child that is not connected yet is not reported, see
/// `inet_sock_set_state`.
pub(super) fn is_shown(record: &TcpRecord) -> bool {
    let is_half = record.new_state == tcp_state::SYN_RECV
        && record.state.role == role::PASSIVE
        && matches!(record.state.owner.how, attribution::LISTENER | attribution::UNKNOWN);
    !is_half && record.new_state != tcp_state::CLOSE
}

//! Connections from TCP records.

use std::rc::Rc;

use netconn_common::{IPPROTO_TCP, TcpRecord, attribution, role, tcp_state};
use netconn_model::fact::End;

use super::{Connection, address};
use crate::process::Process;

impl Connection {
    /// Returns the entry as it was before `record`; [`update`](Self::update) applies the record itself.
    pub(in crate::table) fn from_tcp(record: &TcpRecord, process: Option<Rc<Process>>) -> Self {
        let old = record.old_state;
        let role = match (record.state.role, old) {
            // The socket is older than netconn: the state it leaves says how it got there. SYN_RECV from both sides at
            // once is taken for the common case.
            (role::UNKNOWN, tcp_state::LISTEN) => role::LISTENER,
            (role::UNKNOWN, tcp_state::SYN_SENT) => role::ACTIVE,
            (role::UNKNOWN, tcp_state::SYN_RECV) => role::PASSIVE,
            (known, _) => known,
        };
        // A life that netconn saw begin has a time of birth. If there was no memory to keep it in, the first state change of
        // an accepted connection shows that it is new.
        let is_child = record.state.generation == 0 && old == tcp_state::SYN_RECV;
        Self {
            generation: record.state.generation,
            role,
            // The state before: `update` moves it on, and the table sees a change.
            state: old,
            protocol: IPPROTO_TCP,
            namespace: record.namespace,
            local: local_end(record),
            owner: record.state.owner,
            born_ns: record.state.born_ns,
            changed_ns: record.header.time_ns,
            totals: record.totals,
            preexisting: record.state.born_ns == 0 && !is_child,
            ..Self::blank(record.socket, process)
        }
    }

    /// Returns a connection of which the kernel keeps a minisock and nothing else is known.
    pub(in crate::table) fn of_minisock((namespace, local, remote): (u32, End, End), state: u8) -> Self {
        let remote = Some(remote);
        Self { state, protocol: IPPROTO_TCP, namespace, local, remote, preexisting: true, ..Self::blank(0, None) }
    }

    /// Applies a record, apart from its owner.
    pub(in crate::table) fn update(&mut self, record: &TcpRecord) {
        self.sequence = record.state.sequence;
        // Collected: records can be lost or outdated, marks are never taken back within a life.
        self.marks |= record.state.marks;
        // A record without memory does not know the time: the known one stays.
        if record.state.established_ns != 0 {
            self.established_ns = record.state.established_ns;
        }
        self.changed_ns = record.header.time_ns;
        self.totals = record.totals;
        // Minisocks of a connection lose it.
        self.device = if record.device == 0 { self.device } else { record.device };
        // The role of a listener never changes: the table indexes listeners when it inserts them.
        if self.role == role::UNKNOWN && record.state.role != role::LISTENER {
            self.role = record.state.role;
        }
        let local = local_end(record);
        let remote = End { address: address(record.family, &record.remote_address), port: record.remote_port };
        // `tcp_disconnect` and the end of a bound socket clear addresses and ports: the known ones are kept. The local end of
        // a listener is the key of its index.
        if self.role != role::LISTENER && (local.port != 0 || self.local.port == 0) {
            self.local = local;
        }
        if self.role != role::LISTENER && (remote.port != 0 || self.remote.is_none()) {
            self.remote = Some(remote);
        }
        // At its end an entry stays in the state it ended in: the close reason and minisocks depend on it.
        if record.new_state != tcp_state::CLOSE {
            self.state = record.new_state;
        }
    }

    /// Takes the owner of a record if it says more than what is known, and returns whether it did. `dump` is the number of
    /// the last dump that has begun.
    ///
    /// Changes of owners have records of their own. A TCP record may carry a half-written owner, unless it comes from a dump
    /// or no owner was known.
    pub(in crate::table) fn update_owner(&mut self, record: &TcpRecord, dump: u32) -> bool {
        let owner = record.state.owner;
        // The dump may have read the socket before its owner changed.
        let is_from_dump = record.old_state == record.new_state && self.owned_in != dump;
        // A dump is right about any owner but the listener's, which is what a socket has before a process uses it.
        let is_better = owner.tgid != 0
            && owner != self.owner
            && (self.owner.tgid == 0 || (is_from_dump && owner.how != attribution::LISTENER));
        if self.owner.tgid == 0 && owner.how == attribution::USER {
            // Better than nothing, and no process.
            self.owner = owner;
        }
        if is_better {
            self.owner = owner;
            // It was about the owner before.
            self.succession = None;
        }
        is_better
    }
}

fn local_end(record: &TcpRecord) -> End {
    End { address: address(record.family, &record.local_address), port: record.local_port }
}

//! Changes of connections that become events, and the order in which they are reported.

use netconn_common::{TcpRecord, role, tcp_state};
use netconn_model::{
    fact::{CloseReason, Failure, Outcome},
    state,
};

use super::{
    Connection, Effects,
    connection::{close_reason, failure},
};

/// A change of a connection that becomes an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// An attempt has succeeded or failed, a connection was accepted, or a flow has begun.
    Connect(Outcome),
    /// An established connection has ended; with the errno, 0 if none.
    Close(CloseReason, u32),
    /// A socket listens.
    Listen,
    /// It no longer listens.
    ListenEnd,
}

impl Change {
    /// Returns whether it tells a failure: of an attempt, or of a flow that ends and that its peer has refused.
    pub fn is_failure(self, connection: &Connection) -> bool {
        match self {
            Self::Connect(Outcome::Failure(..)) => true,
            // A refusal that came too late for the event of the beginning.
            Self::Close(..) => connection.refusal().is_some(),
            Self::Connect(Outcome::Success) | Self::Listen | Self::ListenEnd => false,
        }
    }

    /// Returns the state that the change reports. What the connection has become since, when its event was held back, is another
    /// matter.
    pub fn state(self, connection: &Connection) -> u8 {
        match self {
            // A raw socket is connected to nobody, whatever it exchanges.
            Self::Connect(Outcome::Success) if connection.is_raw() => state::UNCONNECTED,
            Self::Connect(Outcome::Success) => tcp_state::ESTABLISHED,
            // Datagram sockets are bound, connected or not.
            Self::Listen => connection.state,
            Self::Connect(Outcome::Failure(..)) | Self::Close(..) | Self::ListenEnd => state::CLOSED,
        }
    }
}

/// Reports that a connection or listener is up.
pub(super) fn announce(connection: &mut Connection, now: u64, effects: &mut impl Effects) {
    // Set before the event is emitted, because the end of the connection asks for it.
    connection.announced = true;
    let change = if connection.is_listener() { Change::Listen } else { Change::Connect(Outcome::Success) };
    effects.emit(change, connection, connection.up_since(now));
}

/// Reports the end of a connection without its last record. If its beginning was held back, that is reported first.
pub(super) fn finish(connection: &mut Connection, reason: CloseReason, now: u64, effects: &mut impl Effects) {
    // An end without a beginning would be an event that nothing can be joined with.
    if !connection.announced && connection.is_up() {
        announce(connection, now, effects);
    }
    let change = match (connection.role, connection.announced) {
        (role::LISTENER, _) => Change::ListenEnd,
        (_, true) => Change::Close(reason, connection.exchanged.as_ref().map_or(0, |exchanged| exchanged.refused)),
        // Never up: the attempt failed for a reason that nobody saw.
        (_, false) => Change::Connect(Outcome::Failure(Failure::Other, 0)),
    };
    effects.emit(change, connection, now);
}

/// Returns the change that the last record of a life means.
pub(super) fn last_change(connection: &Connection, record: &TcpRecord) -> Change {
    match (connection.role, connection.announced) {
        (role::LISTENER, _) => Change::ListenEnd,
        (_, true) => {
            // The marks of all records: the last one alone does not say which end sent the first FIN.
            let (reason, errno) = close_reason(record, connection.marks);
            Change::Close(reason, errno)
        }
        (_, false) => {
            let (failure, errno) = failure(record);
            Change::Connect(Outcome::Failure(failure, errno))
        }
    }
}

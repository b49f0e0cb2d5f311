//! The coverage of a dump of the kernel's sockets: the network namespaces it has read, and the sockets that ended while it was
//! taken.

use std::collections::HashSet;

use hashbrown::HashMap;
use netconn_common::UNKNOWN_U32;
use netconn_model::fact::CloseReason;

use super::Connection;

/// Age from which on a connection is in the kernel's tables: an attempt, or an accepted connection, is inserted a moment
/// after its first record.
pub(super) const SETTLED_NS: u64 = 10_000_000;

/// The coverage of a dump.
#[derive(Debug, Default)]
pub struct Coverage {
    /// Inodes of the network namespaces that were read.
    pub namespaces: HashSet<u64>,
    /// When it was begun, nanoseconds since boot: for a dump without sockets, which have times of their own.
    pub begun_ns: u64,
    /// Another dump follows at once; that one decides what has gone.
    pub is_first_of_two: bool,
    /// Numbers of the sockets that a process has open, in any namespace; `None`: not known.
    pub open_sockets: Option<hashbrown::HashSet<u64>>,
}

/// Returns whether a namespace was read. Where namespaces are not known there is only one.
pub(super) fn is_read(namespaces: &HashSet<u64>, namespace: u32) -> bool {
    namespace == UNKNOWN_U32 || namespaces.contains(&u64::from(namespace))
}

impl Coverage {
    pub(super) fn reads(&self, connection: &Connection) -> bool {
        is_read(&self.namespaces, connection.namespace)
    }

    /// Prepares the verdict on what is gone, from all `connections` of a table.
    pub(super) fn judge<'a>(&'a self, connections: impl Iterator<Item = &'a Connection>) -> Verdicts<'a> {
        let open = self.open_sockets.as_ref().map(|open| {
            // From sockets to namespaces once, so that the verdict on each connection is one look-up.
            let open = connections.filter(|connection| open.contains(&connection.socket));
            open.map(|connection| connection.namespace).collect()
        });
        Verdicts { coverage: self, open }
    }
}

/// The verdict of a dump on connections that it does not contain.
pub(super) struct Verdicts<'a> {
    coverage: &'a Coverage,
    /// Namespaces in which a process has a socket open; `None`: not known.
    open: Option<hashbrown::HashSet<u32>>,
}

impl Verdicts<'_> {
    /// Returns why a connection has ended unseen; `None` if it may still be there. `is_absent` says that a dump of its
    /// namespace does not contain it.
    pub(super) fn end_of(&self, connection: &Connection, is_absent: bool) -> Option<CloseReason> {
        if self.coverage.reads(connection) {
            // The dump read this namespace: what it lacks is gone.
            return is_absent.then_some(CloseReason::Unknown);
        }
        // A namespace without processes and without a name cannot be read. It exists as long as one of its sockets is open.
        let is_gone = self.open.as_ref().is_some_and(|open| !open.contains(&connection.namespace));
        is_gone.then_some(CloseReason::NamespaceGone)
    }
}

/// Inodes of the network namespaces that the last dump could not read, and whose connections it left in the table. They
/// do not call for another dump until they are [doubted](Self::doubt).
#[derive(Debug, Default)]
pub(super) struct Unreadable(hashbrown::HashSet<u32>);

impl Unreadable {
    pub(super) fn contains(&self, namespace: u32) -> bool {
        self.0.contains(&namespace)
    }

    /// Notes the `connections` that a dump has left.
    pub(super) fn note<'a>(&mut self, connections: impl Iterator<Item = &'a Connection>, coverage: &Coverage) {
        let unreadable = connections.filter(|connection| !coverage.reads(connection));
        self.0 = unreadable.map(|connection| connection.namespace).collect();
    }

    /// Forgets them, so that the next comparison calls for a dump if there still are any.
    pub(super) fn doubt(&mut self) {
        self.0.clear();
    }
}

/// Sockets that have ended while a dump was taken, with the last life that ended: the dump is outdated for these.
pub(super) type EndedMeanwhile = HashMap<u64, u32, foldhash::fast::RandomState>;

/// The dumps of a table.
#[derive(Debug, Default)]
pub(super) struct Dumps {
    begun: u32,
    has_ended: bool,
    /// While a dump is taken.
    ended: Option<EndedMeanwhile>,
}

impl Dumps {
    /// Begins a dump: from here on the ends of sockets are noted.
    pub(super) fn begin(&mut self) {
        // Starts at 1: entries that no dump has seen have 0.
        self.begun = self.begun.saturating_add(1);
        self.ended = Some(HashMap::default());
    }

    /// Forgets the dump that was begun.
    pub(super) fn abandon(&mut self) {
        self.ended = None;
    }

    /// Ends the dump that was begun and returns the sockets that have ended meanwhile; `None` if none was begun.
    pub(super) fn end(&mut self) -> Option<EndedMeanwhile> {
        self.has_ended |= self.ended.is_some();
        self.ended.take()
    }

    /// Returns the number of dumps that were begun.
    pub(super) fn begun(&self) -> u32 {
        self.begun
    }

    /// Returns whether no dump has been completed yet.
    pub(super) fn is_first(&self) -> bool {
        !self.has_ended
    }

    /// Notes that a life of a socket has ended.
    pub(super) fn note_end(&mut self, socket: u64, generation: u32) {
        if let Some(ended) = &mut self.ended {
            ended.insert(socket, generation);
        }
    }
}

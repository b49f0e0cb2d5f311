//! Events on their way to the outputs: their lines, and beside each what is asked of an event after it was encoded.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::AddAssign,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use netconn_common::{Owner, role};

use crate::{
    process::Key,
    table::{Change, Connection},
};

/// Encoded events, ready to be written: whole lines, which all outputs share.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The lines, each with its line feed.
    pub lines: Bytes,
    /// One note for each line, in the same order.
    pub notes: Arc<[EventNote]>,
}

impl Batch {
    /// Returns a batch of one event of the daemon itself.
    pub fn of_daemon(line: Bytes) -> Self {
        let notes = Arc::new([EventNote::of_daemon(line.len())]);
        Self { lines: line, notes }
    }

    /// Returns the number of events.
    pub fn events(&self) -> u64 {
        self.notes.len() as u64
    }

    /// Returns the events for which the function returns `true`, and the counts of the others; no batch if all are others.
    pub fn split(&self, mut keeps: impl FnMut(&EventNote) -> bool) -> (Option<Self>, EventCounts) {
        let (mut notes, mut lines, mut lost) = (Vec::new(), BytesMut::new(), EventCounts::default());
        let mut rest = &*self.lines;
        for note in &*self.notes {
            // The lengths add up to the lines, so the default is never used.
            let (line, behind) = rest.split_at_checked(note.length as usize).unwrap_or_default();
            rest = behind;
            if keeps(note) {
                notes.push(*note);
                lines.extend_from_slice(line);
            } else {
                lost.add(note.class);
            }
        }
        if lost.events == 0 {
            // Nothing was left out: all outputs go on sharing the lines.
            return (Some(self.clone()), lost);
        }
        let kept = Self { lines: lines.freeze(), notes: notes.into() };
        ((kept.events() != 0).then_some(kept), lost)
    }
}

/// What queues, reports of losses and the history ask about an event. It is noted once, when the event is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventNote {
    /// Bytes of its line, with the line feed.
    pub length: u32,
    /// What it tells.
    pub class: EventClass,
    /// Who caused it; none if it is of the daemon itself.
    pub origin: Option<EventOrigin>,
}

impl EventNote {
    /// Returns the note of an event of a connection.
    pub fn of(length: usize, change: Change, connection: &Connection) -> Self {
        let owner = &connection.owner;
        let is_known = owner.tgid != 0;
        let origin = EventOrigin {
            process: is_known.then(|| Key::of(owner)),
            user: owner.user(),
            beginner: connection.remote.filter(|_| connection.role == role::PASSIVE).map(|remote| {
                // Whoever connects to this host from itself has the choice of its addresses.
                let is_own = remote.address == connection.local.address;
                if is_own { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { remote.address }
            }),
        };
        Self { length: shortened(length), class: EventClass::of(change, connection), origin: Some(origin) }
    }

    /// Returns the note of an event of a packet socket.
    pub fn of_packet_socket(length: usize, owner: &Owner) -> Self {
        let process = (owner.tgid != 0).then(|| Key::of(owner));
        let origin = EventOrigin { process, user: owner.user(), beginner: None };
        Self { length: shortened(length), class: EventClass::Listener, origin: Some(origin) }
    }

    /// Returns the note of an event of the daemon itself.
    pub fn of_daemon(length: usize) -> Self {
        Self { length: shortened(length), class: EventClass::Daemon, origin: None }
    }
}

fn shortened(length: usize) -> u32 {
    // An event takes at most `encode::EVENT_MAX` bytes.
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Who caused an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventOrigin {
    /// The process that has the socket, if it is known.
    pub process: Option<Key>,
    /// Its Unix user id.
    pub user: Option<u32>,
    /// The other end, if that began the connection; 127.0.0.1 if it has the same address as this one.
    pub beginner: Option<IpAddr>,
}

/// What an event tells: what reports of losses tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventClass {
    /// `IP Connect` of an attempt over TCP that began after the daemon did: what the kernel counts as `ActiveOpens`.
    Outgoing,
    /// Any other `IP Connect` of TCP.
    Incoming,
    /// `IP Connect` of a flow of datagrams.
    Flow,
    /// `IP Close`.
    Close,
    /// `IP Listen`, `IP Listen End`, `Packet Socket` or `Packet Socket End`.
    Listener,
    /// An event of the daemon itself.
    Daemon,
}

impl EventClass {
    /// Returns what an event of a connection tells.
    pub fn of(change: Change, connection: &Connection) -> Self {
        match change {
            // What raw sockets send may be TCP too.
            Change::Connect(_) if connection.is_flow() => Self::Flow,
            Change::Connect(_) if connection.role == role::ACTIVE && !connection.preexisting => Self::Outgoing,
            Change::Connect(_) => Self::Incoming,
            Change::Close(..) => Self::Close,
            Change::Listen | Change::ListenEnd => Self::Listener,
        }
    }
}

/// Number of events, and of those among them whose sum is compared with the kernel's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// All of them.
    pub events: u64,
    /// Those of [`EventClass::Outgoing`].
    pub outgoing: u64,
    /// Those of [`EventClass::Incoming`].
    pub incoming: u64,
}

impl EventCounts {
    /// Returns the counts of these events.
    pub fn of(notes: &[EventNote]) -> Self {
        let mut counts = Self::default();
        notes.iter().for_each(|note| counts.add(note.class));
        counts
    }

    /// Adds an event.
    pub fn add(&mut self, class: EventClass) {
        self.events += 1;
        match class {
            EventClass::Outgoing => self.outgoing += 1,
            EventClass::Incoming => self.incoming += 1,
            EventClass::Flow | EventClass::Close | EventClass::Listener | EventClass::Daemon => {}
        }
    }

    /// Returns what has been added since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            events: self.events.saturating_sub(before.events),
            outgoing: self.outgoing.saturating_sub(before.outgoing),
            incoming: self.incoming.saturating_sub(before.incoming),
        }
    }
}

impl AddAssign for EventCounts {
    fn add_assign(&mut self, other: Self) {
        let Self { events, outgoing, incoming } = self;
        *events += other.events;
        *outgoing += other.outgoing;
        *incoming += other.incoming;
    }
}

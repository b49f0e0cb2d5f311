//! A limit of events per second and kind (`event_limit_per_second`). What exceeds it is folded: counted, and told once a second.

use netconn_model::fact::EventKind;

use crate::sink::{EventCounts, EventNote, Shares};

const SECOND_NS: u64 = 1_000_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EventLimit {
    /// Events of a kind that are told in a second; 0: all.
    per_second: u64,
    kinds: [KindLimit; KINDS.len()],
    /// All that were folded.
    total: EventCounts,
}

/// The kinds that have a limit: those of connections and packet sockets.
const KINDS: [EventKind; 6] = [
    EventKind::Connect,
    EventKind::Close,
    EventKind::Listen,
    EventKind::ListenEnd,
    EventKind::PacketSocket,
    EventKind::PacketSocketEnd,
];

/// What was told of a kind in the second that goes on, and what was folded since that was last told.
#[derive(Debug, Default)]
struct KindLimit {
    second: u64,
    told: u64,
    /// Whose events were told, as in a queue: a process that floods leaves two sevenths to others.
    shares: Shares,
    folded: Option<FoldedKind>,
}

/// Events of a kind that were folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoldedKind {
    /// How many.
    pub(super) counts: EventCounts,
    /// When the first and the last of them were, nanoseconds since boot.
    pub(super) span_ns: (u64, u64),
}

impl EventLimit {
    /// Returns a limit; 0 is none.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: per_second.into(), ..Self::default() }
    }

    /// Sets another limit.
    pub(super) fn set(&mut self, per_second: u32) {
        self.per_second = per_second.into();
    }

    /// Returns the limit; 0 is none.
    pub(super) fn per_second(&self) -> u32 {
        u32::try_from(self.per_second).unwrap_or(u32::MAX)
    }

    /// Whether there is a limit.
    pub(super) fn is_on(&self) -> bool {
        self.per_second != 0
    }

    /// Returns whether an event is told now, nanoseconds since boot; otherwise counts it.
    pub(super) fn admits(&mut self, kind: EventKind, note: &EventNote, now: u64) -> bool {
        let Self { per_second, kinds, total } = self;
        let Some(index) = KINDS.iter().position(|known| *known == kind) else { return true };
        let Some(limit) = kinds.get_mut(index) else { return true };
        if limit.second != now / SECOND_NS {
            limit.second = now / SECOND_NS;
            limit.told = 0;
            limit.shares.clear();
        }
        if limit.shares.admit_part(note, 1, per_second.saturating_sub(limit.told)) {
            limit.told += 1;
            return true;
        }
        total.add(note.class);
        let folded = limit.folded.get_or_insert(FoldedKind { counts: EventCounts::default(), span_ns: (now, now) });
        folded.counts.add(note.class);
        folded.span_ns.1 = now;
        false
    }

    /// Returns what was folded since this was last called, by kind.
    pub(super) fn take_folded(&mut self) -> Vec<(EventKind, FoldedKind)> {
        let taken = KINDS.iter().zip(&mut self.kinds).map(|(kind, limit)| (*kind, limit.folded.take()));
        taken.filter_map(|(kind, folded)| Some((kind, folded?))).collect()
    }

    /// Returns what was folded since the start.
    pub(super) fn total(&self) -> EventCounts {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use netconn_common::Owner;

    use super::*;

    fn of_process(tgid: u32) -> EventNote {
        EventNote::of_packet_socket(0, &Owner { tgid, ..Owner::default() })
    }

    #[test]
    fn what_exceeds_a_second_is_folded_by_kind() {
        let mut limit = EventLimit::new(70);
        let second = |number: u64| number * SECOND_NS;
        let told = |limit: &mut EventLimit, kind, tgid, now| {
            let note = of_process(tgid);
            (0..1000).filter(|_| limit.admits(kind, &note, now)).count()
        };
        assert_eq!(told(&mut limit, EventKind::Listen, 1, second(5)), 50, "five sevenths of it");
        assert!(told(&mut limit, EventKind::Listen, 2, second(5)) >= 10, "another process");
        assert_eq!(told(&mut limit, EventKind::ListenEnd, 1, second(5) + 7), 50, "another kind");
        assert_eq!(told(&mut limit, EventKind::Listen, 1, second(6)), 50, "another second");
        let folded = limit.take_folded();
        assert_eq!((folded.len(), folded[0].0, folded[1].0), (2, EventKind::Listen, EventKind::ListenEnd));
        assert_eq!(folded[0].1.span_ns, (second(5), second(6)));
        assert_eq!((folded[1].1.counts.events, folded[1].1.span_ns), (950, (second(5) + 7, second(5) + 7)));
        assert_eq!(limit.total().events, folded[0].1.counts.events + 950);
        for kind in [EventKind::PacketSocket, EventKind::PacketSocketEnd] {
            assert_eq!(told(&mut limit, kind, 1, second(6)), 50, "packet sockets as well");
        }
        assert_eq!(told(&mut limit, EventKind::SensorStart, 1, second(6)), 1000, "nothing of the daemon itself");
        assert_eq!(limit.take_folded().len(), 2);
        assert!(limit.take_folded().is_empty() && limit.is_on() && !EventLimit::default().is_on());
    }
}

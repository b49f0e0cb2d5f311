//! Losses are told: those of the kernel's ring when they are seen, those of an output when it can write them down itself.

use netconn_model::health::LossStage;
use tracing::warn;

use crate::{
    encode::event::{KernelLoss, Loss},
    engine::run::Loop,
    sink::LostEvents,
};

/// What an output has lost, and how much of it was told.
///
/// To tell it while the output still loses would lose that too, and the output would never say that anything is missing: so
/// it waits until it writes again, and has lost nothing since it was looked at last.
#[derive(Clone, Debug, Default)]
pub(super) struct OutputLoss {
    told: LostEvents,
    seen: LostEvents,
    /// Time of what was not told, nanoseconds since boot.
    from_ns: u64,
    to_ns: u64,
}

/// How an output is.
#[derive(Clone, Copy, Debug)]
struct Seen {
    lost: LostEvents,
    /// What it is given now will be written, as far as that is known.
    writes: bool,
}

/// What there is to tell, from when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Untold {
    lost: LostEvents,
    from_ns: u64,
    to_ns: u64,
}

impl OutputLoss {
    /// Looks at an output, which was looked at last at `from_ns`. Gives what it has lost since then, to be logged at once, and
    /// what it can be told.
    fn look(&mut self, seen: Seen, from_ns: u64, now_ns: u64) -> (LostEvents, Option<Untold>) {
        let new = seen.lost.since(self.seen);
        if new != LostEvents::default() {
            if self.seen == self.told {
                self.from_ns = from_ns;
            }
            (self.seen, self.to_ns) = (seen.lost, now_ns);
            return (new, None);
        }
        (new, if seen.writes { self.take() } else { None })
    }

    /// What was not told, whether or not the output can write it.
    fn take(&mut self) -> Option<Untold> {
        let lost = self.seen.since(std::mem::replace(&mut self.told, self.seen));
        (lost != LostEvents::default()).then_some(Untold { lost, from_ns: self.from_ns, to_ns: self.to_ns })
    }
}

impl Loop {
    /// Tells what was lost since the last time; whether records of the kernel were. At the end everything is told.
    pub(super) fn tell_losses(&mut self, now: u64, is_end: bool) -> bool {
        let from_ns = std::mem::replace(&mut self.told.checked_ns, now);
        self.told.records = self.core.records;
        for (output, loss) in self.outputs.iter().zip(&mut self.told.outputs) {
            let seen = Seen { lost: output.lost(), writes: output.is_writing() };
            let (new, mut untold) = loss.look(seen, from_ns, now);
            for (stage, count) in output.loss_stages(new) {
                warn!("{count} events were lost ({}) by {}", stage.name(), output.destination());
            }
            if is_end {
                untold = untold.or_else(|| loss.take());
            }
            let Some(Untold { lost, from_ns, to_ns }) = untold else { continue };
            for (stage, count) in output.loss_stages(lost) {
                let (stage, output) = (stage.name(), Some(output.name()));
                self.core.telling.lose(Loss { stage, output, count, kernel: None, from_ns, to_ns });
            }
        }
        let losses = self.losses();
        let uncounted = losses.uncounted.saturating_sub(self.told.kernel.uncounted);
        if uncounted != 0 {
            self.told.kernel.uncounted = losses.uncounted;
            warn!("{uncounted} datagrams were counted in no flow: a larger max_flows in the configuration helps");
            let stage = LossStage::Flows.name();
            let loss = Loss { stage, output: None, count: uncounted, kernel: None, from_ns, to_ns: now };
            self.core.telling.lose(loss);
        }
        if !losses.exceed(&self.told.kernel) {
            return false;
        }
        let before = std::mem::replace(&mut self.told.kernel, losses);
        let records = losses.records().saturating_sub(before.records());
        let events = losses.events.since(&before.events);
        warn!("{records} records were lost (ring), and {} events with them", events.total());
        let kernel = Some(KernelLoss { records, outgoing: events.outgoing, incoming: events.incoming });
        let stage = LossStage::Ring.name();
        let loss = Loss { stage, output: None, count: events.total(), kernel, from_ns, to_ns: now };
        self.core.telling.lose(loss);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_when_it_is_over() {
        let mut loss = OutputLoss::default();
        let mut look = |queue, refused, writes, now| {
            loss.look(Seen { lost: LostEvents { queue, refused }, writes }, now - 10, now).1
        };
        assert_eq!(look(0, 0, true, 10), None, "nothing to tell");
        assert_eq!(look(0, 3, false, 20), None, "it has just lost some");
        assert_eq!(look(0, 3, false, 30), None, "it cannot write");
        assert_eq!(look(1, 4, true, 40), None, "it writes, and has just lost some");
        let told = Untold { lost: LostEvents { queue: 1, refused: 4 }, from_ns: 10, to_ns: 40 };
        assert_eq!(look(1, 4, true, 50), Some(told));
        assert_eq!(look(1, 4, true, 60), None, "once");
        assert_eq!(look(1, 6, true, 70), None);
        assert_eq!(
            look(1, 6, true, 80),
            Some(Untold { lost: LostEvents { queue: 0, refused: 2 }, from_ns: 60, to_ns: 70 })
        );
        assert_eq!(look(2, 6, true, 90), None);
        assert_eq!(
            loss.take(),
            Some(Untold { lost: LostEvents { queue: 1, refused: 0 }, from_ns: 80, to_ns: 90 }),
            "the end"
        );
        assert_eq!(loss.take(), None);
    }
}

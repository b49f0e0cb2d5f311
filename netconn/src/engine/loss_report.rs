//! Reports of losses: those in the kernel when they are seen, those of an output when it can write the report itself.

use netconn_model::fact::LossStage;
use tracing::warn;

use crate::{
    encode::event::{Loss, LostConnects},
    engine::{publisher::connects, run::Engine},
    kernel::losses::Losses,
    sink::OutputLosses,
};

/// Losses, and how many of them were reported.
pub(super) struct LossReport {
    /// State changes that only comparisons with the kernel have shown to be missed.
    missed: u64,
    /// Losses in the kernel that were reported.
    reported: Losses,
    /// Records of datagrams that were lost and have been made up for.
    repaired_datagrams: u64,
    /// By output.
    outputs: Vec<OutputLoss>,
}

impl LossReport {
    /// Returns a report of no losses, for this number of outputs.
    pub(super) fn new(outputs: usize) -> Self {
        let outputs = vec![OutputLoss::default(); outputs];
        Self { missed: 0, reported: Losses::default(), repaired_datagrams: 0, outputs }
    }

    /// Adds state changes that were missed.
    pub(super) fn add_missed(&mut self, count: u64) {
        self.missed += count;
    }

    /// Returns the losses in the kernel that were reported.
    pub(super) fn reported(&self) -> &Losses {
        &self.reported
    }

    /// Returns whether records of datagrams were lost since this was last called.
    pub(super) fn take_lost_datagrams(&mut self, losses: &Losses) -> bool {
        std::mem::replace(&mut self.repaired_datagrams, losses.datagrams) != losses.datagrams
    }
}

/// Losses of an output, and how many of them were reported.
///
/// A `Data Loss` event written while the output still drops events would be dropped as well, and nothing would ever say that
/// events are missing. So it is deferred until the output accepts writes again and has lost nothing since the last look.
#[derive(Clone, Debug, Default)]
struct OutputLoss {
    reported: OutputLosses,
    seen: OutputLosses,
    /// When the losses that are not reported began, nanoseconds since boot.
    from_ns: u64,
    to_ns: u64,
}

/// Condition of an output at a look.
#[derive(Clone, Copy, Debug)]
struct OutputCondition {
    /// Since the start.
    lost: OutputLosses,
    /// Whether an event that it is given now will be written, as far as is known.
    is_writing: bool,
}

/// A loss that can be reported. Times are in nanoseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unreported {
    lost: OutputLosses,
    from_ns: u64,
    to_ns: u64,
}

impl OutputLoss {
    /// Takes the condition of an output, for the first time since `from_ns`. Returns its losses since then, to be logged at
    /// once, and the loss that can be reported now.
    fn look(&mut self, condition: OutputCondition, from_ns: u64, now_ns: u64) -> (OutputLosses, Option<Unreported>) {
        let new = condition.lost.since(self.seen);
        if new != OutputLosses::default() {
            // Nothing was waiting to be reported: the loss began after the last look. Otherwise it is the same loss
            // that goes on.
            if self.seen == self.reported {
                self.from_ns = from_ns;
            }
            (self.seen, self.to_ns) = (condition.lost, now_ns);
            // Still losing: the report itself would be lost.
            return (new, None);
        }
        (new, if condition.is_writing { self.take() } else { None })
    }

    /// Returns the loss that is not reported yet, whether or not the output can write it.
    fn take(&mut self) -> Option<Unreported> {
        let lost = self.seen.since(std::mem::replace(&mut self.reported, self.seen));
        (lost != OutputLosses::default()).then_some(Unreported { lost, from_ns: self.from_ns, to_ns: self.to_ns })
    }
}

impl Engine {
    /// Returns the losses in the kernel since the start, including changes that were missed without being counted there.
    pub(super) fn losses(&self) -> Losses {
        let losses = self.capture.losses();
        // What the kernel did not count counts as missed as well, so that one comparison with the reported losses
        // covers both.
        Losses { missed_runs: losses.missed_runs + self.loss_report.missed, ..losses }
    }

    /// Reports the losses since the last call, given all `losses` in the kernel. Returns whether records of the kernel were
    /// lost, so that the tables need a repair. At the end of the daemon everything is reported.
    pub(super) fn report_losses(&mut self, losses: Losses, now: u64, is_end: bool) -> bool {
        // Losses have no time of their own: they happened since the last look.
        let from_ns = self.schedule.look_for_losses(now, self.state.records);
        self.report_output_losses(from_ns, now, is_end);
        let reported = &mut self.loss_report.reported;
        let uncounted = losses.uncounted.saturating_sub(reported.uncounted);
        // Reported apart, and without a repair: a dump cannot bring back datagrams for whose flow the map had no room.
        if uncounted != 0 {
            reported.uncounted = losses.uncounted;
            warn!("{uncounted} datagrams were counted in no flow: a larger max_flows in the configuration helps");
            let loss = Loss::new(LossStage::Flows, uncounted, (from_ns, now));
            self.publisher.publish_loss(&self.state.clock, loss);
        }
        // Lost records of datagrams are not among these: the map of flows makes up for them.
        if !losses.exceed(reported) {
            return false;
        }
        let before = std::mem::replace(reported, losses);
        // Saturates, because missed runs may decrease, see `Losses::exceed`.
        let records = losses.records().saturating_sub(before.records());
        let events = losses.events.since(&before.events);
        warn!("{records} records were lost (ring), and {} events with them", events.total());
        let loss = Loss {
            records: Some(records),
            connects: Some(LostConnects { outgoing: events.outgoing, incoming: events.incoming }),
            ..Loss::new(LossStage::Ring, events.total(), (from_ns, now))
        };
        self.publisher.publish_loss(&self.state.clock, loss);
        true
    }

    fn report_output_losses(&mut self, from_ns: u64, now: u64, is_end: bool) {
        for (index, loss) in self.loss_report.outputs.iter_mut().enumerate() {
            // There is one entry for each output, in the same order; outputs never change while the engine runs.
            let Some(output) = self.publisher.outputs().get(index) else { return };
            let mut lost = output.lost();
            if is_end {
                // It was waited for; what is still in its queue will not be written any more.
                lost.queue += output.waiting();
            }
            let condition = OutputCondition { lost, is_writing: output.is_writing() };
            let (new, mut unreported) = loss.look(condition, from_ns, now);
            for (stage, lost) in output.loss_stages(new) {
                warn!("{} events were lost ({}) by {}", lost.events, stage.name(), output.destination());
            }
            // There is no later look: the report is written now, even if it may be lost.
            if is_end {
                unreported = unreported.or_else(|| loss.take());
            }
            let Some(Unreported { lost, from_ns, to_ns }) = unreported else { continue };
            let (name, stages) = (output.name().to_owned(), output.loss_stages(lost));
            for (stage, lost) in stages {
                let loss = Loss {
                    output: Some(&name),
                    connects: Some(connects(lost)),
                    ..Loss::new(stage, lost.events, (from_ns, to_ns))
                };
                self.publisher.publish_loss(&self.state.clock, loss);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::EventCounts;

    fn losses(queue: u64, refused: u64) -> OutputLosses {
        let counts = |events| EventCounts { events, ..EventCounts::default() };
        OutputLosses { queue: counts(queue), refused: counts(refused) }
    }

    #[test]
    fn a_loss_is_reported_when_it_is_over() {
        let mut loss = OutputLoss::default();
        let mut look = |queue, refused, is_writing, now| {
            loss.look(OutputCondition { lost: losses(queue, refused), is_writing }, now - 10, now).1
        };
        assert_eq!(look(0, 0, true, 10), None, "nothing to report");
        assert_eq!(look(0, 3, false, 20), None, "it has just lost some");
        assert_eq!(look(0, 3, false, 30), None, "it cannot write");
        assert_eq!(look(1, 4, true, 40), None, "it writes, and has just lost some");
        let unreported = Unreported { lost: losses(1, 4), from_ns: 10, to_ns: 40 };
        assert_eq!(look(1, 4, true, 50), Some(unreported));
        assert_eq!(look(1, 4, true, 60), None, "once");
        assert_eq!(look(1, 6, true, 70), None);
        assert_eq!(look(1, 6, true, 80), Some(Unreported { lost: losses(0, 2), from_ns: 60, to_ns: 70 }));
        assert_eq!(look(2, 6, true, 90), None);
        assert_eq!(loss.take(), Some(Unreported { lost: losses(1, 0), from_ns: 80, to_ns: 90 }), "the end");
        assert_eq!(loss.take(), None);
    }
}

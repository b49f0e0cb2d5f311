//! Reports of losses: those in the kernel when they are seen, those of an output when it can write the report itself.

use std::time::Duration;

use netconn_model::fact::LossStage;
use tracing::warn;

use crate::{
    encode::loss::{Loss, LossOrigin, LostConnects},
    engine::{limit::FoldedKind, publisher::connects, run::Engine, state::State},
    kernel::losses::Losses,
    sink::{FloodOrigin, Fold, OutputLosses},
};

/// A row of losses is over when an output has lost nothing for this long.
const CALM: Duration = Duration::from_secs(10);
/// Shortest time between two messages about the losses of an output when a row is over.
const LOG_PAUSE: Duration = Duration::from_secs(60);
/// Time between two messages while a row goes on.
const LOG_REPEAT: Duration = Duration::from_secs(600);
/// Pause between two reports of what was folded.
const FOLD_PAUSE_NS: u64 = 1_000_000_000;

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
    /// When events that were folded were last reported, nanoseconds since boot.
    folds_told_ns: u64,
}

impl LossReport {
    /// Returns a report of no losses, for this number of outputs.
    pub(super) fn new(outputs: usize) -> Self {
        let outputs = vec![OutputLoss::default(); outputs];
        Self { missed: 0, reported: Losses::default(), repaired_datagrams: 0, outputs, folds_told_ns: 0 }
    }

    /// Notes an output that was added behind the others.
    pub(super) fn add_output(&mut self) {
        self.outputs.push(OutputLoss::default());
    }

    /// Forgets the output at this place.
    pub(super) fn remove_output(&mut self, index: usize) {
        if index < self.outputs.len() {
            self.outputs.remove(index);
        }
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
    /// Losses that the log has.
    logged: OutputLosses,
    /// When the log had the last of them, nanoseconds since boot.
    logged_ns: Option<u64>,
    /// Its reader has gone, and that was reported.
    is_gone: bool,
}

/// Condition of an output at a look.
#[derive(Clone, Copy, Debug)]
struct OutputCondition {
    /// Since the start.
    lost: OutputLosses,
    /// Whether an event that it is given now will be written, as far as is known.
    is_writing: bool,
    /// Whether its reader has gone for good.
    is_gone: bool,
}

/// A loss that can be reported. Times are in nanoseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unreported {
    lost: OutputLosses,
    from_ns: u64,
    to_ns: u64,
}

impl OutputLoss {
    /// Takes the condition of an output, for the first time since `from_ns`. Returns the loss that can be reported now.
    fn look(&mut self, condition: OutputCondition, from_ns: u64, now_ns: u64) -> Option<Unreported> {
        let new = condition.lost.since(self.seen);
        if new != OutputLosses::default() {
            // Nothing was waiting to be reported: the loss began after the last look. Otherwise it is the same loss
            // that goes on.
            if self.seen == self.reported {
                self.from_ns = from_ns;
            }
            (self.seen, self.to_ns) = (condition.lost, now_ns);
            // Still losing: the report itself would be lost. Where nobody reads, there is nothing to wait for: it is for
            // the other outputs, once when it is noticed and once at the end.
            return if condition.is_gone && !std::mem::replace(&mut self.is_gone, true) { self.take() } else { None };
        }
        if condition.is_writing { self.take() } else { None }
    }

    /// Returns the losses that the log has not told yet, if it is time to: when they begin, when they are over, and now and then
    /// while they go on. An output that loses something in each second must not fill the log as well.
    fn take_unlogged(&mut self, now_ns: u64, is_end: bool) -> OutputLosses {
        let unlogged = self.seen.since(self.logged);
        let since_log = self.logged_ns.map(|logged_ns| Duration::from_nanos(now_ns.saturating_sub(logged_ns)));
        let is_over = Duration::from_nanos(now_ns.saturating_sub(self.to_ns)) >= CALM;
        let pause = if is_over { LOG_PAUSE } else { LOG_REPEAT };
        // What is lost after the reader has gone is no news.
        let is_due = is_end || (since_log.is_none_or(|since| since >= pause) && !self.is_gone);
        if unlogged == OutputLosses::default() || !is_due {
            return OutputLosses::default();
        }
        (self.logged, self.logged_ns) = (self.seen, Some(now_ns));
        unlogged
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
        self.report_folds(now, is_end);
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
        let records = losses.records_since(&before);
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
            // There is one entry for each output, in the same order; a reload changes both.
            let Some(output) = self.publisher.outputs().get(index) else { return };
            let mut lost = output.lost();
            if is_end {
                // It was waited for; what is still in its queue will not be written any more.
                lost.queue += output.waiting();
            }
            let condition = OutputCondition { lost, is_writing: output.is_writing(), is_gone: output.is_gone() };
            let mut unreported = loss.look(condition, from_ns, now);
            for (stage, lost) in output.loss_stages(loss.take_unlogged(now, is_end)) {
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

impl Engine {
    /// Reports once a second what was folded: by the limit of events, for each kind; by the outputs, for each origin.
    fn report_folds(&mut self, now: u64, is_end: bool) {
        if now.saturating_sub(self.loss_report.folds_told_ns) < FOLD_PAUSE_NS && !is_end {
            return;
        }
        self.loss_report.folds_told_ns = now;
        for (kind, FoldedKind { counts, span_ns }) in self.publisher.take_folded() {
            let loss = Loss {
                kind: Some(kind),
                connects: Some(connects(counts)),
                ..Loss::new(LossStage::Fold, counts.events, span_ns)
            };
            self.publisher.publish_loss(&self.state.clock, loss);
        }
        let folds = self.publisher.outputs().iter().map(|output| (output.name().to_owned(), output.take_folds()));
        let folds: Vec<_> = folds.filter(|(_, folds)| !folds.is_empty()).collect();
        let State { clock, names, processes, .. } = &mut self.state;
        for (name, folds) in folds {
            for (origin, Fold { counts, from, to }) in folds {
                let mut told = LossOrigin::default();
                let mut user = None;
                match origin {
                    FloodOrigin::User(user_id) => {
                        user = user_id.and_then(|user_id| names.account(user_id, now));
                        told.user_id = user_id;
                    }
                    FloodOrigin::Process(key) => {
                        let process = processes.get(key);
                        told.process = Some(key);
                        told.process_name = process.map(|process| &*process.identity.name);
                        told.executable = process.and_then(|process| process.identity.path.as_deref());
                    }
                    FloodOrigin::Remote(address) => told.remote = Some(address),
                    FloodOrigin::Block(_) | FloodOrigin::Several => {}
                }
                told.user = user.as_deref();
                let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                // Events wait in a queue before they are folded.
                let from_ns = nanoseconds(from).saturating_sub(FOLD_PAUSE_NS);
                let loss = Loss {
                    output: Some(&name),
                    connects: Some(connects(counts)),
                    origin: told,
                    ..Loss::new(LossStage::Fold, counts.events, (from_ns, nanoseconds(to)))
                };
                self.publisher.publish_loss(clock, loss);
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
            loss.look(OutputCondition { lost: losses(queue, refused), is_writing, is_gone: false }, now - 10, now)
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

    #[test]
    fn the_loss_of_an_output_that_nobody_reads_is_reported_at_once_and_at_the_end() {
        let mut loss = OutputLoss::default();
        let mut look = |refused, now| {
            loss.look(OutputCondition { lost: losses(0, refused), is_writing: false, is_gone: true }, now - 10, now)
        };
        assert_eq!(look(3, 20), Some(Unreported { lost: losses(0, 3), from_ns: 10, to_ns: 20 }));
        assert_eq!((look(5, 30), look(5, 40)), (None, None));
        assert_eq!(loss.take(), Some(Unreported { lost: losses(0, 2), from_ns: 20, to_ns: 30 }), "the end");
    }

    #[test]
    fn an_output_that_loses_all_the_time_does_not_fill_the_log() {
        const SECOND: u64 = 1_000_000_000;
        let mut loss = OutputLoss::default();
        let (mut lines, mut told) = (0, 0);
        for quarter in 1..=3600 {
            let now = quarter * SECOND / 4;
            let condition = OutputCondition { lost: losses(quarter, 0), is_writing: false, is_gone: false };
            loss.look(condition, now - SECOND / 4, now);
            let unlogged = loss.take_unlogged(now, false);
            (lines, told) = (lines + u64::from(unlogged.queue.events != 0), told + unlogged.queue.events);
        }
        assert_eq!(lines, 2, "in a quarter of an hour");
        // Ten seconds later it is over.
        let unlogged = loss.take_unlogged(910 * SECOND, false);
        assert_eq!(told + unlogged.queue.events, 3600);
    }
}

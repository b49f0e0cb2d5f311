//! The engine and its loop: records first, then commands, then what is due.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};
use tracing::info;

use crate::{
    clock::Clock,
    engine::{
        EngineCommand, Handle, Parts,
        heartbeat::Heartbeat,
        loss_report::LossReport,
        packet_sockets::PacketSocketEvents,
        publisher::{Publisher, STUCK},
        repair::Doubts,
        schedule::{GATHER, Schedule},
        state::State,
    },
    kernel::{
        capture::{Capture, LiveParts},
        hooks::Program,
    },
    names::Names,
    os,
    process::{Processes, lookup::Lookup, redact::Redactor},
    sink::POLL,
};

/// After this many records at once there will be more `GATHER` later: the kernel need not be asked.
const MANY_RECORDS: usize = 32;
/// Commands that are answered before the engine looks at the rings again. An answer that makes rows takes a millisecond or more, so
/// that clients who ask without a pause could otherwise keep records waiting until the rings overflow.
const COMMANDS_AT_ONCE: usize = 16;
/// How long the last answers of the routing tables are waited for when the daemon ends.
const LAST_ROUTE_ANSWERS: Duration = Duration::from_millis(100);
/// How long an output without room may hold up a backlog. One that writes more than 0.8 MB a second has room again within this time.
const BACKLOG_PATIENCE: Duration = Duration::from_secs(2);
/// How long the end of the daemon takes at most while outputs still write what waits: half of what `docker stop` allows. The last
/// batch has [`STUCK`] in any case, and an output that writes nothing is given up that soon.
const CLOSE: Duration = Duration::from_secs(5);
/// How long outputs may take to write the events that report the end itself.
const LAST_EVENTS: Duration = Duration::from_millis(300);

/// Everything that the engine's thread owns.
pub(super) struct Engine {
    /// Attached programs, and the rings their records arrive in.
    pub(super) capture: Capture,
    /// Everything that is known.
    pub(super) state: State,
    /// Events on their way out.
    pub(super) publisher: Publisher,
    /// All time stamps, and what is due when.
    pub(super) schedule: Schedule,
    /// Losses, and which of them were reported.
    pub(super) loss_report: LossReport,
    /// Packet sockets, as far as events have told them.
    pub(super) packet_sockets: PacketSocketEvents,
    pub(super) heartbeat: Heartbeat,
    gets_stuck: bool,
}

impl Engine {
    /// Makes the engine and fills its tables with what exists already.
    pub(super) fn new(parts: Parts, handle: &Handle) -> io::Result<Self> {
        let Parts {
            mut capture,
            sensor,
            encoder,
            outputs,
            flows,
            privileges,
            event_limit,
            command_line_bytes,
            packet_sockets,
            notifier,
            gets_stuck,
            redactor,
        } = parts;
        let heartbeat = Heartbeat::new(notifier);
        let answered = Arc::clone(&handle.wake);
        // It fails only when 2^64 wake-ups wait: the engine then wakes anyway.
        let lookup = Lookup::start(move || _ = answered.write(1))?;
        let flow_maps = capture.flow_maps();
        let wake = Arc::clone(&handle.wake);
        let mut state = State::new(sensor, Names::new(lookup), (flows, flow_maps), capture.began_ns(), wake)?;
        state.privileges = privileges;
        state.processes = Processes::with_command_lines(command_line_bytes);
        if capture.sees_acceptors() {
            // Without that hook nothing says who accepts, and each event would be late for nothing.
            state.table.expect_acceptors();
        }
        if capture.has(Program::InetSkErrorReport) {
            state.flows.expect_refusals();
        }
        let loss_report = LossReport::new(outputs.len());
        let schedule = Schedule::new(Clock::new().now());
        let publisher = Publisher::new(encoder, outputs).limited(event_limit);
        let noticed = Arc::clone(&handle.wake);
        let packet_sockets = PacketSocketEvents::start(packet_sockets, move || _ = noticed.write(1))?;
        let mut engine =
            Self { capture, state, publisher, schedule, loss_report, packet_sockets, heartbeat, gets_stuck };
        engine.set_redactor(redactor);
        // Only now: the threads that look up names and routes were started by this one, and would have its priority. Nobody waits
        // for them, and strangers decide how much they do.
        os::raise_thread_priority();
        // Programs are attached already: what begins from now on is in the rings, and what began before is in the dump.
        engine.dump_all();
        // Before the events of the dump are made, which would lack the names that are not in the file of accounts.
        engine.state.settle_names();
        Ok(engine)
    }

    /// Has command lines redacted in this way from now on, also those of processes that run already.
    pub(super) fn set_redactor(&mut self, redactor: Redactor) {
        self.state.processes.set_redactor(redactor);
        self.publisher.set_redactor(Arc::clone(self.state.processes.redactor()));
        self.state.titles.forget();
    }

    /// Runs until a command ends the daemon.
    ///
    /// # Errors
    ///
    /// When nobody reads its events any more.
    pub(super) fn run(&mut self, commands: &Receiver<EngineCommand>, wake: &EventFd) -> io::Result<()> {
        loop {
            self.beat();
            // The time of day may have been set since the last round.
            self.state.clock.refresh();
            let count = self.drain();
            // Before commands too: an attempt that has failed is among the ended when a client asks.
            self.state.take_route_answers(Duration::ZERO, &mut self.publisher);
            self.state.names.take_answers(self.state.clock.now());
            self.follow_packet_sockets();
            // Commands come after records, so that an answer shows what happened before the question.
            let left = answer_some(commands, |command| self.answer(command));
            if left == CommandsLeft::Stop {
                self.finish();
                return Ok(());
            }
            // An output learns only by writing that its reader has gone, so this is asked in each round.
            if self.publisher.has_no_reader() {
                self.finish();
                // Another kind than a broken pipe, which is no failure of a command that lists: this is the end of a sensor.
                return Err(io::Error::other("nobody reads the events any more, and there is no other output"));
            }
            let now = self.state.clock.now();
            if self.schedule.is_tick_due(now, self.state.records) {
                self.tick(now);
            }
            // After the tick, which may have received records: the next one is due sooner then.
            let longest = self.schedule.tick_pause(self.state.records);
            // Time has passed since `now` was read: a tick may have taken a dump.
            let sleep = self.announce_overdue(self.state.clock.now()).min(longest);
            let sleep = sleep.min(self.heartbeat.longest_sleep());
            self.announce_backlog(BACKLOG_PATIENCE);
            if left == CommandsLeft::Some {
                continue;
            }
            // Chooses how to sleep: without a look at the rings under load, else until one of them has a record.
            if count >= MANY_RECORDS || self.state.has_backlog() {
                // There is more to do anyway: only a command cuts this short.
                wait(&[wake.as_fd()], GATHER);
            } else {
                let [sockets, processes] = self.capture.rings().descriptors();
                // As long as a record lies in a ring the kernel wakes nobody for the next, so a short sleep after the first one
                // collects those that come close behind it.
                if matches!(wait(&[sockets, processes, wake.as_fd()], sleep), Some(0 | 1)) {
                    wait(&[wake.as_fd()], GATHER);
                }
            }
            // Read only now, after the sleep: a command that was sent since the queue was read has cut the sleep short.
            // An error means that nobody has woken the engine.
            let _ = wake.read();
        }
    }

    /// Answers a command. An error of a reply means that the client has gone.
    fn answer(&mut self, command: EngineCommand) {
        match command {
            EngineCommand::Rows(request, reply) => _ = reply.send(self.snapshot_part(&request)),
            EngineCommand::PacketSockets(reply) => _ = reply.send(self.packet_socket_rows()),
            EngineCommand::Stream(request) => self.publisher.add_stream(request),
            EngineCommand::Health(reply) => {
                // The numbers of a report should include what has already happened; snapshots catch up by their scan.
                self.catch_up();
                let _ = reply.send(self.health());
            }
            EngineCommand::Reopen if self.gets_stuck => loop {
                thread::park();
            },
            EngineCommand::Reopen => self.publisher.reopen(),
            EngineCommand::Reload(reload, reply) => {
                self.reload(*reload);
                let _ = reply.send(());
            }
            EngineCommand::Stop => {} // `run` has taken it.
        }
    }

    /// Does what is due: once a second, or four times while records come.
    fn tick(&mut self, now: u64) {
        self.capture.flush_log();
        self.follow_host_name();
        self.state.processes.sweep(now);
        self.state.titles.forget();
        self.state.ended.forget(now);
        self.sweep_flows_if_due(now);
        self.scan_owners_if_due(now);
        // A walk through all sockets takes a tenth of a second for 100,000: once a minute, and only if records came.
        let doubts = if self.schedule.is_comparison_due(now, self.state.records) && self.capture.has(Program::DumpTcp) {
            // Namespaces that could not be read the last time may be gone by now.
            self.state.table.doubt_unreadable();
            self.state.flows.doubt_unreadable();
            let wanted = LiveParts { minisocks: false, counters: true, datagrams: self.capture.has_flows() };
            self.refresh(wanted).doubts
        } else {
            Doubts::default()
        };
        // After the comparison, because it may have shown a loss.
        self.report_and_repair(doubts);
        // A scan of 100,000 sockets and the parts of a slow client took megabytes.
        if self.schedule.take_release(now, self.state.frozen.take_ended()) {
            os::release_free_memory();
        }
    }

    /// Has events name the host as it is called now: a machine may get its name after its services have started.
    fn follow_host_name(&mut self) {
        let name = os::host_name();
        // A system call of a tenth of a microsecond; nothing wakes a thread that waits for a new name at less cost.
        if name != self.state.sensor.host {
            info!("this host is called {name} now; it was {}", self.state.sensor.host);
            self.state.sensor.host = name;
            self.publisher.describe(&self.state.sensor);
        }
    }

    /// Ends the engine without losing anything in flight: the programs are detached, the rings are emptied, and the outputs
    /// write what waits.
    fn finish(&mut self) {
        // First, so that the rings can run dry: the loop below ends because nothing writes to them any more.
        self.capture.detach();
        while self.drain() != 0 {}
        self.state.take_route_answers(LAST_ROUTE_ANSWERS, &mut self.publisher);
        // For the backlog and the outputs together: it bounds how long the end of the daemon takes.
        let deadline = Instant::now() + CLOSE;
        while self.state.has_backlog() && Instant::now() < deadline {
            if !self.announce_backlog(STUCK) {
                if self.publisher.is_behind() {
                    break;
                }
                thread::sleep(POLL);
            }
        }
        // What is held back is written without what it waited for: it would be missing otherwise. Each output gets what it has room
        // for.
        self.state.publish_all(&mut self.publisher);
        // Before losses are reported: those of an output that is stuck are told to the others.
        self.publisher.drain(&self.state.clock, deadline);
        // After the last record, so that the sums are final; the maps can be read although the programs are detached.
        let losses = self.losses();
        self.report_losses(losses, self.state.clock.now(), true);
        self.publisher.publish_stop(&self.state.clock, losses.records());
        self.publisher.flush(&self.state.clock);
        self.publisher.close(Instant::now() + LAST_EVENTS);
    }
}

/// What a round leaves of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommandsLeft {
    /// None waits.
    None,
    /// More may wait: the next round must not sleep before it looks.
    Some,
    /// The engine is to end.
    Stop,
}

/// Takes commands, `COMMANDS_AT_ONCE` at most, and hands them to the function.
fn answer_some(commands: &Receiver<EngineCommand>, mut answer: impl FnMut(EngineCommand)) -> CommandsLeft {
    for _ in 0..COMMANDS_AT_ONCE {
        match commands.try_recv() {
            Ok(EngineCommand::Stop) | Err(TryRecvError::Disconnected) => return CommandsLeft::Stop,
            Ok(command) => answer(command),
            Err(TryRecvError::Empty) => return CommandsLeft::None,
        }
    }
    CommandsLeft::Some
}

/// Sleeps until one of the descriptors can be read, `limit` at most. Returns the index of the last of them that can.
fn wait(descriptors: &[BorrowedFd<'_>], limit: Duration) -> Option<usize> {
    let mut polled: Vec<PollFd<'_>> =
        descriptors.iter().map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN)).collect();
    // Cuts to whole milliseconds. All limits here are far below the maximum.
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    if let Err(error) = poll(&mut polled, limit)
        && error != nix::errno::Errno::EINTR
    {
        // Never seen; without the pause this would be a busy loop.
        thread::sleep(GATHER);
    }
    // The last, because `wake` comes last: a command must not wait for records to gather.
    polled.iter().rposition(|descriptor| descriptor.any().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn commands_without_end_leave_time_for_records() {
        let (sender, commands) = sync_channel(COMMANDS_AT_ONCE);
        let send = |command| sender.try_send(command).unwrap();
        send(EngineCommand::Reopen);
        let mut count = 0;
        // As clients that hammer the socket: each answer brings the next question.
        let left = answer_some(&commands, |_| {
            count += 1;
            send(EngineCommand::Reopen);
        });
        assert_eq!((left, count), (CommandsLeft::Some, COMMANDS_AT_ONCE));
        assert_eq!(answer_some(&commands, drop), CommandsLeft::None);
        send(EngineCommand::Reopen);
        send(EngineCommand::Stop);
        assert_eq!(answer_some(&commands, drop), CommandsLeft::Stop);
    }
}

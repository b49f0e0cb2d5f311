//! What a `Data Loss` event says.

use std::{borrow::Cow, net::IpAddr};

use netconn_model::{
    event::Event,
    fact::{EventKind, LossStage},
    value::PlainText,
};

use crate::{clock::Clock, encode::ids::process_id, process::Key};

/// The facts of `Data Loss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss<'a> {
    /// Where they were lost.
    pub stage: LossStage,
    /// The output that lost them, if one did.
    pub output: Option<&'a str>,
    /// Their kind, if all are of one.
    pub kind: Option<EventKind>,
    /// Number of events that will never come; with `flows`, number of datagrams that were counted in no flow.
    pub count: u64,
    /// Kernel records that did not fit into the ring.
    pub records: Option<u64>,
    /// `IP Connect` events among the lost.
    pub connects: Option<LostConnects>,
    /// Whose events were lost.
    pub origin: LossOrigin<'a>,
    /// Beginning of the loss, nanoseconds since boot.
    pub from_ns: u64,
    /// End of the loss, nanoseconds since boot.
    pub to_ns: u64,
}

/// Who caused the events that were lost; nothing if that is not known, or if it was more than one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossOrigin<'a> {
    /// The process.
    pub process: Option<Key>,
    /// Its name.
    pub process_name: Option<&'a str>,
    /// Its executable.
    pub executable: Option<&'a str>,
    /// Unix user id.
    pub user_id: Option<u32>,
    /// Its account name.
    pub user: Option<&'a str>,
    /// The remote end.
    pub remote: Option<IpAddr>,
}

impl<'a> Loss<'a> {
    /// Returns a loss of which no more is known.
    pub fn new(stage: LossStage, count: u64, (from_ns, to_ns): (u64, u64)) -> Self {
        Self {
            stage,
            output: None,
            kind: None,
            count,
            records: None,
            connects: None,
            origin: LossOrigin::default(),
            from_ns,
            to_ns,
        }
    }

    /// Fills in an event; `boot` is the boot's part of process ids.
    pub(super) fn fill(self, event: &mut Event<'a>, boot: &str, clock: &Clock) {
        let Self { stage, output, kind, count, records, connects, origin, from_ns, to_ns } = self;
        let LossOrigin { process, process_name, executable, user_id, user, remote } = origin;
        event.remote_address = remote;
        event.pid = process.map(|process| process.tgid);
        // Without a start the id could be that of another process with the same number.
        let started = process.filter(|process| process.start_ns != 0);
        event.process_id = started.map(|process| PlainText::new(process_id(boot, process.tgid, process.start_ns)));
        event.process_name = process_name.map(Cow::Borrowed);
        event.executable = executable.map(Cow::Borrowed);
        event.user_id = user_id;
        event.user = user.map(Cow::Borrowed);
        event.loss_stage = Some(stage);
        event.loss_output = output.map(Cow::Borrowed);
        event.loss_event_type = kind;
        event.loss_count = Some(count);
        event.loss_records = records;
        event.loss_outgoing = connects.map(|connects| connects.outgoing);
        event.loss_incoming = connects.map(|connects| connects.incoming);
        event.loss_from_ms = Some(clock.epoch_ms(from_ns));
        event.loss_to_ms = Some(clock.epoch_ms(to_ns));
    }
}

/// Lost `IP Connect` events of TCP: their sum with those that were told is what the kernel has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostConnects {
    /// Number of those with direction `OUTGOING`.
    pub outgoing: u64,
    /// Number of all others.
    pub incoming: u64,
}

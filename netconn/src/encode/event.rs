//! Makes an [`Event`] of what the table and the daemon report, and writes it as a line of native NDJSON.

pub mod packet_socket;

use std::{
    borrow::Cow,
    collections::HashMap,
    rc::{Rc, Weak},
    sync::Arc,
};

use bytes::BytesMut;
use foldhash::fast::RandomState;
use netconn_common::{Owner, UNKNOWN_U32, UNKNOWN_U64, role};
use netconn_model::{
    event::{Event, Sensor},
    fact::{Attribution, CloseReason, ConnectionStatus, EventKind, Failure, Outcome, protocol_names},
    field::Section,
    json::{Object, SecondText},
    moment::Moment,
    value::{Milliseconds, PlainText, Text},
};

use crate::{
    clock::Clock,
    encode::{
        PROCESS_MAX, SENSOR_MAX, attribution,
        ends::{community_id, fill_ends},
        ids::ConnectionIds,
        known,
        loss::Loss,
        process::{fill_cgroup, fill_process},
    },
    names::{self, Names, NamesVersion},
    process::{Process, redact::Redactor},
    rules::Rules,
    table::{Change, Connection, Exchanged, Icmp},
};

/// Bytes of members of processes that are kept: of 4,096 ordinary processes. At the limit all are made again.
const KEPT_MAX: usize = 4 << 20;

/// Hex digits of the number of a run.
const RUN_DIGITS: usize = 16;

/// Makes and writes events. What is the same in many of them is kept ready to be copied.
#[derive(Debug)]
pub struct EventEncoder {
    /// Last members of every event, each with its leading comma.
    sensor_members: Vec<u8>,
    /// What they are made of, for rules.
    sensor: Sensor,
    rules: Rules,
    /// That of the table of processes.
    redactor: Arc<Redactor>,
    /// First half of the boot id: makes ids of connections and processes unique over boots.
    boot: String,
    /// Events written by this run.
    count: u64,
    seconds: SecondText,
    /// The id of the last event: a number that differs from run to run, and the number of the event.
    id: String,
    connection_ids: ConnectionIds,
}

/// The members of [`Section::Process`] that were written lately.
#[derive(Debug, Default)]
pub struct ProcessMembers {
    by_process: HashMap<*const Process, CachedMembers, RandomState>,
    /// Bytes of all of them.
    bytes: usize,
}

impl ProcessMembers {
    fn keep(&mut self, process: &Rc<Process>, cached: CachedMembers) {
        // An entry takes memory beside its members, too.
        let bytes = |cached: &CachedMembers| cached.members.len() + size_of::<CachedMembers>();
        let more = bytes(&cached);
        if self.bytes + more > KEPT_MAX {
            // Costs each living process one more encoding; to look for the unused ones would cost a walk.
            *self = Self::default();
        }
        self.bytes += more;
        if let Some(before) = self.by_process.insert(Rc::as_ptr(process), cached) {
            self.bytes -= bytes(&before);
        }
    }
}

#[derive(Debug)]
struct CachedMembers {
    /// Keeps the address of the process from being used by another one.
    _process: Weak<Process>,
    /// Name, user and cgroup of the owner that they were made from.
    made_from: ([u8; 16], u32, u64),
    /// The names that were known then.
    version: NamesVersion,
    /// When names are looked up again, nanoseconds since boot.
    until_ns: u64,
    /// Members of a JSON object, each with its leading comma.
    members: Rc<[u8]>,
}

/// What has become of an event of a connection or packet socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// It was written.
    Yes,
    /// A rule excludes it.
    Excluded,
    /// It was not admitted.
    Refused,
}

/// Returns what becomes of an event: rules decide first, so that what they exclude takes no place of others.
fn judged(rules: &Rules, event: &Event<'_>, admit: impl FnOnce() -> bool) -> Written {
    if rules.excludes(event) {
        Written::Excluded
    } else if admit() {
        Written::Yes
    } else {
        Written::Refused
    }
}

/// The facts of `Sensor Start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning<'a> {
    /// Release of the kernel.
    pub kernel: &'a str,
    /// Hooks that are attached.
    pub attached: &'a str,
    /// Hooks that are not attached, with the reason; empty if there are none.
    pub missing: &'a str,
    /// Capabilities that the daemon was not given, with what is missing for that; empty if there are none.
    pub missing_capabilities: &'a str,
    /// Processes that have packet sockets open; empty if there are none.
    pub packet_sockets: &'a str,
    /// Most events of a kind in a second; 0: no limit.
    pub event_limit: u32,
}

impl EventEncoder {
    /// Returns an encoder for this sensor; `run` must be another number in each run of the daemon.
    pub fn new(sensor: &Sensor, run: u64) -> Self {
        let boot: String = sensor.boot.chars().take(16).collect();
        let mut encoder = Self {
            sensor_members: Vec::new(),
            sensor: sensor.clone(),
            rules: Rules::default(),
            redactor: Arc::default(),
            count: 0,
            seconds: SecondText::default(),
            id: format!("{run:0RUN_DIGITS$x}-"),
            connection_ids: ConnectionIds::new(&boot),
            boot,
        };
        encoder.describe(sensor);
        encoder
    }

    /// Has events left out that one of these rules excludes.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Has events tell command lines as this redactor leaves them.
    pub fn set_redactor(&mut self, redactor: Arc<Redactor>) {
        self.redactor = redactor;
    }

    /// Has events say from now on who this sensor is.
    pub fn describe(&mut self, sensor: &Sensor) {
        let mut event = Event::default();
        sensor.describe(&mut event);
        self.sensor = sensor.clone();
        // Written once: they are the same in every event.
        self.sensor_members = section_members(&event, (Section::Sensor, SENSOR_MAX), &mut self.seconds);
    }

    /// Returns the number of events written so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Writes what happened to a connection or listener, unless a rule excludes it or `admit` refuses it.
    ///
    /// Without rules that costs one comparison more. With them the members of the process are made for each event, and the
    /// rules are asked (20 to 90 ns each, docs/performance.md).
    pub fn connection(
        &mut self,
        out: &mut BytesMut,
        clock: &Clock,
        names: &mut Names,
        processes: &mut ProcessMembers,
        (change, connection, time_ns): (Change, &Connection, u64),
        mut admit: impl FnMut() -> bool,
    ) -> Written {
        let is_judged = !self.rules.is_empty();
        // Without rules nothing depends on the event, so one that is refused is not made.
        if !is_judged && !admit() {
            return Written::Refused;
        }
        self.next_id();
        let owner = &connection.owner;
        let members = if owner.tgid == 0 {
            self.user_members(names, owner, time_ns)
        } else {
            Some(self.process_members(clock, names, processes, (connection, time_ns)))
        };
        // For rules: the members above are bytes. Before the event, which borrows from them.
        let has_process = is_judged && owner.tgid != 0;
        let (user, cgroup) =
            if has_process { (names.user(owner, time_ns), names.cgroup(owner, time_ns)) } else { (None, None) };
        let mut event = head(kind_of(change), &self.id, clock, time_ns);
        event.category = Some(PlainText::new("ip"));
        event.connection_id = Some(PlainText::new(self.connection_ids.of(connection)));
        event.community_id = community_id(connection);
        event.tid = (owner.tgid != 0).then_some(owner.tid);
        event.attribution = Some(if owner.tgid == 0 { Attribution::Unknown } else { attribution(owner.how) });
        fill_network(&mut event, change, connection, time_ns);
        fill_ends(&mut event, connection);
        let interface = names.interface(connection.namespace, connection.device, time_ns);
        event.interface = interface.as_deref().map(Cow::Borrowed);
        if has_process {
            fill_process(&mut event, owner, connection.process.as_deref(), (&self.boot, clock), &self.redactor);
            event.user = user.as_deref().map(Cow::Borrowed);
            fill_cgroup(&mut event, cgroup.as_deref());
        }
        if is_judged {
            self.sensor.describe(&mut event);
        }
        let written = judged(&self.rules, &event, || !is_judged || admit());
        if written != Written::Yes {
            // Its number is that of the next event.
            self.count -= 1;
            return written;
        }
        // The members of process and sensor are copied from caches: they are the same in many events.
        let mut object = Object::begin(out, &mut self.seconds);
        for section in [Section::Head, Section::Network, Section::Ends, Section::Owner] {
            event.write_section(section, &mut object);
        }
        if let Some(members) = &members {
            object.members(members);
        }
        object.members(&self.sensor_members);
        object.end_line();
        written
    }

    /// Writes that the daemon started.
    pub fn start(&mut self, out: &mut BytesMut, clock: &Clock, beginning: &Beginning<'_>) {
        let Beginning { kernel, attached, missing, missing_capabilities, packet_sockets, event_limit } = *beginning;
        self.next_id();
        let event = Event {
            kernel_release: Some(kernel.into()),
            hooks_attached: Some(attached.into()),
            hooks_missing: unless_empty(missing),
            missing_capabilities: unless_empty(missing_capabilities),
            packet_sockets: unless_empty(packet_sockets),
            exclude: unless_empty(self.rules.texts()),
            event_limit: (event_limit != 0).then_some(event_limit),
            ..head(EventKind::SensorStart, &self.id, clock, clock.now())
        };
        write_whole(&event, &self.sensor_members, out, &mut self.seconds);
    }

    /// Writes that the daemon stops, and what it has done: with how many events that rules have excluded, and how many records
    /// were lost.
    pub fn stop(&mut self, out: &mut BytesMut, clock: &Clock, (excluded, records_lost): (u64, u64)) {
        // The event does not count itself.
        let events_written = self.count;
        self.next_id();
        let event = Event {
            events_written: Some(events_written),
            events_excluded: (!self.rules.is_empty()).then_some(excluded),
            records_lost: Some(records_lost),
            ..head(EventKind::SensorStop, &self.id, clock, clock.now())
        };
        write_whole(&event, &self.sensor_members, out, &mut self.seconds);
    }

    /// Writes that something was lost.
    pub fn loss(&mut self, out: &mut BytesMut, clock: &Clock, loss: Loss<'_>) {
        self.next_id();
        let mut event = head(EventKind::DataLoss, &self.id, clock, loss.to_ns);
        loss.fill(&mut event, &self.boot, clock);
        write_whole(&event, &self.sensor_members, out, &mut self.seconds);
    }

    fn next_id(&mut self) {
        self.count += 1;
        // What stands before the number is the same in all ids of this run.
        self.id.truncate(RUN_DIGITS + 1);
        self.id.push_str(itoa::Buffer::new().format(self.count));
    }

    /// Returns the members of [`Section::Process`] for a socket of which the user alone is known, if that is.
    fn user_members(&mut self, names: &mut Names, owner: &Owner, now: u64) -> Option<Rc<[u8]>> {
        let user_id = owner.user()?;
        let user = names.user(owner, now);
        let event = Event { user: user.as_deref().map(Cow::Borrowed), user_id: Some(user_id), ..Event::default() };
        Some(section_members(&event, (Section::Process, PROCESS_MAX), &mut self.seconds).into())
    }

    /// Returns the members of [`Section::Process`] for the owner of a connection.
    fn process_members(
        &mut self,
        clock: &Clock,
        names: &mut Names,
        known: &mut ProcessMembers,
        (connection, now): (&Connection, u64),
    ) -> Rc<[u8]> {
        let owner = &connection.owner;
        let made_from = (owner.comm, owner.uid, owner.cgroup);
        let key = connection.process.as_ref().map(Rc::as_ptr);
        // A process can change its name, its user and its cgroup without an `exec`: the members were made from these.
        if let Some(cached) = key.and_then(|key| known.by_process.get(&key))
            && cached.made_from == made_from
            && cached.version == names.version()
            && now < cached.until_ns
        {
            return Rc::clone(&cached.members);
        }
        let user = names.user(owner, now);
        let cgroup = names.cgroup(owner, now);
        let mut event = Event::default();
        fill_process(&mut event, owner, connection.process.as_deref(), (&self.boot, clock), &self.redactor);
        event.user = user.as_deref().map(Cow::Borrowed);
        fill_cgroup(&mut event, cgroup.as_deref());
        let members: Rc<[u8]> = section_members(&event, (Section::Process, PROCESS_MAX), &mut self.seconds).into();
        // What is not known now may be known later: an account that is made, a cgroup whose record was lost. An account may be
        // renamed: it is asked for again only by whoever wants its name.
        let is_complete = user.is_some() && cgroup.is_some();
        let until_ns = now + if is_complete { names.cgroup_age_ns() } else { names::LOOKUP_PAUSE_NS };
        if let Some(process) = connection.process.as_ref() {
            // Weak: the cache must not keep ended processes in memory. Their address stays taken all the same.
            let weak = Rc::downgrade(process);
            let version = names.version();
            let cached = CachedMembers { _process: weak, made_from, version, until_ns, members: Rc::clone(&members) };
            known.keep(process, cached);
        }
        members
    }
}

/// Returns the kind of event that a change of a connection becomes.
pub fn kind_of(change: Change) -> EventKind {
    match change {
        Change::Connect(_) => EventKind::Connect,
        Change::Close(..) => EventKind::Close,
        Change::Listen => EventKind::Listen,
        Change::ListenEnd => EventKind::ListenEnd,
    }
}

/// Returns an event with the members that all events have.
fn head<'a>(kind: EventKind, id: &'a str, clock: &Clock, time_ns: u64) -> Event<'a> {
    let time = Moment(clock.epoch_ns(time_ns));
    Event {
        kind: Some(kind),
        time_ms: Some(time.milliseconds()),
        time: Some(time),
        id: Some(PlainText::new(id)),
        ..Event::default()
    }
}

/// Writes an event that is not of a connection.
fn write_whole(event: &Event<'_>, sensor_members: &[u8], out: &mut BytesMut, seconds: &mut SecondText) {
    let mut object = Object::begin(out, seconds);
    object.within(PROCESS_MAX, |object| {
        for section in [
            Section::Head,
            Section::Network,
            Section::Ends,
            Section::Owner,
            Section::Process,
            Section::Packet,
            Section::Daemon,
            Section::Loss,
        ] {
            event.write_section(section, object);
        }
    });
    object.members(sensor_members);
    object.end_line();
}

/// Returns the members of a section within a number of bytes, each with its leading comma, to be copied behind other members.
fn section_members(event: &Event<'_>, (section, max): (Section, usize), seconds: &mut SecondText) -> Vec<u8> {
    let mut members = BytesMut::new();
    Object::begin(&mut members, seconds).within(max, |object| event.write_section(section, object));
    if let Some(first) = members.first_mut() {
        // The first member has the brace of an object before it: that gives way to the comma behind other members.
        *first = b',';
    }
    members.to_vec()
}

fn unless_empty(text: &str) -> Option<Text<'_>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}

fn fill_network(event: &mut Event<'_>, change: Change, connection: &Connection, time_ns: u64) {
    event.direction = connection.direction();
    (event.protocol, event.protocol_name) = match protocol_names(connection.protocol) {
        Some((upper, lower)) => (Some(PlainText::new(upper)), Some(PlainText::new(lower))),
        None => {
            // Raw sockets can send any protocol: those without a name are shown by number.
            let number = connection.protocol.to_string();
            (Some(PlainText::new(number.clone())), Some(PlainText::new(number)))
        }
    };
    // What a raw socket sends is no attempt of the kernel's, and nobody says whether it was answered.
    let success = (!connection.is_raw()).then_some(ConnectionStatus::Success);
    match change {
        Change::Connect(Outcome::Failure(failure, errno)) => {
            event.status = Some(status_of(failure));
            event.failure = Some(failure);
            event.errno = (errno != 0).then_some(errno);
        }
        Change::Connect(Outcome::Success) => event.status = success,
        Change::Close(reason, errno) => {
            event.status = success;
            if let Some(failure) = connection.refusal() {
                (event.status, event.failure) = (Some(status_of(failure)), Some(failure));
            }
            event.close_reason = Some(reason);
            event.errno = (errno != 0).then_some(errno);
            fill_totals(event, connection, reason, time_ns);
        }
        Change::Listen | Change::ListenEnd => {}
    }
    let established = connection.established_ns;
    // The two times are of one handshake only at the end that began it, and only if both were seen.
    if connection.role == role::ACTIVE && established != 0 && connection.born_ns != 0 {
        event.connect_latency_us = Some(established.saturating_sub(connection.born_ns) / 1000);
    }
    event.namespace = known(connection.namespace, UNKNOWN_U32);
    if let Some(Exchanged { icmp, folded, .. }) = connection.exchanged.as_deref() {
        if let Some(Icmp { r#type, code, id }) = *icmp {
            (event.icmp_type, event.icmp_code, event.icmp_id) = (Some(r#type), Some(code), id);
        }
        event.folded = folded.then_some(true);
    }
    event.raw = connection.is_raw().then_some(true);
    event.subflow = connection.is_subflow().then_some(true);
    event.preexisting = connection.preexisting.then_some(true);
}

fn status_of(failure: Failure) -> ConnectionStatus {
    if failure == Failure::Blocked { ConnectionStatus::Blocked } else { ConnectionStatus::Failure }
}

/// Fills in what a connection or flow has moved, and for how long.
fn fill_totals(event: &mut Event<'_>, connection: &Connection, reason: CloseReason, time_ns: u64) {
    let totals = &connection.totals;
    // The totals of a connection whose end was not seen are old; those of a flow come from the kernel's map.
    if connection.exchanged.is_some() || reason != CloseReason::Unknown {
        event.bytes_sent = known(totals.bytes_sent, UNKNOWN_U64);
        event.bytes_received = known(totals.bytes_received, UNKNOWN_U64);
    }
    let duration = |nanoseconds| Some(Milliseconds { nanoseconds });
    if let Some(Exchanged { packets_sent, packets_received, last_ns, .. }) = connection.exchanged.as_deref() {
        event.packets_sent = known(*packets_sent, UNKNOWN_U64);
        event.packets_received = known(*packets_received, UNKNOWN_U64);
        if *last_ns != 0 {
            // An idle flow ends when its limit is over: the wait is no part of its duration.
            event.duration = duration(last_ns.saturating_sub(connection.born_ns));
        }
    } else if reason != CloseReason::Unknown {
        event.packets_sent = known(totals.segments_sent, UNKNOWN_U32).map(u64::from);
        event.packets_received = known(totals.segments_received, UNKNOWN_U32).map(u64::from);
        event.retransmits = known(totals.retransmits, UNKNOWN_U32);
        event.rtt_us = (totals.rtt_us != 0).then_some(totals.rtt_us);
    }
    // Of TCP only: flows have no time at which they were established.
    if connection.established_ns != 0 {
        event.duration = duration(time_ns.saturating_sub(connection.established_ns));
    }
}

//! Events as lines of JSON, in the schema of `event::field`.

use std::rc::Rc;

use bytes::{BufMut as _, BytesMut};
use netconn_common::{Owner, UNKNOWN_U32, UNKNOWN_U64, role};
use netconn_model::{
    community_id,
    event::{CloseReason, End, Failure, Kind, Outcome, attribution_name, protocol_names},
    field::Field,
    json::Object,
};

use crate::{
    clock::Clock,
    names::Names,
    process::{Cached, Identity, Process, TICK_NS, comm},
    table::{Change, Connection, Exchanged, Icmp},
};

/// Who this sensor is: what every event says of it.
#[derive(Clone, Debug)]
pub struct Sensor {
    /// Stable per host, in the form of a UUID.
    pub id: String,
    /// Host name.
    pub host: String,
    /// Organisation, if configured.
    pub site: Option<String>,
    /// Name of the data source.
    pub source: String,
    /// The kernel's id of this boot, 32 hex digits without hyphens.
    pub boot: String,
}

/// Writes events. Keeps what is the same in all of them ready to be copied.
#[derive(Debug)]
pub struct EventEncoder {
    /// Last members of every event, each with its leading comma.
    tail: BytesMut,
    /// First half of the boot id: makes ids of connections and processes unique over boots.
    boot: String,
    /// Different in each run of the daemon.
    run: u64,
    /// Events written by this run.
    count: u64,
}

/// What `Sensor Start` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning<'a> {
    /// Release of the kernel.
    pub kernel: &'a str,
    /// Hooks that work.
    pub attached: &'a str,
    /// Hooks that do not, with the reason; empty if there are none.
    pub missing: &'a str,
    /// Who has sockets that no hook sees; empty if nobody.
    pub packet_sockets: &'a str,
}

/// A loss to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss<'a> {
    /// Where: `ring`, `queue`, `disk` or `flows`.
    pub stage: &'static str,
    /// Which output lost them, if one did.
    pub output: Option<&'a str>,
    /// How many events will never come; with `flows`, how many datagrams were counted in none.
    pub count: u64,
    /// What is known of a loss in the kernel.
    pub kernel: Option<KernelLoss>,
    /// Since when, nanoseconds since boot.
    pub from_ns: u64,
    /// Until when, nanoseconds since boot.
    pub to_ns: u64,
}

/// Records that did not fit into the ring, and the `IP Connect` events among those that will never come because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelLoss {
    /// Records.
    pub records: u64,
    /// `IP Connect` with direction `OUTGOING`.
    pub outgoing: u64,
    /// All other `IP Connect`.
    pub incoming: u64,
}

impl EventEncoder {
    /// An encoder for this sensor; `run` must be another number in each run of the daemon.
    pub fn new(sensor: &Sensor, run: u64) -> Self {
        let mut tail = BytesMut::new();
        let mut object = Object::begin(&mut tail);
        object.string(Field::EndpointName, &sensor.host);
        object.string(Field::EndpointOs, "linux");
        object.string(Field::AgentUuid, &sensor.id);
        object.string(Field::AgentVersion, env!("CARGO_PKG_VERSION"));
        if let Some(site) = &sensor.site {
            object.string(Field::SiteId, site);
        }
        object.string(Field::SourceName, &sensor.source);
        object.string(Field::SourceVendor, "netconn");
        object.string(Field::SourceCategory, "security");
        if let Some(first) = tail.first_mut() {
            *first = b','; // To be copied behind other members.
        }
        Self { tail, boot: sensor.boot.chars().take(16).collect(), run, count: 0 }
    }

    /// Events written so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Writes what happened to a connection or listener.
    pub fn connection(
        &mut self,
        out: &mut BytesMut,
        clock: &mut Clock,
        directory: &mut Names,
        (change, connection, time_ns): (Change, &Connection, u64),
    ) {
        let kind = match change {
            Change::Connect(_) => Kind::Connect,
            Change::Close(..) => Kind::Close,
            Change::Listen => Kind::Listen,
            Change::ListenEnd => Kind::ListenEnd,
        };
        let mut object = self.begin(out, clock, kind, time_ns);
        let boot = &self.boot;
        object.plain(Field::ConnectionId, |out| connection_id(out, boot, connection));
        network(&mut object, change, connection, time_ns);
        ends(&mut object, connection);
        self.owner(&mut object, clock, directory, connection, time_ns);
        object.members(&self.tail);
        object.end_line();
    }

    /// Writes that the daemon begins.
    pub fn start(&mut self, out: &mut BytesMut, clock: &mut Clock, beginning: &Beginning<'_>) {
        let Beginning { kernel, attached, missing, packet_sockets } = beginning;
        let now = clock.now();
        let mut object = self.begin(out, clock, Kind::SensorStart, now);
        object.string(Field::KernelRelease, kernel);
        object.string(Field::HooksAttached, attached);
        if !missing.is_empty() {
            object.string(Field::HooksMissing, missing);
        }
        if !packet_sockets.is_empty() {
            object.string(Field::PacketSockets, packet_sockets);
        }
        object.members(&self.tail);
        object.end_line();
    }

    /// Writes that the daemon ends, and what it has done.
    pub fn stop(&mut self, out: &mut BytesMut, clock: &mut Clock, records_lost: u64) {
        let (now, count) = (clock.now(), self.count);
        let mut object = self.begin(out, clock, Kind::SensorStop, now);
        object.integer(Field::EventsWritten, count);
        object.integer(Field::RecordsLost, records_lost);
        object.members(&self.tail);
        object.end_line();
    }

    /// Writes that something was lost.
    pub fn loss(&mut self, out: &mut BytesMut, clock: &mut Clock, loss: Loss<'_>) {
        let mut object = self.begin(out, clock, Kind::DataLoss, loss.to_ns);
        object.string(Field::LossStage, loss.stage);
        optional(&mut object, Field::LossOutput, loss.output);
        object.integer(Field::LossCount, loss.count);
        if let Some(KernelLoss { records, outgoing, incoming }) = loss.kernel {
            object.integer(Field::LossRecords, records);
            object.integer(Field::LossOutgoing, outgoing);
            object.integer(Field::LossIncoming, incoming);
        }
        object.integer(Field::LossFrom, clock.epoch_ms(loss.from_ns));
        object.integer(Field::LossTo, clock.epoch_ms(loss.to_ns));
        object.members(&self.tail);
        object.end_line();
    }

    fn begin<'a>(&mut self, out: &'a mut BytesMut, clock: &mut Clock, kind: Kind, time_ns: u64) -> Object<'a> {
        self.count += 1;
        let mut object = Object::begin(out);
        object.string(Field::EventType, kind.name());
        if matches!(kind, Kind::Connect | Kind::Close | Kind::Listen | Kind::ListenEnd) {
            object.string(Field::EventCategory, "ip");
        }
        object.integer(Field::EventTime, clock.epoch_ms(time_ns));
        object.time(Field::Timestamp, clock.rfc3339(time_ns));
        object.plain(Field::EventId, |out| {
            hex(out, self.run, 16);
            out.put_u8(b'-');
            out.put_slice(itoa::Buffer::new().format(self.count).as_bytes());
        });
        object
    }

    fn owner(&self, object: &mut Object<'_>, clock: &Clock, directory: &mut Names, connection: &Connection, now: u64) {
        let owner = &connection.owner;
        if owner.tgid == 0 {
            object.string(Field::Attribution, attribution_name(0));
            return;
        }
        object.integer(Field::ProcessTid, owner.tid);
        if let Some(process) = &connection.process {
            let made_from = (owner.comm, owner.uid, owner.cgroup);
            let mut cache = process.cache.borrow_mut();
            let members = match &*cache {
                Some(cached) if cached.made_from == made_from => Rc::clone(&cached.members),
                _ => {
                    let members: Rc<[u8]> = self.process(clock, directory, owner, Some(process), now).as_ref().into();
                    // An account that is unknown now may be known the next time.
                    *cache = directory
                        .user(owner.uid, now)
                        .is_some()
                        .then(|| Cached { made_from, members: Rc::clone(&members) });
                    members
                }
            };
            object.members(&members);
        } else {
            object.members(&self.process(clock, directory, owner, None, now));
        }
        object.string(Field::Attribution, attribution_name(owner.how));
    }

    /// The members that tell of a process, each with its leading comma.
    fn process(
        &self,
        clock: &Clock,
        directory: &mut Names,
        owner: &Owner,
        process: Option<&Rc<Process>>,
        now: u64,
    ) -> BytesMut {
        let mut members = BytesMut::new();
        let mut object = Object::begin(&mut members);
        object.integer(Field::ProcessPid, owner.tgid);
        let name = comm(&owner.comm);
        if !name.is_empty() {
            object.string(Field::ProcessName, &name);
        }
        if let Some(process) = process {
            optional(&mut object, Field::ProcessPath, process.identity.path.as_deref());
            optional(&mut object, Field::ProcessCmdline, process.identity.command_line.as_deref());
        }
        optional(&mut object, Field::ProcessUser, directory.user(owner.uid, now).as_deref());
        object.integer(Field::ProcessUserId, owner.uid);
        if owner.start_ns != 0 {
            object.plain(Field::ProcessUid, |out| process_id(out, &self.boot, owner.tgid, owner.start_ns / TICK_NS));
            object.integer(Field::ProcessStartTime, clock.epoch_ms(owner.start_ns));
        }
        if let Some(parent) = process.and_then(|process| process.parent.as_ref()) {
            self.parent(&mut object, parent);
        }
        if let Some(cgroup) = directory.cgroup(owner) {
            optional(&mut object, Field::SystemdUnit, cgroup.unit.as_deref());
            object.string(Field::CgroupPath, &cgroup.path);
            optional(&mut object, Field::ContainerId, cgroup.container.as_deref());
        }
        if let Some(first) = members.first_mut() {
            *first = b','; // To be copied behind other members.
        }
        members
    }

    fn parent(&self, object: &mut Object<'_>, parent: &Identity) {
        object.integer(Field::ParentPid, parent.key.tgid);
        object.string(Field::ParentName, &parent.name);
        optional(object, Field::ParentPath, parent.path.as_deref());
        optional(object, Field::ParentCmdline, parent.command_line.as_deref());
        object.plain(Field::ParentUid, |out| process_id(out, &self.boot, parent.key.tgid, parent.key.ticks));
    }
}

fn optional(object: &mut Object<'_>, field: Field, value: Option<&str>) {
    if let Some(value) = value {
        object.string(field, value);
    }
}

fn network(object: &mut Object<'_>, change: Change, connection: &Connection, time_ns: u64) {
    if let Some(direction) = connection.direction() {
        object.string(Field::Direction, direction.name());
    }
    protocol(object, connection.protocol);
    match change {
        Change::Connect(Outcome::Failure(failure, errno)) => {
            let status = if failure == Failure::Blocked { "BLOCKED" } else { "FAILURE" };
            object.string(Field::ConnectionStatus, status);
            object.string(Field::FailureReason, failure.name());
            if errno != 0 {
                object.integer(Field::Errno, errno);
            }
        }
        Change::Connect(Outcome::Success) => object.string(Field::ConnectionStatus, "SUCCESS"),
        Change::Close(reason, errno) => {
            object.string(Field::ConnectionStatus, "SUCCESS");
            object.string(Field::CloseReason, reason.name());
            if errno != 0 {
                object.integer(Field::Errno, errno);
            }
            if let Some(exchanged) = &connection.exchanged {
                datagrams(object, connection, exchanged);
            } else if reason != CloseReason::Unknown {
                totals(object, connection);
            }
            if connection.established_ns != 0 {
                object.milliseconds(Field::DurationMs, time_ns.saturating_sub(connection.established_ns));
            }
        }
        Change::Listen | Change::ListenEnd => {}
    }
    let established = connection.established_ns;
    if connection.role == role::ACTIVE && established != 0 && connection.born_ns != 0 {
        object.integer(Field::ConnectLatencyUs, established.saturating_sub(connection.born_ns) / 1000);
    }
    if connection.namespace != UNKNOWN_U32 {
        object.integer(Field::Namespace, connection.namespace);
    }
    if let Some(id) = community_id(connection) {
        object.plain(Field::CommunityId, |out| out.put_slice(&id));
    }
    if let Some(exchanged) = &connection.exchanged {
        flow(object, exchanged);
    }
    if connection.is_subflow() {
        object.r#true(Field::Subflow);
    }
    if connection.preexisting {
        object.r#true(Field::Preexisting);
    }
}

fn protocol(object: &mut Object<'_>, protocol: u8) {
    if let Some((upper, lower)) = protocol_names(protocol) {
        object.string(Field::Protocol, upper);
        object.string(Field::ProtocolName, lower);
    } else {
        for field in [Field::Protocol, Field::ProtocolName] {
            object.plain(field, |out| out.put_slice(itoa::Buffer::new().format(protocol).as_bytes()));
        }
    }
}

/// The Community ID, if both ends are known.
fn community_id(connection: &Connection) -> Option<[u8; 30]> {
    let (protocol, local, remote) = (connection.protocol, connection.local, connection.remote?);
    let Some(Icmp { r#type, code, .. }) = connection.exchanged.as_ref().and_then(|exchanged| exchanged.icmp) else {
        return community_id::of(protocol, local, remote);
    };
    let (source, destination) = if connection.role == role::PASSIVE { (remote, local) } else { (local, remote) };
    Some(community_id::icmp(protocol, (r#type, code), source, destination))
}

/// What only flows of datagrams have.
fn flow(object: &mut Object<'_>, exchanged: &Exchanged) {
    if let Some(Icmp { r#type, code, id }) = exchanged.icmp {
        object.integer(Field::IcmpType, r#type);
        object.integer(Field::IcmpCode, code);
        if let Some(id) = id {
            object.integer(Field::IcmpId, id);
        }
    }
    if exchanged.folded {
        object.r#true(Field::Folded);
    }
}

/// What a flow has moved, and for how long it has. It ends when nobody expects any more, which is no part of it.
fn datagrams(object: &mut Object<'_>, connection: &Connection, exchanged: &Exchanged) {
    bytes(object, connection);
    let Exchanged { packets_sent, packets_received, last_ns, .. } = *exchanged;
    for (field, value) in [(Field::PacketsSent, packets_sent), (Field::PacketsReceived, packets_received)] {
        if value != UNKNOWN_U64 {
            object.integer(field, value);
        }
    }
    if last_ns != 0 {
        object.milliseconds(Field::DurationMs, last_ns.saturating_sub(connection.born_ns));
    }
}

fn bytes(object: &mut Object<'_>, connection: &Connection) {
    let totals = &connection.totals;
    for (field, value) in [(Field::BytesSent, totals.bytes_sent), (Field::BytesReceived, totals.bytes_received)] {
        if value != UNKNOWN_U64 {
            object.integer(field, value);
        }
    }
}

fn totals(object: &mut Object<'_>, connection: &Connection) {
    bytes(object, connection);
    let totals = &connection.totals;
    for (field, value) in [
        (Field::PacketsSent, totals.segments_sent),
        (Field::PacketsReceived, totals.segments_received),
        (Field::Retransmits, totals.retransmits),
    ] {
        if value != UNKNOWN_U32 {
            object.integer(field, value);
        }
    }
    if totals.rtt_us != 0 {
        object.integer(Field::RttUs, totals.rtt_us);
    }
}

/// Both ends: by role (the initiator is the source) and by side. A listener has one end and no role, a folded flow one end.
fn ends(object: &mut Object<'_>, connection: &Connection) {
    let local = connection.local;
    if let Some(remote) = connection.remote {
        let (source, destination) = if connection.role == role::PASSIVE { (remote, local) } else { (local, remote) };
        end(object, Field::SrcAddress, Field::SrcPort, source);
        end(object, Field::DstAddress, Field::DstPort, destination);
        end(object, Field::LocalAddress, Field::LocalPort, local);
        end(object, Field::RemoteAddress, Field::RemotePort, remote);
    } else {
        end(object, Field::LocalAddress, Field::LocalPort, local);
    }
}

fn end(object: &mut Object<'_>, address: Field, port: Field, end: End) {
    // An attempt without a route has not come to an address of its own; listeners of any address have a port.
    if !end.address.is_unspecified() || end.port != 0 {
        object.address(address, end.address);
    }
    if end.port != 0 {
        object.integer(port, end.port);
    }
}

/// Writes the id of a connection, flow or listener: unique over boots, the same in every run of the daemon.
pub fn connection_id(out: &mut BytesMut, boot: &str, connection: &Connection) {
    out.put_slice(boot.as_bytes());
    out.put_u8(b'-');
    hex(out, connection.socket, 1);
    out.put_u8(b'-');
    // A socket may exchange datagrams with many; each flow begins at a moment of its own.
    let life = if connection.is_flow() { connection.born_ns } else { connection.generation.into() };
    out.put_slice(itoa::Buffer::new().format(life).as_bytes());
}

/// Writes the id of a process: unique over boots.
fn process_id(out: &mut BytesMut, boot: &str, tgid: u32, ticks: u64) {
    out.put_slice(boot.as_bytes());
    for part in [u64::from(tgid), ticks] {
        out.put_u8(b'-');
        out.put_slice(itoa::Buffer::new().format(part).as_bytes());
    }
}

/// Writes a number in hex, with at least `digits` digits.
fn hex(out: &mut BytesMut, value: u64, digits: usize) {
    let needed = (64 - value.leading_zeros() as usize).div_ceil(4).max(digits).min(16);
    for place in (0..needed).rev() {
        let digit = value >> (place * 4) & 15;
        out.put_u8(b"0123456789abcdef"[usize::try_from(digit).unwrap_or(0)]);
    }
}

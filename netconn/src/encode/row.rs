//! Makes a [`Row`] of a connection, and writes it as a member of the JSON answer.

use std::{borrow::Cow, rc::Rc};

use bytes::BytesMut;
use hashbrown::{HashMap, hash_map::Entry};
use netconn_common::{IPPROTO_TCP, Owner, UNKNOWN_U32, UNKNOWN_U64};
use netconn_model::{
    fact::{Outcome, protocol_names},
    json::{Object, SecondText},
    moment::Moment,
    row::{Row, RowSection},
    state,
    value::PlainText,
};

use crate::{
    clock::Clock,
    encode::{PROCESS_MAX, attribution, holders::Holders, ids::ConnectionIds, known, present::Present, process::told},
    kernel::socket_info::{SocketInfo, SocketInfos, TcpInfo},
    names::Names,
    process::{
        Identity, Process, Processes, comm,
        redact::Redactor,
        title::{Now, NowKind, Titles},
    },
    table::{Change, Connection, past::Ended},
};

/// What rows that are written together need beside their connections.
pub struct Context<'a> {
    clock: &'a Clock,
    /// Names of accounts and cgroups.
    pub names: &'a mut Names,
    /// What runs now under each process id.
    pub processes: &'a Processes,
    /// What living processes say of themselves now; `None` if the processes were read just now.
    pub titles: Option<&'a mut Titles>,
    /// All holders of each socket, if they or its inode are wanted.
    pub holders: Option<&'a Holders>,
    /// Whether rows list the holders, and not only the inode.
    pub lists_holders: bool,
    /// Nanoseconds since boot, when the first of them was written.
    pub now: u64,
    /// Members of [`RowSection::Owner`] and [`RowSection::Originator`]: many connections have the same.
    owners: HashMap<Parties, Vec<u8>>,
    seconds: SecondText,
    connection_ids: ConnectionIds,
    /// What the kernel measures of sockets, if it is asked for.
    infos: Option<&'a SocketInfos>,
}

/// An owner without the thread and without how it is known, and its process by address. No other process can get the address: the
/// tables keep all of them while rows are written.
type Known = (Owner, Option<*const Process>);

/// What the members of a row's processes are made of: who has the socket, who began it if that is another, and whether a process
/// may have changed its program since. How the originator is known is one of the members, and so part of it.
type Parties = (Known, Option<Known>, bool);

fn known_by(owner: &Owner, process: Option<&Rc<Process>>) -> Known {
    (Owner { tid: 0, how: 0, ..*owner }, process.map(Rc::as_ptr))
}

impl<'a> Context<'a> {
    /// Returns the context for rows that are written now. Names are looked up once.
    pub fn new(clock: &'a Clock, names: &'a mut Names, processes: &'a Processes, boot: &str) -> Self {
        let now = clock.now();
        let (owners, seconds) = (HashMap::default(), SecondText::default());
        let (titles, holders, connection_ids) = (None, None, ConnectionIds::new(boot));
        Self {
            clock,
            names,
            processes,
            titles,
            holders,
            lists_holders: false,
            now,
            owners,
            seconds,
            connection_ids,
            infos: None,
        }
    }

    /// Writes an object.
    pub(super) fn object(&mut self, out: &mut BytesMut, write: impl FnOnce(&mut Self, &mut Object<'_>)) {
        // Taken out for as long as the object needs it.
        let mut seconds = std::mem::take(&mut self.seconds);
        let mut object = Object::begin(out, &mut seconds);
        write(self, &mut object);
        object.end();
        self.seconds = seconds;
    }

    /// Writes who has a socket that is no connection: copies what a row before this one had.
    pub(super) fn write_owner(&mut self, object: &mut Object<'_>, owner: &Owner) {
        let Self { names, processes, titles, now, owners, .. } = self;
        let process = processes.of(owner).or_else(|| processes.of_tick(owner));
        match owners.entry((known_by(owner, process.as_ref()), None, true)) {
            Entry::Occupied(written) => object.members(written.get()),
            Entry::Vacant(entry) => {
                let present = Present { owner, process: process.as_ref(), name: comm(&owner.comm), originator: None };
                let of_now = title(titles.as_deref_mut(), present.process, (*now, processes));
                let at = (*now, &**processes.redactor());
                entry.insert(object.written(|object| write_processes(object, names, at, (&present, of_now.as_ref()))));
            }
        }
    }

    /// Adds what the kernel measures of sockets.
    #[must_use]
    pub fn with_infos(self, infos: Option<&'a SocketInfos>) -> Self {
        Self { infos, ..self }
    }
}

/// Writes the row of a connection; one that has `ended` is shown as such.
pub fn row(out: &mut BytesMut, context: &mut Context<'_>, connection: &Connection, ended: Option<&Ended>) {
    let Context {
        clock,
        names,
        processes,
        titles,
        holders,
        lists_holders,
        now,
        owners,
        seconds,
        connection_ids,
        infos,
    } = context;
    let (holder, holder_process) = connection.holder();
    let name = if ended.is_some() { "CLOSED" } else { state::name(connection.shown_state()) };
    let interface = names.interface(connection.namespace, connection.device, *now);
    let mut row = Row {
        interface: interface.as_deref().map(Cow::Borrowed),
        state: Some(PlainText::new(name)),
        protocol: Some(match protocol_names(connection.protocol) {
            Some((upper, _)) => PlainText::new(upper),
            None => PlainText::new(connection.protocol.to_string()),
        }),
        direction: connection.direction(),
        local_address: Some(connection.local.address),
        local_port: known(connection.local.port, 0).or(connection.is_counted().then_some(0)).map(u32::from),
        remote_address: connection.remote.map(|remote| remote.address),
        // Port 0 is a real value where there are ports; ICMP has none.
        remote_port: connection
            .remote
            .map(|remote| remote.port.into())
            .filter(|port| *port != 0 || connection.has_ports()),
        attribution: Some(attribution(holder.how)),
        started_at: known(connection.born_ns, 0).map(|born_ns| Moment(clock.epoch_ns(born_ns))),
        namespace: known(connection.namespace, UNKNOWN_U32),
        subflow: connection.is_subflow().then_some(true),
        raw: connection.is_raw().then_some(true),
        folded: connection.exchanged.as_ref().and_then(|exchanged| exchanged.folded.then_some(true)),
        // Minisocks of which nothing else is known have no number, and so no id.
        connection_id: (connection.socket != 0).then(|| PlainText::new(connection_ids.of(connection))),
        ..Row::default()
    };
    row.failure_reason = connection.refusal();
    if let Some(Ended { ended_ns, change, .. }) = ended {
        row.ended_at = Some(Moment(clock.epoch_ns(*ended_ns)));
        match *change {
            Change::Close(reason, _) => row.close_reason = Some(reason),
            Change::Connect(Outcome::Failure(failure, _)) => row.failure_reason = Some(failure),
            _ => {}
        }
    }
    // A listener exchanges nothing.
    if !connection.is_listener() {
        row.bytes_sent = known(connection.totals.bytes_sent, UNKNOWN_U64);
        row.bytes_received = known(connection.totals.bytes_received, UNKNOWN_U64);
    }
    // Writes the sections in turn; those of the processes are copied if a row before this one had the same.
    let mut object = Object::begin(out, seconds);
    row.write_section(RowSection::Socket, &mut object);
    let is_open = ended.is_none() && connection.is_open();
    let began = connection.originator().map(|(owner, process)| {
        let (known, process) = known_by(owner, process);
        (Owner { how: owner.how, ..known }, process)
    });
    match owners.entry((known_by(holder, holder_process), began, is_open)) {
        Entry::Occupied(written) => object.members(written.get()),
        Entry::Vacant(entry) => {
            let present = Present::of(connection, processes, ended.is_some());
            // A process that has ended, or has left the socket, is shown as it was.
            let living = present.process.filter(|_| is_open);
            let of_now = title(titles.as_deref_mut(), living, (*now, processes));
            let at = (*now, &**processes.redactor());
            entry.insert(object.written(|object| write_processes(object, names, at, (&present, of_now.as_ref()))));
        }
    }
    if let Some((inode, list, count)) = holders.and_then(|holders| holders.of(connection.socket)).filter(|_| is_open) {
        let row = if *lists_holders {
            Row { inode, holder_count: Some(count), holders: Some(list), ..Row::default() }
        } else {
            Row { inode, ..Row::default() }
        };
        row.write_section(RowSection::Holders, &mut object);
    }
    row.write_section(RowSection::Life, &mut object);
    // What has ended has no socket any more; another one may have its ends.
    if let Some(infos) = infos.filter(|_| ended.is_none()) {
        let Connection { socket, namespace, protocol, local, remote, .. } = connection;
        if let Some(info) = infos.of(*socket, *namespace, *protocol, *local, *remote) {
            info_row(info, connection.is_listener() && *protocol == IPPROTO_TCP)
                .write_section(RowSection::Info, &mut object);
        }
    }
    object.end();
}

/// Returns what a process that lives shows of itself now, if that is wanted.
fn title(
    titles: Option<&mut Titles>,
    process: Option<&Rc<Process>>,
    (now, processes): (u64, &Processes),
) -> Option<Now> {
    let Identity { key, command_line, .. } = &*process?.identity;
    let redactor = processes.redactor();
    let known = command_line.as_ref().map(|line| redactor.current(line).0);
    titles?.of(*key, known.as_deref(), (now, redactor))
}

/// Returns the members of [`RowSection::Info`]. The queues of a TCP listener count connections.
fn info_row(info: &SocketInfo, is_tcp_listener: bool) -> Row<'_> {
    let SocketInfo { receive_queue, send_queue, timer, tcp } = info;
    let tcp = tcp.as_deref();
    let (queues, backlog) = if is_tcp_listener { (None, Some(())) } else { (Some(()), None) };
    Row {
        receive_queue: queues.map(|()| *receive_queue),
        send_queue: queues.map(|()| *send_queue),
        backlog: backlog.map(|()| *receive_queue),
        backlog_limit: backlog.map(|()| *send_queue),
        timer: timer.map(|(timer, ..)| timer),
        timer_ms: timer.map(|(_, expires_ms, _)| expires_ms),
        timer_retries: timer.map(|(.., retries)| retries),
        rtt_us: tcp.and_then(|tcp| tcp.rtt_us),
        rtt_variation_us: tcp.and_then(|tcp| tcp.rtt_variation_us),
        min_rtt_us: tcp.and_then(|tcp| tcp.min_rtt_us),
        retransmit_timeout_us: tcp.and_then(|tcp| tcp.retransmit_timeout_us),
        congestion_window: tcp.and_then(|tcp| tcp.congestion_window),
        slow_start_threshold: tcp.and_then(|tcp| tcp.slow_start_threshold),
        segment_size: tcp.and_then(|tcp| tcp.segment_size),
        unacknowledged: tcp.and_then(|tcp| tcp.unacknowledged),
        lost: tcp.and_then(|tcp| tcp.lost),
        retransmits: tcp.and_then(|tcp| tcp.retransmits),
        bytes_retransmitted: tcp.and_then(|tcp| tcp.bytes_retransmitted),
        delivered: tcp.and_then(|tcp| tcp.delivered),
        delivery_rate: tcp.and_then(|tcp| tcp.delivery_rate),
        pacing_rate: tcp.and_then(|tcp| tcp.pacing_rate),
        last_sent_ms: tcp.and_then(|tcp| tcp.last_sent_ms),
        last_received_ms: tcp.and_then(|tcp| tcp.last_received_ms),
        congestion_control: tcp.and_then(TcpInfo::congestion_control).map(Cow::Borrowed),
        ..Row::default()
    }
}

/// Writes who has the socket, and who began it if that is another.
fn write_processes(
    object: &mut Object<'_>,
    names: &mut Names,
    (now, redactor): (u64, &Redactor),
    (present, of_now): (&Present<'_>, Option<&Now>),
) {
    let Present { owner, process, name, originator } = present;
    let process = process.map(|process| &**process);
    with_owner(names, owner, process, (now, redactor), |facts| {
        let OwnerFacts {
            pid, process_name, user, user_id, executable, command_line, container_id, systemd_unit, ..
        } = facts;
        let mut row = Row {
            pid,
            process_name: process_name.and(Some(Cow::Borrowed(&**name))),
            user,
            user_id,
            executable,
            command_line,
            command_line_redacted: facts.command_line_redacted,
            container_id,
            systemd_unit,
            ..Row::default()
        };
        if let Some(Now { kind, text, is_redacted }) = of_now {
            let place = match kind {
                NowKind::Title => &mut row.title,
                NowKind::CommandLine => &mut row.command_line,
            };
            *place = Some(Cow::Borrowed(text));
            row.command_line_redacted = row.command_line_redacted.or(is_redacted.then_some(true));
        }
        if let Some((owner, process)) = originator {
            let identity = process.map(|process| &process.identity);
            row.originator_pid = Some(owner.tgid);
            row.originator_process_name = Some(comm(&owner.comm)).filter(|name| !name.is_empty());
            row.originator_executable = identity.and_then(|identity| identity.path.as_deref()).map(Cow::Borrowed);
            let line = identity.and_then(|identity| identity.command_line.as_ref());
            (row.originator_command_line, row.originator_command_line_redacted) = told(line, redactor);
            row.originator_attribution = Some(attribution(owner.how));
        }
        object.within(PROCESS_MAX, |object| {
            row.write_section(RowSection::Owner, object);
            row.write_section(RowSection::Originator, object);
        });
    });
}

/// What rows of connections and of packet sockets say of the process that has the socket; all `None` if it is not known.
#[derive(Default)]
pub(super) struct OwnerFacts<'a> {
    pub(super) pid: Option<u32>,
    pub(super) process_name: Option<Cow<'a, str>>,
    pub(super) user: Option<Cow<'a, str>>,
    pub(super) user_id: Option<u32>,
    pub(super) executable: Option<Cow<'a, str>>,
    pub(super) command_line: Option<Cow<'a, str>>,
    pub(super) command_line_redacted: Option<bool>,
    pub(super) container_id: Option<Cow<'a, str>>,
    pub(super) systemd_unit: Option<Cow<'a, str>>,
}

/// Looks up the facts of an owner and hands them to the function.
pub(super) fn with_owner<T>(
    names: &mut Names,
    owner: &Owner,
    process: Option<&Process>,
    (now, redactor): (u64, &Redactor),
    look: impl FnOnce(OwnerFacts<'_>) -> T,
) -> T {
    let user = names.user(owner, now);
    // No process, but perhaps the user of the socket.
    if owner.tgid == 0 {
        let user = user.as_deref().map(Cow::Borrowed);
        return look(OwnerFacts { user, user_id: owner.user(), ..OwnerFacts::default() });
    }
    let cgroup = names.cgroup(owner, now);
    let line = process.and_then(|process| process.identity.command_line.as_ref());
    let (command_line, command_line_redacted) = told(line, redactor);
    look(OwnerFacts {
        pid: Some(owner.tgid),
        // The name when the socket was used; a row of a process that runs another program has the name of that.
        process_name: Some(comm(&owner.comm)).filter(|name| !name.is_empty()),
        user: user.as_deref().map(Cow::Borrowed),
        user_id: owner.user(),
        executable: process.and_then(|process| process.identity.path.as_deref()).map(Cow::Borrowed),
        command_line,
        command_line_redacted,
        container_id: cgroup.as_ref().and_then(|cgroup| cgroup.container.as_deref()).map(Cow::Borrowed),
        systemd_unit: cgroup.as_ref().and_then(|cgroup| cgroup.unit.as_deref()).map(Cow::Borrowed),
    })
}

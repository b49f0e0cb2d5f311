//! A snapshot without a daemon: what the kernel has at this moment, and which processes have it open.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use netconn_common::{FileRecord, Owner, TcpRecord, UdpSocketRecord, tcp_state};
use netconn_model::{
    config::DEFAULT_STATE_DIR,
    filter::Filter,
    snapshot::{self, RowsMember, SnapshotHead},
    socket_kind::SocketKinds,
};

use crate::{
    clock::Clock,
    encode::{
        self,
        holders::Holders,
        other::{OtherFilters, other_row},
        row::{Context, row},
        subject::with_row_subject,
    },
    kernel::{
        diag::{self, Found},
        inventory::{self, Inventory, InventoryParts},
        iterate::{self, Unreached},
        load::LoadError,
        other_socket::{OtherSockets, files_of},
        packet_socket,
        preflight::Unfit,
        socket_info::{InfoParts, SocketInfos},
    },
    names::Names,
    process::{Key, Processes, lookup::Lookup, open, redact::Redactor, scan},
    state_dir,
    table::{Connection, Coverage, Silent, Table, past},
};

/// How long the names of accounts are waited for, all together: a directory service may hang.
const NAMES_PATIENCE: Duration = Duration::from_secs(2);

/// Where a snapshot comes from.
#[derive(Debug)]
pub enum Source {
    /// BPF iterators: everything, in all network namespaces.
    Iterators,
    /// `sock_diag` and `/proc`: what this user may see of its own network namespace. Holds why iterators cannot be used.
    SockDiag(LoadError),
    /// `/proc` alone. Holds why iterators cannot be used.
    Proc(LoadError),
}

impl Source {
    /// Returns a sentence that says what is shown, and what would show more.
    pub fn notice(&self) -> String {
        let (files, error) = match self {
            Self::Iterators => {
                return "no daemon runs; showing what the kernel has at this moment: start `netconn run` to know who \
                        began it, and what became of the rest"
                    .into();
            }
            Self::SockDiag(error) => ("sock_diag and /proc", error),
            Self::Proc(error) => ("/proc", error),
        };
        // A user without privileges need not be told why.
        let reason = match error {
            LoadError::Unfit(Unfit::NotPermitted { .. }) => String::new(),
            error => format!(" because {error}"),
        };
        format!(
            "no daemon runs; showing what this user may see of this network namespace ({files}){reason}: start \
             `netconn run` for all"
        )
    }
}

/// What a snapshot is to have.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What the kernel measures of sockets.
    pub infos: bool,
    /// All processes that have each socket open.
    pub holders: bool,
    /// The inode of each socket.
    pub inodes: bool,
    /// Which kinds of sockets.
    pub kinds: SocketKinds,
}

/// A snapshot of all connections.
pub struct Snapshot {
    source: Source,
    sockets: Vec<TcpRecord>,
    minisocks: Vec<TcpRecord>,
    datagrams: Vec<UdpSocketRecord>,
    processes: Processes,
    /// Listeners only: they decide the direction of a connection and, until it is accepted, its owner.
    table: Table,
    /// Whether sockets have cookies, which `/proc` does not show.
    has_numbers: bool,
    /// What the kernel measures of sockets, if it is asked for.
    infos: Option<SocketInfos>,
    /// Who has each socket open, if that or its inode is wanted.
    holders: Option<Holders>,
    /// Network namespaces that the iterators could not read.
    unreached: Unreached,
    /// Whether rows list who has their socket open, and not only its inode.
    lists_holders: bool,
    /// Sockets that are no connections, and who has them open, by inode.
    others: Option<(OtherSockets, Holders)>,
}

impl Snapshot {
    /// Takes a snapshot in the best way that this process is allowed. Sockets that do not match the filter may be left out.
    ///
    /// # Errors
    ///
    /// When not even `/proc` can be read.
    pub fn take(
        filter: &Filter,
        Wanted { infos: wants_infos, holders, inodes, kinds }: Wanted,
        redactor: Redactor,
    ) -> io::Result<Self> {
        let (lists_holders, lists_files) = (holders, holders || inodes);
        let others = if kinds.has_others() { Some(others(kinds, filter)?) } else { None };
        let (others, obstacle) = match others {
            Some((found, holders, obstacle)) => (Some((found, holders)), obstacle),
            None => (None, None),
        };
        if !kinds.has_connections() {
            let owners = others.iter().flat_map(|(found, _)| &found.sockets).map(|socket| &socket.owner);
            return Ok(Self {
                source: obstacle.map_or(Source::Iterators, Source::SockDiag),
                processes: processes(owners, redactor),
                sockets: Vec::new(),
                minisocks: Vec::new(),
                datagrams: Vec::new(),
                table: Table::default(),
                has_numbers: true,
                infos: None,
                holders: None,
                unreached: Unreached::default(),
                lists_holders,
                others,
            });
        }
        let wanted = InventoryParts {
            minisocks: filter.wants_minisocks(),
            datagrams: filter.wants_datagrams(),
            files: lists_files,
        };
        let datagrams = |read: fn() -> io::Result<Vec<Found<UdpSocketRecord>>>| {
            // Not read if the filter can select none: each list is a walk of the kernel.
            if wanted.datagrams { read() } else { Ok(Vec::new()) }
        };
        // From the best source to the poorest; the first error is kept, because it says what would show more.
        let (source, found) = match inventory::read(|inode| filter.wants_namespace(inode), wanted) {
            Ok(found) => (Source::Iterators, found),
            Err(error) => match diag::sockets() {
                Ok(found) => {
                    // The kernel may have `sock_diag` of TCP alone.
                    let datagrams = datagrams(|| diag::datagrams().or_else(|_| diag::datagrams_of_proc()))?;
                    (Source::SockDiag(error), Inventory { has_cookies: true, ..owned(&found, &datagrams) })
                }
                Err(_) => {
                    let datagrams = datagrams(diag::datagrams_of_proc)?;
                    (Source::Proc(error), owned(&diag::sockets_of_proc()?, &datagrams))
                }
            },
        };
        let Inventory { sockets, minisocks, datagrams, has_cookies, files, unreached } = found;
        let holders = lists_files.then(|| {
            // Files of datagram sockets have another number where there are no cookies.
            let numbers: HashMap<u64, u64> = datagrams.iter().map(|socket| (socket.file, socket.socket)).collect();
            let number = |file: FileRecord| numbers.get(&file.socket).copied().unwrap_or(file.socket);
            Holders::new(files.into_iter().map(|file| FileRecord { socket: number(file), ..file }))
        });
        let owners = sockets.iter().map(|socket| &socket.state.owner);
        // Only of sockets with an owner that was found; minisocks have none.
        let owners = owners.chain(datagrams.iter().map(|socket| &socket.state.owner));
        let of_others = others.iter().flat_map(|(found, _)| &found.sockets).map(|socket| &socket.owner);
        let processes = processes(owners.chain(of_others), redactor);
        // A dump of the listeners alone: `connection_in_dump` needs no more of the table to tell who began a
        // connection.
        let mut table = Table::default();
        let listeners = sockets.iter().filter(|socket| socket.new_state == tcp_state::LISTEN).copied().collect();
        table.begin_dump();
        table.end_dump(listeners, &Coverage::default(), &mut Silent(Some(&processes)));
        let has_numbers = !matches!(source, Source::Proc(_));
        let infos = if wants_infos {
            let parts = InfoParts { tcp: filter.wants_tcp(), udp: wanted.datagrams };
            // Others than root may enter no namespace: theirs is read.
            let read = || SocketInfos::read(has_cookies, parts, |inode| filter.wants_namespace(inode));
            Some(iterate::beside(read, || ())?)
        } else {
            None
        };
        Ok(Self {
            source,
            sockets,
            minisocks,
            datagrams,
            processes,
            table,
            has_numbers,
            infos,
            holders,
            unreached,
            lists_holders,
            others,
        })
    }

    /// Returns what the list lacks although the best source was used, in sentences.
    pub fn unlisted(&self) -> Vec<String> {
        let of_others = self.others.iter().flat_map(|(found, _)| found.unlisted.iter().cloned());
        self.unreached.sentences().into_iter().chain(of_others).collect()
    }

    /// Returns which kinds of sockets this kernel does not have, in sentences.
    pub fn absent(&self) -> &[String] {
        self.others.as_ref().map_or(&[], |(found, _)| &found.absent)
    }

    /// Returns where the snapshot comes from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Returns whether what the kernel measures of sockets can be read in this way.
    pub fn has_infos(&self) -> bool {
        self.has_numbers
    }

    /// Returns what stands before the rows in one JSON object, as the daemon writes it.
    pub fn head(&self) -> Bytes {
        let unlisted = self.unlisted();
        let head = SnapshotHead {
            sensor_id: state_dir::known_id(DEFAULT_STATE_DIR.as_ref()),
            taken_at: Timestamp::now().to_string(),
            // `sock_diag` and /proc show one network namespace only.
            complete: matches!(self.source, Source::Iterators)
                && unlisted.is_empty()
                && !self.infos.as_ref().is_some_and(SocketInfos::is_partial),
            unlisted: Some(unlisted.into_iter().chain(self.absent().iter().cloned()).collect())
                .filter(|sentences: &Vec<String>| !sentences.is_empty()),
        };
        snapshot::head(&head, RowsMember::Connections)
    }

    /// Calls `take` with each row that matches the filter: a JSON object.
    ///
    /// # Errors
    ///
    /// When `take` fails, or when the system gives no thread.
    pub fn rows<E: From<io::Error>>(
        self,
        filter: &Filter,
        wants_infos: bool,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let clock = Clock::new();
        // Answers to later look-ups are not taken: a snapshot is over by then.
        let mut names = Names::new(Lookup::start(|| ())?).patient();
        let owners = self.sockets.iter().map(|socket| &socket.state.owner);
        let owners = owners.chain(self.datagrams.iter().map(|socket| &socket.state.owner));
        let of_others = self.others.iter().flat_map(|(found, _)| &found.sockets).map(|socket| &socket.owner);
        let owners = owners.chain(of_others);
        names.settle(owners, clock.now(), NAMES_PATIENCE);
        // Sixteen digits, as in the ids that the daemon makes.
        let boot: String = state_dir::boot_id().chars().take(16).collect();
        let mut out = BytesMut::new();
        let is_everything = filter.is_everything();
        let mut context = Context::new(&clock, &mut names, &self.processes, &boot).with_infos(self.infos.as_ref());
        (context.holders, context.lists_holders) = (self.holders.as_ref(), self.lists_holders);
        let mut show = |connection: &Connection| -> Result<(), E> {
            // The subject needs names of users and cgroups, which are looked up; without a filter that is saved.
            let (names, now) = (&mut *context.names, context.now);
            if is_everything
                || with_row_subject(connection, false, context.processes, (names, now), |subject| {
                    filter.matches(subject)
                })
            {
                out.clear();
                row(&mut out, &mut context, connection, None);
                take(&out)?;
            }
            Ok(())
        };
        for mut socket in self.sockets {
            if !self.has_numbers {
                socket.socket = 0;
            }
            if let Some(connection) = self.table.connection_in_dump(&mut socket, &Silent(Some(&self.processes))) {
                show(&connection)?;
            }
        }
        for socket in &self.datagrams {
            show(&Connection::from_udp_socket(socket, self.processes.of(&socket.state.owner)))?;
        }
        for minisock in &self.minisocks {
            let bare = past::bare_connection_of(minisock);
            match past::ends(&bare).filter(|_| minisock.new_state == tcp_state::SYN_RECV) {
                Some(between) => show(&self.table.half_open(between))?,
                // Without an owner: no process has them any more, and nothing here remembers who had.
                None => show(&bare)?,
            }
        }
        if let Some((found, holders)) = &self.others {
            let filters = OtherFilters::new(filter);
            for socket in &found.sockets {
                if filters.matches(socket, context.processes, (&mut *context.names, context.now)) {
                    out.clear();
                    other_row(
                        &mut out,
                        &mut context,
                        (found, socket),
                        self.lists_holders.then_some(holders),
                        wants_infos,
                    );
                    take(&out)?;
                }
            }
        }
        Ok(())
    }
}

/// Reads the sockets of these kinds and finds who has them open. Without BPF that is what this user may see of the own network
/// namespace, and the reason is returned.
fn others(kinds: SocketKinds, filter: &Filter) -> io::Result<(OtherSockets, Holders, Option<LoadError>)> {
    let (files, obstacle) = match inventory::all_files() {
        Ok(files) => (files, None),
        Err(error) => (open::files(), Some(error)),
    };
    let is_everywhere = obstacle.is_none();
    let read = || OtherSockets::read(kinds, is_everywhere, |inode| filter.wants_namespace(inode));
    let mut found = iterate::beside(read, || ())?;
    let files = files_of(&mut found, files, false);
    Ok((found, Holders::new(files), obstacle))
}

/// Returns all packet sockets as the daemon answers `/v1/packet-sockets`, and where they come from.
///
/// # Errors
///
/// When the system gives no thread.
pub fn packet_sockets(redactor: Redactor) -> io::Result<(Source, Bytes)> {
    let (source, found) = match inventory::packet_sockets() {
        Ok(found) => (Source::Iterators, found),
        Err(error) => {
            let mut found = packet_socket::of_proc(&error.to_string());
            found.assign_owners(&open::owners());
            (Source::Proc(error), found)
        }
    };
    let owners = found.sockets.iter().map(|socket| &socket.owner);
    let processes = processes(owners, redactor);
    let mut names = Names::new(Lookup::start(|| ())?).patient();
    let id = state_dir::known_id(DEFAULT_STATE_DIR.as_ref());
    let is_complete = matches!(source, Source::Iterators) && found.unlisted.is_empty();
    let now = Clock::new().now();
    names.settle(found.sockets.iter().map(|socket| &socket.owner), now, NAMES_PATIENCE);
    let answer = encode::packet::object(id.as_deref(), &found, is_complete, &processes, &mut names, now);
    Ok((source, answer))
}

/// Converts sockets of `sock_diag` or `/proc/net` to what iterators return, with owners from `/proc`.
fn owned(found: &[Found<TcpRecord>], datagrams: &[Found<UdpSocketRecord>]) -> Inventory {
    let mut files = open::files();
    let owners: HashMap<u64, Owner> =
        iterate::oldest(&files, |file| file.inode).into_iter().map(|(inode, file)| (inode, file.owner)).collect();
    let mut inventory = Inventory::default();
    // By inode: a socket of /proc has no number.
    let mut numbers: HashMap<u64, u64> = HashMap::new();
    for Found { record, inode, uid } in datagrams {
        let mut record = *record;
        record.file = record.socket;
        numbers.insert(*inode, record.socket);
        // Without privileges, other users' files cannot be read: their sockets stay without an owner.
        record.state.owner = owners.get(inode).copied().unwrap_or_else(|| Owner::of_user(*uid));
        inventory.datagrams.push(record);
    }
    for Found { record, inode, uid } in found {
        let mut record = *record;
        // No process has it open, so that the table by inode cannot know it.
        let is_half_open = record.new_state == tcp_state::SYN_RECV && *inode == 0;
        if record.new_state == tcp_state::TIME_WAIT || is_half_open {
            inventory.minisocks.push(record);
            continue;
        }
        record.state.owner = owners.get(inode).copied().unwrap_or_else(|| Owner::of_user(*uid));
        numbers.insert(*inode, record.socket);
        inventory.sockets.push(record);
    }
    // Others are sockets of other families, or what is not shown.
    files.retain_mut(|file| {
        let number = numbers.get(&file.inode).copied();
        file.socket = number.unwrap_or_default();
        number.is_some()
    });
    inventory.files = files;
    inventory
}

/// Reads the processes that own sockets. To read all processes would take longer than everything else.
fn processes<'a>(owners: impl Iterator<Item = &'a Owner>, redactor: Redactor) -> Processes {
    // Process id 0 stands for an unknown owner.
    let known = owners.filter(|owner| owner.tgid != 0);
    let keys: HashSet<Key> = known.map(Key::of).collect();
    let mut processes = Processes::with_redactor(redactor);
    // A process that has ended since is left out; its sockets are shown without it.
    processes.add_scanned(scan::some(keys));
    processes
}

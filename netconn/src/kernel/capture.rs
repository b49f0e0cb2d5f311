//! What is captured: the attached programs, the rings their records arrive in, and what can be asked of the kernel.

use std::{collections::HashSet, io, mem};

use aya::{
    Btf as AyaBtf, Ebpf, VerifierLogLevel,
    maps::{Array, HashMap, MapData},
    programs::Iter,
};
use aya_log::EbpfLogger;
use log::Log;
use netconn_common::{
    CountersRecord, ExitRecord, FileRecord, Header, TcpRecord, UdpSocketRecord, feature, kind, map, setting, tcp_state,
};
use netconn_model::health::{HookStatus, Verdict};

use crate::{
    clock::Clock,
    kernel::{
        btf::Btf,
        diag,
        fault::Fault,
        flows::FlowMaps,
        hooks::{HELPERS, HOOKS, Hook, Program, keep_status, probe_read_status},
        iterate::{self, Collect},
        layout::Layout,
        load::{CaptureOptions, DatagramWatch, LoadError, attach, descriptor, load, sizes, take_map, unneeded},
        losses::{Counters, Losses},
        packet_socket::{self, PacketSockets},
        preflight::{self, Lockdown},
        rings::Rings,
    },
};

/// What is wanted of [`Capture::live`].
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Connections that are over.
    pub minisocks: bool,
    /// How much the others have moved.
    pub counters: bool,
    /// Sockets of datagrams.
    pub datagrams: bool,
}

/// What the kernel alone knows of connections.
#[derive(Debug, Default)]
pub struct Live {
    /// Connections that are over, as far as the kernel still has them.
    pub minisocks: Vec<TcpRecord>,
    /// How much connections have moved.
    pub counters: Vec<CountersRecord>,
    /// Inodes of the network namespaces that were read.
    pub namespaces: HashSet<u64>,
    /// UDP sockets.
    pub datagrams: Vec<UdpSocketRecord>,
    /// Inodes of the network namespaces that these were read of.
    pub datagram_namespaces: HashSet<u64>,
}

impl Collect for Live {
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        let head: Header = bytemuck::pod_read_unaligned(bytes.get(..size_of::<Header>())?);
        if head.kind == kind::COUNTERS { self.counters.take(bytes) } else { self.minisocks.take(bytes) }
    }

    fn add(&mut self, other: Self) {
        self.minisocks.add(other.minisocks);
        self.counters.add(other.counters);
    }
}

/// Attached programs, and where their records arrive. Dropping it detaches them.
pub struct Capture {
    /// Owns the programs and links; `None` when detached.
    ebpf: Option<Ebpf>,
    rings: Rings,
    ring_bytes: usize,
    counters: Counters,
    /// [`map::ENDED`].
    ended: HashMap<MapData, u32, u64>,
    /// Until the engine takes them.
    flows: FlowMaps,
    settings: Array<MapData, u32>,
    /// What `settings` holds.
    bits: u32,
    exact: bool,
    /// See [`Self::has_cookies`].
    cookies: bool,
    /// Why open files say nothing of their sockets, if so.
    files_obstacle: Option<String>,
    watches_datagrams: bool,
    /// Where what is kept with sockets cannot be read by iterators (5.10): whose files were sockets when they were last read.
    files: Vec<FileRecord>,
    /// Whether sockets have not been read yet.
    is_first: bool,
    /// The same of UDP sockets.
    is_first_of_datagrams: bool,
    /// When programs began to be attached, nanoseconds since boot.
    began_ns: u64,
    faults: Vec<Fault>,
    hooks: Vec<HookStatus>,
    missing: Vec<&'static str>,
    logger: Option<EbpfLogger<&'static dyn Log>>,
}

impl Capture {
    /// Loads and attaches everything that this kernel allows.
    ///
    /// # Errors
    ///
    /// When nothing can be captured; the message says what to do.
    pub fn start(options: &CaptureOptions) -> Result<Self, LoadError> {
        preflight::check_kernel(&preflight::kernel_release())?;
        preflight::check_capabilities()?;
        let data = preflight::read_btf()?;
        let btf = Btf::parse(&data)?;
        let layout = Layout::of(&btf, Lockdown::of_this_kernel())?;
        let ebpf = load(options, &layout, VerifierLogLevel::DISABLE)?;
        // Loading once more with a log is slow: only for those that fail.
        let explain = |hook: &Hook| {
            let mut ebpf = load(options, &layout, VerifierLogLevel::DEBUG).ok()?;
            attach(&mut ebpf, hook, &AyaBtf::from_sys_fs().ok()?).err()
        };
        let mut capture = Self::attach(ebpf, options, &layout, explain)?;
        let helpers = HELPERS.iter().map(|helper| helper.status(layout.has(helper.feature)));
        capture.hooks.extend(helpers);
        capture.hooks.push(probe_read_status(layout.has(feature::PROBE_READ)));
        if let Some(keep) = &options.keep {
            let is_possible = layout.has(feature::SOCKET_STORAGE);
            let obstacle = keep.as_ref().err().cloned();
            let obstacle = obstacle.or_else(|| (!is_possible).then(|| "there is no socket storage".into()));
            capture.hooks.push(keep_status(obstacle));
        }
        Ok(capture)
    }

    fn attach(
        mut ebpf: Ebpf,
        options: &CaptureOptions,
        layout: &Layout,
        explain: impl Fn(&Hook) -> Option<Verdict>,
    ) -> Result<Self, LoadError> {
        let began_ns = Clock::new().now();
        let types = AyaBtf::from_sys_fs().map_err(|error| LoadError::Object(error.to_string()))?;
        let mut settings: Array<MapData, u32> = take_map(&mut ebpf, map::SETTINGS)?;
        let mut bits = match options.datagrams {
            DatagramWatch::Flows => setting::DATAGRAMS,
            DatagramWatch::Sockets => setting::DATAGRAMS | setting::SOCKETS_ONLY,
            DatagramWatch::Off { .. } => 0,
        };
        settings.set(0, bits, 0).map_err(|error| LoadError::Object(error.to_string()))?;
        let mut hooks = Vec::with_capacity(HOOKS.len());
        for hook in HOOKS {
            let verdict = if options.without.iter().any(|name| hook.is_called(name)) {
                Verdict::Unsupported { reason: "left out on request".into() }
            } else if let Some(reason) = unneeded(hook, &hooks, layout.has(feature::SOCKET_STORAGE), options.datagrams)
            {
                Verdict::Unneeded { reason }
            } else {
                match attach(&mut ebpf, hook, &types) {
                    Ok(()) => Verdict::Attached,
                    Err(Verdict::Failed { reason }) => explain(hook).unwrap_or(Verdict::Failed { reason }),
                    Err(verdict) => verdict,
                }
            };
            if let Some(bit) = hook.announced_by
                && verdict == Verdict::Attached
            {
                bits |= bit;
                settings.set(0, bits, 0).map_err(|error| LoadError::Object(error.to_string()))?;
            }
            if hook.without.is_none()
                && let Verdict::Unsupported { reason } | Verdict::Failed { reason } = &verdict
            {
                return Err(LoadError::Hook { hook: hook.title(), reason: reason.clone() });
            }
            let (instructions, verified_instructions) = sizes(&ebpf, hook);
            hooks.push(HookStatus { instructions, verified_instructions, ..hook.status(verdict) });
        }
        let logger = match options.log_level {
            Some(_) => Some(EbpfLogger::init(&mut ebpf).map_err(|error| LoadError::Object(error.to_string()))?),
            None => None,
        };
        Ok(Self {
            rings: Rings::new(
                take_map(&mut ebpf, map::RECORDS)?,
                take_map(&mut ebpf, map::PROCESSES)?,
                &options.faults,
            )
            .map_err(|error| LoadError::Object(format!("the ring buffers cannot be read: {error}")))?,
            ring_bytes: options.ring_bytes as usize,
            counters: Counters {
                lost: take_map(&mut ebpf, map::LOST)?,
                untold: take_map(&mut ebpf, map::UNREPORTED)?,
                nesting: take_map(&mut ebpf, map::NESTING)?,
                programs: HOOKS.iter().filter_map(|hook| descriptor(&ebpf, hook)).collect(),
            },
            ended: take_map(&mut ebpf, map::ENDED)?,
            flows: flow_maps(&mut ebpf)?,
            settings,
            bits,
            watches_datagrams: !matches!(options.datagrams, DatagramWatch::Off { .. }),
            files: Vec::new(),
            exact: layout.has(feature::SOCKET_STORAGE),
            cookies: layout.has(feature::SOCKET_COOKIE),
            files_obstacle: layout.check_files().err().map(|error| error.to_string()),
            is_first: true,
            is_first_of_datagrams: true,
            began_ns,
            faults: options.faults.clone(),
            hooks,
            missing: layout.missing().collect(),
            logger,
            ebpf: Some(ebpf),
        })
    }

    /// Where records arrive.
    pub fn rings(&mut self) -> &mut Rings {
        &mut self.rings
    }

    /// Records that the ring can hold at most: all of the smallest kind, with the kernel's header of 8 bytes.
    pub fn ring_records(&self) -> usize {
        self.ring_bytes / (size_of::<ExitRecord>() + 8)
    }

    /// What became of each hook.
    pub fn hooks(&self) -> &[HookStatus] {
        &self.hooks
    }

    /// Names of the structure members that this kernel does not have; what is read there is absent from events.
    pub fn missing_members(&self) -> &[&'static str] {
        &self.missing
    }

    /// When it began: what is older was there before. Nanoseconds since boot.
    pub fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// What was lost since the start.
    pub fn losses(&self) -> Losses {
        self.counters.read()
    }

    /// Reads all TCP sockets of all network namespaces that a process or a name refers to, and gives the inodes of
    /// these namespaces. This, as the other readings below, takes a while: `meanwhile` is called all along, to empty the
    /// ring.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn sockets(&mut self, meanwhile: impl FnMut(&mut Rings)) -> io::Result<(Vec<TcpRecord>, HashSet<u64>)> {
        let first = if self.is_first { setting::FIRST_DUMP } else { 0 };
        let found = self.read(Program::DumpTcp, first, iterate::all_namespaces, meanwhile)?;
        self.is_first = false;
        Ok(found)
    }

    /// Reads all UDP sockets of all network namespaces that a process or a name refers to, and gives the inodes of these.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn datagrams(
        &mut self,
        mut meanwhile: impl FnMut(&mut Rings),
    ) -> io::Result<(Vec<UdpSocketRecord>, HashSet<u64>)> {
        if !self.has(Program::DumpUdp) {
            return Ok(Default::default());
        }
        let first = if self.is_first_of_datagrams { setting::FIRST_DUMP } else { 0 };
        let cookies = self.cookies;
        let has_any = move || {
            let has_any = iterate::has_datagrams();
            if has_any && !cookies {
                diag::number_datagrams();
            }
            has_any
        };
        let read = |program: &mut Iter, faults: &[Fault]| iterate::namespaces(program, faults, |_| true, has_any);
        let (mut sockets, namespaces): (Vec<UdpSocketRecord>, _) =
            self.read(Program::DumpUdp, first, read, &mut meanwhile)?;
        self.is_first_of_datagrams = false;
        if !self.exact {
            // Programs that dump do not see what is kept with sockets.
            self.files(meanwhile)?;
            iterate::assign_owners(
                sockets.iter_mut().map(|socket| (socket.file, &mut socket.state.owner)),
                &self.files,
            );
        }
        Ok((sockets, namespaces))
    }

    /// The kernel's flows; a second time there are none.
    pub fn flow_maps(&mut self) -> FlowMaps {
        mem::take(&mut self.flows)
    }

    /// Whether a dump of sockets shows each exactly once and whole: from 5.11 on, where the state is kept in the
    /// socket itself.
    pub fn dumps_are_exact(&self) -> bool {
        self.exact
    }

    /// Whether files tell all sockets by their cookies: from 5.12 on.
    pub fn has_cookies(&self) -> bool {
        self.cookies
    }

    /// Reads all open files that are TCP sockets or sockets of datagrams.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn files(&mut self, meanwhile: impl FnMut(&mut Rings)) -> io::Result<Vec<FileRecord>> {
        let files: Vec<FileRecord> = self.read(Program::DumpFiles, 0, iterate::here, meanwhile)?;
        if !self.exact {
            // Those of TCP are looked for in the table.
            let datagrams = files.iter().filter(|file| file.tcp_state == tcp_state::CLOSE);
            self.files = datagrams.copied().collect();
        }
        Ok(files)
    }

    /// Reads the open files that are attempts which wait for an answer.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn attempts(&mut self, meanwhile: impl FnMut(&mut Rings)) -> io::Result<Vec<FileRecord>> {
        self.read(Program::DumpFiles, setting::SCAN_ATTEMPTS, iterate::here, meanwhile)
    }

    /// Finds the sockets that no hook sees, and who has them open. What cannot be had is said in what it gives.
    pub fn packet_sockets(&mut self, meanwhile: impl FnMut(&mut Rings)) -> PacketSockets {
        let obstacle = self.obstacle(Program::DumpFiles).or_else(|| self.files_obstacle.clone());
        let look = |program: &mut Iter, faults: &[Fault]| {
            Ok(packet_socket::all(|| match obstacle {
                None => iterate::here(program, faults),
                Some(reason) => Err(io::Error::other(reason)),
            }))
        };
        self.read(Program::DumpFiles, setting::SCAN_PACKET_SOCKETS, look, meanwhile)
            .unwrap_or_else(|error| PacketSockets::none(&error))
    }

    /// Finds owners for accepted connections that are only known by their listener, and for sockets whose owner has
    /// ended: `ended` are such processes, by id and start. Gives those that were found.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn owners(&mut self, ended: &[(u32, u64)], meanwhile: impl FnMut(&mut Rings)) -> io::Result<Vec<FileRecord>> {
        for (tgid, start_ns) in ended {
            // When the map is full the rest keeps its owner for now.
            let _ = self.ended.insert(tgid, start_ns, 0);
        }
        let found = self.read(Program::DumpFiles, setting::SCAN_OWNERS, iterate::here, meanwhile);
        for (tgid, _) in ended {
            let _ = self.ended.remove(tgid);
        }
        found
    }

    /// Reads what the table has not, of all network namespaces: the minisocks of connections that are over (TIME_WAIT, and
    /// FIN_WAIT2 that no process holds), and how much connections have moved.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn live(&mut self, wanted: Wanted, mut meanwhile: impl FnMut(&mut Rings)) -> io::Result<Live> {
        let bits = if wanted.minisocks { setting::SCAN_TIME_WAIT } else { 0 }
            | if wanted.counters { setting::SCAN_COUNTERS } else { 0 };
        let mut live = Live::default();
        if bits != 0 {
            (live, live.namespaces) =
                self.read(Program::DumpTcp, bits, iterate::all_namespaces::<Live>, &mut meanwhile)?;
        }
        if wanted.datagrams {
            (live.datagrams, live.datagram_namespaces) = self.datagrams(meanwhile)?;
        }
        Ok(live)
    }

    /// Whether datagrams, or at least their sockets, are watched.
    pub fn has_flows(&self) -> bool {
        self.watches_datagrams
    }

    /// Reads an iterator with bits of the settings set.
    fn read<T: Send>(
        &mut self,
        program: Program,
        bits: u32,
        read: impl FnOnce(&mut Iter, &[Fault]) -> io::Result<T> + Send,
        mut meanwhile: impl FnMut(&mut Rings),
    ) -> io::Result<T> {
        let Self { ebpf, rings, settings, faults, .. } = self;
        let ebpf = ebpf.as_mut().ok_or_else(|| io::Error::other("the programs are detached"))?;
        let program = ebpf.program_mut(program.name()).ok_or_else(|| io::Error::other("no such program"))?;
        let program: &mut Iter = program.try_into().map_err(io::Error::other)?;
        settings.set(0, self.bits | bits, 0).map_err(io::Error::other)?;
        let found = iterate::beside(|| read(program, faults), || meanwhile(rings));
        settings.set(0, self.bits, 0).map_err(io::Error::other)?;
        found?
    }

    /// Whether a program is attached.
    pub fn has(&self, program: Program) -> bool {
        self.status(program).is_some_and(|status| status.verdict == Verdict::Attached)
    }

    /// Why a program is not attached, if so.
    fn obstacle(&self, program: Program) -> Option<String> {
        let HookStatus { hook, verdict, .. } = self.status(program)?;
        match verdict {
            Verdict::Attached => None,
            Verdict::Unneeded { reason } | Verdict::Unsupported { reason } | Verdict::Failed { reason } => {
                Some(format!("{hook}: {reason}"))
            }
        }
    }

    fn status(&self, program: Program) -> Option<&HookStatus> {
        self.hooks.get(program as usize)
    }

    /// Whether a program is attached that sees which process accepts a connection.
    pub fn sees_acceptors(&self) -> bool {
        HOOKS.iter().any(|hook| hook.sees_acceptor && self.has(hook.program))
    }

    /// Hands messages of the eBPF programs to the log, if they are on.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Detaches all programs; what is in the ring can still be read.
    pub fn detach(&mut self) {
        self.ebpf = None;
    }
}

fn flow_maps(ebpf: &mut Ebpf) -> Result<FlowMaps, LoadError> {
    let mut map = |name| ebpf.take_map(name).ok_or_else(|| LoadError::Object(format!("it has no map {name}")));
    FlowMaps::new(map(map::FLOWS)?, map(map::FOLDED)?)
        .ok_or_else(|| LoadError::Object("its flows are in no hash table".into()))
}

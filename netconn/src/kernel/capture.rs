//! A capture: the attached programs, the rings that their records arrive in, and the iterators.

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

/// Parts of [`Live`] that are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Minisocks of connections that are over.
    pub minisocks: bool,
    /// Byte counters of the others.
    pub counters: bool,
    /// UDP sockets.
    pub datagrams: bool,
}

/// State that only the kernel has, beside the daemon's table.
#[derive(Debug, Default)]
pub struct Live {
    /// Minisocks of connections that are over.
    pub minisocks: Vec<TcpRecord>,
    /// Byte counters of connections.
    pub counters: Vec<CountersRecord>,
    /// Inodes of the network namespaces that were read.
    pub namespaces: HashSet<u64>,
    /// UDP sockets.
    pub datagrams: Vec<UdpSocketRecord>,
    /// Inodes of the network namespaces whose UDP sockets were read.
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

/// Attached programs and the rings of their records. Dropping it detaches the programs.
pub struct Capture {
    /// Owns the programs and links; `None` when detached.
    ebpf: Option<Ebpf>,
    rings: Rings,
    ring_bytes: usize,
    counters: Counters,
    /// [`map::ENDED`].
    ended: HashMap<MapData, u32, u64>,
    /// The maps of flows, until the engine takes them.
    flows: FlowMaps,
    settings: Array<MapData, u32>,
    /// The value of `settings` outside of readings.
    bits: u32,
    exact: bool,
    /// See [`Self::has_cookies`].
    cookies: bool,
    /// Why programs cannot find the sockets of open files, if so.
    files_obstacle: Option<String>,
    watches_datagrams: bool,
    /// Open datagram sockets of the last file scan; needed on 5.10, where iterators cannot read socket storage.
    files: Vec<FileRecord>,
    /// Whether TCP sockets have not been read yet.
    is_first_dump: bool,
    /// Whether UDP sockets have not been read yet.
    is_first_udp_dump: bool,
    /// When attaching began, nanoseconds since boot.
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
        // Loading once more with the verifier's log is slow: only for programs that fail.
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

    /// Attaches the programs of a loaded object; `explain` finds a better reason for one that fails.
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
                unreported: take_map(&mut ebpf, map::UNREPORTED)?,
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
            is_first_dump: true,
            is_first_udp_dump: true,
            began_ns,
            faults: options.faults.clone(),
            hooks,
            missing: layout.missing().collect(),
            logger,
            ebpf: Some(ebpf),
        })
    }

    /// The rings that records arrive in.
    pub fn rings(&mut self) -> &mut Rings {
        &mut self.rings
    }

    /// Returns the most records that the ring can hold: all of the smallest kind, each with the kernel's header of 8 bytes.
    pub fn ring_records(&self) -> usize {
        self.ring_bytes / (size_of::<ExitRecord>() + 8)
    }

    /// The verdict on each hook, then on helpers and pins.
    pub fn hooks(&self) -> &[HookStatus] {
        &self.hooks
    }

    /// Names of the structure members that this kernel does not have; events lack what is read there.
    pub fn missing_members(&self) -> &[&'static str] {
        &self.missing
    }

    /// When attaching began, nanoseconds since boot: older sockets were not seen from their beginning.
    pub fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// Reads the losses since the start.
    pub fn losses(&self) -> Losses {
        self.counters.read()
    }

    /// Reads all TCP sockets of all network namespaces that a process or a name refers to; returns them with the inodes of
    /// these namespaces. Like the other readings below this takes a while, so `meanwhile` is called all along, to drain
    /// the rings.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn sockets(&mut self, meanwhile: impl FnMut(&mut Rings)) -> io::Result<(Vec<TcpRecord>, HashSet<u64>)> {
        let first = if self.is_first_dump { setting::FIRST_DUMP } else { 0 };
        let found = self.read(Program::DumpTcp, first, iterate::all_namespaces, meanwhile)?;
        self.is_first_dump = false;
        Ok(found)
    }

    /// Reads all UDP sockets of all network namespaces that a process or a name refers to; returns them with the inodes of
    /// these namespaces.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn datagrams(
        &mut self,
        mut meanwhile: impl FnMut(&mut Rings),
    ) -> io::Result<(Vec<UdpSocketRecord>, HashSet<u64>)> {
        if !self.has(Program::DumpUdp) {
            return Ok(Default::default());
        }
        let first = if self.is_first_udp_dump { setting::FIRST_DUMP } else { 0 };
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
        self.is_first_udp_dump = false;
        if !self.exact {
            // Iterators cannot read what is kept with sockets.
            self.files(meanwhile)?;
            iterate::assign_owners(
                sockets.iter_mut().map(|socket| (socket.file, &mut socket.state.owner)),
                &self.files,
            );
        }
        Ok((sockets, namespaces))
    }

    /// Takes the kernel's maps of flows; the second time they are empty.
    pub fn flow_maps(&mut self) -> FlowMaps {
        mem::take(&mut self.flows)
    }

    /// Whether a dump shows each socket exactly once and with its whole state: from 5.11 on, where the state is kept in the
    /// socket itself.
    pub fn dumps_are_exact(&self) -> bool {
        self.exact
    }

    /// Whether open files and sockets are matched by cookies: from 5.12 on.
    pub fn has_cookies(&self) -> bool {
        self.cookies
    }

    /// Reads all open files that are TCP or datagram sockets.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn files(&mut self, meanwhile: impl FnMut(&mut Rings)) -> io::Result<Vec<FileRecord>> {
        let files: Vec<FileRecord> = self.read(Program::DumpFiles, 0, iterate::here, meanwhile)?;
        if !self.exact {
            // TCP sockets are found in the table instead.
            let datagrams = files.iter().filter(|file| file.tcp_state == tcp_state::CLOSE);
            self.files = datagrams.copied().collect();
        }
        Ok(files)
    }

    /// Reads the open files that are TCP sockets in SYN_SENT.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn attempts(&mut self, meanwhile: impl FnMut(&mut Rings)) -> io::Result<Vec<FileRecord>> {
        self.read(Program::DumpFiles, setting::SCAN_ATTEMPTS, iterate::here, meanwhile)
    }

    /// Reads all packet sockets and the processes that have them open. The result names what cannot be listed.
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

    /// Finds owners for accepted connections that only have their listener's owner, and for sockets whose owner is one of the
    /// processes in `ended`, by id and start. Returns the open files of the new owners.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
    pub fn owners(&mut self, ended: &[(u32, u64)], meanwhile: impl FnMut(&mut Rings)) -> io::Result<Vec<FileRecord>> {
        for (tgid, start_ns) in ended {
            // If the map is full, the sockets of the other processes keep their owner for now.
            let _ = self.ended.insert(tgid, start_ns, 0);
        }
        let found = self.read(Program::DumpFiles, setting::SCAN_OWNERS, iterate::here, meanwhile);
        for (tgid, _) in ended {
            let _ = self.ended.remove(tgid);
        }
        found
    }

    /// Reads what the table lacks, in all network namespaces: minisocks of connections that are over (TIME_WAIT, and FIN_WAIT2
    /// without a process), byte counters of connections, and UDP sockets.
    ///
    /// # Errors
    ///
    /// When the iterator is not attached or cannot be read.
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

    /// Whether datagram sockets are watched.
    pub fn has_flows(&self) -> bool {
        self.watches_datagrams
    }

    /// Reads an iterator on a thread of its own, with these bits of the settings set for as long as that takes.
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

    /// Returns why a program is not attached, if so.
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

    /// Hands messages of the eBPF programs to the log, if they are switched on.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Detaches all programs; the records in the rings can still be read.
    pub fn detach(&mut self) {
        self.ebpf = None;
    }
}

fn flow_maps(ebpf: &mut Ebpf) -> Result<FlowMaps, LoadError> {
    let mut map = |name| ebpf.take_map(name).ok_or_else(|| LoadError::Object(format!("it has no map {name}")));
    FlowMaps::new(map(map::FLOWS)?, map(map::FOLDED)?)
        .ok_or_else(|| LoadError::Object("its flows are in no hash table".into()))
}

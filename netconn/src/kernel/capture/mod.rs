//! A capture: loads and attaches the programs, and holds the rings that their records arrive in.

mod read;

use std::mem;

use aya::{
    Btf as AyaBtf, Ebpf, VerifierLogLevel,
    maps::{Array, HashMap, MapData},
};
use aya_log::EbpfLogger;
use log::Log;
use netconn_common::{ExitRecord, FileRecord, feature, map, setting};
use netconn_model::health::{HookStatus, Verdict};
pub use read::{Live, LiveParts};

use crate::{
    clock::Clock,
    kernel::{
        btf::Btf,
        fault::Fault,
        flows::FlowMaps,
        hooks::{HELPERS, HOOKS, Hook, Program, keep_status, packet_status, probe_read_status},
        keep,
        layout::Layout,
        load::{CaptureOptions, DatagramWatch, LoadError, NO_LOG, attach, descriptor, load, sizes, take_map, unneeded},
        losses::{Counters, Losses},
        preflight::{self, CapabilitySet, Lockdown},
        rings::Rings,
    },
    os::NoSignals,
};

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
        // First what can be said in one sentence: errors of loading do not say what to do.
        preflight::check_kernel(&preflight::kernel_release())?;
        preflight::check_capabilities()?;
        let _quiet = NoSignals::new();
        let data = preflight::read_btf()?;
        let btf = Btf::parse(&data)?;
        // The object is the same everywhere: only its globals say what this kernel offers.
        let layout = Layout::of(&btf, Lockdown::of_this_kernel())?;
        let mut options = options.clone();
        let ebpf = load(&options, &layout, NO_LOG);
        let ebpf = match (ebpf, &options.keep) {
            // Pins are optional: what keeps them from being made costs only them.
            (Err(LoadError::Pin(reason)), Some(Ok(places))) => {
                keep::remove(places);
                options.keep = Some(Err(reason));
                load(&options, &layout, NO_LOG)?
            }
            (ebpf, _) => ebpf?,
        };
        let options = &options;
        // Loading once more with the verifier's log is slow: only for programs that fail.
        let held = CapabilitySet::of_this_process();
        let explain = |hook: &Hook| {
            // The log of the verifier says nothing about that.
            if !held.missing(hook.attach.capabilities()).is_empty() {
                return None;
            }
            // If the program attaches this time, it is detached with this object again, and the first reason stands.
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
        capture.hooks.push(packet_status());
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
        // Before any program is attached, so that none runs without its settings.
        settings.set(0, bits, 0).map_err(|error| LoadError::Object(error.to_string()))?;
        let mut hooks = Vec::with_capacity(HOOKS.len());
        // In the order of the table: `unneeded` needs the verdicts before, and `CONNECT_HOOK` must be set before
        // `inet_sock_set_state` is attached, or both would report the same attempt.
        for hook in HOOKS {
            let verdict = if options.without.iter().any(|name| hook.is_called(name)) {
                Verdict::Unsupported { reason: "left out on request".into() }
            } else if let Some(reason) = unneeded(hook, &hooks, layout.has(feature::SOCKET_STORAGE), options.datagrams)
            {
                Verdict::Unneeded { reason }
            } else {
                match attach(&mut ebpf, hook, &types) {
                    Ok(()) => Verdict::Attached,
                    // `Unsupported` has its reason already; only a failure is worth a second loading.
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
            // All maps are taken out of the object, so that they can be read after `detach` has dropped it.
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

    /// Whether datagram sockets are watched.
    pub fn has_flows(&self) -> bool {
        self.watches_datagrams
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
        // `attach` pushes one status for each program, in the order of the table; those of helpers follow.
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

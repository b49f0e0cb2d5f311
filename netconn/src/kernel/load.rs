//! Loads the eBPF object into the running kernel and attaches its programs, as far as this kernel allows.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSockAddr, FEntry, FExit, Iter, ProgramError, ProgramInfo, SockOps,
    },
};
use aya_log::EbpfLogger;
use log::Log;
use netconn_common::{ExitRecord, FileRecord, TcpRecord, feature, kind, map, setting};
use thiserror::Error;

use crate::kernel::{
    btf::{Btf, BtfError},
    hooks::{Attach, HELPERS, HOOKS, Hook, HookStatus, Needed, Obstacle, Verdict, classify, probe_read_status},
    iterate,
    layout::{Layout, NoMember},
    preflight::{self, Lockdown, Unfit},
};

/// The programs, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/netconn.bpf.o"));

/// Sockets whose state is kept where socket storage cannot be used (5.10).
const SOCKETS_BY_ADDRESS_MAX: u32 = 262_144;
/// What the verifier's log is shortened to in messages, bytes from its end.
const VERIFIER_LOG_KEPT: usize = 400;

/// The ring buffer of all records.
pub type Ring = RingBuf<MapData>;

/// How to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the ring buffer in bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Least severe messages of the eBPF programs that reach the log; `None`: their code is not even loaded.
    pub log_level: Option<aya_log::Level>,
    /// Names of hooks that are left out, to test what is done without them; `trampolines`: all on functions.
    pub without: Vec<String>,
}

/// Why nothing can be captured.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The machine lacks something.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The kernel's type information is of no use.
    #[error("{file}: {0}", file = preflight::BTF_FILE)]
    Btf(#[from] BtfError),
    /// The kernel is built so differently that a record would say nothing.
    #[error(transparent)]
    NoMember(#[from] NoMember),
    /// `bpf()` does not work at all.
    #[error(
        "the kernel refuses bpf(): {0}; a container, seccomp or lockdown forbids it: run netconn as root of the host itself"
    )]
    Refused(io::Error),
    /// The object could not be loaded.
    #[error("the eBPF object cannot be loaded: {0}")]
    Object(String),
    /// A hook that netconn cannot do without.
    #[error("{hook} cannot be attached: {reason}")]
    Hook {
        /// Its title.
        hook: String,
        /// Why not.
        reason: String,
    },
}

/// Attached programs, and where their records arrive. Dropping it detaches them.
pub struct Capture {
    /// Owns the programs and links; `None` when detached.
    ebpf: Option<Ebpf>,
    ring: Ring,
    ring_bytes: usize,
    lost: PerCpuArray<MapData, [u64; kind::COUNT as usize]>,
    /// [`netconn_common::Nesting`], as its two words.
    nesting: PerCpuArray<MapData, [u64; 2]>,
    /// [`map::ENDED`].
    ended: HashMap<MapData, u32, u64>,
    settings: Array<MapData, u32>,
    /// What `settings` holds.
    bits: u32,
    exact: bool,
    /// Programs whose missed runs are counted.
    counted: Vec<OwnedFd>,
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
    pub fn start(options: &Options) -> Result<Self, LoadError> {
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
        Ok(capture)
    }

    fn attach(
        mut ebpf: Ebpf,
        options: &Options,
        layout: &Layout,
        explain: impl Fn(&Hook) -> Option<Verdict>,
    ) -> Result<Self, LoadError> {
        let types = AyaBtf::from_sys_fs().map_err(|error| LoadError::Object(error.to_string()))?;
        let mut settings: Array<MapData, u32> = taken(&mut ebpf, map::SETTINGS)?;
        let mut bits = 0;
        let mut hooks = Vec::with_capacity(HOOKS.len());
        for hook in HOOKS {
            let verdict = if is_left_out(hook, &options.without) {
                Verdict::Unsupported { reason: "left out on request".into() }
            } else if let Some(reason) = unneeded(hook, &hooks, layout.has(feature::SOCKET_STORAGE)) {
                Verdict::Unneeded { reason }
            } else {
                match attach(&mut ebpf, hook, &types) {
                    Ok(()) => Verdict::Attached,
                    Err(Verdict::Failed { reason }) => explain(hook).unwrap_or(Verdict::Failed { reason }),
                    Err(verdict) => verdict,
                }
            };
            if hook.program == "tcp_connect" && verdict == Verdict::Attached {
                bits |= setting::CONNECT_HOOK;
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
            ring: taken(&mut ebpf, map::RECORDS)?,
            ring_bytes: options.ring_bytes as usize,
            lost: taken(&mut ebpf, map::LOST)?,
            nesting: taken(&mut ebpf, map::NESTING)?,
            ended: taken(&mut ebpf, map::ENDED)?,
            settings,
            bits,
            exact: layout.has(feature::SOCKET_STORAGE),
            counted: HOOKS.iter().filter_map(|hook| descriptor(&ebpf, hook)).collect(),
            hooks,
            missing: layout.missing().collect(),
            logger,
            ebpf: Some(ebpf),
        })
    }

    /// The ring buffer of all records.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
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

    /// Records lost since the start: those that found the ring full, and those that were never made because a program
    /// was to run in an interrupt of itself, which the kernel does not allow but counts.
    pub fn lost(&self) -> u64 {
        let full = self.lost.get(&0, 0).map_or(0, |by_cpu| by_cpu.iter().flatten().sum::<u64>());
        // In this order: a run that is missed in between must not look like a loss.
        let missed = self.counted.iter().filter_map(|descriptor| missed_runs(descriptor.as_fd())).sum::<u64>();
        let done = self.nesting.get(&0, 0).map_or(0, |by_cpu| by_cpu.iter().map(|[_, done]| done).sum::<u64>());
        full + missed.saturating_sub(done)
    }

    /// Reads all TCP sockets of all network namespaces that a process or a name refers to, and gives the inodes of
    /// these namespaces. This, as the other readings below, takes a while: `meanwhile` is called all along, to empty the
    /// ring.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn sockets(&mut self, meanwhile: impl FnMut(&mut Ring)) -> io::Result<(Vec<TcpRecord>, HashSet<u64>)> {
        self.read("dump_tcp", 0, iterate::all_namespaces, meanwhile)
    }

    /// Whether a dump of sockets shows each exactly once and whole: from 5.11 on, where the state is kept in the
    /// socket itself.
    pub fn dumps_are_exact(&self) -> bool {
        self.exact
    }

    /// Reads all open files that are TCP sockets.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn files(&mut self, meanwhile: impl FnMut(&mut Ring)) -> io::Result<Vec<FileRecord>> {
        self.read("dump_files", 0, iterate::here, meanwhile)
    }

    /// Reads the open files that are attempts which wait for an answer.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn attempts(&mut self, meanwhile: impl FnMut(&mut Ring)) -> io::Result<Vec<FileRecord>> {
        self.read("dump_files", setting::SCAN_ATTEMPTS, iterate::here, meanwhile)
    }

    /// Finds owners for accepted connections that are only known by their listener, and for sockets whose owner has
    /// ended: `ended` are such processes, by id and start. Gives those that were found.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn owners(&mut self, ended: &[(u32, u64)], meanwhile: impl FnMut(&mut Ring)) -> io::Result<Vec<FileRecord>> {
        for (tgid, start_ns) in ended {
            // When the map is full the rest keeps its owner for now.
            let _ = self.ended.insert(tgid, start_ns, 0);
        }
        let found = self.read("dump_files", setting::SCAN_OWNERS, iterate::here, meanwhile);
        for (tgid, _) in ended {
            let _ = self.ended.remove(tgid);
        }
        found
    }

    /// Reads the minisocks of connections that are over (TIME_WAIT, and FIN_WAIT2 that no process holds), of all network
    /// namespaces.
    ///
    /// # Errors
    ///
    /// When the iterator is not there or cannot be read.
    pub fn minisocks(&mut self, meanwhile: impl FnMut(&mut Ring)) -> io::Result<Vec<TcpRecord>> {
        Ok(self.read("dump_tcp", setting::SCAN_TIME_WAIT, iterate::all_namespaces, meanwhile)?.0)
    }

    /// Reads an iterator with bits of the settings set.
    fn read<T: Send>(
        &mut self,
        program: &str,
        bits: u32,
        read: impl FnOnce(&mut Iter) -> io::Result<T> + Send,
        mut meanwhile: impl FnMut(&mut Ring),
    ) -> io::Result<T> {
        let Self { ebpf, ring, settings, .. } = self;
        let ebpf = ebpf.as_mut().ok_or_else(|| io::Error::other("the programs are detached"))?;
        let program = ebpf.program_mut(program).ok_or_else(|| io::Error::other("no such program"))?;
        let program: &mut Iter = program.try_into().map_err(io::Error::other)?;
        settings.set(0, self.bits | bits, 0).map_err(io::Error::other)?;
        let found = iterate::beside(|| read(program), || meanwhile(ring));
        settings.set(0, self.bits, 0).map_err(io::Error::other)?;
        found?
    }

    /// Whether a program is attached.
    pub fn has(&self, program: &str) -> bool {
        let hook = HOOKS.iter().position(|hook| hook.program == program);
        hook.and_then(|hook| self.hooks.get(hook)).is_some_and(|status| status.verdict == Verdict::Attached)
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

/// Instructions of a loaded program: translated, and looked at by the verifier.
fn sizes(ebpf: &Ebpf, hook: &Hook) -> (Option<u32>, Option<u32>) {
    let info = ebpf.program(hook.program).and_then(|program| program.info().ok());
    let bytes = info.as_ref().and_then(ProgramInfo::size_translated);
    // An instruction is 8 bytes (`struct bpf_insn`, include/uapi/linux/bpf.h).
    (bytes.map(|bytes| bytes / 8), info.as_ref().and_then(ProgramInfo::verified_instruction_count))
}

/// A descriptor of an attached program.
fn descriptor(ebpf: &Ebpf, hook: &Hook) -> Option<OwnedFd> {
    if !hook.every_run {
        return None;
    }
    ebpf.program(hook.program)?.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

/// How often a program could not run because it was running already on that CPU, from `bpf_prog_show_fdinfo` in
/// `kernel/bpf/syscall.c`; from 5.12 on.
fn missed_runs(descriptor: BorrowedFd<'_>) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

fn is_left_out(hook: &Hook, without: &[String]) -> bool {
    without
        .iter()
        .any(|name| name == hook.program || name == hook.name || (name == "trampolines" && hook.attach.is_trampoline()))
}

/// Why a hook is not worth its cost here, after those before it.
fn unneeded(hook: &Hook, before: &[HookStatus], has_storage: bool) -> Option<String> {
    match hook.needed {
        Needed::Always => None,
        Needed::Unless(program) => {
            let (other, status) = HOOKS.iter().zip(before).find(|(other, _)| other.program == program)?;
            (status.verdict == Verdict::Attached).then(|| format!("{} tells it", other.title()))
        }
        Needed::WithoutStorage => has_storage.then(|| "the kernel keeps it with the socket".into()),
    }
}

pub(super) fn taken<T: TryFrom<aya::maps::Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or_else(|| LoadError::Object(format!("it has no map {name}")))?;
    T::try_from(map).map_err(|error| LoadError::Object(format!("map {name}: {error}")))
}

fn load(options: &Options, layout: &Layout, log: VerifierLogLevel) -> Result<Ebpf, LoadError> {
    load_by(EbpfLoader::new(), options, layout, log)
}

/// The same with a loader that was made before: to make one takes 20 ms.
pub(super) fn load_by(
    loader: EbpfLoader<'static>,
    options: &Options,
    layout: &Layout,
    log: VerifierLogLevel,
) -> Result<Ebpf, LoadError> {
    let log_level = options.log_level.map_or(0_u8, |level| level as u8);
    let mut loader: EbpfLoader<'_> = loader;
    loader.verifier_log_level(log).map_max_entries(map::RECORDS, options.ring_bytes).override_global(
        aya_log::LEVEL,
        &log_level,
        true,
    );
    if !layout.has(feature::SOCKET_STORAGE) {
        loader.map_max_entries(map::SOCKETS_BY_ADDRESS, SOCKETS_BY_ADDRESS_MAX);
    }
    for (name, value) in layout.offsets.iter().chain(&layout.features) {
        loader.override_global(name, value, true);
    }
    loader.load(OBJECT).map_err(|error| match refusal(&error) {
        Some(error) => LoadError::Refused(error),
        None => LoadError::Object(chain(&error)),
    })
}

/// The errno of a system call that is forbidden, somewhere in the chain of an error.
fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let errno = errno(error)?;
    matches!(errno, libc::EPERM | libc::EACCES | libc::ENOSYS).then(|| io::Error::from_raw_os_error(errno))
}

fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        cause = error.source();
    }
    None
}

/// An error with all its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn attach(ebpf: &mut Ebpf, hook: &Hook, types: &AyaBtf) -> Result<(), Verdict> {
    let failed = |reason: String| Verdict::Failed { reason };
    let root = if hook.attach.is_cgroup() { preflight::cgroup_root() } else { None };
    if hook.attach.is_cgroup() && root.is_none() {
        return Err(Verdict::Unsupported { reason: "no cgroup v2 is mounted".into() });
    }
    let cgroup = || File::open(root.unwrap_or_default()).map_err(ProgramError::IOError);
    let program = ebpf.program_mut(hook.program).ok_or_else(|| failed("it is not in the eBPF object".into()))?;
    let result = match hook.attach {
        Attach::Tracepoint => <&mut BtfTracePoint>::try_from(program).and_then(|program| {
            program.load(hook.name, types)?;
            program.attach().map(drop)
        }),
        Attach::FunctionEntry => <&mut FEntry>::try_from(program).and_then(|program| {
            program.load(hook.name, types)?;
            program.attach().map(drop)
        }),
        Attach::FunctionExit => <&mut FExit>::try_from(program).and_then(|program| {
            program.load(hook.name, types)?;
            program.attach().map(drop)
        }),
        // The kernel lets any number of programs hang there, and refuses the flag that asks for it.
        Attach::CgroupAddress => <&mut CgroupSockAddr>::try_from(program).and_then(|program| {
            program.load()?;
            program.attach(cgroup()?, CgroupAttachMode::Single).map(drop)
        }),
        Attach::SockOps => <&mut SockOps>::try_from(program).and_then(|program| {
            program.load()?;
            program.attach(cgroup()?, CgroupAttachMode::Single).map(drop)
        }),
        // Attached anew for each reading.
        Attach::Iterator => <&mut Iter>::try_from(program).and_then(|program| program.load(hook.name, types)),
    };
    result.map_err(|error| classify(hook.attach, obstacle(&error)))
}

fn obstacle(error: &ProgramError) -> Obstacle {
    match error {
        ProgramError::Btf(_) => Obstacle::NoTarget,
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let start = log.char_indices().rev().nth(VERIFIER_LOG_KEPT).map_or(0, |(at, _)| at);
            Obstacle::Refused { errno: io_error.raw_os_error().unwrap_or(0), log: log[start..].to_owned() }
        }
        other => match errno(other) {
            Some(errno) => Obstacle::Refused { errno, log: String::new() },
            None => Obstacle::Other(chain(other)),
        },
    }
}

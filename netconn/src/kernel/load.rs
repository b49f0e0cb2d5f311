//! Loads the eBPF object into the running kernel and attaches its programs, as far as this kernel allows.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::MapError,
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, FEntry, FExit,
        Iter, ProgramError, ProgramInfo, SockOps,
    },
};
use netconn_common::{FLOWS_PER_SOCKET, FOLDED_FROM, NO_MEMORY, feature, map};
use netconn_model::{
    config::FlowLevel,
    health::{HookStatus, Verdict},
};
use thiserror::Error;

use crate::kernel::{
    btf::BtfError,
    hooks::{Attach, HOOKS, Hook, Needed, Obstacle, classify},
    keep::Places,
    layout::{Layout, NoMember},
    preflight::{self, Unfit},
};

/// The programs, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/netconn.bpf.o"));

/// Sockets whose state is kept where socket storage cannot be used (5.10).
const SOCKETS_BY_ADDRESS_MAX: u32 = 262_144;
/// What the verifier's log is shortened to in messages, bytes from its end.
const VERIFIER_LOG_KEPT: usize = 400;

/// How to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the ring buffer in bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Least severe messages of the eBPF programs that reach the log; `None`: their code is not even loaded.
    pub log_level: Option<aya_log::Level>,
    /// Names of hooks that are left out, to test what is done without them; `trampolines`: all on functions.
    pub without: Vec<String>,
    /// How closely sockets of datagrams are watched.
    pub level: FlowLevel,
    /// Flows that there is room for.
    pub max_flows: u32,
    /// Where what is kept with sockets is pinned, or why it cannot be; `None`: nobody will need it later.
    pub keep: Option<Result<Places, String>>,
    /// What is made to fail.
    pub faults: Vec<Fault>,
}

impl Options {
    /// Everything that works, for a moment only.
    pub fn passing(ring_bytes: u32) -> Self {
        Self {
            ring_bytes,
            log_level: None,
            without: Vec::new(),
            level: FlowLevel::Off,
            max_flows: 1,
            keep: None,
            faults: Vec::new(),
        }
    }
}

/// What can be made to fail, to test what is done then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// There is never memory for what is kept with sockets.
    Memory,
    /// Iterators give a few bytes at a time.
    ShortReads,
    /// Iterators ask to be read again, every other time.
    ReadAgain,
    /// Iterators break off.
    BrokenReads,
    /// Some records of sockets are not handed over, and nothing counts them.
    Unseen,
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

/// Instructions of a loaded program: translated, and looked at by the verifier.
pub(super) fn sizes(ebpf: &Ebpf, hook: &Hook) -> (Option<u32>, Option<u32>) {
    let info = ebpf.program(hook.program).and_then(|program| program.info().ok());
    let bytes = info.as_ref().and_then(ProgramInfo::size_translated);
    // An instruction is 8 bytes (`struct bpf_insn`, include/uapi/linux/bpf.h).
    (bytes.map(|bytes| bytes / 8), info.as_ref().and_then(ProgramInfo::verified_instruction_count))
}

/// A descriptor of an attached program.
pub(super) fn descriptor(ebpf: &Ebpf, hook: &Hook) -> Option<OwnedFd> {
    if !hook.every_run {
        return None;
    }
    ebpf.program(hook.program)?.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

pub(super) fn is_left_out(hook: &Hook, without: &[String]) -> bool {
    without
        .iter()
        .any(|name| name == hook.program || name == hook.name || (name == "trampolines" && hook.attach.is_trampoline()))
}

/// Why a hook is not worth its cost here, after those before it.
pub(super) fn unneeded(hook: &Hook, before: &[HookStatus], has_storage: bool, level: FlowLevel) -> Option<String> {
    let told_by = |program: &str| {
        let (other, status) = HOOKS.iter().zip(before).find(|(other, _)| other.program == program)?;
        (status.verdict == Verdict::Attached).then(|| format!("{} tells it", other.title()))
    };
    let is_off = || (level == FlowLevel::Off).then(|| "flows = \"off\" in the configuration".into());
    match hook.needed {
        Needed::Always => None,
        Needed::Unless(program) => told_by(program),
        Needed::Sockets => is_off(),
        Needed::SocketsUnless(program) => is_off().or_else(|| told_by(program)),
        Needed::Flows => {
            (level != FlowLevel::Flows).then(|| "datagrams are not counted: see flows in the configuration".into())
        }
        Needed::WithoutStorage => has_storage.then(|| "the kernel keeps it with the socket".into()),
    }
}

pub(super) fn taken<T: TryFrom<aya::maps::Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or_else(|| LoadError::Object(format!("it has no map {name}")))?;
    T::try_from(map).map_err(|error| LoadError::Object(format!("map {name}: {error}")))
}

pub(super) fn load(options: &Options, layout: &Layout, log: VerifierLogLevel) -> Result<Ebpf, LoadError> {
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
    loader.map_max_entries(map::FLOWS, options.max_flows).map_max_entries(map::FOLDED, folded_max(options.max_flows));
    let per_socket = options.max_flows / FOLDED_FROM;
    loader.override_global(FLOWS_PER_SOCKET, &per_socket, true);
    if !layout.has(feature::SOCKET_STORAGE) {
        loader.map_max_entries(map::SOCKETS_BY_ADDRESS, SOCKETS_BY_ADDRESS_MAX);
    }
    if let Some(Ok(places)) = &options.keep {
        let kept = places.iter().filter(|(map, _)| layout.has(feature::SOCKET_STORAGE) || *map != map::SOCKETS);
        for (map, path) in kept {
            loader.map_pin_path(map, path);
        }
    }
    let no_memory = [(feature::SOCKET_STORAGE, NO_MEMORY)];
    let faults = no_memory.iter().filter(|_| options.faults.contains(&Fault::Memory));
    for (name, value) in layout.offsets.iter().chain(&layout.features).chain(faults) {
        loader.override_global(name, value, true);
    }
    loader.load(OBJECT).map_err(|error| match refusal(&error) {
        Some(error) => LoadError::Refused(error),
        None => LoadError::Object(chain(&error)),
    })
}

/// Sockets that may have more flows than there is room for.
fn folded_max(max_flows: u32) -> u32 {
    (max_flows / FOLDED_FROM).max(1)
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

pub(super) fn attach(ebpf: &mut Ebpf, hook: &Hook, types: &AyaBtf) -> Result<(), Verdict> {
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
        Attach::CgroupSocket => <&mut CgroupSock>::try_from(program).and_then(|program| {
            program.load()?;
            program.attach(cgroup()?, CgroupAttachMode::Single).map(drop)
        }),
        Attach::CgroupEgress | Attach::CgroupIngress => <&mut CgroupSkb>::try_from(program).and_then(|program| {
            program.load()?;
            let is_egress = hook.attach == Attach::CgroupEgress;
            let way = if is_egress { CgroupSkbAttachType::Egress } else { CgroupSkbAttachType::Ingress };
            program.attach(cgroup()?, way, CgroupAttachMode::Single).map(drop)
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

//! Loads the eBPF object into the running kernel and attaches its programs, as far as this kernel allows.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::MapError,
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, FEntry, FExit,
        Iter, ProgramError, ProgramInfo, SockOps,
    },
};
use netconn_common::{FLOWS_PER_SOCKET, FOLDED_FROM, feature, map};
use netconn_model::{
    config::{EbpfLog, FlowLevel},
    health::{HookStatus, Verdict},
};
use thiserror::Error;

use crate::kernel::{
    btf::BtfError,
    fault::Fault,
    hooks::{Attach, Hook, Needed, Obstacle, Program, classify},
    keep::{self, Places},
    layout::{Layout, NoMember},
    preflight::{self, CapabilitySet, Unfit},
};

/// The programs, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/netconn.bpf.o"));

/// Most sockets that have their state in a table by address, where socket storage cannot be used (5.10).
const SOCKETS_BY_ADDRESS_MAX: u32 = 262_144;
/// Characters from the end of the verifier's log that messages quote.
const VERIFIER_LOG_QUOTED: usize = 400;
/// Most times that a request to the kernel is made which it breaks off because of a signal. Signals that can be blocked are
/// ([`NoSignals`](crate::os::NoSignals)); what is left is a debugger, a freezer, or SIGSTOP and SIGCONT.
const TRIES_MAX: u32 = 100;

/// What the verifier writes when a program is loaded for use. Not `DISABLE`: aya makes a second attempt with a buffer for the
/// log after any failure, and the kernel answers EINVAL to a buffer without a level (`bpf_verifier_log_attr_valid` in
/// `kernel/bpf/log.c`), which hides the first errno.
pub(super) const NO_LOG: VerifierLogLevel = VerifierLogLevel::STATS;

/// How closely datagram sockets are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramWatch {
    /// Every datagram is counted, by flow.
    Flows,
    /// Sockets are reported when they are bound or connected; datagrams are not counted.
    Sockets,
    /// Not at all.
    Off {
        /// Why, to follow "not needed, ".
        reason: &'static str,
    },
}

impl From<FlowLevel> for DatagramWatch {
    fn from(level: FlowLevel) -> Self {
        match level {
            FlowLevel::Flows => Self::Flows,
            FlowLevel::Sockets => Self::Sockets,
            FlowLevel::Off => Self::Off { reason: "flows = \"off\" in the configuration" },
        }
    }
}

/// Returns the level of the programs' messages in the types of the log; `None`: no messages.
pub fn log_level(level: EbpfLog) -> Option<aya_log::Level> {
    Some(match level {
        EbpfLog::Off => return None,
        EbpfLog::Error => aya_log::Level::Error,
        EbpfLog::Warn => aya_log::Level::Warn,
        EbpfLog::Info => aya_log::Level::Info,
        EbpfLog::Debug => aya_log::Level::Debug,
        EbpfLog::Trace => aya_log::Level::Trace,
    })
}

/// Options of a capture.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// Size of the ring buffer in bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Least severe messages of the eBPF programs that reach the log; `None`: their code is not even loaded.
    pub log_level: Option<aya_log::Level>,
    /// Names of hooks that are left out, to test the fallbacks; `trampolines`: all on functions.
    pub without: Vec<String>,
    /// How closely datagram sockets are watched.
    pub datagrams: DatagramWatch,
    /// Most flows that the kernel's table holds.
    pub max_flows: u32,
    /// Where the state of sockets is pinned, or why it cannot be; `None`: no later capture will want it.
    pub keep: Option<Result<Places, String>>,
    /// Faults to make happen.
    pub faults: Vec<Fault>,
}

impl CaptureOptions {
    /// Returns the options of a capture that ends within seconds: of TCP, with everything that works here.
    pub fn one_shot(ring_bytes: u32) -> Self {
        Self {
            ring_bytes,
            log_level: None,
            without: Vec::new(),
            datagrams: DatagramWatch::Off { reason: "a one-shot check watches TCP only" },
            max_flows: 1,
            keep: None,
            faults: Vec::new(),
        }
    }
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
    /// A map could not be pinned; without pins it may load.
    #[error("nothing can be pinned: {0}")]
    Pin(String),
    /// A hook that netconn cannot do without.
    #[error("{hook} cannot be attached: {reason}")]
    Hook {
        /// Its title.
        hook: String,
        /// Why not.
        reason: String,
    },
}

/// Returns the instructions of a loaded program: translated, and looked at by the verifier.
pub(super) fn sizes(ebpf: &Ebpf, hook: &Hook) -> (Option<u32>, Option<u32>) {
    let info = ebpf.program(hook.program.name()).and_then(|program| program.info().ok());
    let bytes = info.as_ref().and_then(ProgramInfo::size_translated);
    // An instruction is 8 bytes (`struct bpf_insn`, include/uapi/linux/bpf.h).
    (bytes.map(|bytes| bytes / 8), info.as_ref().and_then(ProgramInfo::verified_instruction_count))
}

/// Returns a descriptor of an attached program whose missed runs are losses.
pub(super) fn descriptor(ebpf: &Ebpf, hook: &Hook) -> Option<OwnedFd> {
    if !hook.every_run {
        return None;
    }
    ebpf.program(hook.program.name())?.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

/// Returns why a hook is not worth its cost here, if so; `before` are the statuses of the hooks before it.
pub(super) fn unneeded(
    hook: &Hook,
    before: &[HookStatus],
    has_storage: bool,
    datagrams: DatagramWatch,
) -> Option<String> {
    let reported_by = |program: Program| {
        // Statuses are in the order of the table, and a test there demands that this program comes earlier.
        let status = before.get(program as usize)?;
        (status.verdict == Verdict::Attached).then(|| format!("{} reports it", status.hook))
    };
    let is_off = || match datagrams {
        DatagramWatch::Off { reason } => Some(reason.to_owned()),
        DatagramWatch::Flows | DatagramWatch::Sockets => None,
    };
    match hook.needed {
        Needed::Always => None,
        Needed::Unless(program) => reported_by(program),
        Needed::Sockets => is_off(),
        Needed::SocketsUnless(program) => is_off().or_else(|| reported_by(program)),
        Needed::Flows => is_off().or_else(|| {
            let is_counted = datagrams == DatagramWatch::Flows;
            (!is_counted).then(|| "flows = \"sockets\" in the configuration: datagrams are not counted".into())
        }),
        Needed::WithoutStorage => has_storage.then(|| "the kernel keeps it with the socket".into()),
    }
}

/// Takes a map out of the object.
pub(super) fn take_map<T: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or_else(|| LoadError::Object(format!("it has no map {name}")))?;
    T::try_from(map).map_err(|error| LoadError::Object(format!("map {name}: {error}")))
}

/// Loads the object with the running kernel's offsets and features.
pub(super) fn load(options: &CaptureOptions, layout: &Layout, log: VerifierLogLevel) -> Result<Ebpf, LoadError> {
    load_by(EbpfLoader::new(), options, layout, log)
}

/// Loads the object with a loader that was made before: making one takes 20 ms.
pub(super) fn load_by(
    loader: EbpfLoader<'static>,
    options: &CaptureOptions,
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
    loader
        .map_max_entries(map::FLOWS, options.max_flows)
        .map_max_entries(map::FOLDED, keep::folded_max(options.max_flows));
    let per_socket = options.max_flows / FOLDED_FROM;
    loader.override_global(FLOWS_PER_SOCKET, &per_socket, true);
    if !layout.has(feature::SOCKET_STORAGE) {
        // Elsewhere no program uses the map, and its one entry stays. Entries are allocated when needed.
        loader.map_max_entries(map::SOCKETS_BY_ADDRESS, SOCKETS_BY_ADDRESS_MAX);
    }
    if let Some(Ok(places)) = &options.keep {
        // Without socket storage `SOCKETS` holds nothing that is worth a pin.
        let kept = places.iter().filter(|(map, _)| layout.has(feature::SOCKET_STORAGE) || *map != map::SOCKETS);
        for (map, path) in kept {
            loader.map_pin_path(map, path);
        }
    }
    let no_memory = [(feature::SOCKET_STORAGE, feature::NO_MEMORY)];
    let faults = no_memory.iter().filter(|_| options.faults.contains(&Fault::Memory));
    // Faults last: a global that is set twice has its last value.
    for (name, value) in layout.offsets.iter().chain(&layout.features).chain(faults) {
        loader.override_global(name, value, true);
    }
    undisturbed(|| loader.load(OBJECT)).map_err(|error| match (&error, refusal(&error)) {
        // Before the refusals: the file system of the pins has refused it, not the kernel.
        (EbpfError::MapError(MapError::PinError { .. }), _) => LoadError::Pin(chain(&error)),
        (_, Some(error)) => LoadError::Refused(error),
        (_, None) => LoadError::Object(chain(&error)),
    })
}

/// Makes a request to the kernel, and makes it again if it was broken off because of a signal.
pub(super) fn undisturbed<T, E: std::error::Error + 'static>(
    mut request: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut result = request();
    for _ in 1..TRIES_MAX {
        let broken_off = |error: &E| matches!(errno(error), Some(libc::EAGAIN | libc::EINTR));
        if !result.as_ref().is_err_and(broken_off) {
            break;
        }
        result = request();
    }
    result
}

/// Returns the errno of a forbidden system call, if one is in the chain of an error.
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

/// Returns an error's message with those of all its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors quote their cause, and name it as their source too.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Loads a program and attaches it to its hook. An iterator is only loaded: each reading attaches it anew.
pub(super) fn attach(ebpf: &mut Ebpf, hook: &Hook, types: &AyaBtf) -> Result<(), Verdict> {
    let failed = |reason: String| Verdict::Failed { reason };
    let root = if hook.attach.is_cgroup() { preflight::cgroup_root().map(|root| root.path) } else { None };
    if hook.attach.is_cgroup() && root.is_none() {
        return Err(Verdict::Unsupported { reason: "no cgroup v2 is mounted".into() });
    }
    let cgroup = || File::open(root.as_deref().unwrap_or(Path::new(""))).map_err(ProgramError::IOError);
    let program = ebpf.program_mut(hook.program.name()).ok_or_else(|| failed("it is not in the eBPF object".into()))?;
    // What `attach` returns is dropped: it is the id of a link, and the program owns the link. Two requests, because a program
    // that is loaded cannot be loaded again.
    let result = match hook.attach {
        Attach::Tracepoint => <&mut BtfTracePoint>::try_from(program).and_then(|program| {
            undisturbed(|| program.load(hook.target, types))?;
            undisturbed(|| program.attach()).map(drop)
        }),
        Attach::FunctionEntry => <&mut FEntry>::try_from(program).and_then(|program| {
            undisturbed(|| program.load(hook.target, types))?;
            undisturbed(|| program.attach()).map(drop)
        }),
        Attach::FunctionExit => <&mut FExit>::try_from(program).and_then(|program| {
            undisturbed(|| program.load(hook.target, types))?;
            undisturbed(|| program.attach()).map(drop)
        }),
        // `Single` makes a link. The kernel allows any number of links, and refuses the flag `Multi` for them.
        Attach::CgroupAddress => <&mut CgroupSockAddr>::try_from(program).and_then(|program| {
            undisturbed(|| program.load())?;
            undisturbed(|| program.attach(cgroup()?, CgroupAttachMode::Single)).map(drop)
        }),
        Attach::CgroupSocket => <&mut CgroupSock>::try_from(program).and_then(|program| {
            undisturbed(|| program.load())?;
            undisturbed(|| program.attach(cgroup()?, CgroupAttachMode::Single)).map(drop)
        }),
        Attach::CgroupEgress | Attach::CgroupIngress => <&mut CgroupSkb>::try_from(program).and_then(|program| {
            undisturbed(|| program.load())?;
            let is_egress = hook.attach == Attach::CgroupEgress;
            let way = if is_egress { CgroupSkbAttachType::Egress } else { CgroupSkbAttachType::Ingress };
            undisturbed(|| program.attach(cgroup()?, way, CgroupAttachMode::Single)).map(drop)
        }),
        Attach::SockOps => <&mut SockOps>::try_from(program).and_then(|program| {
            undisturbed(|| program.load())?;
            undisturbed(|| program.attach(cgroup()?, CgroupAttachMode::Single)).map(drop)
        }),
        Attach::Iterator => {
            <&mut Iter>::try_from(program).and_then(|program| undisturbed(|| program.load(hook.target, types)))
        }
    };
    result.map_err(|error| classify(hook.attach, obstacle(&error), CapabilitySet::of_this_process()))
}

fn obstacle(error: &ProgramError) -> Obstacle {
    match error {
        // The kernel's types were read before; only the look-up of the target is left to fail.
        ProgramError::Btf(_) => Obstacle::NoTarget,
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            // The end of the log says why; on the way there it says what every instruction does.
            let start = log.char_indices().rev().nth(VERIFIER_LOG_QUOTED).map_or(0, |(at, _)| at);
            Obstacle::Refused { errno: io_error.raw_os_error().unwrap_or(0), log: log[start..].to_owned() }
        }
        other => match errno(other) {
            Some(errno) => Obstacle::Refused { errno, log: String::new() },
            None => Obstacle::Other(chain(other)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::hooks::HOOKS;

    fn reason(program: Program, options: &CaptureOptions) -> Option<String> {
        unneeded(program.hook(), &[], true, options.datagrams)
    }

    #[test]
    fn a_one_shot_capture_blames_nothing_on_the_configuration() {
        let options = CaptureOptions::one_shot(4096);
        for hook in HOOKS {
            let reason = reason(hook.program, &options).unwrap_or_default();
            assert!(!reason.contains("configuration"), "{}: {reason}", hook.title());
        }
        let expected = "a one-shot check watches TCP only";
        for program in [Program::SockCreate, Program::Sendmsg4, Program::Egress] {
            assert_eq!(reason(program, &options).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_a_signal_has_broken_off_is_asked_again() {
        // As the loader returns it: within another error.
        #[derive(Debug, Error)]
        #[error("the program is not loaded")]
        struct Outer(#[source] io::Error);

        let failure = |errno| io::Error::from_raw_os_error(errno);
        let mut answers = vec![Ok(7), Err(failure(libc::EINTR)), Err(failure(libc::EAGAIN))];
        assert_eq!(undisturbed(|| answers.pop().unwrap().map_err(Outer)).unwrap(), 7);
        let tries = |errno| {
            let mut tries = 0;
            let result = undisturbed(|| {
                tries += 1;
                Err::<(), _>(failure(errno))
            });
            assert_eq!(result.unwrap_err().raw_os_error(), Some(errno));
            tries
        };
        assert_eq!((tries(libc::EAGAIN), tries(libc::EINVAL)), (TRIES_MAX, 1));
    }

    #[test]
    fn hooks_of_datagrams_are_attached_as_far_as_they_are_wanted() {
        let flows = CaptureOptions { datagrams: DatagramWatch::Flows, ..CaptureOptions::one_shot(4096) };
        let sockets = CaptureOptions { datagrams: DatagramWatch::Sockets, ..flows.clone() };
        assert_eq!(reason(Program::Egress, &flows), None);
        assert_eq!(reason(Program::SockCreate, &sockets), None);
        let reason = reason(Program::Egress, &sockets);
        assert_eq!(reason.as_deref(), Some("flows = \"sockets\" in the configuration: datagrams are not counted"));
    }
}

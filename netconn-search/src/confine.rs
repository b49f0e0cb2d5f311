//! Takes from this process what a conversion does not need. The daemon has taken its user and capabilities before; what is left
//! after this are the descriptors that are open: no path, no socket, no signal, no other program.

use std::{collections::BTreeMap, fs::File, io, os::fd::FromRawFd as _};

use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus, Scope};
use netconn_model::health::Enforcement;
use nix::{
    libc::{self, c_int, c_long},
    sys::prctl,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};
use serde::Serialize;

/// The descriptor of the Parquet file: `PARQUET_DESCRIPTOR` of the daemon.
const PARQUET_DESCRIPTOR: c_int = 3;
/// The system calls of a conversion: to read and write what is open, memory, time, the end. All others fail with EPERM, which
/// libraries survive where they only ask for something that makes them faster.
const CALLS: [c_long; 32] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_fsync,
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_membarrier,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What this kernel enforces on this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Layers {
    /// No path can be opened, changed or run, no TCP port bound or connected, and nobody outside signalled.
    landlock: Enforcement,
    /// No system call but those of a conversion.
    seccomp: Enforcement,
}

/// Returns the file that the daemon has opened for the result.
pub(crate) fn parquet_descriptor() -> io::Result<File> {
    // SAFETY: only asks about a number.
    if unsafe { libc::fcntl(PARQUET_DESCRIPTOR, libc::F_GETFD) } < 0 {
        return Err(io::Error::other(format!(
            "descriptor {PARQUET_DESCRIPTOR}, for the Parquet file, is not open: name the segment instead of '-'"
        )));
    }
    // SAFETY: it is open, and this process has opened no file of this number: it was there at its start, as the daemon's.
    Ok(unsafe { File::from_raw_fd(PARQUET_DESCRIPTOR) })
}

/// Confines the calling thread and all that it starts, as far as this kernel can: it goes on with less, and says so.
pub(crate) fn confine() -> Layers {
    // The daemon runs this program by a descriptor, and the kernel then calls it by its number. It may fail: only a name.
    let _ = prctl::set_name(c"netconn-search");
    // Landlock first: its calls are not among those that the filter allows.
    let landlock = restrict_paths();
    Layers { landlock, seccomp: restrict_calls() }
}

/// Denies all that Landlock knows of, without any exception.
fn restrict_paths() -> Enforcement {
    // 6 is the first version with signals; what later ones add does not concern a process that may not make sockets.
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    match status.map(|status| status.ruleset) {
        Ok(RulesetStatus::FullyEnforced) => Enforcement::Full,
        Ok(RulesetStatus::PartiallyEnforced) => Enforcement::Partial,
        Ok(RulesetStatus::NotEnforced) | Err(_) => Enforcement::None,
    }
}

/// Denies all system calls but [`CALLS`].
fn restrict_calls() -> Enforcement {
    let filter = || -> Result<(), seccompiler::Error> {
        let rules: BTreeMap<c_long, Vec<SeccompRule>> = CALLS.map(|call| (call, Vec::new())).into();
        let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
        // Fails on architectures that the crate does not know.
        let machine = TargetArch::try_from(std::env::consts::ARCH)?;
        let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, machine)?;
        seccompiler::apply_filter(&BpfProgram::try_from(filter)?)
    };
    if filter().is_ok() { Enforcement::Full } else { Enforcement::None }
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        fs::File,
        net::{TcpListener, TcpStream},
        os::unix::net::{UnixDatagram, UnixListener},
        process::Command,
    };

    use nix::{sys::signal, unistd::getppid};

    use super::*;

    /// Says to a child of this test which layer it applies.
    const LAYER: &str = "NETCONN_TEST_LAYER";

    /// Flag of `landlock_create_ruleset` that asks for the version only, from `linux/landlock.h`.
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;

    /// Runs this test program again, for [`inside`] only, and returns what it has printed.
    fn child(layer: &str) -> String {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "confine::tests::inside", "--nocapture", "--test-threads", "1"]).env(LAYER, layer);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// In a child: applies a layer, tries what a converter must not be able to do, and prints what it could.
    #[test]
    fn inside() {
        let Ok(layer) = env::var(LAYER) else { return };
        let mut open = File::open("/proc/self/status").unwrap();
        let enforced = match &*layer {
            "landlock" => restrict_paths(),
            "seccomp" => restrict_calls(),
            _ => Enforcement::None,
        };
        let mut could = Vec::new();
        let mut attempt = |what: &'static str, is_done: bool| {
            if is_done {
                could.push(what);
            }
        };
        attempt("read", io::Read::read(&mut open, &mut [0; 16]).is_ok());
        attempt("open", File::open("/etc/passwd").is_ok());
        attempt("shadow", File::open("/etc/shadow").is_ok());
        attempt("list", fs::read_dir("/").is_ok());
        let planted = env::temp_dir().join(format!("netconn-{}", std::process::id()));
        attempt("create", fs::write(&planted, "").is_ok());
        let _ = fs::remove_file(planted);
        attempt("bind", TcpListener::bind("127.0.0.1:0").is_ok());
        // Whether somebody listens does not matter: a refusal would come from the network.
        let refused = io::ErrorKind::ConnectionRefused;
        attempt("connect", TcpStream::connect("127.0.0.1:1").is_err_and(|error| error.kind() == refused));
        attempt("signal", signal::kill(getppid(), None).is_ok());
        attempt("run", Command::new("/bin/true").status().is_ok());
        if layer == "seccomp" {
            attempt("socket", UnixDatagram::unbound().is_ok() || UnixListener::bind("x").is_ok());
            // SAFETY: only attaches to another process, and must not even do that.
            attempt("trace", unsafe { libc::ptrace(libc::PTRACE_ATTACH, getppid().as_raw(), 0, 0) } == 0);
        }
        println!("{layer} {enforced:?}: {}.", could.join(" "));
    }

    #[test]
    fn nothing_is_left_but_what_is_open() {
        let said = child("nothing");
        assert!(said.contains("nothing None: read open "), "{said}");
        assert!(said.contains(" list create bind connect signal run."), "{said}");
        let said = child("landlock");
        // Asks the kernel for the version of its interface; an error means that it has none, or has it switched off.
        // SAFETY: with this flag the call reads no memory and makes nothing.
        let version = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<u8>(),
                0_usize,
                LANDLOCK_CREATE_RULESET_VERSION,
            )
        };
        // What each version takes away, by Documentation/userspace-api/landlock.rst: paths from 1 on, TCP from 4 on, signals from 6
        // on.
        let expected = match version {
            ..1 => "landlock None: read open ",
            1..4 => "landlock Partial: read bind connect signal.",
            4..6 => "landlock Partial: read signal.",
            6.. => "landlock Full: read.",
        };
        assert!(said.contains(expected), "version {version}: {said}");
        let said = child("seccomp");
        assert!(said.contains("seccomp Full: read."), "{said}");
    }
}

//! The hooks: for each fact the ways to learn it, best first, and the verdict on each on the running kernel.
//!
//! `doctor`, the start-up log, `/v1/health` and `Sensor Start` all print from this table.

mod table;

use netconn_model::health::{HookStatus, Verdict};
pub use table::{HELPERS, HOOKS};

/// `include/linux/errno.h`: "operation is not supported", kernel-internal but returned by `bpf()` without trampolines.
const ENOTSUPP: i32 = 524;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// `tp_btf`: a tracepoint with typed arguments.
    Tracepoint,
    /// `fentry`: the entry of a function; needs trampolines, which hardened and micro-VM kernels refuse.
    FunctionEntry,
    /// `fexit`: the return from a function; as above.
    FunctionExit,
    /// `cgroup/connect4` and its like: system calls with addresses, of all processes below the root of cgroup v2.
    CgroupAddress,
    /// `cgroup/sock_create` and its like: births, bindings and ends of sockets, of all processes below the root of cgroup v2.
    CgroupSocket,
    /// `cgroup_skb`: packets that leave, of all sockets below the root of cgroup v2.
    CgroupEgress,
    /// `cgroup_skb`: packets that come in, as above.
    CgroupIngress,
    /// `sockops`: what TCP does, of all processes below the root of cgroup v2.
    SockOps,
    /// `iter`: run when somebody reads.
    Iterator,
}

impl Attach {
    /// Whether the program hangs on a function, by a BPF trampoline.
    pub fn is_trampoline(self) -> bool {
        matches!(self, Self::FunctionEntry | Self::FunctionExit)
    }

    /// Whether the program hangs on the root of cgroup v2.
    pub fn is_cgroup(self) -> bool {
        matches!(
            self,
            Self::CgroupAddress | Self::CgroupSocket | Self::CgroupEgress | Self::CgroupIngress | Self::SockOps
        )
    }
}

/// When a hook is worth its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// On every kernel.
    Always,
    /// Where this program, an earlier one of [`HOOKS`], is not attached.
    Unless(&'static str),
    /// Where tracing programs cannot use socket storage.
    WithoutStorage,
    /// If sockets of datagrams are watched.
    Sockets,
    /// As before, where this program, an earlier one of [`HOOKS`], is not attached.
    SocketsUnless(&'static str),
    /// If datagrams are counted.
    Flows,
}

/// One program of the eBPF object and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Name of the program.
    pub program: &'static str,
    /// What it is attached to.
    pub name: &'static str,
    /// How.
    pub attach: Attach,
    /// What the kernel gives there, with the file it is declared in.
    pub prototype: &'static str,
    /// What is learned there.
    pub fact: &'static str,
    /// What is done without it; `None`: netconn cannot run.
    pub without: Option<&'static str>,
    /// When it is attached at all.
    pub needed: Needed,
    /// Whether a run that the kernel skips (it counts them) is a loss: not where the next run tells the same.
    pub every_run: bool,
}

/// A helper of the kernel that programs use where it is.
#[derive(Clone, Copy, Debug)]
pub struct Helper {
    /// The read-only global that tells the programs, one of `netconn_common::feature`.
    pub feature: &'static str,
    /// The kernel's function behind it: the helper is open to tracing programs if the function exists.
    pub function: &'static str,
    /// Name of the helper.
    pub name: &'static str,
    /// What it is for.
    pub fact: &'static str,
    /// What is done without it.
    pub without: &'static str,
}

/// The status of the helpers that read memory through untyped pointers, which every kernel has but may forbid.
pub fn probe_read_status(is_allowed: bool) -> HookStatus {
    let verdict = if is_allowed {
        Verdict::Attached
    } else {
        Verdict::Unsupported { reason: "lockdown=confidentiality forbids it".into() }
    };
    let instead = "executables and arguments are looked up in /proc, too late for processes that live briefly; new \
                   cgroups have no name";
    HookStatus {
        hook: "helper/bpf_probe_read".into(),
        fact: "executables, arguments, names of cgroups".into(),
        verdict,
        instead: (!is_allowed).then(|| instead.into()),
        instructions: None,
        verified_instructions: None,
    }
}

/// Whether what is kept with sockets outlives the daemon; `obstacle` is why not.
pub fn keep_status(obstacle: Option<String>) -> HookStatus {
    let instead = "after a restart owners are found among open files, and starts are not known";
    HookStatus {
        hook: "pin/SOCKETS".into(),
        fact: "owners and starts of connections, for the next daemon".into(),
        instead: obstacle.is_some().then(|| instead.into()),
        verdict: obstacle.map_or(Verdict::Attached, |reason| Verdict::Unsupported { reason }),
        instructions: None,
        verified_instructions: None,
    }
}

impl Helper {
    /// The status of this helper.
    pub fn status(&self, is_there: bool) -> HookStatus {
        let verdict = if is_there {
            Verdict::Attached
        } else {
            Verdict::Unsupported { reason: "this kernel does not offer it to tracing programs".into() }
        };
        let instead = (!is_there).then(|| self.without.to_owned());
        HookStatus {
            hook: format!("helper/{}", self.name),
            fact: self.fact.to_owned(),
            verdict,
            instead,
            instructions: None,
            verified_instructions: None,
        }
    }
}

impl Hook {
    /// `fentry/tcp_connect`.
    pub fn title(&self) -> String {
        let way = match self.attach {
            Attach::Tracepoint => "tp_btf",
            Attach::FunctionEntry => "fentry",
            Attach::FunctionExit => "fexit",
            Attach::CgroupAddress | Attach::CgroupSocket => "cgroup",
            Attach::CgroupEgress | Attach::CgroupIngress => "cgroup_skb",
            Attach::SockOps => "sockops",
            Attach::Iterator => "iter",
        };
        let nested = if self.program.ends_with("_nested") { " (nested)" } else { "" };
        format!("{way}/{}{nested}", self.name)
    }

    /// The status of this hook with a verdict.
    pub fn status(&self, verdict: Verdict) -> HookStatus {
        let is_missing = matches!(verdict, Verdict::Unsupported { .. } | Verdict::Failed { .. });
        let instead = is_missing.then(|| self.without.map(str::to_owned)).flatten();
        HookStatus {
            hook: self.title(),
            fact: self.fact.to_owned(),
            verdict,
            instead,
            instructions: None,
            verified_instructions: None,
        }
    }
}

/// What went wrong while a program was loaded or attached, as far as a verdict needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The kernel's types do not have the target.
    NoTarget,
    /// The system call failed with this errno; what the verifier wrote, if anything.
    Refused {
        /// Positive errno, 0 if unknown.
        errno: i32,
        /// The end of the verifier's log.
        log: String,
    },
    /// Anything else.
    Other(String),
}

/// The verdict on a hook that could not be loaded or attached.
pub fn classify(attach: Attach, obstacle: Obstacle) -> Verdict {
    match (attach, obstacle) {
        (_, Obstacle::NoTarget) => Verdict::Unsupported { reason: "this kernel has nothing of that name".into() },
        // Kernels without dynamic ftrace or BPF trampolines, and some hypervisors' kernels, say one of these.
        (on, Obstacle::Refused { errno: libc::EPERM | ENOTSUPP | libc::EOPNOTSUPP, .. }) if on.is_trampoline() => {
            Verdict::Unsupported { reason: "this kernel refuses programs on functions (no BPF trampolines)".into() }
        }
        (_, Obstacle::Refused { errno: libc::EPERM, .. }) => Verdict::Failed {
            reason: "the kernel refuses to load it (EPERM): a container, seccomp or lockdown forbids it".into(),
        },
        (_, Obstacle::Refused { errno, log }) => {
            let error = std::io::Error::from_raw_os_error(errno);
            let log = log.trim();
            let reason = if log.is_empty() { error.to_string() } else { format!("{error}; the verifier says: {log}") };
            Verdict::Failed { reason }
        }
        (_, Obstacle::Other(reason)) => Verdict::Failed { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trampolines_may_be_missing_tracepoints_may_not() {
        let refused = |errno| Obstacle::Refused { errno, log: String::new() };
        assert!(matches!(classify(Attach::FunctionEntry, refused(libc::EPERM)), Verdict::Unsupported { .. }));
        assert!(matches!(classify(Attach::FunctionEntry, refused(ENOTSUPP)), Verdict::Unsupported { .. }));
        assert!(matches!(classify(Attach::FunctionEntry, refused(libc::EINVAL)), Verdict::Failed { .. }));
        assert!(matches!(classify(Attach::Tracepoint, refused(libc::EPERM)), Verdict::Failed { .. }));
        assert!(matches!(classify(Attach::Tracepoint, Obstacle::NoTarget), Verdict::Unsupported { .. }));
    }

    #[test]
    fn a_status_reads_back() {
        let connect = HOOKS.iter().find(|hook| hook.program == "tcp_connect").unwrap();
        let status = connect.status(Verdict::Unsupported { reason: "no".into() });
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(
            text,
            "{\"hook\":\"fentry/tcp_connect\",\"fact\":\"TCP attempts, with their source port\",\
             \"verdict\":\"unsupported\",\"reason\":\"no\",\
             \"instead\":\"inet_sock_set_state; the source port is known with the answer\"}"
        );
        let back: HookStatus = serde_json::from_str(&text).unwrap();
        assert_eq!(back.verdict, status.verdict);
    }

    #[test]
    fn only_one_hook_is_indispensable() {
        let needed: Vec<_> = HOOKS.iter().filter(|hook| hook.without.is_none()).map(|hook| hook.program).collect();
        assert_eq!(needed, ["inet_sock_set_state"]);
    }
}

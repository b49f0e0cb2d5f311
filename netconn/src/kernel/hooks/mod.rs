//! The hooks: for each fact the ways to learn it, best first, and the verdict on each on the running kernel.
//!
//! `doctor`, the start-up log, `/v1/health` and `Sensor Start` all print from this table.

mod table;

use netconn_model::health::{HookStatus, Verdict};
pub use table::{HELPERS, HOOKS, Program};

use crate::kernel::preflight::{Capability, CapabilitySet, names_of};

/// `include/linux/errno.h`: "operation is not supported", kernel-internal but returned by `bpf()` without trampolines.
const ENOTSUPP: i32 = 524;

/// Ways to attach a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// `tp_btf`: a tracepoint with typed arguments.
    Tracepoint,
    /// `fentry`: the entry of a function; needs trampolines, which hardened and micro-VM kernels refuse.
    FunctionEntry,
    /// `fexit`: the return from a function; needs trampolines as well.
    FunctionExit,
    /// `cgroup/connect4` and its like: system calls with addresses, of all processes below the root of cgroup v2.
    CgroupAddress,
    /// `cgroup/sock_create` and its like: creation, binding and release of sockets, below the root of cgroup v2.
    CgroupSocket,
    /// `cgroup_skb`: outgoing packets of all sockets below the root of cgroup v2.
    CgroupEgress,
    /// `cgroup_skb`: incoming packets of all sockets below the root of cgroup v2.
    CgroupIngress,
    /// `sockops`: TCP events of all sockets below the root of cgroup v2.
    SockOps,
    /// `iter`: runs when its file is read.
    Iterator,
}

impl Attach {
    /// Whether the program is attached to a function, by a BPF trampoline.
    pub fn is_trampoline(self) -> bool {
        matches!(self, Self::FunctionEntry | Self::FunctionExit)
    }

    /// The capabilities that loading and attaching it takes: `bpf_prog_load` and `bpf_prog_attach_check_attach_type` in
    /// `kernel/bpf/syscall.c`.
    pub fn capabilities(self) -> &'static [Capability] {
        if self.is_cgroup() {
            &[Capability::Bpf, Capability::NetAdmin]
        } else {
            &[Capability::Bpf, Capability::Perfmon]
        }
    }

    /// Whether the program is attached to the root of cgroup v2.
    pub fn is_cgroup(self) -> bool {
        matches!(
            self,
            Self::CgroupAddress | Self::CgroupSocket | Self::CgroupEgress | Self::CgroupIngress | Self::SockOps
        )
    }
}

/// Conditions under which a hook is worth its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// On every kernel.
    Always,
    /// Unless this program, an earlier one of [`HOOKS`], is attached.
    Unless(Program),
    /// Where tracing programs cannot use socket storage.
    WithoutStorage,
    /// If datagram sockets are watched.
    Sockets,
    /// If datagram sockets are watched, unless this program, an earlier one of [`HOOKS`], is attached.
    SocketsUnless(Program),
    /// If datagrams are counted.
    Flows,
}

/// One program of the eBPF object and its hook.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The program.
    pub program: Program,
    /// The tracepoint, function, cgroup hook or iterator that it is attached to.
    pub target: &'static str,
    /// How it is attached.
    pub attach: Attach,
    /// Distinguishes it in its title from another program with the same target.
    pub remark: Option<&'static str>,
    /// The fact that is learned there.
    pub fact: &'static str,
    /// The fallback without it; `None`: netconn cannot run.
    pub without: Option<&'static str>,
    /// When it is attached at all.
    pub needed: Needed,
    /// Whether a run that the kernel skips (it counts them) is a loss. It is none where the next run reports the same.
    pub every_run: bool,
    /// Bit of `netconn_common::setting` that announces to the other programs that this one is attached.
    pub announced_by: Option<u32>,
    /// Whether the program sees which process accepts a connection, before or soon after it is established.
    pub sees_acceptor: bool,
}

impl Hook {
    /// The members that most entries of [`HOOKS`] share; the others are placeholders.
    const DEFAULT: Self = Self {
        program: Program::InetSockSetState,
        target: "",
        attach: Attach::Tracepoint,
        remark: None,
        fact: "",
        without: None,
        needed: Needed::Always,
        every_run: false,
        announced_by: None,
        sees_acceptor: false,
    };

    /// Returns the title, `fentry/tcp_connect`.
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
        let remark = self.remark.map(|remark| format!(" ({remark})")).unwrap_or_default();
        format!("{way}/{}{remark}", self.target)
    }

    /// Returns the status of this hook with a verdict.
    pub fn status(&self, verdict: Verdict) -> HookStatus {
        status(self.title(), self.fact, verdict, self.without)
    }

    /// Whether a name that a person typed means this hook: the program's, the target's, or `trampolines`.
    pub fn is_called(&self, name: &str) -> bool {
        name == self.program.name() || name == self.target || (name == "trampolines" && self.attach.is_trampoline())
    }
}

/// A helper function of the kernel that programs use where it exists.
#[derive(Clone, Copy, Debug)]
pub struct Helper {
    /// The read-only global that tells the programs, one of `netconn_common::feature`.
    pub feature: &'static str,
    /// The kernel's function behind it: the helper is open to tracing programs if the function exists.
    pub function: &'static str,
    /// Name of the helper.
    pub name: &'static str,
    /// The fact that it gives.
    pub fact: &'static str,
    /// The fallback without it.
    pub without: &'static str,
}

impl Helper {
    /// Returns the status of this helper.
    pub fn status(&self, exists: bool) -> HookStatus {
        let obstacle = (!exists).then(|| "this kernel does not offer it to tracing programs".to_owned());
        status(format!("helper/{}", self.name), self.fact, verdict(obstacle), Some(self.without))
    }
}

/// Returns the status of the helpers that read memory through untyped pointers. Every kernel has them but may forbid them.
pub fn probe_read_status(is_allowed: bool) -> HookStatus {
    let obstacle = (!is_allowed).then(|| "lockdown=confidentiality forbids it".to_owned());
    let fact = "executables, arguments, names of cgroups";
    let without = "executables and arguments are looked up in /proc, too late for short-lived processes; new cgroups have no \
                   name";
    status("helper/bpf_probe_read".into(), fact, verdict(obstacle), Some(without))
}

/// Returns the status of the lists of packet sockets, which stand in for a hook.
pub fn packet_status() -> HookStatus {
    status(
        "poll/proc/net/packet".into(),
        "packet sockets (AF_PACKET) that are opened and closed, once a second",
        verdict(None),
        None,
    )
}

/// Returns the status of the pins that let the state of sockets outlive the daemon; `obstacle` says why there are none.
pub fn keep_status(obstacle: Option<String>) -> HookStatus {
    let fact = "owners and starts of connections, for the next daemon";
    let without = "after a restart owners are found among open files, starts are unknown, and flows are counted anew";
    status("pin/SOCKETS".into(), fact, verdict(obstacle), Some(without))
}

fn verdict(obstacle: Option<String>) -> Verdict {
    obstacle.map_or(Verdict::Attached, |reason| Verdict::Unsupported { reason })
}

/// Returns a status that names the fallback if the verdict is that something is missing.
fn status(hook: String, fact: &str, verdict: Verdict, without: Option<&str>) -> HookStatus {
    let is_missing = matches!(verdict, Verdict::Unsupported { .. } | Verdict::Failed { .. });
    let instead = without.filter(|_| is_missing).map(str::to_owned);
    // Instructions are known only of loaded programs: the capture adds them.
    HookStatus { hook, fact: fact.to_owned(), verdict, instead, instructions: None, verified_instructions: None }
}

/// Why a program could not be loaded or attached, as far as a verdict needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The kernel's types do not have the target.
    NoTarget,
    /// The system call failed.
    Refused {
        /// Positive errno, 0 if unknown.
        errno: i32,
        /// The end of the verifier's log.
        log: String,
    },
    /// Anything else.
    Other(String),
}

/// Returns the verdict on a hook that could not be loaded or attached.
pub fn classify(attach: Attach, obstacle: Obstacle, held: CapabilitySet) -> Verdict {
    let missing = held.missing(attach.capabilities());
    match (attach, obstacle) {
        (_, Obstacle::NoTarget) => Verdict::Unsupported { reason: "this kernel has no hook of that name".into() },
        // First what is certain.
        (_, Obstacle::Refused { errno: libc::EPERM | libc::EACCES, .. }) if !missing.is_empty() => {
            Verdict::Failed { reason: format!("missing {}: run netconn as root, or give it that", names_of(&missing)) }
        }
        // Kernels without dynamic ftrace or BPF trampolines, and some hypervisors' kernels, return one of these.
        (on, Obstacle::Refused { errno: libc::EPERM | ENOTSUPP | libc::EOPNOTSUPP, .. }) if on.is_trampoline() => {
            Verdict::Unsupported { reason: "this kernel refuses programs on functions (no BPF trampolines)".into() }
        }
        // After the trampolines: for all other programs EPERM is a prohibition, not a missing feature.
        (_, Obstacle::Refused { errno: libc::EPERM, .. }) => Verdict::Failed {
            reason:
                "the kernel refuses to load it (EPERM): a container, a user namespace, seccomp or lockdown forbids it"
                    .into(),
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
        let classify = |attach, obstacle| classify(attach, obstacle, CapabilitySet::ALL);
        assert!(matches!(classify(Attach::FunctionEntry, refused(libc::EPERM)), Verdict::Unsupported { .. }));
        assert!(matches!(classify(Attach::FunctionEntry, refused(ENOTSUPP)), Verdict::Unsupported { .. }));
        assert!(matches!(classify(Attach::FunctionEntry, refused(libc::EINVAL)), Verdict::Failed { .. }));
        assert!(matches!(classify(Attach::Tracepoint, refused(libc::EPERM)), Verdict::Failed { .. }));
        assert!(matches!(classify(Attach::Tracepoint, Obstacle::NoTarget), Verdict::Unsupported { .. }));
    }

    #[test]
    fn a_missing_capability_is_named_for_the_hooks_that_need_it() {
        let refused = || Obstacle::Refused { errno: libc::EPERM, log: String::new() };
        let held = CapabilitySet::with(&[Capability::Bpf, Capability::Perfmon]);
        let reason = |attach| match classify(attach, refused(), held) {
            Verdict::Failed { reason } | Verdict::Unsupported { reason } => reason,
            verdict => panic!("{verdict:?}"),
        };
        for hook in HOOKS {
            let is_named = reason(hook.attach).contains("missing CAP_NET_ADMIN: run netconn as root");
            assert_eq!(is_named, hook.attach.is_cgroup(), "{}", hook.title());
        }
    }

    #[test]
    fn a_status_reads_back() {
        let connect = Program::TcpConnect.hook();
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
    fn the_table_is_in_the_order_of_programs() {
        for (index, hook) in HOOKS.iter().enumerate() {
            assert_eq!(hook.program.hook().title(), hook.title());
            assert!(!hook.target.is_empty() && !hook.fact.is_empty(), "{}", hook.program.name());
            let earlier = match hook.needed {
                Needed::Unless(program) | Needed::SocketsUnless(program) => Some(program as usize),
                _ => None,
            };
            assert!(earlier.is_none_or(|earlier| earlier < index), "{}", hook.title());
        }
        let mut titles: Vec<_> = HOOKS.iter().map(Hook::title).collect();
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), HOOKS.len());
    }

    #[test]
    fn hooks_have_names_of_three_kinds() {
        let called =
            |name| HOOKS.iter().filter(|hook| hook.is_called(name)).map(|hook| hook.program).collect::<Vec<_>>();
        assert_eq!(called("dump_files"), [Program::DumpFiles]);
        assert_eq!(called("inet_sock_set_state"), [Program::InetSockSetState, Program::InetSockSetStateNested]);
        assert_eq!(called("trampolines"), [Program::TcpConnect, Program::InetCskAccept, Program::InetStreamConnect]);
    }

    #[test]
    fn the_hooks_of_both_versions_of_ip_are_alike() {
        let of_v6 = |hook: &&Hook| hook.program.name().ends_with('6');
        let pairs: Vec<_> = HOOKS
            .iter()
            .filter(of_v6)
            .map(|hook| {
                let other = hook.program.name().replace('6', "4");
                (hook, HOOKS.iter().find(|hook| hook.program.name() == other).unwrap())
            })
            .collect();
        assert_eq!(pairs.len(), 5);
        for (v6, v4) in pairs {
            assert_eq!(
                (v6.sees_acceptor, v6.every_run, v6.needed),
                (v4.sees_acceptor, v4.every_run, v4.needed),
                "{}",
                v6.title()
            );
            assert_eq!((v6.without, v6.fact.replace("v6", "v4")), (v4.without, v4.fact.to_owned()));
        }
    }

    #[test]
    fn only_one_hook_is_indispensable() {
        let needed: Vec<_> = HOOKS.iter().filter(|hook| hook.without.is_none()).map(|hook| hook.program).collect();
        assert_eq!(needed, [Program::InetSockSetState]);
    }
}

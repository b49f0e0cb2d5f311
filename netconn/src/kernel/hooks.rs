//! The hooks: for each fact the ways to learn it, best first, and the verdict on each on the running kernel.
//!
//! `doctor`, the start-up log, `/v1/health` and `Sensor Start` all print from this table.

use netconn_common::feature;
use serde::{Deserialize, Serialize};

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

/// All hooks, in the order in which they are attached: who owns a socket is known before the socket is, and attempts are
/// noted only when it is seen that they were sent.
pub const HOOKS: &[Hook] = &[
    Hook {
        program: "cgroup_mkdir",
        name: "cgroup_mkdir",
        attach: Attach::Tracepoint,
        prototype: "(struct cgroup *cgrp, const char *path), include/trace/events/cgroup.h",
        fact: "new cgroups (units, containers)",
        without: Some("cgroups made after the start have no name"),
        needed: Needed::Always,
        every_run: true,
    },
    Hook {
        program: "sched_process_fork",
        name: "sched_process_fork",
        attach: Attach::Tracepoint,
        prototype: "(struct task_struct *parent, struct task_struct *child), include/trace/events/sched.h",
        fact: "births of processes",
        without: Some("processes are looked up in /proc, those that live briefly are missed"),
        needed: Needed::Always,
        every_run: true,
    },
    Hook {
        program: "sched_process_exec",
        name: "sched_process_exec",
        attach: Attach::Tracepoint,
        prototype: "(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm), include/trace/events/sched.h",
        fact: "programs and their arguments",
        without: Some("processes are looked up in /proc, those that live briefly are missed"),
        needed: Needed::Always,
        every_run: true,
    },
    Hook {
        program: "sched_process_exit",
        name: "sched_process_exit",
        attach: Attach::Tracepoint,
        prototype: "(struct task_struct *p), include/trace/events/sched.h",
        fact: "ends of processes",
        without: Some("ended processes are forgotten when their id is used again"),
        needed: Needed::Always,
        every_run: true,
    },
    Hook {
        program: "tcp_connect",
        name: "tcp_connect",
        attach: Attach::FunctionEntry,
        prototype: "int tcp_connect(struct sock *sk), net/ipv4/tcp_output.c",
        fact: "TCP attempts, with their source port",
        without: Some("inet_sock_set_state; the source port is known with the answer"),
        needed: Needed::Always,
        every_run: true,
    },
    Hook {
        program: "inherit",
        name: "tcp_call_bpf",
        attach: Attach::SockOps,
        prototype: "struct bpf_sock_ops, include/uapi/linux/bpf.h",
        fact: "listeners that accepted connections came through",
        without: Some("they are found by address and port"),
        needed: Needed::WithoutStorage,
        every_run: false,
    },
    Hook {
        program: "inet_csk_accept",
        name: "inet_csk_accept",
        attach: Attach::FunctionExit,
        prototype: "struct sock *inet_csk_accept(…), net/ipv4/inet_connection_sock.c",
        fact: "processes that accept connections",
        without: Some("getpeername, the first to receive or send, open files"),
        needed: Needed::Always,
        every_run: false,
    },
    Hook {
        program: "getpeername4",
        name: "getpeername4",
        attach: Attach::CgroupAddress,
        prototype: "struct bpf_sock_addr, include/uapi/linux/bpf.h",
        fact: "processes that accept connections over IPv4 and want the peer's address",
        without: Some("the first to receive or send, open files"),
        needed: Needed::Unless("inet_csk_accept"),
        every_run: false,
    },
    Hook {
        program: "getpeername6",
        name: "getpeername6",
        attach: Attach::CgroupAddress,
        prototype: "as above",
        fact: "processes that accept connections over IPv6 and want the peer's address",
        without: Some("the first to receive or send, open files"),
        needed: Needed::Unless("inet_csk_accept"),
        every_run: false,
    },
    Hook {
        program: "tcp_rcv_space_adjust",
        name: "tcp_rcv_space_adjust",
        attach: Attach::Tracepoint,
        prototype: "(struct sock *sk), include/trace/events/tcp.h",
        fact: "processes that receive on connections they were handed",
        without: Some("who accepted, open files"),
        needed: Needed::Always,
        every_run: false,
    },
    Hook {
        program: "sock_send_length",
        name: "sock_send_length",
        attach: Attach::Tracepoint,
        prototype: "(struct sock *sk, int ret, int flags), include/trace/events/sock.h, from 6.3 on",
        fact: "processes that send on connections they were handed",
        without: Some("who accepted or receives, open files"),
        needed: Needed::Always,
        every_run: false,
    },
    Hook {
        program: "inet_stream_connect",
        name: "__inet_stream_connect",
        attach: Attach::FunctionExit,
        prototype: "int __inet_stream_connect(struct socket *sock, …), net/ipv4/af_inet.c",
        fact: "errors of attempts that send nothing",
        without: Some("the routing tables are asked again"),
        needed: Needed::Always,
        every_run: false,
    },
    Hook {
        program: "tcp_destroy_sock",
        name: "tcp_destroy_sock",
        attach: Attach::Tracepoint,
        prototype: "(struct sock *sk), include/trace/events/tcp.h",
        fact: "ends of sockets whose attempts sent nothing",
        without: Some("such attempts are seen when the socket connects again"),
        needed: Needed::Always,
        every_run: false,
    },
    Hook {
        program: "dump_tcp",
        name: "tcp",
        attach: Attach::Iterator,
        prototype: "struct bpf_iter__tcp, net/ipv4/tcp_ipv4.c",
        fact: "connections and listeners that were there before",
        without: Some("they are seen when something happens to them"),
        needed: Needed::Always,
        every_run: false,
    },
    Hook {
        program: "dump_files",
        name: "task_file",
        attach: Attach::Iterator,
        prototype: "struct bpf_iter__task_file, kernel/bpf/task_iter.c",
        fact: "processes of connections that were there before",
        without: Some("their processes are unknown"),
        needed: Needed::Always,
        every_run: false,
    },
    Hook {
        program: "inet_sock_set_state",
        name: "inet_sock_set_state",
        attach: Attach::Tracepoint,
        prototype: "(const struct sock *sk, const int oldstate, const int newstate), include/trace/events/sock.h",
        fact: "TCP connections and listeners: every change of state",
        without: None,
        needed: Needed::Always,
        every_run: true,
    },
    Hook {
        program: "inet_sock_set_state_nested",
        name: "inet_sock_set_state",
        attach: Attach::Tracepoint,
        prototype: "as above",
        fact: "changes of state in an interrupt of the program before",
        without: Some("they are counted as lost, and the table is repaired"),
        needed: Needed::Always,
        every_run: false,
    },
    Hook {
        program: "connect4",
        name: "connect4",
        attach: Attach::CgroupAddress,
        prototype: "struct bpf_sock_addr, include/uapi/linux/bpf.h",
        fact: "attempts over IPv4, also those that send nothing (no route)",
        without: Some("only attempts that send something are seen"),
        needed: Needed::Always,
        every_run: false,
    },
    Hook {
        program: "connect6",
        name: "connect6",
        attach: Attach::CgroupAddress,
        prototype: "as above",
        fact: "attempts over IPv6, also those that send nothing (no route)",
        without: Some("only attempts that send something are seen"),
        needed: Needed::Always,
        every_run: false,
    },
    Hook {
        program: "sock_create",
        name: "sock_create",
        attach: Attach::CgroupSocket,
        prototype: "struct bpf_sock, include/uapi/linux/bpf.h",
        fact: "processes that make sockets of datagrams",
        without: Some("who binds, connects, sends or receives; raw sockets are not seen"),
        needed: Needed::Sockets,
        every_run: false,
    },
    Hook {
        program: "post_bind4",
        name: "post_bind4",
        attach: Attach::CgroupSocket,
        prototype: "struct bpf_sock, include/uapi/linux/bpf.h",
        fact: "UDP sockets that are bound over IPv4",
        without: Some("they are seen in snapshots, or when something comes in"),
        needed: Needed::Sockets,
        every_run: false,
    },
    Hook {
        program: "post_bind6",
        name: "post_bind6",
        attach: Attach::CgroupSocket,
        prototype: "as above",
        fact: "UDP sockets that are bound over IPv6",
        without: Some("they are seen in snapshots, or when something comes in"),
        needed: Needed::Sockets,
        every_run: false,
    },
    Hook {
        program: "sock_release",
        name: "sock_release",
        attach: Attach::CgroupSocket,
        prototype: "struct bpf_sock, include/uapi/linux/bpf.h",
        fact: "ends of sockets of datagrams",
        without: Some("flows end when they are idle"),
        needed: Needed::Sockets,
        every_run: false,
    },
    Hook {
        program: "sendmsg4",
        name: "sendmsg4",
        attach: Attach::CgroupAddress,
        prototype: "struct bpf_sock_addr, include/uapi/linux/bpf.h",
        fact: "processes that send datagrams over IPv4",
        without: Some("who made, bound or connected the socket"),
        needed: Needed::Sockets,
        every_run: false,
    },
    Hook {
        program: "sendmsg6",
        name: "sendmsg6",
        attach: Attach::CgroupAddress,
        prototype: "as above",
        fact: "processes that send datagrams over IPv6",
        without: Some("who made, bound or connected the socket"),
        needed: Needed::Sockets,
        every_run: false,
    },
    Hook {
        program: "recvmsg4",
        name: "recvmsg4",
        attach: Attach::CgroupAddress,
        prototype: "struct bpf_sock_addr, include/uapi/linux/bpf.h",
        fact: "processes that receive datagrams over IPv4",
        without: Some("who made, bound or connected the socket"),
        needed: Needed::Sockets,
        every_run: false,
    },
    Hook {
        program: "recvmsg6",
        name: "recvmsg6",
        attach: Attach::CgroupAddress,
        prototype: "as above",
        fact: "processes that receive datagrams over IPv6",
        without: Some("who made, bound or connected the socket"),
        needed: Needed::Sockets,
        every_run: false,
    },
    Hook {
        program: "dump_udp",
        name: "udp",
        attach: Attach::Iterator,
        prototype: "struct bpf_iter__udp, net/ipv4/udp.c",
        fact: "UDP sockets that were there before",
        without: Some("they are seen when something is sent or received"),
        needed: Needed::Sockets,
        every_run: false,
    },
    Hook {
        program: "egress",
        name: "egress",
        attach: Attach::CgroupEgress,
        prototype: "struct __sk_buff, include/uapi/linux/bpf.h",
        fact: "datagrams sent: UDP, ICMP and raw sockets",
        without: Some("only received datagrams are counted"),
        needed: Needed::Flows,
        every_run: false,
    },
    Hook {
        program: "ingress",
        name: "ingress",
        attach: Attach::CgroupIngress,
        prototype: "struct __sk_buff, include/uapi/linux/bpf.h",
        fact: "datagrams received: UDP, ICMP and raw sockets",
        without: Some("only sent datagrams are counted"),
        needed: Needed::Flows,
        every_run: false,
    },
];

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

/// All helpers that not every kernel has.
pub const HELPERS: &[Helper] = &[
    Helper {
        feature: feature::SOCKET_STORAGE,
        function: "bpf_sk_storage_get_tracing",
        name: "bpf_sk_storage_get",
        fact: "owner and history of a socket, kept in the socket itself",
        without: "a table by the socket's address; accepted connections find their listener by tcp_call_bpf",
    },
    Helper {
        feature: feature::SOCKET_COOKIE,
        function: "bpf_get_socket_ptr_cookie",
        name: "bpf_get_socket_cookie",
        fact: "identity of a socket",
        without: "a number made of the time and the CPU when it was first seen",
    },
    Helper {
        feature: feature::CURRENT_TASK,
        function: "bpf_get_current_task_btf",
        name: "bpf_get_current_task_btf",
        fact: "start and name of the process that connects",
        without: "bpf_probe_read_kernel",
    },
    Helper {
        feature: feature::SOCK_FROM_FILE,
        function: "bpf_sock_from_file",
        name: "bpf_sock_from_file",
        fact: "open files that are sockets",
        without: "files are followed to sockets by bpf_probe_read_kernel",
    },
];

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

/// What became of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It works.
    Attached,
    /// It is not attached, because another one tells more.
    Unneeded {
        /// Which, or why.
        reason: String,
    },
    /// This kernel does not have it.
    Unsupported {
        /// Why.
        reason: String,
    },
    /// This kernel should have it.
    Failed {
        /// What went wrong.
        reason: String,
    },
}

/// A hook's verdict, as health reports give it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HookStatus {
    /// [`Hook::name`], with the way of attaching as in libbpf's section names.
    pub hook: String,
    /// [`Hook::fact`].
    pub fact: String,
    /// What became of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// [`Hook::without`], if it is not attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// Instructions of its program after the kernel has translated it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u32>,
    /// Instructions that the verifier had to look at, of a million at most; from 5.16 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_instructions: Option<u32>,
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

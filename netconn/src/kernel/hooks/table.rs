//! The tables: every program and its hook, and every helper that only some kernels offer.

use netconn_common::{feature, setting};

use crate::kernel::hooks::{Attach, Helper, Hook, Needed};

/// Makes the enum of programs and the table of their hooks from one list. The doc of each program is what the kernel gives
/// it, with the file that declares that. Members that are left out are as in [`Hook::DEFAULT`].
macro_rules! hooks {
    ($($(#[$doc:meta])+ $program:ident = $name:literal { $($member:ident: $value:expr),+ $(,)? })+) => {
        /// The programs of the eBPF object, in the order of [`HOOKS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Program {
            $($(#[$doc])+ $program,)+
        }

        impl Program {
            /// Name in the eBPF object.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$program => $name,)+
                }
            }

            /// The program's entry in [`HOOKS`].
            pub const fn hook(self) -> &'static Hook {
                &HOOKS[self as usize]
            }
        }

        /// All hooks, in the order in which they are attached: first those that tell the owner of a socket, then those that
        /// report the socket; first those that see a SYN leave, then those that note an attempt.
        pub const HOOKS: &[Hook] = &[
            $(Hook { program: Program::$program, $($member: $value,)+ ..Hook::DEFAULT },)+
        ];
    };
}

hooks! {
    /// `TP_PROTO(struct cgroup *cgrp, const char *path)`, `include/trace/events/cgroup.h`.
    CgroupMkdir = "cgroup_mkdir" {
        target: "cgroup_mkdir",
        attach: Attach::Tracepoint,
        fact: "new cgroups (units, containers)",
        without: Some("cgroups created after the start have no name"),
        every_run: true,
    }
    /// `TP_PROTO(struct task_struct *parent, struct task_struct *child)`, `include/trace/events/sched.h`.
    SchedProcessFork = "sched_process_fork" {
        target: "sched_process_fork",
        attach: Attach::Tracepoint,
        fact: "births of processes",
        without: Some("processes are looked up in /proc; short-lived ones may be missed"),
        every_run: true,
    }
    /// `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, `include/trace/events/sched.h`.
    SchedProcessExec = "sched_process_exec" {
        target: "sched_process_exec",
        attach: Attach::Tracepoint,
        fact: "programs and their arguments",
        without: Some("processes are looked up in /proc; short-lived ones may be missed"),
        every_run: true,
    }
    /// `TP_PROTO(struct task_struct *p)`, `include/trace/events/sched.h`.
    SchedProcessExit = "sched_process_exit" {
        target: "sched_process_exit",
        attach: Attach::Tracepoint,
        fact: "ends of processes",
        without: Some("ended processes are forgotten when their process id is reused"),
        every_run: true,
    }
    /// `int tcp_connect(struct sock *sk)`, `net/ipv4/tcp_output.c`.
    TcpConnect = "tcp_connect" {
        target: "tcp_connect",
        attach: Attach::FunctionEntry,
        fact: "TCP attempts, with their source port",
        without: Some("inet_sock_set_state; the source port is known with the answer"),
        every_run: true,
        announced_by: Some(setting::CONNECT_HOOK),
    }
    /// `struct bpf_sock_ops`, `include/uapi/linux/bpf.h`.
    Inherit = "inherit" {
        // For the title only: programs of this type have no target, the kernel calls them from this function.
        target: "tcp_call_bpf",
        attach: Attach::SockOps,
        fact: "the listener of each accepted connection",
        without: Some("the listener is found by address and port"),
        needed: Needed::WithoutStorage,
    }
    /// `struct sock *inet_csk_accept(…)`, `net/ipv4/inet_connection_sock.c`.
    InetCskAccept = "inet_csk_accept" {
        target: "inet_csk_accept",
        attach: Attach::FunctionExit,
        fact: "processes that accept connections",
        without: Some("getpeername, the first process to receive or send, open files"),
        sees_acceptor: true,
    }
    /// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`.
    Getpeername4 = "getpeername4" {
        target: "getpeername4",
        attach: Attach::CgroupAddress,
        fact: "processes that accept connections over IPv4 and ask for the peer's address",
        without: Some("the first process to receive or send, open files"),
        needed: Needed::Unless(Program::InetCskAccept),
        sees_acceptor: true,
    }
    /// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`.
    Getpeername6 = "getpeername6" {
        target: "getpeername6",
        attach: Attach::CgroupAddress,
        fact: "processes that accept connections over IPv6 and ask for the peer's address",
        without: Some("the first process to receive or send, open files"),
        needed: Needed::Unless(Program::InetCskAccept),
        sees_acceptor: true,
    }
    /// `TP_PROTO(struct sock *sk)`, `include/trace/events/tcp.h`.
    TcpRcvSpaceAdjust = "tcp_rcv_space_adjust" {
        target: "tcp_rcv_space_adjust",
        attach: Attach::Tracepoint,
        fact: "processes that receive on connections passed to them",
        without: Some("the process that accepted, open files"),
        sees_acceptor: true,
    }
    /// `TP_PROTO(struct sock *sk, int ret, int flags)`, `include/trace/events/sock.h` (from 6.3 on).
    SockSendLength = "sock_send_length" {
        target: "sock_send_length",
        attach: Attach::Tracepoint,
        fact: "processes that send datagrams, or on connections passed to them",
        without: Some("the process that accepted or receives, open files"),
    }
    /// `int __inet_stream_connect(struct socket *sock, …)`, `net/ipv4/af_inet.c`.
    InetStreamConnect = "inet_stream_connect" {
        target: "__inet_stream_connect",
        attach: Attach::FunctionExit,
        fact: "errors of attempts that send nothing",
        without: Some("the route is looked up again"),
    }
    /// `TP_PROTO(struct sock *sk)`, `include/trace/events/tcp.h`.
    TcpDestroySock = "tcp_destroy_sock" {
        target: "tcp_destroy_sock",
        attach: Attach::Tracepoint,
        fact: "ends of sockets whose attempts sent nothing",
        without: Some("such attempts are seen when the socket connects again"),
    }
    /// `struct bpf_iter__tcp`, `net/ipv4/tcp_ipv4.c`.
    DumpTcp = "dump_tcp" {
        target: "tcp",
        attach: Attach::Iterator,
        fact: "connections and listeners older than netconn",
        without: Some("they are seen with their next change of state"),
    }
    /// `struct bpf_iter__task_file`, `kernel/bpf/task_iter.c`.
    DumpFiles = "dump_files" {
        target: "task_file",
        attach: Attach::Iterator,
        fact: "processes of connections older than netconn",
        without: Some("their processes are unknown"),
    }
    /// `struct bpf_iter__task`, `kernel/bpf/task_iter.c`.
    DumpTasks = "dump_tasks" {
        target: "task",
        attach: Attach::Iterator,
        fact: "exact starts of processes older than netconn, and the files of their programs",
        without: Some("/proc tells starts in clock ticks and no files: such parents have no uid"),
    }
    /// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, `include/trace/events/sock.h`.
    InetSockSetState = "inet_sock_set_state" {
        target: "inet_sock_set_state",
        attach: Attach::Tracepoint,
        fact: "TCP connections and listeners: every change of state",
        without: None,
        every_run: true,
    }
    /// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`, `include/trace/events/sock.h`.
    InetSockSetStateNested = "inet_sock_set_state_nested" {
        target: "inet_sock_set_state",
        attach: Attach::Tracepoint,
        fact: "changes of state in an interrupt of the program above",
        without: Some("such changes are counted as lost, and the table is repaired"),
        // Not `every_run`: its runs are subtracted from the missed ones above, so a run that it misses counts there.
        remark: Some("nested"),
    }
    /// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`.
    Connect4 = "connect4" {
        target: "connect4",
        attach: Attach::CgroupAddress,
        fact: "attempts over IPv4, also those that send nothing (no route)",
        without: Some("attempts that send nothing are not seen"),
    }
    /// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`.
    Connect6 = "connect6" {
        target: "connect6",
        attach: Attach::CgroupAddress,
        fact: "attempts over IPv6, also those that send nothing (no route)",
        without: Some("attempts that send nothing are not seen"),
    }
    /// `struct bpf_sock`, `include/uapi/linux/bpf.h`.
    SockCreate = "sock_create" {
        target: "sock_create",
        attach: Attach::CgroupSocket,
        fact: "processes that create datagram sockets",
        without: Some("the process that binds, connects, sends or receives; raw sockets are not seen"),
        needed: Needed::Sockets,
    }
    /// `struct bpf_sock`, `include/uapi/linux/bpf.h`.
    PostBind4 = "post_bind4" {
        target: "post_bind4",
        attach: Attach::CgroupSocket,
        fact: "UDP sockets that are bound over IPv4",
        without: Some("they are seen in snapshots, or when they receive"),
        needed: Needed::Sockets,
    }
    /// `struct bpf_sock`, `include/uapi/linux/bpf.h`.
    PostBind6 = "post_bind6" {
        target: "post_bind6",
        attach: Attach::CgroupSocket,
        fact: "UDP sockets that are bound over IPv6",
        without: Some("they are seen in snapshots, or when they receive"),
        needed: Needed::Sockets,
    }
    /// `struct bpf_sock`, `include/uapi/linux/bpf.h`.
    SockRelease = "sock_release" {
        target: "sock_release",
        attach: Attach::CgroupSocket,
        fact: "ends of datagram sockets",
        without: Some("flows end when they are idle"),
        needed: Needed::Sockets,
    }
    /// `TP_PROTO(struct sock *sk, int ret, int flags)`, `include/trace/events/sock.h` (from 6.3 on).
    SockRecvLength = "sock_recv_length" {
        target: "sock_recv_length",
        attach: Attach::Tracepoint,
        fact: "processes that receive datagrams",
        without: Some("recvmsg"),
        needed: Needed::Sockets,
        announced_by: Some(setting::RECEIVE_HOOK),
    }
    /// `TP_PROTO(const struct sock *sk)`, `include/trace/events/sock.h` (from 5.14 on).
    InetSkErrorReport = "inet_sk_error_report" {
        target: "inet_sk_error_report",
        attach: Attach::Tracepoint,
        fact: "UDP peers that refuse datagrams, or cannot be reached",
        without: Some("such flows look like unanswered ones"),
        needed: Needed::Sockets,
    }
    /// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`.
    Sendmsg4 = "sendmsg4" {
        target: "sendmsg4",
        attach: Attach::CgroupAddress,
        fact: "processes that send datagrams over IPv4",
        without: Some("the process that created, bound or connected the socket"),
        // For this type of program the kernel locks the socket once more for each datagram; the tracepoint costs less.
        needed: Needed::SocketsUnless(Program::SockSendLength),
    }
    /// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`.
    Sendmsg6 = "sendmsg6" {
        target: "sendmsg6",
        attach: Attach::CgroupAddress,
        fact: "processes that send datagrams over IPv6",
        without: Some("the process that created, bound or connected the socket"),
        needed: Needed::SocketsUnless(Program::SockSendLength),
    }
    /// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`.
    Recvmsg4 = "recvmsg4" {
        target: "recvmsg4",
        attach: Attach::CgroupAddress,
        fact: "processes that receive datagrams over IPv4",
        without: Some("the process that created, bound or connected the socket"),
        needed: Needed::SocketsUnless(Program::SockRecvLength),
    }
    /// `struct bpf_sock_addr`, `include/uapi/linux/bpf.h`.
    Recvmsg6 = "recvmsg6" {
        target: "recvmsg6",
        attach: Attach::CgroupAddress,
        fact: "processes that receive datagrams over IPv6",
        without: Some("the process that created, bound or connected the socket"),
        needed: Needed::SocketsUnless(Program::SockRecvLength),
    }
    /// `struct bpf_iter__udp`, `net/ipv4/udp.c`.
    DumpUdp = "dump_udp" {
        target: "udp",
        attach: Attach::Iterator,
        fact: "UDP sockets older than netconn",
        without: Some("they are seen when they send or receive"),
        needed: Needed::Sockets,
    }
    /// `struct __sk_buff`, `include/uapi/linux/bpf.h`.
    Egress = "egress" {
        target: "egress",
        attach: Attach::CgroupEgress,
        fact: "datagrams sent: UDP, ICMP and raw sockets",
        without: Some("only received datagrams are counted"),
        needed: Needed::Flows,
    }
    /// `struct __sk_buff`, `include/uapi/linux/bpf.h`.
    Ingress = "ingress" {
        target: "ingress",
        attach: Attach::CgroupIngress,
        fact: "datagrams received: UDP, ICMP and raw sockets",
        without: Some("only sent datagrams are counted"),
        needed: Needed::Flows,
    }
}

/// All helpers that only some kernels offer.
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
        without: "a number made of the time and the CPU at its first event",
    },
    Helper {
        feature: feature::CURRENT_TASK,
        function: "bpf_get_current_task_btf",
        name: "bpf_get_current_task_btf",
        fact: "start and name of the current process",
        without: "bpf_probe_read_kernel",
    },
    Helper {
        feature: feature::SOCK_FROM_FILE,
        function: "bpf_sock_from_file",
        name: "bpf_sock_from_file",
        fact: "open files that are sockets",
        without: "sockets are found from files by bpf_probe_read_kernel",
    },
];

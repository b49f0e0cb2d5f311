//! The table of kernel structure members that the eBPF programs read.

/// Calls the macro `$with` with the table of kernel structure members that are read, as
/// `NAME = ["structure" "path.of.members", …]; …`.
///
/// The eBPF crate makes a read-only global `u32` of every name. The daemon looks the paths up in the BTF of the running
/// kernel, in order, and sets the global to the first offset it finds, in bytes from the start of the structure, or to
/// [`MISSING`](crate::MISSING).
#[macro_export]
macro_rules! kernel_members {
    ($with:ident) => {
        $with! {
            SOCK_FAMILY = ["sock" "__sk_common.skc_family"];
            SOCK_STATE = ["sock" "__sk_common.skc_state"];
            // Host byte order; 0 again once the port is given back: `INET_SOURCE_PORT` still has it then.
            SOCK_LOCAL_PORT = ["sock" "__sk_common.skc_num"];
            SOCK_REMOTE_PORT = ["sock" "__sk_common.skc_dport"];
            SOCK_LOCAL_V4 = ["sock" "__sk_common.skc_rcv_saddr"];
            SOCK_REMOTE_V4 = ["sock" "__sk_common.skc_daddr"];
            // Missing in kernels without IPv6.
            SOCK_LOCAL_V6 = ["sock" "__sk_common.skc_v6_rcv_saddr"];
            SOCK_REMOTE_V6 = ["sock" "__sk_common.skc_v6_daddr"];
            SOCK_NET = ["sock" "__sk_common.skc_net.net"];
            SOCK_PROTOCOL = ["sock" "sk_protocol"];
            SOCK_ERROR = ["sock" "sk_err"];
            SOCK_SOFT_ERROR = ["sock" "sk_err_soft"];
            // The first buffer of the queue, and what its control block says of an ICMP error (`SKB_EXT_ERR`).
            SOCK_ERROR_QUEUE = ["sock" "sk_error_queue.next"];
            BUFFER_CONTROL = ["sk_buff" "cb"];
            EXTENDED_ERROR = ["sock_exterr_skb" "ee.ee_errno"];
            SOCK_FLAGS = ["sock" "__sk_common.skc_flags"];
            SOCK_LOCK_OWNED = ["sock" "sk_lock.owned"];
            SOCK_MARK = ["sock" "sk_mark"];
            // Read directly only where there is no helper for it (before 5.12).
            SOCK_COOKIE = ["sock" "__sk_common.skc_cookie.counter"];
            SOCK_DEVICE = ["sock" "__sk_common.skc_bound_dev_if"];
            // Missing in kernels without MPTCP, as are the members of its structures.
            TCP_IS_MPTCP = ["tcp_sock" "is_mptcp"];
            CONNECTION_PROTOCOL_DATA = ["inet_connection_sock" "icsk_ulp_data"];
            SUBFLOW_CONNECTION = ["mptcp_subflow_context" "conn"];
            MPTCP_FIRST = ["mptcp_sock" "first"];
            TIME_WAIT_STATE = ["inet_timewait_sock" "tw_substate"];
            FILE_PRIVATE = ["file" "private_data"];
            SOCKET_FILE = ["socket" "file"];
            FILE_INODE = ["file" "f_inode"];
            INODE_NUMBER = ["inode" "i_ino"];
            INODE_SUPER = ["inode" "i_sb"];
            SUPER_DEVICE = ["super_block" "s_dev"];
            XDP_DEVICE = ["xdp_sock" "dev"];
            DEVICE_INDEX = ["net_device" "ifindex"];
            NET_INODE = ["net" "ns.inum"];
            INET_SOURCE_PORT = ["inet_sock" "inet_sport"];
            TCP_BYTES_SENT = ["tcp_sock" "bytes_sent"];
            TCP_BYTES_RETRANSMITTED = ["tcp_sock" "bytes_retrans"];
            TCP_BYTES_RECEIVED = ["tcp_sock" "bytes_received"];
            TCP_SEGMENTS_SENT = ["tcp_sock" "segs_out"];
            TCP_SEGMENTS_RECEIVED = ["tcp_sock" "segs_in"];
            TCP_SMOOTHED_RTT = ["tcp_sock" "srtt_us"];
            TCP_RETRANSMITS = ["tcp_sock" "total_retrans"];
            TASK_TGID = ["task_struct" "tgid"];
            TASK_PID = ["task_struct" "pid"];
            TASK_LEADER = ["task_struct" "group_leader"];
            TASK_PARENT = ["task_struct" "real_parent"];
            // The second is the name before 5.5.
            TASK_START = ["task_struct" "start_boottime", "task_struct" "real_start_time"];
            TASK_COMM = ["task_struct" "comm"];
            TASK_MEMORY = ["task_struct" "mm"];
            TASK_SIGNAL = ["task_struct" "signal"];
            SIGNAL_LIVE = ["signal_struct" "live.counter"];
            MEMORY_ARGUMENTS_START = ["mm_struct" "arg_start"];
            MEMORY_ARGUMENTS_END = ["mm_struct" "arg_end"];
            MEMORY_PROGRAM = ["mm_struct" "exe_file"];
            BINPRM_FILE = ["linux_binprm" "file"];
            // From a file to its path, as `path.rs` of the programs walks it: `bpf_d_path` is closed to them.
            FILE_MOUNT = ["file" "f_path.mnt"];
            FILE_DENTRY = ["file" "f_path.dentry"];
            DENTRY_PARENT = ["dentry" "d_parent"];
            DENTRY_NAME = ["dentry" "d_name.name"];
            DENTRY_HASHED = ["dentry" "d_hash.pprev"];
            MOUNT_VFSMOUNT = ["mount" "mnt"];
            MOUNT_PARENT = ["mount" "mnt_parent"];
            MOUNT_MOUNTPOINT = ["mount" "mnt_mountpoint"];
            MOUNT_NAMESPACE = ["mount" "mnt_ns"];
            MOUNT_NAMESPACE_INODE = ["mnt_namespace" "ns.inum"];
            VFSMOUNT_ROOT = ["vfsmount" "mnt_root"];
            CGROUP_NODE = ["cgroup" "kn"];
            CGROUP_ROOT = ["cgroup" "root"];
            // 0 in the hierarchy of cgroup v2.
            CGROUP_ROOT_HIERARCHY = ["cgroup_root" "hierarchy_id"];
            NODE_ID = ["kernfs_node" "id"];
            SOCKET_SOCK = ["socket" "sk"];
            TASK_CREDENTIALS = ["task_struct" "cred"];
            CREDENTIALS_UID = ["cred" "uid.val"];
            TASK_CGROUPS = ["task_struct" "cgroups"];
            CGROUPS_DEFAULT = ["css_set" "dfl_cgrp"];
        }
    };
}

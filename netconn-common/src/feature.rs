//! Names of the read-only globals that tell the programs what the running kernel allows: 1 if it does, else 0.

/// `bpf_get_current_task_btf` gives the current task as a typed pointer (from 5.11 on).
pub const CURRENT_TASK: &str = "HAS_CURRENT_TASK";
/// Tracing programs can use socket storage (`bpf_sk_storage_get_tracing`, from 5.11 on). [`NO_MEMORY`]: they could, but
/// every allocation fails, to test what happens then.
pub const SOCKET_STORAGE: &str = "HAS_SOCKET_STORAGE";
/// Tracing programs can read socket cookies (`bpf_get_socket_ptr_cookie`, from 5.12 on).
pub const SOCKET_COOKIE: &str = "HAS_SOCKET_COOKIE";
/// Number of parameters of `inet_csk_accept`: its return value stands behind them.
pub const ACCEPT_PARAMETERS: &str = "ACCEPT_PARAMETERS";
/// `bpf_sock_from_file` leads from a file to its socket (from 5.11 on).
pub const SOCK_FROM_FILE: &str = "HAS_SOCK_FROM_FILE";
/// `bpf_probe_read_kernel` and its like are allowed: not under lockdown=confidentiality. The kernel then forbids only the
/// reading of its own memory, but aya 0.14 replaces `bpf_probe_read_user` as well, by an older helper that reads both
/// (`sanitize_functions` in aya-obj).
pub const PROBE_READ: &str = "HAS_PROBE_READ";

/// Value of [`SOCKET_STORAGE`].
pub const NO_MEMORY: u32 = 2;

//! The maps that the programs share with the daemon, and scratch space that is too large for a stack of 512 bytes.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use netconn_common::{
    CgroupRecord, DatagramSocketState, ExecRecord, Flow, FlowKey, Nesting, Owner, TcpRecord, TcpSocketState,
    Unreported, exec, kind,
};

/// Records about sockets. The daemon sets the size.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Records about processes and cgroups. 5,000 births and ends, or 100 programs with the longest arguments.
#[map]
pub static PROCESSES: RingBuf = RingBuf::with_byte_size(512 << 10, 0);

/// Lives of sockets of which no record was received.
#[map]
pub static UNREPORTED: PerCpuArray<Unreported> = PerCpuArray::with_max_entries(1, 0);

/// Records that found the ring full, by kind.
#[map]
pub static LOST: PerCpuArray<[u64; kind::COUNT as usize]> = PerCpuArray::with_max_entries(1, 0);

/// Bits of `netconn_common::setting`.
#[map]
pub static SETTINGS: Array<u32> = Array::with_max_entries(1, 0);

/// The state of each socket where socket storage cannot be used: by the socket's address.
#[map]
pub static SOCKETS_BY_ADDRESS: HashMap<u64, TcpSocketState> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Stand-ins for the state of a socket for which there is no memory, one for each program that another may interrupt: see
/// [`spare`].
#[map]
pub static SPARE: PerCpuArray<TcpSocketState> = PerCpuArray::with_max_entries(spare::COUNT, 0);

/// Owners of MPTCP connections, by the address of their socket.
#[map]
pub static MPTCP_OWNERS: HashMap<u64, Owner> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Start, by process id, of ended processes that own sockets which others still have open. The daemon fills it.
#[map]
pub static ENDED: HashMap<u32, u64> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Whether `inet_sock_set_state` runs on this CPU.
#[map]
pub static NESTING: PerCpuArray<Nesting> = PerCpuArray::with_max_entries(1, 0);

/// A record of `iter/tcp` under construction.
#[map]
pub static DUMP: PerCpuArray<TcpRecord> = PerCpuArray::with_max_entries(1, 0);

/// An [`ExecRecord`] under construction, with the bytes that follow it.
#[map]
pub static EXEC: PerCpuArray<ExecScratch> = PerCpuArray::with_max_entries(1, 0);

/// A [`CgroupRecord`] under construction, with its path.
#[map]
pub static CGROUP: PerCpuArray<CgroupScratch> = PerCpuArray::with_max_entries(1, 0);

/// Room for the bytes behind an [`ExecRecord`]: writes of bounded size at a bounded offset always fit.
pub const EXEC_DATA: usize = exec::PATH_MAX + exec::COMPONENT_MAX + exec::ARGUMENTS_MAX;

/// See [`EXEC`].
#[repr(C)]
pub struct ExecScratch {
    /// The fixed part.
    pub record: ExecRecord,
    /// Path components, then arguments.
    pub data: [u8; EXEC_DATA],
}

/// Longest path of a cgroup in bytes, its NUL included.
pub const CGROUP_PATH_MAX: usize = 1024;

/// See [`CGROUP`].
#[repr(C)]
pub struct CgroupScratch {
    /// The fixed part.
    pub record: CgroupRecord,
    /// The path.
    pub path: [u8; CGROUP_PATH_MAX],
}

/// Indexes into [`SPARE`].
pub mod spare {
    /// `inet_sock_set_state`.
    pub const STATE: u32 = 0;
    /// `inet_sock_set_state_nested`, which interrupts the former.
    pub const NESTED: u32 = 1;
    /// `tcp_connect`, which both interrupt.
    pub const CONNECT: u32 = 2;
    /// The iterator over sockets, which all of these interrupt.
    pub const DUMP_SOCKETS: u32 = 3;
    /// The iterator over files, which may be read at the same time.
    pub const DUMP_FILES: u32 = 4;
    /// Number of indexes.
    pub const COUNT: u32 = 5;
}

const CLONED: usize = (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize;

/// All flows. The daemon sets the size. Entries are allocated when they are needed, so that room for many costs nothing.
#[map]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// The folded flow of each socket that has more flows than there is room for, by socket cookie.
#[map]
pub static FOLDED: HashMap<u64, Flow> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// A BTF map definition of socket storage that an accepted socket inherits from its listener (`BPF_F_CLONE`); aya-ebpf
/// 0.2 has it only without that flag. The lengths of the arrays are the values, as in libbpf's `__uint`.
#[repr(C)]
pub struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: the definition is never read at run time; the loader replaces references to it by the map.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SocketStorage<T, FLAGS> {
    const fn new() -> Self {
        let nothing = ptr::null();
        Self { r#type: ptr::null(), key: ptr::null(), value: ptr::null(), max_entries: nothing, map_flags: ptr::null() }
    }
}

/// The state of each TCP socket.
#[btf_map]
pub static SOCKETS: SocketStorage<TcpSocketState, CLONED> = SocketStorage::new();

/// The state of each datagram socket.
#[btf_map]
pub static DATAGRAM_SOCKETS: SocketStorage<DatagramSocketState, { BPF_F_NO_PREALLOC as usize }> = SocketStorage::new();

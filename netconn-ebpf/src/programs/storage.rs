//! The state that is kept with each socket, and the number that identifies a socket.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    Global,
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::generated::{bpf_get_smp_processor_id, bpf_get_socket_cookie, bpf_sk_storage_get},
};
use netconn_common::{DatagramSocketState, SocketState, TcpSocketState, UNKNOWN_U32, feature};

use crate::programs::{
    emit,
    kernel::{
        HAS_PROBE_READ, HAS_SOCKET_COOKIE, HAS_SOCKET_STORAGE, NET_INODE, SOCK_DEVICE, SOCK_NET, has, probe,
        probe_member,
    },
    maps::{DATAGRAM_SOCKETS, SOCKETS, SOCKETS_BY_ADDRESS, SPARE},
    sock::Sock,
};

/// Lives in .rodata: a copy on the stack would take a quarter of it.
static UNKNOWN: TcpSocketState = TcpSocketState::UNKNOWN;

impl Sock {
    /// Returns what is kept with this TCP socket; null if there is nothing.
    #[inline(always)]
    pub fn state(self) -> *mut TcpSocketState {
        if has(&HAS_SOCKET_STORAGE) {
            tcp_storage(self.as_ptr(), false)
        } else {
            SOCKETS_BY_ADDRESS.get_ptr_mut(self.address()).unwrap_or(ptr::null_mut())
        }
    }

    /// Returns what is kept with this TCP socket, created if there is nothing; null if there is no room for it.
    #[inline(always)]
    pub fn state_or_new(self) -> *mut TcpSocketState {
        if has(&HAS_SOCKET_STORAGE) {
            return tcp_storage(self.as_ptr(), true);
        }
        let key = self.address();
        if let Some(state) = SOCKETS_BY_ADDRESS.get_ptr_mut(key) {
            return state;
        }
        // An error means that the table is full; the look-up below then returns null.
        let _ = SOCKETS_BY_ADDRESS.insert(key, UNKNOWN, 0);
        SOCKETS_BY_ADDRESS.get_ptr_mut(key).unwrap_or(ptr::null_mut())
    }

    /// Forgets the state of a socket that has ended. Socket storage does that by itself when the socket is freed, and
    /// must keep it until then: the same socket may be connected again.
    #[inline(always)]
    pub fn forget(self) {
        if !has(&HAS_SOCKET_STORAGE) {
            // An error means that nothing was kept.
            let _ = SOCKETS_BY_ADDRESS.remove(self.address());
        }
    }

    /// Returns what is kept with this datagram socket; null where tracing programs cannot use socket storage.
    #[inline(always)]
    pub fn datagram_state(self, creates: bool) -> *mut DatagramSocketState {
        if !has(&HAS_SOCKET_STORAGE) {
            return ptr::null_mut();
        }
        datagram_storage(self.as_ptr(), creates)
    }

    /// Returns a number that no other socket of this boot has: the socket's cookie, or one that is kept in its state.
    #[inline(always)]
    pub fn number(self, state: &mut SocketState) -> u64 {
        if has(&HAS_SOCKET_COOKIE) { self.cookie() } else { made_up(state) }
    }

    /// As [`Self::number`], in a program on cgroups, which must ask for the cookie by its context.
    #[inline(always)]
    pub fn number_in_cgroup(self, context: *mut c_void, state: &mut SocketState) -> u64 {
        if has(&HAS_SOCKET_COOKIE) { cgroup_cookie(context) } else { made_up(state) }
    }

    /// Returns the number, if the socket has one.
    #[inline(always)]
    pub fn known_number(self) -> Option<u64> {
        if has(&HAS_SOCKET_COOKIE) {
            return Some(self.cookie());
        }
        let kept = self.state();
        // SAFETY: not null.
        let number = if kept.is_null() { 0 } else { unsafe { (*kept).state.number } };
        (number != 0).then_some(number)
    }
}

/// Returns the cookie of the socket that the context of a program on cgroups stands for.
#[inline(always)]
pub fn cgroup_cookie(context: *mut c_void) -> u64 {
    // SAFETY: the helper takes the context of programs on cgroups.
    unsafe { bpf_get_socket_cookie(context) }
}

/// Returns the number of a socket where cookies cannot be read, and makes it up first if it has none.
#[inline(always)]
pub fn made_up(state: &mut SocketState) -> u64 {
    if state.number == 0 {
        // Two CPUs may see the same nanosecond, one CPU does not. The shifted time lasts for two years of uptime.
        // SAFETY: the helper has no preconditions.
        state.number = emit::now() << 8 | u64::from(unsafe { bpf_get_smp_processor_id() } & 255);
    }
    state.number
}

/// Returns this CPU's own stand-in number `index` for the state of a socket, as one of which nothing is known; never null.
#[inline(always)]
pub fn spare(index: u32) -> *mut TcpSocketState {
    let Some(kept) = SPARE.get_ptr_mut(index) else { return ptr::null_mut() };
    // SAFETY: not null, and this CPU's own.
    unsafe { *kept = TcpSocketState::default() };
    kept
}

/// Returns the storage of a full TCP socket, or null. `socket` is a typed pointer.
#[inline(always)]
pub fn tcp_storage(socket: *mut c_void, creates: bool) -> *mut TcpSocketState {
    get_storage((&raw const SOCKETS).cast_mut().cast(), socket, creates).cast()
}

/// Returns the storage of a datagram socket, or null. `socket` is a typed pointer or, in a program on cgroups, the context.
#[inline(always)]
pub fn datagram_storage(socket: *mut c_void, creates: bool) -> *mut DatagramSocketState {
    get_storage((&raw const DATAGRAM_SOCKETS).cast_mut().cast(), socket, creates).cast()
}

/// Returns the value of a map of socket storage, or null.
#[inline(always)]
fn get_storage(map: *mut c_void, socket: *mut c_void, creates: bool) -> *mut c_void {
    if HAS_SOCKET_STORAGE.load() == feature::NO_MEMORY {
        return ptr::null_mut();
    }
    let flags = if creates { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    // SAFETY: the verifier refuses a program whose pointer is no socket. The helper returns null or a value of the map.
    unsafe { bpf_sk_storage_get(map, socket, ptr::null_mut(), flags).cast() }
}

/// Returns the inode of a socket's network namespace, in programs on cgroups.
#[inline(always)]
pub fn cgroup_namespace(socket: *mut c_void) -> u32 {
    let net = cgroup_word(socket, &SOCK_NET).map(|(word, _)| word);
    net.and_then(|net| probe_member::<u32>(net, &NET_INODE)).unwrap_or(UNKNOWN_U32)
}

/// Returns the index of the network device that a socket is bound to, in programs on cgroups; 0: none, or it cannot be read.
#[inline(always)]
pub fn cgroup_device(socket: *mut c_void) -> u32 {
    cgroup_word(socket, &SOCK_DEVICE).map_or(0, |(word, shift)| (word >> shift) as u32)
}

/// Returns the word of a socket's beginning in which a member lies, and the bits before the member in it. The verifier does not
/// let programs on cgroups read the members of a socket, nor add to a pointer to it: its beginning is read as a whole.
#[inline(always)]
fn cgroup_word(socket: *mut c_void, member: &Global<u32>) -> Option<(u64, u32)> {
    const WORDS: usize = 8;
    if !has(&HAS_PROBE_READ) {
        return None;
    }
    let offset = member.load() as usize;
    let word = offset / size_of::<u64>();
    let head = probe::<[u64; WORDS]>(socket as u64)?;
    (word < WORDS).then(|| (head[word], (offset % size_of::<u64>() * 8) as u32))
}

//! All writes to the ring buffers, and the counts of what did not fit.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_RING_SIZE},
    helpers::generated::{
        bpf_ktime_get_boot_ns, bpf_ringbuf_output, bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit,
    },
};
use netconn_common::{Header, OwnerRecord, SocketState, kind};

use crate::programs::maps::{LOST, PROCESSES, RECORDS, UNREPORTED};

/// Returns the header of a record.
#[inline(always)]
pub fn header(kind: u32, time_ns: u64) -> Header {
    Header { time_ns, kind, reserved: 0 }
}

/// Returns the nanoseconds since boot, suspend included.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Returns the header of a record about a process, with the time. To be called before the record is reserved: an interrupt
/// between the two would make it later than records of sockets that are written after those behind it, and the daemon, which
/// goes by time, would take a connection for one of the program before.
#[inline(always)]
pub fn process_header(kind: u32) -> Header {
    header(kind, now())
}

/// Reserves a record of fixed size, lets `fill` write it and submits it. Returns whether there was room for it; if not, it
/// is counted under `kind`.
///
/// `fill` must write every byte.
#[inline(always)]
pub fn record<T>(kind: u32, fill: impl FnOnce(*mut T)) -> bool {
    // SAFETY: the pointer is checked before use; the kernel gives `size_of::<T>()` bytes, aligned to 8.
    unsafe {
        let slot = bpf_ringbuf_reserve(ring(kind), size_of::<T>() as u64, 0);
        if slot.is_null() {
            lost(kind);
            return false;
        }
        fill(slot.cast());
        bpf_ringbuf_submit(slot, 0);
    }
    true
}

/// As [`record`], for records that a flood of datagrams can cause: half of the ring is reserved for TCP. The daemon finds in
/// the kernel's tables what is lost here, if it is still there.
#[inline(always)]
pub fn datagram_record<T>(kind: u32, fill: impl FnOnce(*mut T)) -> bool {
    let ring = ring(kind);
    // SAFETY: the helper takes a ring.
    let (waiting, size) = unsafe {
        (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA.into()), bpf_ringbuf_query(ring, BPF_RB_RING_SIZE.into()))
    };
    if waiting < size / 2 {
        return record(kind, fill);
    }
    // Whatever the kind, the same dump makes up for it.
    lost(kind::FLOW);
    false
}

/// Reports the owner in the state of a TCP socket.
#[inline(always)]
pub fn owner(socket: u64, state: &SocketState) {
    record(kind::OWNER, |record: *mut OwnerRecord| {
        let owner = OwnerRecord {
            header: header(kind::OWNER, now()),
            socket,
            owner: state.owner,
            generation: state.generation,
            reserved: 0,
        };
        // SAFETY: the ring gave room for one record.
        unsafe { record.write(owner) };
    });
}

/// Copies a record of `length` bytes into its ring.
///
/// # Safety
///
/// `data` must be readable for `length` bytes and the verifier must see that.
#[inline(always)]
pub unsafe fn bytes(kind: u32, data: *const u8, length: usize) {
    // SAFETY: the caller's contract.
    let result = unsafe { bpf_ringbuf_output(ring(kind), data.cast_mut().cast(), length as u64, 0) };
    if result != 0 {
        lost(kind);
    }
}

/// Returns the ring of a kind of record.
#[inline(always)]
fn ring(kind: u32) -> *mut core::ffi::c_void {
    match kind {
        kind::EXEC | kind::FORK | kind::EXIT | kind::CGROUP => (&raw const PROCESSES).cast_mut().cast(),
        _ => (&raw const RECORDS).cast_mut().cast(),
    }
}

/// Counts a life of a socket that is over and of which no record was received; `was_up`: it was more than an attempt.
#[inline(always)]
pub fn unreported(role: u32, was_up: bool) {
    if let Some(counters) = UNREPORTED.get_ptr_mut(0) {
        // SAFETY: the map gives a valid pointer to this CPU's table, and the indexes are within it.
        unsafe { add_one(&raw mut (*counters)[(role & 3) as usize][usize::from(was_up)]) };
    }
}

/// Counts a record that found its ring full.
#[inline(always)]
pub fn lost(kind: u32) {
    if let Some(counters) = LOST.get_ptr_mut(0) {
        // SAFETY: the map gives a valid pointer to this CPU's table, and the index is within it.
        unsafe { add_one(&raw mut (*counters)[(kind % kind::COUNT) as usize]) };
    }
}

/// Adds one, see [`add`].
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
unsafe fn add_one(counter: *mut u64) {
    // SAFETY: the caller's contract.
    unsafe { add(counter, 1) };
}

/// Adds to a counter, atomically because an interrupt may run one of our programs in the middle of another. `core` has no
/// atomic addition for this target.
///
/// # Safety
///
/// The counter must be in a map's value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller's contract.
    unsafe { core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) value) };
}

//! All writes to the ring buffer, and the count of what did not fit.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_RING_SIZE},
    helpers::generated::{
        bpf_ktime_get_boot_ns, bpf_ringbuf_output, bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit,
    },
};
use netconn_common::{Header, OwnerRecord, SocketState, kind};

use crate::maps::{LOST, PROCESSES, RECORDS, UNREPORTED};

/// The beginning of a record of this kind, now.
#[inline(always)]
pub fn header(kind: u32, time_ns: u64) -> Header {
    Header { time_ns, kind, reserved: 0 }
}

/// Nanoseconds since boot, suspend counted in.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Reserves a record of fixed size, has it filled and submits it. What finds no room is counted under `kind`; whether it
/// found some.
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

/// The same of what a flood of datagrams may make many of: half of the ring is TCP's alone. What is counted as lost here the
/// daemon finds in the kernel's tables.
#[inline(always)]
pub fn record_of_datagrams<T>(kind: u32, fill: impl FnOnce(*mut T)) {
    let ring = ring(kind);
    // SAFETY: the helper takes a ring.
    let (waiting, size) = unsafe {
        (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA.into()), bpf_ringbuf_query(ring, BPF_RB_RING_SIZE.into()))
    };
    if waiting < size / 2 {
        record(kind, fill);
    } else {
        // Of whatever kind, the same makes up for it.
        lost(kind::FLOW);
    }
}

/// Tells that a socket has the owner that its state names now.
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

/// Copies `length` bytes into the ring.
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

#[inline(always)]
fn ring(kind: u32) -> *mut core::ffi::c_void {
    match kind {
        kind::EXEC | kind::FORK | kind::EXIT | kind::CGROUP => (&raw const PROCESSES).cast_mut().cast(),
        _ => (&raw const RECORDS).cast_mut().cast(),
    }
}

/// A life of a socket is over of which nothing was told; `was_up`: it was more than an attempt.
#[inline(always)]
pub fn untold(role: u32, was_up: bool) {
    if let Some(counters) = UNREPORTED.get_ptr_mut(0) {
        // SAFETY: as in `lost`.
        unsafe { add_one(&raw mut (*counters)[(role & 3) as usize][usize::from(was_up)]) };
    }
}

/// Counts a record that could not be told.
#[inline(always)]
pub fn lost(kind: u32) {
    if let Some(counters) = LOST.get_ptr_mut(0) {
        // SAFETY: the map gives a valid pointer to this CPU's table, and the index is within it.
        unsafe { add_one(&raw mut (*counters)[(kind % kind::COUNT) as usize]) };
    }
}

/// As [`add`].
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
unsafe fn add_one(counter: *mut u64) {
    // SAFETY: the caller's contract.
    unsafe { add(counter, 1) };
}

/// Atomic because an interrupt may run a program of ours in the middle of another; `core` has no atomic addition for this
/// target.
///
/// # Safety
///
/// The counter must be in a map's value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller's contract.
    unsafe { core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) value) };
}

//! Reading kernel memory: the offsets of the running kernel, and loads that use them.
//!
//! The offsets are read-only globals that the daemon fills in before loading. The verifier knows their values, so a
//! load at `pointer + offset` keeps the pointer's type and becomes one instruction, and the code behind a missing
//! member or feature is dropped.

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
use netconn_common::MISSING;

macro_rules! globals {
    ($($name:ident = [$($structure:literal $path:literal),+];)+) => {
        $(
            #[doc = concat!("Offset of ", $("`", $structure, ".", $path, "` ",)+ "in bytes.")]
            #[unsafe(no_mangle)]
            pub static $name: Global<u32> = Global::new(MISSING);
        )+
    };
}
netconn_common::kernel_members!(globals);

/// Whether socket storage can be used by tracing programs.
#[unsafe(no_mangle)]
pub static HAS_SOCKET_STORAGE: Global<u32> = Global::new(0);
/// Whether socket cookies can be read by tracing programs.
#[unsafe(no_mangle)]
pub static HAS_SOCKET_COOKIE: Global<u32> = Global::new(0);
/// Whether the current task can be had as a typed pointer.
#[unsafe(no_mangle)]
pub static HAS_CURRENT_TASK: Global<u32> = Global::new(0);
/// Parameters of `inet_csk_accept`.
#[unsafe(no_mangle)]
pub static ACCEPT_PARAMETERS: Global<u32> = Global::new(0);
/// Whether a file's socket can be had.
#[unsafe(no_mangle)]
pub static HAS_SOCK_FROM_FILE: Global<u32> = Global::new(0);
/// Whether memory of the kernel and of processes can be read through untyped pointers.
#[unsafe(no_mangle)]
pub static HAS_PROBE_READ: Global<u32> = Global::new(0);

/// Flows of one socket that may begin within a second.
#[unsafe(no_mangle)]
pub static FLOWS_PER_SOCKET: Global<u32> = Global::new(0);

/// Whether a feature global is set.
#[inline(always)]
pub fn has(feature: &Global<u32>) -> bool {
    feature.load() != 0
}

/// Loads the member at `offset` behind a typed kernel pointer, or gives `missing` if the kernel has no such member.
///
/// # Safety
///
/// `base` must be a pointer whose type the verifier knows and that type must have a member `T` at `offset`; the
/// verifier refuses the program otherwise. A null or stale pointer reads as zeros.
#[inline(always)]
pub unsafe fn member<T: Copy>(base: *const u8, offset: &Global<u32>, missing: T) -> T {
    let offset = offset.load();
    if offset == MISSING {
        return missing;
    }
    // SAFETY: the caller's contract; the kernel handles the fault of a bad address.
    unsafe { *base.add(offset as usize).cast::<T>() }
}

/// Follows the pointer at `offset` behind a typed kernel pointer; null if the kernel has no such member.
///
/// # Safety
///
/// As for [`member`].
#[inline(always)]
pub unsafe fn follow(base: *const u8, offset: &Global<u32>) -> *const u8 {
    // SAFETY: the caller's contract.
    unsafe { member(base, offset, core::ptr::null()) }
}

/// Loads `$type` at `$offset` bytes, a constant, of a program's context. By instruction, because a compiler may add the
/// offset to the pointer first, which the verifier forbids for contexts.
macro_rules! context {
    ($pointer:expr, $type:literal, $offset:expr) => {{
        let value: u64;
        core::arch::asm!(
            concat!("{0} = *(", $type, " *)({1} + {2})"),
            out(reg) value,
            in(reg) $pointer,
            const $offset,
        );
        value
    }};
}
pub(crate) use context;

/// Reads a `T` at a kernel address that has no type for the verifier; `None` if it cannot be read.
#[inline(always)]
pub fn probe<T: Copy>(address: u64) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes `size_of::<T>()` bytes to `value` or zeroes them and returns an error.
    unsafe {
        let result = bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
        (result == 0).then(|| value.assume_init())
    }
}

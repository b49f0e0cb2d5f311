//! Reading kernel memory: the offsets of the running kernel, and loads that use them.
//!
//! The offsets are read-only globals that the daemon fills in before loading. The verifier knows their values, so a
//! load at `pointer + offset` keeps the pointer's type and becomes one instruction, and the code behind a missing
//! member or feature is dropped.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
use bytemuck::AnyBitPattern;
use netconn_common::{Address, MISSING, address};

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

/// See `netconn_common::feature::SOCKET_STORAGE`.
#[unsafe(no_mangle)]
pub static HAS_SOCKET_STORAGE: Global<u32> = Global::new(0);
/// See `netconn_common::feature::SOCKET_COOKIE`.
#[unsafe(no_mangle)]
pub static HAS_SOCKET_COOKIE: Global<u32> = Global::new(0);
/// See `netconn_common::feature::CURRENT_TASK`.
#[unsafe(no_mangle)]
pub static HAS_CURRENT_TASK: Global<u32> = Global::new(0);
/// See `netconn_common::feature::ACCEPT_PARAMETERS`.
#[unsafe(no_mangle)]
pub static ACCEPT_PARAMETERS: Global<u32> = Global::new(0);
/// See `netconn_common::feature::SOCK_FROM_FILE`.
#[unsafe(no_mangle)]
pub static HAS_SOCK_FROM_FILE: Global<u32> = Global::new(0);
/// See `netconn_common::feature::PROBE_READ`.
#[unsafe(no_mangle)]
pub static HAS_PROBE_READ: Global<u32> = Global::new(0);

/// See `netconn_common::FLOWS_PER_SOCKET`.
#[unsafe(no_mangle)]
pub static FLOWS_PER_SOCKET: Global<u32> = Global::new(0);

/// Returns whether a feature global is set.
#[inline(always)]
pub fn has(feature: &Global<u32>) -> bool {
    feature.load() != 0
}

/// A pointer into kernel memory whose type the verifier knows, or null.
///
/// Its loads are safe to call: the verifier refuses the program unless the type has a member of that size at that offset,
/// and the kernel handles the fault of a bad address, so that a null or stale pointer reads as zeros.
#[derive(Clone, Copy)]
pub struct Typed(*const u8);

impl Typed {
    /// Takes an argument of a program, or what a helper returned.
    #[inline(always)]
    pub fn new<T>(pointer: *const T) -> Self {
        Self(pointer.cast())
    }

    /// Loads a member; `missing` if the kernel has no such member.
    #[inline(always)]
    pub fn member<T: AnyBitPattern>(self, offset: &Global<u32>, missing: T) -> T {
        self.load(offset, missing)
    }

    /// Loads a member of a structure that lies in a member of this one, an array of bytes; both members must exist.
    #[inline(always)]
    pub fn control<T: AnyBitPattern>(self, array: &Global<u32>, within: &Global<u32>) -> T {
        // SAFETY: as in `load`. The verifier lets any part of an array of bytes be read (`btf_struct_walk` in kernel/bpf/btf.c).
        unsafe { *self.0.add(array.load() as usize + within.load() as usize).cast::<T>() }
    }

    /// Follows a member that is a pointer; null if the kernel has no such member.
    #[inline(always)]
    pub fn follow(self, offset: &Global<u32>) -> Self {
        Self(self.load(offset, core::ptr::null()))
    }

    #[inline(always)]
    fn load<T: Copy>(self, offset: &Global<u32>, missing: T) -> T {
        let offset = offset.load();
        if offset == MISSING {
            return missing;
        }
        // SAFETY: the verifier proves that there is a member of this size, and the kernel handles faults. `T` is plain data
        // or a pointer that only goes into another `Typed`.
        unsafe { *self.0.add(offset as usize).cast::<T>() }
    }

    /// Whether this is null.
    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Returns the pointer, for helpers.
    #[inline(always)]
    pub fn as_ptr<T>(self) -> *mut T {
        self.0.cast_mut().cast()
    }

    /// Returns the address as a number.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }
}

/// Makes methods that load one member each of the [`Typed`] in `self.0`: `name: type = MEMBER or missing;`.
macro_rules! accessors {
    ($($(#[$doc:meta])+ $name:ident: $type:ty = $member:ident or $missing:expr;)+) => {
        $(
            $(#[$doc])+
            #[inline(always)]
            pub fn $name(self) -> $type {
                self.0.member(&$crate::programs::kernel::$member, $missing)
            }
        )+
    };
}
pub(crate) use accessors;

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

/// Loads the IPv4 address at `OFFSET` bytes of a program's context.
///
/// # Safety
///
/// The program must be of a type that may read this member of its context.
#[inline(always)]
pub unsafe fn context_v4<const OFFSET: usize>(pointer: *const c_void) -> Address {
    // SAFETY: the caller's contract.
    address::of_v4(unsafe { context!(pointer, "u32", OFFSET) } as u32)
}

/// Loads the IPv6 address at `OFFSET` bytes of a program's context, by words: longer loads are refused there.
///
/// # Safety
///
/// As for [`context_v4`].
#[inline(always)]
pub unsafe fn context_v6<const OFFSET: usize>(pointer: *const c_void) -> Address {
    // SAFETY: the caller's contract.
    address::of_words(unsafe {
        [
            context!(pointer, "u32", OFFSET) as u32,
            context!(pointer, "u32", OFFSET + 4) as u32,
            context!(pointer, "u32", OFFSET + 8) as u32,
            context!(pointer, "u32", OFFSET + 12) as u32,
        ]
    })
}

/// Reads a `T` at a kernel address that has no type for the verifier; `None` if it cannot be read.
#[inline(always)]
pub fn probe<T: AnyBitPattern>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes `size_of::<T>()` bytes to `value`, or zeros them and returns an error.
    unsafe {
        let result = bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
        (result == 0).then(|| value.assume_init())
    }
}

/// Reads the member at `offset` behind a kernel address that has no type for the verifier; `None` if it cannot be read.
#[inline(always)]
pub fn probe_member<T: AnyBitPattern>(address: u64, offset: &Global<u32>) -> Option<T> {
    probe(address + u64::from(offset.load()))
}

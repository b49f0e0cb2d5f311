//! Iterators: everything that exists, whether or not anything happens to it. They run when the daemon reads their file.

mod tcp;
mod udp;
mod file;
mod packet_socket;
mod files;
mod tasks;

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::bpf_seq_write;
use bytemuck::NoUninit;

/// `struct bpf_iter_meta`, `include/linux/bpf.h`.
#[repr(C)]
pub struct Meta {
    seq: *mut c_void,
    session_id: u64,
    seq_num: u64,
}

/// The reader of an iterator's file.
#[derive(Clone, Copy)]
pub struct Reader(*mut c_void);

impl Reader {
    /// Returns the reader of the run with this context.
    ///
    /// # Safety
    ///
    /// `meta` must be that of the context of the program.
    #[inline(always)]
    unsafe fn of(meta: *const Meta) -> Self {
        // SAFETY: the caller's contract; the verifier knows the type of the member.
        Self(unsafe { (*meta).seq })
    }

    /// Writes a record to the reader. One that does not fit is written again by the kernel, with more room.
    #[inline(always)]
    fn write<T: NoUninit>(self, record: &T) {
        let record = ptr::from_ref(record).cast_mut().cast();
        // SAFETY: a valid reference, and the reader of this run.
        unsafe { bpf_seq_write(self.0.cast(), record, size_of::<T>() as u32) };
    }
}

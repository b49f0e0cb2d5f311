//! The path of an open file, as in `/proc/PID/exe`. The helper `bpf_d_path` is closed to these programs.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use netconn_common::exec;

use crate::programs::{
    kernel::{
        DENTRY_HASHED, DENTRY_NAME, DENTRY_PARENT, FILE_DENTRY, FILE_MOUNT, MOUNT_MOUNTPOINT, MOUNT_PARENT,
        MOUNT_VFSMOUNT, Typed, VFSMOUNT_ROOT, probe_member,
    },
    maps::ExecScratch,
};

/// Writes the components of a file's path to `scratch.data`, from the last to the first, each ended by NUL, and their
/// length and the flags to the record. Crosses mount points up to the root of the mount namespace.
///
/// The length is kept in the scratch space and read again in each round. The verifier does not track it there, so all rounds
/// look alike and it checks only one.
#[inline(always)]
pub fn write_components(file: Typed, scratch: &mut ExecScratch) {
    let dentry = file.follow(&FILE_DENTRY);
    if dentry.member(&DENTRY_HASHED, 1_u64) == 0 {
        scratch.record.flags |= exec::DELETED;
    }
    let mut dentry = dentry.address();
    // The vfsmount of a file is part of a struct mount.
    let mut mount = file.follow(&FILE_MOUNT).address().wrapping_sub(u64::from(MOUNT_VFSMOUNT.load()));
    for _ in 0..exec::DEPTH_MAX {
        let vfsmount = mount + u64::from(MOUNT_VFSMOUNT.load());
        let root: u64 = probe_member(vfsmount, &VFSMOUNT_ROOT).unwrap_or(0);
        let parent: u64 = probe_member(dentry, &DENTRY_PARENT).unwrap_or(0);
        // A file without a place in any folder, as `memfd_create` makes them, has a name all the same (`simple_dname`,
        // `fs/d_path.c`).
        if dentry == parent && dentry != root {
            append(scratch, probe_member(dentry, &DENTRY_NAME).unwrap_or(0));
            return;
        }
        if dentry == root {
            let above: u64 = probe_member(mount, &MOUNT_PARENT).unwrap_or(0);
            if above == 0 || above == mount {
                return;
            }
            dentry = probe_member(mount, &MOUNT_MOUNTPOINT).unwrap_or(0);
            mount = above;
            continue;
        }
        if parent == 0 || !append(scratch, probe_member(dentry, &DENTRY_NAME).unwrap_or(0)) {
            break;
        }
        dentry = parent;
    }
    scratch.record.flags |= exec::PATH_CUT;
}

/// Appends the NUL-terminated string at a kernel address; returns `false` if there is no room or nothing to read.
#[inline(always)]
fn append(scratch: &mut ExecScratch, name: u64) -> bool {
    // SAFETY: plain reads and writes of our own scratch space; the helper writes at most COMPONENT_MAX bytes at an
    // offset below PATH_MAX, and data is longer than both together.
    unsafe {
        let length = ptr::read_volatile(&raw const scratch.record.path_length);
        if length >= exec::PATH_MAX as u32 || name == 0 {
            return false;
        }
        let to = (&raw mut scratch.data).cast::<u8>().add(length as usize);
        let copied = bpf_probe_read_kernel_str(to.cast(), exec::COMPONENT_MAX as u32, name as *const _);
        if copied <= 0 {
            return false;
        }
        ptr::write_volatile(&raw mut scratch.record.path_length, length + copied as u32);
        true
    }
}

//! The path of an open file, as `d_path` gives it to `/proc/PID/exe`: that helper is closed to these programs.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use netconn_common::exec;

use crate::{
    kernel::{
        DENTRY_HASHED, DENTRY_NAME, DENTRY_PARENT, FILE_DENTRY, FILE_MOUNT, MOUNT_MOUNTPOINT, MOUNT_PARENT,
        MOUNT_VFSMOUNT, VFSMOUNT_ROOT, follow, member, probe,
    },
    maps::ExecScratch,
};

/// Writes the components of a file's path to `scratch.data`, from the last to the first, each ended by NUL, and their
/// length and any flags to the record. Crosses mount points up to the root of the mount namespace.
///
/// The length lives in the scratch space and is read again in each round: the verifier forgets it there, finds the
/// rounds alike and looks at each only once.
#[inline(always)]
pub fn components(file: *const u8, scratch: &mut ExecScratch) {
    // SAFETY: `file` is a typed pointer of a tracepoint's argument.
    let (mut dentry, mut mount) = unsafe {
        let dentry = follow(file, &FILE_DENTRY);
        if member::<u64>(dentry, &DENTRY_HASHED, 1) == 0 {
            scratch.record.flags |= exec::DELETED;
        }
        // The vfsmount of a file is part of a struct mount.
        (dentry as u64, (follow(file, &FILE_MOUNT) as u64).wrapping_sub(u64::from(MOUNT_VFSMOUNT.load())))
    };
    for _ in 0..exec::DEPTH_MAX {
        let root: u64 = probe(mount + u64::from(MOUNT_VFSMOUNT.load()) + u64::from(VFSMOUNT_ROOT.load())).unwrap_or(0);
        let parent: u64 = probe(dentry + u64::from(DENTRY_PARENT.load())).unwrap_or(0);
        if dentry == root || dentry == parent {
            let above: u64 = probe(mount + u64::from(MOUNT_PARENT.load())).unwrap_or(0);
            if above == 0 || above == mount {
                return;
            }
            dentry = probe(mount + u64::from(MOUNT_MOUNTPOINT.load())).unwrap_or(0);
            mount = above;
            continue;
        }
        if parent == 0 || !append(scratch, probe(dentry + u64::from(DENTRY_NAME.load())).unwrap_or(0)) {
            break;
        }
        dentry = parent;
    }
    scratch.record.flags |= exec::PATH_CUT;
}

/// Appends the NUL-terminated string at a kernel address; `false` if there is no room or nothing to read.
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

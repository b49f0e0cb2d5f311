//! Which file a program is.

use aya_ebpf::Global;
use netconn_common::{ImageFile, MISSING, UNKNOWN_U32, UNKNOWN_U64};

use crate::programs::kernel::{
    FILE_INODE, FILE_MOUNT, HAS_PROBE_READ, INODE_NUMBER, INODE_SUPER, MOUNT_NAMESPACE, MOUNT_NAMESPACE_INODE,
    MOUNT_VFSMOUNT, SUPER_DEVICE, Typed, has, probe_member,
};

/// Returns what is known of a file; null stands for none.
#[inline(always)]
pub fn of(file: Typed) -> ImageFile {
    let mut image = ImageFile::UNKNOWN;
    if file.is_null() {
        return image;
    }
    // Without the first of two members the verifier would see a load behind null.
    if exists(&FILE_INODE) {
        let inode = file.follow(&FILE_INODE);
        image.inode = inode.member(&INODE_NUMBER, UNKNOWN_U64);
        if exists(&INODE_SUPER) {
            image.device = inode.follow(&INODE_SUPER).member(&SUPER_DEVICE, UNKNOWN_U32);
        }
    }
    // The vfsmount of a file is part of a struct mount, to which no typed pointer leads.
    if has(&HAS_PROBE_READ) && exists(&MOUNT_VFSMOUNT) && exists(&MOUNT_NAMESPACE) && exists(&MOUNT_NAMESPACE_INODE) {
        let mount = file.follow(&FILE_MOUNT).address().wrapping_sub(u64::from(MOUNT_VFSMOUNT.load()));
        // The mounts of the kernel's own file systems have an error there (MNT_NS_INTERNAL in fs/mount.h), and
        // detached ones have null: nothing can be read behind either.
        let namespace: u64 = probe_member(mount, &MOUNT_NAMESPACE).unwrap_or(0);
        image.mount_namespace = probe_member(namespace, &MOUNT_NAMESPACE_INODE).unwrap_or(UNKNOWN_U32);
    }
    image
}

/// Returns whether this kernel has a member.
#[inline(always)]
fn exists(offset: &Global<u32>) -> bool {
    offset.load() != MISSING
}

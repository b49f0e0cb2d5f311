//! Records about processes and cgroups.

use bytemuck::{Pod, Zeroable};

use crate::{Header, UNKNOWN_U32, UNKNOWN_U64};

/// Bits of [`ExecRecord::flags`], and limits of what follows an [`ExecRecord`].
pub mod exec {
    /// The path was longer than its limits; its first components are missing.
    pub const PATH_CUT: u32 = 2;
    /// The arguments were longer than [`ARGUMENTS_MAX`]; the last are missing.
    pub const ARGUMENTS_CUT: u32 = 4;
    /// The program's file no longer had a name (`memfd_create`, deleted).
    pub const DELETED: u32 = 8;

    /// Longest component of a path with its NUL, `NAME_MAX + 1` in `include/uapi/linux/limits.h`.
    pub const COMPONENT_MAX: usize = 256;
    /// Longest path in bytes, a power of two.
    pub const PATH_MAX: usize = 1024;
    // Each mount point on the way counts as one more.
    /// Most components of a path.
    pub const DEPTH_MAX: usize = 40;
    /// Longest arguments in bytes, a power of two.
    pub const ARGUMENTS_MAX: usize = 4096;
}

/// Which file a program is: a path alone says so only together with its mount namespace, which any process can make.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ImageFile {
    /// Inode number, or [`UNKNOWN_U64`].
    pub inode: u64,
    /// Device of its file system as the kernel's `dev_t` (`include/linux/kdev_t.h`), or [`UNKNOWN_U32`].
    pub device: u32,
    /// Inode of the mount namespace in which it was opened, or [`UNKNOWN_U32`]: a file without a place has none.
    pub mount_namespace: u32,
}

impl ImageFile {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { inode: UNKNOWN_U64, device: UNKNOWN_U32, mount_namespace: UNKNOWN_U32 };
}

/// A process runs a new program.
///
/// `path_length` bytes follow: the components of the program's path from the last to the first, each ended by NUL. Then
/// `arguments_length` bytes: the arguments, each ended by NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ExecRecord {
    /// Time and kind.
    pub header: Header,
    /// Start of the process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Start of its parent, as above.
    pub parent_start_ns: u64,
    /// Process id.
    pub tgid: u32,
    /// Process id of its parent.
    pub parent_tgid: u32,
    /// Unix user id.
    pub uid: u32,
    /// Bits of [`exec`].
    pub flags: u32,
    /// Length of the path in bytes.
    pub path_length: u32,
    /// Length of the arguments in bytes.
    pub arguments_length: u32,
    /// The process's new name, NUL-padded.
    pub comm: [u8; 16],
    /// The program's file.
    pub image: ImageFile,
}

/// A process was born: it runs the program of the process that forked it until it calls `exec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ForkRecord {
    /// Time and kind.
    pub header: Header,
    /// Start of the new process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Start of the process that called `fork`.
    pub origin_start_ns: u64,
    /// Start of the parent, which is another process after `clone` with `CLONE_PARENT`.
    pub parent_start_ns: u64,
    /// Process id of the new process.
    pub tgid: u32,
    /// Process id of the process that called `fork`.
    pub origin_tgid: u32,
    /// Process id of the parent.
    pub parent_tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// The last thread of a process has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ExitRecord {
    /// Time and kind.
    pub header: Header,
    /// Start of the process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Process id.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// A process exists, from `iter/task`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct TaskRecord {
    /// Start of the process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Start of its parent, as above.
    pub parent_start_ns: u64,
    /// Process id.
    pub tgid: u32,
    /// Process id of its parent.
    pub parent_tgid: u32,
    /// The file of its program.
    pub image: ImageFile,
}

/// A cgroup (v2) was created. `path_length` bytes follow: its path below the root of the hierarchy, ended by NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct CgroupRecord {
    /// Time and kind.
    pub header: Header,
    /// Inode of its directory, as in [`Owner::cgroup`](crate::Owner::cgroup).
    pub id: u64,
    /// Length of the path in bytes, its NUL included.
    pub path_length: u32,
    /// Zero.
    pub reserved: u32,
}

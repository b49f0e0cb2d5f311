//! What is kept with sockets outlives the daemon: the map is pinned, so that the next daemon finds the owner, the start
//! and the number of life of every connection as the last one knew them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use netconn_common::{KEPT_VERSION, Kept};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

/// Where the BPF file system is by convention.
const BPF_FS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);
/// Folder of all pins of netconn.
const FOLDER: &str = "/sys/fs/bpf/netconn";

/// Where the map of the sensor `id` is pinned; the folder is there then, and pins of other versions are not. The BPF file
/// system is mounted if need be, as `bpftool` does it.
///
/// # Errors
///
/// Why nothing can be pinned.
pub fn place(id: &str) -> Result<PathBuf, String> {
    let fail = |error: io::Error| format!("nothing can be pinned in {FOLDER}: {error}");
    let is_mounted = || statfs(BPF_FS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if !is_mounted() {
        mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(|errno| format!("no BPF file system is mounted at {BPF_FS}, nor can it be: {errno}"))?;
    }
    fs::create_dir_all(FOLDER).map_err(fail)?;
    let name = format!("{id}-{KEPT_VERSION}-{}", size_of::<Kept>());
    for other in fs::read_dir(FOLDER).map_err(fail)?.flatten() {
        let file = other.file_name();
        if file.to_string_lossy().starts_with(&format!("{id}-")) && file != *name {
            fs::remove_file(other.path()).map_err(fail)?;
        }
    }
    Ok(Path::new(FOLDER).join(name))
}

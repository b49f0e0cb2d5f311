//! What is kept with sockets outlives the daemon: the maps are pinned, so that the next daemon finds the owner, the start
//! and the number of life of every connection as the last one knew them, and flows with what they have moved.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use netconn_common::{DatagramSocketState, Flow, STATE_VERSION, TcpSocketState, map};
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

/// Where each map is pinned, by its name in the eBPF object.
pub type Places = Vec<(&'static str, PathBuf)>;

/// Where the maps of the sensor `id` are pinned, with room for so many flows; the folder is there then, and pins of other
/// versions are not. The BPF file system is mounted if need be, as `bpftool` does it.
///
/// # Errors
///
/// Why nothing can be pinned.
pub fn places(id: &str, max_flows: u32) -> Result<Places, String> {
    let fail = |error: io::Error| format!("nothing can be pinned in {FOLDER}: {error}");
    let is_mounted = || statfs(BPF_FS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if !is_mounted() {
        mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(|errno| format!("no BPF file system is mounted at {BPF_FS}, nor can it be: {errno}"))?;
    }
    fs::create_dir_all(FOLDER).map_err(fail)?;
    let names = [
        (map::SOCKETS, format!("{id}-{STATE_VERSION}-{}", size_of::<TcpSocketState>())),
        (map::DATAGRAM_SOCKETS, format!("{id}-{STATE_VERSION}-datagrams-{}", size_of::<DatagramSocketState>())),
        (map::FLOWS, format!("{id}-{STATE_VERSION}-flows-{}-{max_flows}", size_of::<Flow>())),
        (map::FOLDED, format!("{id}-{STATE_VERSION}-folded-{}-{max_flows}", size_of::<Flow>())),
    ];
    for other in fs::read_dir(FOLDER).map_err(fail)?.flatten() {
        let file = other.file_name();
        let is_ours = file.to_string_lossy().starts_with(&format!("{id}-"));
        if is_ours && names.iter().all(|(_, name)| file != **name) {
            fs::remove_file(other.path()).map_err(fail)?;
        }
    }
    Ok(names.into_iter().map(|(map, name)| (map, Path::new(FOLDER).join(name))).collect())
}

//! Pins maps, so that the state of sockets outlives the daemon: the next one finds the owner, the start and the generation of
//! every connection, and flows with their counters.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use netconn_common::{DatagramSocketState, Flow, STATE_VERSION, TcpSocketState, map};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

/// The usual mount point of the BPF file system.
const BPF_FS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);
/// Folder of all pins of netconn.
const FOLDER: &str = "/sys/fs/bpf/netconn";

/// The path of each pin, by the name of its map in the eBPF object.
pub type Places = Vec<(&'static str, PathBuf)>;

/// Returns the paths of the pins of the sensor `id`, with room for `max_flows` flows. Creates their folder, removes pins of
/// other versions of netconn, and mounts the BPF file system if need be, as `bpftool` does.
///
/// # Errors
///
/// When nothing can be pinned; the message says why.
pub fn places(id: &str, max_flows: u32) -> Result<Places, String> {
    let fail = |error: io::Error| format!("nothing can be pinned in {FOLDER}: {error}");
    // By type: the folder exists as part of sysfs even if nothing is mounted there.
    let is_mounted = || statfs(BPF_FS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if !is_mounted() {
        mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(|errno| format!("no BPF file system is mounted at {BPF_FS}, nor can it be: {errno}"))?;
    }
    fs::create_dir_all(FOLDER).map_err(fail)?;
    // The names say what decides the layout of a map: aya opens a pin without comparing it with its own map. The size
    // of a `FlowKey` is not among it: its changes raise `STATE_VERSION`.
    let names = [
        (map::SOCKETS, format!("{id}-{STATE_VERSION}-{}", size_of::<TcpSocketState>())),
        (map::DATAGRAM_SOCKETS, format!("{id}-{STATE_VERSION}-datagrams-{}", size_of::<DatagramSocketState>())),
        (map::FLOWS, format!("{id}-{STATE_VERSION}-flows-{}-{max_flows}", size_of::<Flow>())),
        (map::FOLDED, format!("{id}-{STATE_VERSION}-folded-{}-{max_flows}", size_of::<Flow>())),
    ];
    // A pin that no version opens any more would keep its memory until the next boot.
    for other in fs::read_dir(FOLDER).map_err(fail)?.flatten() {
        let file = other.file_name();
        let is_ours = file.to_string_lossy().starts_with(&format!("{id}-"));
        if is_ours && names.iter().all(|(_, name)| file != **name) {
            fs::remove_file(other.path()).map_err(fail)?;
        }
    }
    Ok(names.into_iter().map(|(map, name)| (map, Path::new(FOLDER).join(name))).collect())
}

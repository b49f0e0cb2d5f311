//! Pins maps, so that the state of sockets outlives the daemon: the next one finds the owner, the start and the generation of
//! every connection, and flows with their counters.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use aya::maps::{MapInfo, MapType};
use netconn_common::{DatagramSocketState, FOLDED_FROM, Flow, FlowKey, STATE_VERSION, TcpSocketState, map};
use netconn_model::config::DEFAULT_USER;
use nix::{
    mount::{MsFlags, mount},
    sys::{
        statfs::{FsType, statfs},
        statvfs::{FsFlags, statvfs},
    },
    unistd::{Uid, User, geteuid},
};

use crate::privileged::account::Account;

/// The usual mount point of the BPF file system.
const BPF_FS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);
/// Folder of all pins of netconn.
pub const FOLDER: &str = "/sys/fs/bpf/netconn";
/// Mode of the folder. The kernel's own mode of a new BPF file system, 1777, lets everybody put something into it.
const FOLDER_MODE: u32 = 0o700;

/// The path of each pin, by the name of its map in the eBPF object.
pub type Places = Vec<(&'static str, PathBuf)>;

/// What decides the layout of a map.
#[derive(Debug, PartialEq)]
struct Shape {
    kind: MapType,
    key_bytes: usize,
    value_bytes: usize,
    entries_max: u32,
}

impl Shape {
    fn of<K, V>(kind: MapType, entries_max: u32) -> Self {
        Self { kind, key_bytes: size_of::<K>(), value_bytes: size_of::<V>(), entries_max }
    }

    /// Returns the name of a pin. It has the whole shape: a map of another one has another name.
    fn pin_name(&self, id: &str, map: &str) -> String {
        let Self { kind: _, key_bytes, value_bytes, entries_max } = self;
        format!("{id}-{STATE_VERSION}-{map}-{key_bytes}-{value_bytes}-{entries_max}")
    }

    /// Returns the shape of a pinned map; `None` if it is no map.
    fn pinned(path: &Path) -> Option<Self> {
        let info = MapInfo::from_pin(path).ok()?;
        Some(Self {
            kind: info.map_type().ok()?,
            key_bytes: info.key_size() as usize,
            value_bytes: info.value_size() as usize,
            entries_max: info.max_entries(),
        })
    }
}

/// The folder of a user who cannot reach it by its path: the mount point is root's alone (systemd: mode 0700).
static HANDED_OVER: OnceLock<OwnedFd> = OnceLock::new();

/// Returns the folder of the pins of a user. Those of root are netconn's, too.
fn folder_of(uid: u32) -> PathBuf {
    let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    if uid == 0 || name == DEFAULT_USER { FOLDER.into() } else { format!("{FOLDER}-{name}").into() }
}

/// Prepares the BPF file system while this process is root, which only root can, and gives the pins to the account that it becomes.
///
/// # Errors
///
/// When nothing can be pinned; the message says why.
pub fn hand_over(account: &Account) -> Result<(), String> {
    prepare_file_system()?;
    let path = folder_of(account.uid);
    let fail = |error: io::Error| format!("nothing can be pinned in {}: {error}", path.display());
    prepare_folder(&path, account.uid)?;
    account.take(&path);
    for pin in fs::read_dir(&path).map_err(fail)?.flatten() {
        account.take(&pin.path());
    }
    let folder =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(&path).map_err(fail)?;
    // It is set once: a daemon starts once in a process.
    let _ = HANDED_OVER.set(folder.into());
    Ok(())
}

/// Returns the shapes of all maps that are kept, as the eBPF object declares them.
fn shapes(max_flows: u32) -> [(&'static str, Shape); 4] {
    [
        (map::SOCKETS, Shape::of::<i32, TcpSocketState>(MapType::SkStorage, 0)),
        (map::DATAGRAM_SOCKETS, Shape::of::<i32, DatagramSocketState>(MapType::SkStorage, 0)),
        (map::FLOWS, Shape::of::<FlowKey, Flow>(MapType::Hash, max_flows)),
        (map::FOLDED, Shape::of::<u64, Flow>(MapType::Hash, folded_max(max_flows))),
    ]
}

/// Returns the most sockets that may have a folded flow.
pub(super) fn folded_max(max_flows: u32) -> u32 {
    (max_flows / FOLDED_FROM).max(1)
}

/// Returns the paths of the pins of the sensor `id`, with room for `max_flows` flows. Creates their folder, removes pins of
/// other versions of netconn, and mounts the BPF file system if need be, as `bpftool` does.
///
/// # Errors
///
/// When nothing can be pinned; the message says why.
pub fn places(id: &str, max_flows: u32) -> Result<Places, String> {
    let folder = match HANDED_OVER.get() {
        Some(folder) => format!("/proc/self/fd/{}", folder.as_raw_fd()).into(),
        None => {
            let folder = folder_of(geteuid().as_raw());
            prepare_file_system()?;
            prepare_folder(&folder, geteuid().as_raw())?;
            folder
        }
    };
    let fail = |error: io::Error| format!("nothing can be pinned in {FOLDER}: {error}");
    let shapes = shapes(max_flows).map(|(map, shape)| {
        let name = shape.pin_name(id, map);
        (map, name, shape)
    });
    for entry in fs::read_dir(&folder).map_err(fail)?.flatten() {
        let file = entry.file_name();
        let is_ours = file.to_string_lossy().starts_with(&format!("{id}-"));
        let shape = shapes.iter().find(|(_, name, _)| file == **name).map(|(.., shape)| shape);
        // A pin that no version opens any more would keep its memory until the next boot. One of another shape than its
        // name says is not ours, and aya would use it without a look.
        let is_wanted = shape.is_some() && Shape::pinned(&entry.path()).as_ref() == shape;
        if is_ours && !is_wanted {
            let path = entry.path();
            let removed =
                if entry.file_type().map_err(fail)?.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
            removed.map_err(|error| format!("'{}' is in the way in {FOLDER}: {error}", file.display()))?;
        }
    }
    Ok(shapes.into_iter().map(|(map, name, _)| (map, folder.join(name))).collect())
}

/// Returns the paths of all pins, also of other sensors and other versions.
///
/// # Errors
///
/// When the folder cannot be read: there is none, or this user may not.
pub fn pinned() -> io::Result<Vec<PathBuf>> {
    fs::read_dir(FOLDER)?.map(|entry| Ok(entry?.path())).collect()
}

/// Removes the pins, because this daemon does not use the maps: nobody would keep them up to date.
pub fn remove(places: &Places) {
    for (_, path) in places {
        // What cannot be removed is as old as if no daemon had run meanwhile, which the next one has to expect anyway.
        let _ = fs::remove_file(path);
    }
}

/// Mounts the BPF file system if need be, and checks that it is of use.
fn prepare_file_system() -> Result<(), String> {
    // By type: the folder exists as part of sysfs even if nothing is mounted there.
    let is_mounted = || statfs(BPF_FS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if !is_mounted() {
        mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .map_err(|errno| format!("no BPF file system is mounted at {BPF_FS}, nor can it be: {errno}"))?;
    }
    // Of the folder if it is there: a service may be given it alone (`ReadWritePaths=` below `ProtectSystem=`).
    if statvfs(FOLDER).or_else(|_| statvfs(BPF_FS)).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY)) {
        return Err(format!("the BPF file system at {BPF_FS} is read-only"));
    }
    // Its owner could exchange the folder for another one at any time.
    let owner = fs::metadata(BPF_FS).map_err(|error| format!("{BPF_FS} cannot be used: {error}"))?.uid();
    if is_trusted(owner) { Ok(()) } else { Err(format!("the BPF file system at {BPF_FS} belongs to user {owner}")) }
}

/// Creates the folder of the pins if need be, for this user alone. That of `user` is good, too.
fn prepare_folder(folder: &Path, user: u32) -> Result<(), String> {
    let fail = |error: io::Error| format!("nothing can be pinned in {}: {error}", folder.display());
    let create = || DirBuilder::new().mode(FOLDER_MODE).create(folder);
    match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result.map_err(fail),
    }
    // Not through a symbolic link: whoever made it could make it name something else.
    let found = fs::symlink_metadata(folder).map_err(fail)?;
    if !found.is_dir() {
        return Err(format!("{} is no folder", folder.display()));
    }
    if !is_trusted(found.uid()) && found.uid() != user {
        // An empty one is worth nothing to its owner, who had to be faster than the first daemon to make it.
        return fs::remove_dir(folder).and_then(|()| create()).map_err(|error| {
            format!("{} belongs to user {} and cannot be replaced: {error}", folder.display(), found.uid())
        });
    }
    if found.mode() & 0o777 != FOLDER_MODE {
        fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE)).map_err(fail)?;
    }
    Ok(())
}

/// Whether what belongs to this user may be relied on.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn the_name_of_a_pin_has_the_whole_layout() {
        let names = |max_flows| shapes(max_flows).map(|(map, shape)| shape.pin_name("id", map));
        let [sockets, datagrams, flows, folded] = names(65_536);
        assert_eq!(sockets, format!("id-{STATE_VERSION}-SOCKETS-4-{}-0", size_of::<TcpSocketState>()));
        assert_eq!(datagrams, format!("id-{STATE_VERSION}-DATAGRAM_SOCKETS-4-{}-0", size_of::<DatagramSocketState>()));
        let (key, value) = (size_of::<FlowKey>(), size_of::<Flow>());
        assert_eq!(flows, format!("id-{STATE_VERSION}-FLOWS-{key}-{value}-65536"));
        assert_eq!(folded, format!("id-{STATE_VERSION}-FOLDED-8-{value}-{}", folded_max(65_536)));
        assert_ne!(names(65_536), names(1));
    }

    #[test]
    fn the_folder_is_for_this_user_alone() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("netconn");
        let mode = || fs::symlink_metadata(&folder).unwrap().mode() & 0o777;
        prepare_folder(&folder, 0).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        prepare_folder(&folder, 0).unwrap();
        assert_eq!(mode(), FOLDER_MODE);
        fs::remove_dir(&folder).unwrap();
        fs::write(&folder, "").unwrap();
        assert!(prepare_folder(&folder, 0).unwrap_err().ends_with(" is no folder"));
        fs::remove_file(&folder).unwrap();
        if !geteuid().is_root() {
            return; // Only root can give a folder away.
        }
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("planted"), "").unwrap();
        chown(&folder, Some(65_534), None).unwrap();
        let error = prepare_folder(&folder, 0).unwrap_err();
        assert!(error.contains("belongs to user 65534 and cannot be replaced"), "{error}");
        fs::remove_file(folder.join("planted")).unwrap();
        prepare_folder(&folder, 0).unwrap();
        assert_eq!((mode(), fs::metadata(&folder).unwrap().uid()), (FOLDER_MODE, 0));
    }
}

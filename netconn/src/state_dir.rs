//! The state directory, which holds the id of this sensor; and the ids of this boot and of this run.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use netconn_model::{config::Config, event::Sensor, segment_name};
use nix::{
    fcntl::Flock,
    unistd::{Group, Uid, User, geteuid},
};
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    lock_file::{self, LockError},
    os,
};

/// Held by the daemon that uses the directory.
const LOCK: &str = "lock";
/// Holds the id of the sensor.
const ID: &str = "sensor-id";
/// Becomes [`ID`] when it is complete.
const NEW_ID: &str = "sensor-id.new";
/// Every name in a directory that is the daemon's alone. `lost+found` is there if a file system is mounted for it.
const NAMES: [&str; 5] = [LOCK, ID, NEW_ID, segment_name::FOLDER, "lost+found"];
/// Mode of the directory: the group passes through it to the history. What others cannot reach they can neither lock nor read.
const GROUP_MODE: u32 = 0o750;
/// Mode of the directory if there is no group.
const OWNER_MODE: u32 = 0o700;
/// Mode of the sensor's id, whatever the umask: the directory says who may read it.
const ID_MODE: u32 = 0o644;

/// Why the state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another daemon uses it.
    #[error("another netconn daemon keeps its state in {}{}: stop it, or choose another --state-dir", path.display(), lock_file::process(*.pid))]
    Taken {
        /// The directory.
        path: PathBuf,
        /// The other daemon's process, if it is known.
        pid: Option<i32>,
    },
    /// Another user could change or lock what the daemon keeps there.
    #[error(
        "the daemon's state is not safe in {}: {reason}; choose another --state-dir, or make this one the daemon's alone",
        path.display()
    )]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refuses to create, lock or write it.
    #[error("cannot keep the daemon's state in {}: {error}; choose another --state-dir", path.display())]
    System {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The directory of what must survive the daemon. Only one daemon may use it, because the maps that outlive a daemon are found
/// by the id in it.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Held for as long as the daemon runs; released by the kernel however it ends.
    _lock: Flock<File>,
}

impl StateDir {
    /// Creates the directory if need be, closes it to everybody but the daemon's user and `group`, and locks it.
    ///
    /// # Errors
    ///
    /// When another daemon has locked it, when another user could change what is in it, or when it cannot be created or
    /// written.
    pub fn open(path: &Path, group: &str) -> Result<Self, StateError> {
        let fail = |error: io::Error| StateError::System { path: path.to_owned(), error };
        if !path.exists() {
            // `close` opens it to the group.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            parent.map_or(Ok(()), fs::create_dir_all).map_err(fail)?;
            DirBuilder::new().recursive(true).mode(OWNER_MODE).create(path).map_err(fail)?;
        }
        // First: from then on nobody can put anything in the way of what follows.
        close(path, group)?;
        let lock = lock_file::lock(&path.join(LOCK)).map_err(|error| match error {
            LockError::Held(pid) => StateError::Taken { path: path.to_owned(), pid },
            LockError::System(error) => fail(error),
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Returns who this sensor is. Its id is created at the first start.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read or written.
    pub fn identify(&self, config: &Config) -> Result<Sensor, StateError> {
        let id = sensor_id(&self.path).map_err(|error| StateError::System { path: self.path.clone(), error })?;
        Ok(Sensor {
            id,
            host: os::host_name(),
            site: config.site_id.clone(),
            source: config.data_source.clone(),
            boot: boot_id(),
        })
    }
}

/// Returns the kernel's id of this boot, without hyphens.
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.chars().filter(char::is_ascii_hexdigit).collect()
}

/// Returns a random number for this run of the daemon.
pub fn run_id() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    // Sixteen hex digits are the 64 bits of the result, so that parsing fails only if /proc is missing.
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    // The process id is no good identity, but differs from that of the run before.
    u64::from_str_radix(&digits, 16).unwrap_or_else(|_| u64::from(std::process::id()))
}

/// Gives the directory to the daemon's user and closes it to others, if it is the daemon's alone. One that has other files too
/// keeps its mode, because others may need it.
fn close(path: &Path, group: &str) -> Result<(), StateError> {
    let fail = |error: io::Error| StateError::System { path: path.to_owned(), error };
    let refuse = |reason: String| Err(StateError::Unsafe { path: path.to_owned(), reason });
    let folder = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path).map_err(fail)?;
    let metadata = folder.metadata().map_err(fail)?;
    let (mut has_other_names, mut foreign) = (false, None);
    for entry in fs::read_dir(path).map_err(fail)?.flatten() {
        let name = entry.file_name();
        let is_ours = NAMES.iter().any(|ours| name == *ours);
        has_other_names |= !is_ours;
        // Of a symbolic link its own owner counts, who can make it name something else.
        let owner = entry.metadata().map_err(fail)?.uid();
        // The lock is left out: `lock_file` replaces one of another user.
        if is_ours && !is_trusted(owner) && name != LOCK {
            foreign = Some(format!("'{}' in it belongs to {}", name.display(), user(owner)));
        }
    }
    if let Some(reason) = foreign {
        return refuse(reason);
    }
    if !is_trusted(metadata.uid()) && has_other_names {
        return refuse(format!("it belongs to {}", user(metadata.uid())));
    }
    let mode = metadata.mode() & 0o7777;
    if has_other_names {
        if mode & 0o022 != 0 {
            return refuse(format!(
                "others may write in it (mode {mode:o}), and it has files that are not the daemon's"
            ));
        }
        if mode & 0o007 != 0 {
            warn!(
                "{} stays open to all users (mode {mode:o}), because it has files that are not the daemon's: a folder of its own \
                 would be closed to them",
                path.display()
            );
        }
        return Ok(());
    }
    if !is_trusted(metadata.uid()) {
        fchown(&folder, Some(geteuid().as_raw()), None).map_err(fail)?;
    }
    let mut wanted = OWNER_MODE;
    if let Ok(Some(group)) = Group::from_name(group) {
        let gid = group.gid.as_raw();
        // Only if it differs: a daemon that is not root may be refused it.
        match if metadata.gid() == gid { Ok(()) } else { fchown(&folder, None, Some(gid)) } {
            Ok(()) => wanted = GROUP_MODE,
            Err(error) => info!("{} cannot be given to the group '{}': {error}", path.display(), group.name),
        }
    }
    if mode != wanted {
        folder.set_permissions(Permissions::from_mode(wanted)).map_err(fail)?;
    }
    Ok(())
}

/// Whether files of this user may be relied on: they are the daemon's or root's.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("user '{}'", user.name),
        _ => format!("user {uid}"),
    }
}

/// Returns the sensor's id if there is one and this user may read it: root and members of the group.
pub fn known_id(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join(ID)).ok()?;
    Some(text.trim().to_owned()).filter(|id| is_uuid(id))
}

fn sensor_id(folder: &Path) -> io::Result<String> {
    let path = folder.join(ID);
    match File::open(&path) {
        Ok(mut file) => {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            // Damaged: a new one is created.
            if is_uuid(text.trim()) {
                if file.metadata()?.mode() & 0o777 != ID_MODE {
                    file.set_permissions(Permissions::from_mode(ID_MODE))?;
                }
                return Ok(text.trim().to_owned());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Not replaced: the id may be there, and the maps of the daemon before are found by it.
        Err(error) => return Err(error),
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    // By a rename, so that the file is never incomplete.
    let new = folder.join(NEW_ID);
    // One that a killed daemon has left.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
    file.set_permissions(Permissions::from_mode(ID_MODE))?;
    file.write_all(format!("{id}\n").as_bytes())?;
    // The bytes before the name, and the name before the id is used: otherwise a power cut could leave an empty file, and
    // the host would be another sensor from then on.
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(id)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.chars().all(|character| character.is_ascii_hexdigit() || character == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_GROUP: &str = "no-such-group";

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_id_is_made_once_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("deep/state");
        let held = StateDir::open(&state, NO_GROUP).unwrap();
        let error = StateDir::open(&state, NO_GROUP).unwrap_err().to_string();
        let expected = format!(
            "another netconn daemon keeps its state in {}, process {}: stop it",
            state.display(),
            std::process::id()
        );
        assert!(error.starts_with(&expected), "{error}");
        drop(held);
        let first = sensor_id(&state).unwrap();
        assert!(is_uuid(&first));
        fs::set_permissions(state.join(ID), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(sensor_id(&state).unwrap(), first);
        assert_eq!(mode(&state.join(ID)), ID_MODE, "the group reads it, whatever the umask was");
        fs::write(state.join(ID), "0123").unwrap();
        fs::write(state.join(NEW_ID), "of a daemon that was killed").unwrap();
        let second = sensor_id(&state).unwrap();
        assert!(is_uuid(&second) && second != first);
        assert!(StateDir::open(Path::new("/proc/netconn"), NO_GROUP).is_err());
    }

    #[test]
    fn it_is_closed_to_others_if_it_is_the_daemons_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        drop(StateDir::open(&state, NO_GROUP).unwrap());
        for before in [0o755, 0o777, 0o1777, 0o2775] {
            fs::set_permissions(&state, Permissions::from_mode(before)).unwrap();
            drop(StateDir::open(&state, NO_GROUP).unwrap());
            assert_eq!(mode(&state), OWNER_MODE, "{before:o}");
        }
        fs::write(state.join("notes"), "").unwrap();
        for (before, is_safe) in [(0o755, true), (0o775, false), (0o1777, false), (0o700, true)] {
            fs::set_permissions(&state, Permissions::from_mode(before)).unwrap();
            let opened = StateDir::open(&state, NO_GROUP);
            assert_eq!(opened.is_ok(), is_safe, "{before:o}");
            assert_eq!(mode(&state), before, "others may need what is in it");
            if let Err(error) = opened {
                assert!(error.to_string().contains("others may write in it"), "{error}");
            }
        }
    }

    #[test]
    fn runs_and_boots_have_ids() {
        assert_eq!(boot_id().len(), 32);
        assert_ne!(run_id(), run_id());
    }
}

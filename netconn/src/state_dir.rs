//! The state directory, which holds the id of this sensor; and the ids of this boot and of this run.

use std::{
    convert::Infallible,
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    future::pending,
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
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
pub const LOCK: &str = "lock";
/// Holds the id of the sensor.
pub const ID: &str = "sensor-id";
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
/// Pause before the daemon tries again to keep what its file system had no room for.
const RETRY: Duration = Duration::from_secs(10);

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
    group: String,
    /// Held for as long as the daemon runs; released by the kernel however it ends. `None` while there is no room for its file.
    lock: Option<Flock<File>>,
    unsaved: Unsaved,
}

/// Why the state is not kept at the moment; the server asks, too.
#[derive(Clone, Debug, Default)]
pub struct Unsaved(Arc<Mutex<Option<String>>>);

impl Unsaved {
    /// Returns the reason; `None` if everything is kept.
    pub fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

impl StateDir {
    /// Creates the directory if need be, closes it to everybody but the daemon's user and `group`, and locks it. A full file
    /// system is no error: the daemon runs, and [`Self::save_later`] does what is missing when there is room.
    ///
    /// # Errors
    ///
    /// When another daemon has locked it, when another user could change what is in it, or when it cannot be created or
    /// written for another reason than a full file system.
    pub fn open(path: &Path, group: &str) -> Result<Self, StateError> {
        let unsaved = Unsaved::default();
        let lock = match lock_folder(path, group) {
            Ok(lock) => Some(lock),
            Err(StateError::System { error, .. }) if is_full(&error) => {
                unsaved.set(Some(error.to_string()));
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), group: group.to_owned(), lock, unsaved })
    }

    /// Returns who this sensor is. Its id is created at the first start. If the file system has no room for it, it is that of this
    /// run only.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read, or not be written for another reason than a full file system.
    pub fn identify(&self, config: &Config) -> Result<Sensor, StateError> {
        let fail = |error: io::Error| StateError::System { path: self.path.clone(), error };
        // Reading it takes no room, and so no lock.
        let saved = saved_id(&self.path).map_err(fail)?;
        let (id, is_kept) = match saved {
            Some(id) => (id, true),
            None => {
                let id = new_id().map_err(fail)?;
                if self.lock.is_some() {
                    match save_id(&self.path, &id) {
                        Err(error) if is_full(&error) => self.unsaved.set(Some(error.to_string())),
                        saved => saved.map_err(fail)?,
                    }
                }
                (id, false)
            }
        };
        if let Some(reason) = self.unsaved.reason() {
            let (path, pause) = (self.path.display(), RETRY.as_secs());
            let advice = format!("free some space; netconn tries again every {pause} s");
            if is_kept {
                warn!("{path} cannot be locked ({reason}), so another daemon could use it as well: {advice}");
            } else {
                warn!(
                    "the id of this sensor cannot be kept in {path} ({reason}), so the next start has another one and finds nothing \
                     that is kept with sockets: {advice}"
                );
            }
        }
        Ok(Sensor {
            id,
            host: os::host_name(),
            site: config.site_id.clone(),
            source: config.data_source.clone(),
            boot: boot_id(),
        })
    }

    /// Returns what says why the state is not kept.
    pub fn unsaved(&self) -> &Unsaved {
        &self.unsaved
    }

    /// Keeps the id of this sensor as soon as the file system has room for it.
    pub async fn save_later(&mut self, id: &str) -> Infallible {
        while let Some(before) = self.unsaved.reason() {
            tokio::time::sleep(RETRY).await;
            // On the thread of the server, which waits for the disk then: once, for some bytes.
            let reason = match self.save(id) {
                Ok(kept) if kept == id => {
                    info!("the id of this sensor is kept in {} now", self.path.display());
                    None
                }
                Ok(kept) => {
                    warn!(
                        "another daemon has kept its id {kept} in {}: the next start has that one, and not the id of this run, {id}",
                        self.path.display()
                    );
                    None
                }
                // As at the start: the error alone.
                Err(StateError::System { error, .. }) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = reason.as_ref().filter(|reason| **reason != before) {
                warn!("the id of this sensor cannot be kept: {reason}");
            }
            self.unsaved.set(reason);
        }
        pending().await
    }

    /// Locks the directory and keeps the id in it, if that is not done. Returns the id that is kept then.
    fn save(&mut self, id: &str) -> Result<String, StateError> {
        if self.lock.is_none() {
            self.lock = Some(lock_folder(&self.path, &self.group)?);
        }
        let fail = |error: io::Error| StateError::System { path: self.path.clone(), error };
        // One that is there is of a daemon that had the lock before.
        match saved_id(&self.path).map_err(fail)? {
            Some(kept) => Ok(kept),
            None => save_id(&self.path, id).map(|()| id.to_owned()).map_err(fail),
        }
    }
}

/// Whether a file system has no room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Creates the directory if need be, closes it to others and locks it.
fn lock_folder(path: &Path, group: &str) -> Result<Flock<File>, StateError> {
    let fail = |error: io::Error| StateError::System { path: path.to_owned(), error };
    if !path.exists() {
        // `close` opens it to the group.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.map_or(Ok(()), fs::create_dir_all).map_err(fail)?;
        DirBuilder::new().recursive(true).mode(OWNER_MODE).create(path).map_err(fail)?;
    }
    // First: from then on nobody can put anything in the way of what follows.
    close(path, group, || ())?;
    lock_file::lock(&path.join(LOCK)).map_err(|error| match error {
        LockError::Held(pid) => StateError::Taken { path: path.to_owned(), pid },
        LockError::System(error) => fail(error),
    })
}

/// Returns the names of the files that a daemon keeps in its directory, beside the folder of the history.
pub fn files() -> Vec<OsString> {
    let turn = lock_file::turn_path(LOCK.as_ref()).into_os_string();
    [ID.into(), NEW_ID.into(), turn, LOCK.into()].into()
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
/// keeps its mode, because others may need it. `between` is called when it has been looked at and is not closed yet.
fn close(path: &Path, group: &str, between: impl FnOnce()) -> Result<(), StateError> {
    let fail = |error: io::Error| StateError::System { path: path.to_owned(), error };
    let refuse = |reason: String| Err(StateError::Unsafe { path: path.to_owned(), reason });
    let folder = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path).map_err(fail)?;
    let metadata = folder.metadata().map_err(fail)?;
    let Contents { foreign, other_name } = look_into(path).map_err(fail)?;
    between();
    if let Some(reason) = foreign {
        return refuse(reason);
    }
    if !is_trusted(metadata.uid()) && other_name.is_some() {
        return refuse(format!("it belongs to {}", user(metadata.uid())));
    }
    let mode = metadata.mode() & 0o7777;
    if other_name.is_some() {
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
    // Once more, now that nobody else can put anything there: somebody may have done so since the first look.
    let Contents { foreign, other_name } = look_into(path).map_err(fail)?;
    let planted = other_name.map(|name| format!("'{name}' was put into it while it was being closed"));
    match foreign.or(planted) {
        Some(reason) => {
            // As it was: it is not the daemon's alone. If that fails, it stays closed.
            let _ = folder.set_permissions(Permissions::from_mode(mode));
            refuse(reason)
        }
        None => Ok(()),
    }
}

/// What a directory has beside the daemon's own files.
struct Contents {
    /// Which of the daemon's names belongs to another user, and to whom.
    foreign: Option<String>,
    /// A name that is not the daemon's.
    other_name: Option<String>,
}

fn look_into(path: &Path) -> io::Result<Contents> {
    let turn = lock_file::turn_path(LOCK.as_ref());
    let (mut foreign, mut other_name) = (None, None);
    for entry in fs::read_dir(path)?.flatten() {
        let name = entry.file_name();
        if !NAMES.iter().any(|ours| name == *ours) && name != turn.as_os_str() {
            other_name = Some(name.display().to_string());
            continue;
        }
        // Of a symbolic link its own owner counts, who can make it name something else.
        let owner = match entry.metadata() {
            Ok(metadata) => metadata.uid(),
            // Another daemon that starts has renamed or removed it since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // The lock is left out: `lock_file` replaces one of another user.
        if !is_trusted(owner) && name != LOCK {
            foreign = Some(format!("'{}' in it belongs to {}", name.display(), user(owner)));
        }
    }
    Ok(Contents { foreign, other_name })
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

fn new_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

/// Returns the id that is kept; `None` if there is none, or it is damaged.
fn saved_id(folder: &Path) -> io::Result<Option<String>> {
    let mut file = match File::open(folder.join(ID)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // Not replaced: the id may be there, and the maps of the daemon before are found by it.
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    if !is_uuid(text.trim()) {
        return Ok(None);
    }
    if file.metadata()?.mode() & 0o777 != ID_MODE {
        file.set_permissions(Permissions::from_mode(ID_MODE))?;
    }
    Ok(Some(text.trim().to_owned()))
}

fn save_id(folder: &Path, id: &str) -> io::Result<()> {
    // By a rename, so that the file is never incomplete.
    let new = folder.join(NEW_ID);
    // One that a killed daemon, or a full disk, has left.
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
    fs::rename(&new, folder.join(ID))?;
    File::open(folder)?.sync_all()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.chars().all(|character| character.is_ascii_hexdigit() || character == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_GROUP: &str = "no-such-group";

    fn sensor_id(held: &StateDir) -> String {
        held.identify(&Config::default()).unwrap().id
    }

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
        let first = sensor_id(&held);
        assert!(is_uuid(&first));
        fs::set_permissions(state.join(ID), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(sensor_id(&held), first);
        assert_eq!(mode(&state.join(ID)), ID_MODE, "the group reads it, whatever the umask was");
        fs::write(state.join(ID), "0123").unwrap();
        fs::write(state.join(NEW_ID), "of a daemon that was killed").unwrap();
        let second = sensor_id(&held);
        assert!(is_uuid(&second) && second != first);
        assert!(StateDir::open(Path::new("/proc/netconn"), NO_GROUP).is_err());
    }

    #[test]
    fn an_id_that_is_there_is_used_without_room_for_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let held = StateDir::open(&state, NO_GROUP).unwrap();
        let kept = sensor_id(&held);
        drop(held);
        let unsaved = Unsaved::default();
        unsaved.set(Some("no room".into()));
        let mut without = StateDir { path: state.clone(), group: NO_GROUP.into(), lock: None, unsaved };
        assert_eq!(sensor_id(&without), kept);
        assert_eq!(without.save("another").unwrap(), kept, "what is there stays");
        assert!(without.lock.is_some());
        fs::remove_file(state.join(ID)).unwrap();
        without.lock = None;
        let own = sensor_id(&without);
        assert!(own != kept && !state.join(ID).exists(), "there is no room");
        assert_eq!((without.save(&own).unwrap(), known_id(&state)), (own.clone(), Some(own)));
    }

    #[test]
    fn files_that_vanish_meanwhile_are_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let end = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !end.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::write(folder.path().join(NEW_ID), "").unwrap();
                    fs::remove_file(folder.path().join(NEW_ID)).unwrap();
                }
            });
            let errors = (0..20_000).filter_map(|_| look_into(folder.path()).err()).collect::<Vec<_>>();
            end.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(errors.is_empty(), "{errors:?}");
        });
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
    fn what_is_put_into_it_while_it_is_closed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let plant = |name: &str, owner: Option<u32>| {
            let path = state.join(name);
            fs::write(&path, "planted").unwrap();
            std::os::unix::fs::chown(path, owner, None).unwrap();
        };
        let closed_after = |between: &dyn Fn()| {
            fs::create_dir(&state).unwrap();
            fs::set_permissions(&state, Permissions::from_mode(0o777)).unwrap();
            let reason = close(&state, NO_GROUP, between).unwrap_err().to_string();
            assert_eq!(mode(&state), 0o777, "as it was");
            fs::remove_dir_all(&state).unwrap();
            reason
        };
        let reason = closed_after(&|| plant("notes", None));
        assert!(reason.contains("'notes' was put into it while it was being closed"), "{reason}");
        if geteuid().is_root() {
            let reason = closed_after(&|| plant(ID, Some(65_534)));
            assert!(reason.contains("'sensor-id' in it belongs to user "), "{reason}");
        }
    }

    #[test]
    fn runs_and_boots_have_ids() {
        assert_eq!(boot_id().len(), 32);
        assert_ne!(run_id(), run_id());
    }
}

//! The state directory, which holds the id of this sensor; and the ids of this boot and of this run.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use netconn_model::{config::Config, event::Sensor};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use thiserror::Error;

/// Why the state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// Another daemon uses it.
    #[error("another netconn daemon keeps its state in {}: stop it, or choose another --state-dir", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
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
    /// Locks the directory, and creates it if need be.
    ///
    /// # Errors
    ///
    /// When another daemon has locked it, or when it cannot be created or written.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let fail = |error: io::Error| StateError::System { path: path.to_owned(), error };
        // Asked first: a directory that exists keeps the mode that its owner gave it.
        let is_new = !path.exists();
        fs::create_dir_all(path).map_err(fail)?;
        if is_new {
            // Because of the umask: readers of the history have to pass through this directory.
            fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(fail)?;
        }
        // The lock file is never removed: another daemon could have opened the old one and lock a file without a name.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path.join("lock")).map_err(fail)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => StateError::Taken { path: path.to_owned() },
            errno => fail(errno.into()),
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
            host: sysinfo::System::host_name().unwrap_or_else(|_| "localhost".into()),
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

/// Returns the sensor's id if there is one and this user may read it.
pub fn known_id(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("sensor-id")).ok()?;
    Some(text.trim().to_owned()).filter(|id| is_uuid(id))
}

fn sensor_id(folder: &Path) -> io::Result<String> {
    let path = folder.join("sensor-id");
    match fs::read_to_string(&path) {
        Ok(text) if is_uuid(text.trim()) => return Ok(text.trim().to_owned()),
        // Damaged: a new one is created.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Not replaced: the id may be there, and the maps of the daemon before are found by it.
        Err(error) => return Err(error),
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    // By a rename, so that the file is never incomplete.
    let new = folder.join("sensor-id.new");
    fs::write(&new, format!("{id}\n"))?;
    fs::rename(&new, &path)?;
    Ok(id)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.chars().all(|character| character.is_ascii_hexdigit() || character == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_made_once_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("deep/state");
        let held = StateDir::open(&state).unwrap();
        let error = StateDir::open(&state).unwrap_err().to_string();
        assert!(error.starts_with("another netconn daemon keeps its state in "), "{error}");
        drop(held);
        let first = sensor_id(&state).unwrap();
        assert!(is_uuid(&first));
        assert_eq!(sensor_id(&state).unwrap(), first);
        fs::write(state.join("sensor-id"), "0123").unwrap();
        let second = sensor_id(&state).unwrap();
        assert!(is_uuid(&second) && second != first);
        assert!(StateDir::open(Path::new("/proc/netconn")).is_err());
    }

    #[test]
    fn runs_and_boots_have_ids() {
        assert_eq!(boot_id().len(), 32);
        assert_ne!(run_id(), run_id());
    }
}

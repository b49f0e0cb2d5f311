//! What makes this sensor itself: its id, its host, this boot.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{config::Config, encode::event::Sensor};

/// The state folder cannot be used.
#[derive(Debug, Error)]
#[error("cannot keep the sensor's id in {}: {error}; choose another --state-dir", path.display())]
pub struct StateError {
    path: PathBuf,
    error: io::Error,
}

/// Who this sensor is. Its id is made at the first start and kept in the state folder.
///
/// # Errors
///
/// When the state folder cannot be made, read or written.
pub fn identify(config: &Config) -> Result<Sensor, StateError> {
    Ok(Sensor {
        id: sensor_id(&config.state_dir)?,
        host: sysinfo::System::host_name().unwrap_or_else(|_| "localhost".into()),
        site: config.site_id.clone(),
        source: config.data_source.clone(),
        boot: boot_id(),
    })
}

/// The kernel's id of this boot, without hyphens.
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.chars().filter(char::is_ascii_hexdigit).collect()
}

/// A number that no other run of the daemon has.
pub fn run_id() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or_else(|_| u64::from(std::process::id()))
}

/// The sensor's id, if a daemon has made one that this user may read.
pub fn known_id(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("sensor-id")).ok()?;
    Some(text.trim().to_owned()).filter(|id| is_uuid(id))
}

fn sensor_id(folder: &Path) -> Result<String, StateError> {
    let path = folder.join("sensor-id");
    let fail = |error| StateError { path: folder.to_owned(), error };
    match fs::read_to_string(&path) {
        Ok(text) if is_uuid(text.trim()) => return Ok(text.trim().to_owned()),
        // Cut off or overwritten: a new one is made.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(fail)?.trim().to_owned();
    fs::create_dir_all(folder).map_err(fail)?;
    // Renamed into place, so that it is whole or not there.
    let new = folder.join("sensor-id.new");
    fs::write(&new, format!("{id}\n")).map_err(fail)?;
    fs::rename(&new, &path).map_err(fail)?;
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
        let first = sensor_id(&state).unwrap();
        assert!(is_uuid(&first));
        assert_eq!(sensor_id(&state).unwrap(), first);
        fs::write(state.join("sensor-id"), "0123").unwrap();
        let second = sensor_id(&state).unwrap();
        assert!(is_uuid(&second) && second != first);
        assert!(sensor_id(Path::new("/proc/netconn")).is_err());
    }

    #[test]
    fn runs_and_boots_have_ids() {
        assert_eq!(boot_id().len(), 32);
        assert_ne!(run_id(), run_id());
    }
}

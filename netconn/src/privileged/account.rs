//! The user that the daemon is when it was started by root, and the files that it takes with it.

use std::{
    ffi::{CString, OsStr},
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use netconn_model::{
    config::{Config, DEFAULT_USER},
    segment_name,
};
use nix::{
    fcntl::AtFlags,
    unistd::{Gid, Group, Uid, User, fchownat, geteuid, getgrouplist, setgroups, setresgid, setresuid},
};
use tracing::warn;

use super::rights;

/// Mode of new folders of the socket.
const SOCKET_FOLDER_MODE: u32 = 0o755;
/// Mode of new state folders; the daemon opens it to its group.
const STATE_FOLDER_MODE: u32 = 0o700;
/// Mode of new files with events.
const EVENTS_MODE: u32 = 0o640;
/// Beginnings of the names of the daemon's files in its state folder.
const STATE_NAMES: [&str; 3] = ["lock", "sensor-id", segment_name::FOLDER];
/// The history, and the folder of the converter in it.
const DEPTH_MAX: u32 = 3;

/// A user that root becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name, or its number if it has none.
    pub name: String,
    /// Its number.
    pub uid: u32,
    gid: u32,
    /// All groups.
    groups: Vec<Gid>,
}

impl Account {
    /// Returns the account of the configuration; `None` if this process is not root, or is to stay so: the usual account does not exist.
    /// A number needs no account.
    ///
    /// # Errors
    ///
    /// When another account than the usual one is wanted that does not exist.
    pub fn find(config: &Config) -> Result<Option<Self>, String> {
        let wanted = &*config.user;
        if !geteuid().is_root() {
            return Ok(None);
        }
        let by_number = wanted.parse().ok().map(Uid::from_raw);
        let found = match by_number {
            Some(uid) => User::from_uid(uid),
            None => User::from_name(wanted),
        };
        let found = match found {
            // musl's answer without /etc/passwd, as in an image on scratch; getpwnam(3) has it among those of an unknown name.
            Err(nix::errno::Errno::ENOENT) => None,
            found => found.map_err(|errno| format!("the user '{wanted}' cannot be looked up: {errno}"))?,
        };
        let (name, uid, gid) = match (found, by_number) {
            (Some(user), _) => (user.name, user.uid, user.gid),
            // A group of the same number, as of the users of services.
            (None, Some(uid)) => (uid.to_string(), uid, Gid::from_raw(uid.as_raw())),
            (None, None) if wanted == DEFAULT_USER => return Ok(None),
            (None, None) => {
                return Err(format!(
                    "there is no user '{wanted}': make the account, or change `user` in the configuration"
                ));
            }
        };
        if uid.is_root() {
            return Ok(None);
        }
        let mut groups = CString::new(&*name).ok().and_then(|name| getgrouplist(&name, gid).ok()).unwrap_or_default();
        // So that it may give its files to that group.
        groups.extend(Group::from_name(&config.group).ok().flatten().map(|group| group.gid));
        Ok(Some(Self { name, uid: uid.as_raw(), gid: gid.as_raw(), groups }))
    }

    /// Makes this process one of the account, with these of its capabilities.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn r#become(&self, capabilities: u64) -> io::Result<()> {
        // While it is root, which may.
        rights::empty_bounding_set();
        nix::sys::prctl::set_keepcaps(true)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setgroups(&self.groups)?;
        setresgid(gid, gid, gid)?;
        // The user last, because it takes the right to the others.
        setresuid(uid, uid, uid)?;
        rights::limit_to(capabilities)?;
        nix::sys::prctl::set_keepcaps(false)?;
        // As that of a program that this user has started: its own files in /proc are its own.
        nix::sys::prctl::set_dumpable(true)?;
        Ok(())
    }

    /// Gives the account what earlier runs have made as root, and makes what only root can: the folders of socket and state, and
    /// files of events. What cannot be given away is told by whoever needs it.
    pub fn take_over(&self, config: &Config) {
        self.take_folder(&config.state_dir, STATE_FOLDER_MODE, |name| {
            STATE_NAMES.iter().any(|ours| name.as_encoded_bytes().starts_with(ours.as_bytes()))
        });
        if let (Some(folder), Some(socket)) = (config.socket.parent(), config.socket.file_name()) {
            self.take_folder(folder, SOCKET_FOLDER_MODE, |name| {
                name.as_encoded_bytes().starts_with(socket.as_encoded_bytes())
            });
        }
        for path in config.events.iter().filter(|path| path.as_os_str() != "-") {
            // Not through a symbolic link, and not if it is there.
            let _ = OpenOptions::new().append(true).create_new(true).mode(EVENTS_MODE).open(path);
            self.take(path);
        }
    }

    /// Warns of files that cannot be made anew after a rotation, because their folder is not the account's to write in.
    pub fn warn_of_rotation(&self, config: &Config) {
        for path in config.events.iter().filter(|path| path.as_os_str() != "-") {
            let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if is_file
                && nix::unistd::faccessat(
                    nix::fcntl::AT_FDCWD,
                    folder,
                    nix::unistd::AccessFlags::W_OK,
                    AtFlags::AT_EACCESS,
                )
                .is_err()
            {
                warn!(
                    "{} cannot be made anew after it was rotated: user {} may not write in {}; let logrotate `create 0640 {}`, or use a \
                     folder of that user",
                    path.display(),
                    self.name,
                    folder.display(),
                    self.name
                );
            }
        }
    }

    /// Gives away what is `ours` in a folder, and the folder itself if nothing else is in it. Makes it if it is not there.
    fn take_folder(&self, folder: &Path, mode: u32, is_ours: impl Fn(&OsStr) -> bool) {
        if !folder.exists() {
            let made = folder.parent().map_or(Ok(()), fs::create_dir_all);
            if made.and_then(|()| DirBuilder::new().mode(mode).create(folder)).is_err() {
                return;
            }
        }
        let mut has_others = false;
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if is_ours(&entry.file_name()) {
                self.take_all(&entry.path(), DEPTH_MAX);
            } else {
                has_others = true;
            }
        }
        if !has_others {
            self.take(folder);
        }
    }

    fn take_all(&self, path: &Path, depth: u32) {
        let is_folder = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        if is_folder && depth != 0 {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                self.take_all(&entry.path(), depth - 1);
            }
        }
        self.take(path);
    }

    /// Gives a file or folder of root to the account. Not one with several names: whoever may write in the folder could have put
    /// another file of root there.
    pub fn take(&self, path: &Path) {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path);
        let Ok(file) = opened else { return };
        let Ok(metadata) = file.metadata() else { return };
        let is_single = metadata.is_dir() || metadata.nlink() == 1;
        let kind = metadata.file_type();
        if metadata.uid() == 0
            && is_single
            && !kind.is_symlink()
            && (kind.is_dir() || kind.is_file() || is_socket(kind))
        {
            let owner = Some(Uid::from_raw(self.uid));
            // The group stays: it says who else may read. That of root says nothing.
            let group = (metadata.gid() == 0).then(|| Gid::from_raw(self.gid));
            if let Err(errno) = fchownat(file.as_fd(), "", owner, group, AtFlags::AT_EMPTY_PATH) {
                warn!("{} cannot be given to user {}: {errno}", path.display(), self.name);
            }
        }
    }
}

fn is_socket(kind: fs::FileType) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    kind.is_socket()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_of_root_are_taken_over_and_those_of_others_are_not() {
        if !geteuid().is_root() {
            return; // Only root can give files away.
        }
        let above = tempfile::tempdir().unwrap();
        let path = |name: &str| above.path().join(name);
        let config = Config {
            user: "61000".into(),
            state_dir: path("state"),
            socket: path("run/sock"),
            events: vec!["-".into(), path("events"), path("link")],
            ..Config::default()
        };
        fs::create_dir_all(path("state/events/.convert")).unwrap();
        for name in ["state/lock", "state/sensor-id", "state/events/events-1.ndjson", "secret", "other"] {
            fs::write(path(name), "").unwrap();
        }
        fs::hard_link(path("secret"), path("state/events/planted")).unwrap();
        symlink(path("other"), path("link")).unwrap();
        let account = Account::find(&config).unwrap().unwrap();
        account.take_over(&config);
        let owner = |name: &str| fs::symlink_metadata(path(name)).unwrap().uid();
        for name in ["state", "state/lock", "state/events/.convert", "state/events/events-1.ndjson", "run", "events"] {
            assert_eq!(owner(name), 61_000, "{name}");
        }
        for name in ["secret", "other", "link"] {
            assert_eq!(owner(name), 0, "{name}");
        }
        // With somebody else's file beside them, the folder stays root's.
        fs::create_dir(path("shared")).unwrap();
        fs::write(path("shared/other"), "").unwrap();
        fs::write(path("shared/sensor-id"), "").unwrap();
        account.take_over(&Config { state_dir: path("shared"), events: Vec::new(), ..config });
        assert_eq!((owner("shared"), owner("shared/other"), owner("shared/sensor-id")), (0, 0, 61_000));
    }

    #[test]
    fn who_root_becomes_is_found() {
        if !geteuid().is_root() {
            return;
        }
        let find = |user: &str| Account::find(&Config { user: user.into(), ..Config::default() });
        let Account { uid, gid, .. } = find("nobody").unwrap().unwrap();
        let nobody = User::from_name("nobody").unwrap().unwrap();
        assert_eq!((uid, gid), (nobody.uid.as_raw(), nobody.gid.as_raw()));
        assert_eq!(find("4123456789").unwrap().unwrap().uid, 4_123_456_789);
        assert_eq!((find("root"), find("0")), (Ok(None), Ok(None)));
        assert!(find("no-such-user").unwrap_err().starts_with("there is no user 'no-such-user'"));
    }
}

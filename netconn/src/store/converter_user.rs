//! The user that the converter runs as: one that owns nothing.

use std::{fs, io, path::Path};

use nix::unistd::{Gid, Group, Uid, User, geteuid};

/// The account that packages make for it.
const ACCOUNT: &str = "netconn-convert";
/// Numbers for users without an account, which systemd gives to services while they run (`DynamicUser`,
/// <https://systemd.io/UIDS-GIDS/>): no account and no file of a person has one of them.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;
/// Where systemd notes which of them it has given away, for programs that do not ask its module of the account database: a
/// static netconn cannot.
const TAKEN: &str = "/run/systemd/dynamic-uid";

/// A user and its only group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConverterUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Returns the user for the converter: the account for it, else a number that nobody has; `None` if the daemon is not root and
/// cannot choose.
///
/// # Errors
///
/// When no number is free, or /proc cannot be read.
pub(super) fn choose() -> io::Result<Option<ConverterUser>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    if let Ok(Some(account)) = User::from_name(ACCOUNT) {
        return Ok(Some(ConverterUser { uid: account.uid.as_raw(), gid: account.gid.as_raw() }));
    }
    let used = used()?;
    let is_free = |id: &u32| {
        !used.contains(id)
            && !Path::new(TAKEN).join(id.to_string()).exists()
            // An error counts as an account: better another number than a shared one.
            && matches!(User::from_uid(Uid::from_raw(*id)), Ok(None))
            && matches!(Group::from_gid(Gid::from_raw(*id)), Ok(None))
    };
    let free = DYNAMIC.clone().find(is_free).ok_or_else(|| {
        io::Error::other(format!("no user number from {} to {} is free", DYNAMIC.start(), DYNAMIC.end()))
    })?;
    Ok(Some(ConverterUser { uid: free, gid: free }))
}

/// Returns the users and groups of that range that processes have now: what runs as the same user could read its memory.
fn used() -> io::Result<Vec<u32>> {
    let mut used = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        // Not a process, or one that has ended.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let lines = status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:"));
        used.extend(
            lines
                .flat_map(str::split_whitespace)
                .filter_map(|word| word.parse().ok())
                .filter(|id| DYNAMIC.contains(id)),
        );
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt as _, process::Command};

    use super::*;

    #[test]
    fn a_number_that_nobody_has_is_chosen() {
        let chosen = choose().unwrap();
        if !geteuid().is_root() {
            assert_eq!(chosen, None);
            return;
        }
        let ConverterUser { uid, gid } = chosen.unwrap();
        if User::from_name(ACCOUNT).unwrap().is_some() {
            return;
        }
        assert!(DYNAMIC.contains(&uid) && uid == gid);
        // `getent` exits with 2 when there is no such key.
        for database in ["passwd", "group"] {
            let found = Command::new("getent").args([database, &uid.to_string()]).status().unwrap();
            assert_eq!(found.code(), Some(2));
        }
        // A process that has it makes it unusable.
        let mut other = Command::new("sleep").arg("100").uid(uid).spawn().unwrap();
        let next = choose().unwrap().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(next.uid != uid && DYNAMIC.contains(&next.uid));
    }
}

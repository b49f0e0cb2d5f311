//! The user that the converter runs as: one that owns nothing.

use std::{fs, io, path::Path};

use nix::unistd::geteuid;
use procfs::process::Process;

/// The account that packages make for it.
const ACCOUNT: &str = "netconn-convert";
/// The files of accounts and of groups. Other services that nsswitch.conf names are not asked: one that hangs (LDAP) would keep
/// the history from its limits, and none of them has an account for a program of this host or a number of [`DYNAMIC`].
const FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];
/// Numbers for users without an account, which systemd gives to services while they run (`DynamicUser`,
/// <https://systemd.io/UIDS-GIDS/>): no account and no file of a person has one of them.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;
/// Where systemd notes which of them it has given away.
const TAKEN: &str = "/run/systemd/dynamic-uid";
/// The bits of `CAP_SETGID` and `CAP_SETUID`, `include/uapi/linux/capability.h`.
const CHANGES_USER: u64 = 1 << 6 | 1 << 7;

/// A user and its only group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConverterUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Returns the user for the converter: the account for it, else a number that nobody has; `None` if the daemon is not root or
/// may not change its user.
///
/// # Errors
///
/// When no number is free, or /proc, the accounts or the groups cannot be read.
pub(super) fn choose() -> io::Result<Option<ConverterUser>> {
    if !geteuid().is_root() || !may_change_user() {
        return Ok(None);
    }
    let mut taken = used()?;
    for file in FILES {
        let text = fs::read(file).map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}")))?;
        let text = String::from_utf8_lossy(&text);
        if let Some(user) = text.lines().find_map(account) {
            return Ok(Some(user));
        }
        taken.extend(text.lines().filter_map(number));
    }
    let is_free = |id: &u32| !taken.contains(id) && !Path::new(TAKEN).join(id.to_string()).exists();
    let free = DYNAMIC.clone().find(is_free).ok_or_else(|| {
        io::Error::other(format!("no user number from {} to {} is free", DYNAMIC.start(), DYNAMIC.end()))
    })?;
    Ok(Some(ConverterUser { uid: free, gid: free }))
}

/// Returns whether this process has the capabilities to become another user.
fn may_change_user() -> bool {
    // Unknown without /proc: then the attempt shows it.
    let effective = Process::myself().and_then(|process| process.status()).map_or(u64::MAX, |status| status.capeff);
    effective & CHANGES_USER == CHANGES_USER
}

/// Returns the converter's account if this line of /etc/passwd (passwd(5)) is it. Lines of /etc/group are too short.
fn account(line: &str) -> Option<ConverterUser> {
    let fields: Vec<&str> = line.split(':').collect();
    match *fields.as_slice() {
        [ACCOUNT, _, uid, gid, _, _, _] => Some(ConverterUser { uid: uid.parse().ok()?, gid: gid.parse().ok()? }),
        _ => None,
    }
}

/// Returns the number of a line of /etc/passwd or /etc/group.
fn number(line: &str) -> Option<u32> {
    line.split(':').nth(2)?.parse().ok()
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
        if Command::new("getent").args(["passwd", ACCOUNT]).status().unwrap().success() {
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

    #[test]
    fn the_account_is_found_in_the_file() {
        let user = Some(ConverterUser { uid: 998, gid: 997 });
        assert_eq!(account("netconn-convert:x:998:997::/nonexistent:/usr/sbin/nologin"), user);
        for line in ["netconn:x:998:997::/:/bin/sh", "netconn-convert:x:998:", "netconn-convert:x:-:997:::", "+::::::"]
        {
            assert_eq!(account(line), None, "{line}");
        }
        assert_eq!(
            (number("a:x:61184:1::/:"), number("g:x:61185:b,c"), number("+"), number("")),
            (Some(61_184), Some(61_185), None, None)
        );
    }
}

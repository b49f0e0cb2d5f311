//! Prepares this process for load: its network namespace and its limit of open files.

use std::{fs, io, process::Command};

use nix::{
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
};

/// Settings (sysctl) of a new namespace, so that neither the queues of listeners nor the range of ports limit the load.
const SETTINGS: [(&str, &str); 3] =
    [("core/somaxconn", "65535"), ("ipv4/tcp_max_syn_backlog", "65535"), ("ipv4/ip_local_port_range", "1024 65535")];

/// Moves this process into a new network namespace, unless `here` is set. It must have no other threads yet, because
/// only the calling one is moved.
pub(crate) fn namespace(here: bool) -> io::Result<()> {
    if here {
        return Ok(());
    }
    // A new namespace has no connections in TIME_WAIT and no firewall rules that would slow the load.
    unshare(CloneFlags::CLONE_NEWNET)?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if !up.success() {
        return Err(io::Error::other("ip cannot set lo up"));
    }
    for (name, value) in SETTINGS {
        fs::write(format!("/proc/sys/net/{name}"), value)?;
    }
    Ok(())
}

/// Raises this process's limit of open files to the greatest that the kernel allows (`fs.nr_open`).
pub(crate) fn descriptors() -> io::Result<()> {
    let most: u64 = fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse().map_err(io::Error::other)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = most.max(hard);
    // Without privileges, the hard limit is the greatest.
    Ok(setrlimit(Resource::RLIMIT_NOFILE, limit, limit).or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?)
}

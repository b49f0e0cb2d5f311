//! What a generator changes for itself: its network namespace and its limit of descriptors.

use std::{fs, io, process::Command};

use nix::{
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
};

/// Settings of a namespace of our own: no queue and no range of ports is to be the limit.
const SETTINGS: [(&str, &str); 3] =
    [("core/somaxconn", "65535"), ("ipv4/tcp_max_syn_backlog", "65535"), ("ipv4/ip_local_port_range", "1024 65535")];

/// Moves this process into a network namespace of its own, unless it is to stay `here`. To be called before there are
/// threads.
pub(crate) fn namespace(here: bool) -> io::Result<()> {
    if here {
        return Ok(());
    }
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

/// Allows this process as many descriptors as the kernel gives to one.
pub(crate) fn descriptors() -> io::Result<()> {
    let most: u64 = fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse().map_err(io::Error::other)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = most.max(hard);
    // Without privileges the hard limit has to do.
    Ok(setrlimit(Resource::RLIMIT_NOFILE, limit, limit).or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?)
}

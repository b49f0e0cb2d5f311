//! Owners of open sockets from `/proc`, as far as this user may read it. Slow: iterators are used where BPF is allowed.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use bytemuck::Zeroable as _;
use netconn_common::{FileRecord, Owner, attribution};
use procfs::process::{FDTarget, Process, all_processes};

use crate::{
    kernel::{iterate::oldest, preflight::cgroup_root},
    process::TICK_NS,
};

/// Returns the owners of sockets by the inode of their file; of several processes the oldest.
pub fn owners() -> HashMap<u64, Owner> {
    let files = files();
    oldest(&files, |file| file.inode).into_iter().map(|(inode, file)| (inode, file.owner)).collect()
}

/// Returns the open files that are sockets, without the numbers, ports and states of these.
pub fn files() -> Vec<FileRecord> {
    let mut found = Vec::new();
    let mut cgroups = Cgroups { root: cgroup_root().map(|root| root.path), inodes: HashMap::new() };
    for process in all_processes().into_iter().flatten().flatten() {
        // Of another user, or ended since: its sockets stay without an owner.
        let Ok(files) = process.fd() else { continue };
        let mut owner = None;
        for file in files.flatten() {
            let FDTarget::Socket(inode) = file.target else { continue };
            // Three files of `/proc` are read for it: only for processes that have a socket at all.
            if owner.is_none() {
                owner = self::owner(&process, &mut cgroups);
            }
            let Some(owner) = owner else { break };
            let descriptor = u32::try_from(file.fd).unwrap_or(u32::MAX);
            found.push(FileRecord { inode, owner, descriptor, ..FileRecord::zeroed() });
        }
    }
    found
}

/// Returns a process in the form of the kernel's records; `None` if it has ended.
fn owner(process: &Process, cgroups: &mut Cgroups) -> Option<Owner> {
    let (stat, status) = (process.stat().ok()?, process.status().ok()?);
    let pid = u32::try_from(stat.pid).ok()?;
    let mut comm = [0; 16];
    // The last byte is the NUL.
    comm[..15].iter_mut().zip(stat.comm.bytes()).for_each(|(to, from)| *to = from);
    Some(Owner {
        start_ns: stat.starttime.checked_mul(TICK_NS)?,
        cgroup: cgroups.of(process).unwrap_or(0),
        tgid: pid,
        tid: pid,
        uid: status.ruid,
        how: attribution::SCAN,
        comm,
    })
}

/// Inodes of cgroups (v2) by path, read once each.
struct Cgroups {
    root: Option<PathBuf>,
    inodes: HashMap<String, u64>,
}

impl Cgroups {
    fn of(&mut self, process: &Process) -> Option<u64> {
        let root = self.root.as_ref()?;
        // Hierarchy 0 is cgroups v2 (`cgroups(7)`).
        let path = process.cgroups().ok()?.into_iter().find(|cgroup| cgroup.hierarchy == 0)?.pathname;
        // Outside of this process's cgroup namespace: where its root lies in the host's hierarchy is not told.
        if path.starts_with("/..") {
            return None;
        }
        // Many processes share a cgroup: one `stat` for each cgroup.
        if let Some(inode) = self.inodes.get(&path) {
            return Some(*inode);
        }
        let inode = fs::metadata(root.join(path.trim_start_matches('/'))).ok()?.ino();
        self.inodes.insert(path, inode);
        Some(inode)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn own_sockets_are_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = nix::sys::stat::fstat(listener.as_fd()).unwrap().st_ino;
        let owner = owners()[&inode];
        assert_eq!(owner.tgid, std::process::id());
        assert_eq!(owner.uid, nix::unistd::getuid().as_raw());
    }
}

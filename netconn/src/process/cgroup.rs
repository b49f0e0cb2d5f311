//! cgroups (v2): their names, and the systemd units and containers in these.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, rc::Rc};

use hashbrown::HashMap;

use crate::kernel::preflight::cgroup_root;

/// A cgroup.
#[derive(Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Path below the root of the hierarchy, `/` for the root.
    pub path: String,
    /// The systemd unit in its path.
    pub unit: Option<String>,
    /// The container id in its path, 64 hex digits.
    pub container: Option<String>,
}

impl Cgroup {
    /// Reads a path below the root of the hierarchy.
    pub fn new(path: String) -> Self {
        // From the end: the innermost unit and container are those that a process is in (`user@0.service` contains
        // `a.service`).
        let components = || path.rsplit('/').filter(|component| !component.is_empty());
        let unit = components().find(|name| name.ends_with(".service") || name.ends_with(".scope")).map(str::to_owned);
        let container = components().find_map(container_id).map(str::to_owned);
        Self { path, unit, container }
    }
}

/// Returns the part of a name that is exactly 64 hex digits, as Docker, containerd, CRI-O and Podman put it into the
/// names of their cgroups.
fn container_id(name: &str) -> Option<&str> {
    // Split at every other character, because the id has a prefix and a suffix (`cri-containerd-ID.scope`). Longer runs
    // are no ids.
    name.split(|character: char| !character.is_ascii_hexdigit()).find(|run| run.len() == 64)
}

/// All cgroups by the inode of their directory.
#[derive(Debug, Default)]
pub struct Cgroups {
    by_id: HashMap<u64, Rc<Cgroup>, foldhash::fast::RandomState>,
}

impl Cgroups {
    /// Replaces all known cgroups by those that a scan found.
    pub fn replace(&mut self, found: Vec<(u64, String)>) {
        self.by_id = found.into_iter().map(|(id, path)| (id, Rc::new(Cgroup::new(path)))).collect();
    }

    /// Adds a new cgroup.
    pub fn add(&mut self, id: u64, path: &[u8]) {
        self.by_id.insert(id, Rc::new(Cgroup::new(String::from_utf8_lossy(path).into_owned())));
    }

    /// Returns the cgroup whose directory has this inode.
    pub fn get(&self, id: u64) -> Option<&Rc<Cgroup>> {
        self.by_id.get(&id)
    }

    /// Returns the number of known cgroups; removed ones are counted until the next scan.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns whether no cgroup is known.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

/// Walks the hierarchy and returns inode and path of every cgroup.
pub fn scan() -> Vec<(u64, String)> {
    let mut found = Vec::new();
    // Without cgroups v2 there are no names to find; events go without them.
    if let Some(root) = cgroup_root() {
        walk(&root, &root, &mut found);
    }
    found
}

fn walk(root: &Path, directory: &Path, found: &mut Vec<(u64, String)>) {
    // Removed since the parent folder was read.
    let Ok(metadata) = fs::metadata(directory) else { return };
    let below = directory.strip_prefix(root).unwrap_or(directory);
    // The inode is the id that the kernel writes into records (`cgroup_id` in `include/linux/cgroup.h`).
    found.push((metadata.ino(), format!("/{}", below.to_string_lossy())));
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(root, &entry.path(), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_containers_are_read_from_paths() {
        let id = "0123456789abcdef".repeat(4);
        for (path, unit, container) in [
            ("/".to_owned(), None, false),
            ("/system.slice/nginx.service".to_owned(), Some("nginx.service"), false),
            ("/user.slice/user-0.slice/user@0.service/app.slice/a.service".to_owned(), Some("a.service"), false),
            ("/user.slice/user-0.slice/session-3.scope".to_owned(), Some("session-3.scope"), false),
            (format!("/docker/{id}"), None, true),
            (format!("/kubepods.slice/pod1.slice/cri-containerd-{id}.scope"), Some("cri"), true),
            (format!("/machine.slice/libpod-{id}.scope/container"), Some("libpod"), true),
            (format!("/docker/{id}0"), None, false),
        ] {
            let cgroup = Cgroup::new(path.clone());
            match unit {
                Some(start) => assert!(cgroup.unit.as_deref().is_some_and(|unit| unit.starts_with(start)), "{path}"),
                None => assert_eq!(cgroup.unit, None, "{path}"),
            }
            assert_eq!(cgroup.container.as_ref(), container.then_some(&id), "{path}");
        }
    }
}

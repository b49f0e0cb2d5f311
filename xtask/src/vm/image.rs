//! Builds the guest's file system, an initramfs: init, netconn, the tests, the programs that they run, and the kernel
//! modules that they need.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

use super::{
    arm64::ForeignPrograms,
    kernels::{FetchedKernel, KernelEntry},
};

/// Programs of the host that the tests run in the guest.
const PROGRAMS: [&str; 18] = [
    "bash", "cat", "getent", "head", "ip", "mount", "nft", "nsenter", "ping", "readlink", "rm", "setpriv", "sh", "ss",
    "sysctl", "tcpdump", "timeout", "unshare",
];
/// Kernel modules for virtual links and tunnels between network namespaces, packet filters, `ss` and tcpdump.
const MODULES: [&str; 9] =
    ["veth", "vxlan", "nf_tables", "nft_reject_inet", "tcp_diag", "udp_diag", "inet_diag", "mptcp_diag", "af_packet"];
/// Tests that run in guests, because their results depend on the kernel. Those of clients and commands do not.
const TESTS: [&str; 14] = [
    "acceptors",
    "attempts",
    "bound",
    "budget",
    "crowds",
    "endings",
    "equality",
    "flows",
    "holders",
    "icmp",
    "namespaces",
    "outcomes",
    "packet_sockets",
    "processes",
];

/// The content of an initramfs: for each path its mode and its bytes, which are `None` for a folder.
#[derive(Default)]
pub(super) struct Tree(BTreeMap<String, (u32, Option<Vec<u8>>)>);

/// Builds the image for a kernel and returns its path. `foreign` has the programs if its architecture is another one, `target`
/// is the folder of what was built for it.
pub(super) fn build(
    entry: &KernelEntry,
    kernel: &FetchedKernel,
    target: &Path,
    foreign: Option<&ForeignPrograms>,
) -> Result<PathBuf> {
    let mut tree = Tree::default();
    for folder in ["dev", "etc", "proc", "run", "sys", "tmp", "var"] {
        tree.folder(folder);
    }
    tree.file("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n".to_vec());
    tree.program(&target.join("guest-init"), "init")?;
    for name in ["netconn", "actor"] {
        tree.program(&target.join(name), &format!("t/{name}"))?;
    }
    let tests = if entry.files.is_empty() { TESTS.to_vec() } else { entry.files.iter().map(String::as_str).collect() };
    for name in tests {
        tree.program(&newest(&target.join("deps"), name)?, &format!("t/deps/{name}"))?;
    }
    for name in PROGRAMS {
        match foreign {
            Some(programs) => programs.add(&mut tree, name)?,
            None => tree.program(&on_path(name)?, &format!("bin/{name}"))?,
        }
    }
    let mut order = Vec::new();
    for name in MODULES {
        tree.module(&kernel.modules, name, &mut order)?;
    }
    tree.file("modules", 0o644, order.join("\n").into_bytes());
    let path = kernel.modules.join("netconn-initramfs");
    fs::write(&path, tree.cpio()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Returns the most recently built executable of a test.
fn newest(folder: &Path, name: &str) -> Result<PathBuf> {
    let is_one = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        path.extension().is_none() && file.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    };
    let found = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).filter(is_one);
    // cargo keeps executables of earlier builds beside the latest.
    let found = found.max_by_key(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok());
    found.with_context(|| format!("the test {name} is not built"))
}

/// Returns the path of a program of the host.
fn on_path(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder: PathBuf| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed"))
}

impl Tree {
    /// Adds a folder and its parents.
    fn folder(&mut self, path: &str) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above);
        }
        self.0.entry(path.to_owned()).or_insert((0o40_755, None));
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above);
        }
        self.0.insert(path.to_owned(), (0o100_000 | mode, Some(content)));
    }

    /// Returns whether there is a file or a folder.
    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// Adds an executable and the shared libraries that `ldd` lists for it.
    fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(to, 0o755, content);
        let output = Command::new("ldd").arg(from).output().context("cannot run ldd")?;
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            let path = word.trim_start_matches('/');
            // Most programs share the C library.
            if !self.0.contains_key(path) {
                self.file(path, 0o755, fs::read(word).with_context(|| format!("cannot read {word}"))?);
            }
        }
        Ok(())
    }

    /// Adds a kernel module, and before it in `order` the modules that it depends on. Does nothing if no file has it,
    /// as when it is built into the kernel.
    fn module(&mut self, folder: &Path, name: &str, order: &mut Vec<String>) -> Result<()> {
        if order.iter().any(|known| known == name) {
            return Ok(());
        }
        let Some(path) = find(folder, name) else { return Ok(()) };
        let content = if path.extension().is_some_and(|extension| extension == "xz") {
            let output = Command::new("xz").arg("-dc").arg(&path).output().context("cannot run xz")?;
            if !output.status.success() {
                bail!("cannot decompress {}", path.display());
            }
            output.stdout
        } else {
            fs::read(&path)?
        };
        // Dependencies are loaded first. The kernel allows no cycles among them.
        for other in depends(&content)? {
            self.module(folder, &other, order)?;
        }
        self.file(&format!("lib/{name}.ko"), 0o644, content);
        order.push(name.to_owned());
        Ok(())
    }

    /// Returns the tree in the kernel's initramfs format
    /// (`Documentation/driver-api/early-userspace/buffer-format.rst`).
    fn cpio(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let trailer = ("TRAILER!!!".to_owned(), (0, Some(Vec::new())));
        for (number, (path, (mode, content))) in self.0.clone().into_iter().chain([trailer]).enumerate() {
            // The map is sorted: a folder comes before its content, as the kernel needs it.
            let content = content.unwrap_or_default();
            // ino, mode, uid, gid, nlink, mtime, filesize, device and rdevice (two each), namesize, check.
            let fields = [number + 1, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, path.len() + 1, 0]
                .map(|field| format!("{field:08X}"));
            // Writing to memory cannot fail.
            let _ = write!(out, "070701{}{path}\0", fields.concat());
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend_from_slice(&content);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }
}

/// Finds the file of a kernel module. The file name may have `-` where the module name has `_`.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if let Some(file) = path.file_name().and_then(|file| file.to_str())
            && file.split_once(".ko").is_some_and(|(stem, _)| stem.replace('-', "_") == name)
        {
            return Some(path);
        }
    }
    None
}

/// Returns the names of the modules that a kernel module needs, from its `.modinfo`.
fn depends(module: &[u8]) -> Result<BTreeSet<String>> {
    let file = object::File::parse(module)?;
    let section = file.section_by_name(".modinfo").context("the kernel module has no .modinfo")?;
    let mut entries = section.data()?.split(|byte| *byte == 0);
    let list = entries.find_map(|entry| entry.strip_prefix(b"depends=")).unwrap_or_default();
    let names = String::from_utf8_lossy(list).replace('-', "_");
    Ok(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

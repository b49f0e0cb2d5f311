//! Debian's kernels, through the mirrors that apt is configured with, kept in `target/vm`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use xtask::{check, packages, root};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const ARCHITECTURE: &str = "cloud-amd64";

/// An entry of `tests/kernels.toml`.
#[derive(Debug, Deserialize)]
pub(crate) struct Kernel {
    /// Beginning of the version.
    pub(crate) series: String,
    /// Suite of the archive.
    suite: String,
    /// Tests that must fail on it.
    #[serde(default)]
    pub(super) cannot: Vec<String>,
}

#[derive(Deserialize)]
struct List {
    kernel: Vec<Kernel>,
}

/// A kernel that is here.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The compressed kernel.
    pub(crate) image: PathBuf,
    /// The folder of its modules.
    pub(crate) modules: PathBuf,
}

/// Why kernels cannot be fetched here, if so.
pub(crate) fn obstacle() -> Option<String> {
    if !packages::is_installed("apt-get") || !Path::new(KEYRING).exists() {
        return Some("kernels are fetched by Debian's apt".into());
    }
    mirrors().is_empty().then(|| "apt has no Debian mirror among its sources".into())
}

/// The kernels of the list, or the one of a series.
pub(crate) fn chosen(series: Option<&str>) -> Result<Vec<Kernel>> {
    let path = root().join("tests/kernels.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut kernels = toml::from_str::<List>(&text).with_context(|| path.display().to_string())?.kernel;
    kernels.retain(|kernel| series.is_none_or(|only| kernel.series == only));
    if kernels.is_empty() {
        bail!("no such series in tests/kernels.toml");
    }
    Ok(kernels)
}

/// Fetches a kernel and its modules, unless they are here.
pub(crate) fn fetch(kernel: &Kernel) -> Result<Fetched> {
    let folder = root().join("target/vm").join(&kernel.series);
    let unpacked = folder.join("root");
    if let Some(found) = find(&unpacked) {
        return Ok(found);
    }
    if let Some(reason) = obstacle() {
        bail!("kernel {} cannot be fetched here: {reason}", kernel.series);
    }
    let apt = Apt::new(&folder, &kernel.suite)?;
    check(apt.get().args(["update", "-q"]))?;
    let names = apt.newest(&kernel.series)?;
    println!("{}: fetching {}", kernel.series, names.join(", "));
    check(apt.get().arg("download").args(&names).current_dir(&folder))?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            check(Command::new("dpkg").arg("-x").arg(&path).arg(&unpacked))?;
            fs::remove_file(&path)?;
        }
    }
    find(&unpacked).with_context(|| format!("no kernel in {}", names.join(", ")))
}

/// The kernel in an unpacked package: beside its modules or in /boot.
fn find(unpacked: &Path) -> Option<Fetched> {
    let modules = ["lib/modules", "usr/lib/modules"].iter().find_map(|place| {
        fs::read_dir(unpacked.join(place)).ok()?.flatten().map(|entry| entry.path()).find(|path| path.is_dir())
    })?;
    let release = modules.file_name()?.to_str()?.to_owned();
    let places = [modules.join("vmlinuz"), unpacked.join(format!("boot/vmlinuz-{release}"))];
    Some(Fetched { image: places.into_iter().find(|path| path.exists())?, modules })
}

/// apt with lists and caches of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path, suite: &str) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let is_security = suite.ends_with("-security");
        let mirrors: Vec<_> = mirrors().into_iter().filter(|uri| uri.contains("security") == is_security).collect();
        let lines: String =
            mirrors.iter().map(|uri| format!("deb [signed-by={KEYRING}] {uri} {suite} main\n")).collect();
        fs::write(folder.join("sources.list"), lines)?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn tool(&self, program: &str) -> Command {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new(program);
        command.args(["-o", &format!("Dir::Etc::sourcelist={}", path("sources.list"))]);
        command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root"]);
        command.args(["-o", &format!("Dir::State::lists={}", path("lists"))]);
        command.args(["-o", &format!("Dir::Cache={}", path("cache"))]);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    fn get(&self) -> Command {
        let mut command = self.tool("apt-get");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Packages of the newest kernel of a series: one, or since 7.3 kernel and modules apart.
    fn newest(&self, series: &str) -> Result<Vec<String>> {
        let output =
            self.tool("apt-cache").args(["search", "--names-only", "^linux-(image|binary|modules)-"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let all: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        let version = |name: &str| -> Option<String> {
            let rest = name.strip_prefix("linux-image-")?.strip_suffix(&format!("-{ARCHITECTURE}"))?;
            let is_series = rest.strip_prefix(series)?.starts_with('.');
            // Names without a patch level are of kernels before their release, or stand for others.
            (is_series && rest.split('.').count() > 2).then(|| rest.to_owned())
        };
        let newest = all.iter().filter_map(|name| version(name)).max_by_key(|version| numbers(version));
        let newest = newest.with_context(|| format!("the archive has no kernel {series} for {ARCHITECTURE}"))?;
        let apart: Vec<String> = ["binary", "modules"]
            .iter()
            .map(|part| format!("linux-{part}-{newest}-{ARCHITECTURE}"))
            .filter(|name| all.contains(&name.as_str()))
            .collect();
        if apart.len() == 1 {
            bail!("only a part of kernel {newest} is in the archive: {}", apart[0]);
        }
        Ok(if apart.is_empty() { vec![format!("linux-image-{newest}-{ARCHITECTURE}")] } else { apart })
    }
}

/// The numbers of a version, to compare it by.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|character: char| !character.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The Debian mirrors that apt is configured with.
fn mirrors() -> Vec<String> {
    let output = Command::new("apt-get").args(["indextargets", "--format", "$(ORIGIN) $(REPO_URI)"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut found: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("Debian ")).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(numbers("6.12.9+deb13") < numbers("6.12.117+deb13"));
        assert!(numbers("5.10.0-9") < numbers("5.10.0-46"));
    }

    #[test]
    fn the_list_can_be_read() {
        assert!(chosen(None).unwrap().len() >= 5);
        assert_eq!(chosen(Some("6.1")).unwrap().len(), 1);
        assert!(chosen(Some("2.4")).is_err());
    }
}

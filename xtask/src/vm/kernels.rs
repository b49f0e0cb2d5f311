//! Downloads Debian's kernels from the mirrors in apt's configuration to `target/vm`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use xtask::{check, packages, root};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An entry of `tests/kernels.toml`.
#[derive(Debug, Deserialize)]
pub(crate) struct KernelEntry {
    /// The first two numbers of the version, such as `6.1`.
    pub(crate) series: String,
    /// The suite of the archive that has it.
    suite: String,
    /// The architecture, by Debian's name.
    #[serde(default = "amd64")]
    pub(super) architecture: String,
    /// Names of tests that must fail on this kernel.
    #[serde(default)]
    pub(super) cannot: Vec<String>,
    /// Files of tests that run in tier 2; all if empty.
    #[serde(default)]
    pub(super) tier_2: Vec<String>,
    /// The files of tests that run; those of `image`, if none is named.
    #[serde(default)]
    pub(super) files: Vec<String>,
    /// Texts: the names of the tests to run contain one of them. All tests run if there are none.
    #[serde(default)]
    pub(super) only: Vec<String>,
}

/// Returns the architecture of most kernels of the list.
fn amd64() -> String {
    "amd64".into()
}

impl KernelEntry {
    /// Returns the name in reports, which is that of its folder, too: the series, and another architecture.
    pub(crate) fn name(&self) -> String {
        if self.is_native() { self.series.clone() } else { format!("{}-{}", self.series, self.architecture) }
    }

    /// Whether its guests run the programs of this machine.
    pub(crate) fn is_native(&self) -> bool {
        self.architecture == amd64()
    }
}

#[derive(Deserialize)]
struct KernelList {
    kernel: Vec<KernelEntry>,
}

/// A downloaded kernel.
#[derive(Debug)]
pub(crate) struct FetchedKernel {
    /// The compressed kernel.
    pub(crate) image: PathBuf,
    /// The folder of its modules.
    pub(crate) modules: PathBuf,
}

/// Returns why kernels cannot be downloaded here, if so.
pub(crate) fn obstacle() -> Option<String> {
    if !packages::is_installed("apt-get") || !Path::new(KEYRING).exists() {
        return Some("downloading kernels needs apt and Debian's keyring (package debian-archive-keyring)".into());
    }
    mirrors().is_empty().then(|| "apt's sources have no Debian mirror".into())
}

/// Reads tests/kernels.toml and returns all kernels of this architecture, or only that of a name, which is a series such as `6.1`,
/// or `6.1-arm64`.
pub(crate) fn select(series: Option<&str>) -> Result<Vec<KernelEntry>> {
    let path = root().join("tests/kernels.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut kernels = toml::from_str::<KernelList>(&text).with_context(|| path.display().to_string())?.kernel;
    kernels.retain(|kernel| series.map_or(kernel.is_native(), |only| kernel.name() == only));
    if kernels.is_empty() {
        bail!("tests/kernels.toml does not have this series");
    }
    Ok(kernels)
}

/// Downloads a kernel and its modules, unless an earlier call did.
pub(crate) fn fetch(kernel: &KernelEntry) -> Result<FetchedKernel> {
    let folder = folder(kernel);
    let unpacked = folder.join("root");
    // A newer kernel of the series is taken only after `target/vm` was removed.
    if let Some(found) = find(&unpacked) {
        return Ok(found);
    }
    if let Some(reason) = obstacle() {
        bail!("cannot download kernel {}: {reason}", kernel.name());
    }
    let apt = IsolatedApt::new(&folder, &kernel.suite, &kernel.architecture)?;
    check(apt.get().args(["update", "-q"]))?;
    let names = apt.newest(&kernel.series)?;
    println!("{}: downloading {}", kernel.name(), names.join(", "));
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

/// Returns the folder of what is downloaded for a kernel.
pub(super) fn folder(kernel: &KernelEntry) -> PathBuf {
    root().join("target/vm").join(kernel.name())
}

/// Finds the kernel in an unpacked package, beside its modules or in /boot.
fn find(unpacked: &Path) -> Option<FetchedKernel> {
    let modules = ["lib/modules", "usr/lib/modules"].iter().find_map(|place| {
        fs::read_dir(unpacked.join(place)).ok()?.flatten().map(|entry| entry.path()).find(|path| path.is_dir())
    })?;
    let release = modules.file_name()?.to_str()?.to_owned();
    let places = [modules.join("vmlinuz"), unpacked.join(format!("boot/vmlinuz-{release}"))];
    Some(FetchedKernel { image: places.into_iter().find(|path| path.exists())?, modules })
}

/// Runs apt with separate lists and caches, as on a machine of an architecture on which nothing is installed.
pub(super) struct IsolatedApt {
    folder: PathBuf,
    architecture: String,
}

impl IsolatedApt {
    pub(super) fn new(folder: &Path, suite: &str, architecture: &str) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let is_security = suite.ends_with("-security");
        // Security updates are on mirrors of their own, whose addresses contain the word.
        let mirrors: Vec<_> = mirrors().into_iter().filter(|uri| uri.contains("security") == is_security).collect();
        let lines: String =
            mirrors.iter().map(|uri| format!("deb [signed-by={KEYRING}] {uri} {suite} main\n")).collect();
        fs::write(folder.join("sources.list"), lines)?;
        fs::write(folder.join("status"), "")?;
        Ok(Self { folder: folder.to_owned(), architecture: architecture.to_owned() })
    }

    fn tool(&self, program: &str) -> Command {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new(program);
        command.args(["-o", &format!("Dir::Etc::sourcelist={}", path("sources.list"))]);
        // apt's own user may not write to a folder of root.
        command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root"]);
        command.args(["-o", &format!("Dir::State::lists={}", path("lists"))]);
        command.args(["-o", &format!("Dir::Cache={}", path("cache"))]);
        command.args(["-o", &format!("Dir::State::status={}", path("status"))]);
        for option in ["APT::Architecture", "APT::Architectures"] {
            command.args(["-o", &format!("{option}={}", self.architecture)]);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    /// Returns the packages that `install --download-only` has downloaded.
    pub(super) fn downloaded(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.folder.join("cache/archives"))?;
        let paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
    }

    pub(super) fn get(&self) -> Command {
        let mut command = self.tool("apt-get");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Returns the packages of the newest kernel of a series: one package, or from 7.3 on one of the kernel and one of
    /// its modules.
    fn newest(&self, series: &str) -> Result<Vec<String>> {
        let output =
            self.tool("apt-cache").args(["search", "--names-only", "^linux-(image|binary|modules)-"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let all: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
        let suffix = format!("-cloud-{}", self.architecture);
        let version = |name: &str| -> Option<String> {
            let rest = name.strip_prefix("linux-image-")?.strip_suffix(&suffix)?;
            let is_series = rest.strip_prefix(series)?.starts_with('.');
            // Skip names without a patch level: they are release candidates or metapackages.
            (is_series && rest.split('.').count() > 2).then(|| rest.to_owned())
        };
        let newest = all.iter().filter_map(|name| version(name)).max_by_key(|version| numbers(version));
        let newest = newest.with_context(|| format!("the archive has no kernel {series} for {}", self.architecture))?;
        let apart: Vec<String> = ["binary", "modules"]
            .iter()
            .map(|part| format!("linux-{part}-{newest}{suffix}"))
            .filter(|name| all.contains(&name.as_str()))
            .collect();
        // One is of no use without the other: the kernel boots, but the tests need its modules.
        if apart.len() == 1 {
            bail!("the archive has only one of the two packages of kernel {newest}: {}", apart[0]);
        }
        Ok(if apart.is_empty() { vec![format!("linux-image-{newest}{suffix}")] } else { apart })
    }
}

/// Returns the numbers of a version, for comparison.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|character: char| !character.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Returns the Debian mirrors in apt's configuration.
pub(crate) fn mirrors() -> Vec<String> {
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
        assert!(select(None).unwrap().len() >= 5);
        assert_eq!(select(Some("6.1")).unwrap().len(), 1);
        assert!(!select(Some("6.1-arm64")).unwrap()[0].is_native());
        assert!(select(Some("2.4")).is_err());
    }
}

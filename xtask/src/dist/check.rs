//! Checks packages as those who install them would find them: linters, man pages, completions, the archive's script, and a folder
//! with nothing but the program.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use xtask::{check, command, is_root, packages, root};

use crate::dist::{
    Architecture, Package, Release, archive,
    contents::{files, read},
    make, output, program, quick, toolchain,
};

/// Tags of lintian that a package of a debug build has, because it is not static.
const OF_DEBUG_BUILDS: &str = "missing-dependency-on-libc,unstripped-binary-or-object";

/// Returns why packages cannot be made and checked here, if so.
pub(crate) fn obstacle() -> Option<String> {
    packages::obstacle(&packages::PACKAGING).or_else(toolchain::obstacle)
}

/// Returns the folder in which [`run`] leaves the packages of netconn for this machine.
pub(crate) fn made() -> PathBuf {
    output().join("check").join("first")
}

/// Builds netconn for this machine, packs it twice, packs a debug build of netconn-search, and checks the packages. That two builds
/// give the same program is what `dist --check` compares: a second build takes minutes.
pub(crate) fn run() -> Result<()> {
    if let Some(reason) = obstacle() {
        bail!("packages cannot be checked here: {reason}");
    }
    let host = Architecture::host().context("packages are made on x86_64 and aarch64 only")?;
    let release = Release::read()?;
    let folders = [made(), output().join("check").join("second")];
    for folder in &folders {
        empty(folder)?;
        make(&[Package::Netconn], host, &release, folder)?;
        archive::write_sums(folder)?;
    }
    compare(&folders[0], &folders[1])?;
    for file in files(&folders[0])? {
        let path = folders[0].join(&file);
        match file.rsplit_once('.') {
            Some((_, "deb")) => lintian(&path, &[])?,
            Some((_, "rpm")) => check(command("rpmlint", &["--config", "packaging/rpmlint.toml"]).arg(&path))?,
            Some((_, "zst")) => script(&path)?,
            _ => {}
        }
    }
    check(command("sha256sum", &["--check", "--quiet", "--strict", archive::SUMS]).current_dir(&folders[0]))?;
    lintian(&quick(Package::Search)?, &["--suppress-tags", OF_DEBUG_BUILDS])?;
    for package in Package::ALL {
        let documents = output().join("documents").join(package.name());
        manual(&documents)?;
        completions(package.name(), &documents)?;
    }
    if is_root() { alone(&program(Package::Netconn, host)?) } else { Ok(()) }
}

/// Makes an empty folder.
fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Fails unless two folders have files with the same names and bytes.
pub(super) fn compare(one: &Path, other: &Path) -> Result<()> {
    let names = files(one)?;
    if names != files(other)? {
        bail!("{} and {} have other files: {names:?}, {:?}", one.display(), other.display(), files(other)?);
    }
    let mut differing = names;
    let mut error = None;
    differing.retain(|name| match (read(&one.join(name)), read(&other.join(name))) {
        (Ok(first), Ok(second)) => first != second,
        (Err(reason), _) | (_, Err(reason)) => {
            error = Some(reason);
            true
        }
    });
    if let Some(error) = error {
        return Err(error);
    }
    if differing.is_empty() { Ok(()) } else { bail!("packed twice, but not the same: {}", differing.join(", ")) }
}

fn lintian(package: &Path, more: &[&str]) -> Result<()> {
    // Its own caution about root is for packages of strangers.
    check(command("lintian", &["--allow-root", "--fail-on", "error", "--quiet"]).args(more).arg(package))
}

/// Fails if a man page has warnings.
fn manual(documents: &Path) -> Result<()> {
    let folder = documents.join("man");
    for page in files(&folder)? {
        let output = command("man", &["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
            .arg(folder.join(&page))
            .env("MANROFFSEQ", "")
            .env("MANWIDTH", "80")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .context("cannot run man")?;
        let warnings = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !warnings.trim().is_empty() {
            bail!("{page}: {}{warnings}", output.status);
        }
    }
    Ok(())
}

/// Fails unless bash, zsh and fish load the completions of a program and complete an option by them.
fn completions(program: &str, documents: &Path) -> Result<()> {
    let path = |file: String| documents.join(file).display().to_string();
    let bash = format!(
        "source '{}'; complete -p {program} >/dev/null; COMP_WORDS=({program} --vers) COMP_CWORD=1; _{} {program} --vers {program}; \
         echo \"${{COMPREPLY[@]}}\"",
        path(format!("bash/{program}")),
        // As clap_complete names its function.
        program.replace('-', "__"),
    );
    answers(Command::new("bash").args(["--norc", "--noprofile", "-euc", &bash]), "--version")?;
    let zsh = format!(
        "fpath=('{}' $fpath); autoload -Uz compinit; compinit -u -D; [[ ${{_comps[{program}]}} = _{program} ]] && autoload +X _{program} \
         && echo loaded",
        path("zsh".into()),
    );
    answers(Command::new("zsh").args(["-f", "-c", &zsh]), "loaded")?;
    let fish = format!("source '{}'; complete -C '{program} --vers'", path(format!("fish/{program}.fish")));
    answers(Command::new("fish").args(["--no-config", "-c", &fish]), "--version")
}

/// Fails unless a command succeeds with a text in its output.
fn answers(command: &mut Command, expected: &str) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !text.contains(expected) || !errors.trim().is_empty() {
        bail!("{command:?}: {}: not '{expected}', but '{}' {errors}", output.status, text.trim());
    }
    Ok(())
}

/// Installs an archive below a folder twice and removes it again: what was changed stays, and nothing else.
fn script(archive: &Path) -> Result<()> {
    let stage = archive.with_extension("");
    empty(&stage)?;
    check(
        command("tar", &["--extract", "--zstd", "--strip-components=1", "--file"])
            .arg(archive)
            .arg("--directory")
            .arg(&stage),
    )?;
    let system = stage.join("system");
    fs::create_dir(&system)?;
    let run = |arguments: &[&str]| {
        check(Command::new(stage.join("install.sh")).args(arguments).arg("--root").arg(&system).stderr(Stdio::null()))
    };
    run(&["install"])?;
    let shipped = files(&stage.join("files"))?;
    for file in &shipped {
        if read(&stage.join("files").join(file))? != read(&system.join(file))? {
            bail!("install.sh has not installed {file}");
        }
    }
    fs::write(system.join("etc/netconn/netconn.toml"), "history_days = 7\n")?;
    run(&["install"])?;
    if fs::read_to_string(system.join("etc/netconn/netconn.toml"))? != "history_days = 7\n" {
        bail!("install.sh has replaced a configuration that was changed");
    }
    run(&["uninstall"])?;
    let left = files(&system)?;
    if left != ["etc/netconn/netconn.toml", "etc/netconn/netconn.toml.new"] {
        bail!("install.sh uninstall has left {}", left.join(", "));
    }
    run(&["install"])?;
    run(&["uninstall", "--purge"])?;
    let left = files(&system)?;
    if !left.is_empty() {
        bail!("install.sh uninstall --purge has left {}", left.join(", "));
    }
    Ok(fs::remove_dir_all(&stage)?)
}

/// Runs a program in a folder that has nothing else but `/proc` and `/sys`: as on a machine with whatever user land.
fn alone(program: &Path) -> Result<()> {
    let folder = output().join("check/alone");
    empty(&folder)?;
    fs::copy(program, folder.join("netconn"))?;
    // Its own mount namespace: nothing is left mounted. The daemon has a minute to say that it has started.
    let script = "set -e; cd \"$1\"; mkdir proc sys; mount --rbind /proc proc; mount --rbind /sys sys; \
                  chroot . /netconn list -tln; chroot . /netconn doctor || [ $? = 69 ]; \
                  chroot . /netconn run --no-history --events - --socket /sock --state-dir /state >events & \
                  daemon=$!; left=600; until grep -q 'Sensor Start' events || [ $left = 0 ]; do sleep 0.1; left=$((left - 1)); done; \
                  kill -TERM $daemon; wait $daemon; cat events";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&folder)
        .stderr(Stdio::piped())
        .output()
        .context("cannot run unshare")?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let is_told = ["This machine", "\"event.type\":\"Sensor Start\"", "\"event.type\":\"Sensor Stop\""];
    if let Some(missing) = is_told.into_iter().find(|part| !text.contains(part)) {
        bail!("netconn alone in a folder: {}: {missing} is missing in: {text}{errors}", output.status);
    }
    Ok(fs::remove_dir_all(&folder)?)
}

/// Copies the files of the tree that git knows to a folder, for a build elsewhere.
pub(super) fn copy_tree(to: &Path) -> Result<PathBuf> {
    empty(to)?;
    let listing = command("git", &["ls-files", "--cached", "--others", "--exclude-standard"]).output();
    let listing = String::from_utf8(listing.context("cannot run git")?.stdout)?;
    for file in listing.lines() {
        let from = root().join(file);
        // Deleted, and not committed yet.
        if !from.is_file() {
            continue;
        }
        let target = to.join(file);
        fs::create_dir_all(target.parent().context("a file is in a folder")?)?;
        fs::copy(&from, &target).with_context(|| format!("cannot copy {file}"))?;
    }
    Ok(to.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        for (place, text) in [(&one, "a"), (&other, "b")] {
            fs::create_dir(place).unwrap();
            fs::write(place.join("same"), "same").unwrap();
            fs::write(place.join("differs"), text).unwrap();
        }
        assert_eq!(compare(&one, &other).unwrap_err().to_string(), "packed twice, but not the same: differs");
        fs::remove_file(other.join("differs")).unwrap();
        assert!(compare(&one, &other).unwrap_err().to_string().contains("other files"));
        assert!(compare(&one, &one).is_ok());
    }
}

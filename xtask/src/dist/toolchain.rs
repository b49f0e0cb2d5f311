//! Compiles for static binaries: Rust's standard library from its sources, and zig as C compiler and linker, which brings musl for
//! both architectures.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use xtask::{cargo, check, command, root, target_dir};

use crate::{dist::parts::Part, ebpf};

/// The release of zig, from PyPI; another may generate other bytes.
const ZIG: &str = "0.15.2";
/// Parts of the standard library that are built. `panic_abort` is asked for by `std` itself.
const BUILD_STD: &str = "-Zbuild-std=std,panic_unwind,panic_abort";

/// An architecture for which packages are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Architecture {
    /// 64-bit Intel and AMD.
    #[value(name = "x86_64")]
    X86,
    /// 64-bit Arm.
    #[value(name = "aarch64")]
    Arm,
}

impl Architecture {
    /// All, in the order in which they are built.
    pub(crate) const ALL: [Self; 2] = [Self::X86, Self::Arm];

    /// Returns that of this machine; `None` if no packages are made for it.
    pub(crate) fn host() -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.name() == env::consts::ARCH)
    }

    /// Returns the name that the kernel, Rust and rpm use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "aarch64",
        }
    }

    /// Returns Debian's name.
    pub(super) fn debian(self) -> &'static str {
        match self {
            Self::X86 => "amd64",
            Self::Arm => "arm64",
        }
    }

    /// Returns Rust's name of the target.
    pub(super) fn target(self) -> String {
        format!("{}-unknown-linux-musl", self.name())
    }
}

/// Returns what is missing to build static binaries and how to install it, or `None` if they can be built.
pub(crate) fn obstacle() -> Option<String> {
    if let Some(sources) = ebpf::missing_sources() {
        return Some(format!("not installed: {sources}"));
    }
    if zig().is_some() {
        return None;
    }
    let pip = Command::new("python3").args(["-m", "pip", "--version"]).output();
    (!pip.is_ok_and(|output| output.status.success()))
        .then(|| format!("not installed: zig {ZIG}, or pip to install it (python3 -m pip; package python3-pip)"))
}

/// Makes a cargo command that builds static binaries for an architecture. `--target` is added to the arguments.
///
/// Installs zig into the user's cache if it is missing.
pub(crate) fn static_cargo(architecture: Architecture, arguments: &[&str]) -> Result<Command> {
    static_cargo_in(&root(), &target_dir(), architecture, arguments)
}

/// Does what [`static_cargo`] does for a copy of the tree, with its own folder for what is built.
pub(super) fn static_cargo_in(
    tree: &Path,
    target_dir: &Path,
    architecture: Architecture,
    arguments: &[&str],
) -> Result<Command> {
    let zig = match zig() {
        Some(zig) => zig,
        None => install()?,
    };
    let tools = wrappers(&zig, architecture)?;
    let target = architecture.target();
    let mut command = cargo(arguments);
    let variable = |name: &str| target.replace('-', "_") + name;
    command
        .current_dir(tree)
        .args(["--target", &target, BUILD_STD])
        // build-std needs this on a stable compiler. It is safe because the library sources are this compiler's own.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", target_dir)
        .env(format!("CC_{}", variable("")), tools.join("cc"))
        .env(format!("AR_{}", variable("")), tools.join("ar"))
        .env(format!("CARGO_TARGET_{}", variable("_LINKER").to_uppercase()), tools.join("cc"))
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(tree, target_dir)?.join("\x1f"));
    for (name, value) in zig_environment()? {
        command.env(name, value);
    }
    Ok(command)
}

/// Returns the compiler's options: paths of this machine do not get into the program.
fn flags(tree: &Path, target_dir: &Path) -> Result<Vec<String>> {
    // zig has the start files and musl. It does not know `-static-pie`, which rustc gives it, but both of its parts: the program has
    // no fixed address in memory.
    let mut flags: Vec<String> =
        ["-Clink-self-contained=no", "-Ctarget-feature=+crt-static", "-Clink-arg=-static", "-Clink-arg=-pie"]
            .map(str::to_owned)
            .into();
    let mut remap = |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    // The last matching prefix wins, so the most general comes first.
    remap(tree, "netconn");
    remap(target_dir, "target");
    for registry in ebpf::registries()? {
        remap(&registry, "registry");
    }
    remap(&ebpf::sysroot()?.join("lib/rustlib/src/rust"), "rust");
    Ok(flags)
}

/// Returns the folder of this user's caches for the chores.
fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| env::home_dir().map(|home| home.join(".cache"))).context("no home directory")?;
    Ok(base.join("netconn-xtask"))
}

/// Returns where zig keeps what it has compiled, musl above all: 25 s of work for each architecture.
fn zig_environment() -> Result<[(&'static str, PathBuf); 2]> {
    let cache = cache()?.join("zig");
    Ok([("ZIG_GLOBAL_CACHE_DIR", cache.clone()), ("ZIG_LOCAL_CACHE_DIR", cache)])
}

/// Returns the installed zig of the right release.
fn zig() -> Option<PathBuf> {
    let own = folder().ok()?.join("ziglang/zig");
    if own.is_file() {
        return Some(own);
    }
    let output = Command::new("zig").arg("version").output().ok()?;
    (String::from_utf8_lossy(&output.stdout).trim() == ZIG).then(|| "zig".into())
}

/// Returns the folder into which the chores install zig.
fn folder() -> Result<PathBuf> {
    Ok(cache()?.join(format!("ziglang-{ZIG}")))
}

/// Installs zig, 80 MB to download, and returns the program.
fn install() -> Result<PathBuf> {
    let folder = folder()?;
    let new = folder.with_extension(std::process::id().to_string());
    println!("installing zig {ZIG} into {}", folder.display());
    let package = format!("ziglang=={ZIG}");
    let options = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"];
    check(command("python3", &options).args(["--no-deps", "--target"]).arg(&new).arg(package))
        .context("zig could not be installed")?;
    if let Err(error) = fs::rename(&new, &folder) {
        fs::remove_dir_all(&new)?;
        // Another process was faster.
        if !folder.exists() {
            return Err(error).with_context(|| format!("cannot make {}", folder.display()));
        }
    }
    Ok(folder.join("ziglang/zig"))
}

/// Writes programs that call zig as the C compiler and archiver of an architecture; cargo cannot give it arguments. Returns their
/// folder.
fn wrappers(zig: &Path, architecture: Architecture) -> Result<PathBuf> {
    let folder = cache()?.join(format!("bin-{ZIG}-{}", architecture.name()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let zig = zig.to_str().context("the path of zig is not UTF-8")?;
    let compiler = format!(
        // The build scripts of C sources name the target, too, but in LLVM's way, which zig does not know.
        "for argument do\n    shift\n    case \"$argument\" in\n    --target=*) ;;\n    *) set -- \"$@\" \"$argument\" ;;\n    esac\n\
         done\nexec '{zig}' cc -target {}-linux-musl \"$@\"\n",
        architecture.name()
    );
    for (name, commands) in [("cc", compiler), ("ar", format!("exec '{zig}' ar \"$@\"\n"))] {
        let text = format!("#!/bin/sh\n{commands}");
        let file = folder.join(name);
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            continue;
        }
        // Renamed: another process may be running the old one.
        let new = folder.join(format!("{name}.{}", std::process::id()));
        fs::write(&new, text)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        fs::rename(new, file)?;
    }
    Ok(folder)
}

/// What zig links into every program, with its version in this release of zig, its license, and the text of it in
/// `packaging/licenses`.
const PARTS: [(&str, &str, &str, &str); 3] = [
    ("libunwind", "20.1.2", "Apache-2.0 WITH LLVM-exception", "libunwind.txt"),
    ("musl", "1.2.5", "MIT", "musl.txt"),
    ("zig-compiler-rt", ZIG, "MIT", "zig.txt"),
];

/// Returns the parts of every program that come from zig.
pub(super) fn parts() -> Result<Vec<Part>> {
    let part = |(name, version, license, file): (&str, &str, &str, &str)| {
        let text = fs::read_to_string(root().join("packaging/licenses").join(file))?;
        Ok(Part {
            name: name.into(),
            version: version.into(),
            license: license.into(),
            checksum: None,
            is_crate: false,
            texts: [text.trim().to_owned()].into(),
        })
    };
    PARTS.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licenses_are_those_of_zig() {
        // Elsewhere the texts are taken as they are.
        let Some(library) = folder().ok().map(|folder| folder.join("ziglang")).filter(|folder| folder.exists()) else {
            return;
        };
        for (kept, there) in [
            ("musl.txt", "lib/libc/musl/COPYRIGHT"),
            ("libunwind.txt", "lib/libunwind/LICENSE.TXT"),
            ("zig.txt", "LICENSE"),
        ] {
            let kept = fs::read(root().join("packaging/licenses").join(kept)).unwrap();
            assert_eq!(kept, fs::read(library.join(there)).unwrap(), "{there}");
        }
    }
}

//! Makes the packages that are released, below `target/dist`: the same bytes from the same commit.

mod toolchain;
mod contents;
mod deb;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use xtask::{cargo, check, command, root, target_dir};

pub(crate) use self::contents::Package;
pub(crate) use self::toolchain::{Architecture, obstacle, static_cargo};
use self::{contents::Staged, deb::Compression};

/// Whom packages name as their maintainer.
const MAINTAINER: &str = "The netconn authors <maintainers@netconn.example>";
/// The profile of the programs in packages.
const PROFILE: &str = "search";

/// Options of `cargo xtask dist`.
#[derive(Args)]
pub(crate) struct DistOptions {
    /// Make packages for this architecture only.
    #[arg(long, value_name = "NAME")]
    arch: Option<Architecture>,
    /// Make this package only.
    #[arg(long, value_name = "PACKAGE")]
    only: Option<Only>,
    /// Make a .deb of a debug build for this machine, to try what a package does. It is not static and not for others.
    #[arg(long, conflicts_with = "arch")]
    quick: bool,
}

/// A package that is made alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// The daemon and the command line.
    Netconn,
    /// The query engine.
    NetconnSearch,
}

impl Only {
    fn package(self) -> Package {
        match self {
            Self::Netconn => Package::Netconn,
            Self::NetconnSearch => Package::Search,
        }
    }
}

/// What all packages of a release have in common.
struct Release {
    /// Version of the programs.
    version: String,
    /// When the commit was made, seconds since 1970: the time of all files.
    epoch: u64,
    maintainer: String,
}

impl Release {
    /// Reads the version of the tree and the time of its commit, or `SOURCE_DATE_EPOCH`.
    fn read() -> Result<Self> {
        let manifest: Manifest = toml::from_str(&fs::read_to_string(root().join("Cargo.toml"))?)?;
        let epoch = match env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => text,
            Err(_) => {
                let output = command("git", &["log", "-1", "--format=%ct"]).output().context("cannot run git")?;
                String::from_utf8(output.stdout)?
            }
        };
        let epoch = epoch.trim().parse().context("the time of the commit is not known: set SOURCE_DATE_EPOCH")?;
        Ok(Self { version: manifest.workspace.package.version, epoch, maintainer: MAINTAINER.into() })
    }

    /// Returns the version of Debian packages.
    fn debian(&self) -> String {
        format!("{}-1", self.version)
    }
}

/// The part of `Cargo.toml` that is read.
#[derive(Deserialize)]
struct Manifest {
    workspace: ManifestWorkspace,
}

#[derive(Deserialize)]
struct ManifestWorkspace {
    package: ManifestPackage,
}

#[derive(Deserialize)]
struct ManifestPackage {
    version: String,
}

/// Returns the folder of what is released.
pub(crate) fn output() -> PathBuf {
    target_dir().join("dist")
}

/// Makes the packages that were asked for.
pub(crate) fn run(options: &DistOptions) -> Result<()> {
    let packages = options.only.map_or_else(|| Package::ALL.to_vec(), |only| vec![only.package()]);
    if options.quick {
        for package in packages {
            println!("{}", quick(package)?.display());
        }
        return Ok(());
    }
    if let Some(reason) = obstacle() {
        bail!("static programs cannot be built: {reason}");
    }
    let release = Release::read()?;
    let architectures = options.arch.map_or_else(|| Architecture::ALL.to_vec(), |arch| vec![arch]);
    for architecture in architectures {
        for &package in &packages {
            for file in make(package, architecture, &release)? {
                println!("{}", file.display());
            }
        }
    }
    Ok(())
}

/// Makes a .deb from a debug build for this machine and returns its path.
pub(crate) fn quick(package: Package) -> Result<PathBuf> {
    check(&mut cargo(&["build", "--quiet", "--package", package.name()]))?;
    let program = target_dir().join("debug").join(package.name());
    let release = Release::read()?;
    let architecture = Architecture::host().context("no packages are made for this architecture")?;
    let output = output().join("quick");
    fs::create_dir_all(&output)?;
    let documents = documents(package, &program)?;
    let staged = Staged::new(package, output.join("stage").join(package.name()), &program, &documents, deb::LAYOUT)?;
    deb::build(&staged, architecture, &release, Compression::Fast, &output)
}

/// Makes the packages of one program and architecture, and returns their paths.
fn make(package: Package, architecture: Architecture, release: &Release) -> Result<Vec<PathBuf>> {
    let program = program(package, architecture)?;
    // Programs of another architecture cannot be asked.
    let host = Architecture::host().context("packages are made on x86_64 and aarch64 only")?;
    let documents = if host == architecture {
        documents(package, &program)?
    } else {
        documents(package, &self::program(package, host)?)?
    };
    let output = output();
    let folder = output.join("stage").join(architecture.name()).join("deb").join(package.name());
    let staged = Staged::new(package, folder, &program, &documents, deb::LAYOUT)?;
    Ok(vec![deb::build(&staged, architecture, release, Compression::Small, &output)?])
}

/// Builds the static program of a package and returns its path.
pub(crate) fn program(package: Package, architecture: Architecture) -> Result<PathBuf> {
    let since = Instant::now();
    check(&mut static_cargo(
        architecture,
        &["build", "--quiet", "--locked", "--package", package.name(), "--profile", PROFILE],
    )?)?;
    let path = target_dir().join(architecture.target()).join(PROFILE).join(package.name());
    let (bytes, seconds) = (fs::metadata(&path)?.len(), since.elapsed().as_secs());
    println!("{} for {}: {bytes} bytes, built in {seconds} s", package.name(), architecture.name());
    Ok(path)
}

/// Lets a program write its man pages, completions and configuration to a new folder, and returns that.
fn documents(package: Package, program: &Path) -> Result<PathBuf> {
    let folder = output().join("documents").join(package.name());
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    check(Command::new(program).arg("generate").arg(&folder))?;
    Ok(folder)
}

//! Makes the packages that are released, below `target/dist`: the same bytes from the same commit.

mod toolchain;
mod contents;
mod parts;
mod sbom;
mod deb;
mod rpm;
mod archive;
pub(crate) mod check;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use xtask::{cargo, command, root, target_dir};

pub(crate) use self::contents::Package;
pub(crate) use self::toolchain::{Architecture, obstacle, static_cargo};
use self::{
    contents::{Ingredients, Staged},
    deb::Compression,
};

/// Whom packages name as their maintainer.
const MAINTAINER: &str = "The netconn authors <maintainers@netconn.example>";

/// The profile of the programs in packages.
pub(crate) const PROFILE: &str = "search";

/// Options of `cargo xtask dist`.
#[derive(Args)]
pub(crate) struct DistOptions {
    /// Make packages for this architecture only.
    #[arg(long, value_name = "NAME")]
    arch: Option<Architecture>,
    /// Make this package only.
    #[arg(long, value_name = "PACKAGE")]
    only: Option<Only>,
    /// Build every program a second time, from a copy of the tree in another folder, and fail if a byte differs.
    #[arg(long, conflicts_with = "quick")]
    check: bool,
    /// Make the packages of netconn for this machine and check them, as the step `packages` of `cargo xtask test` does.
    #[arg(long, exclusive = true)]
    verify: bool,
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
                if !output.status.success() {
                    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                    bail!("git does not tell when the commit was made (SOURCE_DATE_EPOCH says it, too): {reason}");
                }
                String::from_utf8(output.stdout)?
            }
        };
        let epoch = epoch.trim().parse().context("the time of the commit is not known: set SOURCE_DATE_EPOCH")?;
        Ok(Self { version: manifest.workspace.package.version, epoch, maintainer: MAINTAINER.into() })
    }

    /// Returns when the commit was made, in UTC, in a format of date(1).
    fn date(&self, format: &str) -> Result<String> {
        let output = command("date", &["--utc", "--date", &format!("@{}", self.epoch), format]).output();
        Ok(String::from_utf8(output.context("cannot run date")?.stdout)?.trim().to_owned())
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
    if options.verify {
        return check::run();
    }
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
    let output = output();
    fs::create_dir_all(&output)?;
    for &architecture in &architectures {
        for file in make(&packages, architecture, &release, &output)? {
            println!("{}: {} bytes", file.display(), fs::metadata(&file)?.len());
        }
    }
    archive::write_sums(&output)?;
    if options.check { check_again(&packages, &architectures) } else { Ok(()) }
}

/// Builds programs a second time, elsewhere, and compares them with those in packages.
fn check_again(packages: &[Package], architectures: &[Architecture]) -> Result<()> {
    let folder = output().join("again");
    let tree = check::copy_tree(&folder.join("tree"))?;
    let target_dir = folder.join("target");
    for &architecture in architectures {
        for &package in packages {
            let first = fs::read(program(package, architecture)?)?;
            let arguments = ["build", "--quiet", "--locked", "--package", package.name(), "--profile", PROFILE];
            xtask::check(&mut toolchain::static_cargo_in(&tree, &target_dir, architecture, &arguments)?)?;
            let second = fs::read(built_in(&target_dir, package, architecture))?;
            if first != second {
                bail!(
                    "two builds of {} for {} differ; {} has the second",
                    package.name(),
                    architecture.name(),
                    folder.display()
                );
            }
            println!("{} for {}: built twice, the same {} bytes", package.name(), architecture.name(), first.len());
        }
    }
    Ok(fs::remove_dir_all(&folder)?)
}

/// Returns where cargo puts a static program.
fn built_in(target_dir: &Path, package: Package, architecture: Architecture) -> PathBuf {
    target_dir.join(architecture.target()).join(PROFILE).join(package.name())
}

/// Makes a .deb from a debug build for this machine and returns its path.
pub(crate) fn quick(package: Package) -> Result<PathBuf> {
    xtask::check(&mut cargo(&["build", "--quiet", "--package", package.name()]))?;
    let program = target_dir().join("debug").join(package.name());
    let architecture = Architecture::host().context("no packages are made for this architecture")?;
    let output = output().join("quick");
    fs::create_dir_all(&output)?;
    let release = Release::read()?;
    let made_of = ingredients(package, architecture, &release, program.clone(), &program)?;
    let staged = Staged::new(package, output.join("stage").join(package.name()), &made_of, deb::LAYOUT)?;
    deb::build(&staged, architecture, &release, Compression::Fast, &output)
}

/// Makes all packages of an architecture and returns their paths.
fn make(packages: &[Package], architecture: Architecture, release: &Release, output: &Path) -> Result<Vec<PathBuf>> {
    let host = Architecture::host().context("packages are made on x86_64 and aarch64 only")?;
    let stage = output.join("stage").join(architecture.name());
    let (mut made, mut for_archive) = (Vec::new(), Vec::new());
    for &package in packages {
        let built = program(package, architecture)?;
        // Programs of another architecture cannot be asked.
        let asked = if host == architecture { built.clone() } else { program(package, host)? };
        let made_of = ingredients(package, architecture, release, built, &asked)?;
        let folder = |format: &str| stage.join(format).join(package.name());
        let staged = Staged::new(package, folder("deb"), &made_of, deb::LAYOUT)?;
        made.push(deb::build(&staged, architecture, release, Compression::Small, output)?);
        let staged = Staged::new(package, folder("rpm"), &made_of, rpm::LAYOUT)?;
        made.push(rpm::build(&staged, architecture, release, output)?);
        for_archive.push(staged);
        let bill = output.join(format!("{}-{}-{}.cdx.json", package.name(), release.version, architecture.name()));
        fs::write(&bill, &made_of.bill)?;
        made.push(bill);
    }
    made.push(archive::build(&for_archive, architecture, release, output)?);
    fs::remove_dir_all(&stage)?;
    Ok(made)
}

/// Returns what a package is made of. `asked` is its program for this machine.
fn ingredients(
    package: Package,
    architecture: Architecture,
    release: &Release,
    program: PathBuf,
    asked: &Path,
) -> Result<Ingredients> {
    let parts = parts::of(package, architecture)?;
    Ok(Ingredients {
        program,
        documents: documents(package, asked)?,
        notices: parts::notices(&parts),
        bill: sbom::bill(package, architecture, release, &parts)?,
    })
}

/// Builds the static program of a package and returns its path.
pub(crate) fn program(package: Package, architecture: Architecture) -> Result<PathBuf> {
    let since = Instant::now();
    xtask::check(&mut static_cargo(
        architecture,
        &["build", "--quiet", "--locked", "--package", package.name(), "--profile", PROFILE],
    )?)?;
    let path = built_in(&target_dir(), package, architecture);
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
    xtask::check(Command::new(program).arg("generate").arg(&folder))?;
    Ok(folder)
}

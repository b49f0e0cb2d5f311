//! Builds the eBPF object, the same bytes on every machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use xtask::root;

/// The object that netconn embeds.
const OBJECT: &str = "netconn/bpf/netconn.bpf.o";
const TARGET: &str = "bpfel-unknown-none";
/// The compiler of `rust-toolchain.toml`; another version may generate other bytes.
pub(crate) const RUSTC: &str = "1.95.0";
/// The linker that links against the LLVM 22 of that compiler; another version may generate other bytes.
const LINKER_VERSION: &str = "0.10.4";

/// Returns which tools are missing to build the object and how to install them, or `None` if the object can be built.
pub(crate) fn missing_tools() -> Option<String> {
    let linker = Command::new("bpf-linker").arg("--version").output();
    let linker = linker.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    advice(missing_sources().is_none(), &linker)
}

/// Returns how to install the library sources of rustc, if they are missing.
pub(crate) fn missing_sources() -> Option<String> {
    let sources = sysroot().ok()?.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    (!sources.exists()).then(sources_advice)
}

fn sources_advice() -> String {
    format!("the library sources of rustc (rustup component add rust-src --toolchain {RUSTC})")
}

/// Returns how to install the library sources of rustc and the linker, if they are missing. `linker` is the output of
/// `bpf-linker --version`.
fn advice(has_sources: bool, linker: &str) -> Option<String> {
    let mut missing = Vec::new();
    if !has_sources {
        missing.push(sources_advice());
    }
    if linker != format!("bpf-linker {LINKER_VERSION}") {
        missing.push(format!(
            "bpf-linker {LINKER_VERSION} (cargo install bpf-linker --version {LINKER_VERSION} --locked)"
        ));
    }
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
}

/// Builds the object and writes it to `OBJECT`, or with `check` compares it with the committed one.
pub(crate) fn run(check: bool) -> Result<()> {
    if let Some(reason) = missing_tools() {
        bail!("the eBPF object cannot be built: {reason}");
    }
    let object = strip(&fs::read(build()?)?)?;
    let place = root().join(OBJECT);
    let committed = fs::read(&place).unwrap_or_default();
    if check {
        if object != committed {
            bail!("{OBJECT} differs from what netconn-ebpf builds; run `cargo xtask ebpf` and commit it");
        }
        println!("{OBJECT}: {} bytes, as built from source", object.len());
    } else {
        if object != committed {
            fs::write(&place, &object).with_context(|| format!("cannot write {}", place.display()))?;
        }
        println!("{OBJECT}: {} bytes, {}", object.len(), if object == committed { "unchanged" } else { "new" });
    }
    Ok(())
}

/// Builds with full debug info, which the linker converts to BTF, and with every path remapped that differs between
/// machines.
fn build() -> Result<PathBuf> {
    let root = root();
    let target_dir = root.join("target/ebpf");
    let mut flags = vec!["-Clink-arg=--btf".to_owned()];
    let mut remap = |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    // The last matching prefix wins, so the most general comes first.
    remap(&root, "netconn");
    remap(&target_dir, "target");
    for registry in registries()? {
        remap(&registry, "registry");
    }
    remap(&sysroot()?.join("lib/rustlib/src/rust"), "rust");
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&root)
        // build-std needs this on a stable compiler. It is safe because the library sources are this compiler's own.
        .env("RUSTC_BOOTSTRAP", "1")
        // Separated as cargo demands it here; a flag may contain spaces, as paths do.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_TARGET_DIR", &target_dir)
        .env_remove("RUSTFLAGS")
        .args(["build", "--quiet", "--locked", "--package", "netconn-ebpf", "--profile", "ebpf"])
        .args(["--target", TARGET, "-Zbuild-std=core"])
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the eBPF programs do not build");
    }
    Ok(target_dir.join(TARGET).join("ebpf/netconn-ebpf"))
}

/// Returns the folders in cargo's home that have the sources of crates.
pub(crate) fn registries() -> Result<Vec<PathBuf>> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let sources = home.context("no home directory")?.join("registry/src");
    let entries = fs::read_dir(&sources).with_context(|| format!("cannot read {}", sources.display()))?;
    Ok(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
}

pub(crate) fn sysroot() -> Result<PathBuf> {
    let output = Command::new("rustc").current_dir(root()).args(["--print", "sysroot"]).output();
    let output = output.context("cannot run rustc")?;
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// Removes DWARF, which aya does not read; the linker has converted it to BTF.
fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = object::build::elf::Builder::read(object).context("the eBPF object is no ELF file")?;
    for section in &mut builder.sections {
        if section.name.starts_with(b".debug") || section.name.starts_with(b".rel.debug") {
            section.delete = true;
        }
    }
    // Symbols and relocations of the removed sections would make the object invalid.
    builder.delete_orphans();
    // LLVM writes all names into one string table, but this writer needs a separate one for the names of sections.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = object::build::elf::SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("the eBPF object cannot be written")?;
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_all_that_is_missing() {
        assert_eq!(advice(true, "bpf-linker 0.10.4"), None);
        let linker = advice(true, "bpf-linker 0.9.0").unwrap();
        assert_eq!(linker, "not installed: bpf-linker 0.10.4 (cargo install bpf-linker --version 0.10.4 --locked)");
        let both = advice(false, "").unwrap();
        assert!(both.contains("rustup component add rust-src --toolchain 1.95.0"), "{both}");
        assert!(both.contains("cargo install bpf-linker"), "{both}");
    }

    #[test]
    fn the_compiler_is_that_of_the_tree() {
        let toolchain = fs::read_to_string(root().join("rust-toolchain.toml")).unwrap();
        assert!(toolchain.contains(&format!("channel = \"{RUSTC}\"")), "{toolchain}");
    }
}

//! Writes the trimmed BTF of each kernel of the matrix, which unit tests read.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};
use xtask::{cargo, check, packages, root};

use crate::vm::kernels::{self, FetchedKernel};

/// The folder of the files; the tests of `netconn::kernel::layout` read them.
const FOLDER: &str = "netconn/tests/data/btf";
/// Compression formats of kernels: magic number and the program that decompresses it.
const FORMATS: [(&[u8], packages::NeededProgram); 4] = [
    (&[0x1f, 0x8b], ("gzip", "gzip")),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], ("xz", "xz-utils")),
    (&[0x28, 0xb5, 0x2f, 0xfd], ("zstd", "zstd")),
    // The old format of lz4, which the kernel's build uses.
    (&[0x02, 0x21, 0x4c, 0x18], ("lz4", "lz4")),
];

/// Writes the files of all kernels in tests/kernels.toml, or of one series.
pub(crate) fn run(series: Option<&str>) -> Result<()> {
    for kernel in kernels::select(series)?.into_iter().filter(kernels::KernelEntry::is_native) {
        let fetched = kernels::fetch(&kernel)?;
        let types = read_btf(&fetched.image).with_context(|| fetched.image.display().to_string())?;
        let whole = root().join("target/btf").join(&kernel.series);
        fs::create_dir_all(root().join("target/btf"))?;
        fs::write(&whole, types).with_context(|| format!("cannot write {}", whole.display()))?;
        trim(&fetched, &whole, &file(&kernel.series))?;
    }
    Ok(())
}

/// Returns the path of a series' file, relative to the workspace's root.
fn file(series: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{series}.btf"))
}

/// Trims BTF with netconn's example `trim_btf`, which has netconn's tables of the types that it reads.
fn trim(kernel: &FetchedKernel, whole: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(root().join(FOLDER))?;
    let release = kernel.modules.file_name().unwrap_or_default();
    check(cargo(&["run", "--quiet", "--package", "netconn", "--example", "trim_btf", "--"]).args([
        release,
        whole.as_os_str(),
        to.as_os_str(),
    ]))
}

/// Returns the BTF of a bzImage.
fn read_btf(image: &Path) -> Result<Vec<u8>> {
    let image = fs::read(image)?;
    let kernel = decompress(compressed_kernel(&image).context("the image is not a bzImage")?)?;
    let file = object::File::parse(kernel.as_slice()).context("the decompressed kernel is no ELF file")?;
    Ok(file.section_by_name(".BTF").context("the kernel has no BTF")?.data()?.to_vec())
}

/// Returns the compressed kernel in a bzImage. The offsets are those of `setup_sects`, `header`, `payload_offset` and
/// `payload_length` in `Documentation/arch/x86/boot.rst`.
fn compressed_kernel(image: &[u8]) -> Option<&[u8]> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let sectors = match usize::from(*image.get(0x1f1)?) {
        // Boot protocol: 0 stands for 4 in old images.
        0 => 4,
        sectors => sectors,
    };
    // The boot sector comes before the sectors of the setup code.
    let start = (sectors + 1) * 512 + word(0x248)?;
    image.get(start..start + word(0x24c)?)
}

/// Decompresses a kernel.
fn decompress(payload: &[u8]) -> Result<Vec<u8>> {
    let packer = FORMATS.iter().find(|(magic, _)| payload.starts_with(magic));
    let (_, needed) = packer.context("the kernel has an unknown compression format")?;
    if let Some(reason) = packages::obstacle(&[*needed]) {
        bail!("{reason}");
    }
    let mut program = Command::new(needed.0)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", needed.0))?;
    let mut input = program.stdin.take().context("no input")?;
    // Another thread writes: with both pipes full, this process and the program would wait for each other.
    let output = thread::scope(|scope| {
        // A write error is ignored: the program may exit without reading all input, and its output is checked below.
        scope.spawn(move || drop(input.write_all(payload)));
        program.wait_with_output()
    })?;
    if !output.status.success() && !is_whole(payload, &output.stdout) {
        bail!("{}: {}: {}", needed.0, output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Returns whether a kernel was decompressed completely: the last four bytes of the payload are its length
/// (`size_append` in `scripts/Makefile.lib`). All programs but gzip report these bytes as trailing garbage and fail.
fn is_whole(payload: &[u8], unpacked: &[u8]) -> bool {
    let length = payload.last_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
    length == Some(unpacked.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_the_list_has_a_file() {
        for kernel in kernels::select(None).unwrap() {
            let file = file(&kernel.series);
            assert!(root().join(&file).exists(), "{} is missing: run `cargo xtask btf`", file.display());
        }
    }

    #[test]
    fn the_payload_is_found() {
        let mut image = vec![0; 2048];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248] = 16;
        image[0x24c] = 3;
        image[1024 + 16..1024 + 19].copy_from_slice(b"abc");
        assert_eq!(compressed_kernel(&image), Some(&b"abc"[..]));
        image[0x24e] = 1;
        assert_eq!(compressed_kernel(&image), None, "longer than the file");
        assert_eq!(compressed_kernel(b"#!/bin/sh"), None);
    }

    #[test]
    fn what_is_packed_in_an_unknown_way_is_an_error() {
        assert!(decompress(b"BZh9").is_err());
    }

    #[test]
    fn the_length_tells_the_end() {
        assert!(is_whole(b"packed\x03\0\0\0", b"abc"));
        assert!(!is_whole(b"packed\x03\0\0\0", b"ab"));
        assert!(!is_whole(b"", b""));
    }
}

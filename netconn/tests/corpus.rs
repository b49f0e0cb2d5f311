//! Runs the inputs of the fuzz targets (`netconn/fuzz`), and recorded ones: what fuzzing found stays found.

#[path = "../fuzz/src/btf.rs"]
mod btf;
#[path = "../fuzz/src/records.rs"]
mod records;

use std::{fs, path::Path};

/// Calls `run` with each file in folders of `netconn`; returns their number.
fn each(folders: &[&str], extension: Option<&str>, run: fn(&[u8])) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = folders.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let files = files.map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_none() || path.extension() == extension.map(str::as_ref));
    files.map(|path| run(&fs::read(path).unwrap())).count()
}

#[test]
fn no_record_breaks_the_tables() {
    assert!(each(&["fuzz/corpus/records", "tests/data/ring"], Some("ring"), records::run) > 10);
}

#[test]
fn no_bytes_break_the_reader_of_btf() {
    assert!(each(&["fuzz/corpus/btf", "tests/data/btf"], Some("btf"), btf::run) > 10);
}

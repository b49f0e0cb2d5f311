//! Runs the inputs of the fuzz targets (`netconn/fuzz`) and the recorded data, so that bugs that fuzzing found stay
//! fixed.

#[path = "../fuzz/src/btf.rs"]
pub mod btf;
#[path = "../fuzz/src/records.rs"]
pub mod records;

use std::{fs, io, path::Path};

/// Calls `run` with each file in these folders of `netconn` that has this extension or none. Returns the number of
/// files.
fn each(folders: &[&str], extension: &str, run: fn(&[u8])) -> io::Result<usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for folder in folders {
        for file in fs::read_dir(root.join(folder))? {
            let path = file?.path();
            if path.extension().is_none_or(|found| found == extension) {
                run(&fs::read(path)?);
                count += 1;
            }
        }
    }
    Ok(count)
}

#[test]
fn no_record_breaks_the_tables() {
    assert!(each(&["fuzz/corpus/records", "tests/data/ring"], "ring", records::run).unwrap() > 10);
}

#[test]
fn no_bytes_break_the_reader_of_btf() {
    assert!(each(&["fuzz/corpus/btf", "tests/data/btf"], "btf", btf::run).unwrap() > 10);
}

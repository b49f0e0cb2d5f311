//! `netconn convert`, and searches whose rows are written as events of other programs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::support::Scene;

/// A file beside the tables of formats: the corpus, or what it becomes.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../netconn-model/tests/formats").join(name)
}

fn corpus() -> Vec<u8> {
    fs::read(golden("events.ndjson")).unwrap()
}

/// What the corpus becomes. The golden files begin with it: recorded events stand behind.
fn expected(format: &str, scene: &Scene) -> Vec<u8> {
    let path = scene.path("corpus.ndjson");
    fs::write(&path, corpus()).unwrap();
    let output = scene.run(&["convert", path.to_str().unwrap(), "--to", format]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let whole = fs::read(golden(&format!("{format}.golden"))).unwrap();
    // The head of Zeek's columns has the time of the conversion.
    let text: Vec<u8> = output
        .stdout
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line[0] != b'#')
        .flatten()
        .copied()
        .collect();
    assert!(whole.starts_with(&text), "{format} is not as in its golden file");
    output.stdout
}

#[test]
fn every_form_of_a_file_gives_the_same() {
    let scene = Scene::new();
    let whole = expected("ocsf", &scene);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&corpus()).unwrap();
    fs::write(scene.path("corpus.gz"), packed.finish().unwrap()).unwrap();
    fs::write(scene.path("corpus.zst"), zstd::encode_all(&*corpus(), 1).unwrap()).unwrap();
    let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    packed.write_all(&corpus()).unwrap();
    fs::write(scene.path("corpus.bz2"), packed.finish().unwrap()).unwrap();
    let xz = Command::new("xz").stdin(fs::File::open(scene.path("corpus.ndjson")).unwrap()).output().unwrap();
    assert!(xz.status.success());
    fs::write(scene.path("corpus.xz"), &xz.stdout).unwrap();
    fs::create_dir(scene.path("folder")).unwrap();
    fs::copy(scene.path("corpus.bz2"), scene.path("folder/corpus.ndjson.bz2")).unwrap();
    let array = format!("[{}]", String::from_utf8(corpus()).unwrap().trim_end().replace('\n', ",\n"));
    fs::write(scene.path("corpus.json"), array).unwrap();
    let report = scene.run(&["--convert", "corpus.ndjson"]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    fs::rename(scene.path(report["file"].as_str().unwrap()), scene.path("corpus.parquet")).unwrap();
    for name in [
        "corpus.ndjson",
        "corpus.gz",
        "corpus.zst",
        "corpus.bz2",
        "corpus.xz",
        "corpus.json",
        "corpus.parquet",
        "folder",
    ] {
        let output = scene.run(&["convert", name, "--to", "ocsf"]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == whole, "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
    for name in ["corpus.ndjson", "corpus.gz", "corpus.bz2", "corpus.xz", "corpus.json"] {
        let mut command = scene.command(&["convert", "-", "--to", "ocsf"]);
        let output = command.stdin(fs::File::open(scene.path(name)).unwrap()).output().unwrap();
        assert!(output.stdout == whole, "{name} on standard input");
    }
    let mut command = scene.command(&["convert", "-", "--to", "ocsf"]);
    let output = command.stdin(fs::File::open(scene.path("corpus.parquet")).unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&output.stderr).contains("write it to a file and name that"));
}

#[test]
fn every_format_is_written_as_its_golden_file() {
    let scene = Scene::new();
    for format in ["ecs", "zeek", "zeek-tsv", "eve", "cef", "osquery", "limacharlie", "limacharlie-network"] {
        expected(format, &scene);
    }
    let native = scene.run(&["convert", "corpus.ndjson", "--to", "netconn"]);
    assert!(native.stdout == corpus());
}

#[test]
fn what_is_no_event_is_named_and_the_rest_converted() {
    let scene = Scene::new();
    let output = scene.run(&["convert", "events.ndjson", "--to", "cef"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(65), "{said}");
    assert!(said.contains("events.ndjson, line 4: no event: "), "{said}");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 4);
    fs::write(scene.path("odd.ndjson"), "{}\n\n{\"event.type\":\"IP Close\",\"src.process.cmdline\":\"\\ud800\"}\n")
        .unwrap();
    let output = scene.run(&["convert", "odd.ndjson", "--to", "netconn"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(65), 0), "{said}");
    assert!(said.contains("line 1: no event: it has no event.type") && said.contains("line 3: no event: "), "{said}");
    // A loss that the format has no place for is not kept back.
    let output = scene.run(&["convert", "whole.ndjson", "events.ndjson", "--to", "zeek"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("has no place for events of this kind"), "{said}");
    assert!(said.contains("1 event among them reports events that were lost"), "{said}");
    assert_eq!(scene.run(&["convert", "missing.ndjson", "--to", "zeek"]).status.code(), Some(74));
}

#[test]
fn a_stream_is_converted_as_it_comes() {
    let scene = Scene::new();
    let mut child =
        scene.command(&["convert", "-", "--to", "ecs"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    // Each event comes out before the next one goes in: a program that waits for more would hang here.
    for line in corpus().split_inclusive(|byte| *byte == b'\n').take(3) {
        input.write_all(line).unwrap();
        let mut converted = String::new();
        output.read_line(&mut converted).unwrap();
        assert!(converted.starts_with("{\"@timestamp\":"), "{converted}");
    }
    drop(input);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(0), ""));
}

#[test]
fn an_output_file_is_whole_or_not_there() {
    let scene = Scene::new();
    fs::write(scene.path("cut.gz"), &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..]).unwrap();
    let output = scene.run(&["convert", "whole.ndjson", "cut.gz", "--to", "ocsf", "-o", "out.json"]);
    assert_eq!(output.status.code(), Some(74), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!scene.path("out.json").exists());
    let output = scene.run(&["convert", "whole.ndjson", "--to", "ocsf", "-o", "out.json"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    assert_eq!(fs::read_to_string(scene.path("out.json")).unwrap().lines().count(), 3);
}

#[test]
fn what_is_damaged_in_a_folder_is_named_and_the_rest_converted() {
    let scene = Scene::new();
    fs::create_dir(scene.path("many")).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(scene.path("many").join(name), bytes).unwrap();
    let whole = fs::read(scene.path("whole.ndjson")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&whole.repeat(2_000)).unwrap();
    let packed = packed.finish().unwrap();
    put("a-cut.ndjson.gz", &packed[..packed.len() / 2]);
    put("b-no.parquet", b"PAR1, and no more");
    put("c-archive.ndjson.zip", b"PK\x03\x04");
    put("d-whole.ndjson", &whole);
    let converted = |name: &str| {
        let output = scene.run(&["convert", name, "--to", "ocsf", "-o", "out"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines = fs::read_to_string(scene.path("out")).map(|text| text.lines().count()).unwrap_or_default();
        let _ = fs::remove_file(scene.path("out"));
        (output.status.code(), lines, said)
    };
    let (code, lines, said) = converted("many");
    assert_eq!(code, Some(65), "{said}");
    // Those of the whole file, and those before the cut.
    assert!(lines > 3 && lines < 6_003, "{lines} events");
    assert_eq!(said.lines().count(), 3, "{said}");
    for (name, why) in
        [("a-cut.ndjson.gz", " to its end: "), ("b-no.parquet", ": "), ("c-archive.ndjson.zip", ": it is a zip")]
    {
        let is_named =
            |line: &str| line.starts_with("netconn: cannot read ") && line.contains(&format!("many/{name}{why}"));
        assert_eq!(said.lines().filter(|line| is_named(line)).count(), 1, "{name}: {said}");
    }
    // Whoever names a file wants this very one.
    for name in ["many/a-cut.ndjson.gz", "many/b-no.parquet", "many/c-archive.ndjson.zip"] {
        let (code, lines, said) = converted(name);
        assert_eq!((code, lines), (Some(74), 0), "{said}");
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn a_search_writes_whole_events_of_other_programs() {
    let scene = Scene::new();
    let whole = expected("ocsf", &scene);
    let output = scene.run(&["", "-f", "corpus.ndjson", "--format", "ocsf"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let sorted = |bytes: &[u8]| {
        let mut lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort_unstable();
        lines
    };
    assert!(sorted(&output.stdout) == sorted(&whole), "{}", String::from_utf8_lossy(&output.stdout));
    let output = scene.run(&["| group n = count() by event.type", "-f", "corpus.ndjson", "--format", "ocsf"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--format ocsf writes whole events"));
    let output = scene.run(&["", "-f", "corpus.ndjson", "--format", "zeek"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the format has no place for events of this kind"));
}

//! Compares answers with an independent evaluation in Python over the same events: each rule of the language's
//! description (`oracle.py`), and random pipelines of commands (`pipelines.py`).

use std::{
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn python_gives_the_same_rows() {
    python("oracle.py", &[]);
}

#[test]
fn python_gives_the_same_rows_of_random_queries() {
    python("pipelines.py", &["0", "150"]);
}

#[track_caller]
#[expect(clippy::panic, reason = "a test that cannot begin has failed")]
fn python(script: &str, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let output = Command::new("python3")
        .arg("-B")
        .arg(&script)
        .arg(env!("CARGO_BIN_EXE_netconn-search"))
        .args(arguments)
        .env("PYTHONIOENCODING", "utf-8")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => panic!("python3 is needed to run {}, and cannot be started: {error}", script.display()),
    };
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}{failed}");
    assert!(output.status.success(), "{}: {}\n{said}{failed}", script.display(), output.status);
}

//! Each row of the language's description against plain Python over the same events: `oracle.py`.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn python_gives_the_same_rows() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle.py");
    let output = Command::new("python3")
        .arg("-B")
        .arg(&script)
        .arg(env!("CARGO_BIN_EXE_netconn-search"))
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

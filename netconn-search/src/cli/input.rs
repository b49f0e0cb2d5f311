//! Standard input as a file of events.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

use crate::{cli::error::WrongUse, engine::OPEN_FILES};

/// Whether a named file is standard input. A file may really be called `-`.
pub(super) fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-" && !path.exists()
}

/// Copies standard input to a temporary file if `-` is among the files, and puts the copy in its place: files are read in
/// parallel pieces. The copy has no name, so it is gone with the process, however that ends. Returns the open copy.
///
/// # Errors
///
/// Standard input is a terminal, or the copy cannot be written.
pub(super) async fn spooled(files: &mut [PathBuf]) -> Result<Option<Arc<File>>> {
    let Some(input) = files.iter_mut().find(|path| is_standard_input(path)) else { return Ok(None) };
    if io::stdin().is_terminal() {
        return Err(
            WrongUse("-f - searches standard input, which is a terminal here: pipe events into it".into()).into()
        );
    }
    let copy = || {
        let mut file = tempfile::tempfile()?;
        io::copy(&mut io::stdin().lock(), &mut file)?;
        Ok::<_, io::Error>(file)
    };
    let (done, copied) = oneshot::channel();
    // A thread that nobody waits for: standard input may never end, and the caller may stop before.
    thread::spawn(move || {
        // Nobody listens if the caller has stopped.
        let _ = done.send(copy());
    });
    let copy = copied.await.context("cannot copy standard input")?;
    let copy = copy.context("cannot copy standard input to a temporary file")?;
    *input = Path::new(OPEN_FILES).join(copy.as_raw_fd().to_string());
    Ok(Some(Arc::new(copy)))
}

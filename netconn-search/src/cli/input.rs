//! Standard input as a file of events.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use tempfile::TempPath;

use crate::cli::error::WrongUse;

/// Copies standard input to a temporary file if `-` is among the files, and puts the copy in its place: files are read in
/// parallel pieces.
pub(super) fn spooled(files: &mut [PathBuf]) -> Result<Option<Arc<TempPath>>> {
    // A file may really be called `-`.
    let Some(input) = files.iter_mut().find(|path| path.as_os_str() == "-" && !path.exists()) else { return Ok(None) };
    if io::stdin().is_terminal() {
        return Err(
            WrongUse("-f - searches standard input, which is a terminal here: pipe events into it".into()).into()
        );
    }
    let copy = || {
        let mut file = tempfile::Builder::new().prefix("standard-input-").tempfile()?;
        io::copy(&mut io::stdin().lock(), file.as_file_mut())?;
        Ok::<_, io::Error>(file.into_temp_path())
    };
    let copy = copy().context("cannot copy standard input to a temporary file")?;
    *input = copy.to_path_buf();
    Ok(Some(Arc::new(copy)))
}

//! `netconn search`, `netconn hunt` and `netconn convert`: run `netconn-search` with the same arguments.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};
use clap::Args;
use netconn_model::exit::Exit;

use crate::search_program;

/// Arguments of these commands, which only `netconn-search` interprets.
#[derive(Debug, Args)]
pub(super) struct SearchOptions {
    /// The query and options; see `netconn search --help`
    #[arg(value_name = "QUERY", allow_hyphen_values = true, trailing_var_arg = true)]
    _arguments: Vec<OsString>,
}

/// Replaces this process by `netconn-search` with these arguments, unchanged.
pub(super) fn run(first: Option<&str>, arguments: &[OsString]) -> Result<Exit> {
    let program = search_program::find()?;
    let error = Command::new(&program).args(first).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

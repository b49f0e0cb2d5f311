//! `netconn search` and `netconn hunt`: hand everything over to `netconn-search`.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};
use clap::Args;
use netconn_model::exit::Exit;

use crate::search_program;

/// Options of both: those of `netconn-search`, whatever they are.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// What to search for, and options: see `netconn search --help`
    #[arg(value_name = "QUERY", allow_hyphen_values = true, trailing_var_arg = true)]
    _arguments: Vec<OsString>,
}

/// Becomes `netconn-search` with these arguments, as they were given.
pub(super) fn run(first: Option<&str>, arguments: &[OsString]) -> Result<Exit> {
    let program = search_program::find()?;
    let error = Command::new(&program).args(first).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

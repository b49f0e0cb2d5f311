//! `netconn config`: what holds when nothing else is said.

use std::{io::Write as _, path::PathBuf};

use anyhow::Result;
use clap::Args;
use netconn_model::{config::Config, exit::Exit};

/// Options of `netconn config`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The configuration file [default: /etc/netconn/netconn.toml, if it is there].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(options: &Options) -> Result<Exit> {
    let config = Config::load(options.config.as_deref())?;
    std::io::stdout().write_all(config.to_toml().as_bytes())?;
    Ok(Exit::Success)
}

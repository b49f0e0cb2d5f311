//! `netconn config`: prints the effective configuration.

use std::{io::Write as _, path::PathBuf};

use anyhow::Result;
use clap::Args;
use netconn_model::{config::Config, exit::Exit};

use crate::{cli::tell, rules::Rules};

/// Options of `netconn config`.
#[derive(Debug, Args)]
pub(super) struct ConfigOptions {
    /// Read this configuration file [default: /etc/netconn/netconn.toml, if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Prints the configuration, with defaults for keys that the file does not set.
pub(super) fn run(options: &ConfigOptions) -> Result<Exit> {
    let config = Config::load(options.config.as_deref())?;
    // What keeps the daemon from starting is told here, too.
    let rules = Rules::compile(&config.exclude)?;
    rules.warnings().iter().for_each(|warning| tell(warning));
    std::io::stdout().write_all(Config::with_comments(&config.to_toml()).as_bytes())?;
    Ok(Exit::Success)
}

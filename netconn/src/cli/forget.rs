//! `netconn forget`: removes what a daemon has left on this host.

use std::{io::Write as _, path::PathBuf};

use anyhow::Result;
use clap::Args;
use netconn_model::{config::Config, exit::Exit, tell};

use crate::forget::Remnants;

/// Options of `netconn forget`.
#[derive(Debug, Args)]
pub(super) struct ForgetOptions {
    /// Remove it. Without this option nothing is removed, and what would be is listed.
    #[arg(long)]
    yes: bool,
    /// The daemon's socket [default: that of the configuration].
    #[arg(long, value_name = "PATH", env = "NETCONN_SOCKET")]
    socket: Option<PathBuf>,
    /// Read this configuration file [default: /etc/netconn/netconn.toml, if it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's folder [default: that of the configuration].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Lists what a daemon has left, or removes it.
pub(super) fn run(options: &ForgetOptions) -> Result<Exit> {
    let config = Config::load(options.config.as_deref())?;
    let state_dir = options.state_dir.as_ref().unwrap_or(&config.state_dir);
    let remnants = Remnants::find(state_dir, options.socket.as_ref().unwrap_or(&config.socket))?;
    let mut out = std::io::stdout().lock();
    let width = remnants.found.iter().map(|remnant| remnant.path.as_os_str().len()).max().unwrap_or(0);
    for remnant in &remnants.found {
        writeln!(out, "{:width$}  {}", remnant.path.display(), remnant.what)?;
    }
    // Not one by one: a host on which tests ran can have hundreds.
    if let Some(folder) = remnants.others.first().and_then(|pin| pin.parent()) {
        let count = remnants.others.len();
        tell!("netconn: left in {} are {count} maps of daemons with other state folders", folder.display());
    }
    for events in config.events.iter().filter(|path| path.exists()) {
        tell!("netconn: left is {}, a file of events", events.display());
    }
    if remnants.found.is_empty() {
        tell!("netconn: nothing is left of a daemon with the state folder {}", state_dir.display());
    } else if !options.yes {
        tell!("netconn: nothing was removed: `netconn forget --yes` removes the above");
    } else {
        for folder in remnants.remove()? {
            tell!("netconn: left is {}, which has other files, or is a mount point", folder.display());
        }
    }
    Ok(Exit::Success)
}

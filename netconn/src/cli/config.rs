//! `netconn config`: prints the effective configuration, or checks it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;
use netconn_model::{
    config::{Config, DEFAULT_FILE},
    config_files::{DROP_INS, Loaded},
    exit::Exit,
};

use crate::{cli::tell, process::redact::Redactor, rules::Rules};

/// Options of `netconn config`.
#[derive(Debug, Args)]
pub(super) struct ConfigOptions {
    /// Read this configuration file alone [default: /etc/netconn/netconn.toml, then
    /// /etc/netconn/conf.d/*.toml, those that exist].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print nothing but which files were read; the exit code is 78 if one of them is wrong.
    #[arg(long)]
    check: bool,
}

/// Prints the configuration, with defaults for keys that no file sets.
pub(super) fn run(options: &ConfigOptions) -> Result<Exit> {
    let loaded = Loaded::read(options.config.as_deref())?;
    // What keeps the daemon from starting is told here, too.
    let (rules, _) = compile(&loaded)?;
    rules.warnings().iter().for_each(|warning| tell(warning));
    let text = if options.check { checked(&loaded) } else { Config::with_comments(&loaded.to_toml()) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Exit::Success)
}

fn checked(loaded: &Loaded) -> String {
    if loaded.files.is_empty() {
        return format!("there is neither {DEFAULT_FILE} nor a file in {DROP_INS}: all settings have their defaults\n");
    }
    let files: Vec<_> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    format!("nothing is wrong in {}\n", files.join(", "))
}

/// Reads the configuration of the daemon, with the rules and patterns in it.
///
/// # Errors
///
/// When a file cannot be read, or a setting is unknown or wrong; the error names the place.
pub(super) fn read_files(file: Option<&Path>) -> Result<(Config, Rules, Redactor)> {
    let loaded = Loaded::read(file)?;
    let (rules, redactor) = compile(&loaded)?;
    Ok((loaded.config, rules, redactor))
}

fn compile(loaded: &Loaded) -> Result<(Rules, Redactor)> {
    let Config { exclude, redact, redact_patterns, .. } = &loaded.config;
    let rules = at(loaded, "exclude", Rules::compile(exclude))?;
    Ok((rules, at(loaded, "redact_patterns", Redactor::new(*redact, redact_patterns))?))
}

/// Adds the place of a setting to its error.
fn at<T, E: std::error::Error + Send + Sync + 'static>(
    loaded: &Loaded,
    setting: &str,
    compiled: Result<T, E>,
) -> Result<T> {
    match loaded.origins.get(setting) {
        Some(origin) => compiled.with_context(|| origin.to_string()),
        None => Ok(compiled?),
    }
}

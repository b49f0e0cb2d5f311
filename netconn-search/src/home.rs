//! Returns the folders of the user's own files, by the XDG Base Directory Specification.

use std::{env, path::PathBuf};

/// Returns the folder of saved queries: `$XDG_CONFIG_HOME/netconn/queries`.
pub fn queries() -> Option<PathBuf> {
    Some(base("XDG_CONFIG_HOME", ".config")?.join("queries"))
}

/// Returns the file with the history of the line editor: `$XDG_STATE_HOME/netconn/history`.
pub fn history() -> Option<PathBuf> {
    Some(base("XDG_STATE_HOME", ".local/state")?.join("history"))
}

/// Returns the folder of tables for `lookup`: `$XDG_DATA_HOME/netconn/lookups`.
pub fn lookups() -> Option<PathBuf> {
    Some(base("XDG_DATA_HOME", ".local/share")?.join("lookups"))
}

/// Returns netconn's folder in a base directory; `None` if no home folder is known. Relative paths are ignored, as the
/// specification demands.
fn base(variable: &str, under_home: &str) -> Option<PathBuf> {
    let set = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(under_home));
    Some(set.or_else(home)?.join("netconn"))
}

//! Where this user's own things are kept, as the XDG base directories say.

use std::{env, path::PathBuf};

/// Saved queries: `$XDG_CONFIG_HOME/netconn/queries`.
pub fn queries() -> Option<PathBuf> {
    Some(base("XDG_CONFIG_HOME", ".config")?.join("queries"))
}

/// What was typed: `$XDG_STATE_HOME/netconn/history`.
pub fn history() -> Option<PathBuf> {
    Some(base("XDG_STATE_HOME", ".local/state")?.join("history"))
}

/// Tables for `lookup`: `$XDG_DATA_HOME/netconn/lookups`.
pub fn lookups() -> Option<PathBuf> {
    Some(base("XDG_DATA_HOME", ".local/share")?.join("lookups"))
}

/// The folder of netconn in a base directory; `None` without a home. The specification has relative paths ignored.
fn base(variable: &str, under_home: &str) -> Option<PathBuf> {
    let set = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(under_home));
    Some(set.or_else(home)?.join("netconn"))
}

//! Finds `netconn-search`, the program that searches the history and converts its segments for the daemon. It is a program of
//! its own, so that the daemon carries no query engine.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// File name of the program.
const PROGRAM: &str = "netconn-search";
/// Directory into which packages install it.
const LIBRARY: &str = "/usr/lib/netconn";

/// The program was not found.
#[derive(Clone, Copy, Debug, Error)]
#[error(
    "netconn-search is not installed: `cargo build --profile search -p netconn-search` builds it; put it beside netconn, into \
     {LIBRARY} or on the PATH"
)]
pub struct NotInstalled;

/// Returns the program: beside this one, else where packages install it, else on the `PATH`.
///
/// # Errors
///
/// When it is in none of these places.
pub fn find() -> Result<PathBuf, NotInstalled> {
    let beside = env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let path = env::var_os("PATH").unwrap_or_default();
    // Beside this one first: the two come from one build, and their segments and schema match.
    let folders = beside.into_iter().chain([LIBRARY.into()]).chain(env::split_paths(&path));
    first_in(folders).ok_or(NotInstalled)
}

/// Skips relative directories: what they name depends on the working directory.
fn first_in(folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(PROGRAM)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    // Any execute bit: whether this user may run it is for `exec` to say, with a better error.
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_can_be_run_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let [text, directory, program] = ["text", "directory", "program"].map(|name| folder.path().join(name));
        for path in [&text, &directory.join(PROGRAM), &program] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(text.join(PROGRAM), "no program").unwrap();
        fs::write(program.join(PROGRAM), "#!/bin/sh\n").unwrap();
        fs::set_permissions(program.join(PROGRAM), fs::Permissions::from_mode(0o755)).unwrap();
        let folders = [PathBuf::from("."), "/nonexistent".into(), text, directory, program.clone()];
        assert_eq!(first_in(folders.clone().into_iter()), Some(program.join(PROGRAM)));
        assert_eq!(first_in(folders[..4].iter().cloned()), None);
    }
}

//! Saved queries: each is a file with the text of the query.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Extension of the files.
const EXTENSION: &str = "pq";

/// Longest name, characters.
const NAME_MAX: usize = 64;

/// Why a query cannot be saved or found.
#[derive(Debug, Error)]
pub enum SavedError {
    /// The name is not valid.
    #[error(
        "'{name}' is not a valid name for a query: use up to {NAME_MAX} letters, digits, `-`, `_` and `.`, beginning with a letter or digit"
    )]
    Name {
        /// The name that was given.
        name: String,
    },
    /// No query has this name.
    #[error("there is no saved query '{name}'{}", did_you_mean(nearest.as_deref()))]
    Missing {
        /// The name that was given.
        name: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// No home folder is known.
    #[error("there is no folder for saved queries: set HOME or XDG_CONFIG_HOME")]
    NoHome,
    /// The file or folder cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
}

/// Returns `; did you mean 'x'?`, or nothing without a similar name.
pub(crate) fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

/// The saved queries of a user.
#[derive(Clone, Debug)]
pub struct SavedQueries {
    folder: PathBuf,
}

impl SavedQueries {
    /// Uses the queries in this folder, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Saves a query; returns whether it replaced one with the same name.
    ///
    /// # Errors
    ///
    /// The name is not valid, or the file cannot be written.
    pub fn save(&self, name: &str, text: &str) -> Result<bool, SavedError> {
        let path = self.path(name)?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| SavedError::Io { path, source }
        };
        fs::create_dir_all(&self.folder).map_err(failed(&self.folder))?;
        // Only for the message: another process may create the file in between.
        let replaced = path.exists();
        // Renamed when complete, so that a crash leaves no partial query behind.
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, format!("{}\n", text.trim_end())).map_err(failed(&temporary))?;
        fs::rename(&temporary, &path).map_err(failed(&path))?;
        Ok(replaced)
    }

    /// Reads a query.
    ///
    /// # Errors
    ///
    /// No query has this name, or the file cannot be read.
    pub fn load(&self, name: &str) -> Result<String, SavedError> {
        let path = self.path(name)?;
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let nearest = nearest(name, self.names()?);
                Err(SavedError::Missing { name: name.into(), nearest })
            }
            Err(source) => Err(SavedError::Io { path, source }),
        }
    }

    /// Removes a query.
    ///
    /// # Errors
    ///
    /// No query has this name, or the file cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), SavedError> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SavedError::Missing { name: name.into(), nearest: nearest(name, self.names()?) })
            }
            Err(source) => Err(SavedError::Io { path, source }),
        }
    }

    /// Returns all names in alphabetical order.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, SavedError> {
        let failed = |source| SavedError::Io { path: self.folder.clone(), source };
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            // Leaves out temporary files, and files of other programs.
            if path.extension().is_some_and(|extension| extension == EXTENSION)
                && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Returns the path of a query. The characters of a name are restricted so that no name can leave the folder.
    fn path(&self, name: &str) -> Result<PathBuf, SavedError> {
        let is_part = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        // A name must not be hidden, nor look like an option.
        let begins_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
        if !begins_well || name.len() > NAME_MAX || !name.chars().all(is_part) {
            return Err(SavedError::Name { name: name.into() });
        }
        Ok(self.folder.join(format!("{name}.{EXTENSION}")))
    }
}

/// Returns the most similar name, if it is similar enough for a typing error.
pub(crate) fn nearest(name: &str, names: impl IntoIterator<Item = String>) -> Option<String> {
    let distance = |other: &String| strsim::damerau_levenshtein(name, other);
    let allowed = (name.chars().count() / 3).max(1);
    names.into_iter().filter(|other| distance(other) <= allowed).min_by_key(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let saved = SavedQueries::new(folder.path().join("netconn/queries"));
        assert_eq!(saved.names().unwrap(), Vec::<String>::new());
        assert!(!saved.save("web", "event.type = 'IP Connect'\n| limit 1\n\n").unwrap());
        assert!(saved.save("web", "a = 1").unwrap(), "replaced");
        saved.save("dns-2.old", "b = 2").unwrap();
        assert_eq!(saved.load("web").unwrap(), "a = 1\n");
        assert_eq!(saved.names().unwrap(), ["dns-2.old", "web"]);
        saved.remove("dns-2.old").unwrap();
        assert_eq!(saved.names().unwrap(), ["web"]);
        assert!(matches!(saved.remove("dns-2.old"), Err(SavedError::Missing { .. })));
        let missing = saved.load("wbe").unwrap_err();
        assert_eq!(missing.to_string(), "there is no saved query 'wbe'; did you mean 'web'?");
        let missing = saved.load("something").unwrap_err();
        assert_eq!(missing.to_string(), "there is no saved query 'something'");
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let saved = SavedQueries::new("/nonexistent".into());
        for name in ["", "../x", "a/b", ".hidden", "-x", "a b", "ä", &"x".repeat(65)] {
            assert!(matches!(saved.save(name, "x"), Err(SavedError::Name { .. })), "{name}");
        }
    }
}

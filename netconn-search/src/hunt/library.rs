//! Finds hunts: those built into netconn, and those in a folder, which take precedence.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    hunt::{Hunt, header::HeaderError},
    saved::{did_you_mean, nearest},
};

macro_rules! built_in {
    ($($name:literal)+) => {
        /// Names and texts of the built-in hunts, the most severe first.
        const BUILT_IN: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../hunts/", $name, ".pq")))),+];
    };
}

built_in! {
    "reverse-shell"
    "exfiltration-volume"
    "internal-scan"
    "beaconing"
    "suspicious-executable"
    "mining"
    "brute-force"
    "ssh-fan-out"
    "tunnels"
    "tor"
    "exfiltration-port"
    "new-listeners"
    "opened-services"
    "inbound-scan"
    "remote-management"
    "dns-bypass"
    "failed-connects"
    "rare-destinations"
}

/// Extension of hunts' files.
const EXTENSION: &str = "pq";

/// Why a hunt cannot be used.
#[derive(Debug, Error)]
pub enum HuntError {
    /// No hunt has this name.
    #[error("there is no hunt '{name}' (`netconn hunt --list` lists all){}", did_you_mean(nearest.as_deref()))]
    Missing {
        /// The name that was given.
        name: String,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// A file is not a valid hunt.
    #[error("{} is not a hunt: {error}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        error: HeaderError,
    },
    /// A file or the folder cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
}

/// The built-in hunts, and those in a folder.
#[derive(Clone, Debug)]
pub struct HuntLibrary {
    folder: Option<PathBuf>,
}

impl HuntLibrary {
    /// Uses the built-in hunts and those in this folder, which need not exist.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// Returns all hunts: the built-in ones by severity, then those in the folder by name. A hunt in the folder
    /// replaces the built-in one with the same name. Also returns the errors of files that cannot be used; the other
    /// hunts still can.
    pub fn all(&self) -> (Vec<Hunt>, Vec<HuntError>) {
        let (own, mut problems) = self.own();
        let mut hunts = Vec::new();
        for (name, text) in BUILT_IN {
            // A broken file in the folder hides the built-in hunt as well: running another query than the user expects
            // would be worse than an error.
            if own.iter().any(|hunt| hunt.name == *name) || problems.iter().any(|problem| problem.is_of(name)) {
                continue;
            }
            match Hunt::parse(name, text, true) {
                Ok(hunt) => hunts.push(hunt),
                Err(error) => {
                    problems.push(HuntError::Header { path: Path::new(name).with_extension(EXTENSION), error });
                }
            }
        }
        hunts.extend(own);
        (hunts, problems)
    }

    /// Returns the hunt with this name.
    ///
    /// # Errors
    ///
    /// No hunt has this name, or its file cannot be read or is not a valid hunt.
    pub fn get(&self, name: &str) -> Result<Hunt, HuntError> {
        // All hunts are read: a broken file may have this name, and the nearest name is among all.
        let (mut hunts, problems) = self.all();
        if let Some(problem) = problems.into_iter().find(|problem| problem.is_of(name)) {
            return Err(problem);
        }
        match hunts.iter().position(|hunt| hunt.name == name) {
            Some(place) => Ok(hunts.swap_remove(place)),
            None => {
                let nearest = nearest(name, hunts.into_iter().map(|hunt| hunt.name));
                Err(HuntError::Missing { name: name.into(), nearest })
            }
        }
    }

    /// Reads the hunts in the folder, sorted by name, and the errors of files that cannot be used.
    fn own(&self) -> (Vec<Hunt>, Vec<HuntError>) {
        let Some(folder) = &self.folder else { return Default::default() };
        let entries = match fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            // The folder is optional.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Default::default(),
            Err(source) => return (Vec::new(), vec![HuntError::Io { path: folder.clone(), source }]),
        };
        let (mut hunts, mut problems) = (Vec::new(), Vec::new());
        for path in entries.into_iter().map(|entry| entry.path()) {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if path.extension().is_none_or(|extension| extension != EXTENSION) || name.is_empty() {
                continue;
            }
            match read(path, &name) {
                Ok(hunt) => hunts.push(hunt),
                Err(problem) => problems.push(problem),
            }
        }
        // A folder has no order of its own.
        hunts.sort_by(|one, other| one.name.cmp(&other.name));
        (hunts, problems)
    }
}

/// Reads the file of a hunt.
fn read(path: PathBuf, name: &str) -> Result<Hunt, HuntError> {
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(HuntError::Io { path, source }),
    };
    // Some editors on Windows write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    Hunt::parse(name, text, false).map_err(|error| HuntError::Header { path, error })
}

impl HuntError {
    /// Returns whether the error concerns the file of the hunt with this name.
    fn is_of(&self, name: &str) -> bool {
        match self {
            Self::Missing { .. } => false,
            Self::Header { path, .. } | Self::Io { path, .. } => {
                path.extension().is_some_and(|extension| extension == EXTENSION)
                    && path.file_stem().is_some_and(|stem| stem == name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_built_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("hunts");
        let files = HuntLibrary::new(Some(folder.clone())).own().0;
        let mut built_in: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        built_in.sort_unstable();
        assert_eq!(files.iter().map(|hunt| hunt.name.as_str()).collect::<Vec<_>>(), built_in);
        let severities: Vec<_> = HuntLibrary::new(None).all().0.iter().map(|hunt| hunt.severity).collect();
        assert!(severities.is_sorted_by(|one, other| one >= other), "{severities:?}");
        for name in built_in {
            for kind in ["match", "nomatch"] {
                let events = folder.join(format!("tests/{name}.{kind}.ndjson"));
                assert!(events.exists(), "{} is missing", events.display());
            }
        }
    }

    #[test]
    fn every_query_is_understood() {
        for hunt in HuntLibrary::new(None).all().0 {
            let parsed = netconn_query::parse(&hunt.query);
            let shown = |diagnostics: &[netconn_query::Diagnostic]| -> Vec<String> {
                diagnostics.iter().map(|diagnostic| diagnostic.to_string_in(&hunt.query)).collect()
            };
            assert_eq!(shown(&parsed.diagnostics), Vec::<String>::new(), "{}", hunt.name);
            let mut query = parsed.query.unwrap();
            let checked = netconn_query::check(&query, &netconn_query::Fields::new(Vec::<String>::new()));
            assert_eq!(shown(&checked.diagnostics), Vec::<String>::new(), "{}", hunt.name);
            let before = query.clone();
            for parameter in &hunt.parameters {
                hunt.set(&mut query, &format!("{}=123456", parameter.name)).unwrap();
            }
            assert_eq!(before == query, hunt.parameters.is_empty(), "{}", hunt.name);
            let range = crate::range::TimeArguments { last: Some(&hunt.range), ..Default::default() };
            assert!(range.resolve(&jiff::Zoned::now()).is_ok(), "{}", hunt.name);
        }
    }

    #[test]
    fn a_folder_adds_and_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let text = HuntLibrary::new(None).get("mining").unwrap().query;
        fs::write(folder.path().join("mining.pq"), text.replace("high", "low")).unwrap();
        fs::write(folder.path().join("own.pq"), &text).unwrap();
        fs::write(folder.path().join("README"), "no hunt").unwrap();
        let library = HuntLibrary::new(Some(folder.path().to_owned()));
        assert_eq!(library.all().0.len(), BUILT_IN.len() + 1);
        assert_eq!(library.get("mining").unwrap().severity, crate::hunt::HuntSeverity::Low);
        assert!(!library.get("own").unwrap().is_built_in);
        let missing = library.get("minnig").unwrap_err().to_string();
        assert_eq!(missing, "there is no hunt 'minnig' (`netconn hunt --list` lists all); did you mean 'mining'?");
        fs::write(folder.path().join("bad.pq"), "// title: x\na = 1").unwrap();
        fs::write(folder.path().join("other.pq"), format!("\u{feff}{text}")).unwrap();
        let (hunts, problems) = library.all();
        assert_eq!((hunts.len(), problems.len()), (BUILT_IN.len() + 2, 1), "the others can be used");
        for error in [problems[0].to_string(), library.get("bad").unwrap_err().to_string()] {
            assert!(error.ends_with("bad.pq is not a hunt: the header lacks `// severity: …`"), "{error}");
        }
    }
}

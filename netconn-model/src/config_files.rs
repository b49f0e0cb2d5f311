//! Reads the configuration from its files: the main one, and drop-ins that change single settings of the default one.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value, de::DeTable};

use crate::{
    config::{Config, ConfigError, DEFAULT_FILE},
    settings::TextLines,
};

/// Folder of the drop-ins: files that end in [`DROP_IN`], in the order of their names. Of two that give the same setting the later one
/// holds, and each of them holds before the main file.
pub const DROP_INS: &str = "/etc/netconn/conf.d";
/// How the name of a drop-in ends; others are not read.
const DROP_IN: &str = "toml";

/// The place of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file that gives it.
    pub file: PathBuf,
    /// Its line, from 1 on.
    pub line: usize,
}

impl Display for Origin {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.file.display(), self.line)
    }
}

/// A configuration, and where it is from.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// All settings.
    pub config: Config,
    /// The files that were read, in their order.
    pub files: Vec<PathBuf>,
    /// The settings that a file gives, by their names (`history_days`, `search.hunts`); all others have their defaults.
    pub origins: BTreeMap<String, Origin>,
}

impl Config {
    /// Reads the configuration from `path` alone, or from the default file with its drop-ins, all of which may be missing.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or a setting is unknown or wrong.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Loaded::read(path).map(|loaded| loaded.config)
    }
}

impl Loaded {
    /// Reads what [`Config::load`] reads.
    ///
    /// # Errors
    ///
    /// Those of [`Config::load`].
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        match path {
            // A file that was named is meant, and alone: what lies beside it may belong to somebody else.
            Some(path) => Self::of_files([path.to_owned()]),
            None => Self::of_defaults(Path::new(DEFAULT_FILE), Path::new(DROP_INS)),
        }
    }

    fn of_defaults(file: &Path, folder: &Path) -> Result<Self, ConfigError> {
        let mut files = drop_ins(folder)?;
        match fs::metadata(file) {
            // It need not be there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // What else is wrong is told when it is read.
            _ => files.insert(0, file.to_owned()),
        }
        Self::of_files(files)
    }

    fn of_files(files: impl IntoIterator<Item = PathBuf>) -> Result<Self, ConfigError> {
        let (mut all, mut loaded) = (Table::new(), Self::default());
        for file in files {
            let text = fs::read_to_string(&file).map_err(|error| ConfigError::Read { path: file.clone(), error })?;
            let wrong = |message| ConfigError::Invalid { path: file.clone(), message };
            // Each file alone, so that an error names the right one: what the others give are defaults here, which are right.
            let lines = lines(&text);
            Config::parse(&text).map_err(|error| wrong(error.in_words(|setting| lines.get(setting).copied())))?;
            merge(&mut all, text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?);
            for (setting, line) in lines {
                loaded.origins.insert(setting, Origin { file: file.clone(), line });
            }
            loaded.files.push(file);
        }
        if let Some(last) = loaded.files.last() {
            // Settings do not depend on each other, so files that are right one by one are right together.
            let config = Value::Table(all).try_into();
            loaded.config =
                config.map_err(|error| ConfigError::Invalid { path: last.clone(), message: error.to_string() })?;
        }
        Ok(loaded)
    }

    /// Returns the settings as a file, with every setting, and behind those that a file gives the place.
    pub fn to_toml(&self) -> String {
        let (mut section, mut text, mut texts) = (String::new(), String::new(), TextLines::default());
        for line in self.config.to_toml().lines() {
            text.push_str(line);
            // Texts of several lines have nothing that could be a setting, and no comments; nor has the line before them.
            if texts.is_inside(line) || texts.is_open() {
                text.push('\n');
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = format!("{name}.");
            } else if let Some((name, _)) = line.split_once(" = ")
                && let Some(origin) = self.origins.get(&format!("{section}{name}"))
            {
                text.push_str(&format!(" # {origin}"));
            }
            text.push('\n');
        }
        text
    }
}

/// Returns the drop-ins of a folder, which may be missing, in the order of their names.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let fail = |error| ConfigError::Read { path: folder.to_owned(), error };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        // Editors and package managers leave files that begin with a dot.
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == DROP_IN) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Adds the settings of a file, which replace those that are there; the settings of a section one by one.
fn merge(all: &mut Table, file: Table) {
    for (name, value) in file {
        match (all.get_mut(&name), value) {
            (Some(Value::Table(section)), Value::Table(more)) => section.extend(more),
            (_, value) => _ = all.insert(name, value),
        }
    }
}

/// Returns the lines of the settings of a text, from 1 on, by their names; none if the text cannot be read.
fn lines(text: &str) -> BTreeMap<String, usize> {
    let Ok(table) = DeTable::parse(text) else { return BTreeMap::new() };
    let line_at = |place: usize| 1 + text.as_bytes().iter().take(place).filter(|byte| **byte == b'\n').count();
    let mut lines = BTreeMap::new();
    for (name, value) in table.get_ref() {
        match value.get_ref().as_table() {
            Some(section) => {
                for key in section.keys() {
                    lines.insert(format!("{}.{}", name.get_ref(), key.get_ref()), line_at(key.span().start));
                }
            }
            None => _ = lines.insert(name.get_ref().to_string(), line_at(name.span().start)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a main file and drop-ins.
    fn folder(main: Option<&str>, drop_ins: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        if let Some(main) = main {
            fs::write(folder.path().join("netconn.toml"), main).unwrap();
        }
        for (name, text) in drop_ins {
            fs::write(folder.path().join("conf.d").join(name), text).unwrap();
        }
        folder
    }

    fn read(folder: &tempfile::TempDir) -> Result<Loaded, String> {
        Loaded::of_defaults(&folder.path().join("netconn.toml"), &folder.path().join("conf.d"))
            .map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), ""))
    }

    #[test]
    fn later_drop_ins_hold_and_each_value_knows_its_place() {
        let folder = folder(
            Some("# first\nhistory_days = 7\nmax_flows = 2048\n\n[search]\nhunts = '/a'\n"),
            &[
                ("20-b.toml", "\nhistory_days = 9\nexclude = [\n  'dst.port.number = 53',\n]\n"),
                ("10-a.toml", "history_days = 8\nsearch.lookups = '/b'\n"),
                ("30-c.toml~", "history_days = 1"),
                (".40-d.toml", "history_days = 2"),
                ("README", "no settings"),
            ],
        );
        let loaded = read(&folder).unwrap();
        let config = &loaded.config;
        assert_eq!((config.history_days, config.max_flows, config.history_floor_hours), (9, 2048, 6));
        assert_eq!(
            (config.search.hunts.to_str(), config.search.lookups.as_deref()),
            (Some("/a"), Some(Path::new("/b")))
        );
        let names: Vec<_> = loaded.files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["netconn.toml", "10-a.toml", "20-b.toml"]);
        let place = |setting| {
            let origin: &Origin = loaded.origins.get(setting).unwrap();
            (origin.file.file_name().unwrap().to_str().unwrap(), origin.line)
        };
        assert_eq!(place("history_days"), ("20-b.toml", 2));
        assert_eq!((place("max_flows"), place("search.hunts")), (("netconn.toml", 3), ("netconn.toml", 6)));
        assert_eq!((place("exclude"), place("search.lookups")), (("20-b.toml", 3), ("10-a.toml", 2)));
        assert_eq!(loaded.origins.get("group"), None);
        let text = loaded.to_toml();
        assert_eq!(Config::parse(&text).unwrap(), loaded.config, "{text}");
        let has = |line: &str| text.lines().any(|other| other == line);
        let path = folder.path().display();
        assert!(has(&format!("history_days = 9 # {path}/conf.d/20-b.toml:2")), "{text}");
        assert!(has(&format!("hunts = \"/a\" # {path}/netconn.toml:6")) && has("group = \"netconn\""), "{text}");
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, expected) in [
            ("\nhistory_days = 0\n", "/conf.d/10-a.toml: line 2: history_days = 0: it must be from 1 to 36500"),
            ("x = 1\nhistory_days = 3\n", "/conf.d/10-a.toml: TOML parse error at line 1, column 1"),
            ("flows = 'flows'\nhistory_days = \n", "/conf.d/10-a.toml: TOML parse error at line 2"),
            ("[search]\nhunt = 'x'\n", "/conf.d/10-a.toml: TOML parse error at line 2"),
        ] {
            let error = read(&folder(Some("history_days = 7"), &[("10-a.toml", text)])).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        // As root everything can be read, so a folder stands for what cannot.
        let unreadable = folder(None, &[]);
        fs::create_dir(unreadable.path().join("conf.d/a.toml")).unwrap();
        let error = read(&unreadable).unwrap_err();
        assert!(error.starts_with("cannot read the configuration /conf.d/a.toml: "), "{error}");
    }

    #[test]
    fn all_files_may_be_missing() {
        let loaded = read(&folder(None, &[])).unwrap();
        assert_eq!((loaded.config, loaded.files), (Config::default(), vec![]));
        let loaded = Loaded::of_defaults(Path::new("/nonexistent/a"), Path::new("/nonexistent/b")).unwrap();
        assert_eq!(loaded.config, Config::default());
        assert_eq!(read(&folder(None, &[("a.toml", "history_days = 3")])).unwrap().config.history_days, 3);
    }
}

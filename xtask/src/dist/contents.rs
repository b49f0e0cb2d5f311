//! What each package holds: one table, from which the staged folders of all formats are made.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use xtask::root;

/// A package, and the program that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Package {
    /// The daemon and the command line.
    Netconn,
    /// The query engine.
    Search,
}

impl Package {
    /// All packages, in the order in which they are built.
    pub(super) const ALL: [Self; 2] = [Self::Netconn, Self::Search];

    /// Returns the name of the package, of its program and of its crate.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Netconn => "netconn",
            Self::Search => "netconn-search",
        }
    }

    /// Returns what the package is, in less than 80 characters.
    pub(super) fn summary(self) -> &'static str {
        match self {
            Self::Netconn => "knows every network connection of this machine and its process",
            Self::Search => "searches the history of netconn in the PowerQuery language",
        }
    }

    /// Returns what the package does, a line of at most 76 characters each.
    pub(super) fn description(self) -> &'static [&'static str] {
        match self {
            Self::Netconn => &[
                "netconn follows every TCP connection, UDP flow, listener and failed attempt",
                "of a Linux machine by eBPF, with the process, container and user behind it.",
                "It lists connections like ss and netstat, shows them as they happen, writes",
                "events as JSON lines, and keeps a history. Needs kernel 5.10 or newer.",
            ],
            Self::Search => &[
                "Searches the connections that netconn has recorded on this machine, or JSON",
                "and Parquet files from anywhere, in the language of PowerQuery, and runs",
                "ready-made searches for traces of attackers. The daemon of netconn uses it",
                "to store the history compactly.",
            ],
        }
    }
}

/// Where the content of a file comes from.
enum Source {
    /// A file of the tree.
    Tree(&'static str),
    /// A file of the tree, compressed.
    Compressed(&'static str),
    /// The program of the package.
    Program,
    /// Nothing: the entry is a folder.
    Folder,
}

/// A file or folder of a package.
struct Entry {
    package: Package,
    /// Path from the root.
    to: &'static str,
    source: Source,
    /// Permissions.
    mode: u32,
}

impl Entry {
    const fn new(package: Package, to: &'static str, source: Source, mode: u32) -> Self {
        Self { package, to, source, mode }
    }

    const fn file(package: Package, to: &'static str, from: &'static str) -> Self {
        Self::new(package, to, Source::Tree(from), 0o644)
    }
}

/// Every file that does not depend on the format of the package, beside the documents that the programs write themselves.
const ENTRIES: [Entry; 17] = [
    Entry::new(Package::Netconn, "usr/bin/netconn", Source::Program, 0o755),
    Entry::file(Package::Netconn, "usr/lib/systemd/system/netconn.service", "packaging/systemd/netconn.service"),
    Entry::file(Package::Netconn, "usr/lib/systemd/system/netconn.socket", "packaging/systemd/netconn.socket"),
    Entry::file(Package::Netconn, "usr/lib/sysusers.d/netconn.conf", "packaging/sysusers.d/netconn.conf"),
    Entry::file(Package::Netconn, "usr/lib/tmpfiles.d/netconn.conf", "packaging/tmpfiles.d/netconn.conf"),
    Entry::file(Package::Netconn, "etc/logrotate.d/netconn", "packaging/logrotate/netconn"),
    Entry::new(Package::Netconn, "etc/netconn/conf.d", Source::Folder, 0o755),
    Entry::file(Package::Netconn, "usr/share/doc/netconn/README.md", "README.md"),
    Entry::new(Package::Netconn, "usr/share/doc/netconn/CHANGELOG.md.gz", Source::Compressed("CHANGELOG.md"), 0o644),
    Entry::file(Package::Netconn, "usr/share/doc/netconn/events.md", "docs/events.md"),
    Entry::file(Package::Netconn, "usr/share/doc/netconn/limits.md", "docs/limits.md"),
    Entry::file(Package::Netconn, "usr/share/doc/netconn/operating.md", "docs/operating.md"),
    Entry::file(Package::Netconn, "usr/share/doc/netconn/security.md", "docs/security.md"),
    Entry::new(Package::Search, "usr/bin/netconn-search", Source::Program, 0o755),
    Entry::new(Package::Search, "etc/netconn/hunts", Source::Folder, 0o755),
    Entry::file(Package::Search, "usr/share/doc/netconn-search/language.md", "docs/language.md"),
    Entry::new(
        Package::Search,
        "usr/share/doc/netconn-search/CHANGELOG.md.gz",
        Source::Compressed("CHANGELOG.md"),
        0o644,
    ),
];

/// Where packages of a format have files whose place distributions do not agree on.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Folder of zsh's completions.
    pub(super) zsh: &'static str,
    /// Folder above those with licenses, one for each package.
    pub(super) licenses: &'static str,
}

/// What a package is made of, beside the files of the tree.
pub(super) struct Ingredients {
    /// The program.
    pub(super) program: PathBuf,
    /// The folder in which it has written what it knows of itself.
    pub(super) documents: PathBuf,
    /// The licenses of all that is linked into it, as one text.
    pub(super) notices: String,
    /// The bill of materials.
    pub(super) bill: String,
}

/// The files of a package below a folder of their own, as they are below `/` on the machine that installs it.
pub(super) struct Staged {
    pub(super) package: Package,
    pub(super) root: PathBuf,
}

impl Staged {
    /// Writes the files of a package to a new folder.
    pub(super) fn new(package: Package, folder: PathBuf, made_of: &Ingredients, layout: Layout) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let staged = Self { package, root: folder };
        staged.folder("", 0o755)?;
        for entry in ENTRIES.iter().filter(|entry| entry.package == package) {
            match entry.source {
                Source::Tree(from) => staged.write(entry.to, &read(&root().join(from))?, entry.mode)?,
                Source::Compressed(from) => {
                    staged.write(entry.to, &compressed(&read(&root().join(from))?)?, entry.mode)?;
                }
                Source::Program => staged.write(entry.to, &read(&made_of.program)?, entry.mode)?,
                Source::Folder => staged.folder(entry.to, entry.mode)?,
            }
        }
        staged.add_documents(&made_of.documents, layout)?;
        let name = package.name();
        let licenses = format!("{}/{name}", layout.licenses);
        staged.write(&format!("{licenses}/third-party.txt.gz"), &compressed(made_of.notices.as_bytes())?, 0o644)?;
        let bill = compressed(made_of.bill.as_bytes())?;
        staged.write(&format!("usr/share/doc/{name}/sbom.cdx.json.gz"), &bill, 0o644)?;
        if package == Package::Search {
            staged.add_hunts()?;
        }
        Ok(staged)
    }

    /// Writes a file, with the folders above it.
    pub(super) fn write(&self, to: &str, content: &[u8], mode: u32) -> Result<()> {
        if let Some((above, _)) = to.rsplit_once('/') {
            self.folder(above, 0o755)?;
        }
        let path = self.root.join(to);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
    }

    /// Makes a folder and those above it, if they are missing.
    fn folder(&self, to: &str, mode: u32) -> Result<()> {
        let path = self.root.join(to);
        if path.is_dir() {
            return Ok(());
        }
        match to.rsplit_once('/') {
            Some((above, _)) => self.folder(above, 0o755)?,
            // The folder of the package itself: what is above it is nobody's.
            None if to.is_empty() => return Ok(fs::create_dir_all(&path)?),
            None => {}
        }
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        // Whatever the umask is.
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
    }

    /// Adds man pages, completions and the configuration.
    fn add_documents(&self, documents: &Path, layout: Layout) -> Result<()> {
        for file in files(documents)? {
            let content = read(&documents.join(&file))?;
            let Some((kind, rest)) = file.split_once('/') else { bail!("{file}: nobody knows where this belongs") };
            match kind {
                "man" => self.write(&format!("usr/share/man/{rest}.gz"), &compressed(&content)?, 0o644)?,
                "bash" => self.write(&format!("usr/share/bash-completion/completions/{rest}"), &content, 0o644)?,
                "zsh" => self.write(&format!("{}/{rest}", layout.zsh), &content, 0o644)?,
                "fish" => self.write(&format!("usr/share/fish/vendor_completions.d/{rest}"), &content, 0o644)?,
                "etc" => self.write(&format!("etc/netconn/{rest}"), &content, 0o644)?,
                _ => bail!("{file}: nobody knows where this belongs"),
            }
        }
        Ok(())
    }

    /// Adds the text of the hunts that netconn-search has built in, as examples.
    fn add_hunts(&self) -> Result<()> {
        let folder = root().join("netconn-search/hunts");
        for file in files(&folder)? {
            let to = format!("usr/share/doc/netconn-search/hunts/{file}");
            self.write(&to, &read(&folder.join(&file))?, 0o644)?;
        }
        Ok(())
    }

    /// Returns the paths of all files below the root, in order.
    pub(super) fn files(&self) -> Result<Vec<String>> {
        files(&self.root)
    }

    /// Returns the paths of the folders that a package owns: those that have its name, and those below them.
    pub(super) fn own_folders(&self) -> Result<Vec<String>> {
        let mut folders = Vec::new();
        walk(&self.root, "", &mut |path, is_folder| {
            if is_folder && path.split('/').any(|part| part.starts_with("netconn")) {
                folders.push(path.to_owned());
            }
        })?;
        folders.sort_unstable();
        Ok(folders)
    }
}

/// Returns the paths of all files below a folder, in order.
pub(super) fn files(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    walk(folder, "", &mut |path, is_folder| {
        if !is_folder {
            found.push(path.to_owned());
        }
    })?;
    found.sort_unstable();
    Ok(found)
}

/// Calls `visit` with the path of each file and folder below a folder, and whether it is a folder.
fn walk(folder: &Path, below: &str, visit: &mut impl FnMut(&str, bool)) -> Result<()> {
    let entries = fs::read_dir(folder.join(below)).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().context("a file name is not UTF-8")?;
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let is_folder = entry.file_type()?.is_dir();
        visit(&path, is_folder);
        if is_folder {
            walk(folder, &path, visit)?;
        }
    }
    Ok(())
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Compresses by gzip, without a name or time in it.
pub(super) fn compressed(content: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = Command::new("gzip").arg("-9n").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let gzip = gzip.as_mut().map_err(|error| anyhow::anyhow!("cannot run gzip: {error}"))?;
    let mut input = gzip.stdin.take().context("no input")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(content));
        let mut output = Vec::new();
        let mut from = gzip.stdout.take().context("no output")?;
        std::io::Read::read_to_end(&mut from, &mut output)?;
        anyhow::Ok(output)
    })?;
    if !gzip.wait()?.success() {
        bail!("gzip failed");
    }
    Ok(output)
}

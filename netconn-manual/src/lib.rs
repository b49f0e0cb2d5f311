//! Writes man pages and completions of netconn's programs into a folder, in the layout that `cargo xtask dist` puts into packages:
//! `man/man1/…`, `bash/…`, `zsh/…`, `fish/…`, and `etc/…` for configuration.

mod page;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{ArgGroup, Command, Id};
use clap_complete::{Shell, generate};
use clap_mangen::{Man, roff::Roff};

pub use page::Page;

/// Name of all pages together, in the middle of their first line.
const MANUAL: &str = "netconn";

/// A folder into which a program writes what it knows of itself.
#[derive(Clone, Debug)]
pub struct Manual {
    folder: PathBuf,
    /// Name and version, at the foot of each page.
    source: String,
}

impl Manual {
    /// Makes a manual in an existing folder. `version` is that of the program.
    pub fn new(folder: &Path, version: &str) -> Self {
        Self { folder: folder.to_owned(), source: format!("netconn {version}") }
    }

    /// Writes the page of a command. Its display name is the name of the page. `see` names further pages.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn command(&self, command: &Command, see: &[&str]) -> Result<()> {
        let after = command.get_after_long_help().or_else(|| command.get_after_help()).map(ToString::to_string);
        let man = Man::new(command.clone());
        let name = man.get_filename();
        let name = name.strip_suffix(".1").unwrap_or(&name).to_owned();
        let man = man.title(name.to_uppercase()).source(&self.source).manual(MANUAL);
        let mut text = Vec::new();
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        if command.get_arguments().any(|argument| !argument.is_hide_set()) {
            man.render_options_section(&mut text)?;
        }
        if command.get_subcommands().any(|command| !command.is_hide_set()) {
            man.render_subcommands_section(&mut text)?;
        }
        let mut rest = page::Body::default();
        if let Some(after) = after {
            rest.heading("Notes").help(&after);
        }
        rest.see(see);
        // Each part begins with the definition of apostrophes, which is wanted once.
        let text = String::from_utf8(text)?;
        let preamble = Roff::new().render();
        let text = format!("{preamble}{}{}", text.replace(&preamble, ""), rest.render());
        self.write(&format!("man/man1/{name}.1"), text.as_bytes())
    }

    /// Writes a page that is not about a command.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn page(&self, page: &Page) -> Result<()> {
        let file = format!("man/man{0}/{1}.{0}", page.section(), page.name());
        self.write(&file, page.render(&self.source, MANUAL).as_bytes())
    }

    /// Writes the completions of a program for bash, zsh and fish.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn completions(&self, command: &Command) -> Result<()> {
        let name = command.get_name().to_owned();
        for (shell, file) in [
            (Shell::Bash, format!("bash/{name}")),
            (Shell::Zsh, format!("zsh/_{name}")),
            (Shell::Fish, format!("fish/{name}.fish")),
        ] {
            let mut text = Vec::new();
            generate(shell, &mut visible(command), &name, &mut text);
            self.write(&file, &text)?;
        }
        Ok(())
    }

    /// Writes a file, with the folders above it.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &[u8]) -> Result<()> {
        let path = self.folder.join(file);
        if let Some(above) = path.parent() {
            fs::create_dir_all(above).with_context(|| format!("cannot make {}", above.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Returns a command with what its help shows: completions for bash would offer hidden options, too.
fn visible(command: &Command) -> Command {
    let mut shown = Command::new(kept(command.get_name()))
        .disable_help_flag(command.is_disable_help_flag_set())
        .disable_help_subcommand(true)
        .visible_aliases(command.get_visible_aliases().map(kept))
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()))
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(visible));
    let is_shown =
        |id: &&Id| command.get_arguments().any(|argument| argument.get_id() == *id && !argument.is_hide_set());
    // Options name groups as what they conflict with.
    for group in command.get_groups() {
        let members = group.get_args().filter(is_shown).cloned();
        shown = shown.group(ArgGroup::new(group.get_id().clone()).multiple(true).args(members));
    }
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(kept(version));
    }
    shown
}

/// Keeps a text for as long as the program runs, which ends when it has written its manual. clap wants that of names.
fn kept(text: &str) -> &'static str {
    text.to_owned().leak()
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn a_command_has_a_page_with_its_examples_line_by_line() {
        let folder = std::env::temp_dir().join(format!("netconn-manual-{}", std::process::id()));
        let command = Command::new("thing")
            .about("Does it.")
            .arg(Arg::new("way").long("way").help("How to do it."))
            .arg(Arg::new("other").long("other").conflicts_with("ways"))
            .group(ArgGroup::new("ways").args(["way", "secret"]))
            .arg(Arg::new("secret").long("secret").hide(true))
            .after_help("Examples:\n  thing --way a\n  thing --way b\n\nA paragraph\nof two lines.");
        let manual = Manual::new(&folder, "1.2");
        manual.command(&command, &["other(5)"]).unwrap();
        manual.completions(&command).unwrap();
        let page = fs::read_to_string(folder.join("man/man1/thing.1")).unwrap();
        let completions =
            ["bash/thing", "zsh/_thing", "fish/thing.fish"].map(|file| fs::read_to_string(folder.join(file)).unwrap());
        fs::remove_dir_all(&folder).unwrap();
        for expected in [
            ".TH THING 1  \"netconn 1.2\" netconn\n",
            "thing \\- Does it.",
            ".nf\nthing \\-\\-way a\nthing \\-\\-way b\n.fi",
            "A paragraph of two lines.\n",
            ".SH \"SEE ALSO\"\n\\fBother\\fR(5)\n",
        ] {
            assert!(page.contains(expected), "{expected}: {page}");
        }
        assert!(!page.contains("secret"), "{page}");
        assert_eq!(page.matches(".ds Aq '").count(), 1, "{page}");
        for text in completions {
            assert!(text.contains("way") && !text.contains("secret"), "{text}");
        }
    }
}

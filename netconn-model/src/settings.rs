//! The table of settings, made from the fields of the configuration and their documentation, and how a configuration is written with
//! it: a comment above each setting.

use std::fmt::Write as _;

/// A setting, or a table of settings.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name in the file.
    pub name: &'static str,
    /// What it does, its unit and its values: the lines of the documentation, each with a blank before it.
    pub meaning: &'static [&'static str],
}

impl Setting {
    /// Returns what it does, its unit and its values, in Markdown, without line feeds.
    pub fn described(&self) -> String {
        let lines: Vec<&str> = self.meaning.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }
}

/// Defines a struct of settings, and `SETTINGS`, the table of its fields: what stands above a field as documentation is what users
/// read above the setting.
macro_rules! settings {
    (
        $(#[$outer:meta])*
        pub struct $Config:ident {
            $($(#[doc = $meaning:literal])+ $(#[serde($($serde:tt)*)])? pub $name:ident: $value:ty,)+
        }
    ) => {
        $(#[$outer])*
        pub struct $Config {
            $($(#[doc = $meaning])+ $(#[serde($($serde)*)])? pub $name: $value,)+
        }

        impl $Config {
            /// All settings, in the order in which they are written.
            pub const SETTINGS: &[$crate::settings::Setting] = &[
                $($crate::settings::Setting { name: stringify!($name), meaning: &[$($meaning),+] }),+
            ];
        }
    };
}

pub(crate) use settings;

/// Longest line of a comment.
const WIDTH: usize = 100;

/// A value as it is written: its lines, the first with the name of the setting.
type Block<'a> = Vec<&'a str>;

/// Writes a configuration with a comment above each setting. `toml` has a setting on each line, or on several lines that end with `]`,
/// and nothing before the name; settings that it lacks are those without a value. With `hidden`, the settings are comments, too.
///
/// `tables` are the settings of the file itself, and then those of each table in it, by its name.
pub(crate) fn with_comments(toml: &str, tables: &[(&str, &[Setting])], hidden: bool) -> String {
    let mut text = String::new();
    for (table, settings) in tables {
        let written = blocks(toml, table);
        if !table.is_empty() {
            // Not as a comment: what follows belongs to the table as soon as it is no comment.
            let _ = writeln!(text, "[{table}]\n");
        }
        for setting in *settings {
            let is_table = tables.iter().any(|(name, _)| *name == setting.name);
            comment(&mut text, &setting.described());
            match written.iter().find(|block| block.first().is_some_and(|line| is_of(line, setting.name))) {
                Some(block) => {
                    for line in block {
                        let _ = writeln!(text, "{}{line}", if hidden { "#" } else { "" });
                    }
                }
                None if is_table => continue,
                None => {
                    let _ = writeln!(text, "#{} = \"\"  # has no value by default", setting.name);
                }
            }
            text.push('\n');
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Knows which lines of a file that [`crate::config::Config::to_toml`] has made are inside a text of several lines: those may look like
/// anything.
#[derive(Debug, Default)]
pub(crate) struct TextLines {
    /// What ends the text that is open.
    end: Option<&'static str>,
}

impl TextLines {
    /// Returns whether the next line is inside a text.
    pub(crate) fn is_open(&self) -> bool {
        self.end.is_some()
    }

    /// Takes the next line. Returns whether it is inside a text, or the end of one.
    pub(crate) fn is_inside(&mut self, line: &str) -> bool {
        if let Some(end) = self.end {
            // Three quotes do not occur in a text between three quotes.
            if line.contains(end) {
                self.end = None;
            }
            return true;
        }
        // The text begins on the next line.
        self.end = ["\"\"\"", "'''"].into_iter().find(|quotes| {
            line.strip_suffix(quotes).is_some_and(|rest| rest.trim().is_empty() || rest.ends_with(" = "))
        });
        false
    }
}

/// Returns whether a line begins the value of a setting.
fn is_of(line: &str, name: &str) -> bool {
    line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='))
}

/// Returns the settings that stand in a table of a file.
fn blocks<'a>(toml: &'a str, table: &str) -> Vec<Block<'a>> {
    let (mut current, mut blocks, mut texts) = ("", Vec::<Block<'_>>::new(), TextLines::default());
    for line in toml.lines() {
        let is_inside = texts.is_inside(line);
        if !is_inside && line.is_empty() {
            continue;
        }
        let heading = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match heading.filter(|_| !is_inside) {
            Some(name) => current = name,
            None if current == table => match blocks.last_mut() {
                // Inside a text, an element of a list, or its end.
                Some(block) if is_inside || line.starts_with([' ', ']']) => block.push(line),
                _ => blocks.push(vec![line]),
            },
            None => {}
        }
    }
    blocks
}

/// Writes a text as comment, in lines of at most `WIDTH`.
fn comment(text: &mut String, words: &str) {
    let mut length = 0;
    for word in words.split_whitespace() {
        let characters = word.chars().count();
        if length > 0 && length + 1 + characters > WIDTH {
            text.push('\n');
            length = 0;
        }
        text.push_str(if length == 0 { "# " } else { " " });
        length += characters + if length == 0 { 2 } else { 1 };
        text.push_str(word);
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &[Setting] = &[
        Setting { name: "a", meaning: &[" First", " line."] },
        Setting { name: "ab", meaning: &[" A list."] },
        Setting { name: "c", meaning: &[" None."] },
        Setting { name: "t", meaning: &[" A table."] },
    ];
    const TABLE: &[Setting] = &[Setting { name: "a", meaning: &[" Another."] }];

    #[test]
    fn each_setting_has_its_comment() {
        let toml = "a = 1  # from there\nab = [\n    \"x\",\n]\n\n[t]\na = 2\n";
        let tables: &[(&str, &[Setting])] = &[("", MAIN), ("t", TABLE)];
        assert_eq!(
            with_comments(toml, tables, false),
            "# First line.\na = 1  # from there\n\n# A list.\nab = [\n    \"x\",\n]\n\n# None.\n#c = \"\"  # has no value by default\n\n\
             # A table.\n[t]\n\n# Another.\na = 2\n"
        );
        let hidden = with_comments(toml, tables, true);
        assert!(hidden.contains("\n#ab = [\n#    \"x\",\n#]\n"), "{hidden}");
        let rest: Vec<&str> = hidden.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        assert_eq!(rest, ["[t]"], "nothing is set");
    }

    #[test]
    fn long_comments_are_wrapped() {
        let mut text = String::new();
        comment(&mut text, &"word ".repeat(50));
        assert!(text.lines().all(|line| line.starts_with("# word") && line.len() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 50);
    }
}

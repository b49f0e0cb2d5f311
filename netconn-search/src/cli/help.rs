//! The help on the query language, for `--help-language` and for `help` in the line editor.

use std::fmt::Write as _;

use netconn_model::{field::FIELDS, term::style};
use netconn_query::{
    catalogue::{COMMANDS, FUNCTIONS, FunctionInfo, FunctionKind},
    diagnostic::nearest,
};

/// Returns an overview of the language.
pub(super) fn language() -> String {
    let heading = style::HEADING;
    let mut text = format!(
        "A query is a filter, then any number of `| command`:\n\n  \
         event.type = 'IP Connect' and dst.port.number = 443\n  \
         | group n = count() by src.process.name, dst.ip.address | sort -n | limit 20\n\n\
         {heading}Filter{heading:#}\n  \
         and or not = != < <= > >= in ('a', 'b') in ('10.0.0.0/8') contains matches starts_with ends_with like\n  \
         field = *   has a value     * contains 'x'   in any field     'x'   anywhere in the event\n\n\
         {heading}Commands{heading:#}\n"
    );
    for command in COMMANDS {
        entry(&mut text, command.usage, command.meaning, command.example);
    }
    for (title, kind) in [
        ("Aggregates, for group and top", FunctionKind::Aggregate),
        ("Functions over rows", FunctionKind::Running),
        ("Functions", FunctionKind::Plain),
    ] {
        let _ = writeln!(text, "\n{heading}{title}{heading:#}");
        for function in FUNCTIONS.iter().filter(|function| function.kind == kind) {
            entry(&mut text, function.usage, function.meaning, function.example);
        }
    }
    text
}

/// Lists the fields of events.
pub(super) fn fields() -> String {
    let width = FIELDS.iter().map(|field| field.name.len()).max().unwrap_or(0);
    let lines = FIELDS.iter().map(|field| format!("  {:width$}  {}\n", field.name, field.described()));
    lines.collect()
}

/// Writes the form of a command or function, what it does, and an example.
fn entry(text: &mut String, usage: &str, meaning: &str, example: &str) {
    let quiet = style::QUIET;
    let _ = writeln!(text, "  {usage}\n      {meaning}\n      {quiet}{example}{quiet:#}");
}

/// Returns the help on a command, a function or a field; for an unknown name, a sentence that says so.
pub(super) fn of(name: &str) -> String {
    let name = name.trim().to_lowercase();
    let mut text = String::new();
    let mut add = |usage: &str, meaning: &str, example: &str| {
        let _ = writeln!(text, "{}{usage}{:#}\n  {meaning}\n  {example}", style::HEADING, style::HEADING);
    };
    for command in COMMANDS.iter().filter(|command| command.name == name) {
        add(command.usage, command.meaning, command.example);
    }
    for FunctionInfo { usage, meaning, example, .. } in FUNCTIONS.iter().filter(|function| function.name == name) {
        add(usage, meaning, example);
    }
    for field in FIELDS.iter().filter(|field| field.name.to_lowercase() == name) {
        add(field.name, &field.described(), &format!("{} = *", field.name));
    }
    if !text.is_empty() {
        return text;
    }
    let names = COMMANDS.iter().map(|command| command.name).chain(FUNCTIONS.iter().map(|function| function.name));
    let names = names.chain(FIELDS.iter().map(|field| field.name));
    let nearest = nearest(&name, names).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    format!("there is no command, function or field with that name{nearest}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_help() {
        let names = COMMANDS.iter().map(|command| command.name).chain(FUNCTIONS.iter().map(|function| function.name));
        for name in names.chain(FIELDS.iter().map(|field| field.name)) {
            assert!(of(name).contains(name), "{name}");
        }
        assert_eq!(of("colums"), "there is no command, function or field with that name; did you mean columns?\n");
        let page = language();
        assert!(COMMANDS.iter().all(|command| page.contains(command.name)));
        // Every command and function with its form and an example, which a reader can copy.
        for (usage, example) in COMMANDS
            .iter()
            .map(|command| (command.usage, command.example))
            .chain(FUNCTIONS.iter().map(|function| (function.usage, function.example)))
        {
            assert!(page.contains(usage) && page.contains(example), "{usage}");
        }
    }
}

//! `netconn-search generate`: writes the man pages and completions of this program, made from its own tables. Hidden: `cargo xtask dist`
//! calls it.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use netconn_manual::{Manual, Page};
use netconn_model::exit::Exit;
use netconn_query::catalogue::{COMMANDS, FUNCTIONS, FunctionKind, SPELLINGS};

/// Options of `netconn-search generate`.
#[derive(Debug, Args)]
pub(super) struct GenerateOptions {
    /// The folder to write to.
    folder: PathBuf,
}

/// Writes man pages and completions.
pub(super) fn run(options: &GenerateOptions) -> Result<Exit> {
    let manual = Manual::new(&options.folder, env!("CARGO_PKG_VERSION"));
    let mut command = super::SearchArguments::command();
    manual.completions(&command)?;
    command.build();
    manual.command(&command, &["netconn(1)", "netconn-hunt(1)", "netconn-query(7)", "netconn-events(5)"])?;
    if let Some(hunt) = command.find_subcommand("hunt") {
        let hunt = hunt.clone().display_name("netconn-hunt");
        manual.command(&hunt, &["netconn(1)", "netconn-search(1)", "netconn-query(7)", "netconn-events(5)"])?;
    }
    if let Some(convert) = command.find_subcommand("convert") {
        let convert = convert.clone().display_name("netconn-convert");
        manual.command(&convert, &["netconn(1)", "netconn-search(1)", "netconn-events(5)"])?;
    }
    manual.page(&language())?;
    Ok(Exit::Success)
}

/// Returns the page of the query language.
fn language() -> Page {
    let mut page = Page::new("netconn-query", 7, "the language of netconn's searches, hunts and rules");
    page.heading("Description")
        .paragraph(
            "A query is a filter, then any number of commands, each after a bar. The filter may be empty. The language is that of \
             SentinelOne's S1QL 2.0 and PowerQuery. Rules of the configuration (`exclude`) and conditions of `netconn list` and \
             `netconn watch` are filters.",
        )
        .code(
            "event.type = 'IP Connect' and dst.port.number = 443\n\
             | group n = count() by src.process.name, dst.ip.address\n\
             | sort -n\n\
             | limit 20",
        )
        .heading("Filter")
        .item("and, or, not", "Two terms side by side mean `and`.")
        .item("= != < <= > >=", "Compare; text with attention to case, addresses as addresses.")
        .item("field = *", "The field has a value.")
        .item("contains matches starts_with ends_with like", "Compare text without attention to case; `matches` takes a regular expression.")
        .item("in ('a', 'b')", "Equals one of them; `in ('10.0.0.0/8')` is an address of that network.")
        .item("* contains 'x'", "In any field.")
        .item("'x'", "Anywhere in the event.")
        .item("condition ? a : b", "One of two values.")
        .heading("Commands");
    for command in COMMANDS {
        page.item(command.usage, command.meaning).code(command.example);
    }
    for (heading, kind) in [
        ("Aggregates, for group and top", FunctionKind::Aggregate),
        ("Functions over rows", FunctionKind::Running),
        ("Functions", FunctionKind::Plain),
    ] {
        page.heading(heading);
        for function in FUNCTIONS.iter().filter(|function| function.kind == kind) {
            page.item(function.usage, function.meaning).code(function.example);
        }
    }
    page.heading("Other spellings").paragraph("These names are understood, too:");
    for (other, name) in SPELLINGS {
        page.item(other, &format!("`{name}`"));
    }
    page.heading("Fields")
        .paragraph("`netconn-events`(5) has the fields. `netconn search --help-language` shows all of this, too.");
    page.see(&["netconn-search(1)", "netconn-hunt(1)", "netconn-events(5)"]);
    page
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_name_has_its_place_in_the_manual() {
        let folder = tempfile::tempdir().unwrap();
        run(&GenerateOptions { folder: folder.path().to_owned() }).unwrap();
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        let query = read("man/man7/netconn-query.7");
        for name in COMMANDS.iter().map(|command| command.name).chain(FUNCTIONS.iter().map(|function| function.name)) {
            assert!(query.contains(&name.replace('-', "\\-")), "{name}");
        }
        assert!(read("man/man1/netconn-search.1").contains("\\fB\\-\\-since\\fR"));
        assert!(read("man/man1/netconn-hunt.1").contains("netconn\\-hunt \\- "));
        // What is for the daemon and for packages is in none of them.
        for file in ["man/man1/netconn-search.1", "bash/netconn-search"] {
            assert!(!read(file).contains("convert"), "{file}");
        }
    }
}

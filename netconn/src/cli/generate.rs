//! `netconn generate`: writes what packages hold beside the program, made from the program's own tables. Hidden: `cargo xtask dist` calls it.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use netconn_manual::{Manual, Page};
use netconn_model::{
    config::{Config, DEFAULT_FILE},
    exit::Exit,
    field::{FIELDS, Section},
    packet_socket::PACKET_FIELDS,
    row::ROW_FIELDS,
};

/// Options of `netconn generate`.
#[derive(Debug, Args)]
pub(super) struct GenerateOptions {
    /// The folder to write to.
    folder: PathBuf,
}

/// Commands whose pages and options netconn-search knows.
const ELSEWHERE: [&str; 3] = ["search", "hunt", "convert"];
/// Pages to read beside each command's.
const SEE: [&str; 4] = ["netconn(1)", "netconn.toml(5)", "netconn-events(5)", "netconn-search(1)"];

/// Writes man pages, completions and the configuration.
pub(super) fn run(options: &GenerateOptions) -> Result<Exit> {
    let manual = Manual::new(&options.folder, env!("CARGO_PKG_VERSION"));
    let mut command = super::Arguments::command().disable_help_subcommand(true);
    manual.completions(&command)?;
    command.build();
    manual.command(&command, &SEE[1..])?;
    for command in command.get_subcommands() {
        if !command.is_hide_set() && !ELSEWHERE.contains(&command.get_name()) {
            manual.command(command, &SEE)?;
        }
    }
    manual.page(&configuration())?;
    manual.page(&events())?;
    manual.write("etc/netconn.toml", Config::template().as_bytes())?;
    Ok(Exit::Success)
}

/// Returns the page of the configuration.
fn configuration() -> Page {
    let mut page = Page::new("netconn.toml", 5, "configuration of netconn");
    page.heading("Description").paragraph(&format!(
        "`{DEFAULT_FILE}` is a TOML file. Every setting has a default; an unknown or wrong one is an error. Files in \
         `/etc/netconn/conf.d` whose names end with `.toml` are read after it, in the order of their names, and what they set replaces \
         what was set before. Options of the command line come before all of them. `netconn config` prints what is in force."
    ));
    let defaults = Config::default().to_toml();
    for (name, settings) in Config::TABLES {
        if name.is_empty() {
            page.heading("Settings");
        } else {
            page.heading(&format!("Table {name}"))
                .paragraph(&format!("These settings stand behind the line `[{name}]`."));
        }
        for setting in *settings {
            if Config::TABLES.iter().any(|(table, _)| *table == setting.name) {
                continue;
            }
            let start = format!("{} = ", setting.name);
            // A name stands in one table only.
            let default = defaults.lines().find(|line| line.starts_with(&start));
            page.item(default.unwrap_or(setting.name), &setting.described());
        }
    }
    page.see(&["netconn(1)", "netconn-config(1)", "netconn-run(1)", "netconn-query(7)"]);
    page
}

/// Returns the page of events, rows and packet sockets.
fn events() -> Page {
    let mut page = Page::new("netconn-events", 5, "events, rows and packet sockets of netconn, as JSON");
    page.heading("Description")
        .paragraph(
            "An event is a JSON object on a line of its own, flat, with dots in its names. What is not known is left out. Names may be \
             added; none is renamed.",
        )
        .paragraph("The fields below are those of events, by what they tell.");
    for (section, heading) in SECTIONS {
        page.heading(heading);
        for field in FIELDS.iter().filter(|field| field.section == section) {
            page.item(field.name, &field.described());
        }
    }
    page.heading("Rows of netconn list")
        .paragraph("`netconn list --format json` and `/v1/connections` have these members.");
    for member in ROW_FIELDS {
        page.item(member.name, &member.described());
    }
    page.heading("Packet sockets").paragraph("`netconn list --packet --format json` has these members.");
    for member in PACKET_FIELDS {
        page.item(member.name, &member.described());
    }
    page.see(&["netconn(1)", "netconn-list(1)", "netconn-watch(1)", "netconn-query(7)"]);
    page
}

/// Headings of the sections of an event.
const SECTIONS: [(Section, &str); 9] = [
    (Section::Head, "Every event"),
    (Section::Network, "Connection, flow or listener"),
    (Section::Ends, "Ends"),
    (Section::Owner, "How the process is known"),
    (Section::Process, "Process"),
    (Section::Packet, "Packet sockets in events"),
    (Section::Daemon, "Start and stop of the sensor"),
    (Section::Loss, "Losses"),
    (Section::Sensor, "Host and sensor"),
];

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_command_setting_and_field_has_its_place_in_the_manual() {
        let folder = tempfile::tempdir().unwrap();
        run(&GenerateOptions { folder: folder.path().to_owned() }).unwrap();
        let read = |file: &str| {
            fs::read_to_string(folder.path().join(file))
                .unwrap_or_else(|error| panic!("{file}: {error}"))
                .replace("\\-", "-")
        };
        for command in super::super::Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(read("man/man1/netconn.1").contains(&format!("netconn-{name}(1)")), "{name}");
            if !ELSEWHERE.contains(&name) {
                assert!(read(&format!("man/man1/netconn-{name}.1")).contains("DESCRIPTION"), "{name}");
            }
        }
        let configuration = read("man/man5/netconn.toml.5");
        for setting in
            Config::TABLES.iter().flat_map(|(_, settings)| *settings).filter(|setting| setting.name != "search")
        {
            assert!(configuration.contains(&format!("\\fB{}", setting.name)), "{}", setting.name);
        }
        assert!(configuration.contains("\\fBhistory_days = 30\\fR"), "{configuration}");
        let events = read("man/man5/netconn-events.5");
        assert!(FIELDS.iter().all(|field| events.contains(&format!(".TP\n\\fB{}\\fR\n", field.name))));
        assert_eq!(SECTIONS.map(|(section, _)| section), *Section::ALL);
        // What is for tests and packages is in no page and no completion.
        for file in
            ["man/man1/netconn-run.1", "man/man1/netconn.1", "bash/netconn", "zsh/_netconn", "fish/netconn.fish"]
        {
            assert!(!read(file).contains("--fault") && !read(file).contains("generate"), "{file}");
        }
        assert_eq!(read("etc/netconn.toml"), Config::template().replace("\\-", "-"));
    }
}

//! The table for people.

use std::{
    collections::HashMap,
    io::{self, Write},
    net::IpAddr,
};

use anstyle::Style;
use netconn_model::{
    row::{Row, RowColumn},
    term::{self, style},
};

/// Host names that are kept.
const NAMES_MAX: usize = 65_536;

/// Writes rows as lines whose columns fit some of them.
pub(super) struct Table<W> {
    out: W,
    columns: Vec<&'static RowColumn>,
    layout: term::Columns,
    /// Host names in place of addresses, if they are asked for.
    hosts: Option<HostNames>,
    heading: bool,
    /// Whether nothing was written yet.
    is_first: bool,
}

impl<W: Write> Table<W> {
    /// A table whose columns fit the terminal and these rows; others may come too.
    pub(super) fn fit<'a>(
        out: W,
        columns: Vec<&'static RowColumn>,
        rows: impl Iterator<Item = &'a Row<'static>>,
        (limit, heading): (Option<usize>, bool),
        mut hosts: Option<HostNames>,
    ) -> Self {
        let headings: Vec<String> = columns.iter().map(|column| column.heading.to_owned()).collect();
        let right: Vec<bool> = columns.iter().map(|column| column.is_right).collect();
        let place = |name: &str| columns.iter().position(|column| column.name == name);
        let ends: Vec<usize> = ["local", "remote"].into_iter().filter_map(place).collect();
        // Who has the socket is worth more than the middle of an address.
        let mut layout = term::Columns::new(&right, limit).with_ends(&ends, place("user").unwrap_or(0));
        // A heading that is not printed takes no room.
        if heading {
            layout.widen(&headings);
        }
        for row in rows {
            // With `--resolve` this already looks up the names, which are kept for `row`.
            layout.widen(&cells(&columns, row, hosts.as_mut()));
        }
        Self { out, columns, layout, hosts, heading, is_first: true }
    }

    /// Begins the rows, or those of a group, with the group's name and how many it has.
    pub(super) fn begin(&mut self, group: Option<(&str, usize)>) -> io::Result<()> {
        let heading = style::HEADING;
        if let Some((name, count)) = group {
            if !self.is_first {
                writeln!(self.out)?;
            }
            writeln!(self.out, "{heading}{} ({count}){heading:#}", term::sanitize(name))?;
        }
        self.is_first = false;
        if self.heading {
            let headings: Vec<String> = self.columns.iter().map(|column| column.heading.to_owned()).collect();
            writeln!(self.out, "{}", self.layout.line(&headings, |_| heading))?;
        }
        Ok(())
    }

    pub(super) fn row(&mut self, row: &Row<'_>) -> io::Result<()> {
        let failed = row.failure_reason.is_some();
        let state = if failed { style::BAD } else { style_of(row.state.as_deref().unwrap_or_default()) };
        // Borrowed apart: the names change while the layout is read.
        let Self { out, columns, layout, hosts, .. } = self;
        let style = |place: usize| {
            if columns.get(place).is_some_and(|column| column.is_state()) { state } else { Style::new() }
        };
        writeln!(out, "{}", layout.line(&cells(columns, row, hosts.as_mut()), style))
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn cells(columns: &[&RowColumn], row: &Row<'_>, hosts: Option<&mut HostNames>) -> Vec<String> {
    match hosts {
        Some(hosts) => columns.iter().map(|column| column.cell(row, &mut |address| hosts.of(address))).collect(),
        None => columns.iter().map(|column| column.cell(row, &mut |_| None)).collect(),
    }
}

fn style_of(state: &str) -> Style {
    match state {
        "ESTABLISHED" => style::GOOD,
        "LISTENING" | "UNCONNECTED" => style::QUIET,
        "SYN_SENT" | "SYN_RECV" | "CLOSE_WAIT" => style::CAUTION,
        _ => style::FAINT,
    }
}

/// Names of hosts, each looked up once.
#[derive(Debug, Default)]
pub(super) struct HostNames(HashMap<IpAddr, Option<String>>);

impl HostNames {
    /// Returns the name of the host with this address, if it has one.
    fn of(&mut self, address: IpAddr) -> Option<String> {
        // "Any address" is no host.
        if address.is_unspecified() {
            return None;
        }
        // Cleared as a whole: a list with more hosts than that is rare, and its names are only looked up again.
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        // It blocks, for seconds where a name server is silent. Failures are kept too, so that each costs that once.
        let look_up = || dns_lookup::lookup_addr(&address).ok().map(|host| term::sanitize(&host).into_owned());
        self.0.entry(address).or_insert_with(look_up).clone()
    }
}

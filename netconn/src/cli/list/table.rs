//! The table for people.

use std::{
    collections::HashMap,
    io::{self, Write},
    net::IpAddr,
};

use anstyle::Style;
use netconn_model::{
    row::Row,
    term::{self, style},
};

use crate::cli::list::columns::{Column, STATE};

/// Host names that are kept.
const NAMES_MAX: usize = 65_536;

/// Writes rows as lines whose columns fit some of them.
pub(super) struct Table<W> {
    out: W,
    columns: Vec<&'static Column>,
    layout: term::Columns,
    heading: bool,
    /// Whether nothing was written yet.
    is_first: bool,
}

impl<W: Write> Table<W> {
    /// A table whose columns fit the terminal and these rows; others may come too.
    pub(super) fn fit<'a>(
        out: W,
        columns: Vec<&'static Column>,
        rows: impl Iterator<Item = &'a Row>,
        limit: Option<usize>,
        heading: bool,
    ) -> Self {
        let headings: Vec<String> = columns.iter().map(|column| column.heading.to_owned()).collect();
        let right: Vec<bool> = columns.iter().map(|column| column.right).collect();
        let mut layout = term::Columns::new(&right, limit);
        if heading {
            layout.widen(&headings);
        }
        for row in rows {
            layout.widen(&cells(&columns, row));
        }
        Self { out, columns, layout, heading, is_first: true }
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

    pub(super) fn row(&mut self, row: &Row) -> io::Result<()> {
        let state = style_of(&row.state);
        let style = |column| if column == STATE { state } else { Style::new() };
        writeln!(self.out, "{}", self.layout.line(&cells(&self.columns, row), style))
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn cells(columns: &[&Column], row: &Row) -> Vec<String> {
    columns.iter().map(|column| (column.cell)(row)).collect()
}

fn style_of(state: &str) -> Style {
    match state {
        "ESTABLISHED" => style::GOOD,
        "LISTENING" | "UNCONNECTED" => style::QUIET,
        "SYN_SENT" | "SYN_RECV" | "CLOSE_WAIT" => style::CAUTION,
        _ => style::FAINT,
    }
}

/// Puts host names for addresses, each looked up once.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, String>);

impl Names {
    pub(super) fn put(&mut self, row: &mut Row) {
        self.name(&mut row.local_address);
        if let Some(remote) = &mut row.remote_address {
            self.name(remote);
        }
    }

    fn name(&mut self, address: &mut String) {
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        let found = self.0.entry(address.clone()).or_insert_with(|| {
            let parsed: Option<IpAddr> = address.parse().ok();
            let any = parsed.is_none_or(|parsed| parsed.is_unspecified());
            let host = if any { None } else { parsed.and_then(|parsed| dns_lookup::lookup_addr(&parsed).ok()) };
            host.map_or_else(|| address.clone(), |host| term::sanitize(&host).into_owned())
        });
        address.clone_from(found);
    }
}

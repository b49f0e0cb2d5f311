//! Sorts rows by columns.

use std::{cmp::Reverse, net::IpAddr};

use crate::{
    row::{Row, RowColumn, column_by_name, state_place},
    value::JsonValue,
};

/// A value that rows are sorted by. One column has one kind, except `user`: accounts without a name come first, by
/// their numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SortValue {
    Number(u64),
    Text(String),
    End(IpAddr, Option<u32>),
}

impl RowColumn {
    fn sort_value(&self, row: &Row<'_>) -> Option<SortValue> {
        // By the order of listing: the alphabet means nothing here.
        if self.is_state() {
            return Some(SortValue::Number(state_place(row) as u64));
        }
        // As numbers: as text, 10.0.0.10 would come before 10.0.0.9.
        if let Some((address, port)) = self.address(row) {
            return Some(SortValue::End(address, port));
        }
        // RFC 3339 in UTC with nine digits: the order of the text is that of time.
        match self.first(row)? {
            JsonValue::Integer(number) => Some(SortValue::Number(number.unsigned_abs())),
            value => Some(SortValue::Text(value.to_string())),
        }
    }
}

/// A column to sort by.
#[derive(Clone, Copy, Debug)]
pub struct RowSortKey {
    column: &'static RowColumn,
    is_descending: bool,
}

impl RowSortKey {
    /// Returns whether rows have the column only if they are asked for with `info`.
    pub fn is_info(&self) -> bool {
        self.column.is_info()
    }

    /// Returns whether rows have the column only if they are asked for with `inode`.
    pub fn is_inode(&self) -> bool {
        self.column.name == "inode"
    }

    /// Reads `sent` or `-sent`, by any name of [`column_by_name`].
    ///
    /// # Errors
    ///
    /// When there is no such column.
    pub fn parse(given: &str) -> Result<Self, String> {
        let (name, is_descending) = given.strip_prefix('-').map_or((given, false), |name| (name, true));
        Ok(Self { column: column_by_name(name)?, is_descending })
    }
}

/// A value in the order that was asked for. What is not known comes last in either.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SortRank {
    Ascending(SortValue),
    Descending(Reverse<SortValue>),
    Unknown,
}

/// Sorts by the columns, the first most. Rows that are equal in them are sorted by state, local and remote end.
pub fn sort<T>(entries: &mut [T], keys: &[RowSortKey], row: impl for<'t> Fn(&'t T) -> &'t Row<'static>) {
    // Cached: keys are made of texts, and a sort compares each row many times.
    entries.sort_by_cached_key(|entry| {
        let row = row(entry);
        let rank = |RowSortKey { column, is_descending }: &RowSortKey| match (column.sort_value(row), is_descending) {
            (None, _) => SortRank::Unknown,
            (Some(value), false) => SortRank::Ascending(value),
            (Some(value), true) => SortRank::Descending(Reverse(value)),
        };
        // The usual order last, so that equal rows have the same places in each run.
        (keys.iter().map(rank).collect::<Vec<_>>(), usual_order(row))
    });
}

/// State, local and remote end, path of a Unix socket, inode.
type UsualOrder = (usize, Option<SortValue>, Option<SortValue>, Option<String>, Option<u64>);

fn usual_order(row: &Row<'_>) -> UsualOrder {
    let end = |address: Option<IpAddr>, port| Some(SortValue::End(address?, port));
    let path = row.local_path.as_deref().map(str::to_owned);
    (
        state_place(row),
        end(row.local_address, row.local_port),
        end(row.remote_address, row.remote_port),
        path,
        row.inode,
    )
}

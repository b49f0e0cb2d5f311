//! The columns that a command can name.

use std::collections::HashSet;

use netconn_model::field;

use super::AnswerColumns;
use crate::{
    diagnostic::nearest,
    facts::{SEQUENCE_ENDS, sequence_columns},
    fields::Fields,
};

/// The columns at a place of a query.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// Whether all fields of events are among them.
    events: bool,
    /// Whether there may be others that only the data decide.
    open: bool,
    /// Columns that the query has made, without repetition.
    names: Vec<String>,
    /// Those of these columns that are moments.
    moments: HashSet<String>,
    /// Sides of a join with their aliases: `a.x` is the x of one of them. The ends of a sequence, too.
    sides: Vec<(String, Self)>,
}

impl Scope {
    /// Returns the scope at the beginning of a query: the fields of events.
    pub(super) fn events() -> Self {
        Self { events: true, open: false, names: Vec::new(), moments: HashSet::new(), sides: Vec::new() }
    }

    /// Returns a scope of these columns only.
    pub(super) fn named(names: impl IntoIterator<Item = String>) -> Self {
        let mut scope =
            Self { events: false, open: false, names: Vec::new(), moments: HashSet::new(), sides: Vec::new() };
        names.into_iter().for_each(|name| scope.add(name));
        scope
    }

    /// Adds a column of which is known whether it is a moment.
    pub(super) fn add_made(&mut self, name: String, is_moment: bool) {
        if is_moment {
            self.moments.insert(name.clone());
        } else {
            self.moments.remove(&name);
        }
        self.add(name);
    }

    pub(super) fn add(&mut self, name: String) {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    /// Adds columns that only the data decide.
    pub(super) fn widen(&mut self) {
        self.open = true;
    }

    /// Adds the columns of another scope.
    pub(super) fn merge(&mut self, other: Self) {
        // Wider than the truth: a column of one side counts as known, because a warning that is wrong is worse than
        // none.
        self.events |= other.events;
        self.open |= other.open;
        self.moments.extend(other.moments);
        other.names.into_iter().for_each(|name| self.add(name));
    }

    /// Joins the columns of sides. A column that an earlier side has too, and that is no key, gets its alias as a
    /// prefix.
    pub(super) fn joined(sides: Vec<(String, Self)>, keys: &[&str]) -> Self {
        let mut joined = Self::named([]);
        for (alias, side) in &sides {
            joined.events |= side.events;
            joined.open |= side.open;
            joined.moments.extend(side.moments.iter().cloned());
            for name in &side.names {
                let is_taken = joined.names.contains(name) && !keys.contains(&name.as_str());
                joined.add(if is_taken { format!("{alias}.{name}") } else { name.clone() });
            }
        }
        joined.sides = sides;
        joined
    }

    /// Returns the columns behind `sequence`: its keys, and those before it of its first and its last event.
    pub(super) fn sequence(self, keys: Vec<(String, bool)>, fields: &Fields) -> Self {
        let mut after = Self::named([]);
        keys.into_iter().for_each(|(key, is_moment)| after.add_made(key, is_moment));
        for (name, field) in sequence_columns() {
            if field.is_none_or(|(field, _)| self.contains(field.info().name, fields)) {
                after.add_made(name, field.is_some_and(|(field, _)| field.info().r#type.is_moment()));
            }
        }
        after.sides = SEQUENCE_ENDS.map(|end| (end.to_owned(), self.clone())).into();
        after
    }

    /// Whether a column of that name may exist.
    pub(super) fn contains(&self, name: &str, fields: &Fields) -> bool {
        let of_side =
            |(alias, side): &(String, Self)| of_side(name, alias).is_some_and(|name| side.contains(name, fields));
        self.open || self.knows(name, fields) || self.sides.iter().any(of_side)
    }

    /// Whether a column of that name exists for certain, not only if the data decide so.
    pub(super) fn knows(&self, name: &str, fields: &Fields) -> bool {
        let of_side =
            |(alias, side): &(String, Self)| of_side(name, alias).is_some_and(|name| side.knows(name, fields));
        self.names.iter().any(|own| own == name)
            || (self.events && fields.contains(name))
            || self.sides.iter().any(of_side)
    }

    /// Whether a name is the field of the events, which no command has replaced.
    pub(super) fn is_of_events(&self, name: &str) -> bool {
        self.events && !self.open && self.sides.is_empty() && !self.names.iter().any(|own| own == name)
    }

    /// Whether a column is a moment: a field of the schema, or a column that was made of one.
    pub(super) fn is_moment(&self, name: &str) -> bool {
        if self.names.iter().any(|own| own == name) {
            return self.moments.contains(name);
        }
        let of_side = |(alias, side): &(String, Self)| of_side(name, alias).is_some_and(|name| side.is_moment(name));
        let is_field = || self.events && field::by_name(name).is_some_and(|field| field.r#type.is_moment());
        is_field() || self.sides.iter().any(of_side)
    }

    /// Whether only the data decide what a column is.
    pub(super) fn is_of_data(&self, name: &str) -> bool {
        (self.open && !self.names.iter().any(|own| own == name)) || (self.events && field::by_name(name).is_none())
    }

    /// Whether only columns that commands have made are left.
    pub(super) fn is_closed(&self) -> bool {
        !self.events && !self.open
    }

    /// Returns the only column, if there is certainly just one.
    pub(super) fn single(&self) -> Option<&str> {
        match self.names.as_slice() {
            [single] if self.is_closed() => Some(single),
            _ => None,
        }
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the column whose spelling is nearest, if one is near enough.
    pub(super) fn alike<'a>(&'a self, name: &str, fields: &'a Fields) -> Option<&'a str> {
        let own = nearest(name, self.names.iter().map(String::as_str));
        own.or_else(|| if self.events { fields.alike(name) } else { None })
    }

    /// Returns the column that was probably meant.
    pub(super) fn nearest<'a>(&'a self, name: &str, fields: &'a Fields) -> Option<&'a str> {
        let own = nearest(name, self.names.iter().map(String::as_str));
        own.or_else(|| if self.events { fields.nearest(name) } else { None })
    }

    pub(super) fn columns(self) -> AnswerColumns {
        match (self.open, self.events) {
            // Open first: with unknown columns the rest of the list cannot be complete.
            (true, _) => AnswerColumns::Partly(self.names),
            (false, true) => AnswerColumns::Events { added: self.names },
            (false, false) => AnswerColumns::Named(self.names),
        }
    }
}

/// Returns the column of `alias.column`, if the name has that alias.
pub(super) fn of_side<'a>(name: &'a str, alias: &str) -> Option<&'a str> {
    name.strip_prefix(alias)?.strip_prefix('.')
}

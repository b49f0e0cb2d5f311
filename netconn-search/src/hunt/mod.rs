//! Ready hunts: queries that look for something, with what one has to know to judge what they find.

pub mod header;
mod library;

pub use library::{HuntError, HuntLibrary};
use netconn_query::ast::{Column, CommandKind, Expr, ExprKind, Query};
use serde::Serialize;

use crate::hunt::header::HeaderError;

/// A query that looks for something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hunt {
    /// What it is called by: the name of its file.
    pub name: String,
    /// What it finds, in a few words.
    pub title: String,
    /// How bad it is if it is what it looks like.
    pub severity: HuntSeverity,
    /// What it looks for.
    pub description: String,
    /// Why that is worth looking for.
    pub reason: String,
    /// What else looks like that.
    pub false_positives: String,
    /// The last so much time, when nothing else is said.
    pub range: String,
    /// What can be set.
    pub parameters: Vec<HuntParameter>,
    /// The text of the file, header and all: a query as it is.
    pub query: String,
    /// Whether it comes with netconn.
    pub is_built_in: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum HuntSeverity {
    Low,
    Medium,
    High,
    Critical,
}

impl HuntSeverity {
    /// All, from the least.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// A value in a `let` of the query that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HuntParameter {
    /// Its name in the `let`.
    pub name: String,
    /// What it means.
    pub meaning: String,
}

impl Hunt {
    /// Reads a hunt's file.
    ///
    /// # Errors
    ///
    /// When its header lacks something or has what is not known.
    pub fn parse(name: &str, text: &str, is_built_in: bool) -> Result<Self, HeaderError> {
        let mut hunt = header::parse(text)?;
        hunt.name = name.into();
        hunt.is_built_in = is_built_in;
        Ok(hunt)
    }

    /// Sets a parameter in the parsed query of this hunt, in the form `name=value`.
    ///
    /// # Errors
    ///
    /// When there is no such parameter or the value is of another type.
    pub fn set(&self, query: &mut Query, setting: &str) -> Result<(), SettingError> {
        let (name, value) = setting.split_once('=').ok_or_else(|| SettingError::Form { setting: setting.into() })?;
        let (name, value) = (name.trim(), value.trim());
        if !self.parameters.iter().any(|parameter| parameter.name == name) {
            let names: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
            let names = if names.is_empty() { "none".into() } else { names.join(", ") };
            return Err(SettingError::Unknown { hunt: self.name.clone(), name: name.into(), names });
        }
        for column in lets(query).into_iter().filter(|column| column.label == name) {
            replace(&mut column.expr, value)
                .ok_or_else(|| SettingError::Value { name: name.into(), value: value.into() })?;
        }
        Ok(())
    }
}

/// What a query calls something by `let`, also in the queries that it has in it.
fn lets(query: &mut Query) -> Vec<&mut Column> {
    let mut found = Vec::new();
    for command in &mut query.commands {
        match &mut command.kind {
            CommandKind::Let(columns) => found.extend(columns),
            CommandKind::Union(queries) => found.extend(queries.iter_mut().flat_map(lets)),
            CommandKind::Join { sides, .. } => found.extend(sides.iter_mut().flat_map(|side| lets(&mut side.query))),
            _ => {}
        }
    }
    found
}

/// Puts another literal of the same type in the place of one.
fn replace(expr: &mut Expr, value: &str) -> Option<()> {
    expr.kind = match &expr.kind {
        ExprKind::Number(_) => {
            ExprKind::Number(value.replace('_', "").parse().ok().filter(|number: &f64| number.is_finite())?)
        }
        ExprKind::Text(_) => ExprKind::Text(value.into()),
        ExprKind::Bool(_) => ExprKind::Bool(value.parse().ok()?),
        _ => return None,
    };
    Some(())
}

/// Why a parameter cannot be set.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingError {
    /// Not `name=value`.
    #[error("--set takes name=value, not '{setting}'")]
    Form {
        /// What was said.
        setting: String,
    },
    /// No such parameter.
    #[error("the hunt {hunt} has no parameter '{name}'; it has {names}")]
    Unknown {
        /// The hunt.
        hunt: String,
        /// What was said.
        name: String,
        /// What there is.
        names: String,
    },
    /// The value is of another type.
    #[error("'{value}' cannot be the value of {name}: it takes a number like 1000000 or 0.5")]
    Value {
        /// The parameter.
        name: String,
        /// What was said.
        value: String,
    },
}

#[cfg(test)]
mod tests {
    use netconn_query::ast::{Command, Name, Span};

    use super::*;

    #[test]
    fn parameters_are_set_in_the_query() {
        let hunt = HuntLibrary::new(None).get("exfiltration-volume").unwrap();
        let expr = |kind| Expr { kind, span: Span::default() };
        let column = |name: &str, kind| Column {
            name: Some(Name { text: name.into(), span: Span::default() }),
            expr: expr(kind),
            label: name.into(),
        };
        let columns = vec![column("min_bytes", ExprKind::Number(1.0)), column("other", ExprKind::Number(2.0))];
        let command = Command { kind: CommandKind::Let(columns), span: Span::default() };
        let mut query = Query { filter: None, commands: vec![command], span: Span::default() };
        hunt.set(&mut query, "min_bytes = 5_000").unwrap();
        let CommandKind::Let(columns) = &query.commands[0].kind else { panic!("another command") };
        assert_eq!(columns[0].expr.kind, ExprKind::Number(5000.0));
        assert_eq!(columns[1].expr.kind, ExprKind::Number(2.0));
        // Where queries are put together, it is set in each of them.
        let text = "| union (a = 1 | let min_bytes = 1), (| join a = (| let min_bytes = 2), b = (b = 1) on k)";
        let mut query = netconn_query::parse(text).query.unwrap();
        hunt.set(&mut query, "min_bytes=3").unwrap();
        let set: Vec<_> = lets(&mut query).iter().map(|column| column.expr.kind.clone()).collect();
        assert_eq!(set, [ExprKind::Number(3.0), ExprKind::Number(3.0)]);
        for (setting, expected) in [
            ("min_bytes", "--set takes name=value, not 'min_bytes'"),
            ("min_bytes=many", "'many' cannot be the value of min_bytes: it takes a number like 1000000 or 0.5"),
            ("other=1", "the hunt exfiltration-volume has no parameter 'other'; it has min_bytes, min_ratio"),
        ] {
            assert_eq!(hunt.set(&mut query, setting).unwrap_err().to_string(), expected);
        }
    }
}

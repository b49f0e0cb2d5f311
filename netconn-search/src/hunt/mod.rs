//! Hunts: ready-made queries for traces of attackers, with the explanations needed to judge their results.

pub mod header;
mod library;

pub use library::{HuntError, HuntLibrary};
use netconn_query::ast::{Column, CommandKind, Expr, ExprKind, Query};
use serde::Serialize;

use crate::hunt::header::HeaderError;

/// A hunt. Its members are the keys of the JSON output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hunt {
    /// Name: that of its file, without the extension.
    pub name: String,
    /// What the hunt finds, in a few words.
    pub title: String,
    /// Severity of a true finding.
    pub severity: HuntSeverity,
    /// What the hunt looks for.
    pub description: String,
    /// Why this is worth looking for.
    pub reason: String,
    /// Harmless causes of the same rows.
    pub false_positives: String,
    /// Length of the default time range, which ends now.
    pub range: String,
    /// Parameters that can be set.
    pub parameters: Vec<HuntParameter>,
    /// The text of the file, including the header: a valid query, as the header consists of comments.
    pub query: String,
    /// Whether the hunt is part of netconn.
    pub is_built_in: bool,
}

/// The severity of a hunt.
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
    /// All severities, from the lowest.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// A parameter: a constant in a `let` of the query that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HuntParameter {
    /// Name in the `let`.
    pub name: String,
    /// Explanation for the user.
    pub meaning: String,
    /// The value that the query has, as it is written.
    pub default: Option<String>,
}

impl Hunt {
    /// Parses the text of a hunt's file.
    ///
    /// # Errors
    ///
    /// The header lacks a key, or has an unknown key or a wrong value.
    pub fn parse(name: &str, text: &str, is_built_in: bool) -> Result<Self, HeaderError> {
        let mut hunt = header::parse(text)?;
        hunt.name = name.into();
        hunt.is_built_in = is_built_in;
        Ok(hunt)
    }

    /// Sets a parameter, given as `name=value`, in the parsed query of this hunt.
    ///
    /// # Errors
    ///
    /// The hunt has no such parameter, or the value has another type.
    pub fn set(&self, query: &mut Query, setting: &str) -> Result<(), SettingError> {
        let (name, value) = setting.split_once('=').ok_or_else(|| SettingError::Form { setting: setting.into() })?;
        let (name, value) = (name.trim(), value.trim());
        if !self.parameters.iter().any(|parameter| parameter.name == name) {
            let names: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
            let names = if names.is_empty() { "none".into() } else { names.join(", ") };
            return Err(SettingError::Unknown { hunt: self.name.clone(), name: name.into(), names });
        }
        // Several subqueries may set the same parameter: all of them get the value.
        for column in lets(query).into_iter().filter(|column| column.label == name) {
            replace(&mut column.expr, value)
                .ok_or_else(|| SettingError::Value { name: name.into(), value: value.into() })?;
        }
        Ok(())
    }
}

/// Returns the columns of all `let` commands of a query, including those of its subqueries.
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

/// Replaces a literal by another one of the same type; `None` if the value has another type.
fn replace(expr: &mut Expr, value: &str) -> Option<()> {
    expr.kind = match &expr.kind {
        ExprKind::Number(_) => {
            // `parse` also accepts `inf` and `NaN`, which no threshold can mean.
            ExprKind::Number(value.replace('_', "").parse().ok().filter(|number: &f64| number.is_finite())?)
        }
        ExprKind::Text(_) => ExprKind::Text(value.into()),
        ExprKind::Bool(_) => ExprKind::Bool(value.parse().ok()?),
        // Only a literal has a type that the new value can be checked against.
        _ => return None,
    };
    Some(())
}

/// Why a parameter cannot be set.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingError {
    /// The setting does not have the form `name=value`.
    #[error("--set takes name=value, not '{setting}'")]
    Form {
        /// The setting as it was given.
        setting: String,
    },
    /// The hunt has no such parameter.
    #[error("the hunt {hunt} has no parameter '{name}', only {names}")]
    Unknown {
        /// The name of the hunt.
        hunt: String,
        /// The name that was given.
        name: String,
        /// The names of its parameters.
        names: String,
    },
    /// The value has another type.
    #[error("'{value}' is not a valid value for {name}, which takes a number like 1000000 or 0.5")]
    Value {
        /// The parameter.
        name: String,
        /// The value that was given.
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
        // A parameter is set in every subquery.
        let text = "| union (a = 1 | let min_bytes = 1), (| join a = (| let min_bytes = 2), b = (b = 1) on k)";
        let mut query = netconn_query::parse(text).query.unwrap();
        hunt.set(&mut query, "min_bytes=3").unwrap();
        let set: Vec<_> = lets(&mut query).iter().map(|column| column.expr.kind.clone()).collect();
        assert_eq!(set, [ExprKind::Number(3.0), ExprKind::Number(3.0)]);
        for (setting, expected) in [
            ("min_bytes", "--set takes name=value, not 'min_bytes'"),
            ("min_bytes=many", "'many' is not a valid value for min_bytes, which takes a number like 1000000 or 0.5"),
            ("other=1", "the hunt exfiltration-volume has no parameter 'other', only min_bytes, min_ratio"),
        ] {
            assert_eq!(hunt.set(&mut query, setting).unwrap_err().to_string(), expected);
        }
    }
}

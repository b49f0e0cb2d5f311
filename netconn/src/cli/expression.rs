//! The condition that may stand behind the options of `list` and `watch`: in the language of searches, or as in `ss`.

use std::{error::Error, fmt};

use anyhow::Result;
use clap::Args;
use netconn_model::row::{ROW_FIELDS, RowSection};
use netconn_query::{
    Diagnostic,
    ast::ExprKind,
    diagnostic::has_errors,
    evaluate::{Compiled, Predicate, fields_of_rows, without_fields_of_events},
    parse, short,
};

use crate::cli::ss_filter;

/// What a condition is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// Rows of a list.
    Rows,
    /// Events.
    Events,
}

/// The condition of a command line.
#[derive(Debug, Default, Args)]
pub(super) struct ExpressionOption {
    /// A condition that must hold as well, in the language of `netconn search`: "dst.port.number = 443 and not src.process.name
    /// = 'curl'". Those of ss are understood too: state established '( dport = :https or dst 10/8 )'.
    #[arg(value_name = "CONDITION")]
    words: Vec<String>,
}

impl ExpressionOption {
    /// Returns whether no condition was given.
    pub(super) fn is_none(&self) -> bool {
        self.words.is_empty()
    }

    /// Returns whether the condition names what rows have only if they are asked for with `info`.
    pub(super) fn has_info(&self) -> bool {
        let text = self.words.join(" ");
        let text = if ss_filter::is_one(&text) { ss_filter::translated(&text).unwrap_or_default() } else { text };
        let is_info = |kind: &ExprKind| {
            let ExprKind::Field(name) = kind else { return false };
            ROW_FIELDS.iter().any(|info| info.section == RowSection::Info && info.name == name)
        };
        parse(&text).query.is_some_and(|query| query.expressions().iter().any(|expr| expr.has(is_info)))
    }

    /// Compiles the condition, and writes what had to be interpreted to standard error; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`RefusedCondition`].
    pub(super) fn predicate(&self, about: About) -> Result<Option<Predicate>> {
        let text = self.words.join(" ");
        if text.trim().is_empty() {
            return Ok(None);
        }
        match compile(&text, about) {
            Ok((text, Compiled { predicate, warnings })) => {
                for warning in warnings {
                    netconn_model::tell!("{}", warning.render(&text));
                }
                Ok(Some(predicate))
            }
            Err(refused) => Err(refused.into()),
        }
    }
}

/// Compiles a condition; returns it in the language of searches too.
fn compile(text: &str, about: About) -> Result<(String, Compiled), RefusedCondition> {
    let text = if ss_filter::is_one(text) {
        let refused = |diagnostic| RefusedCondition { text: text.to_owned(), diagnostics: vec![diagnostic] };
        ss_filter::translated(text).map_err(refused)?
    } else {
        text.to_owned()
    };
    let mut parsed = parse(&text);
    let mut diagnostics = parsed.diagnostics;
    let compiled = match &mut parsed.query {
        Some(query) if !has_errors(&diagnostics) => {
            let own = if about == About::Rows { fields_of_rows() } else { Vec::new() };
            // What only rows have goes before the short names of fields.
            short::expand(query, |name| own.iter().any(|(known, _)| *known == name));
            if about == About::Rows {
                diagnostics.extend(without_fields_of_events(query));
            }
            Predicate::compile(query, &own).map_err(|found| diagnostics.extend(found)).ok()
        }
        _ => None,
    };
    let Some(Compiled { predicate, warnings }) = compiled else {
        return Err(RefusedCondition { text, diagnostics });
    };
    diagnostics.extend(warnings);
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    Ok((text, Compiled { predicate, warnings: diagnostics }))
}

/// A condition that cannot be read.
#[derive(Clone, Debug)]
pub(super) struct RefusedCondition {
    text: String,
    /// What is wrong with it, with the warnings.
    diagnostics: Vec<Diagnostic>,
}

impl RefusedCondition {
    /// Writes what is wrong to standard error, with its place.
    pub(super) fn report(&self) {
        for diagnostic in &self.diagnostics {
            netconn_model::tell!("{}", diagnostic.render(&self.text));
        }
    }
}

impl fmt::Display for RefusedCondition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said: Vec<String> = self.diagnostics.iter().map(|diagnostic| diagnostic.to_string_in(&self.text)).collect();
        write!(formatter, "the condition cannot be read: {}", said.join("; "))
    }
}

impl Error for RefusedCondition {}

#[cfg(test)]
mod tests {
    use netconn_model::row::Row;

    use super::*;

    fn row(text: &str) -> Row<'static> {
        serde_json::from_str::<Row<'_>>(text).unwrap().into_owned()
    }

    #[test]
    fn both_languages_select_the_same_rows() {
        let https = row(
            r#"{"state":"ESTABLISHED","protocol":"TCP","direction":"OUTGOING","local_address":"192.0.2.1","local_port":40000,
            "remote_address":"10.1.2.3","remote_port":443,"process_name":"curl"}"#,
        );
        let listener = row(r#"{"state":"LISTENING","protocol":"TCP","local_address":"::","local_port":22}"#);
        for (text, of_https, of_listener) in [
            ("dst.port.number = 443 and src.process.name = 'curl'", true, false),
            ("dst.port.number = 443 and not src.process.name = 'curl'", false, false),
            ("process = 'curl' and dst.port = 443 and direction = 'OUTGOING'", true, false),
            ("state = 'LISTENING' and local.port = 22 and not process = 'curl'", false, true),
            ("dst 10/8", true, false),
            ("dport = :https", true, false),
            ("dport = 443 or sport = :22", true, true),
            ("state established", true, false),
            ("state = 'LISTENING'", false, true),
            ("not ( state connected )", false, true),
        ] {
            let (_, Compiled { predicate, .. }) = compile(text, About::Rows).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((predicate.matches(&https), predicate.matches(&listener)), (of_https, of_listener), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let error = |text: &str, about| compile(text, about).unwrap_err().to_string();
        assert!(error("dst.port.number = 443 | sort x", About::Rows).contains("no command can follow but filter"));
        assert!(error("dst.port.number =", About::Events).starts_with("the condition cannot be read: error 1:"));
        assert!(error("dport = :no-such", About::Rows).contains("1:9"), "{}", error("dport = :no-such", About::Rows));
        let warnings = compile("event.type = 'IP Close'", About::Rows).unwrap().1.warnings;
        assert!(warnings[0].message.contains("a field of events"), "{warnings:?}");
        assert!(compile("event.type = 'IP Close'", About::Events).unwrap().1.warnings.is_empty());
        assert!(compile("type = 'IP Close' and process = 'curl'", About::Events).unwrap().1.warnings.is_empty());
    }
}

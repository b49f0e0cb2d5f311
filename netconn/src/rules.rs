//! Rules of the configuration that keep events from being made (`exclude`): filters in the language of searches.
//!
//! The evaluator of `netconn-query` is the only part of it that runs in the daemon. What it reads there is the configuration, which is
//! root's: the daemon parses nothing that others wrote. A rule is compiled once and asked for each event; it decides by the same values as a
//! search over the written event.

use netconn_model::event::Event;
use netconn_query::{Diagnostic, Severity, evaluate::Predicate};
use thiserror::Error;

/// A rule that cannot be used.
#[derive(Debug, Error)]
#[error("exclude in the configuration: rule {number} cannot be used\n{explanation}")]
pub struct RuleError {
    /// Its place in the list, from 1 on.
    number: usize,
    /// What is wrong, with the place and what to write instead, in several lines.
    explanation: String,
}

/// The rules, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Rules {
    predicates: Vec<Predicate>,
    texts: String,
    warnings: Vec<String>,
}

impl Rules {
    /// Compiles the rules.
    ///
    /// # Errors
    ///
    /// When one of them is wrong or needs more than one event.
    pub fn compile(texts: &[String]) -> Result<Self, RuleError> {
        let mut rules = Self { texts: texts.join("\n"), ..Self::default() };
        for (index, text) in texts.iter().enumerate() {
            let number = index + 1;
            let compiled = Predicate::parse(text).map_err(|found| {
                let errors = found.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
                let explanation = errors.map(|error| error.render_plain(text)).collect::<Vec<_>>().join("\n");
                RuleError { number, explanation }
            })?;
            let in_words = |warning: &Diagnostic| format!("exclude, rule {number}: {}", warning.to_string_in(text));
            rules.warnings.extend(compiled.warnings.iter().map(in_words));
            rules.predicates.push(compiled.predicate);
        }
        Ok(rules)
    }

    /// Returns what had to be interpreted in them, or is probably not meant; each is a line of the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.predicates.is_empty()
    }

    /// Returns their text, a rule on each line.
    pub fn texts(&self) -> &str {
        &self.texts
    }

    /// Whether one of them matches an event. A rule that cannot decide, because a sum is too large, does not.
    pub fn excludes(&self, event: &Event<'_>) -> bool {
        self.predicates.iter().any(|predicate| predicate.matches(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(texts: &[&str]) -> Result<Rules, RuleError> {
        Rules::compile(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn any_rule_excludes() {
        let rules = compile(&["dst.port.number = 53", "src.process.name in ('curl', 'wget')"]).unwrap();
        let event = |port, name: &'static str| Event {
            dst_port: Some(port),
            process_name: Some(name.into()),
            ..Event::default()
        };
        assert!(rules.excludes(&event(53, "x")) && rules.excludes(&event(80, "curl")));
        assert!(!rules.excludes(&event(80, "x")) && !rules.excludes(&Event::default()));
        assert_eq!(rules.texts(), "dst.port.number = 53\nsrc.process.name in ('curl', 'wget')");
        assert!(rules.warnings().is_empty() && !rules.is_empty() && Rules::default().is_empty());
    }

    #[test]
    fn a_wrong_rule_is_named_with_its_place() {
        let error = compile(&["dst.port.number = 53", "dst.port.number ="]).unwrap_err().to_string();
        assert!(error.starts_with("exclude in the configuration: rule 2 cannot be used\nerror: "), "{error}");
        assert!(error.contains("dst.port.number ="), "{error}");
        // One event has no groups.
        assert!(compile(&["dst.port.number = 53 | group count()"]).is_err());
        let rules = compile(&["no.such.field = 1"]).unwrap();
        assert!(rules.warnings()[0].starts_with("exclude, rule 1: warning 1:1 "), "{:?}", rules.warnings());
    }
}

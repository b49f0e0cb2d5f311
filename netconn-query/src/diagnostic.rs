//! Diagnostics: what is wrong with a query or had to be interpreted, its place, and what to write instead.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use crate::ast::Span;

/// Number of the query's characters that a suggestion repeats at most.
const SHOWN: usize = 60;

/// Whether the query can be run nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The query cannot be run.
    Error,
    /// The query can be run; the message says how it was understood.
    Warning,
}

/// An error or a warning about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the query can be run nevertheless.
    pub severity: Severity,
    /// One sentence, without a full stop: what is wrong, and what was expected.
    pub message: String,
    /// Place that the message is about.
    pub span: Span,
    /// What to write instead.
    pub suggestion: Option<String>,
}

/// A diagnostic in the form that programs read (JSON).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the query can be run nevertheless.
    pub severity: Severity,
    /// The message, one sentence without a full stop.
    pub message: String,
    /// Line of the place, beginning with 1.
    pub line: usize,
    /// Column of the place in characters, beginning with 1.
    pub column: usize,
    /// Length of the place in characters.
    pub length: usize,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// Returns a text with the end that it lacks, in one line and shortened if it is long.
pub(crate) fn completed(text: &str, missing: char) -> String {
    // Suggestions are shown in one line.
    let text = text.replace(['\n', '\r', '\t'], " ");
    // By characters, because a cut within one is no text.
    let short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() { format!("{short}…{missing}") } else { format!("{short}{missing}") }
}

impl Diagnostic {
    /// Creates an error: the query cannot be run.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), span, suggestion: None }
    }

    /// Creates a warning: something was interpreted, or is probably not meant.
    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, message: message.into(), span, suggestion: None }
    }

    /// Adds a suggestion.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Adds a suggestion if there is one.
    #[must_use]
    pub fn suggest_any(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }

    /// Returns several lines for a terminal: the message, the line of the query with the place underlined, and the
    /// suggestion, with ANSI codes of colours. Write them through `anstream`, which removes the codes where they are
    /// not wanted.
    pub fn render(&self, text: &str) -> String {
        self.render_with(&Renderer::styled(), text)
    }

    /// Returns the same lines without colours.
    pub fn render_plain(&self, text: &str) -> String {
        self.render_with(&Renderer::plain(), text)
    }

    fn render_with(&self, renderer: &Renderer, text: &str) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        // The text may be another one than the diagnostic is from; a place outside of it would panic in the renderer.
        let place = within(text, self.span);
        let snippet = Snippet::source(text).annotation(AnnotationKind::Primary.span(place.start..place.end));
        let main = level.primary_title(self.message.as_str()).element(snippet);
        let mut groups = vec![main];
        if let Some(suggestion) = &self.suggestion {
            // A primary title: annotate-snippets replaces control characters in these only, and the suggestion repeats
            // the user's text.
            groups.push(Group::with_title(Level::HELP.primary_title(format!("write: {suggestion}"))));
        }
        renderer.render(&groups)
    }

    /// Returns one line for tests and logs: severity, line and column, message, `->` and the suggestion. Control
    /// characters of the query are replaced.
    pub fn to_string_in(&self, text: &str) -> String {
        let Report { severity, message, line, column, length: _, suggestion } = self.report(text);
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let suggestion = suggestion.map_or_else(String::new, |suggestion| format!(" -> {suggestion}"));
        format!("{severity} {line}:{column} {message}{suggestion}").replace(char::is_control, "\u{fffd}")
    }

    /// Returns the form that programs read.
    pub fn report(&self, text: &str) -> Report {
        let place = within(text, self.span);
        let before = text.get(..place.start).unwrap_or_default();
        // Columns are counted in characters, as editors show them; spans are in bytes.
        let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
        Report {
            severity: self.severity,
            message: self.message.clone(),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            length: text.get(place.start..place.end).unwrap_or_default().chars().count(),
            suggestion: self.suggestion.clone(),
        }
    }
}

/// Clamps a place to the text and to the boundaries of its characters.
fn within(text: &str, span: Span) -> Span {
    let start = text.floor_char_boundary(span.start);
    Span { start, end: text.ceil_char_boundary(span.end.max(start)) }
}

/// Whether a diagnostic keeps the query from being run.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// Returns the name nearest to a written one, if at most a third of its letters differ.
pub fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    // A third: names of two letters have no near ones, longer ones allow a typing error or two.
    let allowed = written.chars().count() / 3;
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= allowed)
        // Of equal distances the first wins, so the order of the names is a preference.
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_underlined_in_its_line() {
        let text = "event.type = 'IP Connect'\r\n| colums a";
        let start = text.find("colums").unwrap();
        let wrong =
            Diagnostic::error(Span { start, end: start + 6 }, "there is no command 'colums'").suggest("columns");
        let shown = wrong.render_plain(text);
        let expected = "\
error: there is no command 'colums'
  |
2 | | colums a
  |   ^^^^^^
  |
help: write: columns";
        assert_eq!(shown, expected);
        assert!(wrong.render(text).contains("\u{1b}["), "has colours");
        let report = serde_json::to_value(wrong.report(text)).unwrap();
        let expected = serde_json::json!({
            "severity": "error", "message": "there is no command 'colums'", "line": 2, "column": 3, "length": 6,
            "suggestion": "columns",
        });
        assert_eq!(report, expected);
    }

    #[test]
    fn places_outside_of_the_text_do_no_harm() {
        let wrong = Diagnostic::warning(Span { start: 1, end: 99 }, "odd");
        assert_eq!(wrong.report("ä").column, 1);
        assert!(wrong.render_plain("ä").starts_with("warning: odd"));
        assert!(Diagnostic::error(Span { start: 7, end: 3 }, "odd").render_plain("").starts_with("error: odd"));
    }

    #[test]
    fn the_nearest_name_is_found() {
        let names = ["src.port.number", "dst.port.number", "event.type"];
        assert_eq!(nearest("dst.port.nubmer", names), Some("dst.port.number"));
        assert_eq!(nearest("Event.Type", names), Some("event.type"));
        assert_eq!(nearest("x", names), None);
        assert_eq!(nearest("", names), None);
    }
}

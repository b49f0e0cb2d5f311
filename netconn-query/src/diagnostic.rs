//! What is wrong with a query, or had to be interpreted: one sentence, its place, and what to write instead.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use crate::ast::Span;

/// Characters that a suggestion repeats of the query.
const SHOWN: usize = 60;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The query cannot be run.
    Error,
    /// It can; this is how it was understood.
    Warning,
}

/// One remark about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// One sentence, without a full stop: what is wrong, and what was expected.
    pub message: String,
    /// The place that is meant.
    pub span: Span,
    /// What to write instead.
    pub suggestion: Option<String>,
}

/// A remark as programs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub message: String,
    /// Line of the place, from 1.
    pub line: usize,
    /// Column of the place in characters, from 1.
    pub column: usize,
    /// How many characters the place has.
    pub length: usize,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// Of a text that has no end, what to write: with the end, and shortened if it is long.
pub(crate) fn completed(text: &str, missing: char) -> String {
    // In one line.
    let text = text.replace(['\n', '\r', '\t'], " ");
    let short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() { format!("{short}…{missing}") } else { format!("{short}{missing}") }
}

impl Diagnostic {
    /// What makes it impossible to run the query.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), span, suggestion: None }
    }

    /// What was interpreted, or is probably not meant.
    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, message: message.into(), span, suggestion: None }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Adds what to write instead, if anything is known.
    #[must_use]
    pub fn suggest_any(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into);
        self
    }

    /// The sentence, the line of the query with the place underlined, and the suggestion; several lines, with the ANSI codes
    /// of colours. To be written through `anstream`, which leaves them out where they are not wanted.
    pub fn render(&self, text: &str) -> String {
        self.render_with(&Renderer::styled(), text)
    }

    /// The same without colours.
    pub fn render_plain(&self, text: &str) -> String {
        self.render_with(&Renderer::plain(), text)
    }

    fn render_with(&self, renderer: &Renderer, text: &str) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let place = within(text, self.span);
        let snippet = Snippet::source(text).annotation(AnnotationKind::Primary.span(place.start..place.end));
        let main = level.primary_title(self.message.as_str()).element(snippet);
        let mut groups = vec![main];
        if let Some(suggestion) = &self.suggestion {
            // A primary title, for only their control characters are replaced, and the text is the user's.
            groups.push(Group::with_title(Level::HELP.primary_title(format!("write: {suggestion}"))));
        }
        renderer.render(&groups)
    }

    /// In one line, as tests and logs write it: severity, line and column, message, `->` and the suggestion. Control characters
    /// of the query are replaced.
    pub fn to_string_in(&self, text: &str) -> String {
        let Report { severity, message, line, column, length: _, suggestion } = self.report(text);
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let suggestion = suggestion.map_or_else(String::new, |suggestion| format!(" -> {suggestion}"));
        format!("{severity} {line}:{column} {message}{suggestion}").replace(char::is_control, "\u{fffd}")
    }

    /// As programs read it.
    pub fn report(&self, text: &str) -> Report {
        let place = within(text, self.span);
        let before = text.get(..place.start).unwrap_or_default();
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

/// The place, within the text and at the edges of characters.
fn within(text: &str, span: Span) -> Span {
    let start = text.floor_char_boundary(span.start);
    Span { start, end: text.ceil_char_boundary(span.end.max(start)) }
}

/// Whether any of them stops the query.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// The name that comes nearest to what was written, if one is near enough to be meant: a third of its letters may differ.
pub fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    let allowed = written.chars().count() / 3;
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= allowed)
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

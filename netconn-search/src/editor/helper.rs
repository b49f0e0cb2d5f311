//! Serves the line editor while a query is typed: completion, marks at errors, and whether more lines follow.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::HashMap,
};

use anstyle::{AnsiColor, Style};
use netconn_model::term;
use netconn_query::{
    ast::Span,
    diagnostic::{Diagnostic, Severity},
};
use rustyline::{
    Context as EditorContext, Helper,
    completion::{Completer, Pair},
    highlight::{CmdKind, Highlighter},
    hint::Hinter,
    validate::{ValidationContext, ValidationResult, Validator},
};

use crate::editor::completion::{CursorContext, open_quote};

/// The style of text with an error.
const WRONG: Style = AnsiColor::Red.on_default().underline();

/// The style of the prompt.
const PROMPT: Style = AnsiColor::Cyan.on_default();

/// Longest line in a list of candidates, characters.
const SHOWN_MAX: usize = 76;

/// Returns frequent values of a field; it must return quickly, as it blocks the editor.
pub type ValueLookup<'a> = Box<dyn Fn(&str) -> Vec<String> + 'a>;

/// The fields, values and errors that the editor knows.
pub struct EditorKnowledge<'a> {
    /// Fields found in the files.
    fields: Vec<String>,
    values: ValueLookup<'a>,
    /// Values that have been looked up, by field.
    known_values: RefCell<HashMap<String, Vec<String>>>,
    /// The query that was refused last, and the places of its errors.
    refused: RefCell<Option<(String, Vec<Span>)>>,
    /// Whether the line shows marks at errors. These have to be drawn anew when the cursor moves.
    is_marked: Cell<bool>,
}

impl<'a> EditorKnowledge<'a> {
    /// Creates the knowledge from the fields in the files and a way to look up values.
    pub fn new(fields: Vec<String>, values: ValueLookup<'a>) -> Self {
        Self {
            fields,
            values,
            known_values: RefCell::default(),
            refused: RefCell::default(),
            is_marked: Cell::default(),
        }
    }

    /// Remembers the errors of a query, to underline them when it is edited again.
    pub fn refuse(&self, text: &str, diagnostics: &[Diagnostic]) {
        let errors = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
        let places = errors.map(|diagnostic| diagnostic.span).collect();
        *self.refused.borrow_mut() = Some((text.to_owned(), places));
    }

    /// Forgets all values; in another time range, other values are frequent.
    pub fn forget_values(&self) {
        self.known_values.borrow_mut().clear();
    }

    fn values(&self, field: &str) -> Vec<String> {
        if let Some(values) = self.known_values.borrow().get(field) {
            return values.clone();
        }
        let values = (self.values)(field);
        if values.is_empty() {
            // Not cached: the look-up may have timed out, and the next one may succeed.
            return values;
        }
        self.known_values.borrow_mut().insert(field.to_owned(), values.clone());
        values
    }

    /// Returns the places to underline.
    fn wrong(&self, text: &str) -> Vec<Span> {
        if let Some((refused, places)) = &*self.refused.borrow()
            // The checker's errors are about this very text; once it is edited, only the parser's are certain.
            && refused == text
        {
            return places.clone();
        }
        let errors = netconn_query::parse(text).diagnostics.into_iter();
        let errors = errors.filter(|diagnostic| diagnostic.severity == Severity::Error);
        let places = errors.map(|diagnostic| diagnostic.span);
        // An unfinished query is not wrong yet: errors at its end, and unclosed quotes and parentheses, are left out.
        let is_open = |span: &Span| text.get(span.start..).is_some_and(|rest| rest.starts_with(['(', '\'', '"']));
        places.filter(|span| span.end < text.trim_end().len() && !is_open(span)).collect()
    }
}

impl Completer for EditorKnowledge<'_> {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &EditorContext<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        // What follows the cursor does not change what may stand at it.
        let before = line.get(..pos).unwrap_or(line);
        let context = CursorContext::of(before);
        let candidates = context.candidates(&self.fields, |field| self.values(field));
        let pair = |candidate: crate::editor::completion::Candidate| Pair {
            display: term::cut(&candidate.shown, SHOWN_MAX).into_owned(),
            replacement: candidate.text,
        };
        Ok((context.start(before.len()), candidates.into_iter().map(pair).collect()))
    }
}

impl Highlighter for EditorKnowledge<'_> {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        let places = self.wrong(line);
        // `highlight_char` is called before the next drawing and must know what this one has drawn.
        self.is_marked.set(!places.is_empty());
        shown(line, places)
    }

    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        format!("{PROMPT}{prompt}{PROMPT:#}").into()
    }

    fn highlight_char(&self, _: &str, _: usize, kind: CmdKind) -> bool {
        // Moving the cursor does not change the marks.
        kind != CmdKind::MoveCursor || self.is_marked.get()
    }
}

/// Returns a text that is safe for a terminal, with these places underlined. Pasted text and the history may contain
/// control characters.
fn shown(text: &str, places: Vec<Span>) -> Cow<'_, str> {
    if text.split('\n').all(|line| matches!(term::sanitize(line), Cow::Borrowed(_))) {
        return underlined(text, places);
    }
    // The places do not apply to the changed text. Each replacement has the width of one character, which keeps the
    // cursor right.
    let lines: Vec<Cow<'_, str>> = text.split('\n').map(term::sanitize).collect();
    lines.join("\n").into()
}

/// Underlines these places of a text; of overlapping ones, each character once.
fn underlined(text: &str, mut places: Vec<Span>) -> Cow<'_, str> {
    places.sort_by_key(|span| span.start);
    let mut marked = String::new();
    let mut done = 0;
    for span in places {
        if span.end < done || (span.end == done && done > 0) {
            continue;
        }
        let start = span.start.max(done);
        // An empty place, between two characters, is shown at the character after it.
        let end = if span.end > start { span.end } else { text.ceil_char_boundary(start + 1) };
        if let (Some(before), Some(wrong)) = (text.get(done..start), text.get(start..end))
            && !wrong.is_empty()
        {
            marked.push_str(before);
            marked.push_str(&format!("{WRONG}{wrong}{WRONG:#}"));
            done = end;
        }
    }
    if done == 0 {
        return text.into();
    }
    marked.push_str(text.get(done..).unwrap_or_default());
    marked.into()
}

impl Validator for EditorKnowledge<'_> {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_unfinished(context.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Hinter for EditorKnowledge<'_> {
    type Hint = String;
}

impl Helper for EditorKnowledge<'_> {}

/// Returns whether a query continues on another line: a quote or parenthesis is open, or it ends with `|`, `,`, `=` or
/// a backslash. An empty line always ends it.
fn is_unfinished(text: &str) -> bool {
    if text.ends_with('\n') {
        return false;
    }
    let end = text.trim_end();
    open_quote(text).is_some() || open_parentheses(text) > 0 || end.ends_with(['|', ',', '\\', '='])
}

/// Counts the parentheses that are open at the end of a text, outside quotes.
fn open_parentheses(text: &str) -> usize {
    let (mut depth, mut quote, mut characters) = (0_usize, None, text.chars());
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_places_are_underlined() {
        let span = |start, end| Span { start, end };
        assert_eq!(underlined("abc", Vec::new()), "abc");
        let marked = underlined("aü|colums x", vec![span(4, 10), span(1, 3), span(2, 3)]);
        assert_eq!(marked, format!("a{WRONG}ü{WRONG:#}|{WRONG}colums{WRONG:#} x"));
        assert_eq!(underlined("abc", vec![span(1, 1)]), format!("a{WRONG}b{WRONG:#}c"));
        assert_eq!(underlined("abc", vec![span(3, 3), span(9, 12)]), "abc");
        let plain = anstream::adapter::strip_str(&marked).to_string();
        assert_eq!(plain, "aü|colums x", "nothing is added or lost");
    }

    #[test]
    fn nothing_harmful_is_shown() {
        assert_eq!(
            shown("a = 1\n| colums x", vec![Span { start: 8, end: 14 }]),
            format!("a = 1\n| {WRONG}colums{WRONG:#} x")
        );
        let places = vec![Span { start: 0, end: 1 }];
        assert_eq!(shown("a = '\u{1b}[2J\u{202e}'\n| limit 1", places), "a = '\u{fffd}[2J\u{fffd}'\n| limit 1");
    }

    #[test]
    fn unfinished_queries_go_on() {
        for text in ["a = (1", "a = 'x", "a = 1 |", "a = 1 | group count(),", "| join (a = 1 | limit 1"] {
            assert!(is_unfinished(text), "{text}");
        }
        for text in ["", "a = 1", "a = ')' and b = '('", "a = 'it\\'s'", "a = (1\n\n"] {
            assert!(!is_unfinished(text), "{text}");
        }
    }
}

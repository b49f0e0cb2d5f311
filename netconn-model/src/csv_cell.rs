//! Cells of comma-separated values, for people who open them in a spreadsheet and for programs.

use std::borrow::Cow;

use crate::value::JsonValue;

/// What makes a spreadsheet take a text for a formula when a cell begins with it (OWASP, "CSV Injection"). Processes choose
/// their names and arguments themselves: `=HYPERLINK(…)` would run on the machine of who looks at them.
const FORMULA_STARTS: [char; 11] =
    ['=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];

/// Whether texts are written so that a spreadsheet shows them as texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsvCells {
    /// A text that a spreadsheet would take for a formula has an apostrophe before it.
    Guarded,
    /// Texts are written as they are, for programs.
    Raw,
}

impl CsvCells {
    /// Returns a text as it is written into a cell.
    pub fn text(self, text: &str) -> Cow<'_, str> {
        if self == Self::Guarded && text.starts_with(FORMULA_STARTS) {
            Cow::Owned(format!("'{text}"))
        } else {
            Cow::Borrowed(text)
        }
    }

    /// Returns a value as it is written into a cell; one that is not known is empty. Numbers stay numbers, negative ones too.
    pub fn value(self, value: Option<&JsonValue<'_>>) -> String {
        match value {
            None => String::new(),
            Some(JsonValue::Text(text)) => self.text(text).into_owned(),
            Some(value) => value.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_no_formulas() {
        for text in
            ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\u{ff1d}1", "\u{ff0b}1", "\u{ff0d}1", "\u{ff20}1"]
        {
            assert_eq!(CsvCells::Guarded.text(text), format!("'{text}"));
            assert_eq!(CsvCells::Raw.text(text), text);
        }
        for text in ["", "a=1", "'=1", " =1", "\"=1", "127.0.0.1", "::1"] {
            assert_eq!(CsvCells::Guarded.text(text), text);
        }
    }

    #[test]
    fn numbers_stay_numbers() {
        let cell = |value: JsonValue<'_>| CsvCells::Guarded.value(Some(&value));
        assert_eq!((cell(JsonValue::Integer(-5)), cell(JsonValue::Number(-0.5))), ("-5".into(), "-0.5".into()));
        assert_eq!((cell(JsonValue::Text("-5".into())), CsvCells::Guarded.value(None)), ("'-5".into(), String::new()));
    }
}

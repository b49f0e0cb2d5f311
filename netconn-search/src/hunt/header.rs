//! Parses the header of a hunt's file: comments at its beginning of the form `// key: text`. A comment indented by
//! three or more spaces continues the text before it.

use jiff::Zoned;
use netconn_query::printer;
use thiserror::Error;

use crate::{
    hunt::{Hunt, HuntParameter, HuntSeverity, lets},
    range::{RangeError, TimeArguments},
};

/// The keys of a header.
const KEYS: [&str; 7] = ["title", "severity", "description", "reason", "false positives", "range", "parameter"];

/// Why a header is not valid.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HeaderError {
    /// A line does not have the form `// key: text`, or its key is unknown.
    #[error("line {line}: a header has lines like `// title: …`, with the keys {}", KEYS.join(", "))]
    Line {
        /// Number of the line, from 1.
        line: usize,
    },
    /// A key occurs twice.
    #[error("line {line}: the key {key} occurs twice")]
    Twice {
        /// Number of the line, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key is missing.
    #[error("the header lacks `// {key}: …`")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// The severity is unknown.
    #[error("'{word}' is not a severity: use low, medium, high or critical")]
    Severity {
        /// The text in the header.
        word: String,
    },
    /// A parameter has no explanation.
    #[error("'{text}' is not a parameter: use `// parameter: name: explanation`")]
    Parameter {
        /// The text in the header.
        text: String,
    },
    /// No `let` of the query sets a parameter.
    #[error("no `let` of the query sets the parameter {name}: write | let {name} = 5")]
    Unused {
        /// The parameter.
        name: String,
    },
    /// The range is not a length of time.
    #[error("the range is not valid: {0}")]
    Range(#[from] RangeError),
}

/// Parses the text of a hunt's file; the name is left empty.
pub(super) fn parse(text: &str) -> Result<Hunt, HeaderError> {
    let entries = entries(text)?;
    let get = |key: &'static str| {
        let entry = entries.iter().find(|(name, _)| *name == key);
        entry.map(|(_, text)| text.clone()).ok_or(HeaderError::Missing { key })
    };
    let word = get("severity")?;
    let severity = HuntSeverity::ALL.into_iter().find(|severity| severity.name() == word);
    let parameters = entries.iter().filter(|(key, _)| *key == "parameter").map(|(_, text)| parameter(text));
    let mut hunt = Hunt {
        name: String::new(),
        title: get("title")?,
        severity: severity.ok_or(HeaderError::Severity { word })?,
        description: get("description")?,
        reason: get("reason")?,
        false_positives: get("false positives")?,
        range: get("range")?,
        parameters: parameters.collect::<Result<_, _>>()?,
        // With the header, so that places of errors are those in the file.
        query: text.to_owned(),
        is_built_in: false,
    };
    // Checked here, so that a wrong range is found when hunts are listed, not only when one runs.
    TimeArguments { last: Some(&hunt.range), ..TimeArguments::default() }.resolve(&Zoned::now())?;
    // A query that cannot be parsed is accepted here: its error is reported at its place when the hunt runs.
    if let Some(mut query) = netconn_query::parse(text).query {
        let set = lets(&mut query);
        for parameter in &mut hunt.parameters {
            let Some(column) = set.iter().find(|column| column.label == parameter.name) else {
                return Err(HeaderError::Unused { name: parameter.name.clone() });
            };
            parameter.default = Some(printer::expression(&column.expr));
        }
    }
    Ok(hunt)
}

/// Returns the keys with their texts, in the order of the file.
fn entries(text: &str) -> Result<Vec<(&'static str, String)>, HeaderError> {
    let mut entries: Vec<(&'static str, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // The header ends at the first line that is not a comment.
        let Some(comment) = line.strip_prefix("//") else { break };
        let wrong = || HeaderError::Line { line: number + 1 };
        if comment.starts_with("   ") {
            let (_, text) = entries.last_mut().ok_or_else(wrong)?;
            text.push(' ');
            text.push_str(comment.trim());
            continue;
        }
        let (key, text) = comment.split_once(':').ok_or_else(wrong)?;
        let key = KEYS.into_iter().find(|known| *known == key.trim()).ok_or_else(wrong)?;
        // A hunt may have several parameters; all other keys occur once.
        if key != "parameter" && entries.iter().any(|(known, _)| *known == key) {
            return Err(HeaderError::Twice { line: number + 1, key: key.into() });
        }
        entries.push((key, text.trim().to_owned()));
    }
    Ok(entries)
}

/// Parses the text of a parameter: `name: explanation`.
fn parameter(text: &str) -> Result<HuntParameter, HeaderError> {
    let (name, meaning) = text.split_once(':').ok_or_else(|| HeaderError::Parameter { text: text.into() })?;
    Ok(HuntParameter { name: name.trim().into(), meaning: meaning.trim().into(), default: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "\
// title: T
// severity: low
// description: one
//   two
// reason: R
// false positives: F
// range: 1 day
// parameter: least: fewest rows
// More comments may follow in the query.
";

    #[test]
    fn headers_are_read() {
        let text = WHOLE.replace("// More", "a = 1 | let least = 5 // More");
        let hunt = parse(&text).unwrap();
        assert_eq!((hunt.title.as_str(), hunt.description.as_str()), ("T", "one two"));
        assert_eq!(hunt.severity, HuntSeverity::Low);
        let default = Some("5".to_owned());
        assert_eq!(hunt.parameters, [HuntParameter { name: "least".into(), meaning: "fewest rows".into(), default }]);
        assert_eq!(hunt.query, text);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = WHOLE.replace("// More", "| let least = 5 // More");
        for (from, to, expected) in [
            ("// range: 1 day\n", "", "the header lacks `// range: …`"),
            ("low", "lowest", "'lowest' is not a severity: use low, medium, high or critical"),
            ("range", "title", "line 7: the key title occurs twice"),
            ("least: fewest rows", "least", "'least' is not a parameter: use `// parameter: name: explanation`"),
            ("let least", "let most", "no `let` of the query sets the parameter least: write | let least = 5"),
            (
                "range: 1 day",
                "range: long",
                "the range is not valid: 'long' is not a length of time: use 30s, 15m, 4 hours, 3d or 1w",
            ),
            (
                "// reason",
                "// why",
                "line 5: a header has lines like `// title: …`, with the keys \
                 title, severity, description, reason, false positives, range, parameter",
            ),
        ] {
            assert_eq!(parse(&text.replace(from, to)).unwrap_err().to_string(), expected);
        }
    }
}

//! The header of a hunt's file: comments at its beginning, each `// key: text`, the text going on in comments that are
//! indented by three spaces or more.

use jiff::Zoned;
use thiserror::Error;

use crate::{
    hunt::{Hunt, HuntParameter, HuntSeverity, lets},
    range::{RangeError, TimeArguments},
};

/// All keys.
const KEYS: [&str; 7] = ["title", "severity", "description", "reason", "false positives", "range", "parameter"];

/// What is wrong with a header.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HeaderError {
    /// Not `// key: text`, or a key that is not known.
    #[error("line {line}: a header has lines like `// title: …`, with the keys {}", KEYS.join(", "))]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// The same key again.
    #[error("line {line}: {key} is said twice")]
    Twice {
        /// Its number, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key is missing.
    #[error("its header lacks `// {key}: …`")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// No such severity.
    #[error("'{word}' is no severity: use low, medium, high or critical")]
    Severity {
        /// What was said.
        word: String,
    },
    /// A parameter without a meaning.
    #[error("'{text}' is no parameter: use `// parameter: name: what it means`")]
    Parameter {
        /// What was said.
        text: String,
    },
    /// The query does not set it.
    #[error("the parameter {name} is in no `let` of the query: write | let {name} = 5")]
    Unused {
        /// The parameter.
        name: String,
    },
    /// The range is no length of time.
    #[error("its range cannot be used: {0}")]
    Range(#[from] RangeError),
}

/// Reads a hunt from the text of its file; the name is left empty.
pub(super) fn parse(text: &str) -> Result<Hunt, HeaderError> {
    let entries = entries(text)?;
    let get = |key: &'static str| {
        let entry = entries.iter().find(|(name, _)| *name == key);
        entry.map(|(_, text)| text.clone()).ok_or(HeaderError::Missing { key })
    };
    let word = get("severity")?;
    let severity = HuntSeverity::ALL.into_iter().find(|severity| severity.name() == word);
    let parameters = entries.iter().filter(|(key, _)| *key == "parameter").map(|(_, text)| parameter(text));
    let hunt = Hunt {
        name: String::new(),
        title: get("title")?,
        severity: severity.ok_or(HeaderError::Severity { word })?,
        description: get("description")?,
        reason: get("reason")?,
        false_positives: get("false positives")?,
        range: get("range")?,
        parameters: parameters.collect::<Result<_, _>>()?,
        query: text.to_owned(),
        is_built_in: false,
    };
    TimeArguments { last: Some(&hunt.range), ..TimeArguments::default() }.resolve(&Zoned::now())?;
    // What is wrong with a query is said when it is run, at its place.
    if let Some(mut query) = netconn_query::parse(text).query {
        let set = lets(&mut query);
        let is_set = |parameter: &&HuntParameter| set.iter().any(|column| column.label == parameter.name);
        if let Some(parameter) = hunt.parameters.iter().find(|parameter| !is_set(parameter)) {
            return Err(HeaderError::Unused { name: parameter.name.clone() });
        }
    }
    Ok(hunt)
}

/// The keys with their texts, in the order of the file.
fn entries(text: &str) -> Result<Vec<(&'static str, String)>, HeaderError> {
    let mut entries: Vec<(&'static str, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
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
        if key != "parameter" && entries.iter().any(|(known, _)| *known == key) {
            return Err(HeaderError::Twice { line: number + 1, key: key.into() });
        }
        entries.push((key, text.trim().to_owned()));
    }
    Ok(entries)
}

fn parameter(text: &str) -> Result<HuntParameter, HeaderError> {
    let (name, meaning) = text.split_once(':').ok_or_else(|| HeaderError::Parameter { text: text.into() })?;
    Ok(HuntParameter { name: name.trim().into(), meaning: meaning.trim().into() })
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
// More than a header may be said further down.
";

    #[test]
    fn headers_are_read() {
        let text = WHOLE.replace("// More", "a = 1 | let least = 5 // More");
        let hunt = parse(&text).unwrap();
        assert_eq!((hunt.title.as_str(), hunt.description.as_str()), ("T", "one two"));
        assert_eq!(hunt.severity, HuntSeverity::Low);
        assert_eq!(hunt.parameters, [HuntParameter { name: "least".into(), meaning: "fewest rows".into() }]);
        assert_eq!(hunt.query, text);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = WHOLE.replace("// More", "| let least = 5 // More");
        for (from, to, expected) in [
            ("// range: 1 day\n", "", "its header lacks `// range: …`"),
            ("low", "lowest", "'lowest' is no severity: use low, medium, high or critical"),
            ("range", "title", "line 7: title is said twice"),
            ("least: fewest rows", "least", "'least' is no parameter: use `// parameter: name: what it means`"),
            ("let least", "let most", "the parameter least is in no `let` of the query: write | let least = 5"),
            (
                "range: 1 day",
                "range: long",
                "its range cannot be used: 'long' is not a length of time: use 30s, 15m, 4 hours, 3d or 1w",
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

//! Plans `contains`, `matches`, `starts_with`, `ends_with` and `like`: as `LIKE` where case matters, which DataFusion
//! evaluates fast, otherwise as a regular expression.

use datafusion::logical_expr::{Expr, expr::Like, lit};
use netconn_query::{
    ast::{MatchOp, Span},
    function::MATCH,
    text_pattern::{self, REGEX_SIZE},
    value::ValueKind,
};
use regex::{Regex, RegexBuilder};

use super::operand::{Operand, function, like, text};
use crate::engine::{
    error::{Result, SearchError},
    function::matcher,
};

/// Plans `subject op pattern` for a subject that is a text. The result may be missing, which counts as false.
pub(crate) fn matches(op: MatchOp, insensitive: bool, subject: Expr, pattern: Operand, span: Span) -> Result<Expr> {
    let Some(literal) = pattern.literal_text() else {
        // Nothing fits a missing pattern.
        if pattern.is_literal() && pattern.kind == ValueKind::Null {
            return Ok(lit(false));
        }
        let how = match op {
            MatchOp::Like => {
                // DataFusion's `LIKE` takes a pattern from a column by itself.
                let pattern = Box::new(pattern.text());
                return Ok(Expr::Like(Like::new(false, Box::new(subject), pattern, None, insensitive)));
            }
            MatchOp::Contains => "contains",
            MatchOp::Matches => "matches",
            MatchOp::StartsWith => "starts_with",
            MatchOp::EndsWith => "ends_with",
        };
        return Ok(function(MATCH, vec![subject, text(how), lit(insensitive), pattern.text()]));
    };
    // Without letters case means nothing, and the faster way is open.
    let insensitive = insensitive && text_pattern::has_case(literal);
    if op == MatchOp::Matches {
        check(literal, span)?;
    } else if !insensitive {
        // With `LIKE`, statistics of the files rule out texts that cannot begin so.
        return Ok(like(subject, &as_like(op, literal)));
    }
    let regex = text_pattern::regex(op, insensitive, literal);
    Ok(matcher::matches(subject, regex.map_err(|_| SearchError::query("this pattern is too long", span))?))
}

/// Returns the pattern of an operator as one of `LIKE`.
fn as_like(op: MatchOp, literal: &str) -> String {
    match op {
        MatchOp::StartsWith => format!("{}%", escaped(literal)),
        MatchOp::EndsWith => format!("%{}", escaped(literal)),
        MatchOp::Like => literal.to_owned(),
        MatchOp::Contains | MatchOp::Matches => format!("%{}%", escaped(literal)),
    }
}

/// Compiles a regular expression, or says what is wrong with it.
pub(crate) fn check(pattern: &str, span: Span) -> Result<Regex> {
    RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build().map_err(|error| {
        let why = error.to_string();
        let message = if why.contains("look-around") {
            "look-around ((?=…), (?!…), (?<=…), (?<!…)) is not supported in regular expressions, because it would make \
             their time unbounded: use a second condition, as in x matches 'a' and not (x matches 'b')"
                .to_owned()
        } else if why.contains("backreferences") {
            "backreferences (\\1) are not supported in regular expressions, because they would make their time unbounded"
                .to_owned()
        } else {
            // The last line is the reason; the lines before show the place.
            let reason = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("'{pattern}' is not a regular expression: {reason}")
        };
        SearchError::query(message, span)
    })
}

/// Escapes what `LIKE` does not read literally.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 4);
    for letter in text.chars() {
        if matches!(letter, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

//! `contains`, `matches`, `starts_with`, `ends_with`, `like`: plain texts become `LIKE`, which DataFusion is quick at.

use datafusion::logical_expr::expr::Like;
use datafusion::logical_expr::{Expr, Operator, lit};
use regex::{Regex, RegexBuilder};

use crate::engine::error::{Result, SearchError};
use crate::language::ast::{MatchOp, Span};

use super::operand::{Operand, binary, function, like, text};

/// Bytes that a compiled regular expression may have.
const REGEX_SIZE: usize = 10 * 1024 * 1024;

/// `subject op pattern`; the subject is a text. The result may be missing, for false.
pub(crate) fn matches(op: MatchOp, insensitive: bool, subject: Expr, pattern: Operand, span: Span) -> Result<Expr> {
    let Some(literal) = pattern.literal_text() else {
        if pattern.is_literal() && pattern.kind == crate::engine::function::value::Kind::Null {
            return Ok(lit(false));
        }
        let how = match op {
            MatchOp::Like => {
                let pattern = Box::new(pattern.text());
                return Ok(Expr::Like(Like::new(false, Box::new(subject), pattern, None, insensitive)));
            }
            MatchOp::Contains => "contains",
            MatchOp::Matches => "matches",
            MatchOp::StartsWith => "starts_with",
            MatchOp::EndsWith => "ends_with",
        };
        return Ok(function("_match", vec![subject, text(how), lit(insensitive), pattern.text()]));
    };
    let insensitive = insensitive && has_case(literal);
    Ok(match op {
        MatchOp::Contains => like(subject, &format!("%{}%", escaped(literal)), insensitive),
        MatchOp::StartsWith => like(subject, &format!("{}%", escaped(literal)), insensitive),
        MatchOp::EndsWith => like(subject, &format!("%{}", escaped(literal)), insensitive),
        MatchOp::Like => like(subject, literal, insensitive),
        MatchOp::Matches => {
            check(literal, span)?;
            let operator = if insensitive { Operator::RegexIMatch } else { Operator::RegexMatch };
            binary(subject, operator, text(literal))
        }
    })
}

/// Says what is wrong with a regular expression.
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
            // The last line is the reason; those before show the place.
            let reason = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("'{pattern}' is no regular expression: {reason}")
        };
        SearchError::query(message, span)
    })
}

/// Whether upper and lower case are two things for some character; `\d` of a regular expression counts too.
fn has_case(text: &str) -> bool {
    text.chars().any(|letter| letter.is_alphabetic() || !letter.is_ascii())
}

/// With a backslash before what `LIKE` reads as more than itself.
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

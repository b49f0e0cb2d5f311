//! Checks texts that are more than values: regular expressions and networks.

use ipnet::IpNet;
use regex::RegexBuilder;
use regex_syntax::ast::ErrorKind;

use crate::{ast::Expr, printer};

/// Returns what is wrong with a regular expression, as a sentence.
pub(super) fn regex_problem(regex: &str) -> Option<String> {
    // The syntax alone is parsed first: its errors have kinds, those of `regex` are texts only.
    let parsed = regex_syntax::ast::parse::Parser::new().parse(regex);
    if let Err(error) = parsed {
        let reason = match error.kind() {
            ErrorKind::UnsupportedLookAround => {
                "look-around is not supported, because it would make the time of a search unbounded; leave out what must not \
                 match with `and not (x matches '…')`, private addresses with `!net_rfc1918(x)`"
                    .to_owned()
            }
            ErrorKind::UnsupportedBackreference => {
                "backreferences are not supported, because they would make the time of a search unbounded".to_owned()
            }
            kind => kind.to_string(),
        };
        return Some(format!("this regular expression cannot be used: {reason}"));
    }
    // A pattern that parses can still be refused: an empty class, or one that gets too large.
    let built = RegexBuilder::new(regex).case_insensitive(true).build();
    built.err().map(|error| {
        let reason = error.to_string();
        // The lines before the last one show the place in the pattern.
        let last = reason.lines().last().unwrap_or_default().trim();
        format!("this regular expression cannot be used: {}", last.strip_prefix("error: ").unwrap_or(last))
    })
}

/// Returns the network that a text looks like, or a sentence that says what is wrong with it; `None` for other texts.
pub(super) fn network(text: &str) -> Option<Result<IpNet, String>> {
    let (address, bits) = text.split_once('/')?;
    // Only what looks like a network is judged: paths and fractions have a slash too.
    let is_address = address.contains(['.', ':'])
        && address.chars().all(|character| character.is_ascii_hexdigit() || ".:".contains(character))
        && (address.contains(':') || address.chars().all(|character| character.is_ascii_digit() || character == '.'));
    let is_bits = !bits.is_empty() && bits.chars().all(|character| character.is_ascii_digit());
    if !is_address || !is_bits {
        return None;
    }
    let wrong = || format!("'{text}' looks like a network but is not one: write 10.0.0.0/8 or fe80::/10");
    Some(text.parse().map_err(|_| wrong()))
}

/// Whether a text is compared with numbers as a number: decimal digits, or a moment. `inf` and `nan` are words here.
pub(super) fn is_number(text: &str) -> bool {
    let text = text.trim();
    let is_number = text.bytes().any(|byte| byte.is_ascii_digit()) && text.parse::<f64>().is_ok();
    // The shortest moment in RFC 3339 with a zone has 20 characters.
    let is_moment = text.len() >= 20 && text.as_bytes().get(4) == Some(&b'-');
    is_number || is_moment
}

/// Returns an expression for a message.
pub(super) fn shown(expr: &Expr) -> String {
    let shown = printer::expression(expr);
    // Longer ones would fill the line of the message; the place is underlined anyway.
    if shown.chars().count() > 40 { "this".to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expressions_are_tried() {
        assert_eq!(regex_problem(r"^10\.\d+"), None);
        let problem = |regex| regex_problem(regex).unwrap();
        assert!(problem("a(?=b)").contains("look-around is not supported"));
        assert!(problem("(?<!a)b").contains("look-around is not supported"));
        assert!(problem(r"(a)\1").contains("backreferences are not supported"));
        assert_eq!(problem("(a"), "this regular expression cannot be used: unclosed group");
        assert!(problem(r"\p{Nothing}").contains("Unicode property not found"));
        assert!(problem("a{1000}{1000}").contains("size limit"), "{}", problem("a{1000}{1000}"));
    }

    #[test]
    fn networks_are_told_from_other_texts() {
        assert_eq!(network("10.0.0.0/8"), Some(Ok("10.0.0.0/8".parse().unwrap())));
        assert!(network("fe80::/10").unwrap().is_ok());
        assert!(network("10.0.0.0/33").unwrap().is_err());
        assert!(network("300.0.0.0/8").unwrap().is_err());
        for other in ["a/b", "10/8", "10.0.0.1", "/usr/bin", "1.5/s", "a.b/1"] {
            assert_eq!(network(other), None, "{other}");
        }
    }
}

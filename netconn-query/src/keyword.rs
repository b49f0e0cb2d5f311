//! The table of key words: the lexer, the parser, the printer and completion take them from here. Commands and functions are in
//! the catalogue.

use crate::ast::MatchOp;

/// What a key word is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeywordUse {
    /// Joins two conditions: `and`, `or`.
    Conjunction,
    /// Negates what follows: `not`.
    Negation,
    /// Is a value: `true`, `false`, `null`.
    Constant,
    /// Begins a lambda: `func`.
    Lambda,
    /// Compares with patterns: `contains`.
    Pattern(MatchOp),
    /// Looks for a value in a set: `in`.
    Membership,
    /// Compares in S1QL 1.0 only: `is empty`, `exists`, `between`.
    OldComparison,
    /// Begins a part of a command: `by`, `on`, `from`, `where`, `within`.
    Clause,
    /// Says which way to sort: `asc`, `desc`.
    Direction,
    /// Says which rows a join keeps: `inner`, `left`, `outer`, `sql`.
    JoinKind,
}

/// How a key word is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// As the printer writes it.
    Canonical,
    /// Otherwise, without a remark.
    Accepted,
    /// As in S1QL 1.0, with a warning.
    Old,
}

/// A key word.
#[derive(Clone, Copy, Debug)]
pub struct Keyword {
    /// The word in lower case.
    pub name: &'static str,
    /// What it is for.
    pub r#use: KeywordUse,
    /// How it is spelled.
    pub spelling: Spelling,
}

macro_rules! keywords {
    ($($name:literal $spelling:ident $use:expr;)+) => {
        /// All key words.
        pub const KEYWORDS: &[Keyword] =
            &[$(Keyword { name: $name, r#use: { use KeywordUse::*; $use }, spelling: Spelling::$spelling }),+];
    };
}

keywords! {
    "and" Canonical Conjunction;
    "or" Canonical Conjunction;
    "not" Canonical Negation;
    "in" Canonical Membership;
    "by" Canonical Clause;
    "on" Canonical Clause;
    "from" Canonical Clause;
    "where" Canonical Clause;
    "within" Canonical Clause;
    "contains" Canonical Pattern(MatchOp::Contains);
    "matches" Canonical Pattern(MatchOp::Matches);
    "starts_with" Canonical Pattern(MatchOp::StartsWith);
    "startswith" Accepted Pattern(MatchOp::StartsWith);
    "ends_with" Canonical Pattern(MatchOp::EndsWith);
    "endswith" Accepted Pattern(MatchOp::EndsWith);
    "like" Canonical Pattern(MatchOp::Like);
    "containscis" Old Pattern(MatchOp::Contains);
    // Some published queries have these two.
    "containcis" Old Pattern(MatchOp::Contains);
    "contain" Old Pattern(MatchOp::Contains);
    "startswithcis" Old Pattern(MatchOp::StartsWith);
    "endswithcis" Old Pattern(MatchOp::EndsWith);
    "regexp" Old Pattern(MatchOp::Matches);
    "true" Canonical Constant;
    "false" Canonical Constant;
    "null" Canonical Constant;
    "func" Canonical Lambda;
    "is" Old OldComparison;
    "isnot" Old OldComparison;
    "exists" Old OldComparison;
    "between" Old OldComparison;
    "inner" Canonical JoinKind;
    "left" Canonical JoinKind;
    "outer" Canonical JoinKind;
    "sql" Canonical JoinKind;
    "asc" Accepted Direction;
    "desc" Accepted Direction;
}

/// Returns the key word that a word in lower case is, with or without a suffix like `:anycase`.
pub fn by_name(word: &str) -> Option<&'static Keyword> {
    // The lexer reads `contains:anycase` as one word, because names may have colons in them.
    let base = word.split(':').next().unwrap_or_default();
    KEYWORDS.iter().find(|keyword| keyword.name == base)
}

/// Returns how a word compares with patterns, and whether it is one of S1QL 1.0; `None` if it does not.
pub(crate) fn pattern(word: &str) -> Option<(MatchOp, bool)> {
    let keyword = by_name(word)?;
    match keyword.r#use {
        KeywordUse::Pattern(op) => Some((op, keyword.spelling == Spelling::Old)),
        _ => None,
    }
}

/// Returns the operator behind a glued `not`: `contains` of `notcontains` in S1QL 1.0.
pub(crate) fn behind_not(word: &str) -> Option<&str> {
    // Only operators: `notes` or `nothing` are names.
    let operator = word.strip_prefix("not")?;
    let keyword = by_name(operator)?;
    matches!(keyword.r#use, KeywordUse::Pattern(_) | KeywordUse::Membership).then_some(operator)
}

/// Whether a word in lower case is an operator of today, so that it cannot be a value.
pub(crate) fn is_operator(word: &str) -> bool {
    by_name(word).is_some_and(|keyword| {
        matches!(keyword.r#use, KeywordUse::Pattern(_) | KeywordUse::Membership) && keyword.spelling != Spelling::Old
    })
}

/// Whether a word in lower case continues or ends what stands before it, so that it cannot be a value.
pub(crate) fn is_stop(word: &str) -> bool {
    let stops = |keyword: &Keyword| matches!(keyword.r#use, KeywordUse::Conjunction | KeywordUse::Clause);
    is_operator(word) || KEYWORDS.iter().any(|keyword| keyword.name == word && stops(keyword))
}

/// Whether a word in lower case may be glued to the value before it: `5and`.
pub(crate) fn may_follow_value(word: &str) -> bool {
    let follows = |keyword: &Keyword| match keyword.r#use {
        KeywordUse::Conjunction | KeywordUse::Negation | KeywordUse::Clause | KeywordUse::Membership => true,
        KeywordUse::Pattern(_) => keyword.spelling != Spelling::Old,
        _ => false,
    };
    KEYWORDS.iter().any(|keyword| keyword.name == word && follows(keyword))
}

/// Whether a word could be taken for something else than a name.
pub(crate) fn is_keyword(word: &str) -> bool {
    let word = word.to_lowercase();
    by_name(&word).is_some() || behind_not(&word).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique() {
        for keyword in KEYWORDS {
            assert_eq!(KEYWORDS.iter().filter(|other| other.name == keyword.name).count(), 1, "{}", keyword.name);
        }
    }

    #[test]
    fn suffixes_and_glued_negations_are_known() {
        assert_eq!(pattern("contains:anycase"), Some((MatchOp::Contains, false)));
        assert_eq!(pattern("regexp"), Some((MatchOp::Matches, true)));
        assert_eq!(behind_not("notin"), Some("in"));
        assert_eq!(behind_not("note"), None);
        assert!(is_operator("in:anycase") && !is_operator("containscis"));
        assert!(is_stop("by") && !is_stop("not"));
        assert!(is_keyword("NotContainsCIS") && !is_keyword("containers"));
    }
}

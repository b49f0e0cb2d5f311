//! Reads operators between values, with their spellings of S1QL 1.0.

use super::Parser;
use crate::{
    ast::{BinaryOp, Case, MatchOp, Span},
    diagnostic::Diagnostic,
    keyword,
    lexer::Kind,
};

/// An operator behind a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    /// Compares with a value, or with `*`.
    Compare(BinaryOp),
    /// Compares with patterns.
    Text(MatchOp, Case),
    /// Looks for the value in a set.
    In(Case),
    /// `Is Empty`
    Missing,
    /// `Exists`
    Present,
    /// `Between a And b`
    Between,
}

/// An operator as the query writes it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) operator: Operator,
    /// Whether `not` stands before it.
    pub(super) negated: bool,
    /// Whether it is spelled as in S1QL 1.0.
    pub(super) old: bool,
    /// Place in the text.
    pub(super) span: Span,
}

impl Parser<'_> {
    /// Whether the token ahead compares with patterns, like `contains`.
    pub(super) fn is_text_operator(&self, ahead: usize) -> bool {
        self.peek(ahead).keyword().is_some_and(|word| keyword::pattern(&word).is_some())
    }

    /// Takes an operator if one follows.
    pub(super) fn operator(&mut self) -> Option<Found> {
        let start = self.here().start;
        // The place is known only when the operator has been taken.
        let found = |operator| Found { operator, negated: false, old: false, span: Span::default() };
        let sign = match self.kind() {
            Kind::Equal | Kind::EqualEqual => Some(found(Operator::Compare(BinaryOp::Equal))),
            Kind::NotEqual => Some(found(Operator::Compare(BinaryOp::NotEqual))),
            // `<>` is accepted with a remark, as S1QL 1.0 wrote it.
            Kind::LessGreater => Some(Found { old: true, ..found(Operator::Compare(BinaryOp::NotEqual)) }),
            Kind::Less => Some(found(Operator::Compare(BinaryOp::Less))),
            Kind::LessOrEqual => Some(found(Operator::Compare(BinaryOp::LessOrEqual))),
            Kind::Greater => Some(found(Operator::Compare(BinaryOp::Greater))),
            Kind::GreaterOrEqual => Some(found(Operator::Compare(BinaryOp::GreaterOrEqual))),
            Kind::EqualWith(suffix) => {
                let case = self.case(&suffix.clone(), Case::Sensitive);
                Some(found(Operator::Compare(equal(case))))
            }
            Kind::NotEqualWith(suffix) => {
                let case = self.case(&suffix.clone(), Case::Sensitive);
                Some(Found { negated: case == Case::Insensitive, ..found(Operator::Compare(not_equal(case))) })
            }
            _ => None,
        };
        let found = match sign {
            Some(found) => {
                self.advance();
                found
            }
            None => self.word_operator()?,
        };
        Some(Found { span: self.span_from(start), ..found })
    }

    fn word_operator(&mut self) -> Option<Found> {
        let is_not = |ahead: usize| self.peek(ahead).kind == Kind::Not || self.is_word(ahead, "not");
        // `Does Not Contain` of S1QL 1.0.
        let does = self.is_word(0, "does") && is_not(1);
        let negated = does || is_not(0);
        let ahead = usize::from(negated) + usize::from(does);
        // Nothing has been taken so far: without an operator the tokens stay for the caller.
        let word = self.peek(ahead).keyword()?;
        let (base, suffix) = word.split_once(':').map_or((word.as_str(), None), |(base, suffix)| (base, Some(suffix)));
        // `NotContains` of S1QL 1.0.
        let (base, glued_not) = keyword::behind_not(base).map_or((base, false), |rest| (rest, true));
        let (operator, mut old, mut words) = match base {
            "in" if self.is_text_operator(ahead + 1) => {
                let (op, _) = keyword::pattern(&self.peek(ahead + 1).keyword()?)?;
                // `In Contains` is case-sensitive, as `in` is.
                (Operator::Text(op, Case::Sensitive), true, 2)
            }
            "in" => (Operator::In(Case::Sensitive), false, 1),
            "exists" | "exist" => (Operator::Present, true, 1),
            "between" => (Operator::Between, true, 1),
            "is" => {
                let not = usize::from(self.is_word(ahead + 1, "not"));
                // `is` alone is no operator, so it may be a field: what follows decides.
                match self.peek(ahead + 1 + not).keyword().as_deref() {
                    Some("empty" | "null") => {
                        (if not == 1 { Operator::Present } else { Operator::Missing }, true, 2 + not)
                    }
                    _ if self.begins_constant(ahead + 1 + not) => (is_or_not(not == 1), true, 1 + not),
                    _ => return None,
                }
            }
            "isnot" if self.begins_constant(ahead + 1) => (is_or_not(true), true, 1),
            _ => {
                let (op, old) = keyword::pattern(base)?;
                // Operators over texts ignore case unless they say `:matchcase`; `=` and `in` heed it.
                (Operator::Text(op, Case::Insensitive), old, 1)
            }
        };
        // `Contains AnyCase`, `In AnyCase`, `In Contains AnyCase`
        let anycase = self.is_word(ahead + words, "anycase");
        if anycase {
            (old, words) = (true, words + 1);
        }
        let case = if anycase { Some("anycase") } else { suffix }.map(|suffix| self.case(suffix, Case::Sensitive));
        let operator = match (operator, case) {
            (Operator::Text(op, _), Some(case)) => Operator::Text(op, case),
            (Operator::In(_), Some(case)) => Operator::In(case),
            (operator, _) => operator,
        };
        // All words of the operator at once, as it is certain only now.
        for _ in 0..ahead + words {
            self.advance();
        }
        // Two negations, as in `not notcontains`, cancel each other.
        Some(Found { operator, negated: negated != glued_not, old: old || glued_not || does, span: Span::default() })
    }

    /// Whether the token ahead is a constant, which `Is` of S1QL 1.0 compares with.
    fn begins_constant(&self, ahead: usize) -> bool {
        let token = self.peek(ahead);
        let is_word = || token.keyword().is_some_and(|word| word == "true" || word == "false");
        matches!(token.kind, Kind::Text(_) | Kind::Number(_) | Kind::Whole(_)) || is_word()
    }

    /// Returns the case that a suffix like `:anycase` stands for.
    fn case(&mut self, suffix: &str, otherwise: Case) -> Case {
        match suffix {
            "anycase" => Case::Insensitive,
            "matchcase" => Case::Sensitive,
            _ => {
                let message = format!("':{suffix}' is not a way to compare: use :anycase or :matchcase");
                let place = self.here();
                let instead = crate::diagnostic::nearest(suffix, ["anycase", "matchcase"]);
                self.tell(Diagnostic::error(place, message).suggest_any(instead.map(|instead| format!(":{instead}"))));
                otherwise
            }
        }
    }
}

fn is_or_not(negated: bool) -> Operator {
    Operator::Compare(if negated { BinaryOp::NotEqual } else { BinaryOp::Equal })
}

fn equal(case: Case) -> BinaryOp {
    match case {
        Case::Sensitive => BinaryOp::Equal,
        Case::Insensitive => BinaryOp::EqualAnyCase,
    }
}

/// Returns the operator of `!=`. There is none for `!=:anycase`: the caller negates `=:anycase`.
fn not_equal(case: Case) -> BinaryOp {
    match case {
        Case::Sensitive => BinaryOp::NotEqual,
        Case::Insensitive => BinaryOp::EqualAnyCase,
    }
}

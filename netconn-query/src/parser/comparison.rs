//! Reads comparisons: a value, an operator, and what the value is compared with.

use super::{
    Parser, cursor,
    expression::{balanced, binary},
    operator::{Found, Operator},
};
use crate::{
    ast::{BinaryOp, Expr, ExprKind, MatchSubject, Query, Span},
    diagnostic::{Diagnostic, nearest},
    lexer::Kind,
    old, printer, walk,
};

/// Left side of an operator.
enum Left {
    Value(Expr),
    /// `*`
    AnyField,
    /// A shortcut.
    Fields(Vec<Expr>),
}

/// Right side of an operator.
#[derive(Clone)]
enum Right {
    Nothing,
    /// `*`
    Star,
    Value(Expr),
    List(Vec<Expr>),
    Range(Expr, Expr),
    Query(Box<Query>),
}

impl Parser<'_> {
    pub(super) fn comparison(&mut self) -> Expr {
        let start = self.here().start;
        // A shortcut or `*` is no expression that would set the height.
        self.height = 1;
        let mut left = match self.kind() {
            Kind::Shortcut(name) => self.shortcut(&name.clone()),
            Kind::Star if self.is_text_operator(1) => {
                self.advance();
                Left::AnyField
            }
            _ => Left::Value(self.sum()),
        };
        loop {
            let height = self.height;
            // No further operator: the value is complete. A shortcut alone means nothing.
            let Some(found) = self.operator() else {
                return match left {
                    Left::Value(value) => value,
                    Left::AnyField | Left::Fields(_) => {
                        let message = "a shortcut stands for several fields: an operator has to follow it";
                        self.wrong_here(message, "contains 'x'");
                        self.nothing()
                    }
                };
            };
            let right = self.right(&found);
            self.grow(height.max(self.height));
            let span = self.span_from(start);
            let expr = apply(&found, left, right, span);
            self.remark(&found, &expr);
            // A comparison may be the left side of the next one: `1 < x < 3` is read, and the checker warns about it.
            left = Left::Value(expr);
        }
    }

    fn shortcut(&mut self, name: &str) -> Left {
        let span = self.here();
        // An unknown shortcut stands for no field; its error keeps the query from being used.
        let fields = old::shortcut(name).unwrap_or_else(|| {
            let message = format!("there is no shortcut '#{name}', or netconn records none of its fields");
            let instead = nearest(name, old::shortcuts()).map(|instead| format!("#{instead}"));
            self.tell(Diagnostic::error(span, message).suggest_any(instead));
            &[]
        });
        self.advance();
        Left::Fields(fields.iter().map(|field| Expr { kind: ExprKind::Field((*field).to_owned()), span }).collect())
    }

    fn right(&mut self, found: &Found) -> Right {
        match found.operator {
            Operator::Compare(BinaryOp::Equal | BinaryOp::NotEqual | BinaryOp::EqualAnyCase)
                if *self.kind() == Kind::Star && !self.is_text_operator(1) =>
            {
                self.advance();
                Right::Star
            }
            Operator::Compare(_) => {
                let value = self.sum();
                // Only in filters: elsewhere a comma begins the next column or argument.
                if *self.kind() == Kind::Comma && self.terms {
                    // `a = 1, b = 2` is meant as two conditions, `a = 1, 2` as a list.
                    if self.peek(1).keyword().is_some() && cursor::is_comparison(self.peek(2)) {
                        self.wrong_here("a comma does not join conditions", "and");
                    } else {
                        self.wrong_here("= compares with one value, in with one of several", "in ('a', 'b')");
                    }
                }
                Right::Value(value)
            }
            Operator::Text(..) => self.patterns(),
            Operator::In(_) => self.set(),
            Operator::Missing | Operator::Present => Right::Nothing,
            Operator::Between => {
                let low = self.sum();
                let height = self.height;
                if !self.take_word("and") {
                    self.wrong_here("between is followed by two values with and between", "between 1 and 1023");
                }
                let high = self.sum();
                self.grow(height.max(self.height));
                Right::Range(low, high)
            }
        }
    }

    /// Reads one pattern, or several in parentheses.
    fn patterns(&mut self) -> Right {
        if *self.kind() != Kind::Open {
            return Right::List(vec![self.sum()]);
        }
        let patterns = self.values_in_parentheses();
        Right::List(patterns)
    }

    fn values_in_parentheses(&mut self) -> Vec<Expr> {
        let open = self.here();
        self.advance();
        // Commas separate values here, so terms side by side would only hide a comma that was forgotten.
        let terms = std::mem::replace(&mut self.terms, false);
        let mut height = 0;
        let values = if *self.kind() == Kind::Close {
            self.wrong_here("at least one value is expected in the parentheses", "('a', 'b')");
            Vec::new()
        } else {
            self.list(|parser| {
                let value = parser.expression();
                height = height.max(parser.height);
                Some(value)
            })
        };
        self.terms = terms;
        // Of the values only: the operator in front of the list is added by the caller.
        self.height = height;
        for value in &values {
            // `x in ('a' or 'b')` would compare with the value of the `or`, which is 'a'.
            if let ExprKind::Binary { op: op @ (BinaryOp::And | BinaryOp::Or), .. } = &value.kind {
                let message = "values in parentheses are separated by commas, not by and or or";
                let values = walk::operands(*op, value);
                let values: Vec<_> = values.into_iter().map(|value| self.text_of(value.span)).collect();
                let instead = values.join(", ");
                self.warn(Diagnostic::error(value.span, message).suggest(instead));
            }
        }
        self.close(open);
        values
    }

    /// Reads the `)` that closes a `(`, or reports that it is missing.
    pub(super) fn close(&mut self, open: Span) {
        // A `(` that some `)` closes was not forgotten: then the token in the way is the error, and is reported below.
        let is_open = |at: usize| self.pairs.get(at).copied().flatten().is_none_or(|pair| pair.close.is_none());
        let opened = self.tokens.binary_search_by_key(&open.start, |token| token.span.start);
        if *self.kind() == Kind::End || *self.kind() == Kind::Pipe && opened.is_ok_and(is_open) {
            let instead = self.completed(self.span_from(open.start), ')');
            self.tell(Diagnostic::error(open, "this ( is not closed: a ) is missing").suggest(instead));
        } else if !self.take(&Kind::Close) {
            let shown = self.shown();
            let message = format!("{shown} is not expected here: an operator, a comma or ) is");
            if matches!(self.kind(), Kind::Text(_) | Kind::Number(_) | Kind::Whole(_)) {
                self.wrong_here(message, &format!(", {shown}"));
            } else {
                self.error_here(message);
            }
            // One error is enough for what stands between here and the `)`.
            while !matches!(self.kind(), Kind::Close | Kind::Pipe | Kind::End) {
                self.skip_token();
            }
            self.take(&Kind::Close);
        }
    }

    /// Reads the values or the query behind `in`.
    fn set(&mut self) -> Right {
        let open = self.here();
        if *self.kind() != Kind::Open {
            self.wrong_here("in is followed by values in parentheses", "in ('a', 'b')");
            return Right::List(vec![self.sum()]);
        }
        // Decided before anything is read, from what stands directly inside: reading twice would double with each
        // level.
        let is_query =
            self.pairs.get(self.at).copied().flatten().is_some_and(|pair| {
                pair.has_pipe || (pair.has_comparison && !pair.has_comma) || self.begins_command(1)
            });
        if !is_query {
            return Right::List(self.values_in_parentheses());
        }
        self.advance();
        let query = self.subquery();
        self.close(open);
        Right::Query(Box::new(query))
    }

    /// Warns about an operator that is spelled otherwise today, and shows how it was understood.
    fn remark(&mut self, found: &Found, expr: &Expr) {
        // Copied, because reporting borrows the parser.
        let written = self.text_of(found.span).to_owned();
        let message = if found.old {
            format!("'{written}' is an operator of S1QL 1.0, which is spelled differently today")
        } else if found.negated && !matches!(found.operator, Operator::Compare(_)) {
            format!("'{written}' is understood as the negation of the whole comparison")
        } else {
            return;
        };
        self.warn(Diagnostic::warning(found.span, message).suggest(printer::expression(expr)));
    }
}

/// Returns the comparison; for a shortcut one for each of its fields.
fn apply(found: &Found, left: Left, right: Right, span: Span) -> Expr {
    let fields = match left {
        Left::Value(value) => {
            return denied(found.negated, one(found.operator, MatchSubject::Value(Box::new(value)), right, span));
        }
        Left::AnyField => return denied(found.negated, one(found.operator, MatchSubject::AnyField, right, span)),
        Left::Fields(fields) => fields,
    };
    // De Morgan: with `!=` no field may be equal, and with `is empty` all must be missing, so the `or` of the fields is
    // negated as a whole.
    let (operator, negated) = match found.operator {
        Operator::Compare(BinaryOp::NotEqual) => (Operator::Compare(BinaryOp::Equal), !found.negated),
        Operator::Missing => (Operator::Present, !found.negated),
        other => (other, found.negated),
    };
    // `#ip = null` asks that all fields are missing, so it is the negation of one being present.
    let missing = matches!(&right, Right::Value(Expr { kind: ExprKind::Null, .. })) && is_equal(operator);
    let (operator, right, negated) =
        if missing { (operator, Right::Star, !negated) } else { (operator, right, negated) };
    let each = fields.into_iter().map(|field| one(operator, MatchSubject::Value(Box::new(field)), right.clone(), span));
    denied(negated, Expr { span, ..balanced(BinaryOp::Or, each.collect()) })
}

fn is_equal(operator: Operator) -> bool {
    matches!(operator, Operator::Compare(BinaryOp::Equal | BinaryOp::EqualAnyCase))
}

fn denied(negated: bool, expr: Expr) -> Expr {
    if !negated {
        return expr;
    }
    Expr { span: expr.span, kind: ExprKind::Not(Box::new(expr)) }
}

/// Returns one comparison. Combinations that make no sense have been reported already.
fn one(operator: Operator, subject: MatchSubject, right: Right, span: Span) -> Expr {
    let kind = match (operator, subject, right) {
        (Operator::Text(op, case), subject, Right::List(patterns)) => ExprKind::Match { op, case, subject, patterns },
        // `*` stands only in front of operators over texts; `comparison` has made sure of that.
        (_, MatchSubject::AnyField, _) => ExprKind::Null,
        (Operator::Compare(BinaryOp::NotEqual), MatchSubject::Value(value), Right::Star)
        | (Operator::Missing, MatchSubject::Value(value), _) => {
            ExprKind::Not(Box::new(Expr { kind: ExprKind::Present(value), span }))
        }
        (Operator::Compare(_), MatchSubject::Value(value), Right::Star)
        | (Operator::Present, MatchSubject::Value(value), _) => ExprKind::Present(value),
        (Operator::Compare(op), MatchSubject::Value(value), Right::Value(right)) => {
            ExprKind::Binary { op, left: value, right: Box::new(right) }
        }
        (Operator::In(case), MatchSubject::Value(value), Right::List(set)) => ExprKind::In { case, value, set },
        (Operator::In(case), MatchSubject::Value(value), Right::Query(query)) => {
            ExprKind::InQuery { case, value, query }
        }
        (Operator::Between, MatchSubject::Value(value), Right::Range(low, high)) => {
            // The value is in the tree twice: there is no node for a range.
            let low = binary(BinaryOp::GreaterOrEqual, (*value).clone(), low);
            binary(BinaryOp::And, low, binary(BinaryOp::LessOrEqual, *value, high)).kind
        }
        _ => ExprKind::Null,
    };
    Expr { kind, span }
}

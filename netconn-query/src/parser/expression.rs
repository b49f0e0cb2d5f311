//! Reads expressions from the ternary down to products. Their parts are in `comparison.rs` and `value.rs`.

use super::Parser;
use crate::{
    ast::{BinaryOp, Expr, ExprKind, Span},
    diagnostic::Diagnostic,
    lexer::{Kind, Token},
};

impl Parser<'_> {
    /// Reads a condition: terms may stand side by side, and a text alone is searched for in all fields.
    pub(super) fn condition(&mut self) -> Expr {
        // Restored below: a condition may stand within an argument, where terms are not allowed.
        let before = std::mem::replace(&mut self.terms, true);
        let expr = self.expression();
        self.terms = before;
        anywhere(expr)
    }

    /// Reads any expression, with terms side by side if they are allowed here.
    pub(super) fn expression(&mut self) -> Expr {
        if !self.enter() {
            return self.nothing();
        }
        let condition = self.disjunction();
        let expr = if *self.kind() == Kind::Question { self.ternary(condition) } else { condition };
        self.leave();
        expr
    }

    /// Returns a placeholder for an expression that cannot be read; the error keeps the query from being used.
    pub(super) fn nothing(&mut self) -> Expr {
        self.height = 1;
        Expr { kind: ExprKind::Null, span: Span { start: self.here().start, end: self.here().start } }
    }

    fn ternary(&mut self, condition: Expr) -> Expr {
        let mut height = self.height;
        self.advance();
        // Noted for a second attempt: `b:c` may have been read as one name.
        let (start, told) = (self.at, self.diagnostics.len());
        let mut then = self.expression();
        if *self.kind() != Kind::Colon
            && let Some(split) = self.split_at_colon(start)
        {
            // Errors of the first attempt are about a reading that does not hold.
            self.diagnostics.truncate(told);
            self.told_at = None;
            self.warn(split);
            self.at = start;
            // Once only: the split leaves a `:` behind, so a second failure is a real error. Each attempt takes a `:`
            // from a name, which bounds nested attempts.
            then = self.expression();
        }
        height = height.max(self.height);
        self.expect(&Kind::Colon, "a ? is followed by two values with : between", "condition ? a : b");
        let otherwise = self.expression();
        self.grow(height.max(self.height));
        let span = Span { start: condition.span.start, end: otherwise.span.end };
        let (condition, then, otherwise) = (Box::new(condition), Box::new(then), Box::new(otherwise));
        Expr { kind: ExprKind::Ternary { condition, then, otherwise }, span }
    }

    /// Splits `b:c` in `a ? b:c`: a `:` may be part of a name. The last such name is the one to split.
    fn split_at_colon(&mut self, start: usize) -> Option<Diagnostic> {
        let (at, span, colon) = (start..self.at).rev().find_map(|at| {
            let token = self.tokens.get(at)?;
            let Kind::Word { text, escaped: false } = &token.kind else { return None };
            Some((at, token.span, text.find(':')?))
        })?;
        let text = self.text_of(span).to_owned();
        let (before, after) = (&text[..colon], &text[colon + 1..]);
        let word = |text: &str, start| Token {
            kind: Kind::Word { text: text.to_owned(), escaped: false },
            span: Span { start, end: start + text.len() },
        };
        let place = span.start + colon;
        let sign = Token { kind: Kind::Colon, span: Span { start: place, end: place + 1 } };
        let parts = [word(before, span.start), sign, word(after, place + 1)];
        // `a:` and `:b` are one word and the sign.
        self.tokens.splice(at..=at, parts.into_iter().filter(|part| part.span.start != part.span.end));
        // Places in `pairs` are indexes of tokens, which have moved.
        self.pairs = super::cursor::pairs(&self.tokens);
        let message = format!("'{text}' is taken as two values: without spaces, a : belongs to a name");
        Some(Diagnostic::warning(span, message).suggest(format!("{before} : {after}")))
    }

    fn disjunction(&mut self) -> Expr {
        let mut operands = vec![self.conjunction()];
        let mut height = self.height;
        while *self.kind() == Kind::Or || self.is_word(0, "or") {
            // Two bars in front of a command are one too many.
            if *self.kind() == Kind::Or && self.begins_command(1) {
                let word = self.text_of(self.peek(1).span).to_owned();
                self.wrong_here("|| is `or`, and a command follows one bar", &format!("| {word}"));
            }
            self.advance();
            operands.push(self.conjunction());
            height = height.max(self.height);
        }
        self.chain(BinaryOp::Or, operands, height)
    }

    fn conjunction(&mut self) -> Expr {
        let mut operands = vec![self.negation()];
        let mut height = self.height;
        loop {
            if *self.kind() == Kind::And || self.is_word(0, "and") {
                self.advance();
            } else if !(self.terms && self.begins_term()) {
                break;
            }
            operands.push(self.negation());
            height = height.max(self.height);
        }
        self.chain(BinaryOp::And, operands, height)
    }

    /// Reads `a and b and c …` into a tree of the least height: grouping means nothing here, and there may be thousands
    /// of terms.
    fn chain(&mut self, op: BinaryOp, operands: Vec<Expr>, height: usize) -> Expr {
        self.height = height;
        if operands.len() > 1 {
            let mut flat = Vec::with_capacity(operands.len());
            operands.into_iter().for_each(|operand| flatten(op, operand, &mut flat));
            // The height of a balanced tree is the logarithm of its leaves; `grow` adds the last level.
            self.grow(height + (flat.len() - 1).ilog2() as usize);
            return balanced(op, flat);
        }
        operands.into_iter().next().unwrap_or(Expr { kind: ExprKind::Null, span: Span::default() })
    }

    pub(super) fn negation(&mut self) -> Expr {
        let start = self.here().start;
        if *self.kind() != Kind::Not && !self.is_word(0, "not") {
            return self.comparison();
        }
        if !self.enter() {
            return self.nothing();
        }
        self.advance();
        let inner = self.negation();
        self.leave();
        self.grow(self.height);
        Expr { span: Span { start, end: inner.span.end }, kind: ExprKind::Not(Box::new(inner)) }
    }

    /// Reads sums and products.
    pub(super) fn sum(&mut self) -> Expr {
        self.arithmetic(|parser| parser.arithmetic(Self::unary, Self::product_sign), Self::sum_sign)
    }

    fn arithmetic(&mut self, operand: impl Fn(&mut Self) -> Expr, sign: impl Fn(&Self) -> Option<BinaryOp>) -> Expr {
        let mut left = operand(self);
        while let Some(op) = sign(self) {
            let height = self.height;
            self.advance();
            let right = operand(self);
            self.grow(height.max(self.height));
            left = binary(op, left, right);
        }
        left
    }

    fn sum_sign(&self) -> Option<BinaryOp> {
        match self.kind() {
            Kind::Plus => Some(BinaryOp::Add),
            Kind::Minus => Some(BinaryOp::Subtract),
            _ => None,
        }
    }

    fn product_sign(&self) -> Option<BinaryOp> {
        match self.kind() {
            // `a = 1 * contains 'x'` are two terms.
            Kind::Star if !self.is_text_operator(1) => Some(BinaryOp::Multiply),
            Kind::Slash => Some(BinaryOp::Divide),
            Kind::Percent => Some(BinaryOp::Remainder),
            _ => None,
        }
    }
}

/// Joins two operands by an operator.
pub(super) fn binary(op: BinaryOp, left: Expr, right: Expr) -> Expr {
    let span = Span { start: left.span.start, end: right.span.end };
    Expr { kind: ExprKind::Binary { op, left: Box::new(left), right: Box::new(right) }, span }
}

fn flatten(op: BinaryOp, expr: Expr, flat: &mut Vec<Expr>) {
    match expr.kind {
        ExprKind::Binary { op: own, left, right } if own == op => {
            flatten(op, *left, flat);
            flatten(op, *right, flat);
        }
        kind => flat.push(Expr { kind, span: expr.span }),
    }
}

/// Returns a balanced tree of `and` or `or`.
pub(super) fn balanced(op: BinaryOp, mut operands: Vec<Expr>) -> Expr {
    if operands.len() < 2 {
        return operands.pop().unwrap_or(Expr { kind: ExprKind::Null, span: Span::default() });
    }
    // Halves, so that thousands of terms make a tree of a dozen levels: walks through trees recurse.
    let right = operands.split_off(operands.len() / 2);
    binary(op, balanced(op, operands), balanced(op, right))
}

/// Turns a text alone into a search for it in all fields.
fn anywhere(expr: Expr) -> Expr {
    let span = expr.span;
    let kind = match expr.kind {
        ExprKind::Text(text) => ExprKind::Anywhere(text),
        ExprKind::Not(inner) => ExprKind::Not(Box::new(anywhere(*inner))),
        ExprKind::Binary { op: op @ (BinaryOp::And | BinaryOp::Or), left, right } => {
            ExprKind::Binary { op, left: Box::new(anywhere(*left)), right: Box::new(anywhere(*right)) }
        }
        // Only whole terms: a text on one side of an operator is a value.
        other => other,
    };
    Expr { kind, span }
}

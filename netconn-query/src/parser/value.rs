//! Reads single values: numbers, texts, fields, calls, lambdas, and expressions in parentheses.

use super::Parser;
use crate::{
    ast::{Expr, ExprKind, Name, Span},
    catalogue,
    diagnostic::Diagnostic,
    keyword,
    lexer::Kind,
    walk::label,
};

/// Form of a lambda, for suggestions.
const LAMBDA: &str = "func(x) -> x > 1";

impl Parser<'_> {
    /// Whether another term begins here.
    pub(super) fn begins_term(&self) -> bool {
        match self.kind() {
            Kind::Text(_)
            | Kind::Regex(_)
            | Kind::Number(_)
            | Kind::Whole(_)
            | Kind::Shortcut(_)
            | Kind::Open
            | Kind::Not => true,
            Kind::Word { .. } => self.peek(0).keyword().is_none_or(|word| !keyword::is_stop(&word)),
            Kind::Star => self.is_text_operator(1),
            _ => false,
        }
    }

    pub(super) fn unary(&mut self) -> Expr {
        let start = self.here().start;
        let is_not = *self.kind() == Kind::Not || self.is_word(0, "not");
        let minus = *self.kind() == Kind::Minus;
        if !is_not && !minus && *self.kind() != Kind::Plus {
            return self.with_methods();
        }
        // `not` binds weaker than a sign, but it may stand behind one; `negation` reads the whole comparison.
        if is_not {
            return self.negation();
        }
        if !self.enter() {
            return self.nothing();
        }
        self.advance();
        let inner = self.unary();
        self.leave();
        if !minus {
            return inner;
        }
        let span = Span { start, end: inner.span.end };
        // A literal, so that it is printed and checked as one number.
        if let ExprKind::Number(number) = inner.kind {
            return Expr { kind: ExprKind::Number(-number), span };
        }
        if let ExprKind::Whole(number) = inner.kind {
            // The smallest whole number has no opposite, and is no literal without its sign.
            return Expr { kind: ExprKind::Whole(number.wrapping_neg()), span };
        }
        self.grow(self.height);
        Expr { kind: ExprKind::Negative(Box::new(inner)), span }
    }

    /// Reads `value.method(…).method(…)`.
    fn with_methods(&mut self) -> Expr {
        let mut value = self.value();
        while *self.kind() == Kind::Dot {
            self.advance();
            let name_span = self.here();
            let name = match self.kind() {
                // A name with a dot would be two methods without arguments between them.
                Kind::Word { text, .. } if !text.contains('.') => text.to_lowercase(),
                _ => {
                    self.wrong_here("the name of a function is expected behind the dot", "x.len()");
                    return value;
                }
            };
            self.advance();
            value = self.call(name, name_span, Some(value));
        }
        value
    }

    fn value(&mut self) -> Expr {
        let span = self.here();
        self.height = 1;
        // Cloned, because reporting an error borrows the parser.
        let kind = match self.kind().clone() {
            Kind::Number(number) => ExprKind::Number(number),
            Kind::Whole(number) => ExprKind::Whole(number),
            Kind::Text(text) => ExprKind::Text(text),
            Kind::Regex(regex) => ExprKind::AnywhereRegex(regex),
            Kind::Word { text, escaped } => return self.word(text, escaped, span),
            Kind::Open => return self.parentheses(span),
            // Taken as a value, so that what follows is still read.
            Kind::Shortcut(name) => {
                let message =
                    format!("#{name} stands for several fields and can only be the left side of a comparison");
                self.tell(Diagnostic::error(span, message).suggest(format!("#{name} contains 'x'")));
                ExprKind::Null
            }
            Kind::Star => {
                let message = "* stands for any field with contains or matches behind it, and for any value behind =";
                self.wrong_here(message, "* contains 'x'");
                ExprKind::Null
            }
            _ => {
                let shown = self.shown();
                self.error_here(format!("a value is expected here, not {shown}"));
                return self.nothing();
            }
        };
        self.advance();
        Expr { kind, span }
    }

    fn parentheses(&mut self, open: Span) -> Expr {
        self.advance();
        if *self.kind() == Kind::Close {
            self.error_here("a value is expected in the parentheses");
        }
        let inner = self.expression();
        if *self.kind() == Kind::Comma {
            self.wrong_here(
                "several values in parentheses follow in, contains, matches and the like only",
                "in ('a', 'b')",
            );
            while !matches!(self.kind(), Kind::Close | Kind::Pipe | Kind::End) {
                self.skip_token();
            }
        }
        self.close(open);
        // The parentheses belong to the place, so that a suggestion which repeats the text is complete.
        Expr { kind: inner.kind, span: self.span_from(open.start) }
    }

    /// Reads a constant, a call, or a field.
    fn word(&mut self, text: String, escaped: bool, span: Span) -> Expr {
        let lower = text.to_lowercase();
        if !escaped && keyword::is_stop(&lower) {
            self.error_here(format!("a value is expected here, not the key word {lower}"));
            return self.nothing();
        }
        self.advance();
        let called = *self.kind() == Kind::Open;
        let glued = called && self.here().start == span.end;
        if !escaped && called && lower == "func" {
            return self.lambda(span);
        }
        // The lexer reads `x.len` as one name, because names of fields have dots.
        if glued && let Some((receiver, method)) = text.rsplit_once('.') {
            let end = span.end - method.len();
            let receiver_span = Span { start: span.start, end: end - 1 };
            let receiver =
                if escaped { receiver.to_owned() } else { self.todays_name(receiver.to_owned(), receiver_span) };
            let receiver = Expr { kind: ExprKind::Field(receiver), span: receiver_span };
            return self.call(method.to_lowercase(), Span { start: end, end: span.end }, Some(receiver));
        }
        // With a space before the parenthesis it may be two terms side by side.
        let known = || catalogue::functions(&lower).next().is_some();
        let is_name = !escaped && !text.contains('.');
        if glued || (called && is_name && (!self.terms || known())) {
            return self.call(lower, span, None);
        }
        let kind = match lower.as_str() {
            // With a backslash even a key word is a field.
            "true" if !escaped => ExprKind::Bool(true),
            "false" if !escaped => ExprKind::Bool(false),
            "null" if !escaped => ExprKind::Null,
            _ if escaped => ExprKind::Field(text),
            _ => ExprKind::Field(self.todays_name(text, span)),
        };
        Expr { kind, span }
    }

    /// Reads a call behind its name.
    fn call(&mut self, name: String, name_span: Span, receiver: Option<Expr>) -> Expr {
        let start = receiver.as_ref().map_or(name_span.start, |receiver| receiver.span.start);
        // The receiver is read already, and its height is that of the last expression.
        let mut height = if receiver.is_some() { self.height } else { 0 };
        let mut arguments: Vec<Expr> = receiver.into_iter().collect();
        let (mut condition, mut by) = (None, Vec::new());
        // Other spellings are understood without a remark; the canonical form has the name of the table.
        let name = catalogue::spelled(&name).map_or(name, ToOwned::to_owned);
        let open = self.here();
        // Errors within the arguments suggest the form of this function.
        let usage = catalogue::functions(&name).next().map_or(self.usage, |function| function.usage);
        let outer = std::mem::replace(&mut self.usage, usage);
        if self.expect(&Kind::Open, "the arguments of a function are expected here, in parentheses", usage) {
            // The argument of `count` is a condition, as a filter is.
            let terms = std::mem::replace(&mut self.terms, name == "count");
            if name == "count" && self.is_word(0, "distinct") && !matches!(self.peek(1).kind, Kind::Close) {
                self.advance();
                let inner = match self.peek(0).kind {
                    Kind::Word { ref text, .. } => text.clone(),
                    _ => "x".to_owned(),
                };
                let place = self.span_from(name_span.start);
                let message = "different values are counted by a function of their own";
                self.tell(Diagnostic::error(place, message).suggest(format!("count_distinct({inner})")));
            }
            while !matches!(self.kind(), Kind::Close | Kind::End) && !self.is_word(0, "by") {
                if self.take_word("where") {
                    // What stands behind `where` is a condition too.
                    self.terms = true;
                    condition = Some(Box::new(self.expression()));
                    height = height.max(self.height);
                    break;
                }
                arguments.push(self.expression());
                height = height.max(self.height);
                if !self.take(&Kind::Comma) && !self.is_word(0, "where") {
                    break;
                }
            }
            self.terms = false;
            if self.take_word("by") {
                by = self.list(|parser| {
                    let key = parser.expression();
                    height = height.max(parser.height);
                    Some(key)
                });
            }
            self.terms = terms;
            self.close(open);
        }
        self.usage = outer;
        self.grow(height);
        let span = self.span_from(start);
        let expr = Expr { kind: ExprKind::Call { name, name_span, arguments, condition, by }, span };
        let label = label(&expr, self.text_of(span));
        if self.labels.contains(&label) {
            // `group sum(x) by y | sort -sum(x)`: the column of that name.
            return Expr { kind: ExprKind::Field(label), span };
        }
        expr
    }

    /// Reads `func(x) -> expression` behind the word `func`.
    fn lambda(&mut self, start: Span) -> Expr {
        let open = self.here();
        self.advance();
        let parameters = self.list(|parser| {
            let span = parser.here();
            let text = match parser.kind() {
                Kind::Word { text, .. } => text.clone(),
                _ => {
                    parser.wrong_here("the name of the element is expected here", LAMBDA);
                    String::new()
                }
            };
            // Something that is no name is taken too, unless it closes the parentheses.
            if *parser.kind() != Kind::Close {
                parser.advance();
            }
            Some(Name { text, span })
        });
        self.close(open);
        self.expect(&Kind::Arrow, "-> is expected behind the arguments of func", LAMBDA);
        // In the body the names are elements, never fields of S1QL 1.0. Columns of these names stay known behind it.
        let texts = parameters.iter().map(|parameter| parameter.text.clone());
        let new: Vec<String> = texts.filter(|text| self.own.insert(text.clone())).collect();
        let terms = std::mem::replace(&mut self.terms, false);
        let body = self.expression();
        self.terms = terms;
        for text in new {
            self.own.remove(&text);
        }
        self.grow(self.height);
        Expr { kind: ExprKind::Lambda { parameters, body: Box::new(body) }, span: self.span_from(start.start) }
    }
}

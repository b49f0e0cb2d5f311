//! Checks expressions: whether fields exist and operators make sense.

use jiff::Timestamp;
use netconn_model::field;

use super::{Checker, Place, constant::Test, literal, moment, scope::Scope};
use crate::{
    ast::{BinaryOp, Case, Expr, ExprKind, MatchOp, MatchSubject, Span},
    catalogue,
    diagnostic::{Diagnostic, nearest},
    duration, printer, walk,
};

/// Words between terms that a misspelled one may mean.
const OPERATORS: [&str; 5] = ["and", "or", "not", "contains", "matches"];

impl Checker<'_> {
    /// Checks a condition.
    pub(super) fn condition(&mut self, expr: &Expr, scope: &Scope, place: Place) {
        self.bare_words(expr, scope);
        self.expression(expr, scope, place);
        self.texts_after_or(expr);
    }

    /// Reports words that stand alone as conditions: texts without their quotes.
    fn bare_words(&mut self, expr: &Expr, scope: &Scope) {
        let mut waiting = vec![expr];
        while let Some(expr) = waiting.pop() {
            match &expr.kind {
                ExprKind::Binary { op: BinaryOp::And | BinaryOp::Or, left, right } => {
                    waiting.extend([right.as_ref(), left.as_ref()]);
                }
                ExprKind::Not(inner) => waiting.push(inner),
                ExprKind::Field(name)
                    if !self.is_known(name, scope)
                        && !self.fields.contains(name)
                        && scope.nearest(name, self.fields).is_none()
                        && nearest(name, OPERATORS).is_none()
                        && self.told.insert(name.clone()) =>
                {
                    let message = format!(
                        "there is no field '{name}', so it is null in every row: a text to look for in all fields needs quotes"
                    );
                    self.diagnostics.push(Diagnostic::warning(expr.span, message).suggest(printer::text(name)));
                }
                _ => {}
            }
        }
    }

    pub(super) fn expression(&mut self, expr: &Expr, scope: &Scope, place: Place) {
        match &expr.kind {
            ExprKind::Field(name) => return self.field(name, expr.span, scope),
            ExprKind::Call { .. } => return self.call(expr, scope, place),
            ExprKind::Lambda { .. } => {
                let message = "func can only be an argument";
                self.diagnostics.push(Diagnostic::error(expr.span, message).suggest("x.filter(func(x) -> x > 1)"));
                return;
            }
            // The right side is often a text without quotes, so `operand` decides whether it is checked as a field at
            // all.
            ExprKind::Binary { op, left, right } if !matches!(op, BinaryOp::And | BinaryOp::Or) => {
                self.expression(left, scope, place);
                return self.operand(*op, left, right, scope, place);
            }
            ExprKind::Match { op, case, subject, patterns } => {
                if *subject == MatchSubject::AnyField && place != Place::FirstFilter {
                    let message = "* is for the filter before the first | only: name a field here";
                    self.diagnostics
                        .push(Diagnostic::error(expr.span, message).suggest("src.process.cmdline contains 'x'"));
                }
                // Before the children are visited: `told` then keeps them from being reported again as unknown fields.
                patterns.iter().for_each(|pattern| self.unquoted(pattern, scope));
                if *op == MatchOp::Matches {
                    patterns.iter().for_each(|pattern| self.regex(pattern));
                }
                if let MatchSubject::Value(value) = subject {
                    patterns.iter().for_each(|pattern| self.constant(Test::Match(*op, *case), value, pattern, scope));
                }
            }
            ExprKind::AnywhereRegex(regex) => self.regex_text(regex, expr.span),
            // The value itself is one of the children, which are visited at the end.
            ExprKind::In { case, value, set } => set.iter().for_each(|element| {
                self.unquoted(element, scope);
                self.element(value, element);
                self.constant(Test::Equal(*case), value, element, scope);
            }),
            ExprKind::InQuery { case: _, value, query } => {
                let inner = self.query(query);
                self.subquery_column(value, &inner, query.span);
            }
            _ => {}
        }
        expr.children().into_iter().for_each(|child| self.expression(child, scope, place));
    }

    /// Checks a field, a column or a parameter; an unknown one is reported once.
    pub(super) fn field(&mut self, name: &str, span: Span, scope: &Scope) {
        if self.parameters.iter().any(|parameter| parameter == name) || scope.contains(name, self.fields) {
            return;
        }
        // Once for each name, because a shortcut or a chain of `or` would repeat it many times.
        if !self.told.insert(name.to_owned()) {
            return;
        }
        // Only if the left half is a known name: `a-b` is then most likely a subtraction.
        let hyphen = name.split_once('-').filter(|(left, _)| scope.contains(left, self.fields));
        let message = if scope.is_closed() && self.fields.contains(name) {
            let left = scope.names().iter().take(12).map(|name| printer::name(name)).collect::<Vec<_>>().join(", ");
            format!("'{name}' is null: behind group, top and columns there are only their columns, here {left}")
        } else if let Some(function) = catalogue::functions(name).next() {
            // The shortest valid call: optional arguments in brackets could not be pasted.
            let call = if function.least == 0 { format!("{name}()") } else { function.usage.to_owned() };
            let message =
                format!("there is no field '{name}', so it is null in every row: a function needs parentheses");
            self.diagnostics.push(Diagnostic::warning(span, message).suggest(call));
            return;
        } else if hyphen.is_some() {
            format!("there is no field '{name}', so it is null: a hyphen without spaces belongs to the name")
        } else {
            format!("there is no field '{name}', so it is null in every row")
        };
        let suggestion = match hyphen {
            Some((left, right)) => Some(format!("{left} - {right}")),
            // The name is spelled correctly, so no other spelling is suggested.
            None if scope.is_closed() && self.fields.contains(name) => None,
            // A misspelled `and` between two terms is read as a field.
            None => scope
                .nearest(name, self.fields)
                .map(printer::name)
                .or_else(|| nearest(name, OPERATORS).map(ToOwned::to_owned)),
        };
        self.diagnostics.push(Diagnostic::warning(span, message).suggest_any(suggestion));
    }

    /// Checks the right side of an operator, which is often a text without its quotes, or a network.
    fn operand(&mut self, op: BinaryOp, left: &Expr, right: &Expr, scope: &Scope, place: Place) {
        // Warnings about both sides come first; the right side is checked as an expression only if it is no special
        // case below.
        let is_comparison = op.is_comparison();
        self.quoted(left, scope);
        if !is_comparison {
            self.quoted(right, scope);
            self.counted(op, left, right, scope);
        }
        if is_comparison {
            self.chain(op, left, right);
            [left, right].into_iter().for_each(|side| self.day(side));
            self.equality(op, left, right, scope);
        }
        if let (ExprKind::Field(one), ExprKind::Field(other)) = (&left.kind, &right.kind)
            && is_equality(op)
            && !scope.contains(one, self.fields)
            && !scope.contains(other, self.fields)
            && ![one, other].into_iter().any(|name| self.parameters.contains(name))
        {
            let message = format!(
                "neither '{one}' nor '{other}' is a field, so both are null and equal in every row: a text needs quotes"
            );
            let field = scope.nearest(one, self.fields).unwrap_or(one);
            let sign = if op == BinaryOp::NotEqual { "!=" } else { "=" };
            let suggestion = format!("{} {sign} {}", printer::name(field), printer::text(other));
            let span = Span { start: left.span.start, end: right.span.end };
            self.diagnostics.push(Diagnostic::error(span, message).suggest(suggestion));
            self.told.insert(other.clone());
            return;
        }
        match &right.kind {
            // A name that resembles a field is more likely a typing error than a text, so `is_known` includes those.
            ExprKind::Field(name) if is_comparison && !self.is_known(name, scope) => self.unquoted(right, scope),
            // `=` with a network compares texts and so matches nothing, although it looks as if it worked.
            ExprKind::Text(text) if is_comparison && literal::network(text).is_some() => {
                let message =
                    format!("'{text}' is compared as a text: addresses inside a network are asked for with in");
                let not = if op == BinaryOp::NotEqual { "not " } else { "" };
                let suggestion = format!("{} {not}in ({})", printer::expression(left), printer::text(text));
                self.diagnostics.push(Diagnostic::warning(right.span, message).suggest(suggestion));
            }
            ExprKind::Text(text)
                if is_comparison
                    && matches!(&left.kind, ExprKind::Field(name) if scope.is_of_events(name) && is_moment(name)) =>
            {
                self.moment(text, right.span);
            }
            // Only for fields of the schema: kinds of other columns are known to the planner alone. An equality is looked at
            // above.
            ExprKind::Text(text) if is_comparison && !is_equality(op) && !literal::is_number(text) => {
                if let ExprKind::Field(name) = &left.kind
                    && scope.is_of_events(name)
                    && is_number(name)
                {
                    let message =
                        format!("'{name}' is a number and {} is not, so this is never true", printer::text(text));
                    self.diagnostics.push(Diagnostic::warning(right.span, message));
                }
            }
            _ => self.expression(right, scope, place),
        }
    }

    /// Checks the constant of an equality, on either side.
    fn equality(&mut self, op: BinaryOp, left: &Expr, right: &Expr, scope: &Scope) {
        let test = match op {
            BinaryOp::Equal => Test::Equal(Case::Sensitive),
            BinaryOp::EqualAnyCase => Test::Equal(Case::Insensitive),
            BinaryOp::NotEqual => Test::NotEqual,
            _ => return,
        };
        self.constant(test, left, right, scope);
        self.constant(test, right, left, scope);
    }

    /// Reports a value without quotes, which is a field that nothing has.
    fn unquoted(&mut self, value: &Expr, scope: &Scope) {
        if let ExprKind::Field(name) = &value.kind
            && !self.is_known(name, scope)
            && self.told.insert(name.clone())
        {
            let message = format!("there is no field '{name}', so it is null in every row: a text needs quotes");
            self.diagnostics.push(Diagnostic::warning(value.span, message).suggest(printer::text(name)));
        }
    }

    /// Checks what a moment is compared with.
    fn moment(&mut self, text: &str, span: Span) {
        match duration::moment(text) {
            Some((_, true)) => {}
            // A date without a time; no warning about UTC, because people who write one mean the whole day.
            Some((_, false)) if text.len() == 10 => {}
            Some((nanos, false)) => {
                let time = Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default();
                let message =
                    format!("{} is taken as UTC: a time without a zone can be another one", printer::text(text));
                self.diagnostics.push(Diagnostic::warning(span, message).suggest(format!("'{time}'")));
            }
            None if literal::is_number(text) => {}
            None => {
                let message = format!("{} is not a moment: write a date, or a time in RFC 3339", printer::text(text));
                self.diagnostics.push(Diagnostic::warning(span, message).suggest("'2026-09-21T14:40:00Z'"));
            }
        }
    }

    /// Warns about `1 < x < 3`, which compares true or false with 3.
    fn chain(&mut self, op: BinaryOp, left: &Expr, right: &Expr) {
        let ExprKind::Binary { op: inner, left: _, right: middle } = &left.kind else { return };
        // `a = b = true` is meant as it is written.
        if !inner.is_comparison() || is_condition(right) {
            return;
        }
        let message = format!("this compares whether {} is true", literal::shown(left));
        // `1 < x < 3` is shown as `1 < x and x < 3`.
        let second = ExprKind::Binary { op, left: middle.clone(), right: Box::new(right.clone()) };
        let second = printer::expression(&Expr { kind: second, span: right.span });
        let suggestion = format!("{} and {second}", printer::expression(left));
        let span = Span { start: left.span.start, end: right.span.end };
        self.diagnostics.push(Diagnostic::warning(span, message).suggest(suggestion));
    }

    /// Warns about `2026-03-03` without quotes, which is 2020.
    fn day(&mut self, value: &Expr) {
        let ExprKind::Binary { op: BinaryOp::Subtract, left, right: day } = &value.kind else { return };
        let ExprKind::Binary { op: BinaryOp::Subtract, left: year, right: month } = &left.kind else { return };
        let (ExprKind::Number(year), ExprKind::Number(month), ExprKind::Number(day)) =
            (&year.kind, &month.kind, &day.kind)
        else {
            return;
        };
        let text = format!("{year:04}-{month:02}-{day:02}");
        // With spaces it is a subtraction.
        let is_written_so = value.span.end - value.span.start == text.len();
        if is_written_so && (1900.0..2200.0).contains(year) && (1.0..=12.0).contains(month) {
            let message = format!("{text} is the number {}: a time needs quotes", year - month - day);
            self.diagnostics.push(Diagnostic::warning(value.span, message).suggest(printer::text(&text)));
        }
    }

    fn is_known(&self, name: &str, scope: &Scope) -> bool {
        // Near spellings count as known, so that a typing error is reported as one and not as a text without quotes.
        let is_parameter = self.parameters.iter().any(|parameter| parameter == name);
        is_parameter || scope.contains(name, self.fields) || scope.alike(name, self.fields).is_some()
    }

    pub(super) fn regex(&mut self, pattern: &Expr) {
        if let ExprKind::Text(text) = &pattern.kind {
            self.regex_text(text, pattern.span);
        }
    }

    fn regex_text(&mut self, regex: &str, span: Span) {
        self.diagnostics.extend(literal::regex_problem(regex).map(|problem| Diagnostic::error(span, problem)));
    }

    /// Checks an element of `in (…)`: a network means the addresses inside it.
    fn element(&mut self, value: &Expr, element: &Expr) {
        let ExprKind::Text(text) = &element.kind else { return };
        match literal::network(text) {
            None => {}
            Some(Ok(network)) => {
                let message = format!(
                    "'{text}' is taken as a network: all addresses from {} to {} match",
                    network.network(),
                    network.broadcast()
                );
                let suggestion = format!("net_ipsubnet({}, {})", printer::expression(value), printer::text(text));
                self.diagnostics.push(Diagnostic::warning(element.span, message).suggest(suggestion));
            }
            Some(Err(problem)) => {
                self.diagnostics.push(Diagnostic::error(element.span, problem).suggest("'10.0.0.0/8'"));
            }
        }
    }

    fn subquery_column(&mut self, value: &Expr, inner: &Scope, span: Span) {
        // By the same rule as in a search: the column of the same name, else the only one.
        let named = match &value.kind {
            ExprKind::Field(name) => inner.contains(name, self.fields).then_some(()),
            _ => None,
        };
        if named.or(inner.single().map(|_| ())).is_none() {
            let name = match &value.kind {
                ExprKind::Field(name) => printer::name(name),
                _ => "field".to_owned(),
            };
            let message = format!("the subquery has to have the column {name}, or one column only");
            self.diagnostics.push(Diagnostic::error(span, message).suggest(format!("… | columns {name}")));
        }
    }

    /// Warns about `x = 'a' or 'b'`, which does not mean that x is one of both.
    fn texts_after_or(&mut self, expr: &Expr) {
        // Only neighbours are compared: the misunderstanding is to leave the field out after `or`.
        let operands = walk::operands(BinaryOp::Or, expr);
        for pair in operands.windows(2) {
            let (value, message) = match (compared(pair[0]), &pair[1].kind) {
                (Some((value, ExprKind::Text(_))), ExprKind::Anywhere(text)) => {
                    (value, format!("'{text}' alone is searched for in all fields: for one of several values use in"))
                }
                (Some((value, ExprKind::Number(_))), ExprKind::Number(number)) if *number != 0.0 => {
                    (value, format!("{number} alone is always true: for one of several values use in"))
                }
                _ => continue,
            };
            let last = match &pair[1].kind {
                ExprKind::Anywhere(text) => printer::text(text),
                _ => printer::expression(pair[1]),
            };
            let suggestion = format!("{} in (…, {last})", printer::expression(value));
            self.diagnostics.push(Diagnostic::warning(pair[1].span, message).suggest(suggestion));
        }
    }

    /// Warns about an operand of arithmetic that is no number: often a span of time.
    fn counted(&mut self, op: BinaryOp, left: &Expr, right: &Expr, scope: &Scope) {
        // `+` joins texts.
        if op == BinaryOp::Add {
            return;
        }
        for side in [left, right] {
            let ExprKind::Text(text) = &side.kind else { continue };
            // `now() - '1h'` is a moment.
            let is_moved =
                op == BinaryOp::Subtract && moment::may_be_moment(left, scope) && duration::span(text).is_some();
            if literal::is_number(text) || is_moved {
                continue;
            }
            let message = format!("{} is not a number, so this is null in every row", printer::text(text));
            // A span of time is subtracted from a moment, not the other way around.
            let instead = (duration::span(text).is_some() && moment::may_be_moment(right, scope))
                .then(|| format!("{} - {}", printer::expression(right), printer::text(text)));
            self.diagnostics.push(Diagnostic::warning(side.span, message).suggest_any(instead));
        }
    }

    /// Warns about a column in quotes, which is a text.
    fn quoted(&mut self, side: &Expr, scope: &Scope) {
        if let ExprKind::Text(text) = &side.kind
            && scope.knows(text, self.fields)
        {
            let message = format!("{} is a text here: the column is written without quotes", printer::text(text));
            self.diagnostics.push(Diagnostic::warning(side.span, message).suggest(printer::name(text)));
        }
    }
}

/// Whether a field of the schema is a moment, so that it is compared with times.
fn is_moment(name: &str) -> bool {
    field::by_name(name).is_some_and(|field| field.r#type.is_moment())
}

/// Whether a field of the schema has numbers.
fn is_number(name: &str) -> bool {
    field::by_name(name).is_some_and(|field| field.r#type.is_number())
}

fn is_equality(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::Equal | BinaryOp::EqualAnyCase | BinaryOp::NotEqual)
}

/// Whether an expression can only be true or false.
fn is_condition(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Binary { op, .. } => op.is_comparison() || matches!(op, BinaryOp::And | BinaryOp::Or),
        ExprKind::Bool(_) | ExprKind::Not(_) | ExprKind::Present(_) | ExprKind::Match { .. } => true,
        _ => false,
    }
}

/// Returns both sides of an equality.
fn compared(expr: &Expr) -> Option<(&Expr, &ExprKind)> {
    match &expr.kind {
        ExprKind::Binary { op: BinaryOp::Equal, left, right } => Some((left, &right.kind)),
        _ => None,
    }
}

//! Compiles the expressions of a filter to conditions and values, by the rules of a search.

mod operand;
mod compare;
mod member;
mod call;

use netconn_model::field;
use operand::Operand;

use super::{
    call::{Call, Spelled},
    condition::{Anywhere, Condition, Pattern},
    node::{Arithmetic, Node},
};
use crate::{
    ast::{BinaryOp, Case, Command, CommandKind, Expr, ExprKind, MatchOp, MatchSubject, Query, Span},
    diagnostic::Diagnostic,
    duration,
    function::{MOMENT, SPAN},
    printer,
    text_pattern::Matcher,
    value::{Unit, Value, ValueKind},
    walk,
};

/// Compiles the filter of a query, and reports what a single event cannot answer.
pub(super) fn filter(query: &Query, others: &[(&str, ValueKind)], diagnostics: &mut Vec<Diagnostic>) -> Condition {
    let mut compiler = Compiler { others, parameters: Vec::new(), reduces: 0, diagnostics };
    // Filters behind each other are one condition: an event has to pass all of them.
    let mut conditions: Vec<Condition> = query.filter.iter().map(|filter| compiler.condition(filter)).collect();
    for command in &query.commands {
        match &command.kind {
            CommandKind::Filter(filter) => conditions.push(compiler.condition(filter)),
            _ => compiler.refuse_command(command),
        }
    }
    Condition::All(conditions)
}

struct Compiler<'a> {
    /// Fields of the events that the schema does not have.
    others: &'a [(&'a str, ValueKind)],
    /// Parameters of the enclosing lambdas, the outermost first.
    parameters: Vec<(String, ValueKind)>,
    /// Number of enclosing lambdas of `reduce`.
    reduces: usize,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Compiler<'_> {
    fn refuse(&mut self, span: Span, message: impl Into<String>, instead: Option<String>) {
        self.diagnostics.push(Diagnostic::error(span, message).suggest_any(instead));
    }

    fn refuse_command(&mut self, command: &Command) {
        let message = "this is a filter over one event, so no command can follow but filter: search the history for more \
                       (netconn search)";
        self.refuse(command.span, message, None);
    }

    /// Compiles a condition.
    fn condition(&mut self, expr: &Expr) -> Condition {
        match &expr.kind {
            ExprKind::Not(inner) => Condition::Not(Box::new(self.condition(inner))),
            // A chain becomes one flat list, because its tree may have thousands of leaves.
            ExprKind::Binary { op: op @ (BinaryOp::And | BinaryOp::Or), .. } => {
                let operands = walk::operands(*op, expr).into_iter().map(|operand| self.condition(operand)).collect();
                if *op == BinaryOp::And { Condition::All(operands) } else { Condition::Any(operands) }
            }
            ExprKind::Binary { op, left, right } if arithmetic(*op).is_none() => {
                compare::compare(*op, self.value(left), self.value(right))
            }
            ExprKind::Present(inner) => Condition::Present(self.value(inner).node),
            ExprKind::Match { op, case, subject, patterns } => match subject {
                MatchSubject::Value(value) => self.matches(*op, *case, value, patterns),
                MatchSubject::AnyField => {
                    let patterns = patterns.iter().filter_map(|pattern| self.pattern(*op, *case, pattern)).collect();
                    self.anywhere(patterns)
                }
            },
            ExprKind::In { case, value, set } => {
                let set = set.iter().map(|element| self.value(element)).collect();
                member::member(self.value(value), set, *case == Case::Insensitive)
            }
            ExprKind::InQuery { case: _, value, query } => {
                let message = "a filter over one event cannot ask for the values of a query: list them";
                let value = printer::expression(value);
                self.refuse(query.span, message, Some(format!("{value} in ('…', '…')")));
                Condition::Constant(false)
            }
            ExprKind::Anywhere(text) => {
                let pattern = self.fixed(MatchOp::Contains, true, text, expr.span);
                self.anywhere(pattern.into_iter().collect())
            }
            ExprKind::AnywhereRegex(regex) => {
                let pattern = self.fixed(MatchOp::Matches, true, regex, expr.span);
                self.anywhere(pattern.into_iter().collect())
            }
            // Each branch decides as its own kind, not as the common kind of both.
            ExprKind::Ternary { condition, then, otherwise } => {
                let parts = (self.condition(condition), self.condition(then), self.condition(otherwise));
                Condition::Choice(Box::new(parts))
            }
            _ => Condition::True(self.value(expr).node),
        }
    }

    /// Compiles a value.
    fn value(&mut self, expr: &Expr) -> Operand {
        match &expr.kind {
            ExprKind::Null => Operand::null(),
            ExprKind::Bool(value) => Operand::bool(*value),
            ExprKind::Number(number) => Operand::from_number(*number),
            ExprKind::Whole(number) => Operand::integer(*number),
            ExprKind::Text(text) => Operand::text(text),
            ExprKind::Field(name) => self.field(name),
            ExprKind::Negative(inner) => self.negative(inner),
            // As a value, `or` gives the first operand that is true, in the kind that holds all of them.
            ExprKind::Binary { op: BinaryOp::Or, .. } => {
                let operands: Vec<Operand> =
                    walk::operands(BinaryOp::Or, expr).into_iter().map(|operand| self.value(operand)).collect();
                let kind =
                    operands.iter().map(|operand| operand.kind).reduce(ValueKind::with).unwrap_or(ValueKind::Null);
                // A truth value of `or` is never missing.
                if operands.iter().all(|operand| operand.kind == ValueKind::Bool) {
                    let any = operands.into_iter().map(|operand| Condition::True(operand.node)).collect();
                    return Operand::new(Node::Truth(Box::new(Condition::Any(any))), ValueKind::Bool);
                }
                let operands = operands.into_iter().map(|operand| operand.to(kind)).collect();
                Operand::new(Node::FirstTrue(operands, kind), kind)
            }
            ExprKind::Ternary { condition, then, otherwise } => {
                let condition = self.condition(condition);
                let (then, otherwise) = (self.value(then), self.value(otherwise));
                let kind = then.kind.with(otherwise.kind);
                let unit = then.unit.with(otherwise.unit);
                Operand::new(Node::Choice(Box::new((condition, then.to(kind), otherwise.to(kind))), kind), kind)
                    .in_unit(unit)
            }
            ExprKind::Binary { op, left, right } => match arithmetic(*op) {
                Some(work) => self.arithmetic(work, left, right),
                None => self.truth(expr),
            },
            // `where` belongs to aggregates, which the checker refuses here.
            ExprKind::Call { name, name_span, arguments, condition: _, by: _ } => {
                self.call(name, *name_span, arguments)
            }
            // The checker reports a lambda that is not an argument.
            ExprKind::Lambda { .. } => Operand::null(),
            _ => self.truth(expr),
        }
    }

    fn truth(&mut self, expr: &Expr) -> Operand {
        Operand::new(Node::Truth(Box::new(self.condition(expr))), ValueKind::Bool)
    }

    fn field(&mut self, name: &str) -> Operand {
        // Numbered from the innermost lambda outwards, as `Row::elements` is linked.
        let parameters = self.parameters.iter().rev().enumerate();
        if let Some((place, (_, kind))) = parameters.into_iter().find(|(_, (parameter, _))| parameter == name) {
            return Operand::new(Node::Parameter(place), *kind);
        }
        // Parameters before fields: a lambda may use the name of a field.
        if let Some(info) = field::by_name(name) {
            let kind = ValueKind::from(info.r#type);
            return Operand::new(Node::Field(info.field, kind), kind).in_unit(Unit::of_field(name));
        }
        // A field that no event has is a missing text.
        let kind = self.others.iter().find(|(other, _)| *other == name).map_or(ValueKind::Text, |(_, kind)| *kind);
        Operand::new(Node::Other(name.into(), kind), kind)
    }

    fn negative(&mut self, inner: &Expr) -> Operand {
        if let ExprKind::Number(number) = inner.kind {
            // `0.0 - 0.0` is 0; a minus sign would make -0, which differs from 0 where floats are compared by their
            // bits.
            return Operand::from_number(0.0 - number);
        }
        let inner = self.value(inner);
        let kind = if inner.is_whole() { ValueKind::Integer } else { ValueKind::Number };
        let unit = if let Unit::Span(_) = inner.unit { inner.unit } else { Unit::None };
        Operand::new(Node::Negative(Box::new(inner.node)), kind).in_unit(unit)
    }

    fn arithmetic(&mut self, work: Arithmetic, left: &Expr, right: &Expr) -> Operand {
        let (left, right) = (self.value(left), self.value(right));
        if matches!(work, Arithmetic::Add | Arithmetic::Subtract) {
            if let Some(moment) = moved(work, &left, &right) {
                return moment;
            }
            // Two moments of different units are both counted in nanoseconds.
            if work == Arithmetic::Subtract && left.is_moment() && right.is_moment() {
                let unit = Unit::of_difference(left.unit, right.unit);
                let sides = if left.is_milliseconds() && right.is_milliseconds() {
                    (left.node, right.node)
                } else {
                    (moment(left.node), moment(right.node))
                };
                return Operand::new(Node::Arithmetic(work, Box::new(sides)), ValueKind::Integer).in_unit(unit);
            }
            if let (Unit::Span(one), Unit::Span(other)) = (left.unit, right.unit) {
                let (sides, unit) = if one == other {
                    let whole = left.is_whole() && right.is_whole();
                    let kind = if whole { ValueKind::Integer } else { ValueKind::Number };
                    let sides = Box::new((left.node, right.node));
                    return Operand::new(Node::Arithmetic(work, sides), kind).in_unit(Unit::Span(one));
                } else {
                    ((nanoseconds(left, one), nanoseconds(right, other)), Unit::Span(1))
                };
                return Operand::new(Node::Arithmetic(work, Box::new(sides)), ValueKind::Integer).in_unit(unit);
            }
        }
        // `timestamp` counts nanoseconds, although it is shown as a text.
        let counts =
            (left.is_timestamp() && right.kind.is_numeric()) || (left.kind.is_numeric() && right.is_timestamp());
        let is_text = left.kind == ValueKind::Text || right.kind == ValueKind::Text;
        let whole = left.is_whole() && right.is_whole();
        // The kinds have been read above, so the nodes can be moved.
        let sides = Box::new((left.node, right.node));
        if work == Arithmetic::Add && !counts && is_text {
            return Operand::new(Node::Joined(sides), ValueKind::Text);
        }
        let kind = match work {
            // Products of whole numbers may be too large for one: numbers are 64-bit floats.
            Arithmetic::Add | Arithmetic::Subtract | Arithmetic::Remainder if whole => ValueKind::Integer,
            _ => ValueKind::Number,
        };
        Operand::new(Node::Arithmetic(work, sides), kind)
    }

    fn matches(&mut self, op: MatchOp, case: Case, subject: &Expr, patterns: &[Expr]) -> Condition {
        let subject = self.value(subject);
        // An array contains an element; all other operators look at its text.
        if op == MatchOp::Contains && matches!(subject.kind, ValueKind::List(_)) {
            let elements = patterns.iter().map(|pattern| self.value(pattern).node).collect();
            return Condition::Has(Box::new((subject.node, elements)));
        }
        let patterns = patterns.iter().filter_map(|pattern| self.pattern(op, case, pattern)).collect();
        Condition::Match(Box::new((subject.node, patterns)))
    }

    /// Compiles a pattern; `None` if no text can match it.
    fn pattern(&mut self, op: MatchOp, case: Case, pattern: &Expr) -> Option<Pattern> {
        let insensitive = case == Case::Insensitive;
        let value = self.value(pattern);
        match value.literal() {
            Some(Value::Text(text)) => self.fixed(op, insensitive, text, pattern.span),
            Some(Value::Null) => None,
            // A number in a list of patterns is taken as its text in the query.
            Some(Value::Integer(_) | Value::Number(_)) => match pattern.kind {
                ExprKind::Number(number) => self.fixed(op, insensitive, &number.to_string(), pattern.span),
                ExprKind::Whole(number) => self.fixed(op, insensitive, &number.to_string(), pattern.span),
                _ => None,
            },
            _ => Some(Pattern::Computed { op, insensitive, pattern: value.node }),
        }
    }

    fn fixed(&mut self, op: MatchOp, insensitive: bool, text: &str, span: Span) -> Option<Pattern> {
        let matcher = Matcher::new(op, insensitive, text);
        // The checker has reported other errors of regular expressions.
        // No second error for the same place.
        if matcher.is_none() && !self.diagnostics.iter().any(|diagnostic| diagnostic.span == span) {
            self.refuse(span, "this pattern is too long", None);
        }
        matcher.map(Pattern::Fixed)
    }

    fn anywhere(&mut self, patterns: Vec<Pattern>) -> Condition {
        // Fields that the schema does not have are asked for by name, so they are listed; those of the schema are in a
        // table.
        let others = self.others.iter().map(|(name, kind)| Node::Other((*name).into(), *kind)).collect();
        Condition::MatchAnywhere(Box::new(Anywhere { patterns, others }))
    }
}

/// Returns a moment moved by a span of time: one in quotes, like `event.time - '1h'`, or a difference of moments; `None` for other
/// operands.
fn moved(work: Arithmetic, left: &Operand, right: &Operand) -> Option<Operand> {
    let span = |operand: &Operand| match operand.unit {
        Unit::Span(unit) => Some(nanoseconds(operand.clone(), unit)),
        _ => operand.literal_text().and_then(duration::span).map(|nanos| Operand::integer(nanos).node),
    };
    let (time, nanos) = match (span(left), span(right)) {
        (None, Some(nanos)) if left.is_moment() => (left, nanos),
        (Some(nanos), None) if right.is_moment() && work == Arithmetic::Add => (right, nanos),
        _ => return None,
    };
    let sides = Box::new((moment(time.node.clone()), nanos));
    Some(Operand::new(moment(Node::Arithmetic(work, sides)), ValueKind::Time))
}

/// Converts a span of time in units of so many nanoseconds to nanoseconds.
fn nanoseconds(span: Operand, unit: i64) -> Node {
    if unit == 1 && span.kind == ValueKind::Integer {
        return span.node;
    }
    let arguments = vec![span.node, Operand::integer(unit).node];
    let call = Call { function: SPAN, arguments, kind: ValueKind::Integer, spelled: Spelled::default() };
    Node::Call(Box::new(call))
}

/// Converts a value to the moment that it stands for.
fn moment(node: Node) -> Node {
    let call = Call { function: MOMENT, arguments: vec![node], kind: ValueKind::Time, spelled: Spelled::default() };
    Node::Call(Box::new(call))
}

/// Returns the arithmetic operation of an operator, if it is one.
fn arithmetic(op: BinaryOp) -> Option<Arithmetic> {
    match op {
        BinaryOp::Add => Some(Arithmetic::Add),
        BinaryOp::Subtract => Some(Arithmetic::Subtract),
        BinaryOp::Multiply => Some(Arithmetic::Multiply),
        BinaryOp::Divide => Some(Arithmetic::Divide),
        BinaryOp::Remainder => Some(Arithmetic::Remainder),
        _ => None,
    }
}

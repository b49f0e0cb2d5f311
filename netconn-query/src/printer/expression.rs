//! Writes expressions, with parentheses where the precedence of operators needs them.

use super::word;
use crate::{
    ast::{BinaryOp, Case, Expr, ExprKind, MatchOp, MatchSubject},
    keyword,
};

/// Precedence of an expression: one of a lower level needs parentheses inside one of a higher level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ternary,
    Or,
    And,
    Not,
    Comparison,
    Sum,
    Product,
    Unary,
    Value,
}

/// Whether an expression needs no parentheses behind a sign.
pub(super) fn is_value(expr: &Expr) -> bool {
    level(expr) == Level::Value
}

/// Returns an expression in one line.
pub fn expression(expr: &Expr) -> String {
    let mut out = String::new();
    write(&mut out, expr, Level::Ternary);
    out
}

fn level(expr: &Expr) -> Level {
    match &expr.kind {
        ExprKind::Ternary { .. } | ExprKind::Lambda { .. } => Level::Ternary,
        ExprKind::Not(_) => Level::Not,
        ExprKind::Present(_) | ExprKind::Match { .. } | ExprKind::In { .. } | ExprKind::InQuery { .. } => {
            Level::Comparison
        }
        ExprKind::Binary { op, .. } => operator(*op).1,
        ExprKind::Negative(_) => Level::Unary,
        // Its minus sign is read as an operator.
        ExprKind::Number(number) if number.is_sign_negative() => Level::Unary,
        ExprKind::Whole(number) if number.is_negative() => Level::Unary,
        ExprKind::Null
        | ExprKind::Bool(_)
        | ExprKind::Number(_)
        | ExprKind::Whole(_)
        | ExprKind::Text(_)
        | ExprKind::Field(_)
        | ExprKind::Anywhere(_)
        | ExprKind::AnywhereRegex(_)
        | ExprKind::Call { .. } => Level::Value,
    }
}

fn operator(op: BinaryOp) -> (&'static str, Level) {
    match op {
        BinaryOp::Or => ("or", Level::Or),
        BinaryOp::And => ("and", Level::And),
        BinaryOp::Equal => ("=", Level::Comparison),
        BinaryOp::EqualAnyCase => ("=:anycase", Level::Comparison),
        BinaryOp::NotEqual => ("!=", Level::Comparison),
        BinaryOp::Less => ("<", Level::Comparison),
        BinaryOp::LessOrEqual => ("<=", Level::Comparison),
        BinaryOp::Greater => (">", Level::Comparison),
        BinaryOp::GreaterOrEqual => (">=", Level::Comparison),
        BinaryOp::Add => ("+", Level::Sum),
        BinaryOp::Subtract => ("-", Level::Sum),
        BinaryOp::Multiply => ("*", Level::Product),
        BinaryOp::Divide => ("/", Level::Product),
        BinaryOp::Remainder => ("%", Level::Product),
    }
}

/// Level that a left operand needs. A comparison inside a comparison gets parentheses, because it is hard to read
/// without.
fn left_of(level: Level) -> Level {
    if level == Level::Comparison { Level::Sum } else { level }
}

/// Level that a right operand needs. Grouping means nothing for `and` and `or`, but does for all others.
fn right_of(level: Level) -> Level {
    match level {
        Level::Comparison => Level::Sum,
        Level::Sum => Level::Product,
        Level::Product => Level::Unary,
        other => other,
    }
}

fn write(out: &mut String, expr: &Expr, least: Level) {
    // Parentheses only where the parser would otherwise build another tree.
    let own = level(expr);
    if own < least {
        out.push('(');
        bare(out, expr);
        out.push(')');
    } else {
        bare(out, expr);
    }
}

fn bare(out: &mut String, expr: &Expr) {
    match &expr.kind {
        ExprKind::Null => out.push_str("null"),
        ExprKind::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        ExprKind::Number(number) => out.push_str(&number_text(*number)),
        ExprKind::Whole(number) => out.push_str(&number.to_string()),
        ExprKind::Text(text) | ExprKind::Anywhere(text) => out.push_str(&word::text(text)),
        ExprKind::AnywhereRegex(regex) => out.push_str(&word::regex(regex)),
        ExprKind::Field(name) => out.push_str(&word::name(name)),
        ExprKind::Not(inner) => {
            out.push_str("not ");
            // Parentheses show readers what the `not` applies to.
            write(out, inner, Level::Unary);
        }
        ExprKind::Negative(inner) => {
            out.push('-');
            write(out, inner, Level::Unary);
        }
        ExprKind::Binary { op, left, right } => {
            let (sign, own) = operator(*op);
            write(out, left, left_of(own));
            out.push_str(&format!(" {sign} "));
            write(out, right, right_of(own));
        }
        ExprKind::Present(inner) => {
            write(out, inner, Level::Sum);
            out.push_str(" = *");
        }
        ExprKind::Match { op, case, subject, patterns } => matching(out, *op, *case, subject, patterns),
        ExprKind::In { case, value, set } => {
            write(out, value, Level::Sum);
            out.push_str(in_operator(*case));
            out.push('(');
            list(out, set);
            out.push(')');
        }
        ExprKind::InQuery { case, value, query } => {
            write(out, value, Level::Sum);
            out.push_str(in_operator(*case));
            out.push('(');
            out.push_str(&super::line(query));
            out.push(')');
        }
        ExprKind::Ternary { condition, then, otherwise } => {
            // A ternary as a condition needs parentheses; as a branch it does not.
            write(out, condition, Level::Or);
            out.push_str(" ? ");
            write(out, then, Level::Ternary);
            out.push_str(" : ");
            write(out, otherwise, Level::Ternary);
        }
        ExprKind::Call { name, name_span: _, arguments, condition, by } => {
            call(out, name, arguments, condition.as_deref(), by);
        }
        ExprKind::Lambda { parameters, body } => {
            let parameters: Vec<String> = parameters.iter().map(|parameter| word::name(&parameter.text)).collect();
            out.push_str(&format!("func({}) -> ", parameters.join(", ")));
            write(out, body, Level::Ternary);
        }
    }
}

/// Writes a number so that it is read as the same one: all digits of a whole number, which a shorter form would round.
#[expect(clippy::cast_possible_truncation, reason = "it is whole and below the limit of 128 bits")]
fn number_text(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e19 { (number as i128).to_string() } else { number.to_string() }
}

fn in_operator(case: Case) -> &'static str {
    match case {
        Case::Sensitive => " in ",
        Case::Insensitive => " in:anycase ",
    }
}

fn matching(out: &mut String, op: MatchOp, case: Case, subject: &MatchSubject, patterns: &[Expr]) {
    match subject {
        MatchSubject::Value(value) => write(out, value, Level::Sum),
        MatchSubject::AnyField => out.push('*'),
    }
    let operator = match op {
        MatchOp::Contains => "contains",
        MatchOp::Matches => "matches",
        MatchOp::StartsWith => "starts_with",
        MatchOp::EndsWith => "ends_with",
        MatchOp::Like => "like",
    };
    // Ignoring case is the default of these operators.
    let case = if case == Case::Sensitive { ":matchcase" } else { "" };
    out.push_str(&format!(" {operator}{case} "));
    let mut written = String::new();
    list(&mut written, patterns);
    let is_value = patterns.len() == 1 && patterns.iter().all(|single| level(single) == Level::Value);
    // A pattern that begins with `(` would be read as a list.
    if is_value && !written.starts_with('(') {
        out.push_str(&written);
    } else {
        out.push_str(&format!("({written})"));
    }
}

fn list(out: &mut String, values: &[Expr]) {
    for (place, value) in values.iter().enumerate() {
        out.push_str(if place == 0 { "" } else { ", " });
        write(out, value, Level::Ternary);
    }
}

fn call(out: &mut String, name: &str, arguments: &[Expr], condition: Option<&Expr>, by: &[Expr]) {
    let mut arguments = arguments;
    // Where a value can begin, `contains(` is an operator; `x.contains(` is a function.
    if let (true, [first, rest @ ..]) = (keyword::is_keyword(name), arguments) {
        // `null.contains` would be a field.
        let is_word = matches!(first.kind, ExprKind::Null | ExprKind::Bool(_));
        if is_word {
            out.push('(');
        }
        write(out, first, Level::Value);
        out.push_str(if is_word { ")." } else { "." });
        arguments = rest;
    }
    out.push_str(&plain_name(name));
    out.push('(');
    list(out, arguments);
    if let Some(condition) = condition {
        out.push_str(if arguments.is_empty() { "where " } else { " where " });
        write(out, condition, Level::Ternary);
    }
    if !by.is_empty() {
        out.push_str(if arguments.is_empty() && condition.is_none() { "by " } else { " by " });
        list(out, by);
    }
    out.push(')');
}

/// Writes the name of a function. It may be that of a command or of an old field, because the parenthesis follows.
fn plain_name(name: &str) -> String {
    let written = word::name(name);
    match written.strip_prefix('\\') {
        Some(rest) if rest == name && name.starts_with(|first: char| first.is_alphabetic() || first == '_') => {
            name.to_owned()
        }
        _ => written,
    }
}

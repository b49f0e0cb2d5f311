//! Expressions of the plan with their kind, and their conversions to texts, numbers and truth values.

use datafusion::{
    logical_expr::{
        BinaryExpr, Case, Expr, Operator,
        expr::{Cast, InList, Like},
        lit,
    },
    scalar::ScalarValue,
};
use netconn_query::{
    function::{AS_NUMBER, AS_TEXT, MOMENT, RowFunction, SPAN},
    value::{Unit, ValueKind},
};

use crate::engine::function::{call::call, column::data_type};

/// 2^53: floats represent all whole numbers up to this one.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// An expression that gives a value for each row.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) expr: Expr,
    pub(crate) kind: ValueKind,
    pub(crate) unit: Unit,
}

/// Returns a call of a function that needs no database.
pub(crate) fn function(function: RowFunction, arguments: Vec<Expr>) -> Expr {
    call(function, None, arguments)
}

/// Returns a text literal.
pub(crate) fn text(value: &str) -> Expr {
    lit(ScalarValue::Utf8View(Some(value.to_owned())))
}

/// Returns an operator applied to two expressions.
pub(crate) fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// Returns `LIKE`; a backslash stands before characters that are meant literally.
pub(crate) fn like(value: Expr, pattern: &str) -> Expr {
    Expr::Like(Like::new(false, Box::new(value), Box::new(text(pattern)), None, false))
}

/// Returns `IN` over literals.
pub(crate) fn in_list(value: Expr, list: Vec<Expr>) -> Expr {
    Expr::InList(InList::new(Box::new(value), list, false))
}

/// Returns `CASE WHEN condition THEN then ELSE otherwise END`.
pub(crate) fn case(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    cases([(condition, then)], otherwise)
}

/// Returns a `CASE` with several conditions; the first that holds decides.
pub(crate) fn cases(cases: impl IntoIterator<Item = (Expr, Expr)>, otherwise: Expr) -> Expr {
    let cases: Vec<_> = cases.into_iter().map(|(condition, then)| (Box::new(condition), Box::new(then))).collect();
    if cases.is_empty() { otherwise } else { Expr::Case(Case::new(None, cases, Some(Box::new(otherwise)))) }
}

/// Joins expressions by an operator, as a tree of the least height, because plans are walked recursively.
pub(crate) fn joined(mut expressions: Vec<Expr>, op: Operator, none: bool) -> Expr {
    match expressions.len() {
        0 => lit(none),
        1 => expressions.swap_remove(0),
        count => {
            let right = expressions.split_off(count / 2);
            binary(joined(expressions, op, none), op, joined(right, op, none))
        }
    }
}

impl Operand {
    /// Creates an operand of this kind.
    pub(crate) fn new(expr: Expr, kind: ValueKind) -> Self {
        Self { expr, kind, unit: Unit::None }
    }

    /// Sets what its values stand for.
    pub(crate) fn in_unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    /// Returns the nanoseconds of a span of time in units of so many.
    pub(crate) fn nanoseconds(self, unit: i64) -> Expr {
        match (self.kind, unit) {
            (ValueKind::Integer, 1) => self.expr,
            _ => function(SPAN, vec![self.expr, lit(unit)]),
        }
    }

    /// Creates an operand that is always missing.
    pub(crate) fn null() -> Self {
        Self::new(lit(ScalarValue::Null), ValueKind::Null)
    }

    /// Creates a number literal; a whole number if it is one.
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the limits")]
    pub(crate) fn from_number(value: f64) -> Self {
        if value.fract() == 0.0 && value.abs() <= EXACT {
            Self::new(lit(value as i64), ValueKind::Integer)
        } else {
            Self::new(lit(value), ValueKind::Number)
        }
    }

    /// Creates a literal whole number.
    pub(crate) fn integer(value: i64) -> Self {
        Self::new(lit(value), ValueKind::Integer)
    }

    /// Creates a text literal.
    pub(crate) fn from_text(value: &str) -> Self {
        Self::new(text(value), ValueKind::Text)
    }

    /// Returns the text of a literal.
    pub(crate) fn literal_text(&self) -> Option<&str> {
        match &self.expr {
            Expr::Literal(ScalarValue::Utf8View(Some(text)), _) => Some(text),
            _ => None,
        }
    }

    /// Whether the operand is a literal.
    pub(crate) fn is_literal(&self) -> bool {
        matches!(self.expr, Expr::Literal(..))
    }

    /// Converts the value to another kind; missing where that is impossible.
    pub(crate) fn to(self, kind: ValueKind) -> Expr {
        match kind {
            same if same == self.kind => self.expr,
            ValueKind::Text => self.text(),
            ValueKind::Number => self.number(),
            ValueKind::Bool => self.truth(),
            ValueKind::Time => function(MOMENT, vec![self.expr]),
            // Nothing is of that kind but a missing value.
            ValueKind::Null => self.expr,
            // Arrow's cast gives a missing value where it does not fit.
            ValueKind::Integer | ValueKind::List(_) => cast(self.expr, kind),
        }
    }

    /// Converts to a text.
    pub(crate) fn text(self) -> Expr {
        match self.kind {
            ValueKind::Text => self.expr,
            ValueKind::Null => lit(ScalarValue::Utf8View(None)),
            // Arrow's kernel writes whole numbers as the language does; floats and moments it writes in another form.
            ValueKind::Integer => cast(self.expr, ValueKind::Text),
            _ => function(AS_TEXT, vec![self.expr]),
        }
    }

    /// Converts to a float; missing if it is none.
    pub(crate) fn number(self) -> Expr {
        match self.kind {
            ValueKind::Number => self.expr,
            ValueKind::Null => lit(ScalarValue::Float64(None)),
            ValueKind::Integer => cast(self.expr, ValueKind::Number),
            _ => function(AS_NUMBER, vec![self.expr]),
        }
    }

    /// Converts to a number for arithmetic: whole numbers stay whole, all else becomes a float.
    pub(crate) fn numeric(self) -> Self {
        match self.kind {
            ValueKind::Integer | ValueKind::Number => Self { unit: Unit::None, ..self },
            ValueKind::Bool | ValueKind::Time => Self::new(cast(self.expr, ValueKind::Integer), ValueKind::Integer),
            ValueKind::Null | ValueKind::Text | ValueKind::List(_) => Self::new(self.number(), ValueKind::Number),
        }
    }

    /// Converts to a truth value: true unless it is missing, 0, false, empty or NaN. It may be missing itself, which
    /// counts as false.
    pub(crate) fn truth(self) -> Expr {
        match self.kind {
            ValueKind::Bool => self.expr,
            ValueKind::Null => lit(false),
            ValueKind::Integer => binary(self.expr, Operator::NotEq, lit(0_i64)),
            // Floats are compared by their total order, in which every NaN is below -inf or above inf, depending on its sign:
            // x86 makes NaN with a minus sign, other processors without.
            ValueKind::Number => {
                let compare = |operator, limit: f64| binary(self.expr.clone(), operator, lit(limit));
                let is_number = binary(
                    compare(Operator::GtEq, f64::NEG_INFINITY),
                    Operator::And,
                    compare(Operator::LtEq, f64::INFINITY),
                );
                binary(compare(Operator::NotEq, 0.0), Operator::And, is_number)
            }
            ValueKind::Text => binary(self.expr, Operator::NotEq, text("")),
            ValueKind::Time | ValueKind::List(_) => Expr::IsNotNull(Box::new(self.expr)),
        }
    }
}

/// Returns a cast by Arrow's rules.
pub(crate) fn cast(expr: Expr, kind: ValueKind) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), data_type(kind)))
}

/// Converts values to the kind that holds all of them.
pub(crate) fn unify(operands: Vec<Operand>) -> (Vec<Expr>, ValueKind) {
    let kind = operands.iter().map(|operand| operand.kind).reduce(ValueKind::with).unwrap_or(ValueKind::Null);
    (operands.into_iter().map(|operand| operand.to(kind)).collect(), kind)
}

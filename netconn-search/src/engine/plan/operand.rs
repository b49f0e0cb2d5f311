//! An expression of the plan with its kind, and what it is as a text, a number, a truth value.

use datafusion::{
    logical_expr::{
        BinaryExpr, Case, Expr, Operator,
        expr::{Cast, InList, Like},
        lit,
    },
    scalar::ScalarValue,
};

use crate::engine::function::{
    call::call,
    table::{self, RowFunction},
    value::Kind,
};

/// Largest whole number up to which a float tells all whole numbers apart.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A value of a row, before it is known.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) expr: Expr,
    pub(crate) kind: Kind,
}

/// A call of a function of the table that needs no database.
pub(crate) fn function(function: RowFunction, arguments: Vec<Expr>) -> Expr {
    call(function, None, arguments)
}

/// A text literal.
pub(crate) fn text(value: &str) -> Expr {
    lit(ScalarValue::Utf8View(Some(value.to_owned())))
}

/// Two expressions and an operator.
pub(crate) fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// `LIKE`, with a backslash before characters that stand for themselves.
pub(crate) fn like(value: Expr, pattern: &str) -> Expr {
    Expr::Like(Like::new(false, Box::new(value), Box::new(text(pattern)), None, false))
}

/// `IN` over literals.
pub(crate) fn in_list(value: Expr, list: Vec<Expr>) -> Expr {
    Expr::InList(InList::new(Box::new(value), list, false))
}

/// `CASE WHEN condition THEN then ELSE otherwise END`.
pub(crate) fn case(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    cases([(condition, then)], otherwise)
}

/// The same with several conditions: the first that holds.
pub(crate) fn cases(cases: impl IntoIterator<Item = (Expr, Expr)>, otherwise: Expr) -> Expr {
    let cases: Vec<_> = cases.into_iter().map(|(condition, then)| (Box::new(condition), Box::new(then))).collect();
    if cases.is_empty() { otherwise } else { Expr::Case(Case::new(None, cases, Some(Box::new(otherwise)))) }
}

/// All joined by an operator, as a tree that is as flat as can be: plans are walked recursively.
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
    /// An expression of that kind.
    pub(crate) fn new(expr: Expr, kind: Kind) -> Self {
        Self { expr, kind }
    }

    /// Always missing.
    pub(crate) fn null() -> Self {
        Self::new(lit(ScalarValue::Null), Kind::Null)
    }

    /// A number: a whole one if it is one.
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the limits")]
    pub(crate) fn from_number(value: f64) -> Self {
        if value.fract() == 0.0 && value.abs() <= EXACT {
            Self::new(lit(value as i64), Kind::Integer)
        } else {
            Self::new(lit(value), Kind::Number)
        }
    }

    /// A whole number.
    pub(crate) fn integer(value: i64) -> Self {
        Self::new(lit(value), Kind::Integer)
    }

    /// A text.
    pub(crate) fn from_text(value: &str) -> Self {
        Self::new(text(value), Kind::Text)
    }

    /// The text, if it is a literal.
    pub(crate) fn literal_text(&self) -> Option<&str> {
        match &self.expr {
            Expr::Literal(ScalarValue::Utf8View(Some(text)), _) => Some(text),
            _ => None,
        }
    }

    /// Whether it is a literal.
    pub(crate) fn is_literal(&self) -> bool {
        matches!(self.expr, Expr::Literal(..))
    }

    /// The same value as another kind; missing where it has none.
    pub(crate) fn to(self, kind: Kind) -> Expr {
        match kind {
            same if same == self.kind => self.expr,
            Kind::Text => self.text(),
            Kind::Number => self.number(),
            Kind::Bool => self.truth(),
            Kind::Time => function(table::MOMENT, vec![self.expr]),
            Kind::Null => self.expr,
            Kind::Integer | Kind::List(_) => cast(self.expr, kind),
        }
    }

    /// As a text.
    pub(crate) fn text(self) -> Expr {
        match self.kind {
            Kind::Text => self.expr,
            Kind::Null => lit(ScalarValue::Utf8View(None)),
            Kind::Integer => cast(self.expr, Kind::Text),
            _ => function(table::AS_TEXT, vec![self.expr]),
        }
    }

    /// As a float; missing if it is none.
    pub(crate) fn number(self) -> Expr {
        match self.kind {
            Kind::Number => self.expr,
            Kind::Null => lit(ScalarValue::Float64(None)),
            Kind::Integer => cast(self.expr, Kind::Number),
            _ => function(table::AS_NUMBER, vec![self.expr]),
        }
    }

    /// A whole number where it is one, else a float: what is counted with.
    pub(crate) fn numeric(self) -> Self {
        match self.kind {
            Kind::Integer | Kind::Number => self,
            Kind::Bool | Kind::Time => Self::new(cast(self.expr, Kind::Integer), Kind::Integer),
            Kind::Null | Kind::Text | Kind::List(_) => Self::new(self.number(), Kind::Number),
        }
    }

    /// Whether it counts as true: not missing, 0, false, empty or NaN. May be missing itself, for false.
    pub(crate) fn truth(self) -> Expr {
        match self.kind {
            Kind::Bool => self.expr,
            Kind::Null => lit(false),
            Kind::Integer => binary(self.expr, Operator::NotEq, lit(0_i64)),
            Kind::Number => {
                let number = binary(self.expr.clone(), Operator::NotEq, lit(f64::NAN));
                binary(binary(self.expr, Operator::NotEq, lit(0.0)), Operator::And, number)
            }
            Kind::Text => binary(self.expr, Operator::NotEq, text("")),
            Kind::Time | Kind::List(_) => Expr::IsNotNull(Box::new(self.expr)),
        }
    }
}

/// A cast by Arrow's rules.
pub(crate) fn cast(expr: Expr, kind: Kind) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), kind.data_type()))
}

/// Brings values to the kind that holds all of them.
pub(crate) fn unify(operands: Vec<Operand>) -> (Vec<Expr>, Kind) {
    let kind = operands.iter().map(|operand| operand.kind).reduce(Kind::with).unwrap_or(Kind::Null);
    (operands.into_iter().map(|operand| operand.to(kind)).collect(), kind)
}

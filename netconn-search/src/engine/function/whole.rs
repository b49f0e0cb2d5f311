//! Sums of whole numbers. A sum beyond the largest whole number ends the query instead of giving a wrong number.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Datum},
        compute::{CastOptions, cast, cast_with_options, kernels::numeric},
        datatypes::{DataType, Decimal128Type, Int64Type},
        error::ArrowError,
    },
    error::{DataFusionError, Result},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};
use netconn_query::value::ValueKind;

use super::column::{data_type, normal};

/// Type in which whole numbers are summed: 19 digits, and ten more for the number of summands.
pub(crate) const SUM: DataType = DataType::Decimal128(19, 0);

/// The operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Work {
    Add,
    Subtract,
    Summand,
    Total,
}

/// An operation as a function of DataFusion; its results are whole numbers.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Whole {
    work: Work,
    signature: Signature,
}

impl Work {
    fn call(self, arguments: Vec<Expr>) -> Expr {
        let signature = Signature::any(arguments.len(), Volatility::Immutable);
        ScalarUDF::from(Whole { work: self, signature }).call(arguments)
    }
}

/// `left + right`
pub(crate) fn add(left: Expr, right: Expr) -> Expr {
    Work::Add.call(vec![left, right])
}

/// `left - right`
pub(crate) fn subtract(left: Expr, right: Expr) -> Expr {
    Work::Subtract.call(vec![left, right])
}

/// Converts a whole number to the type [`SUM`]. A cast would check for each number whether it fits: 23 of 500 ms of
/// processor time in a sum of five million.
pub(crate) fn summand(number: Expr) -> Expr {
    Work::Summand.call(vec![number])
}

/// Converts a sum of the type [`SUM`] to a whole number.
pub(crate) fn total(sum: Expr) -> Expr {
    Work::Total.call(vec![sum])
}

impl ScalarUDFImpl for Whole {
    fn name(&self) -> &str {
        match self.work {
            Work::Add => "_add",
            Work::Subtract => "_subtract",
            Work::Summand => "_summand",
            Work::Total => "_total",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.work {
            Work::Summand => SUM,
            Work::Add | Work::Subtract | Work::Total => data_type(ValueKind::Integer),
        })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let argument = |place: usize| arguments.args[place].to_array(arguments.number_rows);
        let both = |work: fn(&dyn Datum, &dyn Datum) -> std::result::Result<ArrayRef, ArrowError>| {
            let (left, right) = (normal(&argument(0)?)?, normal(&argument(1)?)?);
            // Arrow's kernels check for overflow; a plain `+` of DataFusion would wrap.
            work(&left.as_ref(), &right.as_ref()).map_err(beyond)
        };
        let result = match self.work {
            Work::Add => both(numeric::add)?,
            Work::Subtract => both(numeric::sub)?,
            Work::Summand => {
                // Columns of other programs' files may be narrower; for `Int64` this copies nothing.
                let numbers = cast(&argument(0)?, &DataType::Int64)?;
                let wide = numbers.as_primitive::<Int64Type>().unary::<_, Decimal128Type>(i128::from);
                Arc::new(wide.with_data_type(SUM))
            }
            Work::Total => {
                // A safe cast would turn a sum that does not fit into a missing value.
                let options = CastOptions { safe: false, ..CastOptions::default() };
                cast_with_options(&argument(0)?, &DataType::Int64, &options).map_err(beyond)?
            }
        };
        Ok(ColumnarValue::Array(Arc::clone(&result)))
    }
}

fn beyond(_: ArrowError) -> DataFusionError {
    let message = "a sum is beyond the largest whole number (2^63): multiply by 1.0 first, to count with 64-bit floats";
    DataFusionError::Execution(message.to_owned())
}

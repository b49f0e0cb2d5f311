//! Whole numbers added up: what is beyond the largest of them ends the query, instead of a number that is wrong.

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

use super::value::{Kind, normal};

/// What sums of whole numbers are counted in: 19 digits each, and ten more for how many there are.
pub(crate) const SUM: DataType = DataType::Decimal128(19, 0);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Work {
    Add,
    Subtract,
    Summand,
    Total,
}

/// A function that gives whole numbers.
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

/// A whole number as the type [`SUM`]. A cast would look at each whether it fits: 23 of 500 ms of processor time, of a sum of
/// five million.
pub(crate) fn summand(number: Expr) -> Expr {
    Work::Summand.call(vec![number])
}

/// A sum of values of the type [`SUM`] as a whole number.
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
            Work::Add | Work::Subtract | Work::Total => Kind::Integer.data_type(),
        })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let argument = |place: usize| arguments.args[place].to_array(arguments.number_rows);
        let both = |work: fn(&dyn Datum, &dyn Datum) -> std::result::Result<ArrayRef, ArrowError>| {
            let (left, right) = (normal(&argument(0)?)?, normal(&argument(1)?)?);
            work(&left.as_ref(), &right.as_ref()).map_err(beyond)
        };
        let result = match self.work {
            Work::Add => both(numeric::add)?,
            Work::Subtract => both(numeric::sub)?,
            Work::Summand => {
                let numbers = cast(&argument(0)?, &DataType::Int64)?;
                let wide = numbers.as_primitive::<Int64Type>().unary::<_, Decimal128Type>(i128::from);
                Arc::new(wide.with_data_type(SUM))
            }
            Work::Total => {
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

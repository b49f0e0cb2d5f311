//! `timebucket` over a whole column at once, because most charts are made of it.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{Array, AsArray, TimestampNanosecondArray},
        datatypes::{DataType, Int64Type, TimestampNanosecondType},
    },
    error::Result,
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};
use netconn_query::{
    function::time::bucket,
    value::{Value, ValueKind, nanoseconds, scaled},
};

use super::column::{Column, data_type, kind_of, normal, value_at};

/// Returns the beginning of the bucket that a moment is in.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bucket {
    width: i64,
    signature: Signature,
}

/// Returns a call of `timebucket` with buckets of this many nanoseconds.
pub(crate) fn timebucket(time: Expr, width: i64) -> Expr {
    ScalarUDF::from(Bucket { width, signature: Signature::any(1, Volatility::Immutable) }).call(vec![time])
}

impl ScalarUDFImpl for Bucket {
    fn name(&self) -> &str {
        "timebucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(data_type(ValueKind::Time))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let width = self.width;
        let times = normal(&arguments.args[0].to_array(arguments.number_rows)?)?;
        // The two kinds that `event.time` and moments have are computed without a `Value` for each row.
        let buckets: Option<TimestampNanosecondArray> = match kind_of(times.data_type()) {
            ValueKind::Integer => {
                let numbers = times.as_primitive::<Int64Type>();
                Some(numbers.unary_opt(|number| scaled(number).and_then(|nanos| bucket(nanos, width))))
            }
            ValueKind::Time => {
                Some(times.as_primitive::<TimestampNanosecondType>().unary_opt(|nanos| bucket(nanos, width)))
            }
            _ => None,
        };
        // The zone is part of Arrow's type, and `return_type` promises UTC.
        if let Some(buckets) = buckets {
            return Ok(ColumnarValue::Array(Arc::new(buckets.with_timezone("UTC"))));
        }
        // Texts and other kinds are read value by value, by the same rules as in `netconn-query`.
        let mut buckets = Column::new(ValueKind::Time);
        for row in 0..times.len() {
            let nanos = nanoseconds(&value_at(&times, row));
            buckets.push(nanos.and_then(|nanos| bucket(nanos, width)).map_or(Value::Null, Value::Time));
        }
        Ok(ColumnarValue::Array(buckets.finish()))
    }
}

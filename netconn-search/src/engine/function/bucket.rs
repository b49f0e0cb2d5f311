//! `timebucket` over a whole column at once, because most charts are made of it.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{Array, AsArray, TimestampNanosecondArray},
        datatypes::{DataType, Int64Type, TimestampNanosecondType},
    },
    error::Result,
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};
use jiff::tz::TimeZone;
use netconn_query::{
    function::time::{bucket, bucket_in},
    value::{Value, ValueKind, nanoseconds, scaled},
};

use super::column::{Column, data_type, kind_of, normal, value_at};

/// Returns the beginning of the bucket that a moment is in.
#[derive(Debug)]
struct Bucket {
    width: i64,
    /// The zone of the clocks; `None`: UTC.
    zone: Option<TimeZone>,
    signature: Signature,
}

impl Bucket {
    fn of(&self, nanos: i64) -> Option<i64> {
        match &self.zone {
            Some(zone) => bucket_in(nanos, self.width, zone),
            None => bucket(nanos, self.width),
        }
    }
}

impl PartialEq for Bucket {
    fn eq(&self, other: &Self) -> bool {
        (self.width, &self.zone) == (other.width, &other.zone)
    }
}

impl Eq for Bucket {}

impl Hash for Bucket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.width.hash(state);
        // A zone has no hash, but most have a name.
        self.zone.as_ref().and_then(TimeZone::iana_name).hash(state);
    }
}

/// Returns a call of `timebucket` with buckets of this many nanoseconds, by the clocks of a zone.
pub(crate) fn timebucket(time: Expr, width: i64, zone: Option<TimeZone>) -> Expr {
    ScalarUDF::from(Bucket { width, zone, signature: Signature::any(1, Volatility::Immutable) }).call(vec![time])
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
        let times = normal(&arguments.args[0].to_array(arguments.number_rows)?)?;
        // The two kinds that `event.time` and moments have are computed without a `Value` for each row.
        let buckets: Option<TimestampNanosecondArray> = match kind_of(times.data_type()) {
            ValueKind::Integer => {
                let numbers = times.as_primitive::<Int64Type>();
                Some(numbers.unary_opt(|number| scaled(number).and_then(|nanos| self.of(nanos))))
            }
            ValueKind::Time => Some(times.as_primitive::<TimestampNanosecondType>().unary_opt(|nanos| self.of(nanos))),
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
            buckets.push(nanos.and_then(|nanos| self.of(nanos)).map_or(Value::Null, Value::Time));
        }
        Ok(ColumnarValue::Array(buckets.finish()))
    }
}

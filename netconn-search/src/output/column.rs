//! Columns of an answer: their kinds, and their values as text, number or moment.

use datafusion::arrow::{
    array::{Array, AsArray as _, RecordBatch},
    datatypes::{DataType, Float64Type, Int64Type, Schema, TimeUnit, UInt64Type},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use jiff::Timestamp;

use crate::output::moments::MomentColumns;

/// The kind of the values of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// A number with a fraction.
    Number,
    /// A boolean.
    Boolean,
    /// A list of values.
    List,
    /// A moment: an Arrow timestamp, epoch milliseconds or nanoseconds, or a text in the form of RFC 3339.
    Moment,
}

/// One column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerColumn {
    /// Name, as in the query.
    pub name: String,
    /// Kind of the values.
    pub kind: ColumnKind,
    /// Name of the type in JSON answers.
    pub r#type: &'static str,
}

/// Returns the columns of an answer with this schema.
pub fn answer_columns(schema: &Schema, moments: &MomentColumns) -> Vec<AnswerColumn> {
    let column = |field: &datafusion::arrow::datatypes::FieldRef| {
        let kind = kind(field.data_type());
        // A list or a boolean with the name of a moment cannot be shown as one.
        let is_moment = moments.contains(field.name())
            && matches!(kind, ColumnKind::Text | ColumnKind::Integer | ColumnKind::Number);
        let shown = if is_moment { ColumnKind::Moment } else { kind };
        AnswerColumn { name: field.name().clone(), kind: shown, r#type: kind.name() }
    };
    schema.fields().iter().map(column).collect()
}

fn kind(r#type: &DataType) -> ColumnKind {
    match r#type {
        DataType::Timestamp(..) => ColumnKind::Moment,
        DataType::Boolean => ColumnKind::Boolean,
        DataType::Dictionary(_, value) => kind(value),
        r#type if r#type.is_integer() => ColumnKind::Integer,
        r#type if r#type.is_numeric() => ColumnKind::Number,
        r#type if r#type.is_nested() => ColumnKind::List,
        _ => ColumnKind::Text,
    }
}

impl ColumnKind {
    /// Returns the name of the type in JSON answers.
    fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::List => "array",
            Self::Moment => "time",
        }
    }

    /// Returns whether the values are aligned to the right.
    pub fn is_right_aligned(self) -> bool {
        matches!(self, Self::Integer | Self::Number)
    }
}

/// Returns a value as text; `None` for null.
///
/// # Errors
///
/// The column has a type that Arrow cannot write as text.
pub fn cell_text(batch: &RecordBatch, column: usize, row: usize) -> Result<Option<String>, ArrowError> {
    let array = batch.column(column);
    // Arrays of the type `Null` have no validity mask: `is_null` is false for them.
    if array.is_null(row) || array.data_type().is_null() {
        return Ok(None);
    }
    if let DataType::Float64 = array.data_type() {
        return Ok(Some(plain_number(array.as_primitive::<Float64Type>().value(row))));
    }
    let options = FormatOptions::new();
    Ok(Some(ArrayFormatter::try_new(array, &options)?.value(row).try_to_string()?))
}

/// Returns a value as a number; `None` for null and for values that are not a number.
pub fn cell_number(batch: &RecordBatch, column: usize, row: usize) -> Option<f64> {
    let array = batch.column(column);
    if array.is_null(row) {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "for bars and times in milliseconds")]
    match array.data_type() {
        DataType::Float64 => Some(array.as_primitive::<Float64Type>().value(row)),
        DataType::Int64 => Some(array.as_primitive::<Int64Type>().value(row) as f64),
        DataType::UInt64 => Some(array.as_primitive::<UInt64Type>().value(row) as f64),
        // Other widths and decimals are rare in answers: their text is parsed instead of handling each type.
        r#type if r#type.is_numeric() => cell_text(batch, column, row).ok()??.parse().ok(),
        _ => None,
    }
}

/// Returns the moment that a value stands for; `None` for null and for values that are not a moment.
pub fn cell_moment(batch: &RecordBatch, column: usize, row: usize) -> Option<Timestamp> {
    let array = batch.column(column);
    if array.is_null(row) {
        return None;
    }
    let value = match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).try_into().ok()?,
        DataType::Timestamp(unit, _) => {
            // Casts one value: all four units store their number as `Int64`.
            let value = datafusion::arrow::compute::cast(&array.slice(row, 1), &DataType::Int64).ok()?;
            let value = value.as_primitive::<Int64Type>().value(0);
            return match unit {
                TimeUnit::Second => Timestamp::from_second(value).ok(),
                TimeUnit::Millisecond => Timestamp::from_millisecond(value).ok(),
                TimeUnit::Microsecond => Timestamp::from_microsecond(value).ok(),
                TimeUnit::Nanosecond => Timestamp::from_nanosecond(value.into()).ok(),
            };
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            return cell_text(batch, column, row).ok()??.parse().ok();
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a number that is too large is out of range for a moment as well"
        )]
        _ => cell_number(batch, column, row)? as i64,
    };
    // The language has two units: nanoseconds (`timestamp`) and milliseconds (`event.time`). Below this limit
    // nanoseconds would mean January 1970, above it milliseconds would mean the year 33658 or later.
    const NANOSECONDS_FROM: u64 = 1_000_000_000_000_000;
    if value.unsigned_abs() < NANOSECONDS_FROM {
        Timestamp::from_millisecond(value).ok()
    } else {
        Timestamp::from_nanosecond(value.into()).ok()
    }
}

/// Formats a number: whole numbers without a fraction, others with all their digits.
fn plain_number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    // Rust prints the shortest text that reads back as the same number, never with an exponent.
    let text = value.to_string();
    if text == "-0" { "0".into() } else { text }
}

/// Formats a number for people: three digits after the point, or three significant digits below 1.
pub fn short_number(value: f64) -> String {
    let short = if value.abs() >= 1.0 || value == 0.0 {
        format!("{value:.3}")
    } else {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 324")]
        let digits = (2.0 - value.abs().log10().floor()).clamp(0.0, 324.0) as usize;
        format!("{value:.digits$}")
    };
    if short.contains('.') { short.trim_end_matches('0').trim_end_matches('.').to_owned() } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_write_them() {
        for (value, plain, short) in [
            (2.0, "2", "2"),
            (-0.0, "0", "-0"),
            (0.1 + 0.2, "0.30000000000000004", "0.3"),
            (1234.56789, "1234.56789", "1234.568"),
            (0.000_123_456, "0.000123456", "0.000123"),
            (1e21, "1000000000000000000000", "1000000000000000000000"),
            (f64::NAN, "NaN", "NaN"),
        ] {
            assert_eq!((plain_number(value).as_str(), short_number(value).as_str()), (plain, short));
        }
    }
}

//! Values of single cells, which functions that work row by row take and return.

use std::{borrow::Cow, fmt::Write as _, sync::Arc};

use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, ListArray, NullArray,
            builder::{BooleanBuilder, Float64Builder, Int64Builder, StringViewBuilder, TimestampNanosecondBuilder},
        },
        buffer::{NullBuffer, OffsetBuffer},
        compute::cast,
        datatypes::{DataType, Field, Float64Type, Int64Type, TimeUnit, TimestampNanosecondType},
    },
    error::Result,
};
use jiff::Timestamp;
use netconn_query::duration;

/// Kinds of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Always missing.
    Null,
    /// `true` and `false`.
    Bool,
    /// Whole numbers.
    Integer,
    /// Numbers.
    Number,
    /// Texts.
    Text,
    /// Moments, in nanoseconds.
    Time,
    /// Arrays of values of this kind, which is no array.
    List(&'static Kind),
}

impl Kind {
    /// Returns the kind of a column of this type.
    pub(crate) fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Bool,
            integer if integer.is_integer() => Self::Integer,
            number if number.is_numeric() => Self::Number,
            DataType::Timestamp(..) => Self::Time,
            DataType::List(field) | DataType::LargeList(field) => Self::list(Self::of(field.data_type())),
            _ => Self::Text,
        }
    }

    /// Returns the kind of arrays with elements of this kind; arrays in arrays become texts.
    pub(crate) fn list(element: Self) -> Self {
        Self::List(match element {
            Self::Bool => &Self::Bool,
            Self::Integer => &Self::Integer,
            Self::Number => &Self::Number,
            Self::Time => &Self::Time,
            Self::Null | Self::Text | Self::List(_) => &Self::Text,
        })
    }

    /// Returns Arrow's type of this kind.
    pub(crate) fn data_type(self) -> DataType {
        match self {
            Self::Null => DataType::Null,
            Self::Bool => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Text => DataType::Utf8View,
            Self::Time => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            Self::List(element) => DataType::List(Arc::new(Field::new_list_field(element.data_type(), true))),
        }
    }

    /// Returns the kind that holds the values of both.
    pub(crate) fn with(self, other: Self) -> Self {
        match (self, other) {
            (left, right) if left == right => left,
            (Self::Null, kind) | (kind, Self::Null) => kind,
            (Self::Integer, Self::Number) | (Self::Number, Self::Integer) => Self::Number,
            (Self::List(left), Self::List(right)) => Self::list(left.with(*right)),
            _ => Self::Text,
        }
    }

    /// Whether the values are numbers.
    pub(crate) fn is_numeric(self) -> bool {
        matches!(self, Self::Integer | Self::Number)
    }
}

/// The value of a cell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(Cow<'a, str>),
    /// Nanoseconds since 1970.
    Time(i64),
    List(Vec<Value<'a>>),
}

impl<'a> Value<'a> {
    /// Makes a text that a function has built.
    pub(crate) fn owned(text: impl Into<String>) -> Self {
        Self::Text(Cow::Owned(text.into()))
    }

    /// Returns the value as a text; `None` if it is missing.
    pub(crate) fn text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Self::Integer(value) => Cow::Owned(value.to_string()),
            Self::Number(value) => Cow::Owned(number_text(*value)),
            Self::Text(text) => Cow::Borrowed(text),
            Self::Time(nanos) => Cow::Owned(time_text(*nanos)),
            Self::List(values) => Cow::Owned(list_text(values)),
        })
    }

    /// Returns the value as a number; `None` if it is none.
    #[expect(clippy::cast_precision_loss, reason = "numbers of the language are 64-bit floats")]
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Integer(value) | Self::Time(value) => Some(*value as f64),
            Self::Number(value) => Some(*value),
            Self::Text(text) => parse_number(text),
            Self::Null | Self::List(_) => None,
        }
    }

    /// Returns the value as a whole number, rounded towards zero; `None` if it is none.
    #[expect(clippy::cast_possible_truncation, reason = "the conversion saturates")]
    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) | Self::Time(value) => Some(*value),
            other => other.number().filter(|number| !number.is_nan()).map(|number| number as i64),
        }
    }

    /// Whether the value counts as true: it is not missing, 0, false, empty or NaN.
    pub(crate) fn truth(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => *value,
            Self::Integer(value) => *value != 0,
            Self::Number(value) => *value != 0.0 && !value.is_nan(),
            Self::Text(text) => !text.is_empty(),
            Self::Time(_) | Self::List(_) => true,
        }
    }

    /// Returns the value of a column in a row.
    pub(crate) fn at(column: &'a ArrayRef, row: usize) -> Self {
        if column.is_null(row) {
            return Self::Null;
        }
        match column.data_type() {
            DataType::Boolean => Self::Bool(column.as_boolean().value(row)),
            DataType::Int64 => Self::Integer(column.as_primitive::<Int64Type>().value(row)),
            DataType::Float64 => Self::Number(column.as_primitive::<Float64Type>().value(row)),
            DataType::Utf8View => Self::Text(Cow::Borrowed(column.as_string_view().value(row))),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                Self::Time(column.as_primitive::<TimestampNanosecondType>().value(row))
            }
            DataType::List(_) => {
                let values = column.as_list::<i32>().value(row);
                let list = (0..values.len()).map(|place| Value::at(&values, place).into_owned()).collect();
                Self::List(list)
            }
            _ => Self::Null,
        }
    }

    /// Copies what the value borrows.
    pub(crate) fn into_owned<'b>(self) -> Value<'b> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Integer(value) => Value::Integer(value),
            Self::Number(value) => Value::Number(value),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Time(value) => Value::Time(value),
            Self::List(values) => Value::List(values.into_iter().map(Value::into_owned).collect()),
        }
    }
}

/// Converts a column to the type of its kind, so that [`Value::at`] can read it.
pub(crate) fn normal(column: &ArrayRef) -> Result<ArrayRef> {
    let wanted = Kind::of(column.data_type()).data_type();
    if *column.data_type() == wanted || wanted == DataType::Null {
        return Ok(Arc::clone(column));
    }
    Ok(cast(column, &wanted)?)
}

/// Writes a number, whole ones without a point.
pub(crate) fn number_text(value: f64) -> String {
    value.to_string()
}

/// Writes a moment as RFC 3339 in UTC.
pub(crate) fn time_text(nanos: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanos)).map(|time| time.to_string()).unwrap_or_default()
}

/// Reads a number in decimal notation, or a moment in RFC 3339 as its nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "numbers of the language are 64-bit floats")]
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim();
    // `parse` takes `inf`, `infinity` and `nan` too, which are words here.
    if text.bytes().any(|byte| byte.is_ascii_digit())
        && let Ok(number) = text.parse()
    {
        return Some(number);
    }
    parse_time(text).map(|nanos| nanos as f64)
}

/// Reads a moment in RFC 3339 as nanoseconds.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    if text.len() < 20 || text.as_bytes().get(4) != Some(&b'-') {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

/// Reads a moment with or without a zone; without one it is UTC. Used for values that are compared with a moment.
pub(crate) fn parse_moment(text: &str) -> Option<i64> {
    duration::moment(text).map(|(nanos, _)| nanos)
}

fn list_text(values: &[Value<'_>]) -> String {
    let mut text = String::from("[");
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            text.push_str(", ");
        }
        match value {
            Value::Text(item) => {
                let _ = write!(text, "{}", serde_json::Value::String(item.to_string()));
            }
            value => text.push_str(value.text().as_deref().unwrap_or("null")),
        }
    }
    text.push(']');
    text
}

/// Builds a column of a kind from values. Values of another kind are converted, or missing if they cannot be.
pub(crate) enum Column {
    Null(usize),
    Bool(BooleanBuilder),
    Integer(Int64Builder),
    Number(Float64Builder),
    Text(StringViewBuilder),
    Time(TimestampNanosecondBuilder),
    /// Kind of the elements, the elements of all rows, and the length of each row's array.
    List(Box<(Kind, Column, Vec<Option<usize>>)>),
}

impl Column {
    /// Creates an empty column.
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Null => Self::Null(0),
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Integer => Self::Integer(Int64Builder::new()),
            Kind::Number => Self::Number(Float64Builder::new()),
            Kind::Text => Self::Text(StringViewBuilder::new()),
            Kind::Time => Self::Time(TimestampNanosecondBuilder::new().with_timezone("UTC")),
            Kind::List(element) => Self::List(Box::new((*element, Self::new(*element), Vec::new()))),
        }
    }

    /// Appends a value.
    pub(crate) fn push(&mut self, value: Value<'_>) {
        match self {
            Self::Null(rows) => *rows += 1,
            Self::Bool(builder) => builder.append_option(match value {
                Value::Null => None,
                Value::Text(text) => text.parse().ok(),
                value => Some(value.truth()),
            }),
            Self::Integer(builder) => builder.append_option(value.integer()),
            // Adding 0 turns -0 into 0.
            Self::Number(builder) => builder.append_option(value.number().map(|number| number + 0.0)),
            Self::Text(builder) => builder.append_option(value.text()),
            Self::Time(builder) => builder.append_option(value.integer()),
            Self::List(list) => {
                let (_, items, lengths) = &mut **list;
                let values = match value {
                    Value::List(values) => Some(values),
                    Value::Null => None,
                    single => Some(vec![single]),
                };
                lengths.push(values.as_ref().map(Vec::len));
                for value in values.into_iter().flatten() {
                    items.push(value);
                }
            }
        }
    }

    /// Returns the finished column.
    pub(crate) fn finish(self) -> ArrayRef {
        match self {
            Self::Null(rows) => Arc::new(NullArray::new(rows)),
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::Integer(mut builder) => Arc::new(builder.finish()),
            Self::Number(mut builder) => Arc::new(builder.finish()),
            Self::Text(mut builder) => Arc::new(builder.finish()),
            Self::Time(mut builder) => Arc::new(builder.finish()),
            Self::List(list) => {
                let (kind, items, lengths) = *list;
                let items = items.finish();
                let offsets = OffsetBuffer::from_lengths(lengths.iter().map(|length| length.unwrap_or(0)));
                let there = NullBuffer::from_iter(lengths.iter().map(Option::is_some));
                let field = Arc::new(Field::new_list_field(kind.data_type(), true));
                Arc::new(ListArray::new(field, offsets, items, Some(there)))
            }
        }
    }
}

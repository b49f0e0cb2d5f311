//! Columns of Arrow as values of the language, and back.

use std::{borrow::Cow, sync::Arc};

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
use netconn_query::value::{Value, ValueKind};

/// Returns the kind of a column of this type.
pub(crate) fn kind_of(data_type: &DataType) -> ValueKind {
    match data_type {
        DataType::Null => ValueKind::Null,
        DataType::Boolean => ValueKind::Bool,
        // Files of other programs have all widths. The order of the two guards matters: integers are numeric as well.
        integer if integer.is_integer() => ValueKind::Integer,
        number if number.is_numeric() => ValueKind::Number,
        DataType::Timestamp(..) => ValueKind::Time,
        DataType::List(field) | DataType::LargeList(field) => ValueKind::list(kind_of(field.data_type())),
        // Dictionaries, other string types and whatever else files contain are cast to texts.
        _ => ValueKind::Text,
    }
}

/// Returns Arrow's type of this kind.
pub(crate) fn data_type(kind: ValueKind) -> DataType {
    match kind {
        ValueKind::Null => DataType::Null,
        ValueKind::Bool => DataType::Boolean,
        ValueKind::Integer => DataType::Int64,
        ValueKind::Number => DataType::Float64,
        // Views share the buffers of the file's pages, so a filter copies no texts.
        ValueKind::Text => DataType::Utf8View,
        ValueKind::Time => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        ValueKind::List(element) => DataType::List(Arc::new(Field::new_list_field(data_type(*element), true))),
    }
}

/// Returns the value of a column in a row.
pub(crate) fn value_at(column: &ArrayRef, row: usize) -> Value<'_> {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int64 => Value::Integer(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Number(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8View => Value::Text(Cow::Borrowed(column.as_string_view().value(row))),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Value::Time(column.as_primitive::<TimestampNanosecondType>().value(row))
        }
        DataType::List(_) => {
            let values = column.as_list::<i32>().value(row);
            // The array of this row lives only here, so its texts cannot be borrowed.
            let list = (0..values.len()).map(|place| value_at(&values, place).into_owned()).collect();
            Value::List(list)
        }
        // `normal` has left only the types above, and `Null`.
        _ => Value::Null,
    }
}

/// Converts a column to the type of its kind, so that [`value_at`] can read it.
pub(crate) fn normal(column: &ArrayRef) -> Result<ArrayRef> {
    let wanted = data_type(kind_of(column.data_type()));
    // Nothing can be cast to `Null`, and a column of that kind is never read.
    if *column.data_type() == wanted || wanted == DataType::Null {
        return Ok(Arc::clone(column));
    }
    Ok(cast(column, &wanted)?)
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
    List(Box<(ValueKind, Column, Vec<Option<usize>>)>),
}

impl Column {
    /// Creates an empty column.
    pub(crate) fn new(kind: ValueKind) -> Self {
        match kind {
            ValueKind::Null => Self::Null(0),
            ValueKind::Bool => Self::Bool(BooleanBuilder::new()),
            ValueKind::Integer => Self::Integer(Int64Builder::new()),
            ValueKind::Number => Self::Number(Float64Builder::new()),
            ValueKind::Text => Self::Text(StringViewBuilder::new()),
            ValueKind::Time => Self::Time(TimestampNanosecondBuilder::new().with_timezone("UTC")),
            ValueKind::List(element) => Self::List(Box::new((*element, Self::new(*element), Vec::new()))),
        }
    }

    /// Appends a value.
    pub(crate) fn push(&mut self, value: Value<'_>) {
        match self {
            Self::Null(rows) => *rows += 1,
            // The same conversions as in `Value::kept_as`, so that the evaluator of single events gives the same
            // verdict.
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
                    // As in `Value::kept_as`: a single value becomes an array of one.
                    single => Some(vec![single]),
                };
                // A missing array and an empty one both have length 0 in Arrow, so `there` tells them apart.
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
                // Arrow wants a length for missing rows too, and a bitmap beside it.
                let there = NullBuffer::from_iter(lengths.iter().map(Option::is_some));
                let field = Arc::new(Field::new_list_field(data_type(kind), true));
                Arc::new(ListArray::new(field, offsets, items, Some(there)))
            }
        }
    }
}

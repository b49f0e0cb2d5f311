//! Single values of the language and their kinds, as functions over rows take and return them.

use std::{borrow::Cow, fmt::Write as _};

use jiff::Timestamp;
use netconn_model::field::{self, Type};

use crate::duration;

/// The kind of an expression, known before the first event, so that every event is treated alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueKind {
    /// Always missing.
    Null,
    /// `true` and `false`.
    Bool,
    /// Whole numbers of 64 bits with a sign.
    Integer,
    /// 64-bit floats.
    Number,
    /// Texts.
    Text,
    /// Moments, in nanoseconds since 1970.
    Time,
    /// Arrays of values of this kind, which is no array.
    List(&'static ValueKind),
}

impl From<Type> for ValueKind {
    fn from(field: Type) -> Self {
        match field {
            // No field of events is a list.
            Type::String | Type::Rfc3339 | Type::List => Self::Text,
            Type::Integer | Type::EpochMilliseconds => Self::Integer,
            Type::Number => Self::Number,
            Type::Boolean => Self::Bool,
        }
    }
}

impl ValueKind {
    /// Arrays of values of this kind; arrays in arrays are kept as texts.
    pub fn list(element: Self) -> Self {
        Self::List(match element {
            Self::Bool => &Self::Bool,
            Self::Integer => &Self::Integer,
            Self::Number => &Self::Number,
            Self::Time => &Self::Time,
            Self::Null | Self::Text | Self::List(_) => &Self::Text,
        })
    }

    /// The kind that holds the values of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        match (self, other) {
            // From here on the kinds differ.
            (left, right) if left == right => left,
            // A missing value fits every kind.
            (Self::Null, kind) | (kind, Self::Null) => kind,
            (Self::Integer, Self::Number) | (Self::Number, Self::Integer) => Self::Number,
            (Self::List(left), Self::List(right)) => Self::list(left.with(*right)),
            // Everything can be written as a text.
            _ => Self::Text,
        }
    }

    /// Whether the values are numbers.
    pub fn is_numeric(self) -> bool {
        matches!(self, Self::Integer | Self::Number)
    }
}

/// What the numbers or texts of an expression stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Themselves.
    #[default]
    None,
    /// Moments in milliseconds since 1970, as in `event.time`.
    Milliseconds,
    /// Moments as texts, as in `timestamp`.
    Timestamp,
    /// Spans of time in units of this many nanoseconds: differences of moments.
    Span(i64),
}

impl Unit {
    /// Returns the unit of a field with this name.
    pub fn of_field(name: &str) -> Self {
        match field::by_name(name).map(|field| field.r#type) {
            Some(Type::EpochMilliseconds) => Self::Milliseconds,
            // Its texts have nine digits and UTC, so their order is that of time.
            Some(Type::Rfc3339) => Self::Timestamp,
            _ => Self::None,
        }
    }

    /// Returns the unit of a difference of moments: of milliseconds if both are in milliseconds.
    pub fn of_difference(left: Self, right: Self) -> Self {
        let both = left == Self::Milliseconds && right == Self::Milliseconds;
        Self::Span(if both { 1_000_000 } else { 1 })
    }

    /// Returns the number of a span of time in quotes, counted in this unit; `None` if this is no unit of spans or the text no span.
    #[expect(clippy::cast_precision_loss, reason = "a fraction of a unit is a float")]
    pub fn count(self, span: &str) -> Option<f64> {
        let Self::Span(unit) = self else { return None };
        let nanos = duration::span(span)?;
        Some(if nanos % unit == 0 { (nanos / unit) as f64 } else { nanos as f64 / unit as f64 })
    }

    /// Returns the unit of values of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        if self == other { self } else { Self::None }
    }
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Missing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction, or one that is beyond the whole numbers.
    Number(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A moment, in nanoseconds since 1970.
    Time(i64),
    /// An array.
    List(Vec<Value<'a>>),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

/// A number beyond the whole numbers of the language is missing, as it is in the columns of a search.
impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or(Self::Null, Self::Integer)
    }
}

impl From<f64> for Value<'_> {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl<'a> Value<'a> {
    /// Creates a text that the value owns.
    pub fn owned(text: impl Into<String>) -> Self {
        Self::Text(Cow::Owned(text.into()))
    }

    /// Returns the value as a text; `None` if it is missing.
    pub fn text(&self) -> Option<Cow<'_, str>> {
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

    /// Converts the value into a text, without a copy where it is one.
    pub fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bool(value) => Some(Cow::Borrowed(if value { "true" } else { "false" })),
            other => other.text().map(|text| Cow::Owned(text.into_owned())),
        }
    }

    /// Returns the value as a number; `None` if it is none.
    #[expect(clippy::cast_precision_loss, reason = "numbers of the language are 64-bit floats")]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Integer(value) | Self::Time(value) => Some(*value as f64),
            Self::Number(value) => Some(*value),
            Self::Text(text) => parse_number(text),
            Self::Null | Self::List(_) => None,
        }
    }

    /// Returns the value as a whole number, towards zero; `None` if it is none.
    #[expect(clippy::cast_possible_truncation, reason = "the conversion saturates")]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) | Self::Time(value) => Some(*value),
            // NaN would become 0.
            other => other.number().filter(|number| !number.is_nan()).map(|number| number as i64),
        }
    }

    /// Whether it counts as true: not missing, 0, false, empty or NaN.
    pub fn truth(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => *value,
            Self::Integer(value) => *value != 0,
            Self::Number(value) => *value != 0.0 && !value.is_nan(),
            Self::Text(text) => !text.is_empty(),
            Self::Time(_) | Self::List(_) => true,
        }
    }

    /// Returns the value without borrowed parts.
    pub fn into_owned<'b>(self) -> Value<'b> {
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

    /// Returns the value with its texts borrowed from this one.
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Integer(value) => Value::Integer(*value),
            Self::Number(value) => Value::Number(*value),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Time(value) => Value::Time(*value),
            Self::List(values) => Value::List(values.iter().map(Value::borrowed).collect()),
        }
    }

    /// Returns the value as one of this kind, as a column of a search keeps what a function gives: missing where it is none.
    #[must_use]
    pub fn kept_as(self, kind: ValueKind) -> Self {
        match (kind, self) {
            (_, Self::Null) | (ValueKind::Null, _) => Self::Null,
            (ValueKind::Bool, Self::Text(text)) => text.parse().map_or(Self::Null, Self::Bool),
            (ValueKind::Bool, value) => Self::Bool(value.truth()),
            (ValueKind::Integer, value) => value.integer().map_or(Self::Null, Self::Integer),
            // Adding 0 turns -0 into 0.
            (ValueKind::Number, value) => value.number().map_or(Self::Null, |number| Self::Number(number + 0.0)),
            (ValueKind::Text, value) => value.into_text().map_or(Self::Null, Self::Text),
            (ValueKind::Time, value) => value.integer().map_or(Self::Null, Self::Time),
            (ValueKind::List(element), Self::List(values)) => {
                Self::List(values.into_iter().map(|value| value.kept_as(*element)).collect())
            }
            // A single value becomes an array of one.
            (ValueKind::List(element), value) => Self::List(vec![value.kept_as(*element)]),
        }
    }
}

/// Writes a number; whole numbers have no decimal point.
pub fn number_text(value: f64) -> String {
    value.to_string()
}

/// Writes a moment in RFC 3339, UTC.
pub fn time_text(nanos: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanos)).map(|time| time.to_string()).unwrap_or_default()
}

/// Reads a number in decimal notation, or a moment in RFC 3339 as its nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "numbers of the language are 64-bit floats")]
pub fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim();
    // `parse` takes `inf`, `infinity` and `nan` too, which are words here.
    if text.bytes().any(|byte| byte.is_ascii_digit())
        && let Ok(number) = text.parse()
    {
        return Some(number);
    }
    parse_time(text).map(|nanos| nanos as f64)
}

/// Returns the nanoseconds of a moment in RFC 3339.
pub fn parse_time(text: &str) -> Option<i64> {
    // Most texts are no moments and leave before the parser. The shortest with a zone has 20 characters.
    if text.len() < 20 || text.as_bytes().get(4) != Some(&b'-') {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

/// Reads a moment as [`parse_time`] does; one without a zone is taken as UTC. For values that are compared with a
/// moment.
pub fn parse_moment(text: &str) -> Option<i64> {
    duration::moment(text).map(|(nanos, _)| nanos)
}

/// Returns the nanoseconds of a value that stands for a moment. The size of a number gives its unit: seconds,
/// milliseconds, microseconds or nanoseconds since 1970 do not overlap for moments between 1973 and 5138.
pub fn nanoseconds(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Time(nanos) => Some(*nanos),
        // A number in a text counts by its size, like a number.
        Value::Text(text) => parse_time(text).or_else(|| scaled(text.trim().parse().ok()?)),
        value => scaled(value.integer()?),
    }
}

/// Converts a number that stands for a moment to nanoseconds.
pub fn scaled(number: i64) -> Option<i64> {
    let factor = match number.unsigned_abs() {
        0..100_000_000_000 => 1_000_000_000,
        100_000_000_000..100_000_000_000_000 => 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => 1_000,
        _ => 1,
    };
    // Seconds up to the year 5138 do not fit into 64 bits of nanoseconds; those beyond 2262 are missing.
    number.checked_mul(factor)
}

fn list_text(values: &[Value<'_>]) -> String {
    let mut text = String::from("[");
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            text.push_str(", ");
        }
        match value {
            Value::Text(item) => {
                // Writing to a `String` cannot fail.
                let _ = write!(text, "{}", serde_json::Value::String(item.to_string()));
            }
            value => text.push_str(value.text().as_deref().unwrap_or("null")),
        }
    }
    text.push(']');
    text
}

//! Kinds of values that events and rows hold: how each is written as JSON, read from it, and compared.

use std::{borrow::Cow, fmt, net::IpAddr};

use serde::de::{Deserialize as _, Deserializer, Error as _, Visitor};

use crate::{
    json::{MemberKey, Object, is_plain},
    moment::Moment,
};

/// Text, borrowed from the line that it was read from where that line has no escapes in it.
pub type Text<'a> = Cow<'a, str>;

/// A value as JSON knows it, for code that handles any field: CSV, filters, other formats.
#[derive(Clone, Debug, PartialEq)]
pub enum JsonValue<'a> {
    /// UTF-8 text.
    Text(Text<'a>),
    /// Whole number. Counters of the kernel beyond 63 bits become [`JsonValue::Number`].
    Integer(i64),
    /// Number with a fraction.
    Number(f64),
    /// `true` or `false`.
    Boolean(bool),
}

impl JsonValue<'_> {
    /// Returns a whole number, as a float if it has more than 63 bits.
    fn whole(number: i128) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "only numbers beyond 63 bits become floats")]
        i64::try_from(number).map_or_else(|_| Self::Number(number as f64), Self::Integer)
    }
}

/// Writes the value as CSV shows it: text as it is, numbers as in JSON.
impl fmt::Display for JsonValue<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(text),
            Self::Integer(number) => number.fmt(formatter),
            Self::Number(number) => number.fmt(formatter),
            Self::Boolean(value) => value.fmt(formatter),
        }
    }
}

/// Which values of its type a field can have: a comparison with any other constant is never true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// All of the type.
    All,
    /// Texts that are IP addresses.
    Addresses,
    /// These texts.
    Names(&'static [&'static str]),
    /// These texts, and whole numbers written as texts.
    NamesOrNumbers(&'static [&'static str]),
    /// Whole numbers from 0 to this one.
    UpTo(u64),
}

impl Domain {
    /// Returns the names, if there are any.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Names(names) | Self::NamesOrNumbers(names) => names,
            Self::All | Self::Addresses | Self::UpTo(_) => &[],
        }
    }
}

/// The type of a member of [`Event`](crate::event::Event) or [`Row`](crate::row::Row).
pub trait FieldValue<'a>: Sized {
    /// Which values there are.
    const DOMAIN: Domain = Domain::All;

    /// The same type without borrowed text.
    type Owned;

    /// Returns the value with text of its own.
    fn into_owned(self) -> Self::Owned;

    /// Writes the value as a member of a JSON object.
    fn write(&self, object: &mut Object<'_>, key: &MemberKey);

    /// Returns the value as JSON knows it.
    fn value(&self) -> JsonValue<'_>;

    /// Reads the value from JSON.
    ///
    /// # Errors
    ///
    /// When the JSON value has another type, or is none of the names that the type has.
    fn read<'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

impl<'a> FieldValue<'a> for Text<'a> {
    type Owned = Text<'static>;

    fn into_owned(self) -> Text<'static> {
        Cow::Owned(self.into_owned())
    }

    fn write(&self, object: &mut Object<'_>, key: &MemberKey) {
        object.string(key, self);
    }

    fn value(&self) -> JsonValue<'_> {
        JsonValue::Text(Cow::Borrowed(self))
    }

    fn read<'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Cow::Borrowed(text))
            }

            // serde_json calls this for texts with escapes, which it decodes into a buffer of its own.
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Borrowing)
    }
}

/// Text that JSON needs no escapes for: ids and names that netconn makes itself. It is written without a look at each character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainText<'a>(Text<'a>);

impl<'a> PlainText<'a> {
    /// Takes text of netconn's own making: letters, digits and the like.
    pub fn new(text: impl Into<Text<'a>>) -> Self {
        let text = text.into();
        // Only in tests: the look at each character is what this type saves.
        debug_assert!(is_plain(text.as_bytes()), "{text:?} needs escapes");
        Self(text)
    }
}

impl std::ops::Deref for PlainText<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'a> FieldValue<'a> for PlainText<'a> {
    type Owned = PlainText<'static>;

    fn into_owned(self) -> PlainText<'static> {
        PlainText(Cow::Owned(self.0.into_owned()))
    }

    fn write(&self, object: &mut Object<'_>, key: &MemberKey) {
        object.plain(key, self);
    }

    fn value(&self) -> JsonValue<'_> {
        JsonValue::Text(Cow::Borrowed(self))
    }

    fn read<'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::read(deserializer)?;
        // What is read may be somebody else's, and is written again without escapes.
        if is_plain(text.as_bytes()) {
            Ok(Self(text))
        } else {
            Err(D::Error::custom(format!("{text:?} is no id or name of netconn: it has special characters")))
        }
    }
}

impl<'a> FieldValue<'a> for IpAddr {
    const DOMAIN: Domain = Domain::Addresses;

    type Owned = Self;

    fn into_owned(self) -> Self {
        self
    }

    fn write(&self, object: &mut Object<'_>, key: &MemberKey) {
        object.address(key, *self);
    }

    fn value(&self) -> JsonValue<'_> {
        JsonValue::Text(Cow::Owned(self.to_string()))
    }

    fn read<'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Address;
        impl Visitor<'_> for Address {
            type Value = IpAddr;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an IP address")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<IpAddr, E> {
                text.parse().map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Address)
    }
}

macro_rules! integers {
    ($($type:ty, $domain:expr;)+) => {$(
        impl<'a> FieldValue<'a> for $type {
            const DOMAIN: Domain = $domain;

            type Owned = Self;

            fn into_owned(self) -> Self {
                self
            }

            fn write(&self, object: &mut Object<'_>, key: &MemberKey) {
                object.integer(key, *self);
            }

            fn value(&self) -> JsonValue<'_> {
                JsonValue::whole((*self).into())
            }

            fn read<'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::deserialize(deserializer)
            }
        }
    )+};
}

integers! {
    u8, Domain::UpTo(u8::MAX as u64);
    u16, Domain::UpTo(u16::MAX as u64);
    u32, Domain::UpTo(u32::MAX as u64);
    u64, Domain::UpTo(u64::MAX);
    i64, Domain::All;
}

impl<'a> FieldValue<'a> for bool {
    type Owned = Self;

    fn into_owned(self) -> Self {
        self
    }

    fn write(&self, object: &mut Object<'_>, key: &MemberKey) {
        object.boolean(key, *self);
    }

    fn value(&self) -> JsonValue<'_> {
        JsonValue::Boolean(*self)
    }

    fn read<'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
}

impl<'a> FieldValue<'a> for Moment {
    type Owned = Self;

    fn into_owned(self) -> Self {
        self
    }

    fn write(&self, object: &mut Object<'_>, key: &MemberKey) {
        object.moment(key, *self);
    }

    fn value(&self) -> JsonValue<'_> {
        JsonValue::Text(Cow::Owned(self.to_string()))
    }

    fn read<'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Time;
        impl Visitor<'_> for Time {
            type Value = Moment;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a time in RFC 3339")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Moment, E> {
                let time = text.parse::<jiff::Timestamp>().ok();
                // jiff knows years that 64 bits of nanoseconds do not reach.
                let nanoseconds = time.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
                nanoseconds.map(Moment).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Time)
    }
}

/// A length of time in nanoseconds, written in milliseconds to the microsecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Milliseconds {
    /// Nanoseconds; what is below a microsecond is cut when it is written.
    pub nanoseconds: u64,
}

impl<'a> FieldValue<'a> for Milliseconds {
    type Owned = Self;

    fn into_owned(self) -> Self {
        self
    }

    fn write(&self, object: &mut Object<'_>, key: &MemberKey) {
        object.milliseconds(key, self.nanoseconds);
    }

    fn value(&self) -> JsonValue<'_> {
        #[expect(clippy::cast_precision_loss, reason = "microseconds are exact up to 285 years")]
        // Cut to microseconds first, as in JSON.
        JsonValue::Number((self.nanoseconds / 1000) as f64 / 1000.0)
    }

    fn read<'de: 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let milliseconds = f64::deserialize(deserializer)?;
        // 10¹³ ms are 10¹⁹ ns, the largest power of ten that 64 bits hold; NaN is in no range.
        if !(0.0..=1e13).contains(&milliseconds) {
            return Err(D::Error::custom("a length of time is from 0 to 10^13 milliseconds"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked above")]
        // Rounded: a decimal fraction such as 0.001 is not exact in binary, and cutting would lose a microsecond.
        let microseconds = (milliseconds * 1000.0).round() as u64;
        Ok(Self { nanoseconds: microseconds * 1000 })
    }
}

/// Reads a value of a closed set of names.
pub(crate) fn read_name<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    struct Name<T>(&'static str, fn(&str) -> Option<T>);
    impl<T> Visitor<'_> for Name<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_str(Name(expected, parse))
}

/// Defines an enumeration whose variants have names in JSON: the type, `name`, `parse`, and how it is a [`FieldValue`].
macro_rules! names {
    ($(#[$outer:meta])* $type:ident, $expected:literal { $($(#[$inner:meta])* $variant:ident $name:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$inner])* $variant,)+
        }

        impl $type {
            /// All values, in the order of their definition.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The names of all values, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// Returns the name in JSON.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Returns the value with this name in JSON.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl<'a> $crate::value::FieldValue<'a> for $type {
            const DOMAIN: $crate::value::Domain = $crate::value::Domain::Names(Self::NAMES);

            type Owned = Self;

            fn into_owned(self) -> Self {
                self
            }

            fn write(&self, object: &mut $crate::json::Object<'_>, key: &$crate::json::MemberKey) {
                object.plain(key, self.name());
            }

            fn value(&self) -> $crate::value::JsonValue<'_> {
                $crate::value::JsonValue::Text(self.name().into())
            }

            fn read<'de: 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::value::read_name(deserializer, $expected, Self::parse)
            }
        }
    };
}
pub(crate) use names;

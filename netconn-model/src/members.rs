//! Definition of a JSON object with a fixed set of members: the table of its fields, its struct, and how it is written and read.

use std::{fmt, marker::PhantomData};

use serde::de::{DeserializeSeed, Deserializer, Visitor};

use crate::value::{Domain, FieldValue};

/// Type of a member's values in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// UTF-8 text.
    String,
    /// Whole number, up to 64 bits.
    Integer,
    /// Number with a fraction.
    Number,
    /// `true` or `false`.
    Boolean,
    /// List of objects.
    List,
    /// Moment as a whole number: milliseconds since 1970-01-01 UTC.
    EpochMilliseconds,
    /// Moment as text: RFC 3339 in UTC with nine digits after the second.
    Rfc3339,
}

impl Type {
    /// Returns whether the values are moments, in either unit.
    pub fn is_moment(self) -> bool {
        matches!(self, Self::EpochMilliseconds | Self::Rfc3339)
    }

    /// Returns whether the values are numbers in JSON.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Number | Self::EpochMilliseconds)
    }
}

/// A line of a table of members.
#[derive(Clone, Copy, Debug)]
pub struct MemberInfo<Field, Section> {
    /// The member.
    pub field: Field,
    /// Name in JSON.
    pub name: &'static str,
    /// Type of its values.
    pub r#type: Type,
    /// Which values of the type there are.
    pub domain: Domain,
    /// Part of the object that the member belongs to.
    pub section: Section,
    /// Meaning, in Markdown.
    pub meaning: &'static str,
}

impl<Field, Section> MemberInfo<Field, Section> {
    /// Returns the meaning with the values that there are, in Markdown.
    pub fn described(&self) -> String {
        let names = self.domain.names();
        // Some meanings explain the values themselves.
        if names.iter().all(|name| self.meaning.contains(&format!("`{name}`"))) {
            return self.meaning.to_owned();
        }
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        format!("{} Values: {}.", self.meaning, names.join(", "))
    }
}

/// Defines the members of a JSON object that is written and read member by member: the enumeration of its fields, their table,
/// and the struct that holds their values.
///
/// A line of the table is `Variant "name" Type member: RustType, "meaning";`. Which values there are follows from the Rust type,
/// unless `=> DOMAIN` behind it says so. The order of the lines is the order in which members are written; sections can be
/// written apart.
macro_rules! members {
    (
        $(#[$outer:meta])* struct $Object:ident; enum $Field:ident; table $FIELDS:ident; enum $Section:ident;
        $($(#[$about:meta])* $section:ident {
            $($variant:ident $name:literal $type:ident $member:ident: $value:ty $(=> $domain:expr)?, $meaning:literal;)+
        })+
    ) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $Object<'a> {
            $($(#[doc = $meaning] pub $member: Option<$value>,)+)+
        }

        #[doc = concat!("A member of [`", stringify!($Object), "`]; its number is its place in [`", stringify!($FIELDS), "`].")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $Field {
            $($(#[doc = $meaning] $variant,)+)+
        }

        #[doc = concat!("Parts of [`", stringify!($Object), "`] that are written together.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $Section {
            $($(#[$about])* $section,)+
        }

        impl $Section {
            /// All sections, in the order in which they are written.
            pub const ALL: &[Self] = &[$(Self::$section),+];
        }

        /// All fields, in the order in which they are written.
        pub const $FIELDS: &[$crate::members::MemberInfo<$Field, $Section>] = &[$($($crate::members::MemberInfo {
            field: $Field::$variant,
            name: $name,
            r#type: $crate::members::Type::$type,
            domain: $Object::<'static>::DOMAINS[$Field::$variant as usize],
            section: $Section::$section,
            meaning: $meaning,
        }),+),+];

        impl $Field {
            /// Returns the line of the table for this field.
            pub fn info(self) -> &'static $crate::members::MemberInfo<$Field, $Section> {
                // Variants and lines come from the same repetition, so that the number of a variant is the index of its
                // line.
                &$FIELDS[self as usize]
            }
        }

        impl<'a> $Object<'a> {
            /// Which values each field can have.
            const DOMAINS: &'static [$crate::value::Domain] = &[$($({
                let said: &[$crate::value::Domain] = &[$($domain)?];
                match said {
                    [domain, ..] => *domain,
                    [] => <$value as $crate::value::FieldValue<'a>>::DOMAIN,
                }
            }),+),+];

            /// Returns the value of a field; `None` if it is not known.
            pub fn value(&self, field: $Field) -> Option<$crate::value::JsonValue<'_>> {
                match field {
                    $($($Field::$variant => self.$member.as_ref().map(<$value as $crate::value::FieldValue<'_>>::value),)+)+
                }
            }

            /// Writes the members of a section that are known.
            pub fn write_section(&self, section: $Section, object: &mut $crate::json::Object<'_>) {
                match section {
                    $($Section::$section => {
                        $(if let Some(value) = &self.$member {
                            $crate::value::FieldValue::write(value, object, $crate::json::member_key!($name));
                        })+
                    })+
                }
            }

            /// Returns the object with text of its own.
            pub fn into_owned(self) -> $Object<'static> {
                $Object { $($($member: self.$member.map(<$value as $crate::value::FieldValue<'_>>::into_owned),)+)+ }
            }

            fn read_member<'de: 'a, M: serde::de::MapAccess<'de>>(
                &mut self,
                field: $Field,
                map: &mut M,
            ) -> Result<(), M::Error> {
                match field {
                    // A member that comes twice keeps its last value, as in most readers of JSON.
                    $($($Field::$variant => self.$member = map.next_value_seed($crate::members::Reading::new())?,)+)+
                }
                Ok(())
            }
        }

        impl<'de: 'a, 'a> serde::Deserialize<'de> for $Object<'a> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Members;
                impl<'de> serde::de::Visitor<'de> for Members {
                    type Value = $Object<'de>;

                    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        formatter.write_str("a JSON object")
                    }

                    fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                        let mut object = $Object::default();
                        // Members mostly come in the order of the table, so the search begins behind the last one.
                        let mut next = 0;
                        let by_name = |name: &str, next: usize| {
                            let (before, after) = $FIELDS.split_at(next.min($FIELDS.len()));
                            after.iter().chain(before).find(|info| info.name == name).map(|info| info.field)
                        };
                        // Keys are looked up and not collected: an event is read without memory for its names.
                        while let Some(found) = map.next_key_seed($crate::members::ReadingKey(|name: &str| by_name(name, next)))? {
                            match found {
                                Some(field) => {
                                    next = field as usize + 1;
                                    object.read_member(field, &mut map)?;
                                }
                                // A member of a later version, or somebody else's.
                                None => _ = map.next_value::<serde::de::IgnoredAny>()?,
                            }
                        }
                        Ok(object)
                    }
                }
                deserializer.deserialize_map(Members)
            }
        }
    };
}
pub(crate) use members;

/// Reads a member's value; `null` is the same as no member.
pub(crate) struct Reading<T>(PhantomData<T>);

impl<T> Reading<T> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<'de: 'a, 'a, T: FieldValue<'a>> DeserializeSeed<'de> for Reading<T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        struct Nullable<'a, T>(PhantomData<fn(&'a ()) -> T>);
        impl<'de: 'a, 'a, T: FieldValue<'a>> Visitor<'de> for Nullable<'a, T> {
            type Value = Option<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value or null")
            }

            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                T::read(deserializer).map(Some)
            }
        }
        deserializer.deserialize_option(Nullable(PhantomData))
    }
}

/// Reads a member's name and finds its field with the function.
pub(crate) struct ReadingKey<F>(pub(crate) F);

impl<'de, T, F: Fn(&str) -> Option<T>> DeserializeSeed<'de> for ReadingKey<F> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        struct Key<F>(F);
        impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for Key<F> {
            type Value = Option<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the name of a member")
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok((self.0)(name))
            }
        }
        deserializer.deserialize_str(Key(self.0))
    }
}

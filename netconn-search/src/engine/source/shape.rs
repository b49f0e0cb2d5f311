//! Determines the columns of the table: those of the field table, and other fields found in the files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::Arc,
};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use memchr::memmem;
use netconn_model::field::{self, FIELDS, Type};
use serde::{
    Deserialize, de,
    de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::engine::source::{
    BOM,
    find::{EventFile, FileFormat},
    lines::LineReader,
};

/// Column of a converted segment that keeps lines that were not a JSON object.
pub(crate) const UNPARSED: &str = "line.unparsed";

/// Column of a converted segment that keeps lines with values that do not fit into the other columns.
pub(crate) const ORIGINAL: &str = "line.original";

/// Bytes at the beginning of each file that are searched for fields outside the field table.
const HEAD_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes at the end of each uncompressed file that are searched for such fields: new fields appear in new events.
const TAIL_BYTES: u64 = 1024 * 1024;

/// Most bytes that are searched for such fields in all files together. It bounds the time before a query begins.
const TOTAL_BYTES: u64 = 128 * 1024 * 1024;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnShape {
    Boolean,
    Integer,
    Number,
    Text,
}

impl ColumnShape {
    /// Returns the type that the column has in Arrow.
    pub(crate) fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Text => DataType::Utf8View,
        }
    }

    /// Returns the type of the column into which a column of a Parquet file is read; `None` for lists and structures.
    pub(crate) fn of(data_type: &DataType) -> Option<Self> {
        match data_type {
            DataType::Boolean => Some(Self::Boolean),
            // `Int64` cannot hold all of its values.
            DataType::UInt64 => Some(Self::Number),
            integer if integer.is_integer() => Some(Self::Integer),
            number if number.is_floating() => Some(Self::Number),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Self::Text),
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Decimal128(..) => {
                Some(Self::Text)
            }
            DataType::Dictionary(_, values) => Self::of(values),
            _ => None,
        }
    }

    /// Returns the narrowest type that holds the values of both.
    fn with(self, other: Self) -> Self {
        match (self, other) {
            (left, right) if left == right => left,
            (Self::Integer, Self::Number) | (Self::Number, Self::Integer) => Self::Number,
            _ => Self::Text,
        }
    }
}

/// Returns how many bytes of each file may be searched, so that all files together stay within [`TOTAL_BYTES`].
fn share(files: &[EventFile]) -> u64 {
    // At least 64 KiB, so that every file contributes some lines. With more than 2,048 files this exceeds the total.
    (TOTAL_BYTES / (files.len() as u64).max(1)).max(64 * 1024)
}

/// Returns how many bytes at the beginning of each file are searched.
fn head(files: &[EventFile]) -> u64 {
    HEAD_BYTES.min(share(files))
}

impl From<Type> for ColumnShape {
    fn from(field: Type) -> Self {
        match field {
            // No field of events is a list.
            Type::String | Type::Rfc3339 | Type::List => Self::Text,
            Type::Integer | Type::EpochMilliseconds => Self::Integer,
            Type::Number => Self::Number,
            Type::Boolean => Self::Boolean,
        }
    }
}

/// The columns of a table, collected from its files.
#[derive(Debug)]
pub(crate) struct TableShape {
    /// Types of the fields of the field table, by their index.
    known: Vec<ColumnShape>,
    /// Which fields of the field table occur in lines, by their index.
    seen: Vec<bool>,
    /// Types of the fields outside the field table.
    additional: BTreeMap<String, ColumnShape>,
}

impl TableShape {
    /// Creates the columns of the field table.
    pub(crate) fn new() -> Self {
        Self {
            known: FIELDS.iter().map(|field| field.r#type.into()).collect(),
            seen: vec![false; FIELDS.len()],
            additional: BTreeMap::new(),
        }
    }

    /// Adds a column of a Parquet file. A field that has another type there gets the type that holds both.
    pub(crate) fn column(&mut self, name: &str, shape: ColumnShape) {
        if let Some(place) = FIELDS.iter().position(|field| field.name == name) {
            // A text column takes all values, and a column of numbers takes integers; otherwise the type is widened.
            let fits = match self.known[place] {
                ColumnShape::Text => true,
                ColumnShape::Number => matches!(shape, ColumnShape::Integer | ColumnShape::Number),
                known => shape == known,
            };
            if !fits {
                self.known[place] = self.known[place].with(shape);
            }
            return;
        }
        self.additional(name, shape);
    }

    /// Adds a field outside the field table.
    fn additional(&mut self, name: &str, shape: ColumnShape) {
        match self.additional.get_mut(name) {
            Some(found) => *found = found.with(shape),
            None => {
                self.additional.insert(name.to_owned(), shape);
            }
        }
    }

    /// Adds a column for a field that the query uses: as text, if it was found in no file.
    pub(crate) fn wanted(&mut self, name: &str) {
        if field::by_name(name).is_none() {
            self.additional.entry(name.to_owned()).or_insert(ColumnShape::Text);
        }
    }

    /// Returns the names of the fields outside the field table.
    pub(crate) fn additional_names(&self) -> BTreeSet<String> {
        self.additional.keys().cloned().collect()
    }

    /// Searches the beginning and the end of NDJSON files for fields.
    pub(crate) fn look(&mut self, files: &[EventFile]) {
        let (head, share) = (head(files), share(files));
        for file in files {
            // An unreadable file is reported when it is read for the query.
            let _ = self.look_at(file, 0, head);
            // A compressed file has no tail that could be read by itself, and a small file was read as a whole.
            if file.format == FileFormat::Lines && file.size > head {
                let _ = self.look_at(file, head.max(file.size.saturating_sub(TAIL_BYTES.min(share))), file.size);
            }
        }
    }

    /// Searches the rest of the NDJSON files for fields that a query uses and that no column has yet, until each is
    /// found.
    pub(crate) fn search(&mut self, files: &[EventFile], names: &BTreeSet<String>) {
        let known = |name: &str| field::by_name(name).is_some();
        // The name as it is written in JSON, with quotes and escapes.
        let finder = |name: &String| {
            memmem::Finder::new(serde_json::Value::from(name.as_str()).to_string().as_bytes()).into_owned()
        };
        let mut missing: Vec<(&String, memmem::Finder<'_>)> =
            // Fields of the table have a column in any case.
            names.iter().filter(|name| !known(name)).map(|name| (name, finder(name))).collect();
        missing.retain(|(name, _)| !self.additional.contains_key(*name));
        // Reading whole files is slow, so it ends as soon as all names are found.
        let head = head(files);
        // `look` has read smaller files as a whole. The size of a compressed file does not tell how much it has read.
        for file in files.iter().filter(|file| file.format != FileFormat::Lines || file.size > head) {
            if missing.is_empty() {
                return;
            }
            // An unreadable file is reported when it is read for the query.
            let _ = self.search_in(file, &mut missing);
        }
    }

    fn search_in(&mut self, file: &EventFile, missing: &mut Vec<(&String, memmem::Finder<'_>)>) -> io::Result<()> {
        let mut lines = LineReader::open(file, 0, file.size)?;
        // Lines are parsed only if one of the names occurs in them: a substring search is much faster.
        while !missing.is_empty()
            && let Some(line) = lines.next()?
        {
            if missing.iter().any(|(_, finder)| finder.find(line).is_some()) {
                self.line(line);
                missing.retain(|(name, _)| !self.additional.contains_key(*name));
            }
        }
        Ok(())
    }

    fn look_at(&mut self, file: &EventFile, start: u64, end: u64) -> io::Result<()> {
        let mut lines = LineReader::open(file, start, end)?;
        let mut read = 0;
        while let Some(line) = lines.next()? {
            // Counted here too, because the reader ignores the range for compressed files.
            read += line.len() as u64;
            self.line(line);
            if read > end - start {
                break;
            }
        }
        Ok(())
    }

    /// Adds the fields of a line; returns whether it is a JSON object.
    pub(crate) fn line(&mut self, line: &[u8]) -> bool {
        let mut input = serde_json::Deserializer::from_slice(line.strip_prefix(BOM).unwrap_or(line));
        input.deserialize_map(NamesVisitor(self)).is_ok() && input.end().is_ok()
    }

    /// Returns the columns that occur in lines, and after them text columns with the names in `texts`.
    pub(crate) fn seen(&self, texts: &[&str]) -> SchemaRef {
        let whole = self.schema();
        let known = self.seen.len();
        let seen = whole.fields().iter().enumerate().filter(|(place, field)| {
            self.seen.get(*place).copied().unwrap_or(*place >= known) && !texts.contains(&field.name().as_str())
        });
        let mut fields: Vec<_> = seen.map(|(_, field)| Arc::clone(field)).collect();
        fields.extend(texts.iter().map(|name| Arc::new(Field::new(*name, DataType::Utf8View, true))));
        Arc::new(Schema::new(fields))
    }

    /// Returns all columns: those of the field table first, then the others by name.
    pub(crate) fn schema(&self) -> SchemaRef {
        let known = FIELDS.iter().zip(&self.known).map(|(field, shape)| (field.name, *shape));
        let additional = self.additional.iter().map(|(name, shape)| (name.as_str(), *shape));
        let fields: Vec<Field> =
            known.chain(additional).map(|(name, shape)| Field::new(name, shape.data_type(), true)).collect();
        Arc::new(Schema::new(fields))
    }
}

/// Adds the fields of an object.
struct NamesVisitor<'a>(&'a mut TableShape);

impl<'de> Visitor<'de> for NamesVisitor<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // Fields are written in the order of the field table: the next one is found near the last.
        let mut hint = 0;
        while let Some(FieldName(place, other)) = map.next_key_seed(FieldNameSeed { hint })? {
            match (place, other) {
                (Some(place), _) => {
                    hint = place + 1;
                    // The field table fixes the type of this column, so the value need not be examined.
                    self.0.seen[place] = true;
                    map.next_value::<IgnoredAny>()?;
                }
                (None, name) => {
                    let ValueShape(shape) = map.next_value()?;
                    if let Some(shape) = shape {
                        self.0.additional(&name, shape);
                    }
                }
            }
        }
        Ok(())
    }
}

/// A name: its index in the field table, or the name itself if it is not there.
struct FieldName(Option<usize>, String);

struct FieldNameSeed {
    /// Index at which the search begins: fields mostly come in the table's order.
    hint: usize,
}

impl<'de> de::DeserializeSeed<'de> for FieldNameSeed {
    type Value = FieldName;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<FieldName, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldNameSeed {
    type Value = FieldName;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<FieldName, E> {
        let after = FIELDS.iter().enumerate().skip(self.hint);
        let before = FIELDS.iter().enumerate().take(self.hint);
        let place = after.chain(before).find(|(_, field)| field.name == name).map(|(place, _)| place);
        Ok(FieldName(place, if place.is_some() { String::new() } else { name.to_owned() }))
    }
}

/// The type of a value; `None` for null.
struct ValueShape(Option<ColumnShape>);

impl<'de> Deserialize<'de> for ValueShape {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(ValueShapeVisitor)
    }
}

struct ValueShapeVisitor;

impl<'de> Visitor<'de> for ValueShapeVisitor {
    type Value = ValueShape;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_str<E>(self, _: &str) -> Result<ValueShape, E> {
        Ok(ValueShape(Some(ColumnShape::Text)))
    }

    fn visit_i64<E>(self, _: i64) -> Result<ValueShape, E> {
        Ok(ValueShape(Some(ColumnShape::Integer)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<ValueShape, E> {
        // Numbers from 2^63 on stay exact only as text.
        Ok(ValueShape(Some(if i64::try_from(value).is_ok() { ColumnShape::Integer } else { ColumnShape::Text })))
    }

    fn visit_f64<E>(self, _: f64) -> Result<ValueShape, E> {
        Ok(ValueShape(Some(ColumnShape::Number)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<ValueShape, E> {
        Ok(ValueShape(Some(ColumnShape::Boolean)))
    }

    fn visit_unit<E>(self) -> Result<ValueShape, E> {
        Ok(ValueShape(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ValueShape, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(ValueShape(Some(ColumnShape::Text)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ValueShape, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(ValueShape(Some(ColumnShape::Text)))
    }
}

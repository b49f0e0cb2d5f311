//! Parses lines of JSON into rows of Arrow columns, building only the columns that are needed.

use std::{fmt, sync::Arc};

use datafusion::arrow::{
    array::{
        ArrayRef, BooleanArray, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, RecordBatchOptions,
        StringViewBuilder,
    },
    compute::filter_record_batch,
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use netconn_query::address;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::engine::source::BOM;

/// Builds batches of rows from lines.
pub(crate) struct RowBuilder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    /// For each column, the number (from 1) of the last row in which it got a value: a column without one gets a null,
    /// and the second of two values is detected.
    stamps: Vec<usize>,
    index: HashMap<String, usize, RandomState>,
    /// For each column plus one (0: the beginning of a line), the column that followed it in an earlier line. Most
    /// lines have the same fields in the same order, so that this guess saves hashing the name.
    follows: Vec<usize>,
    rows: usize,
    good: Vec<bool>,
    bad: u64,
    wrong: u64,
    /// Column that keeps the original line if some of its values do not fit into the other columns.
    original: Option<usize>,
}

/// The builder of one column.
enum ColumnBuilder {
    Text(StringViewBuilder),
    /// Addresses, which get their usual form, so that they can be compared as texts.
    Address(StringViewBuilder),
    Integer(Int64Builder),
    Number(Float64Builder),
    Boolean(BooleanBuilder),
}

impl RowBuilder {
    /// Creates builders for a schema whose columns have the types `Int64`, `Float64`, `Boolean` or `Utf8View`.
    pub(crate) fn new(schema: SchemaRef) -> Self {
        let columns: Vec<ColumnBuilder> = schema
            .fields()
            .iter()
            .map(|field| match field.data_type() {
                DataType::Int64 => ColumnBuilder::Integer(Int64Builder::new()),
                DataType::Float64 => ColumnBuilder::Number(Float64Builder::new()),
                DataType::Boolean => ColumnBuilder::Boolean(BooleanBuilder::new()),
                _ if address::is_field(field.name()) => ColumnBuilder::Address(text_builder()),
                _ => ColumnBuilder::Text(text_builder()),
            })
            .collect();
        let index = schema.fields().iter().enumerate().map(|(place, field)| (field.name().clone(), place)).collect();
        Self {
            stamps: vec![0; columns.len()],
            follows: vec![0; columns.len() + 1],
            columns,
            schema,
            index,
            rows: 0,
            good: Vec::new(),
            bad: 0,
            wrong: 0,
            original: None,
        }
    }

    /// Keeps the original line in this column if some of its values do not fit into the others.
    pub(crate) fn with_original(mut self, column: Option<usize>) -> Self {
        self.original = column;
        self
    }

    /// Returns the number of rows since the last batch, including lines that are not valid.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Returns the number of lines since the last call that were not a JSON object.
    pub(crate) fn take_bad(&mut self) -> u64 {
        std::mem::take(&mut self.bad)
    }

    /// Returns the number of values since the last call that did not have their column's type or were given twice.
    pub(crate) fn take_wrong(&mut self) -> u64 {
        std::mem::take(&mut self.wrong)
    }

    /// Parses a line into a row; returns whether it was a JSON object. An empty line makes no row, and a byte order
    /// mark is ignored.
    pub(crate) fn push(&mut self, line: &[u8]) -> bool {
        let line = line.strip_prefix(BOM).unwrap_or(line);
        if line.trim_ascii().is_empty() {
            return true;
        }
        self.rows += 1;
        let wrong = self.wrong;
        let mut input = serde_json::Deserializer::from_slice(line);
        // `end` rejects text behind the object: a second object on the line would be lost without a trace.
        let good = ObjectSeed(self).deserialize(&mut input).is_ok() && input.end().is_ok();
        if good
            && self.wrong > wrong
            && let Some(column) = self.original
            && let Some(ColumnBuilder::Text(builder)) = self.columns.get_mut(column)
            // The line may have a field with the name of this column itself.
            && self.stamps[column] != self.rows
        {
            self.stamps[column] = self.rows;
            builder.append_value(String::from_utf8_lossy(line));
        }
        // All builders must stay at the same length: columns that the line does not have get a null.
        for (column, stamp) in self.columns.iter_mut().zip(&self.stamps) {
            if *stamp != self.rows {
                column.null();
            }
        }
        self.good.push(good);
        self.bad += u64::from(!good);
        good
    }

    /// Adds a row with a value in one column and nulls in the others.
    pub(crate) fn keep(&mut self, column: usize, text: &str) {
        // The stamps stay: the next line has another row number, so none of them matches by chance.
        self.rows += 1;
        self.good.push(true);
        for (place, builder) in self.columns.iter_mut().enumerate() {
            match builder {
                ColumnBuilder::Text(builder) if place == column => builder.append_value(text),
                builder => builder.null(),
            }
        }
    }

    /// Returns the rows since the last batch, without those of lines that were not valid.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let columns: Vec<ArrayRef> = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        self.rows = 0;
        // Row numbers begin anew with each batch; an old stamp would pass for a value of this one.
        self.stamps.fill(0);
        // A line may turn out to be cut off after values were appended: its row is removed here instead of taken back.
        let good = std::mem::take(&mut self.good);
        if good.iter().all(|good| *good) {
            return Ok(batch);
        }
        filter_record_batch(&batch, &BooleanArray::from(good))
    }

    /// Returns the index of the column with this name. `last` is the index of the column before it in the line, plus
    /// one.
    fn place(&mut self, name: &str, last: usize) -> Option<usize> {
        let guess = self.follows[last];
        if let Some(field) = self.schema.fields().get(guess)
            && field.name() == name
        {
            return Some(guess);
        }
        let place = *self.index.get(name)?;
        // The next line most likely has the same fields, so the latest order is the best guess.
        self.follows[last] = place;
        Some(place)
    }
}

fn text_builder() -> StringViewBuilder {
    // A block stays in memory as long as any value in it is used: small blocks keep less.
    StringViewBuilder::new().with_fixed_block_size(64 * 1024)
}

impl ColumnBuilder {
    fn null(&mut self) {
        match self {
            Self::Text(builder) | Self::Address(builder) => builder.append_null(),
            Self::Integer(builder) => builder.append_null(),
            Self::Number(builder) => builder.append_null(),
            Self::Boolean(builder) => builder.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(builder) | Self::Address(builder) => Arc::new(builder.finish()),
            Self::Integer(builder) => Arc::new(builder.finish()),
            Self::Number(builder) => Arc::new(builder.finish()),
            Self::Boolean(builder) => Arc::new(builder.finish()),
        }
    }

    /// Appends a text, parsed if the column has another type; appends a null and returns `false` if it cannot be
    /// parsed.
    fn text(&mut self, text: &str) -> bool {
        let good = match self {
            Self::Text(builder) => {
                builder.append_value(text);
                return true;
            }
            Self::Address(builder) => {
                builder.append_value(address::usual(text));
                return true;
            }
            Self::Integer(builder) => text.parse().map(|value| builder.append_value(value)).is_ok(),
            Self::Number(builder) => text.parse().map(|value| builder.append_value(value)).is_ok(),
            Self::Boolean(builder) => text.parse().map(|value| builder.append_value(value)).is_ok(),
        };
        if !good {
            self.null();
        }
        good
    }

    fn integer(&mut self, value: i64) -> bool {
        match self {
            Self::Integer(builder) => builder.append_value(value),
            #[expect(clippy::cast_precision_loss, reason = "a number of JSON is a float to most readers")]
            Self::Number(builder) => builder.append_value(value as f64),
            // A text column takes the digits; a boolean one gets a null.
            _ => return self.text(&value.to_string()),
        }
        true
    }

    fn number(&mut self, value: f64) -> bool {
        match self {
            // Adding 0 turns -0 into 0.
            Self::Number(builder) => builder.append_value(value + 0.0),
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the limits")]
            // 9.2e18 is just below 2^63: every whole number up to it fits.
            Self::Integer(builder) if value.fract() == 0.0 && value.abs() < 9.2e18 => {
                builder.append_value(value as i64);
            }
            _ => return self.text(&value.to_string()),
        }
        true
    }

    fn boolean(&mut self, value: bool) -> bool {
        match self {
            Self::Boolean(builder) => builder.append_value(value),
            _ => return self.text(if value { "true" } else { "false" }),
        }
        true
    }
}

/// Deserializes an object into the current row.
struct ObjectSeed<'a>(&'a mut RowBuilder);

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let rows = self.0;
        let mut last = 0;
        while let Some(place) = map.next_key_seed(KeySeed { rows, last })? {
            match place {
                // The first of two values of the same name counts.
                Some(place) if rows.stamps[place] != rows.rows => {
                    rows.stamps[place] = rows.rows;
                    last = place + 1;
                    let good = match map.next_value_seed(CellSeed(&mut rows.columns[place])) {
                        Ok(good) => good,
                        Err(error) => {
                            // The line is cut off within this value: its column still needs one for this row.
                            rows.columns[place].null();
                            return Err(error);
                        }
                    };
                    rows.wrong += u64::from(!good);
                }
                // A name without a column leaves `last` as it is: guesses are about columns only.
                second => {
                    map.next_value::<IgnoredAny>()?;
                    rows.wrong += u64::from(second.is_some());
                }
            }
        }
        Ok(())
    }
}

/// Deserializes a name into the index of its column; `None` if no column has this name.
struct KeySeed<'a> {
    rows: &'a mut RowBuilder,
    last: usize,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.rows.place(name, self.last))
    }
}

/// Deserializes a value into a column. Appends exactly one value, except in case of an error; returns whether it has
/// the type of the column.
struct CellSeed<'a>(&'a mut ColumnBuilder);

impl<'de> DeserializeSeed<'de> for CellSeed<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<bool, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CellSeed<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_str<E>(self, value: &str) -> Result<bool, E> {
        Ok(self.0.text(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<bool, E> {
        Ok(self.0.integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => self.0.integer(value),
            // Numbers from 2^63 on stay exact only as text.
            Err(_) => self.0.text(&value.to_string()),
        })
    }

    fn visit_f64<E>(self, value: f64) -> Result<bool, E> {
        Ok(self.0.number(value))
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        Ok(self.0.boolean(value))
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        self.0.null();
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        // Only a text column can hold a list or an object; it holds the JSON text.
        let mut values: Vec<serde_json::Value> = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(self.0.text(&serde_json::Value::Array(values).to_string()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut values = serde_json::Map::new();
        while let Some((name, value)) = map.next_entry()? {
            values.insert(name, value);
        }
        Ok(self.0.text(&serde_json::Value::Object(values).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::{
        array::AsArray,
        datatypes::{Field, Float64Type, Int64Type, Schema},
    };

    use super::*;

    fn rows(lines: &[&[u8]]) -> (RecordBatch, u64, u64) {
        let schema = Schema::new(vec![
            Field::new("name", DataType::Utf8View, true),
            Field::new("port", DataType::Int64, true),
            Field::new("ms", DataType::Float64, true),
            Field::new("old", DataType::Boolean, true),
        ]);
        let mut rows = RowBuilder::new(Arc::new(schema));
        for line in lines {
            rows.push(line);
        }
        let (bad, wrong) = (rows.take_bad(), rows.take_wrong());
        (rows.finish().unwrap(), bad, wrong)
    }

    #[test]
    fn values_are_typed_or_missing() {
        let (batch, bad, wrong) = rows(&[
            br#"{"port":443,"name":"a","ms":1,"old":true,"other":{"deep":[1,"\u00e4"]}}"#,
            br#"{"name":7,"port":"80","ms":"1.5","old":"false"}"#,
            br#"{"name":[1,2],"port":"x","ms":{},"old":3}"#,
            br#"{"name":null,"port":1.0,"port":2}"#,
        ]);
        assert_eq!((bad, wrong), (0, 4));
        let names: Vec<_> = batch.column(0).as_string_view().iter().collect();
        assert_eq!(names, [Some("a"), Some("7"), Some("[1,2]"), None]);
        let ports: Vec<_> = batch.column(1).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(ports, [Some(443), Some(80), None, Some(1)]);
        let ms: Vec<_> = batch.column(2).as_primitive::<Float64Type>().iter().collect();
        assert_eq!(ms, [Some(1.0), Some(1.5), None, None]);
        let old: Vec<_> = batch.column(3).as_boolean().iter().collect();
        assert_eq!(old, [Some(true), Some(false), None, None]);
    }

    #[test]
    fn lines_that_are_no_object_are_left_out_and_counted() {
        let (batch, bad, wrong) = rows(&[
            br#"{"name":"a","port":1}"#,
            br#"{"name":"b","po"#,
            b"{\"name\":\"\xe2\x82",
            b"[1]",
            b"7",
            b"  ",
            br#"{"name":"c"} x"#,
            br#"{"name":"d","port":2}"#,
        ]);
        assert_eq!((bad, wrong), (5, 0));
        let names: Vec<_> = batch.column(0).as_string_view().iter().collect();
        assert_eq!(names, [Some("a"), Some("d")]);
        let ports: Vec<_> = batch.column(1).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(ports, [Some(1), Some(2)]);
    }
}

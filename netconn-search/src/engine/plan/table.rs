//! Reads and writes tables in files: for `dataset`, `savelookup` and `lookup`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, RecordBatch},
        datatypes::{Field, Schema},
    },
    datasource::{MemTable, provider_as_source},
    logical_expr::LogicalPlanBuilder,
    physical_plan::collect,
};
use netconn_query::{
    ast::Name,
    value::{Value, ValueKind},
};

use super::{Planner, physical::physical_plan, rows::Rows};
use crate::engine::{
    error::{Result, SearchError},
    function::column::{Column, normal, value_at},
    plan::newest_first,
    search::INDICATORS,
};

/// Largest number of rows of a table.
const MOST: usize = 1_000_000;

/// A table of a file, in memory.
pub(crate) struct Table {
    names: Vec<String>,
    columns: Vec<ArrayRef>,
}

impl Table {
    /// Returns the column with this name.
    pub(crate) fn column(&self, name: &str) -> Option<&ArrayRef> {
        let place = self.names.iter().position(|column| column == name)?;
        self.columns.get(place)
    }

    /// Returns the names of the columns.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.columns.first().map_or(0, Array::len)
    }
}

/// Returns the path of a table's file in the folder of tables, and whether it is CSV rather than JSON.
fn file(planner: &Planner, name: &Name) -> Result<(PathBuf, bool)> {
    if let Some(path) = planner.settings.indicators.as_ref().filter(|_| name.text == INDICATORS) {
        return Ok((path.clone(), true));
    }
    let Some(folder) = &planner.settings.tables else {
        let message = "there is no folder of tables: name one in the configuration (search.tables)";
        return Err(SearchError::query(message, name.span));
    };
    // No slash, and no dot at the beginning: a query must not name files outside of the folder, nor hidden ones.
    let plain = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | ' ');
    if name.text.is_empty() || name.text.starts_with('.') || !name.text.chars().all(plain) {
        let message = format!("'{}' is not a name of a table: use letters, digits, '_', '-' and '.' only", name.text);
        return Err(SearchError::query(message, name.span));
    }
    // The name as it is written comes first, so that a query may name the ending.
    for (ending, csv) in [("", true), (".csv", true), (".json", false), (".ndjson", false)] {
        let path = folder.join(format!("{}{ending}", name.text));
        if path.is_file() {
            let json = path.extension().is_some_and(|ending| ending == "json" || ending == "ndjson");
            return Ok((path, csv && !json));
        }
    }
    // No such file: this is where `savelookup` will write.
    let mut path = folder.join(&name.text);
    if path.extension().is_none_or(|ending| ending != "csv") {
        path.as_mut_os_string().push(".csv");
    }
    Ok((path, true))
}

/// Largest number of tables that an error names.
const LISTED: usize = 20;

/// Reads a table.
pub(crate) fn read(planner: &Planner, name: &Name) -> Result<Table> {
    let (path, csv) = file(planner, name)?;
    if !path.exists() {
        return Err(missing(&path, name));
    }
    let (names, rows) = if csv { read_csv(&path)? } else { read_json(&path)? };
    let wrong = |why: String| Err(SearchError::Format { path: path.clone(), why });
    if names.is_empty() {
        return wrong("it has no columns".to_owned());
    }
    // Columns are found by name, so the second one could never be reached.
    if let Some((_, name)) = names.iter().enumerate().find(|(place, name)| names[..*place].contains(name)) {
        return wrong(format!("it has two columns called '{name}'"));
    }
    let columns =
        (0..names.len()).map(|place| typed(rows.iter().map(|row| row.get(place).cloned().flatten()))).collect();
    Ok(Table { names, columns })
}

/// Returns the error for an unknown table, which names those that exist.
fn missing(path: &Path, name: &Name) -> SearchError {
    let entries = path.parent().into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let is_table = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ["csv", "json", "ndjson"].iter().any(|known| ending == *known))
    };
    let tables = entries.map(|entry| entry.path()).filter(is_table);
    let mut names: Vec<String> =
        tables.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).take(LISTED).collect();
    names.sort_unstable();
    let folder = path.parent().unwrap_or(Path::new(".")).display();
    let there = if names.is_empty() { "it has no tables".to_owned() } else { format!("it has {}", names.join(", ")) };
    let message = format!("there is no table '{}' (.csv, .json or .ndjson) in {folder}: {there}", name.text);
    SearchError::query(message, name.span)
}

type Cells = (Vec<String>, Vec<Vec<Option<String>>>);

fn read_csv(path: &Path) -> Result<Cells> {
    let wrong = |error: csv::Error| match error.into_kind() {
        csv::ErrorKind::Io(source) => SearchError::Read { path: path.to_owned(), source },
        other => SearchError::Format { path: path.to_owned(), why: format!("it is not a table in CSV ({other:?})") },
    };
    // Lines that are too short lack their last cells; spreadsheets write such lines.
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(path).map_err(wrong)?;
    let names =
        // Spreadsheets write a byte order mark, which would become part of the first name.
        reader.headers().map_err(wrong)?.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(wrong)?;
        // CSV cannot tell a missing value from an empty text, so both are missing.
        rows.push(record.iter().map(|cell| (!cell.is_empty()).then(|| cell.to_owned())).collect());
        check_size(path, rows.len())?;
    }
    Ok((names, rows))
}

fn read_json(path: &Path) -> Result<Cells> {
    let read = |source| SearchError::Read { path: path.to_owned(), source };
    let wrong = |error: serde_json::Error| SearchError::Format {
        path: path.to_owned(),
        why: format!("it is neither an array nor lines of objects in JSON ({error})"),
    };
    let mut input = BufReader::new(File::open(path).map_err(read)?);
    // Looks ahead without taking anything: an array of objects, or one object after another.
    let array = input.fill_buf().map_err(read)?.trim_ascii_start().starts_with(b"[");
    let mut objects: Vec<serde_json::Map<String, serde_json::Value>> = Vec::new();
    if array {
        objects = serde_json::from_reader(input).map_err(wrong)?;
        check_size(path, objects.len())?;
    } else {
        for object in serde_json::Deserializer::from_reader(input).into_iter() {
            objects.push(object.map_err(wrong)?);
            check_size(path, objects.len())?;
        }
    }
    // In the order in which they first appear, as columns of a CSV file would be.
    let mut names: Vec<String> = Vec::new();
    for object in &objects {
        for name in object.keys() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    let cell = |value: &serde_json::Value| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    };
    let rows =
        objects.iter().map(|object| names.iter().map(|name| object.get(name).and_then(cell)).collect()).collect();
    Ok((names, rows))
}

fn check_size(path: &Path, rows: usize) -> Result<()> {
    if rows > MOST {
        return Err(SearchError::Format { path: path.to_owned(), why: format!("it has more than {MOST} rows") });
    }
    Ok(())
}

/// Converts cells to whole numbers if all are, else to numbers, else to texts. `007` is a text; so are numbers with
/// more digits than a float keeps, and different texts of one number: `1.1` and `1.10`.
fn typed(cells: impl Iterator<Item = Option<String>> + Clone) -> ArrayRef {
    let plain = |cell: &str| !(cell.len() > 1 && cell.starts_with('0') && !cell.starts_with("0."));
    // Cells are walked several times; the iterator is cheap to clone, the texts are cloned in each walk.
    let there = || cells.clone().flatten();
    let kind = if there().next().is_none() {
        ValueKind::Text
    } else if there().all(|cell| plain(&cell) && cell.parse::<i64>().is_ok_and(|number| number.to_string() == cell)) {
        ValueKind::Integer
    // A column becomes numbers only if no text is lost by that: identifiers must come back as they were written.
    } else if there().all(|cell| plain(&cell) && digits(&cell)) && distinct(there()) {
        ValueKind::Number
    } else {
        ValueKind::Text
    };
    let mut column = Column::new(kind);
    for cell in cells {
        column.push(match (cell, kind) {
            (None, _) => Value::Null,
            (Some(cell), ValueKind::Integer) => cell.parse().map_or(Value::Null, Value::Integer),
            (Some(cell), ValueKind::Number) => cell.parse().map_or(Value::Null, Value::Number),
            (Some(cell), _) => Value::owned(cell),
        });
    }
    column.finish()
}

/// Whether a text has at least one digit and no more than a float keeps.
fn digits(cell: &str) -> bool {
    // Digits of the exponent do not count.
    let mantissa = cell.split(['e', 'E']).next().unwrap_or(cell);
    (1..=15).contains(&mantissa.bytes().filter(u8::is_ascii_digit).count())
}

/// Whether all texts are numbers, and different texts are different numbers.
fn distinct(mut cells: impl Iterator<Item = String>) -> bool {
    // By bits, because floats have no hash.
    let mut texts: HashMap<u64, String> = HashMap::new();
    cells.all(|cell| match cell.parse::<f64>() {
        Ok(number) => texts.entry(number.to_bits()).or_insert_with(|| cell.clone()) == &cell,
        Err(_) => false,
    })
}

/// Plans `dataset 'name'`: the rows of a table.
pub(crate) fn dataset(planner: &Planner, name: &Name) -> Result<Rows> {
    let table = read(planner, name)?;
    let fields: Vec<Field> = table
        .names
        .iter()
        .zip(&table.columns)
        .map(|(name, column)| Field::new(name, column.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let batch =
        RecordBatch::try_new(Arc::clone(&schema), table.columns).map_err(datafusion::error::DataFusionError::from)?;
    let source = provider_as_source(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?));
    Ok(Rows::of(LogicalPlanBuilder::scan("dataset", source, None)?.build()?, table.names))
}

/// Runs `savelookup 'name'[, 'merge']`: writes the rows to a table and passes them on.
pub(crate) async fn save(planner: &Planner, rows: Rows, name: &Name, merge: bool) -> Result<Rows> {
    let rows = newest_first(rows);
    // The rows are run once, written, and passed on from memory: running them again could give others than those
    // written.
    let rows = planner.collected(rows, MOST, name.span, "savelookup").await?;
    // `--explain` runs the query but changes no file.
    if planner.dry {
        return Ok(rows);
    }
    let (path, is_csv) = file(planner, name)?;
    // Tables are written as CSV only; one in JSON of that name would be read instead, or not merged with.
    if !is_csv {
        let message = format!("the table '{}' is in JSON, and tables are written as CSV: use another name", name.text);
        return Err(SearchError::query(message, name.span));
    }
    let (mut names, mut cells) = if merge && path.is_file() { read_csv(&path)? } else { Cells::default() };
    // Columns are matched by name with those of the old table; new ones follow at its end.
    let places: Vec<usize> = rows
        .columns
        .iter()
        .map(|column| {
            names.iter().position(|name| name == column).unwrap_or_else(|| {
                names.push(column.clone());
                names.len() - 1
            })
        })
        .collect();
    // Rows from before a column existed lack its cell.
    cells.iter_mut().for_each(|line| line.resize(names.len(), None));
    let plan = rows.clone().sorted(None)?.visible()?;
    let physical = physical_plan(&planner.state, &plan).await?;
    let batches = collect(physical, planner.state.task_ctx())
        .await
        .map_err(|error| SearchError::engine(error, planner.settings.memory))?;
    for batch in &batches {
        let columns = batch.columns().iter().map(normal).collect::<datafusion::error::Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let mut line = vec![None; names.len()];
            for (place, column) in places.iter().zip(&columns) {
                line[*place] = value_at(column, row).text().map(std::borrow::Cow::into_owned);
            }
            // A row that the table has is not added again.
            if !merge || !cells.contains(&line) {
                cells.push(line);
            }
        }
    }
    write(&path, &names, &cells)?;
    Ok(rows)
}

/// Writes a new file and renames it over the old one, so that nobody reads half a table.
fn write(path: &Path, names: &[String], rows: &[Vec<Option<String>>]) -> Result<()> {
    let wrong = |source| SearchError::Write { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(wrong)?;
    // In the same folder, because a rename works only within one file system.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(wrong)?;
    {
        let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(&mut file);
        let mut record = |cells: &mut dyn Iterator<Item = &str>| writer.write_record(cells);
        let io = |error: csv::Error| match error.into_kind() {
            csv::ErrorKind::Io(source) => wrong(source),
            other => wrong(std::io::Error::other(format!("{other:?}"))),
        };
        record(&mut names.iter().map(String::as_str)).map_err(io)?;
        for row in rows {
            record(&mut row.iter().map(|cell| cell.as_deref().unwrap_or(""))).map_err(io)?;
        }
        writer.flush().map_err(wrong)?;
    }
    file.flush().map_err(wrong)?;
    // Before the rename, so that a crash cannot leave an empty file under the old name.
    file.as_file().sync_all().map_err(wrong)?;
    file.persist(path).map_err(|error| wrong(error.error))?;
    Ok(())
}

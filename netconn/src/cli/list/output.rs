//! Where the rows of a snapshot go: counted, kept until they can be sorted, or shown as they come.

use std::io::{self, BufWriter, Write};

use anyhow::Result;
use netconn_model::{
    csv_cell::CsvCells,
    format::SnapshotFormat,
    row::{self, MoreColumns, ROW_FIELDS, Row, RowField, RowSection},
    snapshot::{self, SnapshotLine},
    socket_kind::SocketKind,
};
use netconn_query::evaluate::Predicate;

use crate::cli::{
    list::{
        ListOptions,
        count::Counter,
        group,
        summary::Summary,
        table::{HostNames, Table},
    },
    presentation::Format,
};

/// Rows of a table that are kept to sort them and to fit its columns. If there are more, the table goes on with what
/// comes, in the order in which it comes: a million rows would take a gigabyte.
const TABLE_ROWS_MAX: usize = 20_000;

/// Bytes of JSON that are written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Where bytes go.
type Out = Box<dyn Write>;

/// Takes the rows of one snapshot.
pub(super) struct Output<'a> {
    options: &'a ListOptions,
    /// Which rows; `None`: all that come.
    predicate: Option<&'a Predicate>,
    stage: Stage,
    /// What stands before the rows of a JSON object: `{"sensor_id":…,"connections":[`.
    head: Vec<u8>,
    found: bool,
}

/// What is done with a row.
enum Stage {
    Count(Counter, Out),
    Summary(Summary, Out),
    Keep(Vec<Entry>, Out),
    Show(Printer),
}

/// A row, and its bytes if they are shown.
struct Entry {
    row: Row<'static>,
    line: Vec<u8>,
}

impl<'a> Output<'a> {
    /// Rows are written to standard output as these options ask.
    pub(super) fn new(options: &'a ListOptions, predicate: Option<&'a Predicate>) -> Result<Self> {
        // Colours are removed where they are not wanted; other forms have none.
        let is_table = options.format == Format::Table;
        let out: Out = if is_table { Box::new(anstream::stdout().lock()) } else { Box::new(io::stdout().lock()) };
        Self::to(out, options, predicate)
    }

    fn to(out: Out, options: &'a ListOptions, predicate: Option<&'a Predicate>) -> Result<Self> {
        let format = options.format;
        // A table needs rows in any case, to fit its columns; other formats keep them only to sort or group.
        let stage = if options.count {
            Stage::Count(Counter::new(options.group_by), out)
        } else if options.summary {
            Stage::Summary(Summary::default(), out)
        } else if options.is_stream() && format != Format::Table {
            Stage::Show(Printer::begin(out, options, &[])?)
        } else {
            Stage::Keep(Vec::new(), out)
        };
        Ok(Self { options, predicate, stage, head: Vec::new(), found: false })
    }

    /// Takes what stands before the rows of a JSON object, up to the opening bracket.
    pub(super) fn head(&mut self, head: &[u8]) {
        self.head = head.to_vec();
    }

    /// Takes one line of the daemon's answer: a row, or, where it is one JSON object, a row with what stands around it.
    pub(super) fn take(&mut self, line: &[u8]) -> Result<()> {
        if !self.options.is_object() {
            return self.row(line);
        }
        match snapshot::read_line(line) {
            SnapshotLine::Head(line) => self.head(line),
            SnapshotLine::Row(row) => self.row(row)?,
            SnapshotLine::Tail => {}
        }
        Ok(())
    }

    /// Takes a row, a JSON object without a line feed.
    pub(super) fn row(&mut self, line: &[u8]) -> Result<()> {
        if let Some(predicate) = self.predicate
            && !predicate.verdict(&serde_json::from_slice::<Row<'_>>(line)?)?
        {
            return Ok(());
        }
        self.found = true;
        match &mut self.stage {
            Stage::Count(counter, _) => counter.add(line)?,
            Stage::Summary(summary, _) => summary.add(line)?,
            Stage::Show(printer) => {
                // JSON goes through as bytes and is never read.
                if printer.needs_row() {
                    let entry = entry(self.options, line)?;
                    printer.row(&entry.row, line, &self.head)?;
                } else {
                    printer.line(line, &self.head)?;
                }
            }
            Stage::Keep(entries, out) => {
                entries.push(entry(self.options, line)?);
                // Sorted and grouped rows are kept all the same: their help says that they take memory.
                if entries.len() > TABLE_ROWS_MAX && self.options.is_stream() {
                    let entries = std::mem::take(entries);
                    // The printer takes the writer; the sink stands in for it until the stage is replaced below.
                    let out = std::mem::replace(out, Box::new(io::sink()));
                    let mut printer = Printer::begin(out, self.options, &entries)?;
                    printer.group(None)?;
                    entries.iter().try_for_each(|entry| printer.row(&entry.row, &entry.line, &self.head))?;
                    self.stage = Stage::Show(printer);
                }
            }
        }
        Ok(())
    }

    /// Shows what was kept; returns whether there was any row.
    pub(super) fn finish(self) -> Result<bool> {
        let Self { options, stage, head, found, .. } = self;
        match stage {
            Stage::Count(counter, out) => {
                let mut out = BufWriter::new(out);
                counter.print(&mut out, options.format, !options.no_header)?;
                out.flush()?;
            }
            Stage::Summary(summary, out) => {
                let mut out = BufWriter::new(out);
                summary.print(&mut out, options.format, options.presentation.limit(), !options.no_header)?;
                out.flush()?;
            }
            Stage::Show(printer) => printer.end(&head)?,
            Stage::Keep(mut entries, out) => {
                // Also without `--sort`: rows that are equal in all keys have a usual order, by state and ends.
                row::sort(&mut entries, &options.sort, |entry| &entry.row);
                let mut printer = Printer::begin(out, options, &entries)?;
                let groups = match options.group_by {
                    None => vec![(None, entries)],
                    Some(by) => group::groups(entries, by, |entry| &entry.row)
                        .into_iter()
                        .map(|(name, entries)| (Some(name), entries))
                        .collect(),
                };
                for (name, entries) in groups {
                    printer.group(name.as_deref().map(|name| (name, entries.len())))?;
                    entries.iter().try_for_each(|entry| printer.row(&entry.row, &entry.line, &head))?;
                }
                printer.end(&head)?;
            }
        }
        Ok(found)
    }
}

/// Reads a row that is to be sorted or shown to people.
fn entry(options: &ListOptions, line: &[u8]) -> Result<Entry> {
    let row: Row<'_> = serde_json::from_slice(line)?;
    let is_json = matches!(options.format, Format::Json | Format::Ndjson);
    // The line is copied only where it is printed as it came.
    Ok(Entry { row: row.into_owned(), line: if is_json { line.to_vec() } else { Vec::new() } })
}

/// Writes rows in the form that was asked for.
enum Printer {
    /// With whether a row was written.
    Json(BufWriter<Out>, bool),
    Ndjson(BufWriter<Out>),
    Csv(Box<csv::Writer<Out>>, Vec<RowField>, CsvCells),
    /// With the bytes that were made last, and whether a row was written.
    Other(BufWriter<Out>, &'static SnapshotFormat, Vec<u8>, bool),
    Table(Table<BufWriter<Out>>),
}

impl Printer {
    /// Begins the output; a table's columns fit these rows.
    fn begin(out: Out, options: &ListOptions, entries: &[Entry]) -> Result<Self> {
        Ok(match options.format {
            Format::Json => Self::Json(BufWriter::with_capacity(BUFFER_BYTES, out), false),
            Format::Ndjson => Self::Ndjson(BufWriter::with_capacity(BUFFER_BYTES, out)),
            Format::Csv | Format::CsvRaw => {
                let mut out = csv::Writer::from_writer(out);
                // Two dozen columns that are always empty would be noise.
                let has_others = options.socket_kinds().has_others();
                let is_known = |section| match section {
                    RowSection::Info => options.wants_infos(),
                    RowSection::Other => has_others,
                    _ => true,
                };
                let fields = ROW_FIELDS.iter().filter(|info| is_known(info.section)).map(|info| info.field);
                let fields: Vec<RowField> = fields.collect();
                if !options.no_header {
                    out.write_record(fields.iter().map(|field| field.info().name))?;
                }
                Self::Csv(Box::new(out), fields, options.format.csv_cells())
            }
            Format::Other(format) => {
                let mut bytes = Vec::new();
                format.begin(&mut bytes);
                Self::Other(BufWriter::with_capacity(BUFFER_BYTES, out), format, bytes, false)
            }
            Format::Table => {
                let columns = row::table_columns(MoreColumns {
                    extended: options.extended,
                    ended: options.closed.is_some(),
                    queues: options.queues || options.info || options.timers,
                    timers: options.timers,
                    info: options.info,
                    holders: options.holders,
                    unix: options.socket_kinds().has(SocketKind::Unix),
                    mptcp: options.socket_kinds().has(SocketKind::Mptcp),
                });
                let rows = entries.iter().map(|entry| &entry.row);
                let (limit, heading) = (options.presentation.limit(), !options.no_header);
                let hosts = options.resolve.then(HostNames::default);
                Self::Table(Table::fit(BufWriter::new(out), columns, rows, (limit, heading), hosts))
            }
        })
    }

    /// Whether rows must be read, not only their bytes.
    fn needs_row(&self) -> bool {
        matches!(self, Self::Csv(..) | Self::Other(..) | Self::Table(_))
    }

    /// Begins a group, with its name and how many are in it, or all rows. Only people are shown where one begins.
    fn group(&mut self, group: Option<(&str, usize)>) -> io::Result<()> {
        match self {
            Self::Table(table) => table.begin(group),
            Self::Json(..) | Self::Ndjson(_) | Self::Csv(..) | Self::Other(..) => Ok(()),
        }
    }

    fn row(&mut self, row: &Row<'_>, line: &[u8], head: &[u8]) -> Result<()> {
        match self {
            Self::Csv(out, fields, cells) => {
                out.write_record(fields.iter().map(|field| cells.value(row.value(*field).as_ref())))?;
            }
            Self::Other(out, format, bytes, any) => {
                format.row(row, !std::mem::replace(any, true), bytes);
                out.write_all(bytes)?;
                bytes.clear();
            }
            Self::Table(table) => table.row(row)?,
            Self::Json(..) | Self::Ndjson(_) => self.line(line, head)?,
        }
        Ok(())
    }

    /// Writes a row as the bytes that came.
    fn line(&mut self, line: &[u8], head: &[u8]) -> io::Result<()> {
        match self {
            Self::Json(out, any) => {
                // The head waits for the first row, because it arrives after `begin`; `end` writes it if there was
                // none.
                if !*any {
                    out.write_all(head)?;
                }
                out.write_all(snapshot::before_row(!*any))?;
                *any = true;
                out.write_all(line)?;
            }
            Self::Ndjson(out) => {
                out.write_all(line)?;
                out.write_all(b"\n")?;
            }
            // They need a row, see `needs_row`.
            Self::Csv(..) | Self::Other(..) | Self::Table(_) => {}
        }
        Ok(())
    }

    fn end(self, head: &[u8]) -> Result<()> {
        match self {
            Self::Json(mut out, any) => {
                if !any {
                    out.write_all(head)?;
                }
                // What comes here ended well: an answer that was cut off is an error before, and leaves the object
                // open.
                out.write_all(snapshot::TAIL)?;
                out.flush()?;
            }
            Self::Ndjson(mut out) => out.flush()?,
            Self::Csv(mut out, ..) => out.flush()?,
            Self::Other(mut out, format, mut bytes, _) => {
                // The beginning, if there was no row.
                format.end(&mut bytes);
                out.write_all(&bytes)?;
                out.flush()?;
            }
            Self::Table(table) => table.end()?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, fmt::Write as _, rc::Rc};

    use clap::{Args as _, FromArgMatches as _};

    use super::*;
    use crate::cli::expression::About;

    /// What was written, for the test to look at.
    #[derive(Clone, Default)]
    struct Written(Rc<RefCell<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn options(arguments: &str) -> ListOptions {
        let command = ListOptions::augment_args(clap::Command::new("list").no_binary_name(true));
        ListOptions::from_arg_matches(&command.get_matches_from(arguments.split_whitespace())).unwrap()
    }

    /// What is shown of lines that a daemon sent.
    fn shown(arguments: &str, lines: &[String]) -> String {
        let (written, options) = (Written::default(), options(arguments));
        let predicate = options.expression.predicate(About::Rows).unwrap();
        let mut output = Output::to(Box::new(written.clone()), &options, predicate.as_ref()).unwrap();
        lines.iter().for_each(|line| output.take(line.as_bytes()).unwrap());
        output.finish().unwrap();
        let bytes = written.0.take();
        anstream::adapter::strip_str(std::str::from_utf8(&bytes).unwrap()).to_string()
    }

    fn row(state: &str, local: &str, process: &str, sent: u64) -> String {
        let (address, port) = local.rsplit_once(':').unwrap();
        let mut row = format!("{{\"state\":\"{state}\",\"protocol\":\"TCP\",\"local_address\":\"{address}\"");
        let _ = write!(row, ",\"local_port\":{port},\"process_name\":\"{process}\",\"bytes_sent\":{sent}}}");
        row
    }

    fn three() -> Vec<String> {
        vec![
            row("ESTABLISHED", "10.0.0.1:2", "a", 1500),
            row("LISTENING", "::1:22", "sshd", 0),
            row("ESTABLISHED", "10.0.0.1:1", "b", 20),
        ]
    }

    #[test]
    fn tables_are_sorted_and_fit() {
        assert_eq!(
            shown("", &three()),
            "PROTO  STATE        LOCAL       REMOTE  PID  PROCESS  USER  COMMAND\n\
             tcp    LISTENING    [::1]:22    *         -  sshd     -     -\n\
             tcp    ESTABLISHED  10.0.0.1:1  *         -  b        -     -\n\
             tcp    ESTABLISHED  10.0.0.1:2  *         -  a        -     -\n"
        );
        assert_eq!(
            shown("-e --sort=-sent -H", &three()[..2]),
            "tcp  ESTABLISHED  10.0.0.1:2  *  -  a     -  -  -  -  1.5 kB  -  -  -  -  -  -  -  -\n\
             tcp  LISTENING    [::1]:22    *  -  sshd  -  -  -  -     0 B  -  -  -  -  -  -  -  -\n"
        );
        assert_eq!(
            shown("--group-by state --sort process", &three()),
            "LISTENING (1)\n\
             PROTO  STATE        LOCAL       REMOTE  PID  PROCESS  USER  COMMAND\n\
             tcp    LISTENING    [::1]:22    *         -  sshd     -     -\n\
             \n\
             ESTABLISHED (2)\n\
             PROTO  STATE        LOCAL       REMOTE  PID  PROCESS  USER  COMMAND\n\
             tcp    ESTABLISHED  10.0.0.1:2  *         -  a        -     -\n\
             tcp    ESTABLISHED  10.0.0.1:1  *         -  b        -     -\n"
        );
    }

    #[test]
    fn connections_that_have_ended_tell_when_and_why() {
        let closed = r#"{"state":"CLOSED","protocol":"TCP","local_address":"10.0.0.1","local_port":1,
            "ended_at":"2026-01-02T03:04:05.678901234Z","close_reason":"reset_by_remote"}"#;
        let text = shown("-e -H --closed 5m", &[closed.replace('\n', "")]);
        assert_eq!(
            text,
            "tcp  closed reset_by_remote  03:04:05  10.0.0.1:1  *  -  -  -  -  -  -  -  -  -  -  -  reset_by_remote  -  -  -  -\n"
        );
    }

    #[test]
    fn a_long_table_goes_on_in_the_order_in_which_rows_come() {
        let lines: Vec<String> = (0..=TABLE_ROWS_MAX + 1)
            .map(|number| row("ESTABLISHED", &format!("10.0.0.1:{}", 60_000 - number), "a", 0))
            .collect();
        let text = shown("-H", &lines);
        assert_eq!(text.lines().count(), lines.len());
        for (number, line) in text.lines().enumerate() {
            assert!(line.contains(&format!(" 10.0.0.1:{} ", 60_000 - number)), "{number}: {line}");
        }
        let sorted = shown("-H --sort local", &lines);
        assert!(sorted.lines().rev().eq(text.lines()));
    }

    #[test]
    fn json_stays_one_object_when_it_is_sorted() {
        let [one, two, three] = three().try_into().unwrap();
        let head = "{\"sensor_id\":\"x\",\"connections\":[".to_owned();
        let lines = [head.clone(), format!("{one},"), format!("{two},"), three.clone(), "]}".to_owned()];
        assert_eq!(shown("--format json --sort local-port", &lines), format!("{head}\n{three},\n{one},\n{two}\n]}}\n"));
        assert_eq!(shown("--format json --sort pid", &[head.clone(), "]}".into()]), format!("{head}\n]}}\n"));
        assert_eq!(shown("--format ndjson --sort -sent", &[two.clone(), one.clone()]), format!("{one}\n{two}\n"));
        assert_eq!(shown("--count --format json", &[one, two]), "{\"count\":2}\n");
    }

    #[test]
    fn a_condition_holds_for_all_forms() {
        let condition = "local.port.number<10";
        let count = |arguments: &str| shown(&format!("{arguments} {condition}"), &three());
        assert_eq!(count("-H").lines().count(), 2);
        assert_eq!(count("--count"), "2\n");
        assert_eq!(count("--count --group-by process --format csv -H"), "1,a\n1,b\n");
        assert_eq!(count("--format ndjson").lines().count(), 2);
        assert_eq!(count("--format csv -H").lines().count(), 2);
        // With one row less the commas are right.
        let head = "{\"sensor_id\":\"x\",\"connections\":[".to_owned();
        let [one, two, three] = three().try_into().unwrap();
        let lines = [head, format!("{two},"), format!("{one},"), three, "]}".into()];
        let text = shown(&format!("--format json {condition}"), &lines);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["connections"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_command_line_is_no_formula_in_csv() {
        let rows = [row("ESTABLISHED", "10.0.0.1:2", "=1+1", 1500)];
        let guarded = shown("--format csv -H", &rows);
        assert!(guarded.contains(",'=1+1,") && guarded.contains(",1500,"), "{guarded}");
        let raw = shown("--format csv-raw -H", &rows);
        assert_eq!(raw, guarded.replace('\'', ""));
        assert_eq!(shown("--format csv-raw --count --group-by process -H", &rows), "1,=1+1\n");
        assert_eq!(shown("--format csv --count --group-by process -H", &rows), "1,'=1+1\n");
    }

    #[test]
    fn csv_has_the_names_of_json() {
        let text = shown("--format csv", &three());
        let mut lines = text.lines();
        assert!(
            lines.next().unwrap().ends_with(",bytes_sent,bytes_received,namespace,subflow,raw,folded,connection_id")
        );
        assert_eq!(lines.next(), Some("ESTABLISHED,TCP,,10.0.0.1,2,,,,,a,,,,,,,,,,,,,,,,,,,,,,,1500,,,,,,"));
        assert_eq!(shown("--format csv -H --sort process", &three()).lines().next(), text.lines().nth(1));
    }
}

//! The interactive mode: reads queries from a terminal and shows their answers.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::Result;
use datafusion::arrow::array::RecordBatch;
use futures::StreamExt as _;
use netconn_model::{exit::Exit, field::FIELDS};

use crate::{
    cli::{
        error::{RefusedQuery, report},
        help,
        session::SearchSession,
    },
    editor::{self, SubmitOutcome, helper::EditorKnowledge},
    home,
    output::column,
};

/// Longest time that completion of values may take: it blocks the line editor.
const VALUES_TIMEOUT: Duration = Duration::from_secs(1);

/// Number of events that are searched for the values of a field.
const VALUES_EVENTS_MAX: usize = 200_000;

/// Most values that are offered.
const VALUES_MAX: usize = 30;

/// The text at the beginning.
const WELCOME: &str = "\
Type a query, such as: event.type = 'IP Connect' | top 10 count() by src.process.name
Tab completes, Alt-Enter begins a new line; `help`, `help NAME`, `help fields`, `last 3d` (time range), `quit`.";

/// Reads queries and shows their answers until `quit` or the end of input.
pub(super) fn run(session: &mut SearchSession) -> Result<Exit> {
    // Reading the fields first also reports problems with the files before a query is typed.
    let search = session.search()?;
    let fields: Vec<String> = session.block_on(async { Ok(search.fields().await?) })?;
    netconn_model::tell!("{WELCOME}");
    let history = home::history();
    let are_colours_wanted = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    // The editor holds both closures, and each of them uses the session; only one runs at a time.
    let session = std::cell::RefCell::new(session);
    let values = |field: &str| values(&session.borrow(), field).unwrap_or_default();
    let knowledge = EditorKnowledge::new(fields, Box::new(values));
    editor::run(knowledge, history.as_deref(), are_colours_wanted, |knowledge, text| {
        match submit(&mut session.borrow_mut(), knowledge, text) {
            Ok(outcome) => outcome,
            Err(error) => {
                report(&error);
                match error.downcast::<RefusedQuery>() {
                    Ok(refused) => SubmitOutcome::Refused(refused.diagnostics),
                    Err(_) => SubmitOutcome::Done,
                }
            }
        }
    })?;
    Ok(Exit::Success)
}

/// Returns whether standard input and output are terminals.
pub(super) fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Runs one line: a command of the line editor, or a query.
fn submit(session: &mut SearchSession, knowledge: &EditorKnowledge<'_>, text: &str) -> Result<SubmitOutcome> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match (word, rest.trim()) {
        ("quit" | "exit" | "\\q", "") => return Ok(SubmitOutcome::Quit),
        ("help" | "?", "") => print(&help::language())?,
        ("help" | "?", "fields") => print(&help::fields())?,
        ("help" | "?", name) => print(&help::of(name))?,
        // `last = 1` is a query over a field of this name.
        ("last", length) if !length.is_empty() && !length.contains('=') => {
            let mut other = session.clone();
            other.source.replace_last(length);
            set_range(session, other, knowledge)?;
        }
        ("since", time) if !time.is_empty() && !time.contains('=') => {
            let mut other = session.clone();
            other.source.replace_since(time);
            set_range(session, other, knowledge)?;
        }
        _ => {
            let (query, diagnostics) = session.parse(text)?;
            session.block_on(session.show(text, &query, diagnostics))?;
        }
    }
    Ok(SubmitOutcome::Done)
}

/// Sets another time range and shows it; on an error the old one stays.
fn set_range(session: &mut SearchSession, other: SearchSession, knowledge: &EditorKnowledge<'_>) -> Result<()> {
    let Some(range) = other.range()? else { return Ok(()) };
    let shown = [range.start, range.end].map(|ms| {
        let moment = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
        moment.to_zoned(other.presentation.zone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    });
    netconn_model::tell!("from {} to {}", shown[0], shown[1]);
    // Only after `range` has accepted the new time: a mistyped one changes nothing.
    *session = other;
    knowledge.forget_values();
    Ok(())
}

fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Returns the most frequent values of a field; nothing if the search takes too long.
fn values(session: &SearchSession, field: &str) -> Result<Vec<String>> {
    let is_plain = field.chars().all(|character| character.is_alphanumeric() || "._-".contains(character));
    // The name is put into a query: other characters could change its meaning.
    if !is_plain {
        return Ok(Vec::new());
    }
    // Field names match regardless of case while typing, but the query needs the exact name.
    let known = FIELDS.iter().find(|known| known.name.eq_ignore_ascii_case(field));
    let field = known.map_or(field, |known| known.name);
    let text = format!(
        "{field} = * | columns value = string({field}) | limit {VALUES_EVENTS_MAX} \
         | group n = count() by value | sort -n | limit {VALUES_MAX}"
    );
    let Some(query) = netconn_query::parse(&text).query else { return Ok(Vec::new()) };
    let search = session.search()?;
    let gathered = async {
        let mut values = Vec::new();
        let mut answer = search.run(&query).await?;
        while let Some(batch) = answer.batches.next().await {
            let batch: RecordBatch = batch?;
            let Ok(place) = batch.schema().index_of("value") else { break };
            for row in 0..batch.num_rows() {
                values.extend(column::cell_text(&batch, place, row)?);
            }
        }
        Ok(values)
    };
    // What was gathered until then is dropped with the search; the editor asks anew next time.
    let soon = async { tokio::time::timeout(VALUES_TIMEOUT, gathered).await.unwrap_or_else(|_| Ok(Vec::new())) };
    session.block_on(soon)
}

//! Queries one after another, typed on a terminal.

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
        help,
        session::{RefusedQuery, SearchSession, report},
    },
    editor::{self, SubmitOutcome, helper::EditorKnowledge},
    home,
    output::column,
};

/// How long one waits for the values of a field.
const VALUES_TIMEOUT: Duration = Duration::from_secs(1);

/// Events that are looked at for the values of a field.
const VALUES_EVENTS_MAX: usize = 200_000;

/// Values that are offered.
const VALUES_MAX: usize = 30;

/// What is said at the beginning.
const WELCOME: &str = "\
Type a query, like: event.type = 'IP Connect' | top 10 count() by src.process.name
Tab completes, Alt-Enter begins a line; `help`, `help NAME`, `help fields`, `last 3d` (time range), `quit`.";

/// Reads queries and shows their answers until the end.
pub(super) fn run(session: &mut SearchSession) -> Result<Exit> {
    // Also says at once what is wrong with the files.
    let search = session.search()?;
    let fields: Vec<String> = session.block_on(async { Ok(search.fields().await?) })?;
    anstream::eprintln!("{WELCOME}");
    let history = home::history();
    let are_colours_wanted = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let session = std::cell::RefCell::new(session);
    let values = |field: &str| values(&session.borrow(), field).unwrap_or_default();
    let knowledge = EditorKnowledge::new(fields, Box::new(values));
    editor::run(knowledge, history.as_deref(), are_colours_wanted, |knowledge, text| {
        match typed(&mut session.borrow_mut(), knowledge, text) {
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

/// What is typed where no terminal is: nothing.
pub(super) fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Does what was typed.
fn typed(session: &mut SearchSession, knowledge: &EditorKnowledge<'_>, text: &str) -> Result<SubmitOutcome> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match (word, rest.trim()) {
        ("quit" | "exit" | "\\q", "") => return Ok(SubmitOutcome::Quit),
        ("help" | "?", "") => print(&help::language())?,
        ("help" | "?", "fields") => print(&help::fields())?,
        ("help" | "?", name) => print(&help::of(name))?,
        ("last", length) if !length.is_empty() && !length.contains('=') => {
            let mut other = session.clone();
            other.source.say_last(length);
            set_range(session, other, knowledge)?;
        }
        ("since", time) if !time.is_empty() && !time.contains('=') => {
            let mut other = session.clone();
            other.source.say_since(time);
            set_range(session, other, knowledge)?;
        }
        _ => {
            let (query, diagnostics) = session.parse(text)?;
            session.block_on(session.show(text, &query, diagnostics))?;
        }
    }
    Ok(SubmitOutcome::Done)
}

/// Takes another range, if it can be read.
fn set_range(session: &mut SearchSession, other: SearchSession, knowledge: &EditorKnowledge<'_>) -> Result<()> {
    let Some(range) = other.range()? else { return Ok(()) };
    let shown = [range.start, range.end].map(|ms| {
        let moment = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
        moment.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    });
    anstream::eprintln!("from {} to {}", shown[0], shown[1]);
    *session = other;
    knowledge.forget_values();
    Ok(())
}

fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The most frequent values of a field, if they can be had soon.
fn values(session: &SearchSession, field: &str) -> Result<Vec<String>> {
    let is_plain = field.chars().all(|character| character.is_alphanumeric() || "._-".contains(character));
    if !is_plain {
        return Ok(Vec::new());
    }
    // Case may differ from that of the table of fields.
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
    let soon = async { tokio::time::timeout(VALUES_TIMEOUT, gathered).await.unwrap_or_else(|_| Ok(Vec::new())) };
    session.block_on(soon)
}

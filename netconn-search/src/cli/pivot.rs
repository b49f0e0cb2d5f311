//! From one thing to all that belongs to it: the time around an event, a process with its children, a connection, indicators.
//!
//! Each becomes a condition before the query, which then sees nothing else.

use std::{
    collections::HashSet,
    io::Write as _,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;
use futures::StreamExt as _;
use jiff::SignedDuration;
use netconn_model::field::Field;
use netconn_query::{
    ast::{
        BinaryOp, Case, Column, Command, CommandKind, Expr, ExprKind, LookupColumn, LookupKey, LookupMatch, Name,
        Query, SortKey, Span,
    },
    duration,
};
use tempfile::TempPath;

use crate::{
    cli::{
        error::{WrongUse, located},
        session::{SearchSession, SearchedTime, say},
    },
    engine::search::{INDICATORS, ROWS},
    indicator::{Indicators, UnreadIndicator},
    output::{OutputFormat, column, destination::is_terminal, summary::counted},
};

/// How far around an event is looked, if nothing is said.
const AROUND: &str = "10m";

/// Generations of children that are looked for. It bounds the number of searches.
const GENERATIONS_MAX: usize = 16;

/// Most processes, and most values that indicators match: more is no condition but nearly everything.
const VALUES_MAX: usize = 100_000;

/// How long before and after a connection its other end on this host may be told, milliseconds.
const OTHER_END_MS: i64 = 60_000;

/// Most lines of a file of indicators that are named as unread.
const UNREAD_TOLD: usize = 10;

/// The column that says where a row is: `before`, `this` or `after`.
const AROUND_COLUMN: &str = "around";

/// The column that says which indicator a row has.
const INDICATOR_COLUMN: &str = "indicator";

/// The options that select what belongs to one thing.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "What belongs together")]
pub(super) struct PivotOptions {
    /// Events of the same host from this long before the event with this event.id to this long after it [default: 10m]. The
    /// column `around` marks the event: before, this, after.
    #[arg(long, value_names = ["EVENT_ID", "LENGTH"], num_args = 1..=2)]
    around: Vec<String>,
    /// Events of the process with this src.process.uid, and of its children and their children.
    #[arg(long, value_name = "UID")]
    of_process: Option<String>,
    /// Events of the connection with this event.connection.id or event.network.communityId, at both ends if both are here.
    #[arg(long, value_name = "ID")]
    of_connection: Option<String>,
    /// Events with an indicator of this file: addresses, networks and names of hosts, one on each line or in the first
    /// column of a CSV, also written as 192.0.2[.]1 or hxxp://host[.]example. The column `indicator` says which. Names are
    /// looked for in command lines.
    #[arg(long, value_name = "FILE")]
    ioc: Option<PathBuf>,
}

impl PivotOptions {
    /// Whether one was given.
    pub(super) fn is_given(&self) -> bool {
        self.is_of_one_thing() || self.ioc.is_some()
    }

    /// Takes the query out of the values of `--around`, where it stands if no length was given.
    pub(super) fn take_query(&mut self) -> Option<String> {
        let is_query = self.around.get(1).is_some_and(|value| length(value).is_none() && !looks_like_length(value));
        if is_query { self.around.pop() } else { None }
    }
}

/// Returns the nanoseconds of a positive length of time.
fn length(text: &str) -> Option<i64> {
    duration::span(text).filter(|length| *length > 0)
}

/// Whether a text that is no length of time was probably meant as one.
fn looks_like_length(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
}

/// Puts the conditions before a query, and sets the searched time. Returns the table of indicators, which the query reads: it is removed
/// when it is dropped.
pub(super) fn apply(
    session: &mut SearchSession,
    options: &PivotOptions,
    query: &mut Query,
) -> Result<Option<TempPath>> {
    if !options.is_given() {
        return Ok(None);
    }
    let mut indicators = None;
    let (mut conditions, mut commands) = (Vec::new(), Vec::new());
    let mut event_time = None;
    // Whoever names one thing wants all of it: without a range, all of the history is searched.
    if session.source.time_arguments().is_empty() && options.is_of_one_thing() {
        session.time = SearchedTime::All;
    }
    if let [id, rest @ ..] = options.around.as_slice() {
        let length = rest.first().map_or(AROUND, String::as_str);
        event_time = Some(around(session, id, length, &mut conditions, &mut commands)?);
    }
    if let Some(uid) = &options.of_process {
        conditions.push(of_process(session, uid)?);
    }
    if let Some(id) = &options.of_connection {
        conditions.push(of_connection(session, id)?);
    }
    if let Some(file) = &options.ioc {
        let (condition, lookup, table) = with_indicators(session, file)?;
        conditions.push(condition);
        commands.push(lookup);
        session.indicators = Some(table.to_path_buf());
        indicators = Some(table);
    }
    let condition = conditions.into_iter().reduce(|one, other| binary(BinaryOp::And, one, other));
    let place = end_of_events(query);
    put_before(query, condition.as_ref(), &commands)?;
    if let (Some(time), Some(place)) = (event_time, place) {
        keep_nearest(session, query, time, commands.len() + place)?;
    }
    Ok(indicators)
}

impl PivotOptions {
    fn is_of_one_thing(&self) -> bool {
        !self.around.is_empty() || self.of_process.is_some() || self.of_connection.is_some()
    }
}

/// Returns the place in a query that shows events up to which its commands decide which; `None` for other queries, and for those that
/// have an order or a number of rows of their own.
fn end_of_events(query: &Query) -> Option<usize> {
    let decides = |command: &Command| {
        matches!(
            command.kind,
            CommandKind::Filter(_) | CommandKind::Let(_) | CommandKind::Parse { .. } | CommandKind::Lookup { .. }
        )
    };
    let place = query.commands.iter().position(|command| !decides(command)).unwrap_or(query.commands.len());
    let rest = &query.commands[place..];
    rest.iter().all(|command| matches!(command.kind, CommandKind::Columns(_) | CommandKind::Let(_))).then_some(place)
}

/// Keeps the events nearest to that of `--around` if a terminal would get the first ones only: it might not be among these.
fn keep_nearest(session: &SearchSession, query: &mut Query, time: i64, place: usize) -> Result<()> {
    // JSON says itself that its rows are cut.
    if session.format == OutputFormat::Json || !is_terminal(session.presentation.output.as_deref()) {
        return Ok(());
    }
    let counted_query = Query {
        filter: query.filter.clone(),
        commands: query.commands.iter().take(place).cloned().collect(),
        span: Span::default(),
    };
    let all = rows(session, counted_query, "| group count()")?;
    let all: u64 = all.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).unwrap_or(0);
    if all > ROWS {
        let command = |kind| Command { kind, span: Span::default() };
        query.commands.splice(place..place, nearest(time, ROWS).map(command));
        // Also with --quiet: these would pass for all there are.
        say(&format!(
            "only the {ROWS} events nearest to the event are shown, of {all}; write to a file or pipe for all"
        ));
    }
    Ok(())
}

/// Returns the commands that keep so many events nearest to the one of `--around`, in the order of time.
fn nearest(time: i64, count: u64) -> [CommandKind; 3] {
    let key = |expr: Expr, descending: bool| SortKey { expr, descending };
    let by_time = || vec![key(field(Field::EventTime), false), key(field(Field::Timestamp), false)];
    let is_this =
        binary(BinaryOp::Equal, expr(ExprKind::Field(AROUND_COLUMN.into())), expr(ExprKind::Text("this".into())));
    let is_before = binary(BinaryOp::Less, field(Field::EventTime), number(time));
    let distance = ExprKind::Ternary {
        condition: Box::new(is_before),
        then: Box::new(binary(BinaryOp::Subtract, number(time), field(Field::EventTime))),
        otherwise: Box::new(binary(BinaryOp::Subtract, field(Field::EventTime), number(time))),
    };
    [
        CommandKind::Sort(vec![key(is_this, true), key(expr(distance), false), key(field(Field::EventTime), false)]),
        CommandKind::Limit(count),
        CommandKind::Sort(by_time()),
    ]
}

/// Puts a condition and commands before those of a query; if its rows come from its own queries only, before those of these.
fn put_before(query: &mut Query, condition: Option<&Expr>, commands: &[CommandKind]) -> Result<(), WrongUse> {
    let Some(condition) = condition else { return Ok(()) };
    if query.filter.is_none()
        && let Some(first) = query.commands.first_mut()
    {
        match &mut first.kind {
            CommandKind::Join { sides, .. } => {
                return sides.iter_mut().try_for_each(|side| put_before(&mut side.query, Some(condition), commands));
            }
            CommandKind::Union(queries) => {
                return queries.iter_mut().try_for_each(|query| put_before(query, Some(condition), commands));
            }
            CommandKind::Dataset(_) => {
                return Err(WrongUse(
                    "--around, --of-process, --of-connection and --ioc select events, and this query reads a table instead"
                        .into(),
                ));
            }
            _ => {}
        }
    }
    query.filter = Some(match query.filter.take() {
        Some(filter) => binary(BinaryOp::And, condition.clone(), filter),
        None => condition.clone(),
    });
    let command = |kind: &CommandKind| Command { kind: kind.clone(), span: Span::default() };
    query.commands.splice(0..0, commands.iter().map(command));
    Ok(())
}

/// Adds what `--around` selects: the time, the host, the mark and the order. Returns the time of the event, epoch milliseconds.
fn around(
    session: &mut SearchSession,
    id: &str,
    text: &str,
    conditions: &mut Vec<Expr>,
    commands: &mut Vec<CommandKind>,
) -> Result<i64> {
    let length = length(text).with_context(|| format!("'{text}' is not a length of time: use 30s, 15m, 4 hours or 3d"));
    let length = length.map_err(|error| WrongUse(error.to_string()))?;
    let is_this = equal(Field::EventId, id);
    let found = rows(session, filter(is_this.clone()), "| columns event.time, agent.uuid | limit 1")?;
    let Some([Some(time), sensor]) = found.first().map(Vec::as_slice) else {
        return Err(nothing(session, &format!("no event has the id '{id}'")).into());
    };
    let time: i64 = time.parse().map_err(|_| WrongUse(format!("the event '{id}' has no time")))?;
    let length = SignedDuration::from_nanos(length).as_millis();
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    // The end is excluded.
    let mut range = time.saturating_sub(length)..time.saturating_add(length).saturating_add(1);
    if let Some(asked) = session.range()? {
        range = range.start.max(asked.start)..range.end.min(asked.end);
    }
    session.time = SearchedTime::Fixed(range);
    conditions.push(match sensor {
        Some(sensor) => equal(Field::AgentUuid, sensor),
        // Events of other programs do not say whose they are.
        None => expr(ExprKind::Bool(true)),
    });
    let side = |name: &str| Box::new(expr(ExprKind::Text(name.into())));
    let is_before = binary(BinaryOp::Less, field(Field::EventTime), number(time));
    let kind = ExprKind::Ternary { condition: Box::new(is_before), then: side("before"), otherwise: side("after") };
    let kind = ExprKind::Ternary { condition: Box::new(is_this), then: side("this"), otherwise: Box::new(expr(kind)) };
    let column = Column { name: Some(name(AROUND_COLUMN)), expr: expr(kind), label: AROUND_COLUMN.into() };
    commands.push(CommandKind::Let(vec![column]));
    let key = |field_of: Field| SortKey { expr: field(field_of), descending: false };
    commands.push(CommandKind::Sort(vec![key(Field::EventTime), key(Field::Timestamp)]));
    Ok(time)
}

/// Returns the condition that a process or one of its descendants is the one of an event.
fn of_process(session: &SearchSession, uid: &str) -> Result<Expr> {
    if uid.bytes().all(|byte| byte.is_ascii_digit()) {
        let message = format!(
            "'{uid}' is a process id, which other processes get too: take the src.process.uid of one of its events \
             (`netconn search \"src.process.pid = {uid}\" --format json`)"
        );
        return Err(WrongUse(message).into());
    }
    let mut all = vec![uid.to_owned()];
    let mut seen: HashSet<String> = HashSet::from([uid.to_owned()]);
    let mut parents = all.clone();
    for _ in 0..GENERATIONS_MAX {
        let children = rows(session, filter(any_of(Field::ParentUid, &parents)), "| group count() by src.process.uid")?;
        let mut children: Vec<String> = children.into_iter().filter_map(|row| row.into_iter().next()?).collect();
        children.retain(|child| seen.insert(child.clone()));
        all.extend(children.iter().cloned());
        if all.len() > VALUES_MAX {
            return Err(WrongUse(format!("the process '{uid}' has more than {VALUES_MAX} descendants")).into());
        }
        parents = children;
        if parents.is_empty() {
            break;
        }
    }
    if all.len() == 1 && rows(session, filter(equal(Field::ProcessUid, uid)), "| limit 1")?.is_empty() {
        return Err(nothing(session, &format!("no event has the process '{uid}'")).into());
    }
    let mut notes = vec![format!("this process and {}", counted(all.len() as u64 - 1, "descendant"))];
    if !parents.is_empty() {
        notes.push(format!(
            "children of its descendants in generation {GENERATIONS_MAX} were not looked for: name one of these processes for them"
        ));
    }
    session.show_notes(&notes);
    Ok(any_of(Field::ProcessUid, &all))
}

/// Returns the condition for the events of a connection.
fn of_connection(session: &SearchSession, id: &str) -> Result<Expr> {
    let (of_id, of_flow) = (equal(Field::ConnectionId, id), equal(Field::CommunityId, id));
    let is_it = binary(BinaryOp::Or, of_id, of_flow);
    let commands = "| group first = min(event.time), last = max(event.time) by event.network.communityId";
    let flows = rows(session, filter(is_it.clone()), commands)?;
    if flows.is_empty() {
        return Err(nothing(session, &format!("no event has the connection '{id}'")).into());
    }
    let mut condition = is_it;
    // The other end has another identity, but the same flow hash; later connections may have that too.
    for flow in flows {
        let [Some(flow), Some(first), Some(last)] = flow.as_slice() else { continue };
        let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) else { continue };
        let within: Range<i64> = first.saturating_sub(OTHER_END_MS)..last.saturating_add(OTHER_END_MS);
        let begins = binary(BinaryOp::GreaterOrEqual, field(Field::EventTime), number(within.start));
        let ends = binary(BinaryOp::LessOrEqual, field(Field::EventTime), number(within.end));
        let time = binary(BinaryOp::And, begins, ends);
        condition = binary(BinaryOp::Or, condition, binary(BinaryOp::And, equal(Field::CommunityId, flow), time));
    }
    Ok(condition)
}

/// Returns the condition that an event has an indicator of a file, the command that adds which, and its table.
fn with_indicators(session: &SearchSession, file: &Path) -> Result<(Expr, CommandKind, TempPath)> {
    let text = std::fs::read(file).with_context(|| format!("cannot read the indicators in {}", file.display()))?;
    let (indicators, unread) = Indicators::read(&String::from_utf8_lossy(&text));
    session.show_notes(&unread_notes(file, &unread));
    if indicators.is_empty() {
        let message = format!("{} has no address, network or name of a host in any line", file.display());
        return Err(WrongUse(message).into());
    }
    // The values that occur are fewer than the events, and most files of indicators match none of them.
    let mut matched: Vec<(String, String)> = Vec::new();
    let mut of_field = |field: Field, find: &dyn Fn(&str) -> Option<String>| -> Result<Vec<String>> {
        let present = Query { filter: None, commands: Vec::new(), span: Span::default() };
        let values = rows(session, present, &format!("| group count() by {}", field.info().name))?;
        let mut found = Vec::new();
        for value in values.into_iter().filter_map(|row| row.into_iter().next()?) {
            if let Some(indicator) = find(&value) {
                matched.push((value.clone(), indicator));
                found.push(value);
            }
        }
        if found.len() > VALUES_MAX {
            let message = format!(
                "the indicators in {} are those of more than {VALUES_MAX} values of {}: they are too wide",
                file.display(),
                field.info().name
            );
            return Err(WrongUse(message).into());
        }
        Ok(found)
    };
    let mut sets = Vec::new();
    if indicators.has_addresses() {
        let find = |value: &str| indicators.of_address(value).map(str::to_owned);
        for field in [Field::DstAddress, Field::SrcAddress, Field::LocalAddress] {
            sets.push((field, of_field(field, &find)?));
        }
    }
    if indicators.has_names() {
        let find = |value: &str| indicators.of_text(value).map(str::to_owned);
        sets.push((Field::ProcessCmdline, of_field(Field::ProcessCmdline, &find)?));
    }
    session.show_notes(&[format!(
        "{} in {}, {} of them in the searched events",
        counted(indicators.len() as u64, "indicator"),
        file.display(),
        matched.iter().map(|(_, indicator)| indicator).collect::<std::collections::BTreeSet<_>>().len()
    )]);
    matched.sort();
    matched.dedup();
    let mut table = csv::Writer::from_writer(tempfile::NamedTempFile::new()?);
    table.write_record(["value", "indicator"])?;
    for (value, indicator) in &matched {
        table.write_record([value, indicator])?;
    }
    let mut table = table.into_inner().map_err(csv::IntoInnerError::into_error)?;
    table.flush()?;
    sets.retain(|(_, values)| !values.is_empty());
    let conditions = sets.iter().map(|(field, values)| any_of(*field, values));
    let condition = conditions.reduce(|one, other| binary(BinaryOp::Or, one, other));
    // Nothing matched: the query still runs, because it may count.
    let condition = condition.unwrap_or_else(|| expr(ExprKind::Bool(false)));
    // The value that matched, of the first field that did.
    let mut key = expr(ExprKind::Null);
    for (of_field, values) in sets.iter().rev() {
        let condition = Box::new(any_of(*of_field, values));
        let kind = ExprKind::Ternary { condition, then: Box::new(field(*of_field)), otherwise: Box::new(key) };
        key = expr(kind);
    }
    let lookup = CommandKind::Lookup {
        columns: vec![LookupColumn { name: name(INDICATOR_COLUMN), source: name(INDICATOR_COLUMN) }],
        table: name(INDICATORS),
        by: vec![LookupKey { column: name("value"), how: LookupMatch::Equal, expr: key }],
    };
    Ok((condition, lookup, table.into_temp_path()))
}

/// Says which lines of a file were not read.
fn unread_notes(file: &Path, unread: &[UnreadIndicator]) -> Vec<String> {
    let line = |unread: &UnreadIndicator| {
        format!("{}, line {}: '{}' is no address, network or name of a host", file.display(), unread.line, unread.text)
    };
    let mut notes: Vec<String> = unread.iter().take(UNREAD_TOLD).map(line).collect();
    if let Some(more) = unread.len().checked_sub(UNREAD_TOLD).filter(|more| *more > 0) {
        notes.push(format!("{}: {} more are none either", file.display(), counted(more as u64, "line")));
    }
    notes
}

/// Runs a query of this module over the searched time; returns its rows as texts.
fn rows(session: &SearchSession, mut query: Query, commands: &str) -> Result<Vec<Vec<Option<String>>>> {
    let parsed = netconn_query::parse(&format!("{commands} | nolimit")).query;
    query.commands.extend(parsed.map(|parsed| parsed.commands).unwrap_or_default());
    let mut search = session.search()?;
    search.max_rows = None;
    session.block_on(session.interruptible(async {
        let mut rows = Vec::new();
        let mut answer = search.run(&query).await.map_err(|error| located(error, ""))?;
        while let Some(batch) = answer.batches.next().await {
            let batch = batch?;
            for row in 0..batch.num_rows() {
                let cells = (0..batch.num_columns()).map(|place| column::cell_text(&batch, place, row));
                rows.push(cells.collect::<Result<Vec<_>, _>>()?);
            }
        }
        Ok(rows)
    }))
}

/// Returns the error that something named by the user does not occur.
fn nothing(session: &SearchSession, what: &str) -> WrongUse {
    let place = if session.source.file.is_empty() { "the history" } else { "the named files" };
    let range = if session.source.time_arguments().is_empty() { "" } else { " of this time" };
    WrongUse(format!("{what} in {place}{range}"))
}

fn filter(condition: Expr) -> Query {
    Query { filter: Some(condition), commands: Vec::new(), span: Span::default() }
}

fn expr(kind: ExprKind) -> Expr {
    Expr { kind, span: Span::default() }
}

fn field(field: Field) -> Expr {
    expr(ExprKind::Field(field.info().name.to_owned()))
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds are below 2^53")]
fn number(value: i64) -> Expr {
    expr(ExprKind::Number(value as f64))
}

fn name(text: &str) -> Name {
    Name { text: text.to_owned(), span: Span::default() }
}

fn binary(op: BinaryOp, left: Expr, right: Expr) -> Expr {
    expr(ExprKind::Binary { op, left: Box::new(left), right: Box::new(right) })
}

fn equal(of: Field, text: &str) -> Expr {
    binary(BinaryOp::Equal, field(of), expr(ExprKind::Text(text.to_owned())))
}

fn any_of(of: Field, texts: &[String]) -> Expr {
    let set = texts.iter().map(|text| expr(ExprKind::Text(text.clone()))).collect();
    expr(ExprKind::In { case: Case::Sensitive, value: Box::new(field(of)), set })
}

#[cfg(test)]
mod tests {
    use netconn_query::{parse, printer};

    use super::*;

    #[test]
    fn conditions_come_before_a_query() {
        let put = |text: &str| {
            let mut query = parse(text).query.unwrap();
            let commands = [CommandKind::Limit(5)];
            put_before(&mut query, Some(&equal(Field::EventId, "x")), &commands)?;
            Ok::<_, WrongUse>(printer::lines(&query).split_whitespace().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(put("").unwrap(), "event.id = 'x' | limit 5");
        assert_eq!(put("a = 1 or b = 2 | sort a").unwrap(), "event.id = 'x' and (a = 1 or b = 2) | limit 5 | sort a");
        assert_eq!(
            put("| union (a = 1), (| group count())").unwrap(),
            "| union (event.id = 'x' and a = 1 | limit 5), (event.id = 'x' | limit 5 | group count())"
        );
        assert!(put("| dataset 'hosts'").unwrap_err().to_string().contains("reads a table"));
    }

    #[test]
    fn the_second_value_of_around_may_be_the_query() {
        let taken = |values: &[&str]| {
            let around = values.iter().map(|value| (*value).to_owned()).collect();
            let mut options = PivotOptions { around, ..PivotOptions::default() };
            (options.take_query(), options.around.len())
        };
        assert_eq!(taken(&["a-1"]), (None, 1));
        assert_eq!(taken(&["a-1", "5m"]), (None, 2));
        assert_eq!(taken(&["a-1", "5x"]), (None, 2));
        assert_eq!(taken(&["a-1", "event.type = 'IP Close'"]), (Some("event.type = 'IP Close'".into()), 1));
    }
}

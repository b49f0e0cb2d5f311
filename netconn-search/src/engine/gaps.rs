//! Finds the times in which no daemon recorded events: between the end of one and the start of the next.
//!
//! The starts and ends are events (`Sensor Start`, `Sensor Stop`). Lines are looked through while a search reads them; of
//! Parquet files those are read whose statistics say that they have such events. A daemon that was killed leaves no end: then
//! its last event is looked for, in Parquet files in the hour before the next start first. Lines are read once more for all of
//! these daemons together.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch},
        datatypes::Int64Type,
    },
    datasource::provider_as_source,
    execution::SessionState,
    functions_aggregate::min_max::max,
    logical_expr::{Expr, LogicalPlanBuilder, lit, when},
    physical_plan::{collect, execute_stream},
};
use futures::StreamExt as _;
use netconn_model::{fact::EventKind, field::Field};
use netconn_query::value::Value;

use super::{
    error::Result,
    function::column::{normal, value_at},
    plan::{physical_plan, rows_column},
    source::{
        sensor::{SENSOR_EVENTS_MAX, SensorEvent},
        table::EventTable,
    },
};

/// How far back the last event of a killed daemon is looked for in Parquet files, milliseconds; then in all of their events.
const LOOKS_BACK: [i64; 2] = [3_600_000, 86_400_000];

/// Most killed daemons of a sensor whose last event is looked for, the latest of them: each look reads a part of a file.
const LOOKS_MAX: usize = 32;

/// Most gaps that are returned, the latest of them.
const GAPS_MAX: usize = 1_000;

/// When nothing was recorded.
#[derive(Debug, Default)]
pub struct Gaps {
    /// The gaps that overlap the searched time, the earliest first.
    pub gaps: Vec<Gap>,
    /// What else is to be said about them, one sentence each.
    pub notes: Vec<String>,
}

/// A time in which no events were recorded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// The end of the daemon, or its last event, epoch milliseconds; `None` if that is not known.
    pub from: Option<i64>,
    /// The start of the next daemon, epoch milliseconds; `None` if none started in what was searched.
    pub to: Option<i64>,
    /// Whether a `Sensor Stop` says when it began. Else `from` is the last event, and the daemon was killed.
    pub is_told: bool,
    /// `agent.uuid` of the sensor.
    pub sensor: String,
}

impl Gap {
    /// Returns the gap before a start.
    fn before(start: &SensorEvent, from: Option<i64>, is_told: bool) -> Self {
        // A clock that was set back hides how long it was.
        let from = from.filter(|from| *from < start.time);
        Self { from, to: Some(start.time), is_told, sensor: start.sensor.clone() }
    }

    fn overlaps(&self, range: Option<&Range<i64>>) -> bool {
        range.is_none_or(|range| {
            self.from.is_none_or(|from| from < range.end) && self.to.is_none_or(|to| to > range.start)
        })
    }
}

/// What is known of the daemons that recorded the events of an answer.
pub struct Recording {
    events: Arc<EventTable>,
    state: Arc<SessionState>,
    range: Option<Range<i64>>,
    /// Whether the answer depends on events at all.
    reads_events: bool,
}

impl Recording {
    pub(crate) fn new(
        events: Arc<EventTable>,
        state: Arc<SessionState>,
        range: Option<Range<i64>>,
        reads_events: bool,
    ) -> Self {
        Self { events, state, range, reads_events }
    }

    /// Returns when nothing was recorded in the searched time. To be called after the last row: the readers of lines find the
    /// starts and ends.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub async fn gaps(&self) -> Result<Gaps> {
        let mut notes = Vec::new();
        if !self.reads_events {
            return Ok(Gaps::default());
        }
        let mut events = self.sensor_events().await?;
        if self.events.sensor_log().is_cut() {
            notes.push(format!(
                "the files have more than {SENSOR_EVENTS_MAX} starts and ends of daemons: it is not known whether netconn was \
                 running all the time"
            ));
        }
        if self.events.sensor_log().whole().is_none() && self.events.has_large_lines() {
            notes.push(
                "the named files were not read to their ends: it is not known whether netconn was running all the time"
                    .to_owned(),
            );
        }
        events.sort_unstable();
        events.dedup();
        let mut sensors: BTreeMap<&str, Vec<&SensorEvent>> = BTreeMap::new();
        for event in &events {
            sensors.entry(&event.sensor).or_default().push(event);
        }
        let (mut gaps, mut killed) = (Vec::new(), Vec::new());
        for events in sensors.values() {
            let mut looks = LOOKS_MAX;
            // The latest first, because the looks are limited.
            for (place, start) in events.iter().enumerate().rev().filter(|(_, event)| event.is_start) {
                match place.checked_sub(1).map(|place| events[place]) {
                    Some(stop) if !stop.is_start => gaps.push(Gap::before(start, Some(stop.time), true)),
                    // Nobody asks where a gap before the searched time began.
                    _ if self.range.as_ref().is_some_and(|range| start.time <= range.start) => {}
                    _ if looks == 0 => gaps.push(Gap::before(start, None, false)),
                    before => {
                        looks -= 1;
                        killed.push(Killed { start, before });
                    }
                }
            }
            if let Some(stop) = events.last().filter(|event| !event.is_start) {
                gaps.push(Gap { from: Some(stop.time), to: None, is_told: true, sensor: stop.sensor.clone() });
            }
        }
        for (Killed { start, before }, last) in killed.iter().zip(self.last_of(&killed).await?) {
            // Without an event before it, the start is the beginning of all that is known.
            if last.is_some() || before.is_some() {
                gaps.push(Gap::before(start, last, false));
            }
        }
        gaps.retain(|gap| gap.overlaps(self.range.as_ref()));
        gaps.sort_by_key(|gap| (gap.from.or(gap.to), gap.to));
        if let Some(more) = gaps.len().checked_sub(GAPS_MAX).filter(|more| *more > 0) {
            gaps.drain(..more);
            notes.push(format!("before these {GAPS_MAX} times in which nothing was recorded there were {more} more"));
        }
        Ok(Gaps { gaps, notes })
    }

    /// Returns the time of the last event, epoch milliseconds; `None` if there are no events.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub async fn last_event(&self) -> Result<Option<i64>> {
        self.latest(&Arc::new(self.events.apart()), None).await
    }

    /// Returns the starts and ends in the files of the search.
    async fn sensor_events(&self) -> Result<Vec<SensorEvent>> {
        let of_lines = self.events.sensor_log().whole();
        let Some(table) = self.events.with_sensor_events(of_lines.is_none()) else {
            return Ok(of_lines.unwrap_or_default());
        };
        let columns = [Field::EventType, Field::EventTime, Field::EventId, Field::AgentUuid];
        let kinds =
            [EventKind::SensorStart, EventKind::SensorStop].map(|kind| field(Field::EventType).eq(lit(kind.name())));
        let [start, stop] = kinds;
        let plan = LogicalPlanBuilder::scan("sensor", provider_as_source(Arc::new(table)), None)?
            .filter(start.or(stop))?
            .project(columns.map(field))?
            .build()?;
        let physical = physical_plan(&self.state, &plan).await?;
        let mut batches = execute_stream(physical, self.state.task_ctx())?;
        let mut found = of_lines.unwrap_or_default();
        'batches: while let Some(batch) = batches.next().await {
            let batch = batch?;
            let columns = batch.columns().iter().map(normal).collect::<datafusion::error::Result<Vec<_>>>()?;
            for row in 0..batch.num_rows() {
                if found.len() >= SENSOR_EVENTS_MAX {
                    self.events.sensor_log().cut();
                    break 'batches;
                }
                let text = |place: usize| value_at(&columns[place], row).text().unwrap_or_default().into_owned();
                // In files of other programs the time may be a text, which cannot be ordered with the others.
                if let Value::Integer(time) = value_at(&columns[1], row) {
                    found.extend(SensorEvent::new(&text(0), time, &text(2), &text(3)));
                }
            }
        }
        Ok(found)
    }

    /// Returns for each killed daemon the time of its last event; `None` if there is none.
    async fn last_of(&self, killed: &[Killed<'_>]) -> Result<Vec<Option<i64>>> {
        // Lines are read as a whole whatever the condition is, so once for all.
        let latest_start = killed.iter().map(|killed| killed.start.time).max();
        let of_lines = match latest_start.and_then(|time| self.events.lines_before(time)) {
            Some(lines) => self.latest_of(&Arc::new(lines), killed.iter().map(Killed::condition).collect()).await?,
            None => vec![None; killed.len()],
        };
        let mut lasts = Vec::with_capacity(killed.len());
        for (killed, of_lines) in killed.iter().zip(of_lines) {
            let of_parquet = self.last_of_parquet(killed).await?;
            // Files before the searched time are not opened: their names say when their last event was.
            let outside = || self.events.ended_before().filter(|last| *last < killed.start.time);
            lasts.push(of_lines.max(of_parquet).or_else(outside));
        }
        Ok(lasts)
    }

    /// Returns the time of the last event of a killed daemon in the Parquet files, of which only those parts are read that may have
    /// it.
    async fn last_of_parquet(&self, killed: &Killed<'_>) -> Result<Option<i64>> {
        let time = killed.start.time;
        let Some(table) = self.events.parquet_before(time) else { return Ok(None) };
        let table = Arc::new(table);
        let since = LOOKS_BACK.map(|back| Some(time.saturating_sub(back)));
        for since in since.into_iter().chain([None]) {
            let condition = match since {
                Some(since) => killed.condition().and(field(Field::EventTime).gt_eq(lit(since))),
                None => killed.condition(),
            };
            if let Some(last) = self.latest(&table, Some(condition)).await? {
                return Ok(Some(last));
            }
        }
        Ok(None)
    }

    /// Returns for each condition the time of the latest event of a table for which it holds, with one scan.
    async fn latest_of(&self, table: &Arc<EventTable>, conditions: Vec<Expr>) -> Result<Vec<Option<i64>>> {
        let source = provider_as_source(Arc::<EventTable>::clone(table));
        let mut latest = Vec::with_capacity(conditions.len());
        for (place, condition) in conditions.into_iter().enumerate() {
            let time = when(condition, field(Field::EventTime)).end()?;
            latest.push(max(time).alias(format!("last{place}")));
        }
        let plan =
            LogicalPlanBuilder::scan("recorded", source, None)?.aggregate(Vec::<Expr>::new(), latest)?.build()?;
        let physical = physical_plan(&self.state, &plan).await?;
        let batches = collect(physical, self.state.task_ctx()).await?;
        let columns = batches.first().map(RecordBatch::columns).unwrap_or_default();
        Ok(columns.iter().map(first_value).collect())
    }

    /// Returns the time of the latest event of a table for which a condition holds.
    async fn latest(&self, table: &Arc<EventTable>, condition: Option<Expr>) -> Result<Option<i64>> {
        let source = provider_as_source(Arc::<EventTable>::clone(table));
        let mut plan = LogicalPlanBuilder::scan("recorded", source, None)?;
        if let Some(condition) = condition {
            plan = plan.filter(condition)?;
        }
        let plan = plan.aggregate(Vec::<Expr>::new(), [max(field(Field::EventTime)).alias("last")])?.build()?;
        let physical = physical_plan(&self.state, &plan).await?;
        let batches = collect(physical, self.state.task_ctx()).await?;
        Ok(batches.first().and_then(|batch| first_value(batch.column(0))))
    }
}

/// A daemon that was killed: another one started, and no end of the one before it is known.
struct Killed<'a> {
    /// The next start.
    start: &'a SensorEvent,
    /// The start of the killed daemon, if it is known.
    before: Option<&'a SensorEvent>,
}

impl Killed<'_> {
    /// Returns the condition that an event is one of the killed daemon.
    fn condition(&self) -> Expr {
        let start = self.start;
        let mut condition = field(Field::EventTime).lt(lit(start.time));
        if !start.sensor.is_empty() {
            condition = condition.and(field(Field::AgentUuid).eq(lit(start.sensor.clone())));
        }
        // A start tells of older connections with the times at which they began, so times alone say too little.
        match self.before {
            // The digits of a run have no wildcards.
            Some(before) if !before.run.is_empty() => {
                condition.and(field(Field::EventId).like(lit(format!("{}-%", before.run))))
            }
            _ => {
                let is_old = field(Field::Preexisting).is_not_true();
                let is_other = field(Field::EventId).not_like(lit(format!("{}-%", start.run)));
                condition.and(is_old).and(is_other)
            }
        }
    }
}

/// Returns the first value of a column of whole numbers.
fn first_value(column: &ArrayRef) -> Option<i64> {
    let column = column.as_primitive_opt::<Int64Type>()?;
    (!column.is_empty() && column.is_valid(0)).then(|| column.value(0))
}

fn field(field: Field) -> Expr {
    rows_column(field.info().name)
}

//! Finds the times in which no daemon recorded events: between the end of one and the start of the next.
//!
//! The starts and ends are events (`Sensor Start`, `Sensor Stop`). Lines are looked through while a search reads them; of
//! Parquet files those are read whose statistics say that they have such events. A daemon that was killed leaves no end: then
//! its last event is looked for, in the hour before the next start first.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, AsArray},
        datatypes::Int64Type,
    },
    datasource::provider_as_source,
    execution::SessionState,
    functions_aggregate::min_max::max,
    logical_expr::{Expr, LogicalPlanBuilder, lit},
    physical_plan::collect,
};
use netconn_model::{fact::EventKind, field::Field};
use netconn_query::value::Value;

use super::{
    error::Result,
    function::column::{normal, value_at},
    plan::{physical_plan, rows_column},
    source::{sensor::SensorEvent, table::EventTable},
};

/// How far back the last event of a killed daemon is looked for, milliseconds; then in all events.
const LOOKS_BACK: [i64; 2] = [3_600_000, 86_400_000];

/// Most killed daemons whose last event is looked for, the latest of them: each look reads a part of a file.
const LOOKS_MAX: usize = 32;

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

    /// Returns the gaps that overlap the searched time, the earliest first. To be called after the last row: the readers of lines
    /// find the starts and ends.
    ///
    /// # Errors
    ///
    /// A file cannot be read.
    pub async fn gaps(&self) -> Result<Vec<Gap>> {
        if !self.reads_events {
            return Ok(Vec::new());
        }
        let mut events = self.sensor_events().await?;
        events.sort_unstable();
        events.dedup();
        let mut sensors: BTreeMap<&str, Vec<&SensorEvent>> = BTreeMap::new();
        for event in &events {
            sensors.entry(&event.sensor).or_default().push(event);
        }
        let mut gaps = Vec::new();
        for events in sensors.values() {
            let mut looks = LOOKS_MAX;
            // The latest first, because the looks are limited.
            for (place, start) in events.iter().enumerate().rev().filter(|(_, event)| event.is_start) {
                let before = place.checked_sub(1).map(|place| events[place]);
                let gap = match before {
                    Some(stop) if !stop.is_start => Some((Some(stop.time), true)),
                    // Nobody asks where a gap before the searched time began.
                    _ if self.range.as_ref().is_some_and(|range| start.time <= range.start) => None,
                    _ if looks == 0 => Some((None, false)),
                    before => {
                        looks -= 1;
                        // Without an event before it, the start is the beginning of all that is known.
                        self.last_before(start, before).await?.map(|last| (Some(last), false))
                    }
                };
                let Some((from, is_told)) = gap else { continue };
                // A clock that was set back hides how long it was.
                let from = from.filter(|from| *from < start.time);
                gaps.push(Gap { from, to: Some(start.time), is_told, sensor: start.sensor.clone() });
            }
            if let Some(stop) = events.last().filter(|event| !event.is_start) {
                gaps.push(Gap { from: Some(stop.time), to: None, is_told: true, sensor: stop.sensor.clone() });
            }
        }
        gaps.retain(|gap| gap.overlaps(self.range.as_ref()));
        gaps.sort_by_key(|gap| (gap.from.or(gap.to), gap.to));
        Ok(gaps)
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
        let batches = collect(physical, self.state.task_ctx()).await?;
        let mut found = of_lines.unwrap_or_default();
        for batch in &batches {
            let columns = batch.columns().iter().map(normal).collect::<datafusion::error::Result<Vec<_>>>()?;
            for row in 0..batch.num_rows() {
                let text = |place: usize| value_at(&columns[place], row).text().unwrap_or_default().into_owned();
                // In files of other programs the time may be a text, which cannot be ordered with the others.
                if let Value::Integer(time) = value_at(&columns[1], row) {
                    found.extend(SensorEvent::new(&text(0), time, &text(2), &text(3)));
                }
            }
        }
        Ok(found)
    }

    /// Returns the time of the last event before a start that no end precedes; `None` if there is none.
    async fn last_before(&self, start: &SensorEvent, before: Option<&SensorEvent>) -> Result<Option<i64>> {
        let table = Arc::new(self.events.before(start.time));
        let mut condition = field(Field::EventTime).lt(lit(start.time));
        if !start.sensor.is_empty() {
            condition = condition.and(field(Field::AgentUuid).eq(lit(start.sensor.clone())));
        }
        // A start tells of older connections with the times at which they began, so times alone say too little.
        condition = match before {
            // The digits of a run have no wildcards.
            Some(before) if !before.run.is_empty() => {
                condition.and(field(Field::EventId).like(lit(format!("{}-%", before.run))))
            }
            _ => {
                let is_old = field(Field::Preexisting).is_not_true();
                let is_other = field(Field::EventId).not_like(lit(format!("{}-%", start.run)));
                condition.and(is_old).and(is_other)
            }
        };
        let since = LOOKS_BACK.map(|back| Some(start.time.saturating_sub(back)));
        for since in since.into_iter().chain([None]) {
            let condition = match since {
                Some(since) => condition.clone().and(field(Field::EventTime).gt_eq(lit(since))),
                None => condition.clone(),
            };
            if let Some(last) = self.latest(&table, Some(condition)).await? {
                return Ok(Some(last));
            }
        }
        // Files before the searched time are not opened: their names say when their last event was.
        Ok(self.events.ended_before().filter(|last| *last < start.time))
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
        Ok(batches.first().and_then(|batch| {
            let column = batch.column(0).as_primitive_opt::<Int64Type>()?;
            (!column.is_empty() && column.is_valid(0)).then(|| column.value(0))
        }))
    }
}

fn field(field: Field) -> Expr {
    rows_column(field.info().name)
}

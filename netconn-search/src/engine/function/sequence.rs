//! Finds events that follow each other within a time, as a window function of DataFusion.

use std::{ops::Range, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array as _, ArrayRef, AsArray as _},
        datatypes::{DataType, Field, FieldRef, Int64Type},
    },
    common::exec_err,
    error::Result,
    logical_expr::{
        LimitEffect, PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl,
        function::{PartitionEvaluatorArgs, WindowUDFFieldArgs},
    },
    physical_plan::PhysicalExpr,
    scalar::ScalarValue,
};

/// Returns a window function over rows in the order of time: in a row that ends a sequence, the value that a column has in its first
/// row; null in all others. Its arguments are the steps that a row may be (bit 0 for the first), its time, and the column. `within` is
/// in the unit of the time.
pub(crate) fn first_of_sequence(steps: usize, within: i64) -> Arc<WindowUDF> {
    let signature = Signature::any(3, Volatility::Immutable);
    Arc::new(WindowUDF::from(FirstOfSequence { steps, within, signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FirstOfSequence {
    steps: usize,
    within: i64,
    signature: Signature,
}

impl WindowUDFImpl for FirstOfSequence {
    fn name(&self) -> &str {
        "_first_of_sequence"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(&self, _: PartitionEvaluatorArgs<'_>) -> Result<Box<dyn PartitionEvaluator>> {
        let begun = std::iter::repeat_with(|| None).take(self.steps.saturating_sub(1)).collect();
        Ok(Box::new(Sequences { within: self.within, begun }))
    }

    fn field(&self, arguments: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        let kind = arguments.input_fields().last().map_or(DataType::Null, |field| field.data_type().clone());
        Ok(Arc::new(Field::new(arguments.name(), kind, true)))
    }

    fn limit_effect(&self, _: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        // A row depends on those before it only.
        LimitEffect::None
    }
}

/// The sequences of rows with the same keys.
#[derive(Debug)]
struct Sequences {
    within: i64,
    /// At each place but the last: the sequence that has come so far.
    begun: Vec<Option<Begun>>,
}

/// A sequence of which the last event has not come yet.
#[derive(Debug)]
struct Begun {
    /// Time of its first event.
    time: i64,
    /// Value of its first event.
    value: ScalarValue,
}

impl Sequences {
    /// Adds an event; returns the value of the first event of the sequence that it ends.
    fn add(
        &mut self,
        steps: i64,
        time: i64,
        value: impl FnOnce() -> Result<ScalarValue>,
    ) -> Result<Option<ScalarValue>> {
        // The sequence that is nearest to its end goes before: an event is in one sequence only.
        for step in (0..=self.begun.len()).rev().filter(|step| steps & (1 << step) != 0) {
            let Some(before) = step.checked_sub(1) else {
                self.begun[0] = Some(Begun { time, value: value()? });
                break;
            };
            // One that is too old has no end: nothing that comes later is nearer to its beginning.
            let Some(begun) = self.begun[before].take_if(|begun| time.saturating_sub(begun.time) <= self.within) else {
                self.begun[before] = None;
                continue;
            };
            match self.begun.get_mut(step) {
                Some(place) => *place = Some(begun),
                None => return Ok(Some(begun.value)),
            }
            break;
        }
        Ok(None)
    }
}

impl PartitionEvaluator for Sequences {
    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        let row = range.start;
        let [steps, times, value] = values else { return exec_err!("a sequence has three arguments") };
        let numbers = [steps, times].map(|array| array.as_primitive_opt::<Int64Type>());
        let [Some(steps), Some(times)] = numbers else { return exec_err!("steps and times are whole numbers") };
        let ended = self.add(steps.value(row), times.value(row), || ScalarValue::try_from_array(value, row))?;
        ended.map_or_else(|| ScalarValue::try_new_null(value.data_type()), Ok)
    }

    fn is_causal(&self) -> bool {
        true
    }

    fn supports_bounded_execution(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds events with the steps that they may be, one in each unit of time; returns for each that ends a sequence where that began.
    fn found(steps: usize, within: i64, events: &[i64]) -> Vec<(usize, i64)> {
        let begun = std::iter::repeat_with(|| None).take(steps - 1).collect();
        let mut sequences = Sequences { within, begun };
        let add = |(time, steps): (usize, &i64)| {
            let value = || Ok(ScalarValue::Int64(Some(time as i64)));
            match sequences.add(*steps, time as i64, value).unwrap()? {
                ScalarValue::Int64(Some(first)) => Some((time, first)),
                other => panic!("{other}"),
            }
        };
        events.iter().enumerate().filter_map(add).collect()
    }

    #[test]
    fn an_event_is_in_one_sequence() {
        assert_eq!(found(2, 9, &[1, 2, 2, 1, 1, 2]), [(1, 0), (5, 4)], "the newest beginning counts");
        assert_eq!(found(2, 1, &[1, 0, 2, 1, 2]), [(4, 3)], "in time");
        assert_eq!(found(2, 9, &[3, 3, 3, 3]), [(1, 0), (3, 2)], "of the same events");
        assert_eq!(found(3, 9, &[7, 7, 7, 7, 7, 7]), [(2, 0), (5, 3)]);
        assert_eq!(found(3, 9, &[1, 2, 1, 4, 2, 4]), [(3, 0), (5, 2)], "one has begun while another goes on");
        assert_eq!(found(3, 9, &[1, 4, 2, 4]), [(3, 0)]);
        assert!(found(3, 2, &[1, 2, 1, 0, 2, 4]).is_empty(), "from the first event to the last");
    }
}

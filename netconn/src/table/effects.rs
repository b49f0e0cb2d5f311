//! The interface through which the tables reach the rest of the daemon.

use std::rc::Rc;

use netconn_common::{Flow, FlowKey, Owner};

use super::{Change, Connection};
use crate::process::{Process, Processes};

/// The interface through which the tables reach the rest of the daemon while they apply a record.
pub trait Effects {
    /// Returns the process that `owner` names, if it is known.
    fn process(&self, owner: &Owner) -> Option<Rc<Process>>;

    /// Removes a flow from the kernel's map and returns its final counters; `None` if the map does not have it.
    fn take_flow(&mut self, key: &FlowKey) -> Option<Flow>;

    /// Reports a change. `connection` is as it was right after the change; `time_ns` is in nanoseconds since boot.
    /// Changes are reported in order.
    fn emit(&mut self, change: Change, connection: &Connection, time_ns: u64);
}

/// Effects for callers that want the contents of a table only: changes are dropped, and flows stay in the kernel's map.
/// Processes are looked up, if there are any to look in.
pub struct Silent<'a>(pub Option<&'a Processes>);

impl Effects for Silent<'_> {
    fn process(&self, owner: &Owner) -> Option<Rc<Process>> {
        self.0?.of(owner)
    }

    fn take_flow(&mut self, _: &FlowKey) -> Option<Flow> {
        None
    }

    fn emit(&mut self, _: Change, _: &Connection, _: u64) {}
}

//! Effects for tests.

use std::rc::Rc;

use netconn_common::{Flow, FlowKey, Owner};

use super::{Change, Connection, Effects};
use crate::process::Process;

/// A change as it was emitted, with the connection as it was then and the time.
pub(crate) type Emitted = (Change, Connection, u64);

/// Takes flows from one closure and hands changes to another; knows no processes.
pub(crate) struct TestEffects<T, E> {
    take: T,
    emit: E,
}

/// Returns effects that hand changes to `emit`; the kernel has no flows.
pub(crate) fn emit_to<E: FnMut(Change, &Connection, u64)>(
    emit: E,
) -> TestEffects<impl FnMut(&FlowKey) -> Option<Flow>, E> {
    take_and_emit(|_| None, emit)
}

/// Returns effects that take flows from `take` and hand changes to `emit`.
pub(crate) fn take_and_emit<T, E>(take: T, emit: E) -> TestEffects<T, E>
where
    T: FnMut(&FlowKey) -> Option<Flow>,
    E: FnMut(Change, &Connection, u64),
{
    TestEffects { take, emit }
}

impl<T, E> Effects for TestEffects<T, E>
where
    T: FnMut(&FlowKey) -> Option<Flow>,
    E: FnMut(Change, &Connection, u64),
{
    fn process(&self, _: &Owner) -> Option<Rc<Process>> {
        None
    }

    fn take_flow(&mut self, key: &FlowKey) -> Option<Flow> {
        (self.take)(key)
    }

    fn emit(&mut self, change: Change, connection: &Connection, time_ns: u64) {
        (self.emit)(change, connection, time_ns);
    }
}

/// Records what is emitted.
pub(crate) struct Recorder<'a> {
    flows: &'a mut dyn FnMut(&FlowKey) -> Option<Flow>,
    emitted: Vec<Emitted>,
}

impl Effects for Recorder<'_> {
    fn process(&self, _: &Owner) -> Option<Rc<Process>> {
        None
    }

    fn take_flow(&mut self, key: &FlowKey) -> Option<Flow> {
        (self.flows)(key)
    }

    fn emit(&mut self, change: Change, connection: &Connection, time_ns: u64) {
        self.emitted.push((change, connection.clone(), time_ns));
    }
}

/// Returns what `step` emits; the kernel has no flows.
pub(crate) fn emitted(step: impl FnOnce(&mut Recorder<'_>)) -> Vec<Emitted> {
    emitted_with(|_| None, step)
}

/// Returns what `step` emits, which takes the kernel's flows from `take`.
pub(crate) fn emitted_with(
    mut take: impl FnMut(&FlowKey) -> Option<Flow>,
    step: impl FnOnce(&mut Recorder<'_>),
) -> Vec<Emitted> {
    let mut recorder = Recorder { flows: &mut take, emitted: Vec::new() };
    step(&mut recorder);
    recorder.emitted
}

//! The facts of a connection that filters compare, with the names of account, container and unit.

use netconn_common::Owner;
use netconn_model::filter::Subject;

use crate::{
    encode::present::Present,
    names::Names,
    process::{Processes, comm},
    table::Connection,
};

/// Hands a connection to the function in the form that filters of events compare: with the process that events name.
pub fn with_subject<T>(
    connection: &Connection,
    directory: &mut Names,
    now: u64,
    look: impl FnOnce(&Subject<'_>) -> T,
) -> T {
    let owner = &connection.owner;
    let interface = directory.interface(connection.namespace, connection.device, now);
    let subject = Subject { interface: interface.as_deref(), ..connection.subject() };
    with_names(subject, owner, &comm(&owner.comm), (directory, now), look)
}

/// Hands a connection to the function in the form that filters of rows compare: with the process that has it now. One that has
/// `ended` has the process that had it.
pub fn with_row_subject<T>(
    connection: &Connection,
    has_ended: bool,
    processes: &Processes,
    (directory, now): (&mut Names, u64),
    look: impl FnOnce(&Subject<'_>) -> T,
) -> T {
    let Present { owner, process, name, originator: _ } = Present::of(connection, processes, has_ended);
    let interface = directory.interface(connection.namespace, connection.device, now);
    let mut subject = connection.subject();
    subject.interface = interface.as_deref();
    subject.pid = (owner.tgid != 0).then_some(owner.tgid);
    subject.uid = owner.user();
    subject.executable = process.and_then(|process| process.identity.path.as_deref());
    with_names(subject, owner, &name, (directory, now), look)
}

pub(super) fn with_names<T>(
    subject: Subject<'_>,
    owner: &Owner,
    // As rows and events show it, so that a filter for a name finds what is shown.
    name: &str,
    (directory, now): (&mut Names, u64),
    look: impl FnOnce(&Subject<'_>) -> T,
) -> T {
    let user = directory.user(owner, now);
    if owner.tgid == 0 {
        return look(&Subject { user: user.as_deref(), ..subject });
    }
    let cgroup = directory.cgroup(owner, now);
    look(&Subject {
        process: Some(name),
        user: user.as_deref(),
        container: cgroup.as_ref().and_then(|cgroup| cgroup.container.as_deref()),
        unit: cgroup.as_ref().and_then(|cgroup| cgroup.unit.as_deref()),
        ..subject
    })
}

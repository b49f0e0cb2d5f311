//! The facts of a connection that filters compare, with the names of account, container and unit.

use netconn_model::filter::Subject;

use crate::{names::Names, process::comm, table::Connection};

/// Hands a connection to the function in the form that filters compare.
pub fn with_subject<T>(
    connection: &Connection,
    directory: &mut Names,
    now: u64,
    look: impl FnOnce(&Subject<'_>) -> T,
) -> T {
    let mut subject = connection.subject();
    let owner = &connection.owner;
    if owner.tgid == 0 {
        return look(&subject);
    }
    let user = directory.user(owner, now);
    let cgroup = directory.cgroup(owner, now);
    // As rows and events show it, so that a filter for a name finds what is shown.
    let name = comm(&owner.comm);
    subject.process = Some(&name);
    subject.user = user.as_deref();
    subject.container = cgroup.as_ref().and_then(|cgroup| cgroup.container.as_deref());
    subject.unit = cgroup.as_ref().and_then(|cgroup| cgroup.unit.as_deref());
    look(&subject)
}

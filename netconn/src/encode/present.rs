//! The process that rows show: who has the socket now, with the program that it runs now.

use std::{borrow::Cow, rc::Rc};

use netconn_common::Owner;

use crate::{
    process::{Key, Process, Processes, comm},
    table::Connection,
};

/// The process that has a socket, and the one that began it.
pub(super) struct Present<'a> {
    /// The process as it was when it became known to have the socket.
    pub(super) owner: &'a Owner,
    /// What it runs.
    pub(super) process: Option<&'a Rc<Process>>,
    /// Its name; empty if it is not known.
    pub(super) name: Cow<'a, str>,
    /// Who began the connection or listener, if that is another process, or was another program.
    pub(super) originator: Option<(&'a Owner, Option<&'a Rc<Process>>)>,
}

impl<'a> Present<'a> {
    /// Returns the process that has a socket. One that has `ended` stays as it was: nobody has it.
    pub(super) fn of(connection: &'a Connection, processes: &'a Processes, has_ended: bool) -> Self {
        let (owner, process) = connection.holder();
        let originator = connection.originator();
        let now =
            if has_ended || owner.tgid == 0 || !connection.is_open() { None } else { processes.get(Key::of(owner)) };
        let recorded = || comm(&owner.comm);
        match (process, now) {
            // Nothing was known of it when it became the owner.
            (None, Some(now)) => Self { owner, process: Some(now), name: recorded(), originator },
            // It has executed another program and kept the socket.
            (Some(before), Some(now)) if !Rc::ptr_eq(before, now) && !now.is_same_program(before) => Self {
                owner,
                process: Some(now),
                name: Cow::Borrowed(&now.identity.name),
                originator: originator.or(Some((owner, process))),
            },
            _ => Self { owner, process, name: recorded(), originator },
        }
    }
}

//! Rows of a snapshot, as members of the JSON answer.

use std::rc::Rc;

use bytes::BytesMut;
use hashbrown::{HashMap, hash_map::Entry};
use netconn_common::{Owner, UNKNOWN_U32, UNKNOWN_U64};
use netconn_model::{
    event::{Outcome, attribution_name, protocol_names},
    json::Object,
    state,
};

use crate::{
    clock::Clock,
    encode::event::connection_id,
    names::Names,
    process::{Process, comm},
    table::{Change, Connection, past::Ended},
};

/// What rows that are written together need beside their connections.
pub struct Context<'a> {
    clock: &'a mut Clock,
    /// Names of accounts and cgroups.
    pub directory: &'a mut Names,
    /// The beginning of each connection's id.
    boot: &'a str,
    /// Nanoseconds since boot, when the first of them was written.
    pub now: u64,
    /// What was written of owners: many connections have the same.
    owners: HashMap<(Owner, Option<*const Process>), Vec<u8>>,
}

impl<'a> Context<'a> {
    /// For rows that are written now. Names are looked up once.
    pub fn new(clock: &'a mut Clock, directory: &'a mut Names, boot: &'a str) -> Self {
        let now = clock.now();
        Self { clock, directory, boot, now, owners: HashMap::default() }
    }
}

/// Writes a connection as a JSON object, in the shape of [`Row`](netconn_model::row::Row).
///
/// A connection that has `ended` is shown as such.
pub fn row(out: &mut BytesMut, context: &mut Context<'_>, connection: &Connection, ended: Option<&Ended>) {
    let Context { clock, directory, boot, now, owners } = context;
    let mut object = Object::begin(out);
    object.string_as(",\"state\":", if ended.is_some() { "CLOSED" } else { state::name(connection.state) });
    match protocol_names(connection.protocol) {
        Some((name, _)) => object.string_as(",\"protocol\":", name),
        None => object.string_as(",\"protocol\":", itoa::Buffer::new().format(connection.protocol)),
    }
    if let Some(direction) = connection.direction() {
        object.string_as(",\"direction\":", direction.name());
    }
    object.address_as(",\"local_address\":", connection.local.address);
    if connection.local.port != 0 {
        object.integer_as(",\"local_port\":", connection.local.port);
    }
    if let Some(remote) = connection.remote {
        object.address_as(",\"remote_address\":", remote.address);
        if remote.port != 0 || connection.has_ports() {
            object.integer_as(",\"remote_port\":", remote.port);
        }
    }
    // The thread, and how the owner is known, are no part of what is written here.
    let key = Owner { tid: 0, how: 0, ..connection.owner };
    let process = connection.process.as_deref();
    match owners.entry((key, connection.process.as_ref().map(Rc::as_ptr))) {
        Entry::Occupied(written) => object.members(written.get()),
        Entry::Vacant(entry) => {
            entry.insert(object.written(|object| owner(object, directory, &connection.owner, process, *now)));
        }
    }
    object.string_as(",\"attribution\":", attribution_name(connection.owner.how));
    if connection.born_ns != 0 {
        let time = clock.rfc3339(connection.born_ns);
        object.time_as(",\"started_at\":", time);
    }
    if let Some(Ended { ended_ns, change, .. }) = ended {
        let time = clock.rfc3339(*ended_ns);
        object.time_as(",\"ended_at\":", time);
        match change {
            Change::Close(reason, _) => object.string_as(",\"close_reason\":", reason.name()),
            Change::Connect(Outcome::Failure(failure, _)) => object.string_as(",\"failure_reason\":", failure.name()),
            _ => {}
        }
    }
    if !connection.is_listener() {
        let totals = &connection.totals;
        for (key, bytes) in [(",\"bytes_sent\":", totals.bytes_sent), (",\"bytes_received\":", totals.bytes_received)] {
            if bytes != UNKNOWN_U64 {
                object.integer_as(key, bytes);
            }
        }
    }
    if connection.namespace != UNKNOWN_U32 {
        object.integer_as(",\"namespace\":", connection.namespace);
    }
    if connection.is_subflow() {
        object.true_as(",\"subflow\":");
    }
    if connection.exchanged.as_ref().is_some_and(|exchanged| exchanged.folded) {
        object.true_as(",\"folded\":");
    }
    // Minisocks that nothing else is known of have no number.
    if connection.socket != 0 {
        object.plain_as(",\"connection_id\":", |out| connection_id(out, boot, connection));
    }
    object.end();
}

/// Writes who has a socket, if that is known.
pub(super) fn owner(
    object: &mut Object<'_>,
    directory: &mut Names,
    owner: &Owner,
    process: Option<&Process>,
    now: u64,
) {
    if owner.tgid == 0 {
        return;
    }
    object.integer_as(",\"pid\":", owner.tgid);
    let name = comm(&owner.comm);
    if !name.is_empty() {
        object.string_as(",\"process_name\":", &name);
    }
    if let Some(user) = directory.user(owner.uid, now) {
        object.string_as(",\"user\":", &user);
    }
    object.integer_as(",\"user_id\":", owner.uid);
    if let Some(process) = process {
        if let Some(path) = &process.identity.path {
            object.string_as(",\"executable\":", path);
        }
        if let Some(command_line) = &process.identity.command_line {
            object.string_as(",\"command_line\":", command_line);
        }
    }
    if let Some(cgroup) = directory.cgroup(owner) {
        if let Some(container) = &cgroup.container {
            object.string_as(",\"container_id\":", container);
        }
        if let Some(unit) = &cgroup.unit {
            object.string_as(",\"systemd_unit\":", unit);
        }
    }
}

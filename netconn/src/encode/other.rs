//! Rows of sockets that are no connections, and which of them a filter selects.

use std::{borrow::Cow, net::Ipv4Addr};

use bytes::BytesMut;
use netconn_common::{UNKNOWN_U32, tcp_state};
use netconn_model::{
    fact::{End, protocol_names},
    filter::{Filter, Subject},
    json::Object,
    row::{Row, RowSection},
    socket_kind::SocketKind,
    state,
    value::PlainText,
};

use crate::{
    encode::{attribution, holders::Holders, known, row::Context, subject::with_names},
    kernel::other_socket::{OtherEnds, OtherSocket, OtherSockets},
    names::Names,
    process::{Processes, comm},
};

/// A filter as it holds for each kind of sockets.
pub struct OtherFilters {
    /// By [`SocketKind`]; `None`: no socket of the kind is selected.
    by_kind: Vec<Option<Filter>>,
}

impl OtherFilters {
    /// Prepares a filter.
    pub fn new(filter: &Filter) -> Self {
        Self { by_kind: SocketKind::ALL.iter().map(|kind| filter.of_kind(*kind)).collect() }
    }

    /// Returns whether the filter selects a socket.
    pub fn matches(&self, socket: &OtherSocket, processes: &Processes, (names, now): (&mut Names, u64)) -> bool {
        let Some(Some(filter)) = self.by_kind.get(socket.kind as usize) else { return false };
        // Names would be looked up in vain.
        filter.is_everything() || with_subject(socket, processes, (names, now), |subject| filter.matches(subject))
    }
}

/// Hands a socket to the function in the form that filters compare. Where a kind has no address or no port, its filter does not ask for it.
fn with_subject<T>(
    socket: &OtherSocket,
    processes: &Processes,
    (names, now): (&mut Names, u64),
    look: impl FnOnce(&Subject<'_>) -> T,
) -> T {
    let OtherSocket { kind, state, namespace, owner, ends, .. } = socket;
    let process = processes.of(owner).or_else(|| processes.of_tick(owner));
    // A port beyond 16 bits is no port that a filter can name.
    let vsock = |port: Option<u32>| End {
        address: Ipv4Addr::UNSPECIFIED.into(),
        port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0),
    };
    let (local, remote, device, protocol) = match ends {
        OtherEnds::Ip { local, remote, device, protocol, .. } => (*local, *remote, *device, *protocol),
        OtherEnds::Unix { .. } => (vsock(None), None, 0, 0),
        OtherEnds::Vsock { local, remote, .. } => (vsock(local.1), remote.1.map(|port| vsock(Some(port))), 0, 0),
    };
    let interface = names.interface(*namespace, device, now);
    let subject = Subject {
        state: Some(*state),
        failed: false,
        // As in ss: what waits for somebody.
        listening: matches!(*state, tcp_state::LISTEN | state::UNCONNECTED),
        protocol,
        raw: *kind == SocketKind::Raw,
        interface: interface.as_deref(),
        direction: None,
        local,
        remote,
        pid: known(owner.tgid, 0),
        process: None,
        executable: process.as_ref().and_then(|process| process.identity.path.as_deref()),
        user: None,
        uid: owner.user(),
        container: None,
        unit: None,
        namespace: known(*namespace, UNKNOWN_U32),
    };
    with_names(subject, owner, &comm(&owner.comm), (names, now), look)
}

/// Writes the row of one of these sockets; with its queues if `info` is wanted, and with all processes that have it open.
pub fn other_row(
    out: &mut BytesMut,
    context: &mut Context<'_>,
    (found, socket): (&OtherSockets, &OtherSocket),
    holders: Option<&Holders>,
    info: bool,
) {
    // Whole, so that a new member cannot be forgotten here.
    let OtherSocket { kind, state, association, namespace, inode, cookie: _, queues, ends, owner } = socket;
    let (names, now) = (&mut *context.names, context.now);
    let interface = match ends {
        OtherEnds::Ip { device, .. } => names.interface(*namespace, *device, now),
        _ => None,
    };
    let mut row = Row {
        state: Some(PlainText::new(association.unwrap_or_else(|| state::name(*state)))),
        protocol: Some(PlainText::new(socket.protocol())),
        raw: (*kind == SocketKind::Raw).then_some(true),
        interface: interface.as_deref().map(Cow::Borrowed),
        namespace: known(*namespace, UNKNOWN_U32),
        attribution: Some(attribution(owner.how)),
        inode: known(*inode, 0),
        ..Row::default()
    };
    match ends {
        OtherEnds::Ip { local, remote, device: _, protocol, mptcp } => {
            if *kind == SocketKind::Raw {
                row.protocol = Some(match protocol_names(*protocol) {
                    Some((upper, _)) => PlainText::new(upper),
                    None => PlainText::new(protocol.to_string()),
                });
            }
            let has_ports = *kind != SocketKind::Raw;
            let port = |end: &End| has_ports.then_some(u32::from(end.port));
            (row.local_address, row.local_port) = (Some(local.address), port(local));
            (row.remote_address, row.remote_port) = (remote.map(|end| end.address), remote.as_ref().and_then(port));
            if let Some(mptcp) = mptcp {
                row.mptcp_token = mptcp.token;
                row.mptcp_subflows = mptcp.token.map(|_| mptcp.subflows.into());
                row.mptcp_fallback = mptcp.is_fallback.then_some(true);
            }
        }
        OtherEnds::Unix { form: _, path, peer, peer_process } => {
            row.local_path = path.as_deref().map(Cow::Borrowed);
            row.peer_inode = known(*peer, 0);
            row.remote_path = row.peer_inode.and_then(|peer| found.path_of(peer)).map(Cow::Borrowed);
            if let Some((pid, name)) = peer_process {
                row.peer_pid = Some(*pid);
                row.peer_process_name = Some(comm(name)).filter(|name| !name.is_empty());
            }
        }
        OtherEnds::Vsock { form: _, local, remote } => {
            (row.local_cid, row.local_port) = *local;
            (row.remote_cid, row.remote_port) = *remote;
        }
    }
    if let Some((receive, send)) = queues.filter(|_| info) {
        if *state == tcp_state::LISTEN {
            (row.backlog, row.backlog_limit) = (Some(receive), Some(send));
        } else {
            (row.receive_queue, row.send_queue) = (Some(receive), Some(send));
        }
    }
    if let Some((_, list, count)) = holders.and_then(|holders| holders.of(*inode)) {
        (row.holder_count, row.holders) = (Some(count), Some(list));
    }
    context.object(out, |context, object: &mut Object<'_>| {
        row.write_section(RowSection::Socket, object);
        context.write_owner(object, owner);
        for section in [RowSection::Holders, RowSection::Life, RowSection::Other, RowSection::Info] {
            row.write_section(section, object);
        }
    });
}

//! The health report of the daemon.

use std::collections::BTreeMap;

use netconn_model::{
    fact::protocol_names,
    health::{FlowCounts, Health, LostEventCounts, PrivilegedChild, Privileges, RecordCounts, UntoldCounts},
    state,
};

use crate::{
    engine::run::Engine,
    kernel::preflight,
    privileged::{self, ChildStatus, filter, rights},
    table::flows::Flows,
};

impl Engine {
    /// Returns the health report, without what the server alone knows.
    pub(super) fn health(&self) -> Health {
        let losses = self.losses();
        let state = &self.state;
        let incomplete = state.incomplete();
        let (denied_calls, last_denied_call) = filter::denied();
        let mut health = Health {
            sensor_id: state.sensor.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: preflight::kernel_release(),
            uptime_seconds: self.schedule.uptime(state.clock.now()).as_secs(),
            pid: std::process::id(),
            own_pid_namespace: preflight::is_in_pid_namespace(),
            // The server fills these in: it reads `/proc`, which the engine does not wait for, and knows the state folder.
            resident_bytes: None,
            state_unsaved: None,
            hooks: self.capture.hooks().to_vec(),
            missing_members: self.capture.missing_members().iter().map(ToString::to_string).collect(),
            complete: incomplete.is_empty(),
            incomplete,
            privileges: Privileges { child: child(), denied_calls, last_denied_call, ..state.privileges.clone() },
            repairs: state.repairs,
            connections: state.table.len(),
            states: state.table.states().map(|(known, count)| (state::name(known).to_owned(), count)).collect(),
            flows: flows(&state.flows, losses.uncounted),
            processes: state.processes.len(),
            // `Publisher::report` fills in what it counts: clients, events, outputs and the history.
            clients: 0,
            // The server fills these in: the engine does not know who is connected.
            requests: 0,
            refused: 0,
            records: RecordCounts {
                received: state.records,
                unknown: state.unknown_records,
                lost: losses.records(),
                lost_sockets: losses.sockets,
                lost_processes: losses.processes,
                missed_runs: losses.missed_runs,
                without_memory: state.records_without_memory,
            },
            events: 0,
            excluded_events: UntoldCounts::default(),
            folded_events: UntoldCounts::default(),
            lost_events: LostEventCounts {
                outgoing: losses.events.outgoing,
                incoming: losses.events.incoming,
                closes: losses.events.closes,
                listeners: losses.events.listeners,
                clients: 0,
            },
            outputs: Vec::new(),
            history: None,
        };
        self.publisher.report(&mut health);
        health
    }
}

/// Returns the state of the privileged child.
fn child() -> Option<PrivilegedChild> {
    let ChildStatus { pid, capabilities, is_alive, failures } = privileged::child()?;
    let capabilities = rights::names(capabilities).into_iter().map(str::to_owned).collect();
    Some(PrivilegedChild { pid, capabilities, alive: is_alive, failures })
}

fn flows(flows: &Flows, uncounted: u64) -> FlowCounts {
    let mut protocols = BTreeMap::new();
    for (number, count) in flows.protocols() {
        // Both versions of ICMP have the same name.
        *protocols.entry(protocol_name(number)).or_default() += count;
    }
    FlowCounts { protocols, folded: flows.folded(), bound: flows.bound_sockets(), uncounted }
}

fn protocol_name(number: u8) -> String {
    protocol_names(number).map_or_else(|| number.to_string(), |(name, _)| name.to_owned())
}

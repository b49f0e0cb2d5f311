//! How the daemon is, as the engine knows it.

use std::collections::BTreeMap;

use netconn_model::{
    event::protocol_names,
    health::{FlowCounts, Health, LostEventCounts, RecordCounts},
    state,
};

use crate::{engine::run::Loop, kernel::preflight, table::flows::Flows};

impl Loop {
    pub(super) fn health(&self) -> Health {
        let losses = self.losses();
        let mut health = Health {
            sensor_id: self.core.sensor.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: preflight::kernel_release(),
            uptime_seconds: self.core.telling.clock.now().saturating_sub(self.started_ns) / 1_000_000_000,
            pid: std::process::id(),
            resident_bytes: None,
            hooks: self.capture.hooks().to_vec(),
            missing_members: self.capture.missing_members().iter().map(ToString::to_string).collect(),
            complete: self.core.complete,
            repairs: self.repairs,
            connections: self.core.table.len(),
            states: self.core.table.states().map(|(known, count)| (state::name(known).to_owned(), count)).collect(),
            flows: flows(&self.core.flows, losses.uncounted),
            processes: self.core.processes.len(),
            clients: self.core.telling.streams.len(),
            records: RecordCounts {
                received: self.core.records,
                unknown: self.core.unknown_records,
                lost: losses.records(),
                lost_sockets: losses.sockets,
                lost_processes: losses.processes,
                missed_runs: losses.missed_runs,
                without_memory: self.core.without_memory,
            },
            events: self.core.telling.encoder.count(),
            lost_events: LostEventCounts {
                outgoing: losses.events.outgoing,
                incoming: losses.events.incoming,
                closes: losses.events.closes,
                listeners: losses.events.listeners,
                clients: self.core.telling.lost_by_clients(),
            },
            outputs: Vec::new(),
            history: None,
        };
        self.outputs.iter().for_each(|output| output.report(&mut health));
        health
    }
}

fn flows(flows: &Flows, uncounted: u64) -> FlowCounts {
    let mut protocols = BTreeMap::new();
    for (number, count) in flows.protocols() {
        // Both versions of ICMP have one name.
        *protocols.entry(protocol_name(number)).or_default() += count;
    }
    FlowCounts { protocols, folded: flows.folded(), bound: flows.bound_sockets(), uncounted }
}

fn protocol_name(number: u8) -> String {
    protocol_names(number).map_or_else(|| number.to_string(), |(name, _)| name.to_owned())
}

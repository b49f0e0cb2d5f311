//! How the daemon is, as the engine knows it.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use netconn_model::{
    event::protocol_names,
    health::{FlowCounts, Health, HistoryHealth, LostEventCounts, OutputHealth, RecordCounts},
    state,
};

use crate::{engine::run::Loop, kernel::preflight, sink::Output, table::flows::Flows};

impl Loop {
    pub(super) fn health(&self) -> Health {
        let losses = self.losses();
        Health {
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
            outputs: self
                .outputs
                .iter()
                .filter(|output| output.history_status().is_none())
                .map(output_health)
                .collect(),
            history: self.outputs.iter().find_map(history),
        }
    }
}

fn output_health(output: &Output) -> OutputHealth {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    OutputHealth {
        path: output.path().display().to_string(),
        written: load(&output.counters().written),
        lost_queue: load(&output.counters().lost_queue),
        lost_disk: load(&output.counters().lost_disk),
    }
}

fn history(output: &Output) -> Option<HistoryHealth> {
    let status = output.history_status()?;
    Some(HistoryHealth {
        output: output_health(output),
        bytes: status.bytes(),
        files: status.files(),
        oldest: status.oldest(),
        full: status.is_full(),
        conversion: status.conversion(),
        waiting: status.waiting(),
        converted: status.converted(),
        failures: status.failures(),
    })
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

//! Takes over settings that have changed while the daemon runs.

use std::fmt::{self, Debug, Formatter};

use tracing::warn;

use crate::{
    encode::{event::Beginning, packet::in_words},
    engine::{hooks_in_words, lacks_in_words, packet_sockets, run::Engine},
    kernel::preflight,
    process::redact::Redactor,
    rules::Rules,
    sink::Sink,
    store::HistoryLimits,
};

/// Settings to take over; `None` is one that stays.
#[derive(Default)]
pub struct Reload {
    /// What makes no events.
    pub rules: Option<Rules>,
    /// What takes secrets out of command lines.
    pub redactor: Option<Redactor>,
    /// Most events of a kind in a second; 0: no limit.
    pub event_limit: Option<u32>,
    /// After how many nanoseconds without a datagram a flow ends: one in which one end has sent, and one in which both have.
    pub flow_idle_ns: Option<(u64, u64)>,
    /// Limits of the history.
    pub history: Option<HistoryLimits>,
    /// `site.id` and `dataSource.name` in events.
    pub sensor: Option<(Option<String>, String)>,
    /// Outputs to add. They are open already: whatever may fail has not failed.
    pub added: Vec<Box<dyn Sink>>,
    /// Names of outputs to remove.
    pub removed: Vec<String>,
}

impl Debug for Reload {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { rules, redactor, event_limit, flow_idle_ns, history, sensor, added, removed } = self;
        let added: Vec<_> = added.iter().map(|sink| sink.name()).collect();
        let settings = (rules, redactor, event_limit, flow_idle_ns, history, sensor);
        formatter
            .debug_struct("Reload")
            .field("settings", &settings)
            .field("added", &added)
            .field("removed", removed)
            .finish()
    }
}

impl Engine {
    /// Takes over settings.
    pub(super) fn reload(&mut self, reload: Reload) {
        let Reload { rules, redactor, event_limit, flow_idle_ns, history, sensor, added, removed } = reload;
        if let Some((site, source)) = sensor {
            (self.state.sensor.site, self.state.sensor.source) = (site, source);
            self.publisher.describe(&self.state.sensor);
        }
        if let Some(rules) = rules {
            self.publisher.set_rules(rules);
        }
        if let Some(redactor) = redactor {
            self.set_redactor(redactor);
        }
        if let Some(per_second) = event_limit {
            self.publisher.set_limit(per_second);
        }
        if let Some((one_end, both_ends)) = flow_idle_ns {
            self.state.flows.set_idle(one_end, both_ends);
        }
        if let Some(limits) = history {
            self.publisher.limit_history(limits);
        }
        for name in removed {
            // What it has lost and not reported is in the counts of the log.
            if let Some(index) = self.publisher.outputs().iter().position(|output| output.name() == name) {
                let lost = self.losses().records();
                self.publisher.remove_output(&self.state.clock, index, lost);
                self.loss_report.remove_output(index);
            }
        }
        added.into_iter().for_each(|sink| self.add_output(sink));
    }

    fn add_output(&mut self, sink: Box<dyn Sink>) {
        let (attached, missing) = hooks_in_words(self.capture.hooks());
        let found = packet_sockets(&mut self.capture, |_| ());
        let beginning = Beginning {
            kernel: &preflight::kernel_release(),
            attached: &attached,
            missing: &missing,
            missing_capabilities: &lacks_in_words(&self.state.privileges),
            packet_sockets: &in_words(&found),
            event_limit: self.publisher.event_limit(),
        };
        match self.publisher.add_output(&self.state.clock, sink, &beginning) {
            Ok(()) => self.loss_report.add_output(),
            Err(error) => warn!("{error}"),
        }
    }
}

//! How the daemon is, as `/v1/health` answers and `doctor` prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fact::LossStage;

/// The answer of `/v1/health`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// Sensor id.
    pub sensor_id: String,
    /// Version of the daemon.
    pub version: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Seconds since the daemon began.
    pub uptime_seconds: u64,
    /// Its process id.
    pub pid: u32,
    /// Its memory, shared pages counted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// What became of each hook.
    pub hooks: Vec<HookStatus>,
    /// Members of kernel structures that this kernel does not have.
    pub missing_members: Vec<String>,
    /// Whether the table holds everything that the kernel has.
    pub complete: bool,
    /// How often the table was made anew from the kernel, because something was lost or could not be known otherwise.
    #[serde(default)]
    pub repairs: u64,
    /// Connections and listeners in the table.
    pub connections: usize,
    /// Those in each state, by its name.
    #[serde(default)]
    pub states: BTreeMap<String, usize>,
    /// Flows of datagrams.
    #[serde(default)]
    pub flows: FlowCounts,
    /// Processes known.
    pub processes: usize,
    /// Clients that listen to events.
    pub clients: usize,
    /// Records of the kernel.
    pub records: RecordCounts,
    /// Events made.
    pub events: u64,
    /// Events lost.
    #[serde(default)]
    pub lost_events: LostEventCounts,
    /// Where they go.
    pub outputs: Vec<OutputHealth>,
    /// What is kept of them for `netconn search`, unless that is switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryHealth>,
}

/// Flows of datagrams, and the sockets that wait for some.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Flows of each protocol, by its name.
    pub protocols: BTreeMap<String, usize>,
    /// Of these, those that stand for more than one other end, because there were too many.
    pub folded: usize,
    /// Sockets that were bound to receive.
    pub bound: usize,
    /// Datagrams that were not counted: there was no room for their flow, nor for one that stands for their socket.
    #[serde(default)]
    pub uncounted: u64,
}

/// Records of the kernel, counted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RecordCounts {
    /// Received.
    pub received: u64,
    /// Of an unknown kind: the eBPF object and the daemon are not of one build.
    pub unknown: u64,
    /// Lost, all together.
    pub lost: u64,
    /// Of these, records of sockets that found their ring full.
    #[serde(default)]
    pub lost_sockets: u64,
    /// Records of processes and cgroups that found theirs full.
    #[serde(default)]
    pub lost_processes: u64,
    /// Records that were never made, because the kernel does not let a program interrupt itself.
    #[serde(default)]
    pub missed_runs: u64,
    /// Received, but of sockets for which the kernel had no memory to keep anything: who accepted is then not known.
    #[serde(default)]
    pub without_memory: u64,
}

/// Events that were never made because every record of their connection was lost, counted by what they would have been;
/// and those that clients were too slow for.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct LostEventCounts {
    /// `IP Connect` with direction `OUTGOING`.
    pub outgoing: u64,
    /// All other `IP Connect`.
    pub incoming: u64,
    /// `IP Close`.
    pub closes: u64,
    /// `IP Listen` and `IP Listen End`.
    pub listeners: u64,
    /// Of any kind, each counted for every client that missed it.
    pub clients: u64,
}

/// An output, counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OutputHealth {
    /// Where it writes: a path, `-` for standard output, or an address.
    pub path: String,
    /// Events written.
    pub written: u64,
    /// Events dropped because its queue was full.
    pub lost_queue: u64,
    /// Events that a file system refused; absent for outputs that write to no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_disk: Option<u64>,
    /// Events that a receiver refused; absent for outputs that write to a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_sink: Option<u64>,
}

impl OutputHealth {
    /// Returns the number of events lost at each stage that this output has.
    pub fn losses(&self) -> impl Iterator<Item = (LossStage, u64)> + use<> {
        let refused = [(LossStage::Disk, self.lost_disk), (LossStage::Sink, self.lost_sink)];
        let refused = refused.into_iter().filter_map(|(stage, lost)| Some((stage, lost?)));
        std::iter::once((LossStage::Queue, self.lost_queue)).chain(refused)
    }

    /// Returns the number of events lost at all stages together.
    pub fn lost(&self) -> u64 {
        self.losses().map(|(_, lost)| lost).sum()
    }
}

/// The history, counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryHealth {
    /// Its folder, and what became of the events since the start.
    #[serde(flatten)]
    pub output: OutputHealth,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Its files.
    pub files: u64,
    /// No event in it is earlier, epoch milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<u64>,
    /// Events are lost at the moment, because the file system is full.
    pub full: bool,
    /// What becomes of closed segments.
    pub conversion: Conversion,
    /// Closed segments that are not converted yet.
    pub waiting: u64,
    /// Segments converted since the start.
    pub converted: u64,
    /// Conversions that have failed since the start.
    pub failures: u64,
}

/// What became of a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It works.
    Attached,
    /// It is not attached, because another one tells more.
    Unneeded {
        /// Which, or why.
        reason: String,
    },
    /// This kernel does not have it.
    Unsupported {
        /// Why.
        reason: String,
    },
    /// This kernel should have it.
    Failed {
        /// What went wrong.
        reason: String,
    },
}

/// A hook's verdict, as health reports give it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HookStatus {
    /// [`Hook::name`], with the way of attaching as in libbpf's section names.
    pub hook: String,
    /// [`Hook::fact`].
    pub fact: String,
    /// What became of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// [`Hook::without`], if it is not attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// Instructions of its program after the kernel has translated it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u32>,
    /// Instructions that the verifier had to look at, of a million at most; from 5.16 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_instructions: Option<u32>,
}

/// What becomes of closed segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conversion {
    /// Nothing waits, or it has just begun to wait.
    Idle,
    /// One is being converted.
    Running,
    /// `netconn-search` is not installed: they stay NDJSON until it is.
    Missing,
    /// It has failed, and is tried again.
    Failing,
}

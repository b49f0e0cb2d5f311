//! The health of the daemon, as `/v1/health` answers and `doctor` prints it.

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
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Process id of the daemon.
    pub pid: u32,
    /// Whether the daemon is in a pid namespace of its own: then `pid` is not its number on the host.
    #[serde(default)]
    pub own_pid_namespace: bool,
    /// Resident memory of the daemon, shared pages included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// Why the id of this sensor is not kept for the next start; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_unsaved: Option<String>,
    /// Each hook with its verdict.
    pub hooks: Vec<HookStatus>,
    /// Members of kernel structures that this kernel does not have.
    pub missing_members: Vec<String>,
    /// Whether the table has every connection that the kernel has.
    pub complete: bool,
    /// Why it has not, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<String>,
    /// What the daemon may do.
    #[serde(default)]
    pub privileges: Privileges,
    /// Number of times the table was rebuilt from the kernel after a loss.
    #[serde(default)]
    pub repairs: u64,
    /// Connections and listeners in the table.
    pub connections: usize,
    /// Number of connections in each state, by its name.
    #[serde(default)]
    pub states: BTreeMap<String, usize>,
    /// Flows and sockets of datagrams.
    #[serde(default)]
    pub flows: FlowCounts,
    /// Number of known processes.
    pub processes: usize,
    /// Number of clients that receive events.
    pub clients: usize,
    /// Number of clients that are connected for something else: the request for this answer is one.
    #[serde(default)]
    pub requests: usize,
    /// Number of clients and requests that were refused, because as many as the daemon serves were there.
    #[serde(default)]
    pub refused: u64,
    /// Counts of kernel records.
    pub records: RecordCounts,
    /// Number of events made.
    pub events: u64,
    /// Events that were not made because a rule of the configuration excludes them (`exclude`).
    #[serde(default)]
    pub excluded_events: UntoldCounts,
    /// Events that were counted instead of made, because there were too many in a second (`event_limit_per_second`).
    #[serde(default)]
    pub folded_events: UntoldCounts,
    /// Counts of lost events.
    #[serde(default)]
    pub lost_events: LostEventCounts,
    /// Each output with its counts.
    pub outputs: Vec<OutputHealth>,
    /// The history; none if it is switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryHealth>,
}

/// What the daemon may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// The daemon's user, by its name if it has one.
    #[serde(default)]
    pub user: String,
    /// Its number.
    #[serde(default)]
    pub uid: u32,
    /// Capabilities that the daemon still has.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Whether the kernel keeps it from writing elsewhere than in its folders.
    #[serde(default)]
    pub landlock: Enforcement,
    /// Whether the kernel denies it all system calls but those of a list.
    #[serde(default)]
    pub seccomp: bool,
    /// Calls that were denied.
    #[serde(default)]
    pub denied_calls: u64,
    /// Number of the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_denied_call: Option<i32>,
    /// The child that opens what takes a privilege; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<PrivilegedChild>,
    /// Capabilities that it was not given, with what is missing for that.
    #[serde(default)]
    pub missing: Vec<MissingCapability>,
}

/// The child that opens for the daemon what takes a privilege.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivilegedChild {
    /// Its process id.
    pub pid: u32,
    /// Its capabilities.
    pub capabilities: Vec<String>,
    /// Whether it still answers.
    pub alive: bool,
    /// Requests that it has not answered, or too late.
    pub failures: u64,
}

/// A capability that the daemon was not given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingCapability {
    /// Its name in `capabilities(7)`.
    pub capability: String,
    /// What is missing without it.
    pub without: String,
}

/// Counts of flows and of bound datagram sockets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Flows of each protocol, by its name.
    pub protocols: BTreeMap<String, usize>,
    /// Number of folded flows: each stands for several other ends of one socket.
    pub folded: usize,
    /// Number of bound sockets.
    pub bound: usize,
    /// Number of datagrams that no flow counts, because the map of flows was full.
    #[serde(default)]
    pub uncounted: u64,
}

/// Counts of kernel records.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RecordCounts {
    /// Number received.
    pub received: u64,
    /// Number of an unknown kind: the eBPF object and the daemon are of different builds.
    pub unknown: u64,
    /// Number lost, the sum of the next three.
    pub lost: u64,
    /// Records of sockets that did not fit into their ring.
    #[serde(default)]
    pub lost_sockets: u64,
    /// Records of processes and cgroups that did not fit into their ring.
    #[serde(default)]
    pub lost_processes: u64,
    /// Records that were never made, because the kernel skips a program that would interrupt itself.
    #[serde(default)]
    pub missed_runs: u64,
    /// Records received from sockets without storage, for lack of kernel memory: their acceptor is not known.
    #[serde(default)]
    pub without_memory: u64,
}

/// Counts of events that were never made because every record of their connection was lost, and of events that clients were too
/// slow for.
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
    /// Events of any kind, counted once for every client that missed them.
    pub clients: u64,
}

/// Counts of events that the configuration keeps from being made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UntoldCounts {
    /// All of them.
    pub events: u64,
    /// `IP Connect` events of TCP with direction `OUTGOING`, without those of connections that existed before.
    pub outgoing: u64,
    /// All other `IP Connect` events of TCP.
    pub incoming: u64,
}

/// What has become of an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputState {
    /// It writes to its path, as far as is known.
    #[default]
    Open,
    /// The last write failed; it tries again with each that follows.
    Failing,
    /// Its file was renamed, or another file has taken its place: it still writes to the old one.
    Renamed,
    /// Its file was removed: nobody can read what it writes.
    Removed,
    /// Its reader has gone for good: it gets no more events.
    Gone,
}

/// An output and its counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OutputHealth {
    /// Where it writes: a path, `-` for standard output, or an address.
    pub path: String,
    /// What has become of it.
    #[serde(default)]
    pub state: OutputState,
    /// Events written.
    pub written: u64,
    /// Events dropped because its queue was full.
    pub lost_queue: u64,
    /// Events that a file system refused; absent for outputs that write to no file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_disk: Option<u64>,
    /// Events that the reader of a pipe or terminal refused; absent for outputs that write to a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_sink: Option<u64>,
    /// `IP Connect` events of TCP with direction `OUTGOING` among all that it has lost.
    #[serde(default)]
    pub lost_outgoing: u64,
    /// All other `IP Connect` events of TCP among them.
    #[serde(default)]
    pub lost_incoming: u64,
}

impl OutputHealth {
    /// Returns the number of events lost at each stage that this output has.
    pub fn losses(&self) -> impl Iterator<Item = (LossStage, u64)> + use<> {
        let refused = [(LossStage::Disk, self.lost_disk), (LossStage::Sink, self.lost_sink)];
        // An output has one of the two; the absent one is no zero in a report.
        let refused = refused.into_iter().filter_map(|(stage, lost)| Some((stage, lost?)));
        std::iter::once((LossStage::Queue, self.lost_queue)).chain(refused)
    }

    /// Returns the number of events lost at all stages together.
    pub fn lost(&self) -> u64 {
        self.losses().map(|(_, lost)| lost).sum()
    }
}

/// The history and its counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryHealth {
    /// Its folder, and the counts of events since the start.
    #[serde(flatten)]
    pub output: OutputHealth,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Number of its files.
    pub files: u64,
    /// Since when it is kept, epoch milliseconds; events of connections that existed before may be earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<u64>,
    /// Whether events are lost at the moment, because the file system is full.
    pub full: bool,
    /// State of the conversion of closed segments.
    pub conversion: Conversion,
    /// Number of closed segments that wait for conversion.
    pub waiting: u64,
    /// Number of segments converted since the start.
    pub converted: u64,
    /// Number of conversions that failed since the start.
    pub failures: u64,
    /// Events of floods that were counted instead of written (`Data Loss` with `loss.stage` `fold`).
    #[serde(default)]
    pub folded: u64,
    /// `IP Connect` events of TCP with direction `OUTGOING` among them.
    #[serde(default)]
    pub folded_outgoing: u64,
    /// All other `IP Connect` events of TCP among them.
    #[serde(default)]
    pub folded_incoming: u64,
    /// Number of segments that are older than `history_days` and stay all the same, because the time of day has jumped.
    #[serde(default)]
    pub overdue: u64,
    /// How the last conversion was confined; absent before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confinement: Option<Confinement>,
}

/// How the process that converts the history is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Its user's number.
    pub uid: u32,
    /// Whether no other process has that user: only a daemon that is root can give it one.
    pub has_own_user: bool,
    /// Whether the kernel denies it all paths, TCP ports, and signals to others.
    pub landlock: Enforcement,
    /// Whether the kernel denies it all system calls but those that a conversion needs.
    pub seccomp: Enforcement,
    /// Whether its bounding set of capabilities is empty, so that no program gives it any; absent if it did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_bounding_set: Option<bool>,
    /// Whether the daemon's filter of system calls holds from its first instruction on; absent if it did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_filter: Option<bool>,
}

impl Confinement {
    /// Returns what is missing, in words.
    pub fn gaps(&self) -> Vec<&'static str> {
        let gap = |enforcement, none, partial| match enforcement {
            Enforcement::Full => None,
            Enforcement::Partial => Some(partial),
            Enforcement::None => Some(none),
        };
        // That of a daemon that is not root has nothing that the other layers do not keep from it.
        let own_user = (!self.has_own_user && self.uid == 0).then_some("a user of its own");
        let landlock = gap(self.landlock, "Landlock", "all of Landlock");
        let seccomp = gap(self.seccomp, "seccomp", "all of seccomp");
        let is_missing = |layer: Option<bool>, name| (layer == Some(false)).then_some(name);
        let bounding_set = is_missing(self.empty_bounding_set, "an empty bounding set of capabilities");
        let first_filter = is_missing(self.first_filter, "the first filter of system calls");
        own_user.into_iter().chain(bounding_set).chain(first_filter).chain(landlock).chain(seccomp).collect()
    }
}

/// How much of a protection the kernel offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// All of it.
    Full,
    /// What this kernel knows.
    Partial,
    /// None: the kernel lacks it or has it switched off.
    #[default]
    None,
}

/// Result of attaching a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It is attached.
    Attached,
    /// It is not attached, because another hook reports more.
    Unneeded {
        /// The other hook, or the reason.
        reason: String,
    },
    /// This kernel lacks it.
    Unsupported {
        /// The reason.
        reason: String,
    },
    /// This kernel should have it, but attaching failed.
    Failed {
        /// The error.
        reason: String,
    },
}

/// A hook and its verdict.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HookStatus {
    /// Name, with the way of attaching as in libbpf's section names.
    pub hook: String,
    /// The fact that it reports.
    pub fact: String,
    /// Its verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What netconn does instead, if it is not attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// Instructions of its program in the kernel's translated form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u32>,
    /// Instructions that the verifier processed, of at most a million; from kernel 5.16 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_instructions: Option<u32>,
}

/// State of the conversion of closed segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conversion {
    /// No segment waits, or one has only just begun to.
    Idle,
    /// A segment is being converted.
    Running,
    /// `netconn-search` is not installed; segments stay NDJSON until it is.
    Missing,
    /// A conversion has failed and will be tried again.
    Failing,
}

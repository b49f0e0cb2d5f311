//! The table of all figures: name, unit, goal, and how each is measured. Help, table and JSON are made from it.

use clap::ValueEnum;

/// What can be asked for: each has its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Group {
    /// Floods of connections with and without netconn, and what 1,000 a second cost.
    Connect,
    /// Datagrams with and without netconn.
    Udp,
    /// Lists of 100,000 sockets.
    Snapshot,
    /// From the kernel to the file of events.
    Latency,
    /// What it costs when nothing happens.
    Idle,
    /// From exec to the first complete answer.
    Startup,
    /// From a loss to the truth.
    Repair,
    /// How cost grows: with connections held, and with connections a second.
    Growth,
    /// What a record costs in user space.
    Instructions,
    /// Queries over ten million events, beside DuckDB. Builds netconn-search and makes the events first: half an hour.
    Search,
    /// All of these.
    All,
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// The median at least this.
    AtLeast(f64),
    /// The median at most this.
    AtMost(f64),
    /// Not one round other than this.
    Always(f64),
    /// None: it stands beside the others, to compare.
    Beside,
}

/// A line of the table, or several: one for each case.
#[derive(Debug)]
pub(crate) struct Definition {
    /// Name in JSON.
    pub(crate) id: &'static str,
    pub(crate) group: Group,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
    /// How it is measured.
    pub(crate) method: &'static str,
}

macro_rules! figures {
    ($($figure:ident $group:ident $unit:literal $goal:expr, $name:literal: $method:literal)*) => {
        /// What is measured.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum Figure { $($figure),* }

        /// In the order in which they are shown.
        pub(crate) const ALL: &[Definition] = &[$(Definition {
            id: stringify!($figure),
            group: Group::$group,
            name: $name,
            unit: $unit,
            goal: $goal,
            method: $method,
        }),*];
    };
}

impl Figure {
    pub(crate) fn definition(self) -> &'static Definition {
        &ALL[self as usize]
    }
}

use Goal::{Always, AtLeast, AtMost, Beside};

figures! {
    FloodAlone Connect "/s" Beside, "flood, nothing beside it":
        "`load flood --kind KIND`: rst and fin connect and close, a thread for each end; http has 4 clients and 2 servers"
    KeptFull Connect "" AtLeast(0.75), "kept with full events to a file":
        "rate of the same flood beside `netconn run --events FILE`, over the mean of the floods alone before and after it"
    KeptTable Connect "" AtLeast(0.85), "kept with the table alone":
        "the same beside `netconn run` without --events"
    KeptPeer Connect "" Beside, "kept beside a peer":
        "the same beside tcplife, tcpstates (libbpf-tools) and tcplife.bt, text to a file"
    AheadOfPeer Connect "" AtLeast(1.0), "kept with full events, over what tcplife keeps":
        "the two figures above of the same round"
    Lost Connect "" Always(0.0), "lost in the flood, full events":
        "/v1/health when all is written: records.lost, and lost_queue and lost_disk of the output"
    LossEvents Connect "" Always(0.0), "`Data Loss` events in the file":
        "lines of that type after the flood"
    EventsTold Connect "" Always(1.0), "events told, of those there must be":
        "`IP Connect` and `IP Close` of the generator's process in the file, over 4 for each connection"
    PeerLines Connect "" Beside, "lines told by a peer, for each connection":
        "lines of its output over connections; tcplife owes 2, tcpstates 6 (RST) or 12 (FIN)"
    PeerLost Connect "" Beside, "lost by a peer":
        "as it says itself: `lost N events`"
    CpuPerConnection Connect "µs" AtMost(4.0), "CPU for each connection, both ends":
        "busy time in /proc/stat (user, system, interrupts; all processors) from the flood's beginning until all is written, \
         over connections, less the same of the floods alone before and after"
    CpuOfTasks Connect "µs" Beside, "the same, by processes":
        "the same with the processor clocks of generator and daemon: blind for kernel threads, deaf for other processes"
    CpuPeer Connect "µs" Beside, "CPU for each connection, a peer":
        "as above by /proc/stat, beside a peer"
    HookTime Connect "ns" AtMost(150.0), "mean run time of the hooks, in the flood":
        "run_time_ns over run_cnt of all programs in /proc/PID/fdinfo of the daemon, during a flood of their own with \
         BPF_ENABLE_STATS (what kernel.bpf_stats_enabled switches, ends with this process)"
    HookTimePaced Connect "ns" Beside, "the same, at 1,000 connections/s":
        "with `load paced --kind http --rate 1000`: caches are cold"
    CpuPaced Connect "%" AtMost(1.0), "CPU at 1,000 connections/s, of one core":
        "the daemon's processor clock and the hooks' run_time_ns over 10 s of `load paced --kind http --rate 1000`, full \
         events; the ends' own code that runs slower for it is not counted here"
    CpuHistory Connect "" Beside, "CPU of the daemon with a history, over that without":
        "the daemon's processor clock at 1,000 connections/s, both with events to a file; conversions are no part of it"

    DatagramsAlone Udp "/s" Beside, "64-byte datagrams on loopback, nothing beside them":
        "`load udp --manner MANNER`: one thread sends 32 and receives them, through one pair of sockets or 1,000 in turn"
    DatagramsKeptFlows Udp "" AtLeast(0.85), "kept with flows = \"flows\"":
        "rate of the same datagrams beside `netconn run --events FILE`, over the mean of those alone before and after it"
    DatagramsKeptSockets Udp "" Beside, "kept with flows = \"sockets\"": "the same with that in the configuration"
    DatagramsKeptOff Udp "" Beside, "kept with flows = \"off\"":
        "the same: what differs from 1 here is the machine, not netconn"
    DatagramsLost Udp "" Always(0.0), "lost meanwhile, flows = \"flows\"": "as with the flood of connections"
    DatagramsCounted Udp "" Always(1.0), "datagrams counted, of those there were":
        "packetsSent and packetsReceived of `IP Close` of the generator's process in the file, over 2 for each datagram"
    CpuPerDatagram Udp "ns" Beside, "CPU for each datagram, both ends":
        "busy time in /proc/stat over datagrams, less the same of those alone before and after"
    HookTimeDatagram Udp "ns" Beside, "run time of the hooks for each datagram, both ends":
        "run_time_ns of all programs, as with the flood of connections, over datagrams"

    LatencyP50 Latency "ms" AtMost(10.0), "kernel to file at 1,000 connections/s, median":
        "`timestamp` of each event (taken in the kernel) until a reader that looks each millisecond has read its line: up \
         to a millisecond and a wake-up too much, never too little but for the daemon's two reads of clocks (microseconds)"
    LatencyP99 Latency "ms" AtMost(50.0), "99 of 100": "as above"
    LatencyMax Latency "ms" Beside, "the latest": "as above"

    RssIdle Idle "MB" AtMost(20.0), "RSS, nothing happens":
        "VmRSS of /proc/PID/status 2 s after the start"
    Rss100k Idle "MB" AtMost(60.0), "RSS with 100,000 connections in the table":
        "VmRSS with `load hold --sockets 100000`: that came while it ran, or were there before; each after a snapshot"
    WakeUps Idle "/s" AtMost(1.0), "wake-ups when nothing happens":
        "voluntary and other context switches of all its threads (/proc/PID/task/*/status) in 10 s; starts and ends of \
         other processes are something that happens: `records` in a note"
    CpuIdle Idle "ms/s" Beside, "CPU when nothing happens": "its processor clock in the same 10 s"
    Binary Idle "MB" AtMost(10.0), "binary, stripped": "length of target/release/netconn"

    SnapshotTime Snapshot "s" Beside, "time of":
        "from spawn until the output has ended and the command too; output into a pipe that is read unless said otherwise"
    FasterDaemon Snapshot "x" AtLeast(40.0), "`netconn list --format json`, faster than `ss -tanp`":
        "with 100,000 TCP sockets (`load hold`) and a daemon; both into a pipe, one after the other in each round"
    FasterDirect Snapshot "x" AtLeast(20.0), "`netconn list --format json` without a daemon, faster than `ss -tanp`":
        "the same without --socket, when nobody listens at the usual one"
    FasterElsewhere Snapshot "x" Beside, "through the daemon, output elsewhere":
        "the same with both outputs to /dev/null, or to a file on disk"
    RowsMissing Snapshot "" Always(0.0), "rows of netconn, less those of ss":
        "rows of this network namespace, TIME_WAIT (1,000 of them) included, against lines of `ss -tanH` before and after"

    Ready Startup "s" AtMost(1.0), "ready with 100,000 sockets existing":
        "from spawn of `netconn run` until GET /v1/health answers with complete:true"
    ReadyRows Startup "" Always(0.0), "rows of the first snapshot, less those of ss": "GET /v1/connections thereafter"
    ReadyLost Startup "" Always(0.0), "lost while it starts": "as with the flood"

    RepairAsked Repair "s" AtMost(1.0), "repair after loss with 100,000 sockets, when asked":
        "ring_bytes = 4096; SIGSTOP; 2,000 sockets end, 3,000 begin, 5,000 connections pass; from SIGCONT until GET \
         /v1/connections has ended, with as many rows as ss has lines, complete, nothing more lost after it"
    RepairAlone Repair "s" AtMost(1.0), "the same, when nobody asks":
        "from SIGCONT until /v1/health is complete and `Data Loss` (stage ring) is in the file; then the rows are counted"
    RepairRows Repair "" Always(0.0), "rows after the repair, less those of ss": "as above"
    RepairQueue Repair "" Always(0.0), "events lost by the repair": "lost_queue and lost_disk of the output after it"

    HeldMemory Growth "MB" Beside, "RSS with connections held":
        "VmRSS with `load hold --sockets N` that were there before, after a snapshot"
    HeldReady Growth "s" Beside, "ready with connections held":
        "from spawn of `netconn run` until GET /v1/health answers with complete:true"
    HeldList Growth "s" Beside, "`netconn list --format json` with connections held":
        "through the daemon, into a pipe, from spawn until it has ended"
    HeldSs Growth "s" Beside, "`ss -tanp` with connections held": "the same, right after it"
    RateReached Growth "/s" Beside, "connections a second":
        "`load paced --kind http --rate N` for 5 s; the most is `load flood --kind http`"
    RateCpu Growth "%" Beside, "CPU at so many a second, of one core":
        "the daemon's processor clock, and the hooks' run_time_ns, until all events are written, over the time of the load"
    RateMachine Growth "%" Beside, "busy time of the machine meanwhile":
        "user, system and interrupts of /proc/stat, over the time of all processors: at 100 nothing is left"
    RateLost Growth "" Beside, "lost at so many a second": "records and events, as with the flood"

    Instructions Instructions "" Beside, "instructions in user space to":
        "the microbenchmarks of netconn/benches/record.rs under callgrind, one run over what a 6.18 told, over its items"

    SearchTime Search "ms" Beside, "10 million events":
        "`load events` makes 30 days, netconn-search --convert makes them Parquet; from spawn of `netconn-search QUERY --file \
         FOLDER --format csv` until its output has ended; all files are in the page cache"
    SearchGroup Search "ms" AtMost(500.0), "group over 10 million events":
        "the same for IP Connect by address and port"
    DuckDbTime Search "ms" Beside, "DuckDB":
        "the same in SQL over the same files: execute and fetchall in a Python that runs already (all processors, as ours)"
    SearchRatio Search "x" AtMost(1.5), "time over DuckDB's": "the two above of the same round"
    SearchSame Search "" Always(1.0), "same rows as DuckDB": "1 if they are; both sorted"
    SearchMemory Search "MB" AtMost(500.0), "peak memory of a search": "ru_maxrss of that process"
    SearchHour Search "ms" Beside, "one hour of the month": "the group with --since and --until an hour apart"
    SearchHourFiles Search "" AtMost(2.0), "files read for one hour of the month": "`files_read` of --format json"
    SearchStart Search "ms" AtMost(50.0), "an empty query over ten events": "from spawn until it has ended"
    SearchBytes Search "" Beside, "bytes of an event as Parquet": "length of all files over events"
}

/// What each figure is and how it is measured, for the help.
pub(crate) fn methods() -> String {
    use std::fmt::Write as _;
    let mut text = String::from("Figures, their goals, and how each is measured:\n");
    let mut group = None;
    for definition in ALL {
        if group.replace(definition.group) != Some(definition.group) {
            let name = definition.group.to_possible_value();
            let _ = writeln!(text, "\n{}:", name.as_ref().map_or("", |value| value.get_name()));
        }
        let Definition { name, goal, unit, method, .. } = definition;
        let _ = match goal.words(unit) {
            Some(goal) => writeln!(text, "  {name} ({goal})\n      {method}"),
            None => writeln!(text, "  {name}\n      {method}"),
        };
    }
    text + "\nThey are the goals of issue 5. Every command of netconn runs as users run it, with all fields, but without a \
            history, whose cost is a figure of its own; everything is done in network namespaces of its own. Machines differ \
            and are shared: only what was measured side by side in one run compares.\n"
}

impl Goal {
    /// `≥ 0.75`, if there is a goal.
    pub(crate) fn words(self, unit: &str) -> Option<String> {
        let (sign, limit) = match self {
            AtLeast(limit) => ("≥", limit),
            AtMost(limit) => ("≤", limit),
            Always(limit) => ("=", limit),
            Beside => return None,
        };
        Some(format!("{sign} {limit} {unit}").trim_end().to_owned())
    }

    /// Whether these figures reach it; `None` if there is nothing to reach or nothing was measured.
    pub(crate) fn is_met(self, samples: &[f64]) -> Option<bool> {
        let median = median(samples)?;
        match self {
            AtLeast(limit) => Some(median >= limit),
            AtMost(limit) => Some(median <= limit),
            #[expect(clippy::float_cmp, reason = "counts, and quotients of equal counts")]
            Always(limit) => Some(samples.iter().all(|sample| *sample == limit)),
            Beside => None,
        }
    }
}

/// The middle of several figures, or the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) { f64::midpoint(*sorted.get(middle - 1)?, upper) } else { upper })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_where_they_are_looked_for() {
        assert_eq!(Figure::KeptFull.definition().id, "KeptFull");
        assert_eq!(Figure::SearchBytes as usize, ALL.len() - 1);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn goals_judge_the_median_or_each() {
        assert_eq!(AtLeast(0.75).is_met(&[0.7, 0.8, 0.9]), Some(true));
        assert_eq!(AtMost(4.0).is_met(&[4.1, 4.2, 1.0]), Some(false));
        assert_eq!(Always(0.0).is_met(&[0.0, 0.0, 1.0]), Some(false));
        assert_eq!(Always(0.0).is_met(&[]), None);
        assert_eq!(Beside.is_met(&[1.0]), None);
    }
}

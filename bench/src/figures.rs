//! The table of all figures: name, unit, goal and method. Help, report and JSON are made from it.

use clap::ValueEnum;

/// A group of figures, measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Group {
    /// Floods of connections with and without netconn, and the cost of 1,000 connections per second.
    Connect,
    /// Datagrams with and without netconn.
    Udp,
    /// Time to list 100,000 sockets.
    Snapshot,
    /// Latency from the kernel to the file of events.
    Latency,
    /// Costs of an idle daemon.
    Idle,
    /// Memory in five minutes of mixed load, and afterwards.
    Mixed,
    /// Time from exec to the first complete response.
    Startup,
    /// Time from a loss of records to a correct table.
    Repair,
    /// How costs grow with the number of open connections and with the rate of new ones.
    Growth,
    /// Instructions in user space per record.
    Instructions,
    /// Queries over ten million events, beside DuckDB. The first run builds netconn-search and generates the events,
    /// which takes half an hour.
    Search,
    /// All groups.
    All,
}

/// The goal of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// The median is at least this.
    AtLeast(f64),
    /// The median is at most this.
    AtMost(f64),
    /// Every round gives exactly this.
    Always(f64),
    /// No goal: the figure is shown for comparison.
    Beside,
}

/// A figure of the table. It has one line for each case.
#[derive(Debug)]
pub(crate) struct Definition {
    /// The name in JSON.
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
        /// A figure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum Figure { $($figure),* }

        /// All figures, in the order in which they are shown.
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
        "`load flood --kind KIND`: rst and fin connect and close, with one thread per end; http has 4 clients and 2 \
         servers"
    KeptFull Connect "" AtLeast(0.75), "kept with full events to a file":
        "rate of the same flood beside `netconn run --events FILE`, divided by the mean rate of the floods before and \
         after it"
    KeptTable Connect "" AtLeast(0.85), "kept with the table alone":
        "as above, beside `netconn run` without --events"
    KeptPeer Connect "" Beside, "kept beside a peer":
        "as above, beside tcplife, tcpstates (libbpf-tools) and tcplife.bt, which write text to a file"
    AheadOfPeer Connect "" AtLeast(1.0), "kept with full events, over what tcplife keeps":
        "the quotient of the two figures above from the same round"
    Lost Connect "" Always(0.0), "lost in the flood, full events":
        "from /v1/health after all events are written: records.lost, plus lost_queue and lost_disk of the output"
    LossEvents Connect "" Always(0.0), "`Data Loss` events in the file":
        "number of `Data Loss` lines after the flood"
    EventsTold Connect "" Always(1.0), "events told, of those there must be":
        "number of `IP Connect` and `IP Close` events of the generator's process in the file, divided by 4 per \
         connection"
    PeerLines Connect "" Beside, "lines told by a peer, for each connection":
        "lines of its output divided by connections; complete output is 2 for tcplife, 6 (RST) or 12 (FIN) for \
         tcpstates"
    PeerLost Connect "" Beside, "lost by a peer":
        "the sum of its own messages `lost N events`"
    CpuPerConnection Connect "µs" AtMost(4.0), "CPU for each connection, both ends":
        "busy time in /proc/stat (user, system, interrupts; all CPUs) from the start of the flood until all events are \
         written, divided by connections, minus the mean of the floods without netconn before and after"
    CpuOfTasks Connect "µs" Beside, "the same, by processes":
        "as above, with the CPU clocks of generator and daemon: it excludes kernel threads and other processes"
    CpuPeer Connect "µs" Beside, "CPU for each connection, a peer":
        "as above from /proc/stat, beside a peer"
    HookTime Connect "ns" AtMost(150.0), "mean run time of the hooks, in the flood":
        "run_time_ns divided by run_cnt of all programs in /proc/PID/fdinfo of the daemon, in a separate flood with \
         BPF_ENABLE_STATS (as kernel.bpf_stats_enabled=1, but it ends with this process)"
    HookTimePaced Connect "ns" Beside, "the same, at 1,000 connections/s":
        "with `load paced --kind http --rate 1000`, where caches are cold"
    CpuPaced Connect "%" AtMost(1.0), "CPU at 1,000 connections/s, of one core":
        "the daemon's CPU clock plus the hooks' run_time_ns in 10 s of `load paced --kind http --rate 1000`, with \
         events to a file; the slowdown of the generator's own code is not included"
    CpuHistory Connect "" Beside, "CPU of the daemon with a history, over that without":
        "the daemon's CPU clock at 1,000 connections/s, both with events to a file; conversions to Parquet are not \
         included"

    DatagramsAlone Udp "/s" Beside, "64-byte datagrams on loopback, nothing beside them":
        "`load udp --manner MANNER`: one thread sends and receives 32 at a time, through one socket pair or 1,000 in \
         turn"
    DatagramsKeptFlows Udp "" AtLeast(0.85), "kept with flows = \"flows\"":
        "rate of the same datagrams beside `netconn run --events FILE`, divided by the mean rate of the runs before \
         and after it"
    DatagramsKeptSockets Udp "" Beside, "kept with flows = \"sockets\"": "as above, with this level in the configuration"
    DatagramsKeptOff Udp "" Beside, "kept with flows = \"off\"":
        "as above: the control, where a difference from 1 is noise of the machine"
    DatagramsLost Udp "" Always(0.0), "lost meanwhile, flows = \"flows\"": "as for the flood of connections"
    DatagramsCounted Udp "" Always(1.0), "datagrams counted, of those there were":
        "packetsSent plus packetsReceived of the generator's `IP Close` events in the file, divided by 2 per datagram"
    CpuPerDatagram Udp "ns" Beside, "CPU for each datagram, both ends":
        "busy time in /proc/stat divided by datagrams, minus the mean of the runs without netconn before and after"
    HookTimeDatagram Udp "ns" Beside, "run time of the hooks for each datagram, both ends":
        "run_time_ns of all programs, as for the flood of connections, divided by datagrams"

    LatencyP50 Latency "ms" AtMost(10.0), "kernel to file at 1,000 connections/s, median":
        "from `timestamp` of each event (taken in the kernel) until a reader that polls every millisecond has read \
         its line; too high by up to a millisecond and a wake-up, too low by at most microseconds (two clock reads of \
         the daemon)"
    LatencyP99 Latency "ms" AtMost(50.0), "99 of 100": "as above"
    LatencyMax Latency "ms" Beside, "the latest": "as above"

    RssIdle Idle "MB" AtMost(20.0), "RSS, nothing happens":
        "VmRSS of /proc/PID/status 2 s after the start"
    Rss100k Idle "MB" AtMost(60.0), "RSS with 100,000 connections in the table":
        "VmRSS with `load hold --sockets 100000`, opened while the daemon runs or before it starts; each after a \
         snapshot"
    WakeUps Idle "/s" AtMost(1.0), "wake-ups when nothing happens":
        "voluntary and involuntary context switches of all its threads (/proc/PID/task/*/status) in 10 s; a note has \
         the number of records, if other processes start or exit meanwhile"
    CpuIdle Idle "ms/s" Beside, "CPU when nothing happens": "its CPU clock in the same 10 s"
    Binary Idle "MB" AtMost(10.0), "binary, stripped": "size of target/release/netconn"

    RssMixed Mixed "MB" AtMost(70.0), "RSS under mixed load":
        "VmRSS each second in 5 minutes of `load mixed --rate 300`: connections of short processes with command lines of \
         their own, failures, datagrams to 2,000 ports, up to 2,000 connections held, bursts of 2,000; with a history, \
         events to a file, and a list with all that has ended each 15 s; and 65 s after the load"

    SnapshotTime Snapshot "s" Beside, "time of":
        "from spawn until the command has closed its output and exited; the output is a pipe unless the case names \
         another"
    FasterDaemon Snapshot "x" AtLeast(40.0), "`netconn list --format json`, faster than `ss -tanp`":
        "with 100,000 TCP sockets (`load hold`) and a daemon; both write to a pipe, one after the other in each round"
    FasterDirect Snapshot "x" AtLeast(20.0), "`netconn list --format json` without a daemon, faster than `ss -tanp`":
        "as above, without --socket and with no daemon at the default socket"
    FasterElsewhere Snapshot "x" Beside, "through the daemon, output elsewhere":
        "as above, with both outputs to /dev/null or to a file on disk"
    RowsMissing Snapshot "" Always(0.0), "rows of netconn, less those of ss":
        "rows of this network namespace, including 1,000 in TIME_WAIT, minus lines of `ss -tanH` before and after"

    Ready Startup "s" AtMost(1.0), "ready with 100,000 sockets existing":
        "from spawn of `netconn run` until GET /v1/health answers with complete:true"
    ReadyRows Startup "" Always(0.0), "rows of the first snapshot, less those of ss": "GET /v1/connections after that"
    ReadyLost Startup "" Always(0.0), "lost while it starts": "as for the flood of connections"

    RepairAsked Repair "s" AtMost(1.0), "repair after loss with 100,000 sockets, when asked":
        "ring_bytes = 4096; SIGSTOP; 2,000 sockets close, 3,000 open, 5,000 connections open and close; from SIGCONT \
         until GET /v1/connections returns as many rows as ss prints; then the table is complete and nothing more is \
         lost"
    RepairAlone Repair "s" AtMost(1.0), "the same, when nobody asks":
        "from SIGCONT until /v1/health reports complete:true and `Data Loss` (stage ring) is in the file"
    RepairRows Repair "" Always(0.0), "rows after the repair, less those of ss": "as above"
    RepairQueue Repair "" Always(0.0), "events lost by the repair": "lost_queue plus lost_disk of the output after it"

    HeldMemory Growth "MB" Beside, "RSS with connections held":
        "VmRSS after a snapshot, with `load hold --sockets N` before the start"
    HeldReady Growth "s" Beside, "ready with connections held":
        "from spawn of `netconn run` until GET /v1/health answers with complete:true"
    HeldList Growth "s" Beside, "`netconn list --format json` with connections held":
        "through the daemon into a pipe, from spawn until it has exited"
    HeldSs Growth "s" Beside, "`ss -tanp` with connections held": "as above, right after it"
    RateReached Growth "/s" Beside, "connections a second":
        "`load paced --kind http --rate N` for 5 s; `the most` is `load flood --kind http`"
    RateCpu Growth "%" Beside, "CPU at so many a second, of one core":
        "the daemon's CPU clock plus the hooks' run_time_ns until all events are written, divided by the time of the \
         load"
    RateMachine Growth "%" Beside, "busy time of the machine meanwhile":
        "user, system and interrupts of /proc/stat, divided by the time of all CPUs; at 100 all are busy"
    RateLost Growth "" Beside, "lost at so many a second": "records and events, as for the flood of connections"

    Instructions Instructions "" Beside, "instructions in user space to":
        "the microbenchmarks of netconn/benches/record.rs under callgrind: one run over records of a 6.18, divided by \
         its items"

    SearchTime Search "ms" Beside, "10 million events":
        "`load events` generates 30 days, netconn-search --convert converts them to Parquet; from spawn of \
         `netconn-search QUERY --file FOLDER --format csv` until its output has ended; all files are in the page cache"
    SearchGroup Search "ms" AtMost(500.0), "group over 10 million events":
        "as above, for IP Connect by address and port"
    DuckDbTime Search "ms" Beside, "DuckDB":
        "the same queries in SQL over the same files: execute and fetchall in a running Python (all CPUs, as \
         netconn-search)"
    SearchRatio Search "x" AtMost(1.5), "time over DuckDB's": "the quotient of both times from the same round"
    SearchSame Search "" Always(1.0), "same rows as DuckDB": "1 if the sorted rows are equal, otherwise 0"
    SearchMemory Search "MB" AtMost(500.0), "peak memory of a search": "ru_maxrss of that process"
    SearchHour Search "ms" Beside, "one hour of the month": "the query `group` with --since and --until an hour apart"
    SearchHourFiles Search "" AtMost(2.0), "files read for one hour of the month":
        "`files` minus `files_pruned` of --format json"
    SearchStart Search "ms" AtMost(50.0), "an empty query over ten events": "from spawn until it has exited"
    SearchBytes Search "" Beside, "bytes of an event as Parquet": "size of all files divided by events"
}

/// Returns the part of the help that describes the figures.
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
        let _ = match goal.text(unit) {
            Some(goal) => writeln!(text, "  {name} ({goal})\n      {method}"),
            None => writeln!(text, "  {name}\n      {method}"),
        };
    }
    text + "\nnetconn runs with its default options and all fields, but without a history: the cost of that is a \
            separate figure. Everything runs in new network namespaces. Compare only figures of one run, because \
            machines differ and their load varies.\n"
}

impl Goal {
    /// Formats the goal as `≥ 0.75`; `None` if there is none.
    pub(crate) fn text(self, unit: &str) -> Option<String> {
        let (sign, limit) = match self {
            AtLeast(limit) => ("≥", limit),
            AtMost(limit) => ("≤", limit),
            Always(limit) => ("=", limit),
            Beside => return None,
        };
        Some(format!("{sign} {limit} {unit}").trim_end().to_owned())
    }

    /// Returns whether the samples meet the goal; `None` without a goal or without samples.
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

/// Returns the median: the middle sample, or the mean of the two in the middle.
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

//! Checks of what a running daemon reports about itself.

use jiff::Timestamp;
use netconn_model::{
    fact::LossStage,
    health::{
        Conversion, Enforcement, FlowCounts, Health, HistoryHealth, LostEventCounts, MissingCapability, OutputHealth,
        OutputState, PrivilegedChild, Privileges, UntoldCounts,
    },
};

use crate::{
    doctor::{Check, Mark},
    kernel::preflight::PID_NAMESPACE,
    search_program::NotInstalled,
};

/// Checks what the daemon reports about itself.
pub fn daemon(health: &Health) -> Vec<Check> {
    let mut checks = vec![Check::new(
        Mark::Good,
        "daemon",
        format!(
            "netconn {}, pid {}, up {} s, {} connections, {} events",
            health.version, health.pid, health.uptime_seconds, health.connections, health.events
        ),
    )];
    if health.own_pid_namespace {
        checks.push(Check::new(Mark::Fair, "its processes", PID_NAMESPACE));
    }
    checks.extend(privileges(&health.privileges));
    if let Some(reason) = &health.state_unsaved {
        let finding = format!(
            "it cannot be written ({reason}): if the id of this sensor is not in it yet, the next start has another one and finds \
             nothing that is kept with sockets; free some space"
        );
        checks.push(Check::new(Mark::Bad, "state", finding));
    }
    if !health.missing_members.is_empty() {
        let missing = health.missing_members.join(", ");
        checks.push(Check::new(Mark::Fair, "kernel structures", format!("without {missing}: absent from events")));
    }
    checks.extend(flows(&health.flows));
    // What came from the kernel: a loss here is repaired, but may cost events.
    let records = &health.records;
    // An unknown record is as bad as a lost one: its fact is missing too.
    checks.push(if records.lost == 0 && records.unknown == 0 {
        Check::new(Mark::Good, "records", format!("{} received, none lost", records.received))
    } else {
        let finding = format!(
            "{} received; lost: {} of sockets, {} of processes, {} missed runs; {} not understood; the table was repaired {} \
             times; a larger ring_bytes in the configuration helps against loss",
            records.received,
            records.lost_sockets,
            records.lost_processes,
            records.missed_runs,
            records.unknown,
            health.repairs
        );
        Check::new(Mark::Bad, "records", finding)
    });
    if records.without_memory != 0 {
        // Only `Fair`: the connections themselves are reported, see "life 0" in ARCHITECTURE.md.
        let finding = format!(
            "the kernel had none to keep owners with sockets, {} times: who accepted those connections may not be known",
            records.without_memory
        );
        checks.push(Check::new(Mark::Fair, "memory", finding));
    }
    if !health.complete {
        checks.push(Check::new(Mark::Bad, "completeness", health.incomplete.join("; ")));
    }
    let LostEventCounts { outgoing, incoming, closes, listeners, clients } = health.lost_events;
    // Lost records need not have cost an event, so these are counted apart.
    checks.push(if outgoing + incoming + closes + listeners + clients == 0 {
        Check::new(Mark::Good, "events", format!("{} made, none lost", health.events))
    } else {
        let finding = format!(
            "{} made; never made, as all records of their connection were lost: {outgoing} outgoing, {incoming} incoming, \
             {closes} closes, {listeners} of listeners; clients were too slow for {clients}",
            health.events
        );
        Check::new(Mark::Bad, "events", finding)
    });
    checks.extend(untold(health.excluded_events, health.folded_events));
    if health.refused != 0 {
        let finding = format!(
            "{} clients listen to events; {} times one was refused for want of a place: `ss -xp` shows who has the others",
            health.clients, health.refused
        );
        checks.push(Check::new(Mark::Fair, "clients", finding));
    }
    // What became of the events that were made.
    for output in &health.outputs {
        let (mark, fate) = fate(output);
        checks.push(Check::new(mark, &output.path, fate));
    }
    checks.push(history(health.history.as_ref()));
    checks
}

/// Checks what the daemon may do.
fn privileges(privileges: &Privileges) -> Vec<Check> {
    let Privileges { user, uid, capabilities, landlock, seccomp, denied_calls, last_denied_call, child, missing } =
        privileges;
    let of = |capabilities: &[String]| match capabilities {
        [] => "no capability".to_owned(),
        some => some.join(", "),
    };
    let mut finding = format!("user {user}, {}", of(capabilities));
    let mut mark = Mark::Good;
    if *uid == 0 {
        mark = Mark::Fair;
        finding.push_str(
            ": it stays root, with its privileges; `useradd -r -s /usr/sbin/nologin netconn`, and the next start becomes that user",
        );
    }
    // Older kernels lack some of it: no reason to do anything.
    finding.push_str(match landlock {
        Enforcement::Full => "; Landlock",
        Enforcement::Partial => "; as much of Landlock as this kernel has",
        Enforcement::None => "; no Landlock",
    });
    finding.push_str(if *seccomp { "; filter of system calls" } else { "; no filter of system calls" });
    if *denied_calls != 0 {
        mark = Mark::Bad;
        let last = last_denied_call.unwrap_or_default();
        finding.push_str(&format!(", which has denied {denied_calls} calls, the last number {last}: please report it"));
    }
    if let Some(PrivilegedChild { pid, capabilities, alive, failures }) = child {
        finding.push_str(&format!("; privileged child {pid}: {}", of(capabilities)));
        if !alive {
            mark = Mark::Bad;
            finding.push_str(", it has ended: restart netconn");
        } else if *failures != 0 {
            mark = Mark::Fair;
            finding.push_str(&format!(", {failures} requests without an answer"));
        }
    }
    let mut checks = vec![Check::new(mark, "privileges", finding)];
    let lack = |MissingCapability { capability, without }: &MissingCapability| {
        Check::new(Mark::Fair, capability, format!("the daemon was not given it: {without}"))
    };
    checks.extend(missing.iter().map(lack));
    checks
}

/// Returns how many events the configuration has kept from being made; `None` if it has kept none.
fn untold(excluded: UntoldCounts, folded: UntoldCounts) -> Option<Check> {
    let mut parts = Vec::new();
    if excluded.events != 0 {
        parts.push(format!("{} are excluded by rules (exclude in the configuration)", excluded.events));
    }
    if folded.events != 0 {
        parts.push(format!(
            "{} were only counted, because there were more of a kind in a second than event_limit_per_second allows",
            folded.events
        ));
    }
    // Rules are what somebody wanted. What the limit folds was wanted, and searches count it as lost.
    let mark = if folded.events == 0 { Mark::Good } else { Mark::Fair };
    (!parts.is_empty()).then(|| Check::new(mark, "events not made", parts.join("; ")))
}

/// Returns what became of the events of an output, and whether that is well.
fn fate(output: &OutputHealth) -> (Mark, String) {
    let written = output.written;
    let state = match output.state {
        OutputState::Open => None,
        OutputState::Failing => Some("it cannot be written at the moment, see the log"),
        OutputState::Renamed => Some(
            "its file has another name now, and the events still go there: send SIGHUP to the daemon to open it anew",
        ),
        OutputState::Removed => Some(
            "its file has been removed, so nobody can read what is written: send SIGHUP to the daemon to open it anew",
        ),
        OutputState::Gone => Some("its reader has gone, so it gets no more events"),
    };
    let behind = state.map(|state| format!("; {state}")).unwrap_or_default();
    if output.lost() == 0 {
        let mark = if state.is_none() { Mark::Good } else { Mark::Bad };
        return (mark, format!("{written} events written, none lost{behind}"));
    }
    let causes: Vec<String> = output
        .losses()
        .map(|(stage, lost)| match stage {
            LossStage::Queue => format!("{lost} because its queue was full"),
            LossStage::Disk => format!("{lost} because the disk refused them"),
            LossStage::Sink => format!("{lost} because the receiver refused them"),
            // No output loses events here.
            LossStage::Ring | LossStage::Flows | LossStage::Fold => format!("{lost} in the kernel"),
        })
        .collect();
    (Mark::Bad, format!("{written} events written; lost: {}{behind}", causes.join(", ")))
}

/// Checks the history.
fn history(health: Option<&HistoryHealth>) -> Check {
    let Some(history) = health else {
        return Check::new(Mark::Fair, "history", "none is kept for `netconn search`, as the configuration wants it");
    };
    let HistoryHealth {
        output,
        bytes,
        files,
        oldest,
        full,
        conversion,
        waiting,
        converted: _,
        failures,
        folded,
        folded_outgoing: _,
        folded_incoming: _,
        overdue,
        confinement,
    } = history;
    let since = oldest
        .and_then(|oldest| Timestamp::from_millisecond(i64::try_from(oldest).ok()?).ok())
        .map_or_else(String::new, |oldest| format!(" since {oldest:.0}"));
    // Losses first; what follows may only make the mark worse.
    let (mut mark, fate) = fate(output);
    let mut finding = format!("{}: {:.1} MB in {files} files{since}; {fate}", output.path, *bytes as f64 / 1e6);
    let mut worse = |than, text: String| {
        // A later finding never improves the mark.
        mark = if mark == Mark::Bad { Mark::Bad } else { than };
        finding.push_str(&text);
    };
    if *full {
        worse(Mark::Bad, "; events are being lost: free some space".into());
    }
    if *folded != 0 {
        let text =
            "events of floods were counted instead of written, so that older ones stay: search for loss.stage = 'fold'";
        worse(Mark::Fair, format!("; {folded} {text}"));
    }
    if *overdue != 0 {
        let text = "segments are older than history_days by a clock that has jumped: they go once it has been steady for a day";
        worse(Mark::Fair, format!("; {overdue} {text}"));
    }
    match conversion {
        Conversion::Missing => {
            worse(Mark::Fair, format!("; {waiting} segments stay NDJSON, which takes more room: {NotInstalled}"));
        }
        Conversion::Failing => {
            worse(Mark::Bad, format!("; {waiting} segments could not be converted, see the log"));
        }
        // Only `Fair`: no event is lost by it, the segments stay NDJSON until then.
        Conversion::Idle | Conversion::Running if *failures != 0 => {
            worse(Mark::Fair, format!("; {failures} conversions have failed and were tried again, see the log"));
        }
        Conversion::Idle | Conversion::Running => {}
    }
    if let Some(confinement) = confinement {
        let gaps = confinement.gaps();
        // What it has it is not praised for: the finding is long enough.
        if !gaps.is_empty() {
            worse(Mark::Fair, format!("; segments are converted without {}", gaps.join(", ")));
        }
    }
    Check::new(mark, "history", finding)
}

/// Checks the flows; `None` when none are watched.
fn flows(flows: &FlowCounts) -> Option<Check> {
    let FlowCounts { protocols, folded, bound, uncounted } = flows;
    // Nothing is watched, or there is nothing to count.
    if protocols.is_empty() && *bound == 0 {
        return None;
    }
    let mut counts: Vec<String> = protocols.iter().map(|(name, count)| format!("{count} {name}")).collect();
    counts.push(format!("{bound} bound sockets"));
    let counts = counts.join(", ");
    // Uncounted datagrams are lost for good, folded ones only lose their remote end.
    Some(if *uncounted != 0 {
        let finding = format!(
            "{counts}; {uncounted} datagrams were not counted, because there was no room: a larger max_flows in the \
             configuration helps"
        );
        Check::new(Mark::Bad, "flows", finding)
    } else if *folded == 0 {
        Check::new(Mark::Good, "flows", counts)
    } else {
        let finding = format!(
            "{counts}; {folded} of them have more than one remote end, because there were too many: a larger max_flows \
             in the configuration helps"
        );
        Check::new(Mark::Fair, "flows", finding)
    })
}

#[cfg(test)]
mod tests {
    use netconn_model::health::{Confinement, Enforcement};

    use super::*;

    #[test]
    fn the_history_says_what_is_wrong_with_it() {
        assert_eq!(history(None).mark, Mark::Fair);
        let output = OutputHealth { path: "/h".into(), written: 5, lost_disk: Some(0), ..OutputHealth::default() };
        let (landlock, seccomp) = (Enforcement::Full, Enforcement::Full);
        let (empty_bounding_set, first_filter) = (Some(true), Some(true));
        let confinement =
            Confinement { uid: 61_184, has_own_user: true, landlock, seccomp, empty_bounding_set, first_filter };
        let less = Confinement { uid: 0, has_own_user: false, landlock: Enforcement::None, ..confinement };
        let open = Confinement { empty_bounding_set: Some(false), first_filter: Some(false), ..confinement };
        let well = HistoryHealth {
            output: output.clone(),
            bytes: 12_340_000,
            files: 3,
            oldest: Some(1_767_225_600_999),
            full: false,
            conversion: Conversion::Idle,
            waiting: 0,
            converted: 2,
            failures: 0,
            folded: 0,
            folded_outgoing: 0,
            folded_incoming: 0,
            overdue: 0,
            confinement: Some(confinement),
        };
        let check = history(Some(&well));
        let expected = "/h: 12.3 MB in 3 files since 2026-01-01T00:00:00Z; 5 events written, none lost";
        assert_eq!((check.mark, &*check.finding), (Mark::Good, expected));
        for (ill, mark, expected) in [
            (HistoryHealth { full: true, ..well.clone() }, Mark::Bad, "free some space"),
            (
                HistoryHealth { output: OutputHealth { lost_disk: Some(7), ..output }, ..well.clone() },
                Mark::Bad,
                "7 because the disk",
            ),
            (HistoryHealth { folded: 9, ..well.clone() }, Mark::Fair, "9 events of floods were counted"),
            (HistoryHealth { overdue: 3, ..well.clone() }, Mark::Fair, "3 segments are older than history_days"),
            (HistoryHealth { failures: 1, ..well.clone() }, Mark::Fair, "1 conversions have failed"),
            (
                HistoryHealth { confinement: Some(less), ..well.clone() },
                Mark::Fair,
                "; segments are converted without a user of its own, Landlock",
            ),
            (
                HistoryHealth { confinement: Some(open), ..well.clone() },
                Mark::Fair,
                "without an empty bounding set of capabilities, the first filter of system calls",
            ),
            (
                HistoryHealth { conversion: Conversion::Failing, waiting: 2, ..well.clone() },
                Mark::Bad,
                "2 segments could not",
            ),
            (
                HistoryHealth { conversion: Conversion::Missing, waiting: 2, ..well },
                Mark::Fair,
                "2 segments stay NDJSON, which takes more room: netconn-search is not installed: `cargo build",
            ),
        ] {
            let check = history(Some(&ill));
            assert_eq!(check.mark, mark);
            assert!(check.finding.contains(expected), "{}", check.finding);
        }
    }

    #[test]
    fn what_the_configuration_leaves_out_is_said() {
        let count = |events| UntoldCounts { events, ..UntoldCounts::default() };
        assert!(untold(count(0), count(0)).is_none());
        let check = untold(count(5), count(0)).unwrap();
        let excluded = "5 are excluded by rules (exclude in the configuration)";
        assert_eq!((check.mark, &*check.finding), (Mark::Good, excluded));
        let check = untold(count(5), count(7)).unwrap();
        assert_eq!(check.mark, Mark::Fair);
        assert!(check.finding.starts_with(&format!("{excluded}; 7 were only counted, because ")), "{}", check.finding);
    }

    #[test]
    fn an_output_that_nobody_can_read_is_not_well() {
        let output = OutputHealth { path: "/e".into(), written: 5, ..OutputHealth::default() };
        assert_eq!(fate(&output), (Mark::Good, "5 events written, none lost".into()));
        for (state, advice) in [
            (OutputState::Failing, "see the log"),
            (OutputState::Renamed, "another name now, and the events still go there: send SIGHUP"),
            (OutputState::Removed, "has been removed, so nobody can read what is written: send SIGHUP"),
            (OutputState::Gone, "no more events"),
        ] {
            let (mark, fate) = fate(&OutputHealth { state, ..output.clone() });
            assert!(mark == Mark::Bad && fate.contains(advice), "{fate}");
        }
    }

    #[test]
    fn folded_flows_are_worth_a_word() {
        assert!(flows(&FlowCounts::default()).is_none(), "none are watched");
        let mut counts = FlowCounts { protocols: [("UDP".into(), 3)].into(), folded: 0, bound: 2, uncounted: 0 };
        let check = flows(&counts).unwrap();
        assert_eq!((check.mark, &*check.finding), (Mark::Good, "3 UDP, 2 bound sockets"));
        counts.folded = 1;
        let check = flows(&counts).unwrap();
        assert_eq!(check.mark, Mark::Fair);
        assert!(check.finding.contains("; 1 of them have more than one remote end"), "{}", check.finding);
        counts.uncounted = 7;
        let check = flows(&counts).unwrap();
        assert_eq!(check.mark, Mark::Bad);
        assert!(check.finding.contains("; 7 datagrams were not counted"), "{}", check.finding);
    }
}

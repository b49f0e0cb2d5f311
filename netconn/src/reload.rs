//! Reads the configuration again while the daemon runs: finds out what has changed, what of that can be taken over, and has the engine
//! do so. A configuration that is wrong changes nothing.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use netconn_model::config::Config;
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use crate::{
    engine::{EngineCommand, Handle, Reload},
    process::redact::Redactor,
    rules::Rules,
    sink::{self, Sink},
    store::HistoryTiming,
};

/// How long the opening of an output may take: a file system may hang.
const OPEN: Duration = Duration::from_secs(5);
/// How long the engine may take to take settings over, and the pause before it is asked again if too much waits for it.
const TAKE_OVER: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(20);

/// A configuration in which nothing is wrong.
#[derive(Debug)]
pub struct Settings {
    /// All settings, with the options of the command line.
    pub config: Config,
    /// What `exclude` says.
    pub rules: Rules,
    /// What `redact` and `redact_patterns` say.
    pub redactor: Redactor,
}

/// Reads the settings from where the daemon had them when it started.
pub type ReadAgain<'a> = &'a dyn Fn() -> Result<Settings>;

/// What differs between two configurations.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Settings that can be taken over.
    pub live: Vec<&'static str>,
    /// Settings that hold from the next start on.
    pub at_restart: Vec<&'static str>,
}

impl Changes {
    /// Compares the configuration in force with another one.
    pub fn between(old: &Config, new: &Config) -> Self {
        // All fields by name: whoever adds a setting decides here whether it can change while the daemon runs.
        let Config {
            events,
            socket,
            state_dir,
            history,
            history_bytes,
            history_days,
            history_floor_hours,
            exclude,
            event_limit_per_second,
            redact,
            redact_patterns,
            group,
            site_id,
            data_source,
            ring_bytes,
            flows,
            max_flows,
            command_line_bytes,
            flow_idle_seconds,
            flow_idle_both_seconds,
            ebpf_log,
            // Of the commands, which read it each time.
            search: _,
        } = new;
        let mut changes = Self::default();
        let live = [
            ("events", *events != old.events),
            ("history_bytes", *history_bytes != old.history_bytes),
            ("history_days", *history_days != old.history_days),
            ("history_floor_hours", *history_floor_hours != old.history_floor_hours),
            ("exclude", *exclude != old.exclude),
            ("event_limit_per_second", *event_limit_per_second != old.event_limit_per_second),
            ("redact", *redact != old.redact),
            ("redact_patterns", *redact_patterns != old.redact_patterns),
            ("site_id", *site_id != old.site_id),
            ("data_source", *data_source != old.data_source),
            ("flow_idle_seconds", *flow_idle_seconds != old.flow_idle_seconds),
            ("flow_idle_both_seconds", *flow_idle_both_seconds != old.flow_idle_both_seconds),
        ];
        // Sockets, maps and programs are made once, and a history has one writer.
        let at_restart = [
            ("socket", *socket != old.socket),
            ("state_dir", *state_dir != old.state_dir),
            ("history", *history != old.history),
            ("group", *group != old.group),
            ("ring_bytes", *ring_bytes != old.ring_bytes),
            ("flows", *flows != old.flows),
            ("max_flows", *max_flows != old.max_flows),
            ("command_line_bytes", *command_line_bytes != old.command_line_bytes),
            ("ebpf_log", *ebpf_log != old.ebpf_log),
        ];
        let changed = |settings: &[(&'static str, bool)]| {
            settings.iter().filter(|(_, has_changed)| *has_changed).map(|(name, _)| *name).collect()
        };
        (changes.live, changes.at_restart) = (changed(&live), changed(&at_restart));
        changes
    }

    fn has(&self, setting: &str) -> bool {
        self.live.contains(&setting)
    }
}

/// Takes over what can be taken over of a new configuration, and logs that. `in_force` is changed accordingly.
pub async fn reload(engine: &Handle, in_force: &mut Config, timing: HistoryTiming, read: ReadAgain<'_>) {
    match take_over(engine, in_force, timing, read).await {
        Ok(Changes { live, at_restart }) => {
            let live = if live.is_empty() { "nothing".to_owned() } else { live.join(", ") };
            info!("the configuration was read again; changed: {live}");
            if !at_restart.is_empty() {
                warn!("these settings have changed too, and hold from the next start on: {}", at_restart.join(", "));
            }
        }
        Err(error) => error!("the configuration was read again and cannot be used; nothing has changed: {error:#}"),
    }
}

async fn take_over(
    engine: &Handle,
    in_force: &mut Config,
    timing: HistoryTiming,
    read: ReadAgain<'_>,
) -> Result<Changes> {
    let Settings { config, rules, redactor } = read()?;
    let changes = Changes::between(in_force, &config);
    let is_listed = |path: &PathBuf, config: &Config| config.events.contains(path);
    let added: Vec<PathBuf> = config.events.iter().filter(|path| !is_listed(path, in_force)).cloned().collect();
    let removed = in_force.events.iter().filter(|path| !is_listed(path, &config));
    let removed = removed.map(|path| path.display().to_string()).collect();
    let nanoseconds = |seconds: u32| u64::from(seconds) * 1_000_000_000;
    let flow_idle = (nanoseconds(config.flow_idle_seconds), nanoseconds(config.flow_idle_both_seconds));
    let limits = ["history_bytes", "history_days", "history_floor_hours"].iter().any(|name| changes.has(name));
    let reload = Reload {
        rules: changes.has("exclude").then_some(rules),
        redactor: (changes.has("redact") || changes.has("redact_patterns")).then_some(redactor),
        event_limit: changes.has("event_limit_per_second").then_some(config.event_limit_per_second),
        flow_idle_ns: Some(flow_idle),
        history: limits.then(|| sink::history_limits(&config, timing)),
        sensor: Some((config.site_id.clone(), config.data_source.clone())),
        // Last of what can fail, and before anything is changed.
        added: open(added).await?,
        removed,
    };
    if !changes.live.is_empty() {
        tell(engine, reload).await?;
    }
    // What needs a restart is still what it was, and is named again the next time.
    let Config {
        socket, state_dir, history, group, ring_bytes, flows, max_flows, command_line_bytes, ebpf_log, ..
    } = in_force.clone();
    *in_force = Config {
        socket,
        state_dir,
        history,
        group,
        ring_bytes,
        flows,
        max_flows,
        command_line_bytes,
        ebpf_log,
        ..config
    };
    Ok(changes)
}

/// Opens new outputs, on a thread of its own.
async fn open(paths: Vec<PathBuf>) -> Result<Vec<Box<dyn Sink>>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let opening = spawn_blocking(move || paths.iter().map(|path| sink::open_path(path)).collect::<Result<Vec<_>, _>>());
    let opened = timeout(OPEN, opening).await.context("the new outputs could not be opened within 5 s")?;
    Ok(opened.context("the new outputs could not be opened")??)
}

/// Hands the settings to the engine and waits until it has taken them over.
async fn tell(engine: &Handle, reload: Reload) -> Result<()> {
    let (reply, done) = oneshot::channel();
    let mut command = EngineCommand::Reload(Box::new(reload), reply);
    let taken = async {
        while let Err(back) = engine.offer(command) {
            command = back;
            sleep(RETRY).await;
        }
        done.await
    };
    timeout(TAKE_OVER, taken)
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| anyhow!("the engine is too busy: try again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_live_or_waits_for_a_restart() {
        let old = Config::default();
        assert_eq!(Changes::between(&old, &old), Changes::default());
        let new = Config {
            events: vec!["-".into()],
            history_days: 3,
            exclude: vec!["dst.port.number = 53".into()],
            socket: "/x".into(),
            max_flows: 2048,
            search: netconn_model::config::SearchConfig { sentinelone_alias: false, ..old.search.clone() },
            ..old.clone()
        };
        let changes = Changes::between(&old, &new);
        assert_eq!(changes.live, ["events", "history_days", "exclude"]);
        assert_eq!(changes.at_restart, ["socket", "max_flows"]);
        assert!(changes.has("exclude") && !changes.has("socket"));
    }
}

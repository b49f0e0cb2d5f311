//! Reads the configuration again while the daemon runs: finds out what has changed, what of that can be taken over, and has the engine
//! do so. A configuration that is wrong changes nothing.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use netconn_model::config::Config;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
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
/// How long is waited for the engine: for room among what waits for it, and then until it has taken the settings over. The pause before
/// it is asked again.
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
            user,
            seccomp,
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
            ("user", *user != old.user),
            ("seccomp", *seccomp != old.seccomp),
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

/// Takes over what can be taken over of a new configuration, logs that, and returns it in one line. `in_force` is changed accordingly.
pub async fn reload(engine: &Handle, in_force: &mut Config, timing: HistoryTiming, read: ReadAgain<'_>) -> String {
    match take_over(engine, in_force, timing, read).await {
        Ok((Changes { live, at_restart }, taken)) => {
            let at_restart = at_restart.join(", ");
            if !at_restart.is_empty() {
                warn!("these settings have changed too, and hold from the next start on: {at_restart}");
            }
            if taken == Taken::Later {
                warn!("the engine is busy: it takes the settings over as soon as it can");
            }
            let live = if live.is_empty() { "nothing".to_owned() } else { live.join(", ") };
            let mut result = format!("the configuration was read again; changed: {live}");
            info!("{result}");
            if !at_restart.is_empty() {
                result += &format!("; from the next start on: {at_restart}");
            }
            result
        }
        Err(error) => {
            let result = format!("the configuration was read again and cannot be used; nothing has changed: {error:#}");
            error!("{result}");
            // Errors of TOML show the line below.
            result.lines().next().unwrap_or_default().to_owned()
        }
    }
}

/// Whether the engine has taken settings over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Now,
    /// They wait for it, before all that is sent later: nobody can take them back.
    Later,
}

async fn take_over(
    engine: &Handle,
    in_force: &mut Config,
    timing: HistoryTiming,
    read: ReadAgain<'_>,
) -> Result<(Changes, Taken)> {
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
    let taken = if changes.live.is_empty() { Taken::Now } else { tell(engine, reload, TAKE_OVER).await? };
    *in_force = in_force_after(in_force, config);
    Ok((changes, taken))
}

/// Returns the settings that are in force after a reload. What needs a restart is still what it was, and is named again the next time.
fn in_force_after(old: &Config, new: Config) -> Config {
    let Config {
        socket,
        state_dir,
        history,
        user,
        seccomp,
        group,
        ring_bytes,
        flows,
        max_flows,
        command_line_bytes,
        ebpf_log,
        ..
    } = old.clone();
    Config {
        socket,
        state_dir,
        history,
        user,
        seccomp,
        group,
        ring_bytes,
        flows,
        max_flows,
        command_line_bytes,
        ebpf_log,
        ..new
    }
}

/// Opens new outputs, on a thread of its own. Not on one of the runtime, whose end would wait for an opening that hangs.
async fn open(paths: Vec<PathBuf>) -> Result<Vec<Box<dyn Sink>>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    within(OPEN, move || paths.iter().map(|path| sink::open_path(path)).collect::<Result<Vec<_>, _>>())
        .await
        .with_context(|| format!("the new outputs could not be opened within {} s", OPEN.as_secs()))?
        .map_err(Into::into)
}

/// Runs what may hang on a thread of its own, and waits for it that long.
async fn within<T: Send + 'static>(limit: Duration, run: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (done, result) = oneshot::channel();
    // Nobody may listen any more when it is done.
    thread::Builder::new()
        .name("reload".into())
        .spawn(move || _ = done.send(run()))
        .context("cannot start a thread")?;
    Ok(timeout(limit, result).await??)
}

/// Hands the settings to the engine, and waits that long for room and then until it has taken them over. An error means that it never
/// will.
async fn tell(engine: &Handle, reload: Reload, limit: Duration) -> Result<Taken> {
    let (reply, done) = oneshot::channel();
    let mut command = EngineCommand::Reload(Box::new(reload), reply);
    let since = Instant::now();
    while let Err(back) = engine.offer(command) {
        if since.elapsed() >= limit {
            bail!("the engine is too busy: try again");
        }
        command = back;
        sleep(RETRY).await;
    }
    // No answer also means that the engine has ended, and with it the daemon.
    Ok(if matches!(timeout(limit, done).await, Ok(Ok(()))) { Taken::Now } else { Taken::Later })
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;
    use crate::engine::{COMMANDS_MAX, EngineThread};

    #[tokio::test]
    async fn what_was_handed_over_holds_although_the_engine_is_late() {
        let limit = Duration::from_millis(10);
        let (engine, commands) = EngineThread::channel().unwrap();
        // The engine reads nothing: the command is in its queue.
        assert_eq!(tell(&engine, Reload::default(), limit).await.unwrap(), Taken::Later);
        (1..COMMANDS_MAX).for_each(|_| engine.send(EngineCommand::Reopen).unwrap());
        let error = tell(&engine, Reload::default(), limit).await.unwrap_err();
        assert_eq!(error.to_string(), "the engine is too busy: try again");
        let waiting: Vec<_> = commands.try_iter().collect();
        let reloads = waiting.iter().filter(|command| matches!(command, EngineCommand::Reload(..)));
        assert_eq!((waiting.len(), reloads.count()), (COMMANDS_MAX, 1));
    }

    #[test]
    fn an_opening_that_hangs_delays_no_end() {
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let (ended, end) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_time().build().unwrap();
            let opened = runtime.block_on(within(Duration::from_millis(10), move || hangs.recv()));
            drop(runtime);
            ended.send(opened.is_err()).unwrap();
        });
        // It still hangs.
        assert_eq!(end.recv_timeout(Duration::from_secs(60)), Ok(true));
        release.send(()).unwrap();
    }

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
            user: "other".into(),
            search: netconn_model::config::SearchConfig { sentinelone_alias: false, ..old.search.clone() },
            ..old.clone()
        };
        let changes = Changes::between(&old, &new);
        assert_eq!(changes.live, ["events", "history_days", "exclude"]);
        assert_eq!(changes.at_restart, ["socket", "user", "max_flows"]);
        assert!(changes.has("exclude") && !changes.has("socket"));
        // The next reload names what still waits for a restart, and nothing else.
        let again = Changes::between(&in_force_after(&old, new.clone()), &new);
        assert_eq!((again.live, again.at_restart), (Vec::new(), changes.at_restart));
    }
}

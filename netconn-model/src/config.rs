//! The configuration: a TOML file in which every setting has a default. Options of the command line come before it.

use std::{fmt::Display, io, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::settings::{Setting, settings, with_comments};

/// Default path of the configuration.
pub const DEFAULT_FILE: &str = "/etc/netconn/netconn.toml";
/// Default path of the daemon's socket.
pub const DEFAULT_SOCKET: &str = "/run/netconn/netconn.sock";
/// Default folder for what must survive the daemon.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/netconn";
/// User that root becomes by default.
pub const DEFAULT_USER: &str = "netconn";
/// Default folder of the hunts of this host.
pub const DEFAULT_HUNTS: &str = "/etc/netconn/hunts";

/// Smallest and largest ring buffer, bytes.
const RING_BYTES: std::ops::RangeInclusive<u32> = 4096..=1 << 30;

/// Fewest and most flows.
const MAX_FLOWS: std::ops::RangeInclusive<u32> = 1024..=1 << 20;
/// Shortest and longest time after which a flow has ended, seconds.
const IDLE_SECONDS: std::ops::RangeInclusive<u32> = 1..=86_400;

/// Shortest and longest command lines that are kept, bytes. A record of the kernel has no room for more
/// (`netconn_common::exec::ARGUMENTS_MAX`).
const COMMAND_LINE_BYTES: std::ops::RangeInclusive<u32> = 16..=4096;

/// Smallest and largest history, bytes.
const HISTORY_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;
/// Shortest and longest history, days.
const HISTORY_DAYS: std::ops::RangeInclusive<u32> = 1..=36_500;

/// Longest time, in hours, of which a flood must not push the events out: a year.
const HISTORY_FLOOR_HOURS: std::ops::RangeInclusive<u32> = 0..=8_760;

settings! {
/// All settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Files that events are appended to; `-` is standard output.
    pub events: Vec<PathBuf>,
    /// The daemon's socket. If systemd makes it (`netconn.socket`), change `ListenStream=` there as well: the daemon listens at what
    /// it is handed.
    pub socket: PathBuf,
    /// Folder for what must survive the daemon: the sensor id and the history.
    pub state_dir: PathBuf,
    /// Whether the state folder keeps a history of all events for `netconn search`, independent of `events`.
    pub history: bool,
    /// Most bytes of the history; the oldest events are removed first. Events are also removed to keep a twentieth of the file
    /// system free, at most 1 GiB; below half of that nothing is written.
    pub history_bytes: u64,
    /// Longest age of events in the history, days.
    pub history_days: u32,
    /// Events of the last hours that a flood by one user, process or remote end must not push out of the history: what exceeds its share
    /// is counted instead of written (`Data Loss` with `loss.stage` `fold`). 0: never.
    pub history_floor_hours: u32,
    /// Filters in the language of searches (S1QL): what matches one of them makes no event. The tables, lists and counts have it all the
    /// same.
    pub exclude: Vec<String>,
    /// Most events of a kind (`IP Connect`, `IP Close`, …) in a second; what exceeds it is counted instead (`Data Loss` with `loss.stage`
    /// `fold`). 0: all.
    pub event_limit_per_second: u32,
    /// Whether the values of well-known secret arguments (`--password`, `TOKEN=…`, `Authorization:`, keys of services by their form) are
    /// replaced by `***` before anything is told or kept of them.
    pub redact: bool,
    /// Further secrets in command lines, as regular expressions: what the first group matches is replaced, or, without a group, all that
    /// the pattern matches. With `redact = false` they are not used.
    pub redact_patterns: Vec<String>,
    /// User that the daemon becomes when root starts it, by name or number; `netconn` may not exist: then it stays root, without
    /// capabilities.
    pub user: String,
    /// What becomes of system calls that the daemon and its child should not make: `enforce` (they fail, and the log has their number),
    /// `log` (they pass, and the kernel's log has them) or `off`.
    pub seccomp: SystemCallFilter,
    /// Group whose members may use the socket and read the history; if it does not exist, only root may.
    pub group: String,
    /// Organization id, `site.id` in events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_id: Option<String>,
    /// `dataSource.name` in events.
    pub data_source: String,
    /// Size of the kernel's ring buffer in bytes: a power of two. It is counted twice in the daemon's memory.
    pub ring_bytes: u32,
    /// What netconn watches beside TCP: `flows`, `sockets` or `off`.
    pub flows: FlowLevel,
    /// Most flows of datagrams that are counted at the same time. When there are more, or one socket has more than a quarter of
    /// them, the flows of a socket are folded into one.
    pub max_flows: u32,
    /// A flow ends when it exchanged nothing for this many seconds.
    pub flow_idle_seconds: u32,
    /// A flow in which both ends have sent ends when it exchanged nothing for this many seconds.
    pub flow_idle_both_seconds: u32,
    /// Most bytes of a command line that events and tables have; a longer one is cut there and ends with `…`. Lists read those of
    /// living processes whole.
    pub command_line_bytes: u32,
    /// Least severe messages of the eBPF programs that are logged: `off`, `error`, `warn`, `info`, `debug` or `trace`.
    pub ebpf_log: EbpfLog,
    /// Settings of `netconn search` and `netconn hunt`; the daemon does not use them.
    pub search: SearchConfig,
}
}

settings! {
/// See [`Config::search`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchConfig {
    /// Folder of hunts beside those that come with netconn.
    pub hunts: PathBuf,
    /// Folder of the tables for `lookup` and `savelookup`; by default one in the user's home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookups: Option<PathBuf>,
    /// MMDB file for `geo_ip_country` and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geo_database: Option<PathBuf>,
    /// Whether `dataSource.name = 'SentinelOne'`, with which most published queries begin, stands for events of netconn too.
    pub sentinelone_alias: bool,
}
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self { hunts: DEFAULT_HUNTS.into(), lookups: None, geo_database: None, sentinelone_alias: true }
    }
}

/// See [`Config::seccomp`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SystemCallFilter {
    /// They fail.
    #[default]
    Enforce,
    /// They pass, and the kernel logs them.
    Log,
    /// There is no filter.
    Off,
}

/// See [`Config::ebpf_log`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum EbpfLog {
    #[default]
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl EbpfLog {
    /// All names.
    pub const NAMES: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
}

/// A name that is none of [`EbpfLog::NAMES`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("it is not one of {}", EbpfLog::NAMES.join(", "))]
pub struct NoSuchLevel;

impl FromStr for EbpfLog {
    type Err = NoSuchLevel;

    fn from_str(name: &str) -> Result<Self, NoSuchLevel> {
        // In the order of `NAMES`, which the next line pairs it with.
        let levels = [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];
        Self::NAMES.iter().zip(levels).find(|(known, _)| **known == name).map(|(_, level)| level).ok_or(NoSuchLevel)
    }
}

/// See [`Config::flows`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowLevel {
    /// Flows of UDP, ICMP and raw sockets, with their processes, datagrams and bytes.
    #[default]
    Flows,
    /// UDP sockets that are bound or connected, with their processes. Datagrams are not counted, and those of sockets that
    /// are not connected make no flows.
    Sockets,
    /// TCP alone.
    Off,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            socket: DEFAULT_SOCKET.into(),
            state_dir: DEFAULT_STATE_DIR.into(),
            history: true,
            history_bytes: 2 << 30,
            history_days: 30,
            history_floor_hours: 6,
            exclude: Vec::new(),
            event_limit_per_second: 0,
            redact: true,
            redact_patterns: Vec::new(),
            user: DEFAULT_USER.into(),
            seccomp: SystemCallFilter::Enforce,
            group: "netconn".into(),
            site_id: None,
            data_source: "netconn".into(),
            // 20,000 records of connections (200 bytes and a header of 8 each).
            ring_bytes: 4 << 20,
            flows: FlowLevel::Flows,
            max_flows: 65_536,
            flow_idle_seconds: 60,
            flow_idle_both_seconds: 180,
            command_line_bytes: 4096,
            ebpf_log: EbpfLog::Off,
            search: SearchConfig::default(),
        }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is no valid configuration.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
}

impl Config {
    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// When it is no TOML, or a setting is unknown or wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, WrongSetting> {
        let fail =
            |error: toml::de::Error| WrongSetting { setting: "", message: error.to_string().trim_end().to_owned() };
        let config: Self = toml::from_str(text).map_err(fail)?;
        // The kernel takes no other sizes for ring buffers, and none below a page.
        if !config.ring_bytes.is_power_of_two() || !RING_BYTES.contains(&config.ring_bytes) {
            let (bytes, start, end) = (config.ring_bytes, RING_BYTES.start(), RING_BYTES.end());
            let message = format!("ring_bytes = {bytes}: it must be a power of two from {start} to {end}");
            return Err(WrongSetting { setting: "ring_bytes", message });
        }
        within("history_bytes", config.history_bytes, &HISTORY_BYTES)?;
        within("history_days", config.history_days, &HISTORY_DAYS)?;
        within("history_floor_hours", config.history_floor_hours, &HISTORY_FLOOR_HOURS)?;
        within("max_flows", config.max_flows, &MAX_FLOWS)?;
        within("flow_idle_seconds", config.flow_idle_seconds, &IDLE_SECONDS)?;
        within("flow_idle_both_seconds", config.flow_idle_both_seconds, &IDLE_SECONDS)?;
        within("command_line_bytes", config.command_line_bytes, &COMMAND_LINE_BYTES)?;
        Ok(config)
    }

    /// The settings of the file, then those of each table in it, by its name.
    pub const TABLES: &[(&str, &[Setting])] = &[("", Self::SETTINGS), ("search", SearchConfig::SETTINGS)];

    /// Adds a comment above each setting to what [`Self::to_toml`] has made; values may have comments behind them.
    pub fn with_comments(toml: &str) -> String {
        with_comments(toml, Self::TABLES, false)
    }

    /// Returns the file that packages install: every setting with what it does and its default, as comments.
    pub fn template() -> String {
        let head = "# The configuration of netconn. Each setting stands below as a comment with its default: remove the `#` in front of\n\
                    # one and change its value. Files in conf.d/ (*.toml) are read after this one, in the order of their names.\n\
                    # `netconn config` prints what is in force; netconn.toml(5) is this text as a manual.\n\n";
        head.to_owned() + &with_comments(&Self::default().to_toml(), Self::TABLES, true)
    }

    /// Returns the configuration as a file, with every setting.
    pub fn to_toml(&self) -> String {
        // Plain strings, numbers and lists can always be written.
        toml::to_string_pretty(self).unwrap_or_default()
    }
}

/// A setting that is wrong.
#[derive(Debug)]
pub(crate) struct WrongSetting {
    /// Its name; empty if the message says the place.
    setting: &'static str,
    /// What is wrong.
    message: String,
}

impl WrongSetting {
    /// Returns what is wrong, with the line of the setting, if `line` knows it.
    pub(crate) fn in_words(&self, line: impl FnOnce(&str) -> Option<usize>) -> String {
        let Self { setting, message } = self;
        line(setting).map_or_else(|| message.clone(), |line| format!("line {line}: {message}"))
    }
}

fn within<T: PartialOrd + Display + Copy>(
    setting: &'static str,
    value: T,
    range: &std::ops::RangeInclusive<T>,
) -> Result<(), WrongSetting> {
    if range.contains(&value) {
        return Ok(());
    }
    let message = format!("{setting} = {value}: it must be from {} to {}", range.start(), range.end());
    Err(WrongSetting { setting, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let search = SearchConfig {
            lookups: Some("/tables".into()),
            geo_database: Some("/city.mmdb".into()),
            ..SearchConfig::default()
        };
        let config = Config {
            site_id: Some("a".into()),
            events: vec!["-".into()],
            exclude: vec!["dst.port.number = 53 and src.process.name contains \"\\\"\"".into()],
            event_limit_per_second: 1000,
            redact_patterns: vec!["corp-[0-9a-f]{32}".into(), "--pin (\\d+)".into()],
            search,
            ..Config::default()
        };
        assert_eq!(Config::parse(&config.to_toml()).unwrap(), config);
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    fn mistake(text: &str) -> String {
        Config::parse(text).unwrap_err().in_words(|_| None)
    }

    #[test]
    fn texts_of_several_lines_stay_what_they_are() {
        let nasty = [
            "a\nsocket = 'x'\n\n[search]\n",
            "\n",
            "\"\"\"\n'''\n]",
            "x '''\ny \"\"\" z\n",
            "it's\n\"quoted\" \\",
            "''\n''",
            "\"\"\n\"\"",
            "'''",
            "a\r\nb",
        ];
        for text in nasty {
            let config = Config {
                site_id: Some(text.into()),
                data_source: text.into(),
                exclude: vec!["first".into(), text.into(), text.into(), "last".into()],
                history_days: 7,
                ..Config::default()
            };
            let written = Config::with_comments(&config.to_toml());
            assert_eq!(Config::parse(&written).unwrap(), config, "{written}");
            for setting in Config::SETTINGS.iter().filter(|setting| setting.name != "search") {
                assert!(written.contains(setting.name), "{}: {written}", setting.name);
            }
        }
    }

    #[test]
    fn comments_change_nothing_and_the_template_sets_nothing() {
        let config =
            Config { history_days: 7, exclude: vec!["a = 1".into()], site_id: Some("a".into()), ..Config::default() };
        let text = Config::with_comments(&config.to_toml());
        assert_eq!(Config::parse(&text).unwrap(), config, "{text}");
        let template = Config::template();
        assert_eq!(Config::parse(&template).unwrap(), Config::default(), "{template}");
        assert!(
            template.lines().all(|line| line.starts_with('#') || line.is_empty() || line == "[search]"),
            "{template}"
        );
        // Without the mark of a comment each setting is one: those with a default have it.
        let settings: String = template
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') || rest.starts_with("    ")).unwrap_or(line)
            })
            .filter(|line| !line.contains("has no value by default"))
            .flat_map(|line| [line, "\n"])
            .collect();
        assert_eq!(Config::parse(&settings).unwrap(), Config::default(), "{settings}");
        for (table, settings) in Config::TABLES {
            for setting in *settings {
                assert!(settings_of(&template, table).contains(&setting.name), "{}", setting.name);
            }
        }
    }

    /// Returns the names of the settings that stand in a table of a template.
    fn settings_of<'a>(template: &'a str, table: &str) -> Vec<&'a str> {
        let mut current = "";
        let mut names = Vec::new();
        for line in template.lines() {
            match line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                Some(name) => {
                    // The table itself is a setting of the file.
                    if table.is_empty() {
                        names.push(name);
                    }
                    current = name;
                }
                None if current == table => {
                    names.extend(line.strip_prefix('#').and_then(|rest| rest.split_once(" =")).map(|(name, _)| name));
                }
                None => {}
            }
        }
        names
    }

    #[test]
    fn numbers_have_a_unit() {
        let units = ["bytes", "days", "hours", "seconds", "in a second", "flows"];
        let numbers: Vec<&Setting> = Config::SETTINGS
            .iter()
            .filter(|setting| {
                let start = format!("{} = ", setting.name);
                let default = Config::default().to_toml();
                default.lines().filter_map(|line| line.strip_prefix(&start)).any(|value| value.parse::<u64>().is_ok())
            })
            .collect();
        assert!(numbers.len() > 5);
        for setting in numbers {
            let meaning = setting.described();
            assert!(units.iter().any(|unit| meaning.contains(unit)), "{}: {meaning}", setting.name);
        }
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let error = mistake("sokcet = '/x'");
        assert!(error.contains("unknown field `sokcet`") && error.contains("line 1"), "{error}");
        let error = mistake("ring_bytes = 5000");
        assert_eq!(error, "ring_bytes = 5000: it must be a power of two from 4096 to 1073741824");
        for (text, expected) in [
            ("history_bytes = 7", "history_bytes = 7: it must be from 1048576 to 1125899906842624"),
            ("history_days = 0", "history_days = 0: it must be from 1 to 36500"),
            ("history_floor_hours = 8761", "history_floor_hours = 8761: it must be from 0 to 8760"),
            ("max_flows = 1000", "max_flows = 1000: it must be from 1024 to 1048576"),
            ("flow_idle_seconds = 0", "flow_idle_seconds = 0: it must be from 1 to 86400"),
            ("flow_idle_both_seconds = 86401", "flow_idle_both_seconds = 86401: it must be from 1 to 86400"),
            ("command_line_bytes = 15", "command_line_bytes = 15: it must be from 16 to 4096"),
            ("command_line_bytes = 4097", "command_line_bytes = 4097: it must be from 16 to 4096"),
        ] {
            assert_eq!(mistake(text), expected);
        }
        let error = mistake("flows = 'packets'");
        assert!(error.contains("unknown variant `packets`"), "{error}");
        let error = mistake("ebpf_log = 'loud'");
        assert!(error.contains("unknown variant `loud`"), "{error}");
    }

    #[test]
    fn a_named_file_must_exist() {
        assert!(Config::load(Some(std::path::Path::new("/nonexistent/netconn.toml"))).is_err());
    }
}

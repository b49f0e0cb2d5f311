//! Options that select connections, shared by all commands that print connections or events.

use std::{fs::File, os::unix::fs::MetadataExt as _, path::Path, sync::LazyLock};

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command};
use netconn_model::filter::{FILTER_PARAMETERS, Filter, FilterError, FilterParameter, NOT};
use nix::{
    sys::statfs::{NSFS_MAGIC, fstatfs},
    unistd::User,
};

use crate::cli::{services, tell};

/// Where `ip netns` keeps namespaces by name.
const NAMED_NAMESPACES: &str = "/run/netns";
/// Process ids end here (`PID_MAX_LIMIT` in `include/linux/threads.h`), and the inodes of namespaces are far above
/// (`PROC_DYNAMIC_FIRST` in `fs/proc/generic.c`).
const PID_MAX: u32 = 4_194_304;

/// The options that [`FILTER_PARAMETERS`] has, each with the name of the option that excludes.
static OPTIONS: LazyLock<Vec<(&FilterParameter, String)>> = LazyLock::new(|| {
    // Parameters without a value name are flags of `Selection`.
    let with_value = FILTER_PARAMETERS.iter().filter(|parameter| parameter.value_name.is_some());
    with_value.map(|parameter| (parameter, format!("not-{}", parameter.name))).collect()
});

/// Selects connections; several values of one option are alternatives, and all options must hold.
#[derive(Debug, Default, Args)]
pub(super) struct Selection {
    #[command(flatten)]
    flags: SelectionFlags,
    #[command(flatten)]
    options: FilterOptions,
}

/// Flags for parameters of the filter.
// Apart from `Selection`: clap's group of a struct has no members where another struct is flattened into it.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which connections")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
struct SelectionFlags {
    /// TCP.
    #[arg(short = 't', long)]
    tcp: bool,
    /// UDP: flows, and bound sockets.
    #[arg(short = 'u', long)]
    udp: bool,
    /// ICMP and ICMPv6.
    #[arg(long)]
    icmp: bool,
    /// Raw sockets, as in ss: idle ones in lists, and what they exchange, but not of ICMP. With `--tcp` or `--udp`: those that speak it.
    #[arg(short = 'w', long)]
    raw: bool,
    /// Only attempts that failed, and flows that the peer has refused. An attempt that failed is over, so a list shows it with
    /// --closed.
    #[arg(long)]
    failed: bool,
    /// Listeners only, and UDP sockets that are connected to nobody.
    #[arg(short = 'l', long)]
    listening: bool,
    /// No listeners.
    #[arg(long, conflicts_with = "listening")]
    not_listening: bool,
    /// Connections and listeners (the default).
    #[arg(short = 'a', long)]
    all: bool,
    /// IPv4 only.
    #[arg(short = '4', long)]
    ipv4: bool,
    /// IPv6 only.
    #[arg(short = '6', long)]
    ipv6: bool,
}

impl Selection {
    /// Returns whether only what failed is wanted.
    pub(super) fn wants_failed(&self) -> bool {
        self.flags.failed
    }

    /// Returns whether raw sockets are wanted.
    pub(super) fn wants_raw(&self) -> bool {
        self.flags.raw
    }

    /// Returns whether a kind of connections is asked for, beside other kinds of sockets.
    pub(super) fn names_protocol(&self) -> bool {
        let SelectionFlags { tcp, udp, icmp, raw, .. } = self.flags;
        tcp || udp || icmp || raw || self.options.0.iter().any(|(name, _)| name == "protocol")
    }

    /// Returns whether a version of IP is asked for.
    pub(super) fn names_family(&self) -> bool {
        self.flags.ipv4 || self.flags.ipv6
    }

    /// Returns the options as parameters of a request, checked, with the names that only this end can know as numbers. Says on
    /// standard error which of them name nothing.
    ///
    /// # Errors
    ///
    /// The first option whose value cannot be read.
    pub(super) fn parameters(&self) -> Result<Vec<(String, String)>, FilterError> {
        let Self { flags, options } = self;
        let SelectionFlags { tcp, udp, icmp, raw, failed, listening, not_listening, all, ipv4, ipv6 } = flags;
        let mut parameters = Vec::new();
        let flags = [
            (*tcp, "protocol", "tcp"),
            (*udp, "protocol", "udp"),
            (*icmp, "protocol", "icmp"),
            (*raw, "raw", "true"),
            (*failed, "failed", "true"),
            // `-a` wins, as in ss.
            (*listening && !*all, "listening", "true"),
            (*not_listening && !*all, "listening", "false"),
            (*ipv4, "family", "4"),
            (*ipv6, "family", "6"),
        ];
        for (_, name, value) in flags.iter().filter(|(given, _, _)| *given) {
            parameters.push(((*name).to_owned(), (*value).to_owned()));
        }
        for (name, values) in &options.0 {
            let wrong = |message| FilterError { parameter: format!("--{name}"), message };
            let values = match name.as_str() {
                "user" => {
                    let mut with_numbers = values.clone();
                    for value in values.split(',').map(str::trim) {
                        let (not, value) = split_not(value);
                        match uid(value) {
                            Ok(Some(uid)) => with_numbers.push_str(&format!(",{not}{uid}")),
                            Ok(None) => {}
                            Err(notice) => tell(&notice),
                        }
                    }
                    with_numbers
                }
                "namespace" => {
                    let inode = |value: &str| {
                        let (not, value) = split_not(value.trim());
                        Ok(format!("{not}{}", inode(value)?))
                    };
                    let inodes: Result<Vec<String>, String> = values.split(',').map(inode).collect();
                    inodes.map_err(wrong)?.join(",")
                }
                "port" | "local-port" | "remote-port" => services::as_numbers(values).map_err(wrong)?,
                _ => values.clone(),
            };
            parameters.push((name.clone(), values));
        }
        // Checked here, so that a wrong value is an error of usage and names the option, daemon or not.
        filter(&parameters)?;
        Ok(parameters)
    }
}

/// The options that [`FILTER_PARAMETERS`] has, as parameters of a request.
#[derive(Debug, Default)]
struct FilterOptions(Vec<(String, String)>);

impl clap::FromArgMatches for FilterOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut parameters = Vec::new();
        for (FilterParameter { name, .. }, opposite) in OPTIONS.iter() {
            let values = |option: &str| matches.get_many::<String>(option).into_iter().flatten();
            parameters.extend(values(name).map(|value| ((*name).to_owned(), value.clone())));
            parameters.extend(values(opposite).map(|value| ((*name).to_owned(), excluding(value))));
        }
        Ok(Self(parameters))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for FilterOptions {
    fn augment_args(command: Command) -> Command {
        let mut options = Vec::new();
        for (FilterParameter { name, value_name, meaning }, opposite) in OPTIONS.iter() {
            let option = |name: &'static str| {
                let option = Arg::new(name).long(name).value_name(value_name.unwrap_or_default());
                option.action(ArgAction::Append).help_heading("Which connections")
            };
            options.push(option(name).help(*meaning));
            // Hidden, because it would double the help: the heading of the condition tells.
            options.push(option(opposite).hide(true));
        }
        let names: Vec<&str> = OPTIONS.iter().flat_map(|(parameter, opposite)| [parameter.name, opposite]).collect();
        command
            // clap's derive makes such a group for each struct; `--packet` refers to it by its name.
            .group(ArgGroup::new("FilterOptions").multiple(true).args(names))
            .args(options)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Returns values that select as values that exclude.
fn excluding(values: &str) -> String {
    // A value that excludes already stays: `--not-port '!22'` says the same twice.
    let values = values.split(',').map(|value| format!("{NOT}{}", split_not(value.trim()).1));
    values.collect::<Vec<_>>().join(",")
}

/// Splits a value from the mark that makes it exclude.
fn split_not(value: &str) -> (&str, &str) {
    match value.strip_prefix(NOT) {
        Some(rest) => (&value[..NOT.len_utf8()], rest.trim_start()),
        None => ("", value),
    }
}

/// Returns parameters as a filter.
///
/// # Errors
///
/// The first parameter that cannot be read, named as an option.
pub(super) fn filter(parameters: &[(String, String)]) -> Result<Filter, FilterError> {
    Filter::parse(parameters.iter().map(|(name, value)| (name, value)))
        .map_err(|error| FilterError { parameter: format!("--{}", error.parameter), ..error })
}

/// Looks up an account that is named by its name. A name that is the second of its number selects by that number too, because rows and
/// events have the first.
///
/// # Errors
///
/// Why nothing may be found by the name: a notice for the user.
fn uid(value: &str) -> Result<Option<u32>, String> {
    // A number may have no account: containers use such.
    if value.is_empty() || value.parse::<u32>().is_ok() {
        return Ok(None);
    }
    match User::from_name(value) {
        Ok(Some(user)) => Ok(Some(user.uid.as_raw())),
        Ok(None) => Err(format!(
            "there is no account '{value}' here: `--user {value}` finds nothing unless the daemon knows it"
        )),
        Err(error) => Err(format!("account '{value}' cannot be looked up ({error}): the daemon may know it")),
    }
}

/// Returns the inode of a network namespace: it is given by that number, a name, a path, or the id of a process in it.
fn inode(value: &str) -> Result<String, String> {
    let number = value.parse::<u32>().ok();
    // An empty value is an error of the filter.
    if value.is_empty() || number.is_some_and(|number| number > PID_MAX) {
        return Ok(value.to_owned());
    }
    // A path stays one. A name may consist of digits.
    let named = Path::new(NAMED_NAMESPACES).join(value);
    let path = match number {
        Some(pid) if !named.exists() => Path::new("/proc").join(pid.to_string()).join("ns/net"),
        _ => named,
    };
    let file = File::open(&path).map_err(|error| {
        format!(
            "'{value}' is no network namespace: neither an inode number, nor a name (`ip netns`), a path or a process id ({}: {error})",
            path.display()
        )
    })?;
    // Any other file has an inode too, which no namespace has.
    let is_namespace = fstatfs(&file).is_ok_and(|system| system.filesystem_type() == NSFS_MAGIC);
    match file.metadata() {
        Ok(metadata) if is_namespace => Ok(metadata.ino().to_string()),
        _ => Err(format!("{} is no network namespace", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    #[test]
    fn namespaces_are_named_as_ip_names_them() {
        let own = std::fs::metadata("/proc/self/ns/net").unwrap().ino().to_string();
        for value in ["/proc/self/ns/net", &std::process::id().to_string(), &own] {
            assert_eq!(inode(value).as_ref(), Ok(&own), "{value}");
        }
        let error = inode("no-such").unwrap_err();
        assert!(error.starts_with("'no-such' is no network namespace: neither"), "{error}");
        assert_eq!(inode("/etc/passwd"), Err("/etc/passwd is no network namespace".into()));
        // No process has this id.
        assert!(inode(&PID_MAX.to_string()).is_err());
    }

    #[test]
    fn accounts_that_are_not_there_are_told() {
        assert_eq!((uid("root"), uid("108"), uid("")), (Ok(Some(0)), Ok(None), Ok(None)));
        assert!(uid("no-such").unwrap_err().contains("no account 'no-such'"));
        let options = FilterOptions(vec![("user".into(), "root,108".into())]);
        let selection = Selection { options, ..Selection::default() };
        assert_eq!(selection.parameters().unwrap(), [("user".to_owned(), "root,108,0".to_owned())]);
    }

    #[test]
    fn each_option_has_its_opposite() {
        let parameters = |line: &str| {
            let command = Selection::augment_args(Command::new("list").no_binary_name(true));
            let matches = command.try_get_matches_from(line.split_whitespace()).map_err(|error| error.to_string())?;
            let selection = Selection::from_arg_matches(&matches).map_err(|error| error.to_string())?;
            selection.parameters().map_err(|error| error.to_string())
        };
        for parameter in FILTER_PARAMETERS.iter().filter(|parameter| parameter.value_name.is_some()) {
            // All values are numbers or words.
            let value = if parameter.name == "state" { "established" } else { "1" };
            let value = if matches!(parameter.name, "local" | "remote") { "::1" } else { value };
            let value = if parameter.name == "direction" { "in" } else { value };
            let expected = Ok(vec![(parameter.name.to_owned(), format!("!{value}"))]);
            if parameter.name != "namespace" {
                assert_eq!(parameters(&format!("--not-{} {value}", parameter.name)), expected);
                assert_eq!(parameters(&format!("--{} !{value}", parameter.name)), expected);
            }
        }
        let pairs = |name: &str, value: &str| Ok(vec![(name.to_owned(), value.to_owned())]);
        assert_eq!(parameters("--not-port ssh,8000-8100,!443"), pairs("port", "!22,!8000-8100,!443"));
        assert_eq!(parameters("--not-user root"), pairs("user", "!root,!0"));
        assert_eq!(parameters("--not-listening"), pairs("listening", "false"));
        assert!(parameters("--port no-such").unwrap_err().starts_with("--port: 'no-such' is not a port, a range"));
    }
}

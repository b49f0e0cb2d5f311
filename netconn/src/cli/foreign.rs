//! Options of `ss` and `netstat` that `netconn list` does not have, with what to use instead.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Names of options, and what to use instead of them.
const INSTEAD: &[(&[&str], &str)] = &[
    (&["-V", "--version"], "`netconn --version` prints the version"),
    (&["-m", "--memory"], "`ss -m` shows the memory of sockets; netconn does not read it"),
    (
        &["-T", "--threads"],
        "events have the thread that used the socket: `netconn watch --format ndjson`, src.process.tid",
    ),
    (&["-O", "--oneline"], "each connection is one line already"),
    (&["-E", "--events"], "`netconn watch` shows connections as they begin, fail and end"),
    (&["-K", "--kill"], "netconn only looks and changes nothing: `ss -K dst ADDRESS dport = :PORT` closes sockets"),
    (&["-N", "--net"], "--namespace NAME selects a network namespace; without it the daemon shows all of them"),
    (
        &["-f", "--family"],
        "-4 and -6 select the version of IP, -x Unix sockets, --vsock vsock, --packet packet sockets",
    ),
    (
        &["-A", "--query"],
        "-t, -u, --icmp, -w, -S, -M and --protocol NUMBER select protocols, -x Unix sockets, --vsock vsock, --packet packet sockets",
    ),
    (&["-F", "--filter"], "write the condition behind the options: netconn list \"$(cat FILE)\""),
    (&["-D", "--diag"], "--format ndjson keeps all that is known of each connection, for programs"),
    (&["-Q", "--no-queues"], "queues are shown only if they are asked for"),
    (&["-B", "--bound-inactive"], "`ss -B` shows TCP sockets that are bound and neither listen nor connect"),
    (&["-b", "--bpf"], "--packet shows packet sockets with their processes; `ss -0b` prints their filters"),
    (
        &["-Z", "-z", "--context", "--contexts"],
        "`ss -Z` shows SELinux contexts; netconn knows user, unit and container (-e)",
    ),
    (&["--cgroup"], "-e shows the systemd unit and the container; --unit and --container select by them"),
    (&["--tos", "--inet-sockopt"], "`ss --tos --inet-sockopt` shows options of sockets; netconn does not read them"),
    (&["--tipc", "--tipcinfo"], "`ss --tipc` shows TIPC; netconn knows the Internet protocols"),
    (&["-d", "--dccp"], "Linux 6.16 has removed DCCP; `ss -d` shows it on older kernels"),
    (&["--xdp"], "--packet shows sockets of AF_XDP too"),
    (&["--route", "--fib", "-C", "--cache"], "`ip route` shows routes"),
    (&["--interfaces"], "`ip -s link` shows interfaces and their counters"),
    (&["-g", "--groups"], "`ip maddress` shows memberships in multicast groups"),
    (&["--statistics"], "`nstat` shows the kernel's counters of protocols; --summary counts connections"),
    (&["--masquerade"], "`conntrack -L --src-nat` shows connections whose address is translated"),
    (&["-v", "--verbose"], "what netconn cannot see it says by itself; `netconn doctor` says more"),
    (
        &["--numeric-hosts", "--numeric-ports", "--numeric-users"],
        "addresses and ports are shown as numbers; --format json has the number of the user, user_id",
    ),
    (&["--symbolic"], "-r shows names of hosts instead of addresses"),
    (&["--extend"], "-e, --extended shows more columns"),
    (&["--programs"], "processes are always shown; -p is accepted"),
    (
        &["-c", "--continuous"],
        "`netconn watch` shows what happens as it happens; `watch netconn list` repeats the list",
    ),
    (&["-U", "--udplite"], "--protocol 136 selects UDP-Lite"),
    (&["--inet"], "-4 selects IPv4"),
    (&["--inet6"], "-6 selects IPv6"),
    (
        &["--ax25", "--ipx", "--netrom", "--rose", "--ddp", "--x25"],
        "netconn knows the Internet protocols; /proc/net has what the kernel knows of others",
    ),
];

/// Returns the sentence for an option of `ss` or `netstat` that was given to `list`, if the error is about one.
pub(super) fn instead(given: &[OsString], error: &clap::Error) -> Option<String> {
    // `netconn` itself has no options before its command.
    let is_list = given.get(1).is_some_and(|command| command == "list" || command == "ls");
    if !is_list || error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    // `--family=inet`
    let name = option.split('=').next()?;
    sentence(name).map(|sentence| format!("instead of {name}: {sentence}"))
}

fn sentence(option: &str) -> Option<&'static str> {
    INSTEAD.iter().find(|(options, _)| options.contains(&option)).map(|(_, sentence)| *sentence)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, process::Command};

    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::cli::Arguments;

    /// Options in the help of a program: `-t, --tcp`, `{-t|--tcp}`; `None` if it is not installed.
    fn options_of(program: &str) -> Option<BTreeSet<String>> {
        let output = Command::new(program).arg("--help").output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '-'));
        let is_short =
            |word: &str| word.len() == 2 && word.as_bytes()[0] == b'-' && word.as_bytes()[1].is_ascii_alphanumeric();
        let is_long = |word: &str| word.starts_with("--") && word.len() > 3;
        let words = words.map(|word| word.trim_end_matches('-'));
        Some(words.filter(|word| is_short(word) || is_long(word)).map(str::to_owned).collect())
    }

    fn has(command: &clap::Command, option: &str) -> bool {
        command.get_arguments().any(|argument| match option.strip_prefix("--") {
            Some(long) => argument.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long)),
            None => argument
                .get_short_and_visible_aliases()
                .is_some_and(|names| names.iter().any(|name| option.ends_with(*name))),
        })
    }

    #[test]
    fn every_option_of_ss_and_netstat_is_offered_or_answered() {
        let mut command = Arguments::command();
        command.build();
        let list = command.find_subcommand("list").unwrap();
        for program in ["ss", "netstat"] {
            let Some(options) = options_of(program) else {
                eprintln!("{program} is not installed: its options are not compared");
                continue;
            };
            assert!(options.len() > 20, "{options:?}");
            for option in options {
                assert!(has(list, &option) != sentence(&option).is_some(), "{program} {option}");
            }
        }
    }

    #[test]
    fn an_unknown_option_is_answered() {
        let said = |line: &str| {
            let given: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            instead(&given, &Arguments::try_parse_from(&given).unwrap_err())
        };
        assert!(said("netconn list -tK").unwrap().starts_with("instead of -K: netconn only looks"));
        assert!(said("netconn ls --query=tcp").unwrap().starts_with("instead of --query: -t, -u"));
        assert_eq!(said("netconn list --no-such"), None);
        assert_eq!(said("netconn watch --kill"), None);
    }
}

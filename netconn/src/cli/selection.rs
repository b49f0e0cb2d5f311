//! Options that select connections, the same for all commands that show some.

use clap::Args;
use netconn_model::filter::{Filter, FilterError};

/// Which connections; several values of one option are alternatives, several options must all hold.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which connections")]
pub(super) struct Selection {
    /// TCP.
    #[arg(short = 't', long)]
    tcp: bool,
    /// UDP: flows, and sockets that wait for datagrams.
    #[arg(short = 'u', long)]
    udp: bool,
    /// ICMP and ICMPv6.
    #[arg(long)]
    icmp: bool,
    /// Of this protocol, by its number in the IP header (47: GRE) or as tcp, udp, icmp.
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Vec<String>,
    /// Listeners only, and UDP sockets that are connected to nobody.
    #[arg(short = 'l', long)]
    listening: bool,
    /// Connections and listeners (that is the default).
    #[arg(short = 'a', long)]
    all: bool,
    /// IPv4 only.
    #[arg(short = '4', long)]
    ipv4: bool,
    /// IPv6 only.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// In this state: established, syn-sent, unconnected, … or a group: connected, synchronized.
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    /// `incoming` or `outgoing`.
    #[arg(long, value_name = "DIRECTION")]
    direction: Vec<String>,
    /// Of this process id.
    #[arg(long, value_name = "PID")]
    pid: Vec<String>,
    /// Of this process: its name, its executable's file name or path.
    #[arg(long, value_name = "NAME")]
    process: Vec<String>,
    /// With this port, or a range like 8000-8100, on either end.
    #[arg(long, value_name = "PORT")]
    port: Vec<String>,
    /// With this address or network on this end.
    #[arg(long, value_name = "ADDRESS")]
    local: Vec<String>,
    /// With this address or network on the other end.
    #[arg(long, value_name = "ADDRESS")]
    remote: Vec<String>,
    /// Of this account, by name or number.
    #[arg(long, value_name = "USER")]
    user: Vec<String>,
    /// In this container: its id or the beginning of it.
    #[arg(long, value_name = "ID")]
    container: Vec<String>,
    /// Of this systemd unit.
    #[arg(long, value_name = "UNIT")]
    unit: Vec<String>,
    /// In this network namespace, by its inode number (`ls -Li /run/netns`).
    #[arg(long, value_name = "INODE")]
    namespace: Vec<String>,
}

impl Selection {
    /// The options as parameters of the daemon's socket, checked.
    ///
    /// # Errors
    ///
    /// The first option whose value cannot be read.
    pub(super) fn parameters(&self) -> Result<Vec<(String, String)>, FilterError> {
        let Self {
            tcp,
            udp,
            icmp,
            protocol,
            listening,
            all,
            ipv4,
            ipv6,
            state,
            direction,
            pid,
            process,
            port,
            local,
            remote,
            user,
            container,
            unit,
            namespace,
        } = self;
        let mut parameters = Vec::new();
        let flags = [
            (*tcp, "protocol", "tcp"),
            (*udp, "protocol", "udp"),
            (*icmp, "protocol", "icmp"),
            (*listening && !*all, "listening", "true"),
            (*ipv4, "family", "4"),
            (*ipv6, "family", "6"),
        ];
        for (_, name, value) in flags.iter().filter(|(given, _, _)| *given) {
            parameters.push(((*name).to_owned(), (*value).to_owned()));
        }
        let lists = [
            ("protocol", protocol),
            ("state", state),
            ("direction", direction),
            ("pid", pid),
            ("process", process),
            ("port", port),
            ("local", local),
            ("remote", remote),
            ("user", user),
            ("container", container),
            ("unit", unit),
            ("namespace", namespace),
        ];
        for (name, values) in lists {
            parameters.extend(values.iter().map(|value| (name.to_owned(), value.clone())));
        }
        parse(&parameters)?;
        Ok(parameters)
    }

    /// The options as a filter.
    ///
    /// # Errors
    ///
    /// As [`parameters`](Self::parameters).
    pub(super) fn filter(&self) -> Result<Filter, FilterError> {
        parse(&self.parameters()?)
    }
}

fn parse(parameters: &[(String, String)]) -> Result<Filter, FilterError> {
    Filter::parse(parameters.iter().map(|(name, value)| (name, value)))
        .map_err(|error| FilterError { parameter: format!("--{}", error.parameter), ..error })
}

//! Options that select connections, shared by all commands that print connections or events.

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command};
use netconn_model::filter::{FILTER_PARAMETERS, Filter, FilterError, FilterParameter};

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
    /// Listeners only, and UDP sockets that are connected to nobody.
    #[arg(short = 'l', long)]
    listening: bool,
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
    /// Returns the options as parameters of a request, checked.
    ///
    /// # Errors
    ///
    /// The first option whose value cannot be read.
    pub(super) fn parameters(&self) -> Result<Vec<(String, String)>, FilterError> {
        let Self { flags, options } = self;
        let SelectionFlags { tcp, udp, icmp, listening, all, ipv4, ipv6 } = flags;
        let mut parameters = Vec::new();
        let flags = [
            (*tcp, "protocol", "tcp"),
            (*udp, "protocol", "udp"),
            (*icmp, "protocol", "icmp"),
            // `-a` wins, as in ss.
            (*listening && !*all, "listening", "true"),
            (*ipv4, "family", "4"),
            (*ipv6, "family", "6"),
        ];
        for (_, name, value) in flags.iter().filter(|(given, _, _)| *given) {
            parameters.push(((*name).to_owned(), (*value).to_owned()));
        }
        parameters.extend_from_slice(&options.0);
        // Checked here, so that a wrong value is an error of usage and names the option, daemon or not.
        parse(&parameters)?;
        Ok(parameters)
    }

    /// Returns the options as a filter.
    ///
    /// # Errors
    ///
    /// As [`parameters`](Self::parameters).
    pub(super) fn filter(&self) -> Result<Filter, FilterError> {
        parse(&self.parameters()?)
    }
}

/// The options that [`FILTER_PARAMETERS`] has, as parameters of a request.
#[derive(Debug, Default)]
struct FilterOptions(Vec<(String, String)>);

impl clap::FromArgMatches for FilterOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut parameters = Vec::new();
        // Parameters without a value name are flags of `Selection`.
        for FilterParameter { name, .. } in FILTER_PARAMETERS.iter().filter(|parameter| parameter.value_name.is_some())
        {
            let values = matches.get_many::<String>(name).into_iter().flatten();
            parameters.extend(values.map(|value| ((*name).to_owned(), value.clone())));
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
        let options = FILTER_PARAMETERS.iter().filter_map(|FilterParameter { name, value_name, meaning }| {
            let arg = Arg::new(*name).long(*name).value_name((*value_name)?).help(*meaning);
            Some(arg.action(ArgAction::Append).help_heading("Which connections"))
        });
        command
            // clap's derive makes such a group for each struct; `--packet` refers to it by its name.
            .group(
                ArgGroup::new("FilterOptions").multiple(true).args(
                    FILTER_PARAMETERS
                        .iter()
                        .filter(|parameter| parameter.value_name.is_some())
                        .map(|parameter| parameter.name),
                ),
            )
            .args(options)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn parse(parameters: &[(String, String)]) -> Result<Filter, FilterError> {
    Filter::parse(parameters.iter().map(|(name, value)| (name, value)))
        .map_err(|error| FilterError { parameter: format!("--{}", error.parameter), ..error })
}

//! `netconn watch`: events as they happen.

mod line;

use std::io::{self, Write as _};

use anyhow::Result;
use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use jiff::tz::TimeZone;
use netconn_model::{
    client::ClientError,
    event::Event,
    exit::Exit,
    fact::EventKind,
    format::{self, EVENT_FORMATS, Encoded, EventFormat},
    read_ahead::ReadAhead,
};

use crate::cli::{
    SocketOption, block_on,
    expression::{About, ExpressionOption},
    presentation::Presentation,
    selection::Selection,
    tell,
    watch::line::for_people,
};

/// The name of the format for people, which is not one of [`EVENT_FORMATS`].
const TABLE: &str = "table";

/// What the lines for people show, for the help.
pub(super) const LINES: &str = "\
A line shows the time, what happened, the process, the direction and the other end (behind this end's port, if the other
end began). Then come the numbers: payload bytes sent (↑) and received (↓), how long it lasted, which end ended it. What is
left of the terminal shows this end, the user and the command line. `existing` is a connection that is older than the
daemon. An attempt that failed is shown by its reason: refused, timed_out, net_unreachable, …

When the daemon stops, watch says so, waits for the next one and says which time is missing; with --once it ends instead
(exit code 69). In the stream itself the last event of a daemon that was stopped in order is `Sensor Stop`.";

/// Options of `netconn watch`.
#[derive(Debug, Args)]
pub(super) struct WatchOptions {
    /// Form of the output.
    #[arg(long, default_value = TABLE, value_parser = formats())]
    format: WatchFormat,
    #[command(flatten)]
    presentation: Presentation,
    /// End after this many events.
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
    /// End when the daemon stops, instead of waiting for the next one.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    socket: SocketOption,
    #[command(flatten)]
    expression: ExpressionOption,
    // Last: its heading would hold for what follows.
    #[command(flatten)]
    selection: Selection,
}

/// The form of the output: lines for people, or a format of events.
#[derive(Clone, Copy, Debug)]
enum WatchFormat {
    Table,
    Events(&'static EventFormat),
}

/// The formats as clap shows them in help and errors.
fn formats() -> impl TypedValueParser<Value = WatchFormat> {
    let value = |format: &EventFormat| PossibleValue::new(format.name).help(format.meaning);
    let values = EVENT_FORMATS.iter().map(value);
    let parser =
        PossibleValuesParser::new([PossibleValue::new(TABLE).help("lines for people")].into_iter().chain(values));
    parser.map(|name| format::by_name(&name).map_or(WatchFormat::Table, WatchFormat::Events))
}

/// Prints events until the reader goes away, there were enough, or, with `--once`, the daemon stops.
pub(super) fn run(options: &WatchOptions) -> Result<Exit> {
    let parameters = options.selection.parameters()?;
    let predicate = options.expression.predicate(About::Events)?;
    block_on(async {
        let client = options.socket.client();
        let mut events = ReadAhead::events(&client, &parameters, tell).await?;
        // 2⁶⁴ events are never reached.
        let mut left = options.count.unwrap_or(u64::MAX);
        let mut left_out = LeftOutNotice::default();
        // Before the first event, which may take hours: a reader of CSV sees the heading at once. After the answer of
        // the daemon, so that an error leaves no heading.
        if let WatchFormat::Events(format) = options.format {
            let mut heading = Vec::new();
            format.heading(&mut heading);
            io::stdout().write_all(&heading)?;
        }
        // `lines` asks only after an event whether to go on.
        while left != 0 {
            let shown = events
                .lines(|line| {
                    if let Some(predicate) = &predicate {
                        let event: Event<'_> = serde_json::from_slice(line)?;
                        // What was lost, and the end of the daemon, are told whatever is asked for.
                        let is_told = event.is(EventKind::DataLoss) || event.is(EventKind::SensorStop);
                        if !is_told && !predicate.verdict(&event)? {
                            return Ok(true);
                        }
                    }
                    match print(options, line)? {
                        Encoded::Written => left -= 1,
                        Encoded::LeftOut => left_out.tell(options, line)?,
                    }
                    Ok::<_, anyhow::Error>(left != 0)
                })
                .await;
            let end = match shown {
                Ok(()) if left == 0 => break,
                Ok(()) => "has stopped".to_owned(),
                // A daemon that was killed.
                Err(error) => match error.downcast::<ClientError>()? {
                    ClientError::Broken { error, .. } => format!("has gone ({error})"),
                    error => return Err(error.into()),
                },
            };
            let next = if options.once { "" } else { "; waiting for the next one (--once would end here)" };
            tell(&format!("the daemon at {} {end}{next}", client.socket().display()));
            if options.once {
                return Ok(Exit::Unavailable);
            }
            match ReadAhead::events_of_next(&client, &parameters, tell).await? {
                Some(of_next) => events = of_next,
                None => break,
            }
        }
        Ok(Exit::Success)
    })
}

/// Says that the format has no place for some events.
#[derive(Debug, Default)]
struct LeftOutNotice {
    is_told: bool,
}

impl LeftOutNotice {
    /// Says it for the first event, and of each event in which the daemon says something of itself, such as a loss.
    fn tell(&mut self, options: &WatchOptions, line: &[u8]) -> Result<()> {
        let WatchFormat::Events(format) = options.format else { return Ok(()) };
        let event: Event<'_> = serde_json::from_slice(line)?;
        if let Some(sentence) = format::sentence(&event) {
            tell(&sentence);
        } else if !std::mem::replace(&mut self.is_told, true) {
            tell(&format!("the format {} has no place for some kinds of events, which are left out", format.name));
        }
        Ok(())
    }
}

/// Prints an event; one for which the format has no place is left out.
fn print(options: &WatchOptions, line: &[u8]) -> Result<Encoded> {
    match options.format {
        WatchFormat::Events(format) => {
            let mut bytes = Vec::new();
            let encoded = format.encode_line(line, &mut bytes)?;
            let mut out = io::stdout().lock();
            out.write_all(&bytes)?;
            out.flush()?;
            Ok(encoded)
        }
        WatchFormat::Table => {
            let event: Event<'_> = serde_json::from_slice(line)?;
            let limit = options.presentation.limit();
            let mut out = anstream::stdout().lock();
            writeln!(out, "{}", for_people(&event, limit, &TimeZone::system()))?;
            out.flush()?;
            Ok(Encoded::Written)
        }
    }
}

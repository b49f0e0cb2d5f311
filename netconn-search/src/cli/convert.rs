//! `netconn convert`: writes files of events in another format, event by event, in bounded memory.

use std::{
    fmt,
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use netconn_model::{
    event::Event,
    exit::Exit,
    format::{self, EVENT_FORMATS, Encoded, EventFormat},
    term,
};

use crate::{
    cli::{
        error::{Interrupted, WrongUse},
        input::is_standard_input,
    },
    engine::{self, EventSource, FoundFile},
    output::destination::OutputDestination,
};

/// Bad lines that are named; all are counted.
const NAMED_MAX: u64 = 20;

/// What standard input is called.
const STANDARD_INPUT: &str = "standard input";

/// Bytes of output that are kept before they are written.
const PART_BYTES: usize = 64 << 10;

/// Examples, for the help.
pub(super) const EXAMPLES: &str = "\
Examples:
  netconn convert events.ndjson.zst --to zeek-tsv -o conn.log
  netconn convert /var/lib/netconn/events --to ocsf | gzip > ocsf.ndjson.gz
  netconn watch --format json | netconn convert - --to ecs

Lines that are no events, and files of a folder that cannot be read, are named on standard error,
and the exit code is 65 then; all else is converted. Events that the format has no place for are counted there.";

/// Options of `netconn convert`.
#[derive(Clone, Debug, Args)]
pub(super) struct ConvertOptions {
    /// The files: JSON (lines, objects or an array; also compressed) or Parquet, and folders with such files; - is standard
    /// input, which is converted as it comes.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The format.
    #[arg(long, value_name = "NAME", value_parser = formats())]
    to: &'static EventFormat,
    /// Write to this file instead of standard output; it appears when it is complete. - is standard output.
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The formats as clap shows them in help and errors.
fn formats() -> impl TypedValueParser<Value = &'static EventFormat> {
    let values = EVENT_FORMATS.iter().map(|format| PossibleValue::new(format.name).help(format.meaning));
    PossibleValuesParser::new(values)
        .try_map(|name| format::by_name(&name).ok_or_else(|| format!("there is no format {name}")))
}

/// Converts all files; returns [`Exit::Data`] if a line was no event, or a file of a folder could not be read.
pub(super) fn run(options: &ConvertOptions) -> Result<Exit> {
    if options.files.iter().filter(|path| is_standard_input(path)).count() > 1 {
        return Err(WrongUse("standard input can be converted only once: name - once".into()).into());
    }
    let output = options.output.as_deref().filter(|path| path.as_os_str() != "-");
    let (out, file) = match output {
        None => (OutputDestination::stdout(), None),
        Some(path) => {
            let made = OutputDestination::file(path).with_context(|| format!("cannot write {}", path.display()))?;
            (made.0, Some(made.1))
        }
    };
    let (files, format) = (options.files.clone(), options.to);
    let runtime = engine::runtime()?;
    // On a thread of its own: reading standard input cannot be cancelled, and Ctrl-C must remove an output that is not whole.
    let converted = runtime.block_on(async {
        let work = tokio::task::spawn_blocking(move || Conversion::new(format, out).all(&files));
        tokio::select! {
            done = work => done.context("the conversion has failed")?,
            _ = tokio::signal::ctrl_c() => Err(Interrupted.into()),
        }
    });
    runtime.shutdown_background();
    let counts = converted?;
    if let Some(file) = file {
        file.commit()?;
    }
    counts.tell(format);
    Ok(if counts.bad == 0 && counts.unread == 0 { Exit::Success } else { Exit::Data })
}

/// What a conversion has met.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    bad: u64,
    unread: u64,
    left_out: u64,
    lost: u64,
}

impl Counts {
    /// Says on standard error what is not in the output.
    fn tell(&self, format: &EventFormat) {
        let are = |count: u64, what: &str| format!("{count} {what}{} ", if count == 1 { "" } else { "s" });
        if self.bad > NAMED_MAX {
            netconn_model::tell!(
                "netconn: {}are no events, of which the first {NAMED_MAX} are named",
                are(self.bad, "line")
            );
        }
        if self.left_out > 0 {
            netconn_model::tell!(
                "netconn: {}left out: the format {} has no place for events of this kind (docs/formats.md)",
                are(self.left_out, "event"),
                format.name
            );
        }
        if self.lost > 0 {
            let report = if self.lost == 1 { "reports" } else { "report" };
            netconn_model::tell!("netconn: {}among them {report} events that were lost", are(self.lost, "event"));
        }
    }
}

struct Conversion {
    format: &'static EventFormat,
    out: OutputDestination,
    part: Vec<u8>,
    counts: Counts,
}

impl Conversion {
    fn new(format: &'static EventFormat, out: OutputDestination) -> Self {
        Self { format, out, part: Vec::new(), counts: Counts::default() }
    }

    fn all(mut self, paths: &[PathBuf]) -> Result<Counts> {
        self.format.heading(&mut self.part);
        for path in paths {
            if is_standard_input(path) {
                let source = EventSource::stream(io::stdin())?;
                if let Some(error) = self.source(source, STANDARD_INPUT)? {
                    return Err(error).with_context(|| format!("cannot read {STANDARD_INPUT}"));
                }
                continue;
            }
            let (files, unread) = engine::event_files(path)?;
            for error in unread {
                self.unread(&error);
            }
            for file in files {
                self.file(&file)?;
            }
        }
        self.write()?;
        self.out.flush()?;
        Ok(self.counts)
    }

    /// Converts a file. One that was found in a folder may be damaged: the others are converted all the same.
    fn file(&mut self, file: &FoundFile) -> Result<()> {
        let name = file.name();
        let name = term::sanitize(&name);
        let source = match file.read() {
            Ok(source) => source,
            Err(error) if file.is_named() => return Err(error.into()),
            Err(error) => {
                self.unread(&error);
                return Ok(());
            }
        };
        match self.source(source, &name)? {
            None => {}
            Some(error) if file.is_named() => return Err(error).with_context(|| format!("cannot read {name}")),
            Some(error) => {
                self.unread(&format_args!(
                    "cannot read {name} to its end: {error}; its events before that are converted"
                ));
            }
        }
        Ok(())
    }

    /// Converts what a source has; returns why it cannot be read to its end.
    ///
    /// # Errors
    ///
    /// The output cannot be written.
    fn source(&mut self, mut source: EventSource, name: &str) -> io::Result<Option<io::Error>> {
        let error = loop {
            // Whoever reads the output of a pipe gets an event before the next one comes.
            if source.would_wait() {
                self.write()?;
                self.out.flush()?;
            }
            let line = match source.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break None,
                Err(error) => {
                    // What was read before is an answer, too.
                    self.write()?;
                    break Some(error);
                }
            };
            if !line.text.trim_ascii().is_empty()
                && let Err(why) = encode(self.format, line.text, &mut self.part, &mut self.counts)
            {
                self.bad(name, Some(line.number), &why);
            }
            if self.part.len() >= PART_BYTES {
                self.write()?;
            }
        };
        for _ in 0..source.take_too_long() {
            self.bad(name, None, &"a line is too long");
        }
        Ok(error)
    }

    fn unread(&mut self, why: &dyn fmt::Display) {
        self.counts.unread += 1;
        netconn_model::tell!("netconn: {}", term::sanitize(&why.to_string()));
    }

    fn bad(&mut self, name: &str, number: Option<u64>, why: &dyn fmt::Display) {
        self.counts.bad += 1;
        if self.counts.bad <= NAMED_MAX {
            let place = number.map(|number| format!(", line {number}")).unwrap_or_default();
            let sentence = format!("{name}{place}: no event: {why}");
            netconn_model::tell!("netconn: {}", term::sanitize(&sentence));
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.out.write_all(&self.part)?;
        self.part.clear();
        Ok(())
    }
}

/// Why a line is no event.
#[derive(Debug, thiserror::Error)]
enum NoEvent {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("it has no event.type")]
    NoKind,
}

/// Appends an event in the format. Of the native one, too, each line is read: what comes out are events.
fn encode(format: &EventFormat, line: &[u8], out: &mut Vec<u8>, counts: &mut Counts) -> Result<(), NoEvent> {
    let event: Event<'_> = serde_json::from_slice(line)?;
    if event.kind.is_none() {
        return Err(NoEvent::NoKind);
    }
    let encoded = if format.is_native() { format.encode_line(line, out)? } else { format.encode(&event, out) };
    if encoded == Encoded::LeftOut {
        counts.left_out += 1;
        counts.lost += u64::from(event.loss_count.is_some());
    }
    Ok(())
}

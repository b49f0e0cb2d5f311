//! The daemon's log on standard error. A log that cannot be written, or that nobody reads, neither ends nor delays the daemon: its
//! lines are lost and counted, and the next line that can be written says how many.

use std::{
    fmt,
    io::{self, Write},
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Mutex, PoisonError},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer},
    registry::LookupSpan,
};

/// Most bytes of one write. A pipe that has any room takes them whole, without waiting (`PIPE_BUF`, pipe(7)).
const PIECE: usize = 4096;

/// A descriptor that lines of a log are written to.
#[derive(Debug, Default)]
pub struct LogOutput {
    state: Mutex<State>,
}

impl LogOutput {
    /// Returns the output for a log whose lines are those of [`JournalFormat`].
    pub fn of_journal() -> Self {
        Self { state: Mutex::new(State { notice: WARNING, ..State::default() }) }
    }
}

/// Begins lines of a warning for the journal (sd-daemon(3)); 4 is that of syslog(3).
const WARNING: &str = "<4>";

/// Returns what begins a line of this level.
fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => WARNING,
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Writes lines for the journal: each with its priority, none with the time, which the journal adds.
#[derive(Clone, Copy, Debug)]
pub struct JournalFormat;

impl<S, N> FormatEvent<S, N> for JournalFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        let prefix = prefix(*event.metadata().level());
        // Each line is an entry of its own.
        text.lines().try_for_each(|line| writeln!(writer, "{prefix}{line}"))
    }
}

/// Writes an error that ends a command, on standard error.
pub fn tell_error(text: &str) {
    if crate::service::logs_to_journal() {
        let lines: Vec<String> = text.lines().map(|line| format!("{}{line}", prefix(Level::ERROR))).collect();
        netconn_model::tell!("{}", lines.join("\n"));
    } else {
        netconn_model::tell!("{text}");
    }
}

#[derive(Debug, Default)]
struct State {
    /// Lines lost since the last that was written.
    lost: u64,
    /// The last line was written in part.
    is_torn: bool,
    /// Begins the line that says how many were lost.
    notice: &'static str,
}

impl State {
    /// Writes a line, or counts it as lost.
    fn write_line(&mut self, to: BorrowedFd<'_>, line: &[u8]) {
        let mut before = Vec::new();
        if self.is_torn {
            before.push(b'\n');
        }
        if self.lost != 0 {
            let line = format!("{}{} lines of the log are lost here\n", self.notice, self.lost);
            before.extend_from_slice(line.as_bytes());
        }
        let whole = [&before, line].concat();
        let written = write_now(to, &whole);
        if written == whole.len() {
            (self.lost, self.is_torn) = (0, false);
        } else {
            self.lost += 1;
            self.is_torn |= written != 0;
        }
    }
}

/// Writes as much as there is room for without waiting, and returns how much that was. Another program that writes to the same pipe may
/// take the room in between; then the write waits for its reader.
fn write_now(to: BorrowedFd<'_>, bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut polled = [PollFd::new(to, PollFlags::POLLOUT)];
        // An error of the descriptor is told by the write.
        if !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(ready) if ready != 0) {
            break;
        }
        match nix::unistd::write(to, rest.get(..PIECE).unwrap_or(rest)) {
            Ok(written) if written != 0 => rest = rest.get(written..).unwrap_or_default(),
            Err(nix::errno::Errno::EINTR) => {}
            _ => break,
        }
    }
    bytes.len() - rest.len()
}

/// A line on its way to the log.
#[derive(Debug)]
pub struct LogLine<'a>(&'a LogOutput);

impl Write for LogLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.write_line(io::stderr().as_fd(), line);
        // An error has no place where it could be told.
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogOutput {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine(self)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Read as _};

    use super::*;

    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut state = State::default();
        let line = [&[b'x'; 999][..], b"\n"].concat();
        // Nobody reads; a pipe holds 64 KiB.
        for _ in 0..100 {
            state.write_line(writer.as_fd(), &line);
        }
        let lost = state.lost;
        assert!((30..60).contains(&lost), "{lost}");
        let mut some = vec![0; 32 << 10];
        reader.read_exact(&mut some).unwrap();
        state.write_line(writer.as_fd(), b"again\n");
        assert_eq!(state.lost, 0);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.ends_with(&format!("\n{lost} lines of the log are lost here\nagain\n")), "{text}");
    }

    #[test]
    fn a_full_disk_and_a_closed_pipe_are_no_errors() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (reader, closed) = io::pipe().unwrap();
        drop(reader);
        let mut state = State::default();
        state.write_line(full.as_fd(), b"a\n");
        state.write_line(closed.as_fd(), b"b\n");
        assert_eq!((state.lost, state.is_torn), (2, false));
    }
}

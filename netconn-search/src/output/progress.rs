//! The progress line on standard error, for searches that take longer than a second.

use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use netconn_model::term;

use crate::output::summary::{counted, grouped};

/// Time after which the line appears: a short search should not flicker.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time between two updates of the line.
const STEP: Duration = Duration::from_millis(100);

/// The counters that the line shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgressCounts {
    /// Events that were read.
    pub events: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Files read to the end.
    pub files_done: u64,
    /// Files to read.
    pub files: u64,
    /// Size of all files, bytes. Parquet columns that the query does not use are never read, so `bytes` may stay below
    /// it.
    pub bytes_all: u64,
}

impl ProgressCounts {
    /// Returns how much is done, and of how much: counts files, or bytes if there are few files.
    fn part(&self) -> (u64, u64) {
        if self.files > 8 { (self.files_done, self.files) } else { (self.bytes, self.bytes_all.max(1)) }
    }
}

/// The progress line; dropping it removes the line.
#[derive(Debug)]
pub struct ProgressLine {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProgressLine {
    /// Starts a thread that shows `counts` after a second. Shows nothing if standard error is not a terminal.
    pub fn start(counts: impl Fn() -> ProgressCounts + Send + 'static) -> Self {
        if !io::stderr().is_terminal() {
            return Self { end: None, thread: None };
        }
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            // The receiver times out while the line is wanted; a disconnect means that it was dropped.
            if ended.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:20.cyan} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            loop {
                let counts = counts();
                let (done, all) = counts.part();
                bar.set_length(all);
                bar.set_position(done);
                bar.set_message(line(&counts));
                bar.tick();
                if ended.recv_timeout(STEP) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            bar.finish_and_clear();
        });
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        // Disconnects the channel: the thread ends now, not at its next step.
        drop(self.end.take());
        // Waits, so that the line has been cleared before anything else is written.
        if let Some(thread) = self.thread.take() {
            // The result is ignored: a panic of that thread only costs the progress line.
            let _ = thread.join();
        }
    }
}

fn line(counts: &ProgressCounts) -> String {
    let mut line = format!("{} read, {}", counted(counts.events, "event"), term::bytes(counts.bytes));
    if counts.files > 1 {
        line.push_str(&format!(", {} of {} files", grouped(counts.files_done), grouped(counts.files)));
    }
    line.push_str(" (Ctrl-C ends the search)");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_rows_and_bytes() {
        let counts = ProgressCounts { events: 1_234_567, bytes: 45_200_000, files_done: 3, files: 40, bytes_all: 9 };
        assert_eq!(line(&counts), "1,234,567 events read, 45.2 MB, 3 of 40 files (Ctrl-C ends the search)");
        assert_eq!(counts.part(), (3, 40));
        assert_eq!(ProgressCounts { files: 2, bytes: 5, ..counts }.part(), (5, 9));
    }
}

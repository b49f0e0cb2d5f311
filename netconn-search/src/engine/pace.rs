//! Keeps a conversion for the daemon to a quarter of a processor where nobody could give it idle priority: the unit `netconn.service`
//! denies the calls for that.

use std::{
    fmt, io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use nix::{
    libc::{self, c_int, c_long},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

/// How many times as long as it has worked a conversion rests: then it takes at most a quarter of a processor.
const REST: u32 = 3;

/// Set when too much waits for conversion.
static HURRIED: AtomicBool = AtomicBool::new(false);

/// Says when a conversion rests.
pub(super) struct Pace {
    /// Whether it may go on without a rest.
    goes_on: fn() -> bool,
    /// Since when it has worked without one.
    since: Instant,
}

impl fmt::Debug for Pace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pace").field("since", &self.since).finish_non_exhaustive()
    }
}

impl Pace {
    /// Never rests: somebody waits for the result.
    pub(super) fn without_rest() -> Self {
        Self::new(|| true)
    }

    /// Rests unless this process has another priority than ordinary ones by then, or is told to hurry by SIGURG. The daemon does one
    /// of these two; the signal is one that is ignored where nobody handles it, as by earlier versions.
    ///
    /// # Errors
    ///
    /// When the signal cannot be handled.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let action = SigAction::new(SigHandler::Handler(hurry), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler does nothing but store a value.
        unsafe { sigaction(Signal::SIGURG, &action) }?;
        Ok(Self::new(is_idle_or_hurried))
    }

    fn new(goes_on: fn() -> bool) -> Self {
        Self { goes_on, since: Instant::now() }
    }

    /// Ends a part of the work of some milliseconds, and rests if that is due.
    pub(super) fn rest(&mut self) {
        // Asked each time: the daemon changes the priority after this process has begun.
        if !(self.goes_on)() {
            // Time, not processor time: where others want the processor, the rest is longer too.
            thread::sleep(self.since.elapsed() * REST);
        }
        self.since = Instant::now();
    }
}

extern "C" fn hurry(_: c_int) {
    HURRIED.store(true, Ordering::Relaxed);
}

fn is_idle_or_hurried() -> bool {
    // By system call, because musl has the function but no call. It fails only if a filter denies it: then nobody knows of an idle
    // priority.
    // SAFETY: a system call with a number.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    let is_lowered = [libc::SCHED_IDLE, libc::SCHED_BATCH].into_iter().any(|lowered| policy == c_long::from(lowered));
    is_lowered || HURRIED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _, time::Duration};

    use nix::sys::{
        resource::{UsageWho, getrusage},
        signal::raise,
        time::TimeValLike as _,
    };

    use super::*;
    use crate::engine::HandedOver;

    /// Converts lines at a pace; returns the processor time and the time that it took.
    fn convert(pace: Pace) -> (Duration, Duration) {
        let mut segment = tempfile::tempfile().unwrap();
        let lines: Vec<String> = (0..40_000)
            .map(|number| {
                format!(
                    "{{\"event.time\":{number},\"event.type\":\"IP Connect\",\"src.process.cmdline\":\"{number:x}\"}}\n"
                )
            })
            .collect();
        segment.write_all(lines.concat().as_bytes()).unwrap();
        let handed_over = HandedOver::with_pace(segment, tempfile::tempfile().unwrap(), pace).unwrap();
        let used = || {
            let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
            let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            Duration::from_micros(microseconds.try_into().unwrap())
        };
        let (used_before, since) = (used(), Instant::now());
        assert_eq!(handed_over.convert().unwrap().rows, 40_000);
        (used() - used_before, since.elapsed())
    }

    #[test]
    fn a_conversion_of_ordinary_priority_takes_a_quarter_of_a_processor() {
        let (used, took) = convert(Pace::new(|| false));
        // What is done before the first part and after the last rest.
        let apart = Duration::from_millis(5);
        assert!(used.saturating_sub(apart) * 4 <= took, "{used:?} of {took:?}");
        assert!(used > apart, "{used:?}");
    }

    #[test]
    fn idle_priority_and_haste_need_no_rest() {
        let mut segment = tempfile::tempfile().unwrap();
        segment.write_all(b"{}\n").unwrap();
        // Handles the signal.
        drop(HandedOver::new(segment, File::open("/dev/null").unwrap()).unwrap());
        // SAFETY: a system call with a number.
        let policy = || unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
        let of_batch = thread::spawn(move || {
            let parameter: c_int = 0;
            // SAFETY: the pointer is to a value that outlives the call, which concerns this thread only.
            let done =
                unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const parameter) };
            assert_eq!((done, policy()), (0, c_long::from(libc::SCHED_BATCH)));
            is_idle_or_hurried()
        });
        assert!(of_batch.join().unwrap());
        if policy() == c_long::from(libc::SCHED_OTHER) {
            assert!(!is_idle_or_hurried());
        }
        raise(Signal::SIGURG).unwrap();
        assert!(is_idle_or_hurried());
    }
}

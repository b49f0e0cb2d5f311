//! The daemon as a service of systemd: what it is handed over, what it reports, and how its log is told priorities. Without systemd
//! nothing of this does anything.
//!
//! The protocol is that of sd_notify(3) and sd_listen_fds(3). The socket is connected once, before anything else: the daemon may lose
//! the right to open another one.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram, UnixListener},
        },
    },
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        socket::{getsockopt, sockopt},
        stat::fstat,
    },
    time::{ClockId, clock_gettime},
};
use tracing::warn;

/// The first descriptor that a manager hands over (`SD_LISTEN_FDS_START`).
const FIRST_DESCRIPTOR: i32 = 3;
/// How often a message is sent again to a manager that has no room for it, and the pause before that.
const TRIES: u32 = 10;
const RETRY: Duration = Duration::from_millis(20);
/// The part of the watchdog's time after which it is fed: the engine may need the rest for one round.
const FEED_PART: u32 = 4;
/// Variables for this process alone. Its children must not answer in its place.
const OWN_VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// What the manager of services has given this process.
#[derive(Debug, Default)]
pub struct Service {
    /// Reports to it.
    pub notifier: Notifier,
    /// The socket of the daemon, if the manager has made it: clients wait in its backlog while no daemon runs.
    pub listener: Option<UnixListener>,
}

impl Service {
    /// Takes what was given, and removes the variables that say so from the environment. Call it first: no other thread may run, and
    /// descriptors from 3 on must be those that the process was started with.
    pub fn take() -> Self {
        let values = OWN_VARIABLES.map(env::var_os);
        for name in OWN_VARIABLES {
            // SAFETY: the caller says that no other thread runs, which alone could read the environment meanwhile.
            unsafe { env::remove_var(name) };
        }
        let [socket, watchdog_usec, watchdog_pid, listen_pid, listen_fds, _] = values;
        let is_own = |pid: Option<OsString>| number(pid).is_some_and(|pid| pid == u64::from(process::id()));
        let notifier = socket.as_deref().map(Notifier::connect).unwrap_or_default();
        let is_watched = watchdog_pid.is_none() || is_own(watchdog_pid);
        let watchdog = number(watchdog_usec).filter(|usec| *usec != 0 && is_watched);
        let feed = watchdog.map(|usec| Duration::from_micros(usec) / FEED_PART);
        let count = if is_own(listen_pid) { number(listen_fds).unwrap_or(0) } else { 0 };
        Self { notifier: Notifier { feed, ..notifier }, listener: take_listener(count) }
    }
}

fn number(text: Option<OsString>) -> Option<u64> {
    text?.to_str()?.parse().ok()
}

/// Takes the listening Unix socket among the descriptors that were handed over, and closes the others.
fn take_listener(count: u64) -> Option<UnixListener> {
    let count = i32::try_from(count).unwrap_or(0);
    let mut found = None;
    for descriptor in FIRST_DESCRIPTOR..FIRST_DESCRIPTOR.saturating_add(count) {
        // A number that a manager has made up.
        if fs::symlink_metadata(format!("/proc/self/fd/{descriptor}")).is_err() {
            continue;
        }
        // SAFETY: it is open, and the caller of `take` says that nobody else in this process has it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let is_listening = getsockopt(&descriptor, sockopt::AcceptConn).unwrap_or(false);
        let listener = UnixListener::from(descriptor);
        let is_unix = listener.local_addr().is_ok();
        // Not for children: a converter that has it would keep the socket open.
        let is_closed_on_exec = fcntl(&listener, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_ok();
        if found.is_none() && is_listening && is_unix && is_closed_on_exec {
            found = Some(listener);
        }
    }
    found
}

/// Reports the state of the daemon to the manager of services.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    socket: Option<Arc<UnixDatagram>>,
    /// A status was told since [`Notifier::take_told`] was called last.
    has_told: Arc<AtomicBool>,
    /// How often the manager wants to hear from the engine.
    feed: Option<Duration>,
}

impl Notifier {
    /// Connects to the socket of a manager: a path, or a name in the abstract namespace that begins with `@`.
    fn connect(name: &OsStr) -> Self {
        let connected = || -> io::Result<UnixDatagram> {
            let address = match name.as_bytes() {
                [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
                _ => SocketAddr::from_pathname(name)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        match connected() {
            Ok(socket) => Self { socket: Some(Arc::new(socket)), ..Self::default() },
            Err(error) => {
                // The log has not begun.
                netconn_model::tell!("netconn: cannot report to NOTIFY_SOCKET={}: {error}", name.display());
                Self::default()
            }
        }
    }

    /// Whether there is somebody to report to.
    pub fn is_on(&self) -> bool {
        self.socket.is_some()
    }

    /// Returns how often [`Notifier::try_send`] has to send `WATCHDOG=1`; `None` if nobody watches.
    pub fn feed(&self) -> Option<Duration> {
        self.feed
    }

    /// Sends lines as one message, without waiting; returns whether it was sent.
    pub fn try_send(&self, lines: &str) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.send(lines.as_bytes()).is_ok())
    }

    /// Returns whether a status was told by the other functions since this was last called: it has taken the place of that of the
    /// caller.
    pub fn take_told(&self) -> bool {
        self.has_told.swap(false, Ordering::Relaxed)
    }

    /// Sends lines with a status as one message that must not be missing, and waits for room up to 0.2 s.
    fn send(&self, lines: &str) {
        let Some(socket) = &self.socket else { return };
        self.has_told.store(true, Ordering::Relaxed);
        for _ in 0..TRIES {
            match socket.send(lines.as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
                Ok(_) => return,
                Err(error) => {
                    warn!("the manager of services does not hear of this daemon: {error}");
                    return;
                }
            }
        }
        warn!("the manager of services takes no messages");
    }

    /// Tells what the start does now, and that this may take so long from now on.
    pub fn starting(&self, what: &str, at_most: Duration) {
        self.send(&format!("STATUS={what}\nEXTEND_TIMEOUT_USEC={}", at_most.as_micros()));
    }

    /// Tells what was done, in one line, before the start is complete.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}"));
    }

    /// Tells that the start is complete, or that a reload is; the status is one line.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Tells that the configuration is read again; [`Notifier::ready`] ends that. Not before the start is complete: what ends the reload
    /// would complete it.
    pub fn reloading(&self) {
        // The manager compares it with the time of its own request.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reads the configuration again", now.as_micros()));
    }

    /// Tells that the daemon ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=writes the last events");
    }
}

/// Whether standard error goes to the journal: then it is told priorities, and adds the time itself. `JOURNAL_STREAM` names the device
/// and the inode of what the manager has made of standard error (systemd.exec(5)); a redirection makes them others.
pub fn logs_to_journal() -> bool {
    let Some(stream) = env::var_os("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.to_str().and_then(|text| text.split_once(':')) else { return false };
    let is_same =
        |found: nix::sys::stat::FileStat| device.parse() == Ok(found.st_dev) && inode.parse() == Ok(found.st_ino);
    fstat(io::stderr()).is_ok_and(is_same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_reach_a_socket_with_a_path_and_one_without() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("netconn-test-{}", process::id());
        let receivers = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
            ),
        ];
        for (address, receiver) in receivers {
            let notifier = Notifier::connect(&address);
            assert!(notifier.is_on() && notifier.feed().is_none());
            assert!(!notifier.take_told());
            notifier.ready("a");
            // Also where another thread has a copy.
            assert!(notifier.clone().take_told() && !notifier.take_told());
            let mut bytes = [0; 100];
            let length = receiver.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"READY=1\nSTATUS=a");
            // Nobody reads: the engine must not wait.
            (0..10_000).for_each(|_| _ = notifier.try_send("WATCHDOG=1"));
            assert!(!notifier.try_send("WATCHDOG=1"));
        }
        assert!(!Notifier::connect("/nonexistent/notify".as_ref()).is_on());
        assert!(!Notifier::default().try_send("WATCHDOG=1"));
    }
}

//! Processes of the tests' own: copies of the test that do one thing.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::Command,
};

use nix::{
    libc,
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork},
};

/// A child of the test; killed when dropped.
#[derive(Debug)]
pub struct Forked {
    /// Process id in the test's pid namespace.
    pub pid: u32,
    /// The other end of the child's.
    pub channel: UnixStream,
}

impl Forked {
    /// Runs a function in a child, in the caller's namespaces and with all its descriptors; the child ends with it. The
    /// function is given a channel to the test and must not wait for other threads: there are none.
    pub fn new(function: impl FnOnce(UnixStream)) -> Self {
        let (here, there) = UnixStream::pair().unwrap();
        // SAFETY: the child is alone, and only makes system calls and allocates (glibc makes that safe after fork).
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Self { pid: u32::try_from(child.as_raw()).unwrap(), channel: here },
            ForkResult::Child => {
                drop(here);
                run(function, there)
            }
        }
    }

    /// The same with a process id that is free.
    pub fn with_pid(pid: u32, function: impl FnOnce(UnixStream)) -> Self {
        let (here, there) = UnixStream::pair().unwrap();
        let ids = [pid];
        // SAFETY: all zeros is a valid value, "nothing special".
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.set_tid = ids.as_ptr() as u64;
        arguments.set_tid_size = 1;
        // SAFETY: as in `new`; without a stack of its own it is a fork.
        let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
        assert!(child >= 0, "{}", std::io::Error::last_os_error());
        if child != 0 {
            return Self { pid: u32::try_from(child).unwrap(), channel: here };
        }
        drop(here);
        run(function, there)
    }

    /// Waits for one byte of the child: it has come to a point.
    pub fn wait(&mut self) {
        self.channel.read_exact(&mut [0]).unwrap();
    }

    /// Lets the child go on.
    pub fn go(&mut self) {
        self.channel.write_all(&[0]).unwrap();
    }

    /// Waits until the child has ended.
    pub fn join(self) {
        let _ = waitpid(self.id(), None);
        std::mem::forget(self);
    }

    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid).unwrap())
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        let _ = kill(self.id(), Signal::SIGKILL);
        let _ = waitpid(self.id(), None);
    }
}

/// Runs a child's function and ends it. A panic must not get out: above are the functions that run the tests.
fn run(function: impl FnOnce(UnixStream), channel: UnixStream) -> ! {
    let outcome = catch_unwind(AssertUnwindSafe(|| function(channel)));
    // SAFETY: ends at once, without what the test has registered for its own end.
    unsafe { libc::_exit(i32::from(outcome.is_err())) }
}

/// What a child tells the test, or waits for.
pub fn step(channel: &mut UnixStream) {
    channel.write_all(&[0]).unwrap();
}

/// Waits until the test says to go on.
pub fn pause(channel: &mut UnixStream) {
    let _ = channel.read(&mut [0]);
}

/// The program `actor`, which was built beside the tests; see there for what it does.
pub fn actor() -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop(); // deps
    path.pop();
    path.push("actor");
    assert!(path.exists(), "{} is not built: run the tests by `cargo xtask test`", PathBuf::from(&path).display());
    Command::new(path)
}

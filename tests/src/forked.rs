//! Child processes of a test: forks that run one function, and the program `actor`.

use std::{
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    os::{
        fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::Command,
};

use nix::{
    cmsg_space, libc,
    sys::{
        signal::{Signal, kill},
        socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork},
};

/// A child of the test. It is killed when dropped.
#[derive(Debug)]
pub struct Forked {
    /// The process id in the test's pid namespace.
    pub pid: u32,
    /// The test's end of the channel; the function in the child has the other end.
    pub channel: UnixStream,
}

impl Forked {
    /// Runs a function in a child, in the caller's namespaces and with all its descriptors; the child ends when it
    /// returns. The function gets a channel to the test. It must not wait for other threads, because the child has
    /// none.
    pub fn new(function: impl FnOnce(UnixStream)) -> Self {
        let (here, there) = UnixStream::pair().unwrap();
        // SAFETY: the child has one thread, which only makes system calls and allocates (glibc makes that safe after
        // fork).
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Self { pid: u32::try_from(child.as_raw()).unwrap(), channel: here },
            ForkResult::Child => {
                // The test's end: a child that held it open would never see the test close it.
                drop(here);
                run(function, there)
            }
        }
    }

    /// Runs a function in a child with this process id, which must be free.
    pub fn with_pid(pid: u32, function: impl FnOnce(UnixStream)) -> Self {
        let (here, there) = UnixStream::pair().unwrap();
        let ids = [pid];
        // SAFETY: all zeros is a valid value: no flags, no pointers.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.set_tid = ids.as_ptr() as u64;
        arguments.set_tid_size = 1;
        // SAFETY: as in `new`; `clone3` without a stack and without flags is a fork. `arguments` and `ids` live for the
        // call.
        let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
        assert!(child >= 0, "{}", std::io::Error::last_os_error());
        if child != 0 {
            return Self { pid: u32::try_from(child).unwrap(), channel: here };
        }
        drop(here);
        run(function, there)
    }

    /// Waits until the child has called [`step`].
    pub fn wait(&mut self) {
        self.channel.read_exact(&mut [0]).unwrap();
    }

    /// Lets the child return from [`pause`].
    pub fn go(&mut self) {
        self.channel.write_all(&[0]).unwrap();
    }

    /// Waits until the child has ended.
    pub fn join(self) {
        let _ = waitpid(self.id(), None);
        // `drop` would kill by the process id, which another process may have by now.
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

/// Runs a child's function and ends the child. A panic must not leave this function: it would unwind into the test
/// harness and run the other tests in the child.
fn run(function: impl FnOnce(UnixStream), channel: UnixStream) -> ! {
    let outcome = catch_unwind(AssertUnwindSafe(|| function(channel)));
    // SAFETY: `_exit` has no preconditions. It skips the test's `atexit` handlers, which must run in the test only.
    unsafe { libc::_exit(i32::from(outcome.is_err())) }
}

/// Tells the test that the child has come to this point: see [`Forked::wait`].
pub fn step(channel: &mut UnixStream) {
    channel.write_all(&[0]).unwrap();
}

/// Waits until the test calls [`Forked::go`], or closes the channel.
pub fn pause(channel: &mut UnixStream) {
    let _ = channel.read(&mut [0]);
}

/// A process that is no child of the test, because the child that began it has ended. It is killed when dropped: else it would hold
/// the output of a test that fails.
#[derive(Debug)]
pub struct Orphan(pub u32);

impl Drop for Orphan {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Sends a descriptor over a socket: its receiver has what it refers to open too.
pub fn hand_over(channel: &UnixStream, descriptor: &impl AsRawFd) {
    let descriptors = [descriptor.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(&[0])], &message, MsgFlags::empty(), None).unwrap();
}

/// Waits for a descriptor that [`hand_over`] sends.
pub fn received(channel: &UnixStream) -> OwnedFd {
    let (mut byte, mut space) = ([0], cmsg_space!([RawFd; 1]));
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(channel.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
    let Some(ControlMessageOwned::ScmRights(descriptors)) = message.cmsgs().unwrap().next() else { panic!("none") };
    // SAFETY: the kernel has just made this descriptor for this process, and it has no other owner.
    unsafe { OwnedFd::from_raw_fd(descriptors[0]) }
}

/// Returns a command that runs the program `actor`, which was built beside the tests: see `src/bin/actor.rs`.
pub fn actor() -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop(); // deps
    path.pop();
    path.push("actor");
    assert!(path.exists(), "{} is not built: run the tests by `cargo xtask test`", PathBuf::from(&path).display());
    Command::new(path)
}

//! The daemon's end of the connection to the child.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd, RawFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytemuck::Zeroable as _;
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, setsockopt, sockopt},
        time::{TimeVal, TimeValLike as _},
    },
};
use tracing::{error, warn};

use super::{
    ChildStatus,
    request::{Answer, DATA_MAX, Head, Request, receive, send},
};

/// How long an answer is waited for, seconds. It takes microseconds; more means that the child is stuck in the kernel.
const PATIENCE_SECONDS: i64 = 5;

/// The connection.
#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    pid: u32,
    capabilities: u64,
    /// The last request, and how many of them have no answer yet.
    asked: Mutex<(u64, u64)>,
    has_ended: AtomicBool,
    failures: AtomicU64,
}

impl Client {
    pub(super) fn new(socket: OwnedFd, pid: u32, capabilities: u64) -> io::Result<Self> {
        let patience = TimeVal::seconds(PATIENCE_SECONDS);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        setsockopt(&socket, sockopt::SendTimeout, &patience)?;
        let (has_ended, failures) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Self { socket, pid, capabilities, asked: Mutex::new((0, 0)), has_ended, failures })
    }

    pub(super) fn status(&self) -> ChildStatus {
        ChildStatus {
            pid: self.pid,
            capabilities: self.capabilities,
            is_alive: !self.has_ended.load(Ordering::Relaxed) && !self.hung_up(),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    /// Returns whether the child has closed its end: it has ended, although nobody has asked it since.
    fn hung_up(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        poll(&mut polled, PollTimeout::ZERO).is_ok()
            && polled.iter().any(|end| end.revents().is_some_and(|found| found.contains(PollFlags::POLLHUP)))
    }

    /// Makes a request and waits for the answer.
    pub(super) fn ask(&self, request: &Request, descriptors: &[RawFd]) -> io::Result<Answer> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (sequence, unanswered) = &mut *asked;
        // While it is stuck in an earlier request, nobody waits for it once more.
        while *unanswered != 0 {
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(_) => *unanswered -= 1,
                Err(error) => return Err(self.failed(error)),
            }
        }
        *sequence += 1;
        let request = Request { sequence: *sequence, ..*request };
        send(self.socket.as_fd(), [bytemuck::bytes_of(&request), &[]], descriptors)
            .map_err(|error| self.failed(error))?;
        *unanswered += 1;
        let (head, answer) = self.receive(MsgFlags::empty()).map_err(|error| self.failed(error))?;
        *unanswered -= 1;
        if head.sequence != *sequence {
            return Err(self.failed(io::ErrorKind::InvalidData.into()));
        }
        match head.errno {
            0 => Ok(answer),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn receive(&self, flags: MsgFlags) -> io::Result<(Head, Answer)> {
        let mut head = Head::zeroed();
        let mut data = vec![0; DATA_MAX];
        let bytes: &mut [u8] = bytemuck::bytes_of_mut(&mut head);
        let (length, descriptors) = receive(self.socket.as_fd(), [bytes, &mut data], flags)?;
        match length.checked_sub(size_of::<Head>()) {
            Some(length) => data.truncate(length),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok((head, Answer { next: head.next, hidden: head.hidden, data, descriptors }))
    }

    /// Counts a failure of the child itself, and tells the first one.
    fn failed(&self, error: io::Error) -> io::Error {
        let is_first = self.failures.fetch_add(1, Ordering::Relaxed) == 0;
        let has_ended = error.kind() == io::ErrorKind::UnexpectedEof
            || matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EPIPE | Errno::ECONNRESET));
        if has_ended {
            if !self.has_ended.swap(true, Ordering::Relaxed) {
                error!(
                    "the privileged child {} has ended: other network namespaces and the executables of older processes are not read \
                     any more; restart netconn",
                    self.pid
                );
            }
        } else if is_first {
            warn!("the privileged child {} does not answer: {error}", self.pid);
        }
        error
    }
}

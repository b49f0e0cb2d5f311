//! The connection to a client, which fails when the client stops to read.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    time::{Instant, Sleep, sleep},
};

use crate::os;

/// Most bytes of one write. The kernel tells only of whole writes that they were read, so this and the time limit are the
/// slowest reader there may be: 273 bytes per second.
const WRITE_BYTES: usize = 8 << 10;
/// Slices of one write: a part of an answer with what HTTP puts around it, and the end of the part before.
const SLICES: usize = 8;
/// Looks at what the client has read within the time limit.
const LOOKS: u32 = 10;

/// A connection whose writes fail when the client reads nothing for a while.
///
/// Whether the socket becomes writable does not tell that: it does when three quarters of its buffer are free
/// (`unix_writable` in `net/unix/af_unix.c`), for which a slow reader takes minutes.
#[derive(Debug)]
pub(super) struct PatientStream {
    stream: UnixStream,
    patience: Duration,
    /// Set while a write waits. A client that follows events may read nothing for days, because there is nothing.
    stall: Option<Stall>,
}

/// A write that waits for the client.
#[derive(Debug)]
struct Stall {
    /// Size of what the client has not read.
    unread: i32,
    /// Looks since that has changed. Not the time: a daemon that was stopped or had no CPU has offered the client nothing meanwhile, or
    /// the client was stopped with it.
    silent_looks: u32,
    next_look: Pin<Box<Sleep>>,
}

impl PatientStream {
    /// Wraps a connection whose client may read nothing for `patience`.
    pub(super) fn new(stream: UnixStream, patience: Duration) -> Self {
        Self { stream, patience, stall: None }
    }

    /// Passes on what a write has returned; fails if it waits for a client that does not read.
    fn judge(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Self { stream, patience, stall } = self;
        if written.is_ready() {
            *stall = None;
            return written;
        }
        let pause = *patience / LOOKS;
        let unread = || os::unread_by_peer(&*stream);
        let stall = match stall {
            Some(stall) => stall,
            None => stall.insert(Stall { unread: unread()?, silent_looks: 0, next_look: Box::pin(sleep(pause)) }),
        };
        loop {
            // The loop ends with a timer that wakes this task.
            ready!(stall.next_look.as_mut().poll(context));
            let unread = unread()?;
            if unread == stall.unread {
                stall.silent_looks += 1;
            } else {
                (stall.unread, stall.silent_looks) = (unread, 0);
            }
            if stall.silent_looks >= LOOKS {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            // From now on, so that each look has its pause, however late the last one came.
            stall.next_look.as_mut().reset(Instant::now() + pause);
        }
    }
}

impl AsyncRead for PatientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PatientStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let some = bytes.get(..WRITE_BYTES).unwrap_or(bytes);
        let written = Pin::new(&mut self.stream).poll_write(context, some);
        self.judge(context, written)
    }

    /// Writes what stands before a part of an answer together with the part.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (mut some, mut room) = ([IoSlice::new(&[]); SLICES], WRITE_BYTES);
        for (some, slice) in some.iter_mut().zip(slices.iter().filter(|slice| !slice.is_empty())) {
            let bytes = slice.get(..room).unwrap_or(slice);
            room -= bytes.len();
            *some = IoSlice::new(bytes);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, &some);
        self.judge(context, written)
    }

    /// Without this, hyper would copy each part of an answer into a buffer of its own.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);
    const ANSWER: usize = 1 << 20;

    fn pair() -> (PatientStream, UnixStream) {
        let (ours, client) = UnixStream::pair().unwrap();
        (PatientStream::new(ours, PATIENCE), client)
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_left() {
        let (mut ours, mut client) = pair();
        let since = Instant::now();
        let error = ours.write_all(&vec![0; ANSWER]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(since.elapsed() >= PATIENCE);
        drop(ours);
        // What it had been sent can still be read.
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert!(!read.is_empty() && read.len() < ANSWER);
    }

    #[tokio::test]
    async fn a_daemon_that_stands_still_blames_no_client() {
        let (mut ours, mut client) = pair();
        let writer = tokio::spawn(async move { ours.write_all(&vec![7; ANSWER / 4]).await });
        sleep(PATIENCE / 3).await;
        assert!(!writer.is_finished());
        // Blocks the runtime, as if the process were stopped: nothing is looked at meanwhile.
        std::thread::sleep(PATIENCE * 3);
        sleep(PATIENCE / 10).await;
        let mut read = vec![0; ANSWER / 4];
        client.read_exact(&mut read).await.unwrap();
        writer.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_slow_reader_gets_all() {
        let (mut ours, mut client) = pair();
        let writer = tokio::spawn(async move { ours.write_all(&vec![7; ANSWER / 4]).await });
        let mut read = 0;
        // Far from three quarters of the buffer, 156 kB, within the time limit: 16 kB in a third of it.
        let mut part = [0; 16 << 10];
        while !writer.is_finished() {
            sleep(PATIENCE / 3).await;
            read += client.read(&mut part).await.unwrap();
        }
        writer.await.unwrap().unwrap();
        while read < ANSWER / 4 {
            read += client.read(&mut part).await.unwrap();
        }
    }

    #[tokio::test]
    async fn parts_are_written_together_and_in_order() {
        let (mut ours, mut client) = pair();
        let (head, body) = (b"head".as_slice(), vec![1; 3 * WRITE_BYTES]);
        let slices = [IoSlice::new(b""), IoSlice::new(head), IoSlice::new(&body), IoSlice::new(b"tail")];
        // An empty slice at the front must not look like the end.
        let written = ours.write_vectored(&slices).await.unwrap();
        assert_eq!(written, WRITE_BYTES);
        let mut read = vec![0; written];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!((&read[..4], &read[4..]), (head, &body[..WRITE_BYTES - 4]));
    }
}

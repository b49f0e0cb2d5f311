//! Reads an answer ahead of who shows it: a pager that waits for its user must not hold up the daemon, which leaves a client
//! that reads nothing.
//!
//! A thread reads. What is not shown yet waits in memory and then in a temporary file without a name.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use jiff::{Timestamp, Zoned};
use memchr::memmem;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    runtime::Builder,
    sync::{Notify, oneshot},
    time::{sleep, timeout},
};

use crate::{
    client::{Client, ClientError, Parameters, Response, RowFormat, each_line},
    fact::{EventKind, LossStage},
    field::Event,
    json::SecondText,
    lines,
    moment::Moment,
    term,
};

/// Bytes that wait in memory.
const MEMORY_BYTES: usize = 16 << 20;
/// Bytes of events that wait in the file; an answer of rows has an end and needs no bound.
const EVENT_FILE_BYTES: u64 = 256 << 20;
/// Bytes that are read from the file at once.
const CHUNK_BYTES: u64 = 256 << 10;
/// How long the reading waits for who shows rows before it uses the file. Who is only slower than the daemon needs none.
const HOLD_UP: Duration = Duration::from_secs(1);

/// Pause between two looks for the next daemon.
const NEXT_DAEMON: Duration = Duration::from_millis(250);
/// How many looks in a row may be forbidden.
const FORBIDDEN_MAX: u32 = 8;

/// Where sentences for the user go that cannot wait.
pub type Tell = fn(&str);

/// Returns whether somebody can read standard output: a pipe that nobody reads is seen only by a write, and nothing is written while no
/// daemon runs.
fn has_reader() -> bool {
    let out = io::stdout();
    let mut files = [PollFd::new(out.as_fd(), PollFlags::empty())];
    // An error means that it cannot be told.
    let _ = poll(&mut files, PollTimeout::ZERO);
    !files[0].revents().is_some_and(|found| found.contains(PollFlags::POLLERR))
}

/// An answer that is read ahead.
#[derive(Debug)]
pub struct ReadAhead {
    shared: Arc<Shared>,
    path: PathBuf,
    /// Ends the thread when it is dropped.
    _stop: oneshot::Sender<()>,
}

/// What the thread that reads and the one that shows have in common.
#[derive(Debug)]
struct Shared {
    spool: Mutex<Spool>,
    /// There is more to show, or the answer has ended.
    filled: Notify,
    /// There is more room.
    taken: Notify,
    tell: Tell,
}

impl Shared {
    fn spool(&self) -> MutexGuard<'_, Spool> {
        // No operation leaves the spool half done, so that it is good also after a panic.
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadAhead {
    /// Asks for a snapshot, as [`Client::connections`] does.
    ///
    /// # Errors
    ///
    /// Those of [`Client::get`], and when the system gives no thread.
    pub async fn rows(
        client: &Client,
        parameters: &Parameters,
        format: RowFormat,
        tell: Tell,
    ) -> Result<Self, ClientError> {
        let (asking, parameters) = (client.clone(), parameters.to_owned());
        let request = async move {
            let answer = asking.connections(&parameters, format).await?;
            // No format makes a list seem whole that is not.
            answer.unlisted().iter().for_each(|sentence| tell(&term::sanitize(sentence)));
            Ok(answer)
        };
        Self::start(client, Spool::new(u64::MAX / 2), tell, request, read_rows).await
    }

    /// Asks for events, as [`Client::events`] does. Those for which there is no room any more are lost, and a `Data Loss` tells
    /// how many they were.
    ///
    /// # Errors
    ///
    /// Those of [`Client::get`], and when the system gives no thread.
    pub async fn events(client: &Client, parameters: &Parameters, tell: Tell) -> Result<Self, ClientError> {
        let (asking, parameters) = (client.clone(), parameters.to_owned());
        let request = async move { asking.events(&parameters).await };
        Self::start(client, Spool::new(EVENT_FILE_BYTES), tell, request, read_events).await
    }

    /// Asks the next daemon for events, as [`events`](Self::events) does, after the last one has ended. Waits until one answers, or
    /// until nobody can read standard output any more: then the result is `None`. Tells the user how long no events
    /// could be received.
    ///
    /// # Errors
    ///
    /// When a daemon refuses the request for good: it is wrong, or the user may not make it.
    pub async fn events_of_next(
        client: &Client,
        parameters: &Parameters,
        tell: Tell,
    ) -> Result<Option<Self>, ClientError> {
        // The clock of the wall may jump.
        let (since, from) = (Instant::now(), Zoned::now());
        let (mut forbidden, mut told) = (0, false);
        loop {
            match Self::events(client, parameters, tell).await {
                Ok(events) => {
                    let (gap, to) = (term::duration(since.elapsed()), Zoned::now());
                    let time = |moment: &Zoned| moment.strftime("%F %T").to_string();
                    tell(&format!(
                        "a daemon listens at {} again: events from {} to {} ({gap}) are missing here",
                        client.socket().display(),
                        time(&from),
                        time(&to)
                    ));
                    return Ok(Some(events));
                }
                // A daemon gives the socket to its group a moment after it has made it.
                Err(ClientError::PermissionDenied { .. }) if forbidden < FORBIDDEN_MAX => forbidden += 1,
                Err(ClientError::Refused { code, message }) if code == "command_failed" => {
                    if !told {
                        tell(&format!("the next daemon refuses the stream, which is asked for again: {message}"));
                        told = true;
                    }
                }
                Err(error @ (ClientError::PermissionDenied { .. } | ClientError::Refused { .. })) => return Err(error),
                Err(_) => forbidden = 0,
            }
            if !has_reader() {
                return Ok(None);
            }
            sleep(NEXT_DAEMON).await;
        }
    }

    async fn start<R: Future<Output = Result<(), ClientError>> + Send>(
        client: &Client,
        spool: Spool,
        tell: Tell,
        request: impl Future<Output = Result<Response, ClientError>> + Send + 'static,
        read: impl FnOnce(Response, Arc<Shared>) -> R + Send + 'static,
    ) -> Result<Self, ClientError> {
        let path = client.socket().to_owned();
        let spool = Mutex::new(spool);
        let shared = Arc::new(Shared { spool, filled: Notify::new(), taken: Notify::new(), tell });
        let (begun, begin) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let broken = {
            let path = path.clone();
            move |error| ClientError::Broken { path: path.clone(), error }
        };
        let (of_thread, of_runtime) = (Arc::clone(&shared), broken.clone());
        let thread = thread::Builder::new().name("netconn-read".into()).spawn(move || {
            // `send` fails when nobody waits for the answer any more.
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = begun.send(Err(of_runtime(error)));
                    return;
                }
            };
            let reading = async {
                let response = match request.await {
                    Ok(response) => response,
                    Err(error) => {
                        let _ = begun.send(Err(error));
                        return;
                    }
                };
                let _ = begun.send(Ok(()));
                let end = read(response, Arc::clone(&of_thread)).await;
                of_thread.spool().end = Some(end);
                of_thread.filled.notify_one();
            };
            runtime.block_on(async {
                tokio::select! {
                    () = reading => {}
                    _ = stopped => {}
                }
            });
        });
        // Nobody joins it: it ends with `stop`, or with the process.
        drop(thread.map_err(&broken)?);
        // Nothing comes if the thread has panicked.
        begin.await.map_err(|_| broken(io::Error::other("the thread that reads has ended")))??;
        Ok(Self { shared, path, _stop: stop })
    }

    /// Returns the next bytes of the answer; `None` at its end. It may be cancelled without losing any.
    ///
    /// # Errors
    ///
    /// When the connection has broken, after all that came before; or when the temporary file cannot be read.
    pub async fn part(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            {
                let mut spool = self.shared.spool();
                let taken = spool.take();
                if let Some(part) = taken.map_err(|error| ClientError::Broken { path: self.path.clone(), error })? {
                    self.shared.taken.notify_one();
                    return Ok(Some(part));
                }
                match spool.end.take() {
                    // Asked once more, it is still the end.
                    Some(Ok(())) => {
                        spool.end = Some(Ok(()));
                        return Ok(None);
                    }
                    Some(Err(error)) => return Err(error),
                    None => {}
                }
            }
            self.shared.filled.notified().await;
        }
    }

    /// Calls `line` for each line of the answer, without its line feed. Reading ends when `line` returns `false`.
    ///
    /// # Errors
    ///
    /// Those of [`part`](Self::part), and when `line` fails.
    pub async fn lines<E: From<ClientError>>(mut self, line: impl FnMut(&[u8]) -> Result<bool, E>) -> Result<(), E> {
        each_line(async || self.part().await, line).await
    }
}

/// Reads rows to their end. Without room for more it waits, because a list without some of its rows is of no use.
async fn read_rows(mut response: Response, shared: Arc<Shared>) -> Result<(), ClientError> {
    while let Some(part) = response.part().await? {
        let mut is_held_up = false;
        loop {
            let is_kept = {
                let mut spool = shared.spool();
                spool.keep(&part) || (is_held_up && spool.keep_in_file(&part, shared.tell))
            };
            if is_kept {
                break;
            }
            // `taken` also wakes when the room is still too small.
            let has_more_room = timeout(HOLD_UP, shared.taken.notified()).await.is_ok();
            is_held_up |= !has_more_room;
        }
        shared.filled.notify_one();
    }
    Ok(())
}

/// Reads events until the daemon ends. It never waits: what finds no room is counted.
async fn read_events(mut response: Response, shared: Arc<Shared>) -> Result<(), ClientError> {
    let (mut rest, mut lost) = (BytesMut::new(), None);
    let keep = |events: &Bytes| {
        let mut spool = shared.spool();
        spool.keep(events) || spool.keep_in_file(events, shared.tell)
    };
    let end = loop {
        let part = match response.part().await {
            Ok(Some(part)) => part,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        rest.extend_from_slice(&part);
        // Whole lines, so that only whole ones are lost.
        let events = rest.split_to(lines::whole_length(&rest)).freeze();
        // The report comes before what follows the gap.
        if lost.as_ref().is_some_and(|lost: &LostEvents| keep(&lost.report())) {
            lost = None;
        }
        match &mut lost {
            Some(so_far) => so_far.add(&events),
            None if keep(&events) => {}
            None => lost = Some(LostEvents::new(&events)),
        }
        shared.filled.notify_one();
    };
    if let Some(lost) = lost {
        // Now there is time to wait for room.
        while !keep(&lost.report()) {
            shared.taken.notified().await;
        }
    }
    end
}

/// Events that found no room.
#[derive(Debug)]
struct LostEvents {
    count: u64,
    /// The line of the first of them: its id is free, and it says which sensor this is.
    first: Vec<u8>,
}

impl LostEvents {
    /// Begins to count with these whole lines.
    fn new(events: &[u8]) -> Self {
        let first = events.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec();
        let mut lost = Self { count: 0, first };
        lost.add(events);
        lost
    }

    fn add(&mut self, events: &[u8]) {
        for line in events.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // Only reports of other losses are read: they are lost with their numbers.
            let losses = memmem::find(line, EventKind::DataLoss.name().as_bytes()).and_then(|_| {
                let event: Event<'_> = serde_json::from_slice(line).ok()?;
                event.loss_count.filter(|_| event.is(EventKind::DataLoss))
            });
            self.count += losses.unwrap_or(1);
        }
    }

    /// Returns the line that tells of them.
    fn report(&self) -> Bytes {
        let first: Event<'_> = serde_json::from_slice(&self.first).unwrap_or_default();
        let now = Timestamp::now();
        let now_ms = Some(now.as_millisecond());
        let event = Event {
            kind: Some(EventKind::DataLoss),
            id: first.id.clone(),
            time_ms: now_ms,
            time: i64::try_from(now.as_nanosecond()).ok().map(Moment),
            loss_stage: Some(LossStage::Queue),
            loss_count: Some(self.count),
            loss_from_ms: first.time_ms,
            loss_to_ms: now_ms,
            ..first.of_same_sensor()
        };
        let mut line = BytesMut::new();
        event.write_line(&mut line, &mut SecondText::default());
        line.freeze()
    }
}

/// Bytes that wait, in the order in which they came: those in the file came after those in memory.
#[derive(Debug)]
struct Spool {
    memory: VecDeque<Bytes>,
    memory_bytes: usize,
    /// A ring of `file_max` bytes: the unread ones begin at `begin`.
    file: Option<File>,
    begin: u64,
    unread: u64,
    file_max: u64,
    /// The file could not be made or written, and is not tried again.
    is_file_refused: bool,
    end: Option<Result<(), ClientError>>,
}

impl Spool {
    fn new(file_max: u64) -> Self {
        Self {
            memory: VecDeque::new(),
            memory_bytes: 0,
            file: None,
            begin: 0,
            unread: 0,
            file_max,
            is_file_refused: false,
            end: None,
        }
    }

    /// Keeps bytes in memory; `false` if there is no room, or if bytes before them are in the file.
    fn keep(&mut self, part: &Bytes) -> bool {
        // The first is kept whatever its length.
        let has_room = self.memory.is_empty() || self.memory_bytes + part.len() <= MEMORY_BYTES;
        let is_kept = has_room && self.unread == 0;
        if is_kept && !part.is_empty() {
            self.memory_bytes += part.len();
            self.memory.push_back(part.clone());
        }
        is_kept
    }

    /// Keeps bytes in the file; `false` if that is full or cannot be written.
    fn keep_in_file(&mut self, part: &[u8], tell: Tell) -> bool {
        if self.is_file_refused || self.unread + part.len() as u64 > self.file_max {
            return false;
        }
        let written = self.write(part);
        if let Err(error) = &written {
            self.is_file_refused = true;
            let folder = std::env::temp_dir();
            tell(&format!(
                "what the output has not taken yet cannot be kept in a temporary file in {} ({error}): if the output takes \
                 nothing for long, the daemon ends a list and a stream loses events; set TMPDIR to a folder with room",
                folder.display()
            ));
        }
        written.is_ok()
    }

    fn write(&mut self, part: &[u8]) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        let place = (self.begin + self.unread) % self.file_max;
        // The ring may end within these bytes.
        let before_end = usize::try_from(self.file_max - place).unwrap_or(usize::MAX).min(part.len());
        let (one, two) = part.split_at(before_end);
        file.write_all_at(one, place)?;
        file.write_all_at(two, 0)?;
        self.unread += part.len() as u64;
        Ok(())
    }

    /// Takes the next bytes.
    fn take(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(part) = self.memory.pop_front() {
            self.memory_bytes -= part.len();
            return Ok(Some(part));
        }
        let Some(file) = self.file.as_ref().filter(|_| self.unread != 0) else { return Ok(None) };
        let length = self.unread.min(CHUNK_BYTES).min(self.file_max - self.begin);
        let mut part = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut part, self.begin)?;
        self.begin = (self.begin + length) % self.file_max;
        self.unread -= length;
        if self.unread == 0 {
            // Gives the room back; memory serves from here on.
            self.begin = 0;
            file.set_len(0)?;
        }
        Ok(Some(part.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(sentence: &str) {
        panic!("{sentence}");
    }

    fn taken(spool: &mut Spool) -> Vec<u8> {
        std::iter::from_fn(|| spool.take().unwrap()).flatten().collect()
    }

    #[test]
    fn bytes_come_back_in_order_from_memory_and_file() {
        let mut spool = Spool::new(u64::MAX / 2);
        let part = |number: u8| Bytes::from(vec![number; MEMORY_BYTES / 4]);
        for number in 0..4 {
            assert!(spool.keep(&part(number)));
        }
        assert!(!spool.keep(&part(4)), "memory is full");
        assert!(spool.keep_in_file(&part(4), silent));
        assert_eq!(spool.take().unwrap().unwrap(), part(0));
        assert!(!spool.keep(&part(5)), "it came after what is in the file");
        assert!(spool.keep_in_file(&part(5), silent));
        let expected: Vec<u8> = (1..6).flat_map(part).collect();
        assert!(taken(&mut spool) == expected);
        assert_eq!(spool.file.as_ref().unwrap().metadata().unwrap().len(), 0, "the room is given back");
        assert!(spool.keep(&part(6)), "memory serves again");
    }

    #[test]
    fn the_file_is_a_ring() {
        let mut spool = Spool::new(1000);
        let mut expected = VecDeque::new();
        for round in 0..100_u8 {
            let part = vec![round; 300];
            // More than fits is refused whole.
            while spool.unread + 300 > 1000 {
                assert!(!spool.keep_in_file(&part, silent));
                let some = spool.take().unwrap().unwrap();
                assert!(some.iter().eq(expected.drain(..some.len()).collect::<Vec<u8>>().iter()));
            }
            assert!(spool.keep_in_file(&part, silent));
            expected.extend(part);
        }
        assert!(expected == taken(&mut spool));
        assert!(spool.file.unwrap().metadata().unwrap().len() <= 1000);
    }

    #[test]
    fn lost_events_are_told_with_their_number_and_sensor() {
        let event = "{\"event.type\":\"IP Close\",\"event.time\":5,\"event.id\":\"a-1\",\"agent.uuid\":\"s\"}\n";
        let loss = "{\"event.type\":\"Data Loss\",\"loss.stage\":\"ring\",\"loss.count\":40}\n";
        let mut lost = LostEvents::new(event.repeat(2).as_bytes());
        lost.add(loss.as_bytes());
        let report = lost.report();
        let read: Event<'_> = serde_json::from_slice(&report).unwrap();
        assert!(read.is(EventKind::DataLoss) && report.ends_with(b"\n"));
        assert_eq!((read.loss_stage, read.loss_count, read.loss_from_ms), (Some(LossStage::Queue), Some(42), Some(5)));
        assert_eq!(read.sensor_id.as_deref(), Some("s"));
    }
}

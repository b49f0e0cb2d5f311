//! The answer to `/v1/connections`: rows in parts that the engine makes one by one, so that neither a long answer nor a slow
//! client holds up the engine or fills memory.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{AppendHeaders, IntoResponse as _, Response},
};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use jiff::Timestamp;
use netconn_model::{
    filter::Filter,
    snapshot::{self, RowsMember, SnapshotHead, UNLISTED_HEADER},
    socket_kind::{SocketKind, SocketKinds},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};

use crate::{
    engine::{Cursor, EngineCommand, Handle, Rows, RowsRequest, SnapshotsFull},
    server::{JSON, NDJSON, ask, request_error::RequestError},
};

/// Parts that may wait for clients beside one part for each: 4 MB. A client that reads fast has the next part made while it reads
/// one; slow clients take these permits and then get along with one part each, so that 128 of them cost 12 MB.
static SPARE_PARTS: Semaphore = Semaphore::const_new(64);
/// Longest wait until the clients of other snapshots have read enough.
const FULL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two attempts to begin a snapshot.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// A request in its parts.
struct SnapshotQuery {
    filter: Filter,
    /// One JSON object with an array of rows, rather than a row on each line.
    is_array: bool,
    /// Also shows what the kernel measures of each socket.
    info: bool,
    /// Also shows connections that ended within this time, nanoseconds.
    closed_ns: Option<u64>,
    /// Lists all processes that have each socket open.
    holders: bool,
    /// Shows the inode of each socket.
    inodes: bool,
    /// Which kinds of sockets.
    kinds: SocketKinds,
}

impl SnapshotQuery {
    fn parse(parameters: Vec<(String, String)>) -> Result<Self, RequestError> {
        let (mut is_array, mut info, mut closed_ns, mut filter) = (true, false, None, Vec::new());
        let (mut holders, mut inodes, mut kinds) = (false, false, None::<SocketKinds>);
        let boolean = |name: &str, value: &str| {
            value.parse().map_err(|_| RequestError::bad_request(format!("{name}: '{value}' is not true or false")))
        };
        for (name, value) in parameters {
            match &*name {
                "format" => {
                    is_array = match &*value {
                        "json" => true,
                        "ndjson" => false,
                        other => {
                            return Err(RequestError::bad_request(format!("format: '{other}' is not json or ndjson")));
                        }
                    }
                }
                "info" => {
                    info = match &*value {
                        "1" | "true" => true,
                        "0" | "false" => false,
                        other => return Err(RequestError::bad_request(format!("info: '{other}' is not 1 or 0"))),
                    }
                }
                "closed" => closed_ns = Some(nanoseconds(&value)?),
                "holders" => holders = boolean(&name, &value)?,
                "inode" => inodes = boolean(&name, &value)?,
                "sockets" => {
                    let more = SocketKinds::parse(&value)
                        .map_err(|message| RequestError::bad_request(format!("sockets: {message}")))?;
                    // Several values are alternatives, as those of the filter.
                    kinds = Some(more.others().fold(kinds.unwrap_or(SocketKinds::NONE), SocketKinds::with));
                    if more.has_connections() {
                        kinds = kinds.map(|kinds| kinds.with(SocketKind::Connections));
                    }
                }
                // All other names are the filter's, which refuses those that it does not know.
                _ => filter.push((name, value)),
            }
        }
        let kinds = kinds.unwrap_or_default();
        if closed_ns.is_some() && !kinds.has_connections() {
            return Err(RequestError::bad_request(
                "closed: only connections that have ended are remembered: add connections to sockets",
            ));
        }
        Ok(Self {
            filter: Filter::parse_beside(&["format", "info", "closed", "holders", "inode", "sockets"], filter)?,
            is_array,
            info,
            closed_ns,
            holders,
            inodes,
            kinds,
        })
    }
}

/// Converts `closed`, a number of seconds that may have a fraction.
fn nanoseconds(text: &str) -> Result<u64, RequestError> {
    let duration = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let duration =
        duration.ok_or_else(|| RequestError::bad_request(format!("closed: '{text}' is not a number of seconds")))?;
    // Longer than 584 years means all.
    Ok(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// Answers a request of a user for a snapshot; `None` is root.
///
/// # Errors
///
/// When a parameter is wrong, or the engine does not make the first part.
pub(super) async fn respond(
    engine: Handle,
    parameters: Vec<(String, String)>,
    user: Option<u32>,
) -> Result<Response, RequestError> {
    let SnapshotQuery { filter, is_array, info, closed_ns, holders, inodes, kinds } = SnapshotQuery::parse(parameters)?;
    let (filter, cursor) = (Arc::new(filter), Cursor::Start);
    let request = RowsRequest { filter, is_array, info, closed_ns, user, holders, inodes, kinds, cursor };
    // Before the engine is asked: no row is older than this.
    let taken_at = Timestamp::now();
    // The first part is awaited before the status is sent: an engine that cannot answer is an error, not a short
    // answer.
    let first = first_part(&engine, &request).await?;
    let head = is_array.then(|| head(&first, taken_at));
    // For clients that ask for rows alone: they, too, must not take the list for whole.
    let unlisted =
        first.unlisted.iter().chain(&first.absent).filter_map(|sentence| HeaderValue::from_str(sentence).ok());
    let unlisted: Vec<_> = unlisted.map(|sentence| (UNLISTED_HEADER, sentence)).collect();
    let (sender, body) = Channel::new(1);
    // A task of its own: the response, with its status, goes out while the parts are still being made.
    tokio::spawn(async move { send(engine, sender, request, first, head).await });
    let media_type = if is_array { JSON } else { NDJSON };
    Ok((AppendHeaders(unlisted), [(CONTENT_TYPE, media_type)], Body::new(body)).into_response())
}

/// Returns the beginning of the JSON object, up to the array of rows.
fn head(first: &Rows, taken_at: Timestamp) -> Bytes {
    let (sensor_id, taken_at) = (Some(first.sensor_id.clone()), taken_at.to_string());
    let complete = first.unlisted.is_empty();
    let sentences: Vec<String> = first.unlisted.iter().chain(&first.absent).cloned().collect();
    let unlisted = (!sentences.is_empty()).then_some(sentences);
    let head = SnapshotHead { sensor_id, taken_at, complete, unlisted };
    snapshot::head(&head, RowsMember::Connections)
}

/// Returns the first part of a snapshot. Waits for a while if other snapshots keep so much that there is no memory for it.
async fn first_part(engine: &Handle, request: &RowsRequest) -> Result<Rows, RequestError> {
    let deadline = Instant::now() + FULL_TIMEOUT;
    loop {
        match part(engine, request.clone()).await? {
            Ok(first) => return Ok(first),
            Err(full) if Instant::now() >= deadline => return Err(full.into()),
            Err(_) => sleep(FULL_RETRY).await,
        }
    }
}

/// Requests a part of the snapshot.
async fn part(engine: &Handle, request: RowsRequest) -> Result<Result<Rows, SnapshotsFull>, RequestError> {
    ask(engine, |reply| EngineCommand::Rows(request, reply)).await
}

/// A permit to have a part in memory.
#[derive(Debug)]
enum PartPermit {
    /// The one that each answer has.
    Own { _permit: OwnedSemaphorePermit },
    /// One of [`SPARE_PARTS`].
    Spare { _permit: SemaphorePermit<'static> },
}

impl PartPermit {
    /// Waits for a permit, which is free again when the client has read the part that has it.
    async fn free(own: &Arc<Semaphore>) -> Option<Self> {
        if let Ok(permit) = SPARE_PARTS.try_acquire() {
            return Some(Self::Spare { _permit: permit });
        }
        // Never closed, so that this does not fail.
        let permit = Arc::clone(own).acquire_owned().await.ok()?;
        Some(Self::Own { _permit: permit })
    }

    /// Keeps the permit for as long as the part is in memory.
    fn hold(self, lines: Bytes) -> Bytes {
        struct Held {
            lines: Bytes,
            _permit: PartPermit,
        }
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.lines
            }
        }
        // Hyper drops the bytes when it has written the last of them.
        Bytes::from_owner(Held { lines, _permit: self })
    }
}

/// Sends one part after another. While the client reads a part, the engine makes the next, if there is a permit for it. Returns
/// `None` when the client has gone or the engine has ended.
async fn send(
    engine: Handle,
    mut sender: Sender<Bytes, io::Error>,
    mut request: RowsRequest,
    first: Rows,
    head: Option<Bytes>,
) -> Option<()> {
    let is_array = head.is_some();
    // The engine writes each row of an array as a later one; the first has no comma before it.
    let mut surplus = if is_array { snapshot::before_row(false).len() - snapshot::before_row(true).len() } else { 0 };
    if let Some(head) = head {
        sender.send_data(head).await.ok()?;
    }
    let own = Arc::new(Semaphore::new(1));
    let mut current = first;
    // The first part is there before any permit is: without it the answer could not begin.
    let mut permit = PartPermit::free(&own).await?;
    loop {
        // The filter may have left no row of this part; then its permit is the next one's.
        if !current.lines.is_empty() {
            // Taken with the first rows that there are, which need not be in the first part.
            let lines = current.lines.slice(std::mem::take(&mut surplus).min(current.lines.len())..);
            sender.send_data(permit.hold(lines)).await.ok()?;
            permit = PartPermit::free(&own).await?;
        }
        let Some(cursor) = current.next else { break };
        request.cursor = cursor;
        let Ok(Ok(next)) = part(&engine, request.clone()).await else {
            // HTTP has no status for that any more: the client sees that the answer is cut off.
            sender.abort(io::Error::other("the daemon ended"));
            return None;
        };
        current = next;
    }
    // Only behind the last part: a JSON object without its end shows that the answer is cut off.
    if is_array {
        sender.send_data(Bytes::from_static(snapshot::TAIL)).await.ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SnapshotQuery, RequestError> {
        let parameters = text.split('&').filter_map(|parameter| parameter.split_once('='));
        SnapshotQuery::parse(parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn what_is_no_filter_is_taken_out() {
        let query = parse("protocol=tcp&closed=1.5&holders=true&format=ndjson").unwrap();
        assert_eq!((query.is_array, query.closed_ns, query.holders), (false, Some(1_500_000_000), true));
        assert!(!query.filter.is_everything());
        let kinds = |text: &str| parse(text).unwrap().kinds.in_words();
        assert_eq!((kinds(""), kinds("sockets=unix")), ("connections".into(), "unix".into()));
        assert_eq!(kinds("sockets=unix&sockets=connections,raw"), "connections,raw,unix");
        assert!(parse("sockets=unix&closed=1").is_err(), "nothing that has ended is remembered");
        let query = parse("").unwrap();
        assert_eq!((query.is_array, query.closed_ns, query.filter.is_everything()), (true, None, true));
        for wrong in ["format=xml", "closed=soon", "closed=-1", "holders=1", "nonsense=1", "sockets=tcp", "inode=1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

//! What can be asked of the socket.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use jiff::Timestamp;
use netconn_model::{
    filter::{Filter, FilterError},
    health::Health,
};
use serde_json::json;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::{mpsc, oneshot};

use crate::{
    engine::{Command, Cursor, Handle, RowsRequest},
    server::{answer, metrics},
};

/// Parts of an answer that wait for the client.
const PARTS_WAITING: usize = 4;
/// Batches of events that wait for a client before the engine keeps them: about a megabyte for each client at most.
const BATCHES_WAITING: usize = 4;
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;
type Answer = Result<Response, Failure>;

/// All paths.
pub(super) fn router(engine: Handle) -> Router {
    Router::new()
        .route("/v1/connections", get(connections))
        .route("/v1/raw", get(raw))
        .route("/v1/events", get(events))
        .route("/v1/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(engine)
}

/// A request that cannot be answered: status, code and a sentence that says what to do.
struct Failure(StatusCode, &'static str, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, code, message) = self;
        let body = json!({"error": {"code": code, "message": message}}).to_string() + "\n";
        (status, [(CONTENT_TYPE, JSON)], body).into_response()
    }
}

impl From<FilterError> for Failure {
    fn from(error: FilterError) -> Self {
        bad_request(error.to_string())
    }
}

fn bad_request(message: String) -> Failure {
    Failure(StatusCode::BAD_REQUEST, "bad_request", message)
}

fn failed() -> Failure {
    Failure(
        StatusCode::SERVICE_UNAVAILABLE,
        "command_failed",
        "the daemon is too busy or about to end; try again".into(),
    )
}

fn late() -> Failure {
    Failure(StatusCode::GATEWAY_TIMEOUT, "timeout", "the daemon did not answer in time; try again".into())
}

async fn unknown(uri: Uri) -> Failure {
    let path = uri.path();
    let message =
        format!("no such path: {path}; there are /v1/connections, /v1/raw, /v1/events, /v1/health and /metrics");
    Failure(StatusCode::NOT_FOUND, "bad_request", message)
}

async fn wrong_method() -> Failure {
    Failure(StatusCode::METHOD_NOT_ALLOWED, "bad_request", "this socket can only be read: use GET".into())
}

/// `GET /v1/connections`: the snapshot. `format=ndjson` gives one row on each line, without what stands around them.
async fn connections(State(engine): State<Handle>, parameters: Parameters) -> Answer {
    let (mut format, mut closed_ns, mut rest) = (None, None, Vec::new());
    for (name, value) in parameters.map_err(|error| bad_request(error.body_text()))?.0 {
        match &*name {
            "format" => format = Some(value),
            "closed" => closed_ns = Some(nanoseconds(&value)?),
            _ => rest.push((name, value)),
        }
    }
    let array = match format.as_deref() {
        None | Some("json") => true,
        Some("ndjson") => false,
        Some(other) => return Err(bad_request(format!("format: '{other}' is not json or ndjson"))),
    };
    let filter = Arc::new(Filter::parse(rest)?);
    let first = RowsRequest { filter, is_array: array, closed_ns, cursor: Cursor::Start };
    let taken_at = Timestamp::now().to_string();
    let (sender, body) = Channel::new(PARTS_WAITING);
    // The first part is waited for, so that a daemon that cannot answer does not begin to.
    let part = rows(&engine, first.clone()).await?;
    let before = array.then(|| {
        let (id, taken_at, complete) = (json!(part.sensor_id), json!(taken_at), part.complete);
        let members = format!("\"sensor_id\":{id},\"taken_at\":{taken_at},\"complete\":{complete}");
        Bytes::from(format!("{{{members},\"connections\":[\n"))
    });
    tokio::spawn(async move { send_rows(engine, sender, first, part, before).await });
    Ok(([(CONTENT_TYPE, if array { JSON } else { NDJSON })], Body::new(body)).into_response())
}

/// Reads `closed`: seconds, also parts of them.
fn nanoseconds(text: &str) -> Result<u64, Failure> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let wrong = || bad_request(format!("closed: '{text}' is not a number of seconds"));
    Ok(u64::try_from(seconds.ok_or_else(wrong)?.as_nanos()).unwrap_or(u64::MAX))
}

/// Asks for a part of a snapshot at once, and gives what it can be waited for by.
fn rows(engine: &Handle, request: RowsRequest) -> impl Future<Output = Result<crate::engine::Rows, Failure>> + use<> {
    ask(engine, |reply| Command::Rows(request, reply))
}

fn ask<T, C: FnOnce(oneshot::Sender<T>) -> Command>(
    engine: &Handle,
    command: C,
) -> impl Future<Output = Result<T, Failure>> + use<T, C> {
    let (reply, receiver) = oneshot::channel();
    let sent = engine.send(command(reply));
    async move {
        sent.map_err(|_| failed())?;
        answer(receiver).await.ok_or_else(late)
    }
}

/// Sends part after part. The next one is made while one is sent, and no more than that: a slow client costs little
/// memory.
async fn send_rows(
    engine: Handle,
    mut sender: Sender<Bytes, io::Error>,
    mut request: RowsRequest,
    mut part: crate::engine::Rows,
    before: Option<Bytes>,
) -> Option<()> {
    let array = before.is_some();
    // In an array every row comes after a comma and a line feed: not the first.
    let mut surplus = if array { 2 } else { 0 };
    if let Some(before) = before {
        sender.send_data(before).await.ok()?;
    }
    loop {
        let next = part.next.map(|cursor| {
            request.cursor = cursor;
            rows(&engine, request.clone())
        });
        if !part.lines.is_empty() {
            let lines = part.lines.slice(std::mem::take(&mut surplus).min(part.lines.len())..);
            sender.send_data(lines).await.ok()?;
        }
        let Some(next) = next else { break };
        let Ok(next) = next.await else {
            // The client sees an answer that ends too early.
            sender.abort(io::Error::other("the daemon ended"));
            return None;
        };
        part = next;
    }
    if array {
        sender.send_data(Bytes::from_static(b"]}\n")).await.ok()?;
    }
    Some(())
}

/// `GET /v1/raw`: the sockets that no hook sees.
async fn raw(State(engine): State<Handle>, parameters: Parameters) -> Answer {
    if let Some((name, _)) = parameters.map_err(|error| bad_request(error.body_text()))?.0.first() {
        return Err(bad_request(format!("{name}: /v1/raw has no parameters")));
    }
    let text = ask(&engine, Command::PacketSockets).await?;
    Ok(([(CONTENT_TYPE, JSON)], text).into_response())
}

/// `GET /v1/events`: events as they happen, until the client goes.
async fn events(State(engine): State<Handle>, parameters: Parameters) -> Answer {
    let filter = Filter::parse(parameters.map_err(|error| bad_request(error.body_text()))?.0)?;
    let (queue, mut batches) = mpsc::channel(BATCHES_WAITING);
    engine.send(Command::Stream(Arc::new(filter), queue)).map_err(|_| failed())?;
    let (mut sender, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        while let Some(batch) = batches.recv().await {
            if sender.send_data(batch).await.is_err() {
                return;
            }
        }
    });
    Ok(([(CONTENT_TYPE, NDJSON)], Body::new(body)).into_response())
}

/// `GET /v1/health`: how the daemon is.
async fn health(State(engine): State<Handle>) -> Answer {
    let text = serde_json::to_string(&condition(&engine).await?).map_err(|_| failed())? + "\n";
    Ok(([(CONTENT_TYPE, JSON)], text).into_response())
}

/// `GET /metrics`: the same for Prometheus.
async fn metrics(State(engine): State<Handle>) -> Answer {
    let text = metrics::text(&condition(&engine).await?);
    Ok(([(CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response())
}

async fn condition(engine: &Handle) -> Result<Health, Failure> {
    let mut health = ask(engine, Command::Health).await?;
    health.resident_bytes = resident_bytes();
    Ok(health)
}

/// Memory of this process.
fn resident_bytes() -> Option<u64> {
    let pid = Pid::from_u32(std::process::id());
    let mut system = System::new().ok()?;
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[pid]),
        false,
        ProcessRefreshKind::nothing().with_memory().without_tasks(),
    );
    system.process(pid).map(sysinfo::Process::memory)
}

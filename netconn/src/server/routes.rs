//! The paths of the socket and what each of them answers, except for the rows of `/v1/connections`: see [`snapshot`].

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http_body_util::channel::Channel;
use netconn_model::{filter::Filter, health::Health};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::mpsc;

use crate::{
    engine::{EngineCommand, Handle},
    server::{JSON, NDJSON, ask, metrics, request_error::RequestError, snapshot},
};

const CONNECTIONS: &str = "/v1/connections";
const PACKET_SOCKETS: &str = "/v1/packet-sockets";
const EVENTS: &str = "/v1/events";
const HEALTH: &str = "/v1/health";
const METRICS: &str = "/metrics";

/// Batches of events that wait for a client before the engine keeps them: at most about a megabyte for each client.
const QUEUED_BATCHES: usize = 4;

/// The parameters of a request, in their order; a name may be given more than once.
type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;
type HandlerResult = Result<Response, RequestError>;

/// Returns the router of all paths.
pub(super) fn router(engine: Handle) -> Router {
    Router::new()
        .route(CONNECTIONS, get(connections))
        .route(PACKET_SOCKETS, get(packet_sockets))
        .route(EVENTS, get(events))
        .route(HEALTH, get(health))
        .route(METRICS, get(prometheus))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(engine)
}

async fn no_such_path(uri: Uri) -> RequestError {
    RequestError::no_such_path(uri.path(), &[CONNECTIONS, PACKET_SOCKETS, EVENTS, HEALTH, METRICS])
}

async fn wrong_method() -> RequestError {
    RequestError::wrong_method()
}

/// `GET /v1/connections`: a snapshot.
async fn connections(State(engine): State<Handle>, parameters: Parameters) -> HandlerResult {
    let Query(parameters) = parameters?;
    snapshot::respond(engine, parameters).await
}

/// `GET /v1/packet-sockets`: sockets of `AF_PACKET` and `AF_XDP`, with the processes that have them open.
async fn packet_sockets(State(engine): State<Handle>, parameters: Parameters) -> HandlerResult {
    let Query(parameters) = parameters?;
    // Refused rather than ignored: a filter without effect would look like one that matches everything.
    if let Some((name, _)) = parameters.first() {
        return Err(RequestError::bad_request(format!("{name}: {PACKET_SOCKETS} has no parameters")));
    }
    let json = ask(&engine, EngineCommand::PacketSockets).await?;
    Ok(([(CONTENT_TYPE, JSON)], json).into_response())
}

/// `GET /v1/events`: events as they happen, until the client closes the connection.
async fn events(State(engine): State<Handle>, parameters: Parameters) -> HandlerResult {
    let Query(parameters) = parameters?;
    let filter = Filter::parse(parameters)?;
    let (queue, mut batches) = mpsc::channel(QUEUED_BATCHES);
    // Sent before the answer begins: a client that has its status misses at most what happens until the engine takes
    // the command.
    engine.send(EngineCommand::Stream(Arc::new(filter), queue)).map_err(|_| RequestError::command_failed())?;
    // One batch here and four in the queue before it: what waits for a client is bounded by both.
    let (mut sender, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        while let Some(batch) = batches.recv().await {
            if sender.send_data(batch).await.is_err() {
                // The client has gone. The engine notices when it sends the next batch.
                return;
            }
        }
    });
    Ok(([(CONTENT_TYPE, NDJSON)], Body::new(body)).into_response())
}

/// `GET /v1/health`: the state of the daemon as JSON.
async fn health(State(engine): State<Handle>) -> HandlerResult {
    let json = serde_json::to_string(&health_of(&engine).await?).map_err(|_| RequestError::command_failed())?;
    Ok(([(CONTENT_TYPE, JSON)], json + "\n").into_response())
}

/// `GET /metrics`: the same for Prometheus.
async fn prometheus(State(engine): State<Handle>) -> HandlerResult {
    let text = metrics::text(&health_of(&engine).await?);
    Ok(([(CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response())
}

async fn health_of(engine: &Handle) -> Result<Health, RequestError> {
    let mut health = ask(engine, EngineCommand::Health).await?;
    // Read here, because reading /proc would hold up the engine.
    health.resident_bytes = resident_bytes();
    Ok(health)
}

/// Returns the resident memory of this process, shared pages included.
fn resident_bytes() -> Option<u64> {
    let pid = Pid::from_u32(std::process::id());
    let mut system = System::new().ok()?;
    // This process only, without its threads: a walk through /proc would take longer than the rest of the answer.
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[pid]),
        false,
        ProcessRefreshKind::nothing().with_memory().without_tasks(),
    );
    system.process(pid).map(sysinfo::Process::memory)
}

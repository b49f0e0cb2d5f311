//! The paths of the socket and what each of them answers, except for the rows of `/v1/connections`: see [`snapshot`].

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame};
use netconn_model::{filter::Filter, health::Health};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::mpsc;

use crate::{
    engine::{EngineCommand, Handle, StreamRequest},
    server::{
        JSON, NDJSON, ask, metrics,
        places::{Peer, Place},
        request_error::RequestError,
        snapshot,
    },
    state_dir::Unsaved,
};

const CONNECTIONS: &str = "/v1/connections";
const PACKET_SOCKETS: &str = "/v1/packet-sockets";
const EVENTS: &str = "/v1/events";
const HEALTH: &str = "/v1/health";
const METRICS: &str = "/metrics";
/// All of them, for errors.
const PATHS: &[&str] = &[CONNECTIONS, PACKET_SOCKETS, EVENTS, HEALTH, METRICS];

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
    RequestError::no_such_path(uri.path(), PATHS)
}

async fn wrong_method() -> RequestError {
    RequestError::wrong_method(PATHS)
}

/// Refuses parameters where there are none: a filter without effect would look like one that matches everything.
fn without_parameters(path: &str, parameters: Parameters) -> Result<(), RequestError> {
    let Query(parameters) = parameters?;
    match parameters.first() {
        Some((name, _)) => Err(RequestError::bad_request(format!("{name}: {path} has no parameters"))),
        None => Ok(()),
    }
}

/// `GET /v1/connections`: a snapshot.
async fn connections(
    State(engine): State<Handle>,
    Extension(peer): Extension<Peer>,
    parameters: Parameters,
) -> HandlerResult {
    let Query(parameters) = parameters?;
    let place = peer.list().await?;
    let response = snapshot::respond(engine, parameters, peer.user()).await?;
    Ok(response.map(|body| {
        // The place is that of the whole answer, and free when hyper drops the last of it.
        Body::new(body.map_frame(move |frame| {
            let _held = &place;
            frame
        }))
    }))
}

/// `GET /v1/packet-sockets`: sockets of `AF_PACKET` and `AF_XDP`, with the processes that have them open.
async fn packet_sockets(
    State(engine): State<Handle>,
    Extension(peer): Extension<Peer>,
    parameters: Parameters,
) -> HandlerResult {
    without_parameters(PACKET_SOCKETS, parameters)?;
    let _place = peer.list().await?;
    let json = ask(&engine, EngineCommand::PacketSockets).await?;
    Ok(([(CONTENT_TYPE, JSON)], json).into_response())
}

/// `GET /v1/events`: events as they happen, until the client closes the connection.
async fn events(
    State(engine): State<Handle>,
    Extension(peer): Extension<Peer>,
    parameters: Parameters,
) -> HandlerResult {
    let Query(parameters) = parameters?;
    let filter = Filter::parse(parameters)?;
    let place = peer.stream()?;
    let (queue, batches) = mpsc::channel(QUEUED_BATCHES);
    // Sent before the answer begins: a client that has its status misses at most what happens until the engine takes
    // the command.
    let request = StreamRequest { filter: Arc::new(filter), queue, is_root: peer.user().is_none() };
    engine.send(EngineCommand::Stream(request)).map_err(|_| RequestError::command_failed())?;
    let body = EventBody { batches, hung_up: Some(Box::pin(peer.hung_up())), _place: place };
    Ok(([(CONTENT_TYPE, NDJSON)], Body::new(body)).into_response())
}

/// The body of a stream of events. Hyper drops it when the connection ends; that closes the queue, from which the engine sees
/// that the client has gone, and gives the place back.
struct EventBody {
    batches: mpsc::Receiver<Bytes>,
    /// Ready when the client has closed the connection; `None` after that.
    hung_up: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _place: Place,
}

impl HttpBody for EventBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        // In each poll, so that the end of the client wakes this task when there is nothing to send.
        if self.hung_up.as_mut().is_none_or(|hung_up| hung_up.as_mut().poll(context).is_ready()) {
            self.hung_up = None;
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
        }
        // No more batches come when the daemon ends.
        self.batches.poll_recv(context).map(|batch| batch.map(|batch| Ok(Frame::data(batch))))
    }
}

/// `GET /v1/health`: the state of the daemon as JSON.
async fn health(
    State(engine): State<Handle>,
    Extension(peer): Extension<Peer>,
    Extension(unsaved): Extension<Unsaved>,
    parameters: Parameters,
) -> HandlerResult {
    without_parameters(HEALTH, parameters)?;
    let health = health_of(&engine, &peer, &unsaved).await?;
    let json = serde_json::to_string(&health).map_err(|_| RequestError::command_failed())?;
    Ok(([(CONTENT_TYPE, JSON)], json + "\n").into_response())
}

/// `GET /metrics`: the same for Prometheus.
async fn prometheus(
    State(engine): State<Handle>,
    Extension(peer): Extension<Peer>,
    Extension(unsaved): Extension<Unsaved>,
    parameters: Parameters,
) -> HandlerResult {
    without_parameters(METRICS, parameters)?;
    let text = metrics::text(&health_of(&engine, &peer, &unsaved).await?);
    Ok(([(CONTENT_TYPE, metrics::MEDIA_TYPE)], text).into_response())
}

async fn health_of(engine: &Handle, peer: &Peer, unsaved: &Unsaved) -> Result<Health, RequestError> {
    let mut health = ask(engine, EngineCommand::Health).await?;
    health.state_unsaved = unsaved.reason();
    health.requests = peer.places.requests();
    health.refused = peer.places.refused();
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

//! The daemon's local socket: HTTP/1.1 over a Unix socket, for reading only.
//!
//! No client can hold up the daemon: the number of clients is limited, for each user too; a request has to arrive in time, a
//! client that stops to read its answer is left, and the parts of answers that are in memory are bounded, each and together.

mod bind;
mod patient;
mod places;
mod request_error;
mod metrics;
mod snapshot;
mod routes;

use std::{convert::Infallible, future::ready, io, sync::Arc, time::Duration};

use axum::{Extension, Router, http::header::CONNECTION};
pub use bind::{BindError, Socket};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    engine::{EngineCommand, Handle},
    os,
    server::{
        patient::PatientStream,
        places::{AllPlaces, OPEN_FILES, Peer},
        request_error::RequestError,
    },
    state_dir::Unsaved,
};

/// Clients without a place that are told so at the same time; further ones are hung up without a word.
const REFUSALS_MAX: usize = 64;
/// Longest time in which a client without a place can hear of it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time that a client may take to send a request, or be silent between two.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that a client may read nothing of its answer. How slow it is otherwise does not matter: a reader in a terminal
/// is paused by its user, and a daemon that waits for it has bounded what that costs.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Longest time that the engine may take to reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed `accept`: most often the process has no free descriptor, and has one when a client goes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest time in which clients can read the ends of their streams before the daemon ends, and the pause between two looks.
const LAST_PARTS: Duration = Duration::from_millis(300);
const LAST_POLL: Duration = Duration::from_millis(1);
/// Longest head of a request, in bytes: the longest URI that the `http` crate reads, and headers. Longer ones are refused.
const HEAD_BYTES: usize = 80 << 10;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// The clients of the socket.
pub struct Clients(Arc<AllPlaces>);

impl Default for Clients {
    fn default() -> Self {
        Self(Arc::new(AllPlaces::new()))
    }
}

impl Clients {
    /// Waits until all streams of events have ended, after the engine has closed them: otherwise the end of the daemon would look to
    /// their readers as if it had been killed. Who does not read is not waited for.
    pub async fn leave(&self) {
        let _ = timeout(LAST_PARTS, async {
            while self.0.streams() != 0 {
                sleep(LAST_POLL).await;
            }
            // The place is given back before the last bytes are written.
            sleep(LAST_POLL).await;
        })
        .await;
    }
}

/// Serves the socket for as long as the future is polled. A client is left that reads nothing of its answer for `patience`. Health
/// says why the state is `unsaved`.
pub async fn serve(
    socket: &Socket,
    engine: Handle,
    patience: Duration,
    (clients, unsaved): (&Clients, Unsaved),
) -> Infallible {
    os::raise_file_limit(OPEN_FILES);
    let router = routes::router(engine).layer(Extension(unsaved));
    let places = &clients.0;
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    loop {
        // Everybody is accepted: whose place it would be is known only then, and who waits in the backlog holds up those behind.
        let admitted = async {
            let (stream, _) = socket.listener().accept().await?;
            let admitted = Peer::admit(&stream, places)?;
            Ok::<_, io::Error>((PatientStream::new(stream, patience), admitted))
        };
        match admitted.await {
            Ok((stream, Ok((peer, place)))) => {
                let router = router.clone().layer(Extension(peer));
                tokio::spawn(async move {
                    // The place is held until the client has gone, so that idle clients count as well.
                    serve_client(stream, router).await;
                    drop(place);
                });
            }
            Ok((stream, Err(no_place))) => {
                let Ok(turn) = Arc::clone(&refusals).try_acquire_owned() else { continue };
                // Its request is read first: many clients take an answer that comes before it for a broken connection.
                let refusal = RequestError::from(no_place);
                let router = Router::new().fallback(move || ready(([(CONNECTION, "close")], refusal.clone())));
                tokio::spawn(async move {
                    let _ = timeout(REFUSAL_TIMEOUT, serve_client(stream, router)).await;
                    drop(turn);
                });
            }
            Err(error) => {
                warn!("cannot accept a client: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_client(stream: PatientStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        // Not worth a warning: a client that goes in the middle of an answer looks the same.
        debug!("the connection to a client broke: {error}");
    }
}

/// Sends a command to the engine at once; the returned future waits for the reply.
fn ask<T, C: FnOnce(oneshot::Sender<T>) -> EngineCommand>(
    engine: &Handle,
    command: C,
) -> impl Future<Output = Result<T, RequestError>> + use<T, C> {
    let (reply, receiver) = oneshot::channel();
    let sent = engine.send(command(reply));
    async move {
        // `send` fails when too many commands wait, or when the engine has ended.
        sent.map_err(|_| RequestError::command_failed())?;
        // An engine that drops the reply has ended, which to the client is the same as one that is silent.
        timeout(REPLY_TIMEOUT, receiver).await.ok().and_then(Result::ok).ok_or_else(RequestError::timeout)
    }
}

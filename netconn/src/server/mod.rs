//! The daemon's local socket: HTTP/1.1 over a Unix socket, reading only.
//!
//! Clients cannot hold anything up: the number of connections is limited, a request has to arrive in time, an answer
//! has to be taken in time, and nothing is built in memory beyond one part of an answer.

mod bind;
mod metrics;
mod routes;

use std::{future::Future, io, sync::Arc, time::Duration};

pub use bind::{BindError, Socket};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::UnixStream, sync::Semaphore, time::timeout};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, warn};

use crate::engine::Handle;

/// Connections at one time; more wait to be accepted.
const CLIENTS_MAX: usize = 128;
/// How long a client may take for its request, and stay silent between two.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a client may take nothing of its answer.
const STALL: Duration = Duration::from_secs(30);
/// Pause after the system gave no descriptor for a connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// What HTTP buffers of a request: longer ones are refused.
const HEAD_BYTES: usize = 16 << 10;

/// Serves the socket until `end` comes.
pub async fn serve(socket: &Socket, engine: Handle, end: impl Future<Output = ()>) {
    let router = routes::router(engine);
    let clients = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = tokio::select! {
            () = &mut end => return,
            accepted = accept(socket, &clients) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("cannot accept a client: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            client(stream, router).await;
            drop(permit);
        });
    }
}

async fn accept(
    socket: &Socket,
    clients: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(clients).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = socket.listener().accept().await?;
    Ok((stream, permit))
}

async fn client(stream: UnixStream, router: axum::Router) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        debug!("a client went wrong: {error}");
    }
}

/// How long an answer of the engine may take.
const ANSWER: Duration = Duration::from_secs(30);

/// Waits for an answer of the engine.
async fn answer<T>(reply: tokio::sync::oneshot::Receiver<T>) -> Option<T> {
    timeout(ANSWER, reply).await.ok()?.ok()
}

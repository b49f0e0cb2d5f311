//! The client of the daemon's socket: requests over HTTP, typed answers, errors that say what to do.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, body::Incoming, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use nix::unistd::{Gid, Group, User, geteuid};
use serde::Deserialize;
use thiserror::Error;
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use crate::{health::Health, lines, snapshot::UNLISTED_HEADER};

/// Longest time until the daemon begins its answer.
pub const ANSWER: Duration = Duration::from_secs(30);
/// Pause before a socket is tried again that has no room for one more client.
const CONNECT_RETRY: Duration = Duration::from_millis(50);
/// Longest error message that is read.
const ERROR_BYTES: usize = 64 << 10;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No daemon listens at the socket.
    #[error(
        "sensor_offline: no netconn daemon listens at {}; start it with `netconn run` (as root) or name its --socket",
        path.display()
    )]
    Offline {
        /// The socket.
        path: PathBuf,
    },
    /// This user may not use the socket.
    #[error("permission_denied: {} may be used by {advice}", path.display())]
    PermissionDenied {
        /// The socket.
        path: PathBuf,
        /// Who may use it, and what to do.
        advice: String,
    },
    /// The daemon did not answer in time.
    #[error("timeout: the daemon at {} did not answer within {} s", path.display(), ANSWER.as_secs())]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon has so many clients that it did not accept this one in time.
    #[error(
        "timeout: the daemon at {} has too many clients and accepted no other within {} s: end some of them, such as \
         `netconn watch`",
        path.display(),
        waited.as_secs()
    )]
    Crowded {
        /// The socket.
        path: PathBuf,
        /// How long this client has tried.
        waited: Duration,
    },
    /// The daemon refused the request.
    #[error("{code}: {message}")]
    Refused {
        /// `bad_request`, `not_found`, `method_not_allowed`, `timeout` or `command_failed`.
        code: String,
        /// What to do.
        message: String,
    },
    /// The connection broke.
    #[error("the connection to the daemon at {} broke: {error}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: String,
    message: String,
}

/// A response whose body arrives in parts.
#[derive(Debug)]
pub struct Response {
    body: Incoming,
    /// What a list lacks, in sentences.
    unlisted: Vec<String>,
    path: PathBuf,
}

/// Parameters of a request, each a name and a value: `[("port", "443")]`.
pub type Parameters = [(String, String)];

/// Form in which rows are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// One object, see [`crate::snapshot`].
    Json,
    /// The rows alone, one on each line.
    Ndjson,
}

/// A client of the daemon that listens at a socket. Every request has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Returns a client of the daemon at this socket; nothing is asked yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Returns the path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for a path, `/v1/connections`. Its body arrives in parts.
    ///
    /// # Errors
    ///
    /// When there is no daemon, it may not be asked, or it refuses.
    pub async fn get(&self, path: &str, parameters: &Parameters) -> Result<Response, ClientError> {
        let socket = &*self.socket;
        // Outside the timeout, because it has its own.
        let stream = connect(socket, ANSWER).await?;
        let asked = timeout(ANSWER, ask(stream, socket, path, parameters)).await;
        asked.unwrap_or_else(|_| Err(ClientError::Timeout { path: socket.to_owned() }))
    }

    /// Asks for a snapshot. The parameters are those of [`Filter`](crate::filter::Filter), and `closed`.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get).
    pub async fn connections(&self, parameters: &Parameters, format: RowFormat) -> Result<Response, ClientError> {
        let name = match format {
            RowFormat::Json => "json",
            RowFormat::Ndjson => "ndjson",
        };
        // Last, so that no parameter of the caller can change the format.
        self.get("/v1/connections", &[parameters, &[("format".to_owned(), name.to_owned())]].concat()).await
    }

    /// Asks for the packet sockets and reads the whole answer, which [`crate::snapshot`] takes apart.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get), and when the connection breaks.
    pub async fn packet_sockets(&self) -> Result<Vec<u8>, ClientError> {
        self.get("/v1/packet-sockets", &[]).await?.text(usize::MAX).await
    }

    /// Asks for events as they happen. The parameters are those of [`Filter`](crate::filter::Filter).
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get).
    pub async fn events(&self, parameters: &Parameters) -> Result<Response, ClientError> {
        self.get("/v1/events", parameters).await
    }

    /// Asks for the daemon's health.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get), and when the answer cannot be read.
    pub async fn health(&self) -> Result<Health, ClientError> {
        let text = self.get("/v1/health", &[]).await?.text(usize::MAX).await?;
        serde_json::from_slice(&text).map_err(|error| ClientError::Refused {
            code: "command_failed".into(),
            message: format!("the daemon's health cannot be read ({error}): it is of another version, restart it"),
        })
    }
}

/// Connects to a socket. If more clients wait than the kernel keeps, it waits until the daemon accepts some.
async fn connect(socket: &Path, longest: Duration) -> Result<UnixStream, ClientError> {
    let deadline = Instant::now() + longest;
    loop {
        match UnixStream::connect(socket).await {
            // `unix_stream_connect` in `net/unix/af_unix.c` says so of a full backlog, instead of waiting as for TCP.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= deadline {
                    return Err(ClientError::Crowded { path: socket.to_owned(), waited: longest });
                }
                sleep(CONNECT_RETRY).await;
            }
            connected => return connected.map_err(|error| unreachable(socket, error)),
        }
    }
}

async fn ask(
    stream: UnixStream,
    socket: &Path,
    path: &str,
    parameters: &[(String, String)],
) -> Result<Response, ClientError> {
    let broken = |error: hyper::Error| broken(socket, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // The connection has to be polled while the body is read; it ends when the body is dropped.
    tokio::spawn(connection);
    let uri = if parameters.is_empty() { path.to_owned() } else { format!("{path}?{}", query(parameters)) };
    // HTTP/1.1 wants a host; over a Unix socket its name means nothing.
    let request = Request::get(uri).header(HOST, "netconn").body(Empty::<Bytes>::new());
    let request =
        request.map_err(|error| ClientError::Refused { code: "bad_request".into(), message: error.to_string() })?;
    let answered = sender.send_request(request).await.map_err(broken)?;
    let status = answered.status();
    let unlisted = answered.headers().get_all(UNLISTED_HEADER).iter();
    let unlisted = unlisted.filter_map(|sentence| Some(sentence.to_str().ok()?.to_owned())).collect();
    let mut response = Response { body: answered.into_body(), unlisted, path: socket.to_owned() };
    if status == StatusCode::OK {
        return Ok(response);
    }
    // Bounded: something else than netconn may listen there.
    let text = response.text(ERROR_BYTES).await?;
    let refused = serde_json::from_slice(&text).map(|ErrorBody { error }| (error.code, error.message));
    // The same for an answer that is not netconn's.
    let (code, message) =
        refused.unwrap_or_else(|_| ("command_failed".into(), format!("the daemon answered {status}")));
    Err(ClientError::Refused { code, message })
}

impl Response {
    /// Returns what a list lacks although the kernel has it, in sentences.
    pub fn unlisted(&self) -> &[String] {
        &self.unlisted
    }

    /// Returns the next part of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn part(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // Frames without data are trailers, which netconn does not send.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(broken(&self.path, error)),
            }
        }
    }

    /// Reads the body to its end, or until it is longer than `most` bytes.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn text(&mut self, most: usize) -> Result<Vec<u8>, ClientError> {
        let mut text = Vec::new();
        while let Some(part) = self.part().await? {
            text.extend_from_slice(&part);
            if text.len() > most {
                break;
            }
        }
        Ok(text)
    }

    /// Calls `line` for each line of the body as it arrives, without its line feed. Reading ends when `line` returns `false`.
    ///
    /// # Errors
    ///
    /// When the connection breaks or `line` fails.
    pub async fn lines<E: From<ClientError>>(mut self, line: impl FnMut(&[u8]) -> Result<bool, E>) -> Result<(), E> {
        each_line(async || self.part().await, line).await
    }
}

/// Calls `line` for each line of the bytes that `part` returns, until that returns `None` or `line` returns `false`.
pub(crate) async fn each_line<P: AsRef<[u8]>, E: From<ClientError>>(
    mut part: impl AsyncFnMut() -> Result<Option<P>, ClientError>,
    mut line: impl FnMut(&[u8]) -> Result<bool, E>,
) -> Result<(), E> {
    let mut rest = Vec::new();
    while let Some(part) = part().await? {
        if !lines::each(&mut rest, part.as_ref(), &mut line)? {
            break;
        }
    }
    // A line without its end is no line: an answer that was cut off is an error of `part` before.
    Ok(())
}

fn unreachable(socket: &Path, error: io::Error) -> ClientError {
    let path = socket.to_owned();
    match error.kind() {
        // A refused connection is the socket of a daemon that was killed.
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::Offline { path },
        io::ErrorKind::PermissionDenied => {
            let advice = who_may_use(&path);
            ClientError::PermissionDenied { path, advice }
        }
        _ => ClientError::Broken { path, error },
    }
}

/// Returns who may use a socket and how this user can, to follow "may be used by ".
fn who_may_use(socket: &Path) -> String {
    let user = User::from_uid(geteuid()).ok().flatten().map_or_else(|| "USER".into(), |user| user.name);
    let Ok(gid) = fs::metadata(socket).map(|metadata| Gid::from_raw(metadata.gid())) else {
        return "root and by the daemon's group: use sudo or join the group".into();
    };
    let group = Group::from_gid(gid).ok().flatten().filter(|_| gid.as_raw() != 0);
    let Some(Group { name, mem, .. }) = group else {
        return format!(
            "root only: use sudo; or make the group `netconn`, or the one of the configuration (`sudo groupadd -r netconn && sudo \
             usermod -aG netconn {user}`), start the daemon again, and log in again"
        );
    };
    if mem.contains(&user) {
        return format!(
            "root and by the group '{name}', to which {user} has been added since this session began: log in again"
        );
    }
    format!("root and by the group '{name}': use sudo, or join it (`sudo usermod -aG {name} {user}`) and log in again")
}

fn broken(socket: &Path, error: hyper::Error) -> ClientError {
    ClientError::Broken { path: socket.to_owned(), error: io::Error::other(error) }
}

/// Returns parameters as they stand in a URI.
fn query(parameters: &Parameters) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        let parameters = [("process".to_owned(), "a b&c=é".to_owned()), ("port".to_owned(), "1-2".to_owned())];
        assert_eq!(query(&parameters), "process=a+b%26c%3D%C3%A9&port=1-2");
    }

    #[tokio::test]
    async fn a_full_backlog_is_waited_for() {
        let path = std::env::temp_dir().join(format!("netconn-backlog-{}", std::process::id()));
        let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        // The backlog may exceed this by one.
        listener.listen(0).unwrap();
        let _first = connect(&path, ANSWER).await.unwrap();
        let error = connect(&path, Duration::from_millis(200)).await.unwrap_err();
        assert!(error.to_string().starts_with("timeout: the daemon at /"), "{error}");
        assert!(error.to_string().contains("too many clients"), "{error}");
        let (second, _) = tokio::join!(connect(&path, ANSWER), async { listener.accept().unwrap() });
        second.unwrap();
        fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn nobody_there_is_offline() {
        let error = Client::new("/nonexistent.sock").health().await.unwrap_err();
        assert!(matches!(error, ClientError::Offline { .. }));
        assert!(error.to_string().starts_with("sensor_offline: no netconn daemon listens at /nonexistent.sock;"));
    }
}

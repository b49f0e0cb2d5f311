//! The other end of the daemon's socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, body::Incoming, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

use crate::lines;

/// How long the daemon may take to begin its answer.
pub const ANSWER: Duration = Duration::from_secs(30);
/// Longest error message that is read.
const ERROR_BYTES: usize = 64 << 10;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error(
        "sensor_offline: no netconn daemon listens at {}; start it with `netconn run` (as root) or name its --socket",
        path.display()
    )]
    Offline {
        /// The socket.
        path: PathBuf,
    },
    /// The socket may not be used by this user.
    #[error("permission_denied: {} may be used by root and by the daemon's group: use sudo or join the group", path.display())]
    PermissionDenied {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon is silent.
    #[error("timeout: the daemon at {} did not answer within {} s", path.display(), ANSWER.as_secs())]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon refused the request.
    #[error("{code}: {message}")]
    Refused {
        /// `bad_request`, `timeout` or `command_failed`.
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

/// An answer whose body arrives in parts.
#[derive(Debug)]
pub struct Answer {
    body: Incoming,
    path: PathBuf,
}

/// Asks the daemon for a path with parameters, `/v1/connections` and `[("port", "443")]`.
///
/// # Errors
///
/// When there is no daemon, it may not be asked, or it refuses.
pub async fn get(socket: &Path, path: &str, parameters: &[(String, String)]) -> Result<Answer, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, error))?;
    let asked = timeout(ANSWER, ask(stream, socket, path, parameters)).await;
    asked.unwrap_or_else(|_| Err(ClientError::Timeout { path: socket.to_owned() }))
}

async fn ask(
    stream: UnixStream,
    socket: &Path,
    path: &str,
    parameters: &[(String, String)],
) -> Result<Answer, ClientError> {
    let broken = |error: hyper::Error| broken(socket, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let uri = if parameters.is_empty() { path.to_owned() } else { format!("{path}?{}", query(parameters)) };
    let request = Request::get(uri).header(HOST, "netconn").body(Empty::<Bytes>::new());
    let request =
        request.map_err(|error| ClientError::Refused { code: "bad_request".into(), message: error.to_string() })?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let mut answer = Answer { body: response.into_body(), path: socket.to_owned() };
    if status == StatusCode::OK {
        return Ok(answer);
    }
    let mut text = Vec::new();
    while let Some(part) = answer.part().await? {
        text.extend_from_slice(&part);
        if text.len() > ERROR_BYTES {
            break;
        }
    }
    let refused = serde_json::from_slice(&text).map(|ErrorBody { error }| (error.code, error.message));
    let (code, message) =
        refused.unwrap_or_else(|_| ("command_failed".into(), format!("the daemon answered {status}")));
    Err(ClientError::Refused { code, message })
}

impl Answer {
    /// The next part of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn part(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(broken(&self.path, error)),
            }
        }
    }

    /// Calls `line` for each line of the body, without its line feed, as they arrive. It ends the reading with `false`.
    ///
    /// # Errors
    ///
    /// When the connection breaks or `line` fails.
    pub async fn lines<E: From<ClientError>>(
        mut self,
        mut line: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut rest = Vec::new();
        while let Some(part) = self.part().await? {
            rest.extend_from_slice(&part);
            let whole = lines::whole_length(&rest);
            for text in rest[..whole].split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
                if !line(text)? {
                    return Ok(());
                }
            }
            rest.drain(..whole);
        }
        Ok(())
    }
}

fn unreachable(socket: &Path, error: io::Error) -> ClientError {
    let path = socket.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::Offline { path },
        io::ErrorKind::PermissionDenied => ClientError::PermissionDenied { path },
        _ => ClientError::Broken { path, error },
    }
}

fn broken(socket: &Path, error: hyper::Error) -> ClientError {
    ClientError::Broken { path: socket.to_owned(), error: io::Error::other(error) }
}

/// Parameters as they stand in a URI: everything but letters, digits and `-._~` is written in hex (RFC 3986, 2.1).
fn query(parameters: &[(String, String)]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (name, value) in parameters {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        let parameters = [("process".to_owned(), "a b&c=é".to_owned()), ("port".to_owned(), "1-2".to_owned())];
        assert_eq!(query(&parameters), "process=a%20b%26c%3D%C3%A9&port=1-2");
    }

    #[tokio::test]
    async fn nobody_there_is_offline() {
        let error = get(Path::new("/nonexistent.sock"), "/v1/health", &[]).await.unwrap_err();
        assert!(matches!(error, ClientError::Offline { .. }));
        assert!(error.to_string().starts_with("sensor_offline: no netconn daemon listens at /nonexistent.sock;"));
    }
}

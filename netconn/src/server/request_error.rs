//! Why a request is not answered: a JSON object with a code for programs and a sentence for people, which says what to do.

use axum::{
    extract::rejection::QueryRejection,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use netconn_model::filter::FilterError;
use serde_json::json;

use crate::{engine::SnapshotsFull, server::places::NoPlace};

/// An error as clients receive it: `{"error":{"code":"…","message":"…"}}`.
#[derive(Clone, Debug)]
pub(super) struct RequestError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl RequestError {
    /// The request asks for something that cannot be; the message names the parameter.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "bad_request", message: message.into() }
    }

    /// The request's path does not exist; `paths` do.
    pub(super) fn no_such_path(path: &str, paths: &[&str]) -> Self {
        let message = format!("no such path: {path}; there are {}", listed(paths));
        Self { status: StatusCode::NOT_FOUND, code: "not_found", message }
    }

    /// The request's method is not GET, which all `paths` take.
    pub(super) fn wrong_method(paths: &[&str]) -> Self {
        let message = format!("this socket can only be read: use GET with {}", listed(paths));
        Self { status: StatusCode::METHOD_NOT_ALLOWED, code: "method_not_allowed", message }
    }

    /// The engine did not take the command, or could not carry it out.
    pub(super) fn command_failed() -> Self {
        let message = "the daemon is too busy or about to end; try again".into();
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: "command_failed", message }
    }

    /// The engine took the command, but did not reply in time.
    pub(super) fn timeout() -> Self {
        let message = "the daemon did not answer in time; try again".into();
        Self { status: StatusCode::GATEWAY_TIMEOUT, code: "timeout", message }
    }
}

/// Joins the paths as in a sentence.
fn listed(paths: &[&str]) -> String {
    match paths {
        [before @ .., last] => format!("{} and {last}", before.join(", ")),
        [] => String::new(),
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let Self { status, code, message } = self;
        let body = json!({"error": {"code": code, "message": message}}).to_string() + "\n";
        (status, [(CONTENT_TYPE, super::JSON)], body).into_response()
    }
}

impl From<FilterError> for RequestError {
    fn from(error: FilterError) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<NoPlace> for RequestError {
    fn from(error: NoPlace) -> Self {
        Self { message: error.to_string(), ..Self::command_failed() }
    }
}

impl From<SnapshotsFull> for RequestError {
    fn from(full: SnapshotsFull) -> Self {
        let whose = match full {
            SnapshotsFull::OfUser(user) => format!("uid {user} reads"),
            SnapshotsFull::OfAll => "too many clients read".into(),
        };
        let message = format!(
            "{whose} lists so slowly that there is no memory for one more: end some of them, or ask for less, such as \
             `state=established&protocol=tcp`, which takes no memory here"
        );
        Self { message, ..Self::command_failed() }
    }
}

impl From<QueryRejection> for RequestError {
    fn from(error: QueryRejection) -> Self {
        Self::bad_request(error.body_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_path_is_answered_with_the_right_ones() {
        let error = RequestError::no_such_path("/v2", &["/a", "/b", "/c"]);
        assert_eq!((error.status, error.code), (StatusCode::NOT_FOUND, "not_found"));
        assert_eq!(error.message, "no such path: /v2; there are /a, /b and /c");
        let error = RequestError::wrong_method(&["/a", "/b"]);
        assert_eq!((error.status, error.code), (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"));
    }
}

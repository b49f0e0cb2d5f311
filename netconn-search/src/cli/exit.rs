//! Maps errors to exit codes: those of netconn, and 65 for an invalid query.

use std::io;

use netconn_model::{
    config::ConfigError,
    exit::{self, Exit},
};

use crate::{
    cli::{
        error::{Interrupted, NoHistory, RefusedQuery, TimedOut, WrongUse},
        follow::CannotFollow,
        query::QueryError,
    },
    engine::SearchError,
    hunt::{HuntError, SettingError},
    output::{AnswerWriteError, chart::ChartError},
    range::RangeError,
    saved::SavedError,
};

/// Returns the exit code of an error.
pub(super) fn of(error: &anyhow::Error) -> Exit {
    let is_denied = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    // A configuration that may not be read is an error of the configuration, which has its own code.
    // Permissions come first: they are the cause, whatever error wraps them.
    if error.chain().any(is_denied) && !error.chain().any(<dyn std::error::Error>::is::<ConfigError>) {
        return Exit::Permission;
    }
    exit::of(error, of_cause)
}

/// Returns the exit code of one error of the chain, if its type is known.
fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if cause.is::<RefusedQuery>() || cause.is::<CannotFollow>() {
        return Some(Exit::Data);
    }
    if cause.is::<Interrupted>() {
        return Some(Exit::Interrupted);
    }
    if cause.is::<TimedOut>() {
        return Some(Exit::Timeout);
    }
    if cause.is::<NoHistory>() {
        return Some(Exit::Unavailable);
    }
    if cause.is::<RangeError>() || cause.is::<SettingError>() || cause.is::<WrongUse>() {
        return Some(Exit::Usage);
    }
    // From here on the code depends on what the error is about.
    if let Some(error) = cause.downcast_ref::<SearchError>() {
        return Some(of_search(error));
    }
    if let Some(error) = cause.downcast_ref::<AnswerWriteError>() {
        // Rows that cannot be drawn are a wrong use of --chart; all other errors are those of writing.
        return Some(match error {
            AnswerWriteError::Chart(
                ChartError::Events | ChartError::NoNames | ChartError::NoNumbers | ChartError::TooMany,
            ) => Exit::Usage,
            AnswerWriteError::NoEvents { .. } => Exit::Usage,
            AnswerWriteError::Table(_) | AnswerWriteError::Chart(_) | AnswerWriteError::Export(_) => Exit::Io,
        });
    }
    if let Some(error) = cause.downcast_ref::<SavedError>() {
        return Some(match error {
            SavedError::Name { .. } | SavedError::Missing { .. } => Exit::Usage,
            SavedError::NoHome | SavedError::Io { .. } => Exit::Io,
        });
    }
    if let Some(error) = cause.downcast_ref::<HuntError>() {
        return Some(match error {
            HuntError::Missing { .. } => Exit::Usage,
            HuntError::Header { .. } => Exit::Configuration,
            HuntError::Io { .. } => Exit::Io,
        });
    }
    if let Some(error) = cause.downcast_ref::<QueryError>() {
        return Some(match error {
            QueryError::Long { .. } | QueryError::NoText { .. } => Exit::Data,
            QueryError::Read { .. } => Exit::Io,
        });
    }
    None
}

fn of_search(error: &SearchError) -> Exit {
    match error {
        SearchError::Query { .. } => Exit::Data,
        SearchError::Read { .. }
        | SearchError::Write { .. }
        | SearchError::Empty { .. }
        | SearchError::Format { .. } => Exit::Io,
        SearchError::Memory { .. } => Exit::Unavailable,
        SearchError::Engine(_) => Exit::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_denied_permission_is_found_anywhere_in_the_chain() {
        let path = || PathBuf::from("x");
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        for error in [
            anyhow::Error::from(SearchError::Read { path: path(), source: denied() }),
            HuntError::Io { path: path(), source: denied() }.into(),
            anyhow::Error::from(denied()).context("cannot write x"),
        ] {
            assert_eq!(of(&error), Exit::Permission, "{error:#}");
        }
        let absent = HuntError::Io { path: path(), source: io::ErrorKind::NotFound.into() };
        assert_eq!(of(&absent.into()), Exit::Io);
    }
}

//! Exit codes of the daemon's own errors; those of all programs are in `netconn_model::exit`.

use std::{error::Error, io};

use netconn_model::exit::{self, Exit};
use netconn_query::evaluate::SumBeyond;

use crate::{
    cli::{expression::RefusedCondition, list::NoPlace},
    forget::ForgetError,
    kernel::{load::LoadError, preflight::Unfit},
    process::redact::RedactError,
    rules::RuleError,
    search_program::NotInstalled,
    server::BindError,
    sink::OutputError,
    state_dir::StateError,
};

/// Returns the exit code of an error.
pub(super) fn of(error: &anyhow::Error) -> Exit {
    exit::of(error, of_cause)
}

fn of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
    // The special cases of a type come before the type itself below.
    if let Some(Unfit::NotPermitted { .. }) = cause.downcast_ref() {
        return Some(Exit::Permission);
    }
    if let Some(error) = cause.downcast_ref::<LoadError>() {
        return Some(match error {
            LoadError::Unfit(Unfit::NotPermitted { .. }) | LoadError::Refused(_) => Exit::Permission,
            _ => Exit::Unavailable,
        });
    }
    if cause.is::<RefusedCondition>() || cause.is::<SumBeyond>() {
        return Some(Exit::Data);
    }
    if let Some(error) = cause.downcast_ref::<ForgetError>() {
        return Some(match error {
            ForgetError::Running { .. } | ForgetError::Listening { .. } => Exit::Unavailable,
            ForgetError::System { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => Exit::Permission,
            ForgetError::System { .. } => Exit::Io,
        });
    }
    if cause.is::<NoPlace>() {
        return Some(Exit::Usage);
    }
    if cause.is::<Unfit>() || cause.is::<NotInstalled>() {
        return Some(Exit::Unavailable);
    }
    if cause.is::<RuleError>() || cause.is::<RedactError>() {
        return Some(Exit::Configuration);
    }
    // Another path solves it, so this is a matter of configuration.
    if let Some(BindError::Taken { .. }) = cause.downcast_ref() {
        return Some(Exit::Configuration);
    }
    (cause.is::<BindError>() || cause.is::<OutputError>() || cause.is::<StateError>()).then_some(Exit::Io)
}

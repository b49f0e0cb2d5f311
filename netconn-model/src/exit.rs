//! Exit codes of all programs, after sysexits.h.

use std::{error::Error, io, process::ExitCode};

use crate::{client::ClientError, config::ConfigError, filter::FilterError};

/// Result of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// Nothing was found, and `-e` was given.
    Nothing = 1,
    /// The command line or a parameter is wrong.
    Usage = 2,
    /// A query that cannot be read (`EX_DATAERR`).
    Data = 65,
    /// No daemon, one that has stopped (`watch --once`) or refuses because it is busy, no `netconn-search`, or a kernel that cannot be
    /// traced; `doctor` found something that does not work (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A bug in netconn (`EX_SOFTWARE`).
    Internal = 70,
    /// A file or a socket failed (`EX_IOERR`).
    Io = 74,
    /// No answer in time (`EX_TEMPFAIL`).
    Timeout = 75,
    /// The user may not do it (`EX_NOPERM`).
    Permission = 77,
    /// The configuration is wrong (`EX_CONFIG`).
    Configuration = 78,
    /// Ended by Ctrl-C: 128 and the number of SIGINT, as in shells.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}

/// Returns the exit code of an error: that of the first error of its chain that `own` or this crate knows.
///
/// `own` knows the errors of the calling program.
pub fn of(error: &anyhow::Error, own: impl Fn(&(dyn Error + 'static)) -> Option<Exit>) -> Exit {
    // From the outermost error on: the one that knows most of what was being done decides.
    error.chain().find_map(|cause| own(cause).or_else(|| of_cause(cause))).unwrap_or(Exit::Internal)
}

fn of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(error) = cause.downcast_ref::<ClientError>() {
        return Some(match error {
            ClientError::Offline { .. } => Exit::Unavailable,
            ClientError::PermissionDenied { .. } => Exit::Permission,
            ClientError::Timeout { .. } | ClientError::Crowded { .. } => Exit::Timeout,
            // The daemon's codes, see `RequestError` in `netconn/src/server`.
            ClientError::Refused { code, .. }
                if matches!(&**code, "bad_request" | "not_found" | "method_not_allowed") =>
            {
                Exit::Usage
            }
            ClientError::Refused { code, .. } if code == "timeout" => Exit::Timeout,
            // Too busy, about to end, or no place for one more client: it is there, and cannot be used now.
            ClientError::Refused { code, .. } if code == "command_failed" => Exit::Unavailable,
            // Codes of another version.
            ClientError::Refused { .. } => Exit::Internal,
            ClientError::Broken { .. } => Exit::Io,
        });
    }
    if cause.is::<ConfigError>() {
        return Some(Exit::Configuration);
    }
    if cause.is::<FilterError>() {
        return Some(Exit::Usage);
    }
    // csv's error has no source: the error of the file stands in its kind.
    let is_csv_io = |error: &csv::Error| matches!(error.kind(), csv::ErrorKind::Io(_));
    (cause.is::<io::Error>() || cause.downcast_ref().is_some_and(is_csv_io)).then_some(Exit::Io)
}

/// Returns whether the error is a broken pipe: the reader of the output has gone, which is no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
            // csv keeps the error of its writer inside and not as its source.
            || cause.downcast_ref::<csv::Error>().is_some_and(
                |error| matches!(error.kind(), csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::BrokenPipe),
            )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_refuses_says_whose_fault_it_is() {
        for (code, exit) in [
            ("bad_request", Exit::Usage),
            ("not_found", Exit::Usage),
            ("method_not_allowed", Exit::Usage),
            ("timeout", Exit::Timeout),
            ("command_failed", Exit::Unavailable),
            ("newer", Exit::Internal),
        ] {
            let error = ClientError::Refused { code: code.into(), message: String::new() };
            assert_eq!(of(&error.into(), |_| None), exit, "{code}");
        }
    }

    #[test]
    fn a_full_disk_is_an_io_error_in_every_format() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for error in [anyhow::Error::from(full()), csv::Error::from(full()).into()] {
            assert_eq!(of(&error, |_| None), Exit::Io, "{error}");
            assert!(!is_broken_pipe(&error));
        }
        let closed: anyhow::Error = csv::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).into();
        assert!(is_broken_pipe(&closed));
        assert_eq!(of(&anyhow::anyhow!("x"), |_| None), Exit::Internal);
    }
}

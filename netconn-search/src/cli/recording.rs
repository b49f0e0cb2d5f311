//! Finds out when nothing was recorded in the searched time, up to now.

use std::{io, ops::Range, path::Path, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use tokio::net::UnixStream;

use crate::{
    engine::{Gap, Gaps, Recording},
    output::recorded::moment,
};

/// Longest time that the daemon has to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A range that ends so short before now ends now, milliseconds.
const NOW_MS: i64 = 60_000;

/// When nothing was recorded.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// Times in which nothing was recorded.
    pub(super) gaps: Vec<Gap>,
    /// What else is to be said, one sentence each.
    pub(super) notes: Vec<String>,
}

/// Returns when nothing was recorded. `socket` is that of the daemon whose history was searched, if it was.
pub(super) async fn recorded(
    recording: &Recording,
    range: Option<&Range<i64>>,
    socket: Option<&Path>,
    zone: &TimeZone,
) -> Recorded {
    let Gaps { gaps, mut notes } = match recording.gaps().await {
        Ok(gaps) => gaps,
        // The answer itself is good.
        Err(error) => {
            let note = format!("it is not known whether netconn was running all the time: {error}");
            return Recorded { gaps: Vec::new(), notes: vec![note] };
        }
    };
    let ends_now = range.is_some_and(|range| range.end >= Timestamp::now().as_millisecond() - NOW_MS);
    // A daemon that was killed and not started again leaves no event that would say so.
    if let Some(socket) = socket.filter(|_| ends_now && gaps.iter().all(|gap| gap.to.is_some()))
        && is_nobody_there(socket).await
        && let Ok(Some(last)) = recording.last_event().await
    {
        notes.push(format!(
            "no daemon listens at {}: unless another one records, nothing was recorded since the last event at {}",
            socket.display(),
            moment(last, zone)
        ));
    }
    Recorded { gaps, notes }
}

/// Whether no daemon listens at a socket. In doubt it says that one does.
async fn is_nobody_there(socket: &Path) -> bool {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await;
    // A refused connection is the socket of a daemon that was killed.
    matches!(connected, Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
}

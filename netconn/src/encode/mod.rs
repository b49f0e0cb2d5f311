//! Makes events and rows of what the daemon knows, and writes them as bytes. Nothing here knows where the bytes go.

pub mod event;
pub mod packet;
pub mod row;
pub mod subject;

#[cfg(test)]
mod tests;

use netconn_model::fact::Attribution;

/// Returns how a process is known, from the number in the kernel's records.
pub fn attribution(how: u32) -> Attribution {
    use netconn_common::attribution;
    match how {
        attribution::CONNECT => Attribution::Connect,
        attribution::ACCEPT => Attribution::Accept,
        attribution::SEND => Attribution::Send,
        attribution::RECEIVE => Attribution::Receive,
        attribution::LISTENER => Attribution::Listener,
        attribution::SCAN => Attribution::Scan,
        attribution::CREATE => Attribution::Create,
        _ => Attribution::Unknown,
    }
}

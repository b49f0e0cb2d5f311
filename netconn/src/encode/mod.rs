//! Makes events and rows of what the daemon knows, and writes them as bytes. Nothing here knows where the bytes go.

mod ids;
pub mod loss;
mod ends;
mod process;
pub mod event;
pub mod holders;
pub mod packet;
mod present;
pub mod row;
pub mod subject;
pub mod other;

#[cfg(test)]
mod tests;

use netconn_model::fact::Attribution;

/// Most bytes of an event or row with its escapes: who chooses an argument of control characters, which take six bytes each, must
/// not fill queues and disks by it.
pub const EVENT_MAX: usize = 16 << 10;
/// Most bytes of what an event or row says of a process and its parent: two command lines as long as the kernel's programs read
/// them stay whole.
const PROCESS_MAX: usize = 12 << 10;
/// Most bytes of what an event says of the sensor. The rest is for members that cannot be long: numbers, addresses, ids.
const SENSOR_MAX: usize = 2 << 10;

/// Returns a value, unless it is the one that stands for an unknown one.
fn known<T: PartialEq + Copy>(value: T, unknown: T) -> Option<T> {
    (value != unknown).then_some(value)
}

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

//! Ids of connections and processes.

use crate::table::Connection;

/// Makes the ids of connections, flows and listeners: unique over boots, the same in every run of the daemon.
///
/// By hand rather than with `write!`, whose machinery costs more than the digits: an id is in every event and row.
#[derive(Debug)]
pub(crate) struct ConnectionIds {
    /// The first half of the boot id and a hyphen, followed by the rest of the last id.
    text: String,
    prefix_length: usize,
}

impl ConnectionIds {
    pub(crate) fn new(boot: &str) -> Self {
        Self { text: format!("{boot}-"), prefix_length: boot.len() + 1 }
    }

    /// Returns the id of a connection.
    pub(crate) fn of(&mut self, connection: &Connection) -> &str {
        self.text.truncate(self.prefix_length);
        let mut digits = [0; 16];
        self.text.push_str(hex(connection.socket, &mut digits));
        self.text.push('-');
        // One socket can exchange datagrams with many ends; each flow begins at a moment of its own.
        let life = if connection.is_flow() { connection.born_ns } else { connection.generation.into() };
        self.text.push_str(itoa::Buffer::new().format(life));
        &self.text
    }
}

/// Returns a number in hex, without zeros before it.
fn hex(mut value: u64, digits: &mut [u8; 16]) -> &str {
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
        start -= 1;
        if value == 0 {
            break;
        }
    }
    // Hex digits are ASCII.
    std::str::from_utf8(&digits[start..]).unwrap_or_default()
}

/// Returns the id of a process: unique over boots.
pub(super) fn process_id(boot: &str, tgid: u32, start_ns: u64) -> String {
    format!("{boot}-{tgid}-{start_ns}")
}

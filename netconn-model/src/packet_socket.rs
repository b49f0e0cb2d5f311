//! A socket that no hook sees, as clients read it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What `AF_PACKET` sockets receive, by the names of people: numbers of `include/uapi/linux/if_ether.h`.
const PROTOCOLS: [(u16, &str); 9] = [
    (0, "NONE"),
    (0x0003, "ALL"),
    (0x0800, "IPV4"),
    (0x0806, "ARP"),
    (0x86dd, "IPV6"),
    (0x8863, "PPPOE_DISCOVERY"),
    (0x8864, "PPPOE"),
    (0x888e, "EAPOL"),
    (0x88cc, "LLDP"),
];

/// The name of what a socket receives, or its number.
pub fn protocol_name(number: u16) -> Cow<'static, str> {
    match PROTOCOLS.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => (*name).into(),
        None => format!("{number:#06x}").into(),
    }
}

/// What stands before the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PacketHead {
    /// What cannot be listed, a sentence each.
    #[serde(default)]
    pub unlisted: Vec<String>,
}

/// A socket and a process that has it open; `None` means unknown or not applicable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PacketRow {
    /// `AF_PACKET` or `AF_XDP`.
    pub family: String,
    /// What is received: see [`protocol_name`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Name of the network device; none if the socket is bound to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its index, 0: bound to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface_index: Option<u32>,
    /// Inode of the network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<u32>,
    /// Inode of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// Process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Name of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_name: Option<String>,
    /// Account name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Unix user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<u32>,
    /// Executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// Arguments, joined by spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line: Option<String>,
    /// Container, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub systemd_unit: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_names_or_numbers() {
        assert_eq!(protocol_name(3), "ALL");
        assert_eq!(protocol_name(0x88f7), "0x88f7");
        assert_eq!(protocol_name(4), "0x0004");
    }
}

//! Packet sockets (AF_PACKET and AF_XDP, see packet(7)) in snapshots: what they exchange is in no list of connections and no event.

use std::borrow::Cow;

use crate::{members::members, value::Text};

/// What AF_PACKET sockets receive, by the names that people use: numbers of `include/uapi/linux/if_ether.h`.
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

/// Returns the name of the protocol that a packet socket receives, or its number in hex.
pub fn protocol_name(number: u16) -> Cow<'static, str> {
    match PROTOCOLS.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => (*name).into(),
        // In hex, as in `if_ether.h` and in the output of tcpdump.
        None => format!("{number:#06x}").into(),
    }
}

members! {
    /// A packet socket and a process that has it open. A member that is `None` is not known or does not apply.
    struct PacketSocketRow; enum PacketField; table PACKET_FIELDS; enum PacketSection;

    /// All of it.
    Socket {
        Family "family" String family: Text<'a>, "`AF_PACKET` or `AF_XDP`.";
        Protocol "protocol" String protocol: Text<'a>, "What an AF_PACKET socket receives: `ALL`, `IPV4`, `ARP`, …, or the number of an Ethernet type.";
        Interface "interface" String interface: Text<'a>, "Name of the network interface that it is bound to.";
        InterfaceIndex "interface_index" Integer interface_index: u32, "Index of that interface; 0: bound to none.";
        Namespace "namespace" Integer namespace: u32, "Inode of the network namespace.";
        Inode "inode" Integer inode: u64, "Inode of the socket.";
        Pid "pid" Integer pid: u32, "Process id.";
        ProcessName "process_name" String process_name: Text<'a>, "Name of the process (`comm`), up to 15 bytes.";
        User "user" String user: Text<'a>, "Account name.";
        UserId "user_id" Integer user_id: u32, "Unix user id.";
        Executable "executable" String executable: Text<'a>, "Executable of the process.";
        CommandLine "command_line" String command_line: Text<'a>, "Arguments of the process, joined by spaces, with `***` in the place of secrets; `…` at the end: cut.";
        CommandLineRedacted "command_line_redacted" Boolean command_line_redacted: bool, "`true`: secrets were taken out of `command_line`.";
        ContainerId "container_id" String container_id: Text<'a>, "Container: its id, mostly 64 hex digits, or the name that LXC or systemd-nspawn gives it.";
        SystemdUnit "systemd_unit" String systemd_unit: Text<'a>, "systemd unit.";
    }
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

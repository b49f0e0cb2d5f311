//! Names of the states of sockets, as `ss` and `netstat` users know them.

use netconn_common::tcp_state;

/// State of a datagram socket that is not connected: the number of TCP's `CLOSE` (`inet_create` in `net/ipv4/af_inet.c`).
pub const UNCONNECTED: u8 = tcp_state::CLOSE;

/// State of what has ended: a number that no state of the kernel has.
pub const CLOSED: u8 = 0;

/// Returns the name of a state in snapshots, `ESTABLISHED`.
pub fn name(state: u8) -> &'static str {
    match state {
        tcp_state::ESTABLISHED => "ESTABLISHED",
        tcp_state::SYN_SENT => "SYN_SENT",
        tcp_state::SYN_RECV => "SYN_RECV",
        tcp_state::FIN_WAIT1 => "FIN_WAIT1",
        tcp_state::FIN_WAIT2 => "FIN_WAIT2",
        tcp_state::TIME_WAIT => "TIME_WAIT",
        tcp_state::CLOSE_WAIT => "CLOSE_WAIT",
        tcp_state::LAST_ACK => "LAST_ACK",
        tcp_state::LISTEN => "LISTENING",
        tcp_state::CLOSING => "CLOSING",
        UNCONNECTED => "UNCONNECTED",
        _ => "CLOSED",
    }
}

/// All states that a snapshot can show, in the order in which they are listed.
pub const ALL: [u8; 11] = [
    tcp_state::LISTEN,
    UNCONNECTED,
    tcp_state::ESTABLISHED,
    tcp_state::SYN_SENT,
    tcp_state::SYN_RECV,
    tcp_state::FIN_WAIT1,
    tcp_state::FIN_WAIT2,
    tcp_state::CLOSE_WAIT,
    tcp_state::LAST_ACK,
    tcp_state::CLOSING,
    tcp_state::TIME_WAIT,
];

/// A set of states, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(u16);

impl States {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Returns whether a state is in the set.
    pub fn contains(self, state: u8) -> bool {
        // Numbers of states are below 16; the mask only shows that the shift cannot overflow.
        self.0 >> (state & 15) & 1 != 0
    }

    /// Returns the set with this state added.
    #[must_use]
    pub fn with(self, state: u8) -> Self {
        Self(self.0 | 1 << (state & 15))
    }

    /// Reads one name: a state in the spelling of `ss`, `netstat` or the kernel, in any case, or one of the groups of
    /// `ss` (`all`, `connected`, `synchronized`, `bucket`, `big`). `None` for anything else.
    pub fn parse(name: &str) -> Option<Self> {
        // `SYN-SENT`, `syn_sent` and `SYN SENT` are one name.
        let plain: String =
            name.chars().filter(|character| !matches!(character, '-' | '_' | ' ')).collect::<String>().to_lowercase();
        let one = |state| Some(Self::NONE.with(state));
        let all = || ALL.into_iter().fold(Self::NONE, Self::with);
        match plain.as_str() {
            "all" => Some(all().with(CLOSED)),
            "connected" => {
                let not = Self::NONE.with(tcp_state::LISTEN).with(UNCONNECTED);
                Some(Self(all().0 & !not.0))
            }
            "synchronized" => {
                // As in ss: connected, without attempts that have had no answer.
                let not = Self::NONE.with(tcp_state::LISTEN).with(UNCONNECTED).with(tcp_state::SYN_SENT);
                Some(Self(all().0 & !not.0))
            }
            // As in ss: what the kernel keeps in a small structure of its own, and all else.
            "bucket" => Some(Self::NONE.with(tcp_state::SYN_RECV).with(tcp_state::TIME_WAIT)),
            "big" => {
                let bucket = Self::NONE.with(tcp_state::SYN_RECV).with(tcp_state::TIME_WAIT);
                Some(Self(all().with(CLOSED).0 & !bucket.0))
            }
            "established" | "estab" => one(tcp_state::ESTABLISHED),
            "synsent" => one(tcp_state::SYN_SENT),
            "synrecv" => one(tcp_state::SYN_RECV),
            "finwait1" => one(tcp_state::FIN_WAIT1),
            "finwait2" => one(tcp_state::FIN_WAIT2),
            "timewait" => one(tcp_state::TIME_WAIT),
            "closewait" => one(tcp_state::CLOSE_WAIT),
            "lastack" => one(tcp_state::LAST_ACK),
            "listening" | "listen" => one(tcp_state::LISTEN),
            "unconnected" | "unconn" => one(UNCONNECTED),
            "closing" => one(tcp_state::CLOSING),
            "closed" => one(CLOSED),
            _ => None,
        }
    }
}

impl std::ops::BitOr for States {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_understood() {
        for state in ALL {
            assert_eq!(States::parse(name(state)), Some(States::NONE.with(state)), "{}", name(state));
        }
        for spelling in ["time-wait", "TIME_WAIT", "Time Wait", "timewait"] {
            assert_eq!(States::parse(spelling), Some(States::NONE.with(tcp_state::TIME_WAIT)));
        }
        assert_eq!(States::parse("estab"), States::parse("ESTABLISHED"));
        assert!(!States::parse("connected").unwrap().contains(tcp_state::LISTEN));
        assert!(States::parse("connected").unwrap().contains(tcp_state::SYN_SENT));
        assert!(!States::parse("synchronized").unwrap().contains(tcp_state::SYN_SENT));
        assert!(!States::parse("connected").unwrap().contains(UNCONNECTED));
        assert_eq!(States::parse("UNCONN"), States::parse("unconnected"));
        assert_eq!(States::parse("bucket").unwrap() | States::parse("big").unwrap(), States::parse("all").unwrap());
        assert!(!States::parse("big").unwrap().contains(tcp_state::TIME_WAIT));
        assert_eq!(States::parse("open"), None);
    }
}

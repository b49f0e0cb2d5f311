//! Faults that tests make happen.

use std::str::FromStr;

/// A fault to make happen, so that tests can see how netconn copes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is never memory for the state of sockets.
    Memory,
    /// Iterators return a few bytes at a time.
    ShortReads,
    /// Iterators ask to be read again, every other time.
    ReadAgain,
    /// Iterators fail.
    BrokenReads,
    /// Some records of sockets are dropped, and nothing counts them.
    Unseen,
    /// The engine does nothing any more after SIGUSR1.
    Stuck,
    /// The daemon makes a system call that is not in its list.
    DeniedCall,
}

impl Fault {
    /// Names of all faults, in their order.
    pub const NAMES: [&'static str; 7] =
        ["memory", "short-reads", "read-again", "broken-reads", "unseen", "stuck", "denied-call"];
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "memory" => Ok(Self::Memory),
            "short-reads" => Ok(Self::ShortReads),
            "read-again" => Ok(Self::ReadAgain),
            "broken-reads" => Ok(Self::BrokenReads),
            "unseen" => Ok(Self::Unseen),
            "stuck" => Ok(Self::Stuck),
            "denied-call" => Ok(Self::DeniedCall),
            _ => Err(format!("{name} is none of {}", Self::NAMES.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_a_fault() {
        for name in Fault::NAMES {
            name.parse::<Fault>().unwrap();
        }
        assert_eq!(
            "flood".parse::<Fault>().unwrap_err(),
            "flood is none of memory, short-reads, read-again, broken-reads, unseen, stuck, denied-call"
        );
    }
}

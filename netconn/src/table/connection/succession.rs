//! Who has a socket now and who began it, where these are two processes.

use std::{iter, rc::Rc};

use netconn_common::{Owner, role, tcp_state};

use super::Connection;
use crate::process::Process;

/// A process that has a socket, or had it.
#[derive(Clone, Debug)]
pub struct Party {
    /// The process as the kernel reported it.
    pub owner: Owner,
    /// Its entry in the table of processes, if it has one.
    pub process: Option<Rc<Process>>,
}

/// The second process of a socket whose owner has ended while others have the socket open.
#[derive(Clone, Debug)]
pub enum Succession {
    /// It has the socket now. [`Connection::owner`] began it, and events go on to name that one: who connected does not change.
    Holder(Party),
    /// It began the socket. [`Connection::owner`] has it now: a listener's events and connections are of whom has it.
    Originator(Party),
}

impl Succession {
    fn party(&self) -> &Party {
        match self {
            Self::Holder(party) | Self::Originator(party) => party,
        }
    }
}

impl Connection {
    /// Returns the process that has the socket now, as far as it is known: rows and filters of rows show it.
    pub fn holder(&self) -> (&Owner, Option<&Rc<Process>>) {
        match self.succession.as_deref() {
            Some(Succession::Holder(Party { owner, process })) => (owner, process.as_ref()),
            _ => (&self.owner, self.process.as_ref()),
        }
    }

    /// Returns the process that began the connection or listener, if another one has it now.
    pub fn originator(&self) -> Option<(&Owner, Option<&Rc<Process>>)> {
        match self.succession.as_deref()? {
            Succession::Holder(_) => Some((&self.owner, self.process.as_ref())),
            Succession::Originator(Party { owner, process }) => Some((owner, process.as_ref())),
        }
    }

    /// Returns all processes that it refers to.
    pub fn processes(&self) -> impl Iterator<Item = &Rc<Process>> {
        let second = self.succession.as_deref().and_then(|succession| succession.party().process.as_ref());
        iter::chain(&self.process, second)
    }

    /// Returns whether a process must have the socket open, because the kernel would have closed it otherwise.
    pub fn is_open(&self) -> bool {
        // Flows and UDP sockets leave the table when their socket is closed.
        matches!(self.state, tcp_state::LISTEN | tcp_state::SYN_SENT | tcp_state::ESTABLISHED | tcp_state::CLOSE_WAIT)
            || self.is_datagram()
    }

    /// Notes that another process has the socket now, because who had it has ended.
    pub(in crate::table) fn pass_on(&mut self, owner: &Owner, process: Option<Rc<Process>>) {
        let party = Party { owner: *owner, process };
        let changes_owner = !self.is_flow() && matches!(self.role, role::PASSIVE | role::LISTENER);
        let succession = if changes_owner {
            let Party { owner, process } = party;
            let before = Party { owner: self.owner, process: std::mem::replace(&mut self.process, process) };
            self.owner = owner;
            match self.succession.take().map(|known| *known) {
                // The first of several stays the one who began it.
                Some(first @ Succession::Originator(_)) => first,
                _ => Succession::Originator(before),
            }
        } else {
            Succession::Holder(party)
        };
        self.succession = Some(Box::new(succession));
    }
}

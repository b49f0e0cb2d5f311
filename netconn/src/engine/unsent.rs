//! Attempts that failed before anything was sent, and whose errno the kernel did not tell: the routing tables are asked.

use std::io;

use hashbrown::HashMap;
use netconn_common::UnsentRecord;

use crate::{
    engine::{Command, Handle},
    kernel::route::{Answer, Question, Routes},
    table::Connection,
};

/// Attempts whose reason is being looked up.
pub(super) struct Unsent {
    routes: Routes,
    waiting: HashMap<u64, Connection>,
    /// Number of the next question.
    next: u64,
}

impl Unsent {
    /// Starts the thread that asks.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(super) fn start(handle: Handle) -> io::Result<Self> {
        let routes = Routes::start(move |answer| {
            // An error means that the engine has ended.
            let _ = handle.send_patiently(Command::Route(answer));
        })?;
        Ok(Self { routes, waiting: HashMap::new(), next: 0 })
    }

    /// Asks why an attempt failed; gives it back if too many questions wait.
    pub(super) fn ask(&mut self, attempt: Connection, record: &UnsentRecord) -> Option<Connection> {
        let Some(remote) = attempt.remote else { return Some(attempt) };
        let token = self.next;
        self.next += 1;
        let question = Question {
            token,
            namespace: attempt.namespace,
            remote: remote.address,
            local: (!attempt.local.address.is_unspecified()).then_some(attempt.local.address),
            uid: attempt.owner.uid,
            mark: record.mark,
            device: record.device,
        };
        if !self.routes.ask(question) {
            return Some(attempt);
        }
        self.waiting.insert(token, attempt);
        None
    }

    /// The attempt that an answer is about.
    pub(super) fn answered(&mut self, answer: &Answer) -> Option<Connection> {
        self.waiting.remove(&answer.token)
    }

    /// Whether answers are to come.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Attempts that were not answered.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = Connection> + use<'_> {
        self.waiting.drain().map(|(_, attempt)| attempt)
    }
}

//! Attempts that failed before anything was sent, and whose errno the kernel did not tell: the routing tables are asked.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::Duration,
};

use hashbrown::HashMap;
use netconn_common::UnsentRecord;
use nix::sys::eventfd::EventFd;

use crate::{
    kernel::route::{Answer, Question, Routes},
    table::Connection,
};

/// Attempts that wait for an answer; of more the reason is not asked for.
const WAITING_MAX: usize = 4096;

/// Attempts whose reason is being looked up.
pub(super) struct Unsent {
    routes: Routes,
    /// Apart from the commands of clients, which are refused when too many wait.
    answers: Receiver<Answer>,
    waiting: HashMap<u64, Connection>,
    /// Number of the next question.
    next: u64,
}

impl Unsent {
    /// Starts the thread that asks; `wake` wakes the engine.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(super) fn start(wake: Arc<EventFd>) -> io::Result<Self> {
        let (sender, answers) = channel();
        let routes = Routes::start(move |answer| {
            // Errors mean that the engine has ended, and that it wakes anyway.
            let _ = sender.send(answer);
            let _ = wake.write(1);
        })?;
        Ok(Self { routes, answers, waiting: HashMap::new(), next: 0 })
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
        if self.waiting.len() >= WAITING_MAX || !self.routes.ask(question) {
            return Some(attempt);
        }
        self.waiting.insert(token, attempt);
        None
    }

    /// The next attempt that is answered, and why it failed; waits for it until `patience` is over.
    pub(super) fn answered(&mut self, patience: Duration) -> Option<(Connection, Option<u32>)> {
        while !self.waiting.is_empty() {
            let answer = match self.answers.recv_timeout(patience) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            };
            if let Some(attempt) = self.waiting.remove(&answer.token) {
                return Some((attempt, answer.errno));
            }
        }
        None
    }

    /// Attempts that were not answered.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = Connection> + use<'_> {
        self.waiting.drain().map(|(_, attempt)| attempt)
    }
}

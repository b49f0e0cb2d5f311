//! Attempts that failed before anything was sent and whose errno the kernel did not report. The routing tables are asked for
//! the reason, in a thread of their own.

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
    kernel::route::{RouteAnswer, RouteQuestion, Routes},
    table::Connection,
};

/// Attempts that wait for an answer at most; further ones are published without a reason.
const WAITING_MAX: usize = 4096;

/// Attempts whose reason is being looked up.
pub(super) struct RouteLookups {
    routes: Routes,
    /// Not the queue of commands, which is bounded and refuses commands when it is full.
    answers: Receiver<RouteAnswer>,
    /// By the token of the question.
    waiting: HashMap<u64, Connection>,
    next_token: u64,
}

impl RouteLookups {
    /// Starts the thread that asks. It wakes the engine through `wake` after each answer.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(super) fn start(wake: Arc<EventFd>) -> io::Result<Self> {
        // Unbounded, but never longer than `WAITING_MAX`: there is one answer for each question.
        let (sender, answers) = channel();
        let routes = Routes::start(move |answer| {
            // Errors mean that the engine has ended, or that it wakes anyway.
            let _ = sender.send(answer);
            let _ = wake.write(1);
        })?;
        Ok(Self { routes, answers, waiting: HashMap::new(), next_token: 0 })
    }

    /// Asks why an attempt failed. Returns the attempt if that cannot be asked: too many questions wait, or it had no remote
    /// address.
    pub(super) fn ask(&mut self, attempt: Connection, record: &UnsentRecord) -> Option<Connection> {
        let Some(remote) = attempt.remote else { return Some(attempt) };
        let token = self.next_token;
        self.next_token += 1;
        let question = RouteQuestion {
            token,
            namespace: attempt.namespace,
            remote: remote.address,
            // A socket that was not bound has no address yet: the kernel chose, or failed to choose, one by the route.
            local: (!attempt.local.address.is_unspecified()).then_some(attempt.local.address),
            // Of an unknown user the route of root is asked for, to whom no rule for users applies, as a rule.
            uid: attempt.owner.user().unwrap_or(0),
            mark: record.mark,
            device: record.attempt.device,
        };
        // The limit bounds memory when thousands of attempts a second fail; the thread makes one netlink request for
        // each.
        if self.waiting.len() >= WAITING_MAX || !self.routes.ask(question) {
            return Some(attempt);
        }
        self.waiting.insert(token, attempt);
        None
    }

    /// Returns the next attempt that is answered, with the errno if there is one; waits for it until `patience` is over.
    pub(super) fn next_answer(&mut self, patience: Duration) -> Option<(Connection, Option<u32>)> {
        // Nothing is awaited when nothing was asked: `patience` at the end of the daemon then costs nothing.
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

    /// Returns the attempts that are not answered yet, and forgets them.
    pub(super) fn take_unanswered(&mut self) -> Vec<Connection> {
        self.waiting.drain().map(|(_, attempt)| attempt).collect()
    }
}

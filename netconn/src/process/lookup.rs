//! The thread for slow look-ups (accounts can be on a network, cgroups are a directory tree): the engine never waits
//! for them.

use std::{
    collections::HashMap,
    io,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use sysinfo::Users;

use crate::process::cgroup;

/// Most questions in the queue; further ones are dropped and asked again later.
const WAITING_MAX: usize = 16;

/// A question to the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupQuestion {
    /// Names of all accounts.
    Users,
    /// All cgroups.
    Cgroups,
}

/// An answer of the thread.
#[derive(Debug)]
pub enum LookupAnswer {
    /// Account names by Unix user id.
    Users(HashMap<u32, String>),
    /// Inode and path of each cgroup.
    Cgroups(Vec<(u64, String)>),
}

/// Sends questions to the thread.
#[derive(Clone, Debug)]
pub struct Lookup {
    questions: SyncSender<LookupQuestion>,
}

impl Lookup {
    /// Starts the thread; `answer` is called on it.
    ///
    /// # Errors
    ///
    /// When the system cannot start a thread.
    pub fn start(answer: impl Fn(LookupAnswer) + Send + 'static) -> io::Result<Self> {
        let (questions, receiver) = sync_channel(WAITING_MAX);
        thread::Builder::new().name("netconn-lookup".into()).spawn(move || {
            // Ends when the last `Lookup` is dropped. Nobody joins the thread: a look-up may take long.
            while let Ok(question) = receiver.recv() {
                answer(match question {
                    LookupQuestion::Users => LookupAnswer::Users(users()),
                    LookupQuestion::Cgroups => LookupAnswer::Cgroups(cgroup::scan()),
                });
            }
        })?;
        Ok(Self { questions })
    }

    /// Asks a question; returns `false` if the queue is full.
    pub fn ask(&self, question: LookupQuestion) -> bool {
        self.questions.try_send(question).is_ok()
    }
}

/// Returns the names of all accounts by Unix user id; empty if they cannot be read.
pub fn users() -> HashMap<u32, String> {
    let Ok(users) = Users::new_with_refreshed_list() else { return HashMap::new() };
    users.iter().map(|user| (**user.id(), user.name().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known() {
        assert_eq!(users().get(&0).map(String::as_str), Some("root"));
    }
}

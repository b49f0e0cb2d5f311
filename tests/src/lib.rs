//! What needs a kernel to be tested. The harness: a netconn daemon of one's own, network namespaces, what `ss` says.
//!
//! Root is needed. Everything here panics when something is wrong: it is for tests only.

mod daemon;
mod netns;
mod ss;

pub use daemon::{Daemon, Events, netconn};
pub use netns::{Netns, Pair};
pub use ss::{Socket, rows, ss};

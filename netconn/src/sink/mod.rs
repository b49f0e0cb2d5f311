//! Where encoded events go: files, standard output and the history, each with a thread of its own behind a bounded queue, and
//! clients that listen to the stream. A queue that is full drops what comes and counts it; nobody waits.

mod output;
mod stream;

pub use output::{Batch, Counters, Output, OutputError};
pub use stream::Stream;

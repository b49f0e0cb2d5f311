//! Answers queries: Apache DataFusion over the files that hold events.

pub mod error;
pub(crate) mod source;
pub(crate) mod function;
pub mod plan;
pub(crate) mod names;
pub(crate) mod pool;
mod rules;
pub mod session;
pub mod gaps;
pub mod search;
mod pace;
pub mod convert;

#[cfg(test)]
mod tests;

pub use convert::{Converted, ConvertedRows, HandedOver, convert};
pub(crate) use error::OPEN_FILES;
pub use error::SearchError;
pub use gaps::{Gap, Gaps, Recording};
pub use plan::Warning;
pub use search::{Answer, Explained, Search};
pub use session::runtime;
pub use source::events::{EventLine, EventSource, FoundFile, event_files};
pub use source::progress::{ProgressSnapshot, SearchProgress};

//! What DataFusion works with: memory, threads, options.

use std::{io, num::NonZeroUsize, sync::Arc};

use datafusion::{
    execution::{SessionState, SessionStateBuilder, memory_pool::TrackConsumersPool, runtime_env::RuntimeEnvBuilder},
    prelude::SessionConfig,
};
use tokio::runtime::{Builder, Runtime};

use super::{error::Result, plan::Keep, pool::SearchPool, rules};

/// Stack of a thread: plans are walked recursively. Only what is used of it costs memory.
const STACK: usize = 64 * 1024 * 1024;

/// Part of the memory that is for footers of Parquet files.
const FOOTERS: usize = 10;

/// Consumers that an error about memory names.
const NAMED: NonZeroUsize = NonZeroUsize::MIN;

/// The threads that searches run on: those of another runtime may have too little stack for long queries.
///
/// # Errors
///
/// The system gives no threads.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().thread_stack_size(STACK).enable_all().build()
}

/// A session that uses at most so many bytes, and files in the system's temporary folder beyond that.
pub(crate) fn session(memory: usize) -> Result<SessionState> {
    let footers = memory / FOOTERS;
    let pool = TrackConsumersPool::new(SearchPool::new(memory - footers), NAMED);
    let runtime =
        RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).with_metadata_cache_limit(footers).build_arc()?;
    let mut config = SessionConfig::new();
    let options = config.options_mut();
    options.catalog.create_default_catalog_and_schema = false;
    // Sorts and groups leave room for what they merge later; several of them have to fit.
    options.execution.sort_spill_reservation_bytes = (memory / 20).clamp(1024 * 1024, 10 * 1024 * 1024);
    // To a plan `IS TRUE` is never missing, to its expressions it may be: such columns of a group are no mistake.
    options.execution.skip_physical_aggregate_schema_check = true;
    // The readers decide that by their columns; conditions come in the order of what they cost.
    options.execution.parquet.pushdown_filters = false;
    options.execution.parquet.reorder_filters = false;
    // Rules of the optimizer ask for functions by their names.
    let aggregates = datafusion::functions_aggregate::all_default_aggregate_functions();
    let builder = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime);
    let builder = builder.with_analyzer_rule(Arc::new(Keep));
    let builder = builder.with_optimizer_rules(rules::logical()).with_physical_optimizer_rules(rules::physical());
    Ok(builder.with_aggregate_functions(aggregates).build())
}

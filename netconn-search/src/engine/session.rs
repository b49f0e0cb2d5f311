//! The session of DataFusion: memory, threads, options.

use std::{io, num::NonZeroUsize, sync::Arc};

use datafusion::{
    execution::{SessionState, SessionStateBuilder, memory_pool::TrackConsumersPool, runtime_env::RuntimeEnvBuilder},
    prelude::SessionConfig,
};
use tokio::runtime::{Builder, Runtime};

use super::{error::Result, plan::HideWideColumns, pool::SearchPool, rules};

/// Stack of a thread, bytes: DataFusion walks plans recursively. Only the used part costs memory.
const STACK: usize = 64 * 1024 * 1024;

/// One part in this many of the memory is for footers of Parquet files.
const FOOTERS: usize = 10;

/// Number of memory consumers that an error names.
const NAMED: NonZeroUsize = NonZeroUsize::MIN;

/// Creates the runtime that searches need: threads of another one may have too little stack for long queries.
///
/// # Errors
///
/// The system refuses a thread.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().thread_stack_size(STACK).enable_all().build()
}

/// Creates a session that uses at most this many bytes of memory, and files in the system's temporary folder beyond
/// that.
pub(crate) fn session(memory: usize) -> Result<SessionState> {
    // Footers are not counted by the pool, so their share is taken from it.
    let footers = memory / FOOTERS;
    let pool = TrackConsumersPool::new(SearchPool::new(memory - footers), NAMED);
    let runtime =
        RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).with_metadata_cache_limit(footers).build_arc()?;
    let mut config = SessionConfig::new();
    let options = config.options_mut();
    // Queries are planned without SQL, so no catalogue of tables is needed.
    options.catalog.create_default_catalog_and_schema = false;
    // Sorts and groups reserve this much for merging later, and several of them must fit into the memory.
    options.execution.sort_spill_reservation_bytes = (memory / 20).clamp(1024 * 1024, 10 * 1024 * 1024);
    // DataFusion takes `IS TRUE` for never missing in plans and for maybe missing in expressions, which makes this
    // check fail for some groups.
    options.execution.skip_physical_aggregate_schema_check = true;
    // Our readers decide this by the columns they read, and our planner orders the conditions by their cost.
    options.execution.parquet.pushdown_filters = false;
    options.execution.parquet.reorder_filters = false;
    // Optimizer rules look functions up by name.
    let aggregates = datafusion::functions_aggregate::all_default_aggregate_functions();
    let builder = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime);
    // An analyzer rule runs before all optimizer rules, which are what would copy the columns.
    let builder = builder.with_analyzer_rule(Arc::new(HideWideColumns));
    let builder = builder.with_optimizer_rules(rules::logical()).with_physical_optimizer_rules(rules::physical());
    Ok(builder.with_aggregate_functions(aggregates).build())
}

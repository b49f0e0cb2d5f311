//! From a plan of what to compute to a plan of how.

use std::sync::Arc;

use datafusion::{
    error::DataFusionError,
    execution::SessionState,
    logical_expr::LogicalPlan,
    physical_optimizer::{PhysicalOptimizerRule, sanity_checker::SanityCheckPlan},
    physical_plan::ExecutionPlan,
};

use crate::engine::error::Result;

/// Returns the plan that runs a logical plan.
///
/// DataFusion (55.2) refuses some of its own plans, because a rule has taken rows for sorted that are not: a side of a join that
/// is a group by a constant. With a single partition nothing has to be merged in order, so those are planned again with one.
pub(crate) async fn physical_plan(state: &SessionState, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    match state.create_physical_plan(plan).await {
        Err(DataFusionError::Context(rule, _)) if rule == SanityCheckPlan::new().name() => {
            // The session is shared, so the setting is changed in a copy.
            let mut single = state.clone();
            single.config_mut().options_mut().execution.target_partitions = 1;
            Ok(single.create_physical_plan(plan).await?)
        }
        plan => Ok(plan?),
    }
}

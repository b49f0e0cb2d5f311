//! DataFusion's optimizer rules, without those that are wrong in 55.2.

use std::{fmt, sync::Arc};

use datafusion::{
    common::{
        Result,
        config::ConfigOptions,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::LogicalPlan,
    optimizer::{
        ApplyOrder, OptimizerConfig, OptimizerRule, eliminate_outer_join::EliminateOuterJoin, optimizer::Optimizer,
        push_down_filter::PushDownFilter,
    },
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_optimizer::{
        PhysicalOptimizerRule, ensure_requirements::EnsureRequirements, optimizer::PhysicalOptimizer,
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
        execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions},
        filter_pushdown::{ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation},
        joins::HashJoinExec,
        union::UnionExec,
    },
};

use super::plan::filters_opaque;

/// Returns the rules for logical plans.
pub(crate) fn logical() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Optimizer::new().rules;
    // This rule copies the expression of a column into conditions, whatever it costs.
    let own: [Arc<dyn OptimizerRule + Send + Sync>; 2] = [
        Arc::new(SkipRule { rule: EliminateOuterJoin::new(), leaves: filters_opaque }),
        Arc::new(SkipRule { rule: PushDownFilter::new(), leaves: filters_whole }),
    ];
    for own in own {
        // Rules are replaced where they stand: their order is part of what makes the optimizer end.
        for rule in rules.iter_mut().filter(|rule| rule.name() == own.name()) {
            *rule = Arc::clone(&own);
        }
    }
    rules
}

/// Returns the rules for physical plans. Ours comes before the rule that adds sorts and after those that need
/// statistics of row counts.
pub(crate) fn physical() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    // Without that rule in a later DataFusion the barrier comes first, which is safe but loses statistics.
    let sorting = rules.iter().position(|rule| rule.name() == EnsureRequirements::new().name()).unwrap_or(0);
    rules.insert(sorting, Arc::new(Fences));
    rules
}

/// A rule that leaves some plans as they are.
#[derive(Debug)]
struct SkipRule<Rule> {
    rule: Rule,
    leaves: fn(&LogicalPlan) -> bool,
}

impl<Rule: OptimizerRule> OptimizerRule for SkipRule<Rule> {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if (self.leaves)(&plan) { Ok(Transformed::no(plan)) } else { self.rule.rewrite(plan, config) }
    }
}

/// Whether the plan is a filter above an aggregate without keys. Such an aggregate has a row even without input, so a
/// condition without columns must not move below it. In a union, conditions lose their columns when the column is
/// missing on one side.
fn filters_whole(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Filter(filter) = plan else { return false };
    matches!(filter.input.as_ref(), LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty())
}

/// Puts a [`OrderBarrier`] above unions and outer joins.
#[derive(Debug)]
struct Fences;

impl PhysicalOptimizerRule for Fences {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            let is_outer_join = plan.downcast_ref::<HashJoinExec>().is_some_and(|join| join.join_type().is_outer());
            if !is_outer_join && !plan.is::<UnionExec>() {
                return Ok(Transformed::no(plan));
            }
            let fence: Arc<dyn ExecutionPlan> = Arc::new(OrderBarrier::new(plan));
            Ok(Transformed::yes(fence))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "fences"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A step that hides from DataFusion in which order rows are, and which columns are constant or equal.
///
/// - It sorts the sides of a union for a sort above it, each without the columns that are constant or the same as others on that side
///   (`pushdown_sorts`), and then cannot tell that all are in the order asked for (`calculate_union` knows of no equal columns):
///   `SanityCheckPlan` refuses the plan.
/// - What is constant on a side of an outer join it takes for constant behind the join (`EquivalenceGroup::join`), where it is missing in
///   rows without that side: sorts leave it out.
#[derive(Debug)]
struct OrderBarrier {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl OrderBarrier {
    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::clone(input.properties());
        // Partitioning and boundedness stay those of the input; only order and equalities are forgotten.
        let properties = properties.with_eq_properties(EquivalenceProperties::new(input.schema()));
        Self { input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for OrderBarrier {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OrderBarrier")
    }
}

impl ExecutionPlan for OrderBarrier {
    fn name(&self) -> &'static str {
        "OrderBarrier"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        // The step has no expressions of its own.
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0))))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        // Rows pass unchanged, so conditions may pass too; the default of this method stops them here.
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(result))
    }
}

//! Runs the subqueries of `x in (subquery)` first and replaces them by their values.

use datafusion::{
    arrow::array::ArrayRef,
    physical_plan::{collect, execute_stream},
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use hashbrown::HashSet;
use netconn_query::{
    ast::{self, ExprKind, Query, Span},
    value::Value,
};

use super::{
    Planner,
    physical::physical_plan,
    rows::{Rows, column},
};
use crate::engine::{
    error::{Result, SearchError},
    function::column::{normal, value_at},
};

/// Largest number of values of a subquery.
const MOST: usize = 1_000_000;

impl Planner {
    /// Replaces the subqueries of an expression by their values.
    pub(crate) fn resolve<'a>(&'a self, expr: &'a ast::Expr) -> BoxFuture<'a, Result<ast::Expr>> {
        async move {
            let mut expr = expr.clone();
            if !expr.has(|kind| matches!(kind, ExprKind::InQuery { .. })) {
                return Ok(expr);
            }
            // The value in front of `in` may have a subquery itself, so it is resolved first.
            for child in expr.children_mut() {
                *child = self.resolve(child).await?;
            }
            if let ExprKind::InQuery { case, value, query } = expr.kind {
                let set = self.values(&value, &query, expr.span).await?;
                expr = ast::Expr { kind: ExprKind::In { case, value, set }, span: expr.span };
            }
            Ok(expr)
        }
        .boxed()
    }

    /// Replaces the subqueries of columns by their values.
    pub(crate) async fn resolve_all(&self, columns: &[ast::Column]) -> Result<Vec<ast::Column>> {
        let mut resolved = Vec::with_capacity(columns.len());
        for column in columns {
            resolved.push(ast::Column { expr: self.resolve(&column.expr).await?, ..column.clone() });
        }
        Ok(resolved)
    }

    async fn values(&self, value: &ast::Expr, query: &Query, span: Span) -> Result<Vec<ast::Expr>> {
        let rows = self.query(query).await?;
        let name = match &value.kind {
            ExprKind::Field(name) => rows.resolve(name),
            _ => None,
        };
        let name = match (name, rows.columns.as_slice()) {
            (Some(name), _) => name,
            // A single column needs no matching name.
            (None, [only]) => only.clone(),
            (None, _) => {
                let message = "the subquery has no column of that name: end it with | columns and the field to compare";
                return Err(SearchError::query(message, span));
            }
        };
        let distinct = datafusion::logical_expr::LogicalPlanBuilder::from(rows.plan)
            // The order of the subquery is left out with its hidden columns: a set has none.
            .project([column(&name).alias(&name)])?
            .distinct()?
            .build()?;
        let physical = physical_plan(&self.state, &distinct).await?;
        let mut stream = execute_stream(physical, self.state.task_ctx())?;
        let mut set = Vec::new();
        // Distinct values may still be equal as texts: arrays and moments become texts in `literal`.
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|error| SearchError::engine(error, self.settings.memory))?;
            for row in 0..batch.num_rows() {
                let kind = literal(batch.column(0), row)?;
                if let ExprKind::Text(text) = &kind
                    && !seen.insert(text.clone())
                {
                    continue;
                }
                // The values become literals of the query, so all later steps work as if they were written out.
                set.push(ast::Expr { kind, span });
            }
            // Checked with each batch, so the set cannot grow far beyond the limit.
            if set.len() > MOST {
                let message = "the subquery has more than a million values: narrow its filter, or use join";
                return Err(SearchError::query(message, span));
            }
        }
        Ok(set)
    }

    /// Runs a plan and returns its rows as a table in memory.
    pub(crate) async fn collected(&self, rows: Rows, most: usize, span: Span, what: &str) -> Result<Rows> {
        let physical = physical_plan(&self.state, &rows.plan).await?;
        let schema = physical.schema();
        let batches = collect(physical, self.state.task_ctx())
            .await
            .map_err(|error| SearchError::engine(error, self.settings.memory))?;
        if batches.iter().map(datafusion::arrow::array::RecordBatch::num_rows).sum::<usize>() > most {
            let message =
                format!("{what} takes at most {most} rows, and there are more: narrow the filter or group first");
            return Err(SearchError::query(message, span));
        }
        let table = datafusion::datasource::MemTable::try_new(schema, vec![batches])?;
        let source = datafusion::datasource::provider_as_source(std::sync::Arc::new(table));
        let plan = datafusion::logical_expr::LogicalPlanBuilder::scan("rows", source, None)?.build()?;
        // All columns are kept, also hidden ones, so what is known about the rows still holds.
        Ok(Rows { plan, ..rows })
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of the language are 64-bit floats")]
fn literal(column: &ArrayRef, row: usize) -> Result<ExprKind> {
    let column = normal(column)?;
    Ok(match value_at(&column, row) {
        Value::Null => ExprKind::Null,
        Value::Bool(value) => ExprKind::Bool(value),
        // Beyond 2^53 a float would lose digits.
        Value::Integer(value) if value.unsigned_abs() > 1 << 53 => ExprKind::Whole(value),
        Value::Integer(value) => ExprKind::Number(value as f64),
        Value::Number(value) => ExprKind::Number(value),
        value => ExprKind::Text(value.text().unwrap_or_default().into_owned()),
    })
}

//! Plans `array.map(func(x) -> …)` and the like: the lambda is evaluated once for the elements of all arrays of a
//! batch.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, BooleanArray, BooleanBuilder, ListArray, RecordBatch, RecordBatchOptions,
            UInt32Array,
        },
        buffer::OffsetBuffer,
        compute::{filter, take},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    common::DFSchema,
    error::Result as EngineResult,
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
    physical_plan::PhysicalExpr,
};
use netconn_query::{
    ast::{self, ExprKind, Span},
    function::LambdaKind,
    value::ValueKind,
};

use super::{fold, operand::Operand, rows::column, scope::Scope};
use crate::engine::{
    error::{Result, SearchError},
    function::column::{data_type, normal},
};

/// A function with a lambda, as a function of DataFusion. Its arguments are the array and the columns that the lambda
/// uses.
#[derive(Debug)]
struct Lambda {
    how: LambdaKind,
    body: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    signature: Signature,
    returns: ValueKind,
}

impl PartialEq for Lambda {
    fn eq(&self, other: &Self) -> bool {
        self.how == other.how && self.body.to_string() == other.body.to_string() && self.schema == other.schema
    }
}

impl Eq for Lambda {}

impl Hash for Lambda {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The schema is left out: equal functions still have equal hashes.
        self.how.hash(state);
        self.body.to_string().hash(state);
    }
}

/// Plans a call of `map`, `filter`, `array_filter`, `match_any` or `match_all`.
pub(crate) fn call(
    scope: &Scope<'_>,
    how: LambdaKind,
    name: &str,
    arguments: &[ast::Expr],
    span: Span,
) -> Result<Operand> {
    if let LambdaKind::Reduce | LambdaKind::Zip = how {
        return fold::call(scope, how, name, arguments, span);
    }
    let [array, ast::Expr { kind: ExprKind::Lambda { parameters, body }, .. }] = arguments else {
        let message = format!("{name} takes an array and a function: {name}(array, func(x) -> …)");
        return Err(SearchError::query(message, span));
    };
    let [parameter] = &parameters[..] else {
        return Err(SearchError::query(format!("{name} takes a function of an element: func(x) -> …"), span));
    };
    let array = scope.value(array)?;
    let ValueKind::List(element) = array.kind else {
        // A field that no event has is missing in each row, and so is the result: a search over other files may have
        // it.
        if array.kind == ValueKind::Null {
            return Ok(Operand::null());
        }
        return Err(SearchError::query(format!("{name} takes an array, and this is not one"), span));
    };
    // The element becomes a column of its own. A hidden name cannot be that of a captured column.
    let place = scope.planner.planning.hidden();
    // Parameters of the lambdas around stay known in the body; one of the same name is covered.
    let mut names = scope.names.clone();
    names.insert(parameter.text.clone(), Operand::new(column(&place), *element));
    let inner = Scope { planner: scope.planner, rows: scope.rows, names, reduces: scope.reduces };
    let body = match how {
        LambdaKind::Map => inner.value(body)?,
        _ => Operand::new(inner.condition(body)?, ValueKind::Bool),
    };
    let (captured, schema) = captured(scope, &body.expr, &[(&place, *element)]);
    // A missing value has no type, so it becomes a text.
    let body_kind = if body.kind == ValueKind::Null { ValueKind::Text } else { body.kind };
    let returns = match how {
        LambdaKind::Map => ValueKind::list(body_kind),
        LambdaKind::Filter => array.kind,
        _ => ValueKind::Bool,
    };
    // Arrays in arrays become texts.
    let body = match (how, returns) {
        (LambdaKind::Map, ValueKind::List(kind)) => body.to(*kind),
        _ => body.expr,
    };
    // The body is made executable here, because it runs over elements and not over the rows of the plan.
    let body = scope.planner.state.create_physical_expr(body, &DFSchema::try_from(Arc::clone(&schema))?)?;
    let lambda = Lambda { how, body, schema, signature: Signature::variadic_any(Volatility::Immutable), returns };
    // Captured columns are arguments, so that DataFusion sees what is used and does not drop it.
    let mut operands = vec![array.expr];
    operands.extend(captured.iter().map(|name| column(name)));
    Ok(Operand::new(ScalarUDF::from(lambda).call(operands), returns))
}

/// Returns the columns that the body of a lambda uses, sorted, and the schema that it is evaluated over: the elements, then these
/// columns.
pub(super) fn captured(scope: &Scope<'_>, body: &Expr, elements: &[(&str, ValueKind)]) -> (Vec<String>, SchemaRef) {
    let is_element = |name: &str| elements.iter().any(|(element, _)| *element == name);
    // `column_refs` is a set without an order, but the columns have to be in the same order as the arguments.
    let names = body.column_refs().into_iter().map(|column| column.name.clone());
    let mut captured: Vec<String> = names.filter(|name| !is_element(name)).collect();
    captured.sort_unstable();
    let mut fields: Vec<Field> =
        elements.iter().map(|(name, kind)| Field::new(*name, data_type(*kind), true)).collect();
    for name in &captured {
        // In a lambda within a lambda, a captured column may be the element of the one around, which is no column of
        // the rows.
        let outer = scope.names.values().find(|operand| operand.expr == column(name));
        let kind = outer.map_or_else(|| scope.rows.kind(name), |operand| operand.kind);
        fields.push(Field::new(name, data_type(kind), true));
    }
    (captured, Arc::new(Schema::new(fields)))
}

impl ScalarUDFImpl for Lambda {
    fn name(&self) -> &str {
        "lambda"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(data_type(self.returns))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let rows = arguments.number_rows;
        let mut columns = Vec::with_capacity(arguments.args.len());
        for argument in &arguments.args {
            columns.push(normal(&argument.to_array(rows)?)?);
        }
        // The planner has refused everything else, and `normal` makes all lists `List`.
        let lists = columns[0].as_list::<i32>();
        // The row of each element, and its place among the values of all rows.
        let mut owners: Vec<u32> = Vec::with_capacity(lists.values().len());
        let mut places: Vec<u32> = Vec::with_capacity(lists.values().len());
        let offsets = lists.value_offsets();
        for row in (0..lists.len()).filter(|row| lists.is_valid(*row)) {
            // Not all values belong to rows: a sliced array keeps its values, and a missing row may have some.
            for place in offsets[row]..offsets[row + 1] {
                // Rows of a batch and offsets of a list fit into 31 bits.
                owners.push(u32::try_from(row).unwrap_or(u32::MAX));
                places.push(u32::try_from(place).unwrap_or(u32::MAX));
            }
        }
        let (owners, places) = (UInt32Array::from(owners), UInt32Array::from(places));
        // From here on there is one row for each element, with the captured values of the row that owns it.
        let elements = take(lists.values(), &places, None)?;
        let mut inputs: Vec<ArrayRef> = vec![Arc::clone(&elements)];
        for column in &columns[1..] {
            inputs.push(take(column, &owners, None)?);
        }
        // A batch of no elements has no column that could tell its length.
        let options = RecordBatchOptions::new().with_row_count(Some(elements.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), inputs, &options)?;
        let results = self.body.evaluate(&batch)?.into_array(elements.len())?;
        self.gather(lists, &elements, &results)
    }
}

impl Lambda {
    fn gather(&self, lists: &ListArray, elements: &ArrayRef, results: &ArrayRef) -> EngineResult<ColumnarValue> {
        // Missing rows contributed no elements, so they count none here: results are in the same order without gaps.
        let length = |row: usize| if lists.is_valid(row) { lists.value(row).len() } else { 0 };
        if self.how == LambdaKind::Map {
            let field = Arc::new(Field::new_list_field(results.data_type().clone(), true));
            let offsets = OffsetBuffer::from_lengths((0..lists.len()).map(length));
            let array = ListArray::try_new(field, offsets, Arc::clone(results), lists.nulls().cloned())?;
            return Ok(ColumnarValue::Array(Arc::new(array)));
        }
        let flags = results.as_boolean();
        let is_true = |place: usize| flags.is_valid(place) && flags.value(place);
        let mut start = 0;
        let mut counts = Vec::with_capacity(lists.len());
        let mut all = BooleanBuilder::with_capacity(lists.len());
        for row in 0..lists.len() {
            let end = start + length(row);
            let count = (start..end).filter(|place| is_true(*place)).count();
            counts.push(count);
            all.append_option(lists.is_valid(row).then_some(match self.how {
                LambdaKind::Any => count > 0,
                // For `map` and `filter` this column is not used.
                _ => count == end - start,
            }));
            start = end;
        }
        if self.how != LambdaKind::Filter {
            return Ok(ColumnarValue::Array(Arc::new(all.finish())));
        }
        // Missing flags count as false, here as in `counts`.
        let kept = filter(elements, &BooleanArray::from_iter((0..flags.len()).map(|place| Some(is_true(place)))))?;
        let field = Arc::new(Field::new_list_field(kept.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths(counts);
        Ok(ColumnarValue::Array(Arc::new(ListArray::try_new(field, offsets, kept, lists.nulls().cloned())?)))
    }
}

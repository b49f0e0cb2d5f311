//! Plans `array.reduce(first, func(x, y) -> …)` and `array.zip(other, func(x, y) -> …)`, whose lambdas have two elements.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, RecordBatchOptions, UInt32Array},
        buffer::{NullBuffer, OffsetBuffer},
        compute::{interleave, take},
        datatypes::{DataType, Field, SchemaRef},
    },
    common::DFSchema,
    error::Result as EngineResult,
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
    physical_plan::PhysicalExpr,
};
use netconn_query::{
    ast::{self, ExprKind, Span},
    function::{LambdaKind, REDUCE_MAX, too_many_reduces},
    value::ValueKind,
};

use super::{lambda::captured, operand::Operand, rows::column, scope::Scope};
use crate::engine::{
    error::{Result, SearchError},
    function::column::{data_type, normal},
};

/// A function with such a lambda, as a function of DataFusion. Its arguments are the array, the first value or the other array,
/// and the columns that the lambda uses.
#[derive(Debug)]
struct Fold {
    how: LambdaKind,
    body: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    signature: Signature,
    returns: ValueKind,
}

impl PartialEq for Fold {
    fn eq(&self, other: &Self) -> bool {
        self.how == other.how && self.body.to_string() == other.body.to_string() && self.schema == other.schema
    }
}

impl Eq for Fold {}

impl Hash for Fold {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The schema is left out: equal functions still have equal hashes.
        self.how.hash(state);
        self.body.to_string().hash(state);
    }
}

/// Plans a call of `reduce` or `zip`.
pub(crate) fn call(
    scope: &Scope<'_>,
    how: LambdaKind,
    name: &str,
    arguments: &[ast::Expr],
    span: Span,
) -> Result<Operand> {
    let [array, second, ast::Expr { kind: ExprKind::Lambda { parameters, body }, .. }] = arguments else {
        let message = format!("{name} takes an array, another value, and a function: func(x, y) -> …");
        return Err(SearchError::query(message, span));
    };
    let [x, y] = &parameters[..] else {
        return Err(SearchError::query(format!("{name} takes a function of two elements: func(x, y) -> …"), span));
    };
    let (array, second) = (scope.value(array)?, scope.value(second)?);
    let element = match (array.kind, second.kind) {
        // A field that no event has is missing in each row, and so is the result.
        (ValueKind::Null, _) => return Ok(Operand::null()),
        (_, ValueKind::Null) if how == LambdaKind::Zip => return Ok(Operand::null()),
        (ValueKind::List(element), ValueKind::List(_)) => *element,
        (ValueKind::List(element), _) if how == LambdaKind::Reduce => *element,
        (ValueKind::List(_), _) => {
            return Err(SearchError::query(format!("{name} takes two arrays, and the second is not one"), span));
        }
        _ => return Err(SearchError::query(format!("{name} takes an array, and this is not one"), span)),
    };
    let places = [scope.planner.planning.hidden(), scope.planner.planning.hidden()];
    let reduces = scope.reduces + usize::from(how == LambdaKind::Reduce);
    if reduces > REDUCE_MAX {
        return Err(SearchError::query(too_many_reduces(), span));
    }
    let planned = |kinds: [ValueKind; 2]| {
        let mut names = scope.names.clone();
        for ((name, place), kind) in [x, y].into_iter().zip(&places).zip(kinds) {
            names.insert(name.text.clone(), Operand::new(column(place), kind));
        }
        Scope { planner: scope.planner, rows: scope.rows, names, reduces }.value(body)
    };
    // A missing value has no type, so it becomes a text.
    let typed = |kind: ValueKind| if kind == ValueKind::Null { ValueKind::Text } else { kind };
    let (body, kinds, second, returns) = if let (LambdaKind::Zip, ValueKind::List(other)) = (how, second.kind) {
        let body = planned([element, *other])?;
        let returns = ValueKind::list(typed(body.kind));
        // Arrays in arrays become texts.
        let made = if let ValueKind::List(made) = returns { *made } else { returns };
        (body.to(made), [element, *other], second.expr, returns)
    } else {
        // The result has the kind that holds both the first value and what the function returns.
        let mut body = planned([second.kind, element])?;
        let kind = typed(second.kind.with(body.kind));
        // Planned again only if the first value has become of another kind: the time doubles with each level.
        if kind != second.kind {
            body = planned([kind, element])?;
        }
        (body.to(kind), [kind, element], second.to(kind), kind)
    };
    let elements = [(places[0].as_str(), kinds[0]), (places[1].as_str(), kinds[1])];
    let (captured, schema) = captured(scope, &body, &elements);
    // The body is made executable here, because it runs over elements and not over the rows of the plan.
    let body = scope.planner.state.create_physical_expr(body, &DFSchema::try_from(Arc::clone(&schema))?)?;
    let fold = Fold { how, body, schema, signature: Signature::variadic_any(Volatility::Immutable), returns };
    // Captured columns are arguments, so that DataFusion sees what is used and does not drop it.
    let mut operands: Vec<Expr> = vec![array.expr, second];
    operands.extend(captured.iter().map(|name| column(name)));
    Ok(Operand::new(ScalarUDF::from(fold).call(operands), returns))
}

impl ScalarUDFImpl for Fold {
    fn name(&self) -> &str {
        "fold"
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
        let result = if self.how == LambdaKind::Zip { self.zip(&columns)? } else { self.reduce(&columns)? };
        Ok(ColumnarValue::Array(result))
    }
}

impl Fold {
    /// Evaluates the body over pairs of elements; `owners` are the rows that they belong to.
    fn evaluate(&self, pair: &[ArrayRef; 2], captured: &[ArrayRef], owners: &UInt32Array) -> EngineResult<ArrayRef> {
        let mut inputs = pair.to_vec();
        for column in captured {
            inputs.push(take(column, owners, None)?);
        }
        // A batch of no elements has no column that could tell its length.
        let options = RecordBatchOptions::new().with_row_count(Some(owners.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), inputs, &options)?;
        self.body.evaluate(&batch)?.into_array(owners.len())
    }

    fn zip(&self, columns: &[ArrayRef]) -> EngineResult<ArrayRef> {
        // The planner has refused everything else, and `normal` makes all lists `List`.
        let (left, right) = (columns[0].as_list::<i32>(), columns[1].as_list::<i32>());
        let (mut owners, mut lefts, mut rights, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for row in 0..left.len() {
            let length = length(left, row).min(length(right, row));
            lengths.push(usize::try_from(length).unwrap_or(0));
            for place in 0..length {
                // Rows of a batch and offsets of a list fit into 31 bits.
                owners.push(u32::try_from(row).unwrap_or(u32::MAX));
                lefts.push(u32::try_from(left.value_offsets()[row] + place).unwrap_or(u32::MAX));
                rights.push(u32::try_from(right.value_offsets()[row] + place).unwrap_or(u32::MAX));
            }
        }
        let pair = [
            take(left.values(), &UInt32Array::from(lefts), None)?,
            take(right.values(), &UInt32Array::from(rights), None)?,
        ];
        let results = self.evaluate(&pair, &columns[2..], &UInt32Array::from(owners))?;
        let field = Arc::new(Field::new_list_field(results.data_type().clone(), true));
        let there = NullBuffer::from_iter((0..left.len()).map(|row| left.is_valid(row) && right.is_valid(row)));
        Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), results, Some(there))?))
    }

    /// Takes one step for all rows at a time: as many as the longest array has elements.
    fn reduce(&self, columns: &[ArrayRef]) -> EngineResult<ArrayRef> {
        let lists = columns[0].as_list::<i32>();
        let mut results = Arc::clone(&columns[1]);
        let steps = (0..lists.len()).map(|row| length(lists, row)).max().unwrap_or(0);
        for step in 0..steps {
            let (mut owners, mut places) = (Vec::new(), Vec::new());
            for row in (0..lists.len()).filter(|row| length(lists, *row) > step) {
                owners.push(u32::try_from(row).unwrap_or(u32::MAX));
                places.push(u32::try_from(lists.value_offsets()[row] + step).unwrap_or(u32::MAX));
            }
            let owners = UInt32Array::from(owners);
            let pair = [take(&results, &owners, None)?, take(lists.values(), &UInt32Array::from(places), None)?];
            let made = self.evaluate(&pair, &columns[2..], &owners)?;
            // Rows whose arrays have ended keep their results.
            let mut sources: Vec<(usize, usize)> = (0..lists.len()).map(|row| (0, row)).collect();
            for (place, row) in owners.values().iter().enumerate() {
                sources[*row as usize] = (1, place);
            }
            results = interleave(&[&*results, &*made], &sources)?;
        }
        // Of a missing array there is no result.
        let there = (0..lists.len()).map(|row| lists.is_valid(row).then(|| u32::try_from(row).unwrap_or(u32::MAX)));
        Ok(take(&results, &UInt32Array::from_iter(there), None)?)
    }
}

/// Returns the number of elements of a row; 0 if the array is missing.
fn length(lists: &ListArray, row: usize) -> i32 {
    if lists.is_valid(row) { lists.value_length(row) } else { 0 }
}

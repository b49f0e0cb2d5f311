//! Makes a function of DataFusion of one of the table.

use std::{
    cell::RefCell,
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::{array::ArrayRef, datatypes::DataType},
    error::Result,
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
    scalar::ScalarValue,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;
use netconn_query::{
    address,
    function::{Patterns, RowFunction, Run},
    value::{Value, ValueKind},
};
use regex::Regex;

use super::{
    column::{Column, data_type, kind_of, normal, value_at},
    geography::{self, Database},
};

type Cache<T> = RefCell<HashMap<String, Option<T>, RandomState>>;

/// Patterns that are kept between the rows of a batch.
#[derive(Default)]
struct Kept {
    regexes: Cache<Arc<Regex>>,
    networks: Cache<IpNet>,
}

impl Patterns for Kept {
    fn regex(&self, pattern: &str) -> Option<Arc<Regex>> {
        cached(&self.regexes, pattern, |pattern| Regex::new(pattern).ok().map(Arc::new))
    }

    fn network(&self, text: &str) -> Option<IpNet> {
        cached(&self.networks, text, address::network)
    }
}

fn cached<T: Clone>(cache: &Cache<T>, key: &str, make: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    // `make` is called while the cache is borrowed, so it must not look into the cache; the two callers only compile.
    let mut cache = cache.borrow_mut();
    if let Some(value) = cache.get(key) {
        return value.clone();
    }
    let value = make(key);
    // Failures are kept too: a column of texts that are no pattern would be compiled again for each row.
    cache.insert(key.to_owned(), value.clone());
    value
}

/// The function that DataFusion calls.
#[derive(Debug)]
struct Scalar {
    function: RowFunction,
    signature: Signature,
    database: Option<Database>,
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        // The database is left out: a search has at most one, so it cannot differ between calls.
        self.function == other.function
    }
}

impl Eq for Scalar {}

impl Hash for Scalar {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.hash(state);
    }
}

/// Returns a call of a function.
pub(crate) fn call(function: RowFunction, database: Option<&Database>, arguments: Vec<Expr>) -> Expr {
    // `variadic_any` demands at least one argument.
    let signature = match arguments.is_empty() {
        true => Signature::nullary(Volatility::Immutable),
        false => Signature::variadic_any(Volatility::Immutable),
    };
    // Immutable for every function: the optimizer may then evaluate calls of literals once, in `invoke_with_args` with
    // scalars.
    ScalarUDF::from(Scalar { function, signature, database: database.cloned() }).call(arguments)
}

impl ScalarUDFImpl for Scalar {
    fn name(&self) -> &str {
        self.function.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let kinds: Vec<ValueKind> = arguments.iter().map(kind_of).collect();
        Ok(data_type(self.function.returns.of(&kinds)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // DataFusion expects a scalar for scalars when it folds constants.
        let all_scalar = arguments.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { arguments.number_rows };
        let mut columns: Vec<(ArrayRef, bool)> = Vec::with_capacity(arguments.args.len());
        for argument in &arguments.args {
            // A scalar is not repeated for each row: it stays a column of one row, which `value_at` reads at place 0.
            columns.push(match argument {
                ColumnarValue::Array(array) => (normal(array)?, false),
                ColumnarValue::Scalar(value) => (normal(&value.to_array()?)?, true),
            });
        }
        // Patterns live for one batch. They cannot live in `self`, which threads share, without a lock.
        let kept = Kept::default();
        let mut result = Column::new(kind_of(arguments.return_field.data_type()));
        // One buffer for all rows saves an allocation for each.
        let mut values = Vec::with_capacity(columns.len());
        for row in 0..rows {
            values.clear();
            values.extend(columns.iter().map(|(column, scalar)| value_at(column, if *scalar { 0 } else { row })));
            result.push(match (self.function.run, &self.database) {
                (Run::Values(run), _) => run(&values),
                (Run::Patterns(run), _) => run(&kept, &values),
                (Run::Geography(place), Some(database)) => {
                    geography::look_up(database, place, &values[0], values.get(1))
                }
                // The planner has said so.
                (Run::Geography(_), None) => Value::Null,
            });
        }
        let result = result.finish();
        Ok(if all_scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)
        } else {
            ColumnarValue::Array(result)
        })
    }
}

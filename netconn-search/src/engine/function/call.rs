//! Makes a function of DataFusion of one of the table.

use std::{
    cell::RefCell,
    hash::{Hash, Hasher},
    rc::Rc,
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
use regex::Regex;

use super::{
    network,
    table::{Database, RowFunction},
    value::{Column, Kind, Value, normal},
};

type Cache<T> = RefCell<HashMap<String, Option<Rc<T>>, RandomState>>;

/// What the rows of a batch share: compiled expressions and the database of places.
pub(crate) struct Call<'a> {
    regexes: Cache<Regex>,
    networks: Cache<IpNet>,
    database: Option<&'a Database>,
}

impl Call<'_> {
    /// Returns the compiled regular expression; `None` if it is wrong.
    pub(crate) fn regex(&self, pattern: &str) -> Option<Rc<Regex>> {
        cached(&self.regexes, pattern, |pattern| Regex::new(pattern).ok())
    }

    /// Returns the network in a text; `None` if it is none.
    pub(crate) fn network(&self, text: &str) -> Option<Rc<IpNet>> {
        cached(&self.networks, text, network::network)
    }

    /// Returns the database of places.
    pub(crate) fn database(&self) -> Option<&Database> {
        self.database
    }
}

fn cached<T>(cache: &Cache<T>, key: &str, make: impl FnOnce(&str) -> Option<T>) -> Option<Rc<T>> {
    let mut cache = cache.borrow_mut();
    if let Some(value) = cache.get(key) {
        return value.clone();
    }
    let value = make(key).map(Rc::new);
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
    let signature = match arguments.is_empty() {
        true => Signature::nullary(Volatility::Immutable),
        false => Signature::variadic_any(Volatility::Immutable),
    };
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
        let kinds: Vec<Kind> = arguments.iter().map(Kind::of).collect();
        Ok(self.function.returns.of(&kinds).data_type())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_scalar = arguments.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if all_scalar { 1 } else { arguments.number_rows };
        let mut columns: Vec<(ArrayRef, bool)> = Vec::with_capacity(arguments.args.len());
        for argument in &arguments.args {
            columns.push(match argument {
                ColumnarValue::Array(array) => (normal(array)?, false),
                ColumnarValue::Scalar(value) => (normal(&value.to_array()?)?, true),
            });
        }
        let call = Call { regexes: Cache::default(), networks: Cache::default(), database: self.database.as_ref() };
        let mut result = Column::new(Kind::of(arguments.return_field.data_type()));
        let mut values = Vec::with_capacity(columns.len());
        for row in 0..rows {
            values.clear();
            values.extend(columns.iter().map(|(column, scalar)| Value::at(column, if *scalar { 0 } else { row })));
            result.push(self.function.run.row(&call, &values));
        }
        let result = result.finish();
        Ok(if all_scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)
        } else {
            ColumnarValue::Array(result)
        })
    }
}

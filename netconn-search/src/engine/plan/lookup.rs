//! Plans `lookup`: columns of the row of a table that matches.

use std::hash::{Hash, Hasher};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray},
        compute::take,
        datatypes::{DataType, Int64Type},
    },
    error::Result as EngineResult,
    functions::core::expr_fn::coalesce,
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;
use netconn_query::{
    address::{meant, network, plain},
    ast::{LookupColumn, LookupKey, LookupMatch, Name},
    value::{Value, ValueKind},
};
use regex::Regex;

use super::{
    Planner,
    rows::{Rows, column},
    scope::Scope,
    table,
};
use crate::engine::{
    error::{Result, SearchError},
    function::column::{Column, normal, value_at},
};

/// A key of a table's row that is not compared by equality.
#[derive(Debug)]
enum Test {
    Wildcard(Option<Regex>),
    Network(Option<IpNet>),
}

/// Finds the row of a table.
#[derive(Debug)]
struct Index {
    /// The comparison of each key.
    how: Vec<LookupMatch>,
    /// Rows by the keys that must be equal, in the order of the table.
    rows: HashMap<Vec<String>, Vec<usize>, RandomState>,
    /// The other keys of each row.
    tests: Vec<Vec<Test>>,
}

impl Index {
    fn new(keys: &[(LookupMatch, ArrayRef)], rows: usize) -> Self {
        let mut index =
            Self { how: keys.iter().map(|(how, _)| *how).collect(), rows: HashMap::default(), tests: Vec::new() };
        for row in 0..rows {
            let (mut equal, mut tests) = (Vec::new(), Vec::new());
            let mut missing = false;
            for (how, column) in keys {
                let value = value_at(column, row);
                let text = value.text();
                // A missing key of the table equals nothing, not even a missing value.
                missing |= text.is_none();
                let text = text.as_deref().unwrap_or_default();
                match how {
                    // Tables write addresses in any form.
                    LookupMatch::Equal | LookupMatch::AnyOf => equal.push(plain(text).into_owned()),
                    LookupMatch::AnyCase => equal.push(plain(text).to_lowercase()),
                    LookupMatch::Wildcard => tests.push(Test::Wildcard(wildcard(text))),
                    LookupMatch::Cidr => {
                        // A single address stands for the network of it alone.
                        let net = network(text).or_else(|| meant(text).map(IpNet::from));
                        tests.push(Test::Network(net));
                    }
                }
            }
            // Rows that cannot match keep their place, because tests are found by the number of the row.
            index.tests.push(tests);
            if !missing {
                index.rows.entry(equal).or_default().push(row);
            }
        }
        index
    }

    /// Returns the first row that matches; with networks, the row of the longest one.
    fn find(&self, values: &[Value<'_>]) -> Option<usize> {
        let (mut equal, mut others) = (Vec::new(), Vec::new());
        for (how, value) in self.how.iter().zip(values) {
            // A missing value matches no row.
            let text = value.text()?;
            match how {
                LookupMatch::Equal | LookupMatch::AnyOf => equal.push(plain(&text).into_owned()),
                LookupMatch::AnyCase => equal.push(plain(&text).to_lowercase()),
                LookupMatch::Wildcard | LookupMatch::Cidr => others.push(text),
            }
        }
        let rows = self.rows.get(&equal)?;
        if others.is_empty() {
            return rows.first().copied();
        }
        // Parsed once and not for each row of the table.
        let addresses: Vec<_> = others.iter().map(|text| meant(text)).collect();
        let mut best: Option<(usize, u8)> = None;
        for row in rows {
            let mut longest = 0;
            let fits = self.tests[*row].iter().zip(&others).zip(&addresses).all(|((test, text), address)| match test {
                Test::Wildcard(regex) => regex.as_ref().is_some_and(|regex| regex.is_match(text)),
                Test::Network(Some(network)) => {
                    longest = longest.max(network.prefix_len());
                    address.is_some_and(|address| network.contains(&address))
                }
                Test::Network(None) => false,
            });
            // Only a longer network replaces an earlier row, so without networks the first match stays.
            if fits && best.is_none_or(|(_, length)| longest > length) {
                best = Some((*row, longest));
            }
        }
        best.map(|(row, _)| row)
    }
}

/// Compiles a pattern with `*` and `?`.
fn wildcard(pattern: &str) -> Option<Regex> {
    // Case is ignored and `*` crosses lines, as in the other operators with wildcards.
    let mut regex = String::from("(?si)^");
    for letter in pattern.chars() {
        match letter {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            letter => regex.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4]))),
        }
    }
    regex.push('$');
    Regex::new(&regex).ok()
}

/// What a call asks of a table.
#[derive(Debug)]
enum Ask {
    /// The number of the row with these keys.
    Row(Index),
    /// The value of a column in a row.
    Column(ArrayRef),
}

/// A look-up in a table as a function of DataFusion.
#[derive(Debug)]
struct Lookup {
    /// Number that tells it from other look-ups.
    name: String,
    ask: Ask,
    signature: Signature,
}

impl PartialEq for Lookup {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Lookup {}

impl Hash for Lookup {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Lookup {
    // All look-ups have one name; the field `name` is what makes them differ.
    fn name(&self) -> &str {
        "lookup"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(match &self.ask {
            Ask::Row(_) => DataType::Int64,
            Ask::Column(column) => column.data_type().clone(),
        })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let rows = arguments.number_rows;
        let mut columns = Vec::with_capacity(arguments.args.len());
        for argument in &arguments.args {
            columns.push(normal(&argument.to_array(rows)?)?);
        }
        let array = match &self.ask {
            Ask::Column(values) => take(values, columns[0].as_primitive::<Int64Type>(), None)?,
            Ask::Row(index) => {
                let mut found = Column::new(ValueKind::Integer);
                for row in 0..rows {
                    let values: Vec<Value<'_>> = columns.iter().map(|column| value_at(column, row)).collect();
                    // A row number, so that several columns of one table cost a single look-up.
                    let place = index.find(&values).and_then(|place| i64::try_from(place).ok());
                    found.push(place.map_or(Value::Null, Value::Integer));
                }
                found.finish()
            }
        };
        Ok(ColumnarValue::Array(array))
    }
}

fn ask(planner: &Planner, ask: Ask, arguments: Vec<Expr>) -> Expr {
    let name = planner.planning.hidden();
    ScalarUDF::from(Lookup { name, ask, signature: Signature::variadic_any(Volatility::Immutable) }).call(arguments)
}

/// Plans `lookup columns from table by keys`.
pub(crate) fn lookup(
    planner: &Planner,
    rows: &Rows,
    columns: &[LookupColumn],
    table: &Name,
    by: &[LookupKey],
) -> Result<Rows> {
    let content = table::read(planner, table)?;
    let find = |name: &Name| {
        content.column(&name.text).cloned().ok_or_else(|| {
            let known = content.names().join(", ");
            let message = format!("the table '{}' has no column '{}': it has {known}", table.text, name.text);
            SearchError::query(message, name.span)
        })
    };
    let scope = Scope::new(planner, rows);
    let mut keys = Vec::new();
    for key in by {
        keys.push((key.how, find(&key.column)?, scope.value(&key.expr)?.expr));
    }
    // Of keys with `=:anyof` one is enough: a look-up for each, with all other keys, and the first that finds a row decides.
    let (any, all): (Vec<_>, Vec<_>) = keys.into_iter().partition(|(how, ..)| *how == LookupMatch::AnyOf);
    let looked_up = |one: Option<(LookupMatch, ArrayRef, Expr)>| {
        let keys = all.iter().cloned().chain(one);
        let (keys, values): (Vec<_>, Vec<_>) = keys.map(|(how, column, value)| ((how, column), value)).unzip();
        ask(planner, Ask::Row(Index::new(&keys, content.rows())), values)
    };
    // The number of the matching row is a hidden column, from which each column of the table is taken.
    let place = planner.planning.hidden();
    let row = match any.len() {
        0 => looked_up(None),
        _ => coalesce(any.into_iter().map(|key| looked_up(Some(key))).collect()),
    };
    let rows = rows.clone().add_hidden(vec![(place.clone(), row)])?;
    let mut added = Vec::with_capacity(columns.len());
    for wanted in columns {
        let values = find(&wanted.source)?;
        added.push((wanted.name.text.clone(), ask(planner, Ask::Column(values), vec![column(&place)])));
    }
    rows.extend(added, &planner.planning)
}

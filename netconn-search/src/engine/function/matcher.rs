//! Matches texts against a pattern that is known before the query runs. Arrow's kernels would compile it again for each
//! batch, which takes longer than searching the batch.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{AsArray, BooleanArray},
        datatypes::DataType,
    },
    error::{DataFusionError, Result},
    logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility},
};
use regex::Regex;

use super::column::normal;

/// A compiled pattern as a function of DataFusion.
#[derive(Debug)]
struct Matcher {
    regex: Regex,
    /// Name of the call; it has the pattern in it, because DataFusion takes calls of one name and argument for the
    /// same.
    name: String,
    signature: Signature,
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        // `Regex` has no equality, and the name contains the pattern.
        self.name == other.name
    }
}

impl Eq for Matcher {}

impl Hash for Matcher {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

/// Returns whether `subject`, a text, matches; missing if the text is missing.
pub(crate) fn matches(subject: Expr, regex: Regex) -> Expr {
    let name = format!("_matches /{regex}/");
    ScalarUDF::from(Matcher { regex, name, signature: Signature::any(1, Volatility::Immutable) }).call(vec![subject])
}

impl ScalarUDFImpl for Matcher {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = normal(&arguments.args[0].to_array(arguments.number_rows)?)?;
        // The planner passes texts only, and `normal` makes views of all of them.
        let Some(texts) = texts.as_string_view_opt() else {
            return Err(DataFusionError::Internal(format!("{} is no text", texts.data_type())));
        };
        let matches = texts.iter().map(|text| text.map(|text| self.regex.is_match(text)));
        Ok(ColumnarValue::Array(Arc::new(matches.collect::<BooleanArray>())))
    }
}

//! Calls of functions that work row by row.

use std::{collections::HashMap, sync::Arc};

use ipnet::IpNet;
use regex::Regex;

use super::{
    EventFields,
    node::{Node, Row},
};
use crate::{
    address,
    function::{Patterns, RowFunction, Run},
    value::{Value, ValueKind},
};

/// A function and its arguments.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) function: RowFunction,
    pub(super) arguments: Vec<Node>,
    pub(super) kind: ValueKind,
    pub(super) spelled: Spelled,
}

impl Call {
    /// Returns the value for an event.
    pub(super) fn value<'e, E: EventFields + ?Sized>(&'e self, row: &Row<'_, 'e, E>) -> Value<'e> {
        let run = |arguments: &[Value<'e>]| match self.function.run {
            Run::Values(run) => run(arguments),
            Run::Patterns(run) => run(&self.spelled, arguments),
            // The compiler refuses these functions.
            Run::Geography(_) => Value::Null,
        };
        // Up to three arguments are passed on the stack: a `Vec` for each event would be an allocation in the hot path.
        let result = match self.arguments.as_slice() {
            [one] => run(&[one.value(row)]),
            [one, two] => run(&[one.value(row), two.value(row)]),
            [one, two, three] => run(&[one.value(row), two.value(row), three.value(row)]),
            more => run(&more.iter().map(|argument| argument.value(row)).collect::<Vec<_>>()),
        };
        // A search keeps results in a column of one kind, so the same conversion is applied here.
        result.kept_as(self.kind)
    }
}

/// Compiled regular expressions and networks from the literals of a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Spelled {
    regexes: HashMap<String, Option<Arc<Regex>>>,
    networks: HashMap<String, Option<IpNet>>,
}

impl Spelled {
    /// Compiles the texts among the arguments.
    pub(super) fn new(function: &RowFunction, arguments: &[Node]) -> Self {
        let mut spelled = Self::default();
        if !matches!(function.run, Run::Patterns(_)) {
            return spelled;
        }
        // The first argument is the text that is searched.
        for argument in arguments.iter().skip(1) {
            if let Node::Literal(Value::Text(text)) = argument {
                if function.has_regex {
                    // Functions ask for the one that they need, with the flag of case in its text.
                    for regex in [text.to_string(), format!("(?i){text}")] {
                        let compiled = Regex::new(&regex).ok().map(Arc::new);
                        spelled.regexes.insert(regex, compiled);
                    }
                } else {
                    spelled.networks.insert(text.to_string(), address::network(text));
                }
            }
        }
        spelled
    }
}

impl Patterns for Spelled {
    fn regex(&self, pattern: &str) -> Option<Arc<Regex>> {
        match self.regexes.get(pattern) {
            Some(regex) => regex.clone(),
            // A pattern that only the event knows is compiled for each event: a cache could grow without bound.
            None => Regex::new(pattern).ok().map(Arc::new),
        }
    }

    fn network(&self, text: &str) -> Option<IpNet> {
        self.networks.get(text).copied().unwrap_or_else(|| address::network(text))
    }
}

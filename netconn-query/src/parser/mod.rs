//! Turns tokens into a query. It continues behind an error, so that all errors of a query are reported at once.
//!
//! The grammar. Words are keywords in any case; `W` stands for a name, `T` for a text in quotes, `N` for a number.
//!
//! ```text
//! query       = [ expression | command ] { "|" command }
//! command     = "filter" expression
//!             | "columns" ( "*" | column ) { "," ( "*" | column ) }
//!                                                           column = [ ( W | T ) "=" ] expression
//!             | "let" column { "," column }
//!             | "group" column { "," column } [ keys ]      keys   = "by" column { "," column }
//!             | "sort" key { "," key }                      key    = [ "-" | "+" ] expression [ "asc" | "desc" ]
//!             | "limit" [ N ] | "nolimit"
//!             | "parse" T [ "from" expression ]
//!             | "lookup" take { "," take } "from" name "by" match { "," match }
//!                                                           take   = [ name "=" ] name
//!                                                           match  = name [ ( "=" | "=:how" ) expression ]
//!             | "dataset" name | "savelookup" name [ "," "'merge'" ]
//!             | [ "sql" ] [ "inner" | "left" | "outer" ] "join" side { "," side } [ "on" pair { "," pair } ]
//!                                                           side   = [ W "=" ] "(" query ")"
//!                                                           pair   = W [ "=" W ]
//!             | "union" "(" query ")" { "," "(" query ")" }
//!             | "transpose" name [ "on" name { "," name } ] [ "with_totals" ] [ "limit" N ]
//!             | "top" N [ column { "," column } ] keys
//!             | "compare" [ name "=" ] "timeshift" "(" T ")"
//!             | "dedup" [ name { "," name } ]               name   = W | T
//!             | "sequence" [ keys ] "within" T step { "," step }
//!                                                           step   = "(" expression ")"
//!
//! expression  = or [ "?" expression ":" expression ]
//! or          = and { ( "or" | "||" ) and }
//! and         = not { [ "and" | "&&" ] not }                -- without a word between: in filters only
//! not         = ( "not" | "!" ) not | comparison
//! comparison  = sum { operator }
//! operator    = ( "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "=:anycase" ) sum
//!             | ( "=" | "==" | "!=" ) "*"
//!             | text-operator [ ":matchcase" | ":anycase" ] ( sum | "(" expression { "," expression } ")" )
//!             | [ "not" ] "in" [ ":anycase" | ":matchcase" ] "(" ( query | expression { "," expression } ) ")"
//! sum         = product { ( "+" | "-" ) product }
//! product     = unary { ( "*" | "/" | "%" ) unary }
//! unary       = ( "-" | "+" | "not" | "!" ) unary | value { "." W arguments }
//! value       = N | T | "$" T | "true" | "false" | "null" | W | W arguments | "(" expression ")"
//!             | "*" text-operator …                         -- any field
//!             | "func" "(" W [ "," W ] ")" "->" expression
//! arguments   = "(" [ expression { "," expression } ] [ "where" expression ] [ "by" expression { "," expression } ] ")"
//! ```
//!
//! As in PowerQuery's documentation, `and` binds more strongly than `or`, terms side by side are an `and`, `not` and `!` deny a
//! whole comparison, `where` stands behind the last argument of an aggregate and holds for all of it, and what is in the
//! parentheses of `in` is a query if there is a `|`, a command or a condition in it.

mod operator;
mod cursor;
mod value;
mod comparison;
mod expression;
mod rows;
mod tables;
mod steps;

use std::collections::HashSet;

use crate::{
    ast::{Query, Span},
    diagnostic::{Diagnostic, has_errors},
    lexer::{self, Kind, Token},
};

/// Largest depth of nested parentheses, lambdas and the like.
const DEPTH_MAX: usize = 64;
/// Largest height of an expression's tree: walks through trees recurse.
const HEIGHT_MAX: usize = 160;

/// The result of parsing.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The query; `None` if there are errors.
    pub query: Option<Query>,
    /// Errors and warnings in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses a query.
pub fn parse(text: &str) -> Parsed {
    let (tokens, diagnostics) = lexer::lex(text);
    // Known in advance, so that what is in a pair of parentheses can be told without reading it.
    let pairs = cursor::pairs(&tokens);
    let mut parser = Parser {
        text,
        tokens,
        pairs,
        at: 0,
        diagnostics,
        told_at: None,
        depth: 0,
        height: 0,
        given_up: false,
        terms: false,
        usage: steps::FILTER,
        own: HashSet::new(),
        labels: Vec::new(),
    };
    let query = parser.whole();
    let mut diagnostics = parser.diagnostics;
    // The lexer has read the whole text before the parser began, so its diagnostics all come first.
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    Parsed { query: (!has_errors(&diagnostics)).then_some(query), diagnostics }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    /// For each `(` its pair, at the index of its token.
    pairs: Vec<Option<cursor::Pair>>,
    /// Index of the next token.
    at: usize,
    diagnostics: Vec<Diagnostic>,
    /// Token of the last error: one error for each is enough.
    told_at: Option<usize>,
    /// Number of expressions and queries that are open.
    depth: usize,
    /// Height of the last expression.
    height: usize,
    /// Whether the query is nested too deeply, so that nothing more is read.
    given_up: bool,
    /// Whether terms may stand side by side.
    terms: bool,
    /// Form of what is being read: the suggestion of diagnostics that have no better one.
    usage: &'static str,
    /// Columns that the query has named, which are never names of S1QL 1.0.
    own: HashSet<String>,
    /// Columns of the last `group`, `top` or `columns` that are named by their own text.
    labels: Vec<String>,
}

impl Parser<'_> {
    /// The whole text.
    fn whole(&mut self) -> Query {
        let mut query = self.query();
        while *self.kind() != Kind::End {
            // Only an extra `)` ends a query before the end of the text.
            let place = self.here();
            self.tell(Diagnostic::error(place, "this ) closes nothing: remove it, or add the ( that it belongs to"));
            self.advance();
            // The next token may have an error of its own.
            self.told_at = None;
            let rest = self.query();
            query.commands.extend(rest.commands);
        }
        // Spaces and comments around the query belong to it.
        query.span = Span { start: 0, end: self.text.len() };
        query
    }
}

//! The syntax tree of a query, which the parser makes and the printer writes, with the places in the text.

/// A range of bytes in the text of the query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// Byte behind the last one.
    pub end: usize,
}

/// A filter, then commands.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// Keeps the events for which it is true; `None` keeps all.
    pub filter: Option<Expr>,
    /// Steps that the events go through, in this order.
    pub commands: Vec<Command>,
    /// Place in the text; a subquery's is inside its parentheses.
    pub span: Span,
}

/// One step: what stands between two `|`.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The command itself.
    pub kind: CommandKind,
    /// Place in the text.
    pub span: Span,
}

/// The commands of the language.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandKind {
    /// Keeps the rows for which the condition is true.
    Filter(Expr),
    /// Keeps these columns only.
    Columns(Vec<Column>),
    /// Adds columns, or replaces those of the same name. Each may use those before it.
    Let(Vec<Column>),
    /// Makes one row for each combination of the keys; a single row without keys.
    Group {
        /// Columns computed from all rows of a group.
        aggregates: Vec<Column>,
        /// The keys.
        by: Vec<Column>,
    },
    /// Orders the rows.
    Sort(Vec<SortKey>),
    /// Keeps this many rows from the beginning.
    Limit(u64),
    /// Shows all rows.
    NoLimit,
    /// Takes columns out of a text.
    Parse {
        /// The pattern, with `$name$`, `$name{regex=…}$` and the like in it.
        pattern: String,
        /// Place of the pattern.
        pattern_span: Span,
        /// The text that is parsed; `None` tries every text column.
        from: Option<Expr>,
    },
    /// Adds columns from a table in a file.
    Lookup {
        /// Columns of the table, with their names in the result.
        columns: Vec<LookupColumn>,
        /// Name of the table.
        table: Name,
        /// Comparisons that select the row of the table; all must hold.
        by: Vec<LookupKey>,
    },
    /// Takes the rows of another source.
    Dataset(Name),
    /// Writes the rows to a table in a file.
    SaveLookup {
        /// Name of the table.
        table: Name,
        /// Adds to the table instead of replacing it.
        merge: bool,
    },
    /// Puts rows of queries side by side. If the command is the first and the filter empty, the queries are the only
    /// sides; otherwise the rows before the command are the first side.
    Join {
        /// Which rows without a match are kept.
        kind: JoinKind,
        /// `sql`: every match makes a row; else only the first one.
        all: bool,
        /// The queries, with their aliases.
        sides: Vec<JoinSide>,
        /// Columns that must be equal.
        on: Vec<JoinKey>,
    },
    /// Appends the rows of the queries to those before the command.
    Union(Vec<Query>),
    /// Makes a column of each value of a column.
    Transpose {
        /// The column.
        column: Name,
        /// Columns whose combinations make a row; if empty, all other columns but the last.
        keys: Vec<Name>,
        /// `with_totals`: adds the sum of the made columns.
        totals: bool,
        /// Largest number of columns that are made.
        limit: Option<u64>,
    },
    /// The `count` groups with the highest first aggregate.
    Top {
        /// How many rows.
        count: u64,
        /// Columns made of all rows of a group; `count()` when there are none.
        aggregates: Vec<Column>,
        /// The keys.
        by: Vec<Column>,
    },
    /// Runs the query before it over another time and adds the values as columns.
    Compare {
        /// Name of the column.
        name: Name,
        /// Text of the shift, like `-1w`; `-queryspan` is the length of the searched time.
        shift: String,
        /// Place of the text of the shift.
        shift_span: Span,
    },
    /// Keeps the first row of each combination; of whole rows when none is named.
    Dedup(Vec<Name>),
    /// Finds events that follow each other within a time.
    Sequence {
        /// Values that all events of a sequence share.
        by: Vec<Column>,
        /// Text of the longest time from the first event to the last, like `5m`.
        within: String,
        /// Place of that text.
        within_span: Span,
        /// For each event of a sequence, in their order, the condition that it fulfils.
        steps: Vec<Expr>,
    },
}

/// A name and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// The name, without quotes and backslashes.
    pub text: String,
    /// Place in the text.
    pub span: Span,
}

/// `name = expression`, or an expression alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Name given in the query; without one the column is called by [`Column::label`].
    pub name: Option<Name>,
    /// Expression of its value.
    pub expr: Expr,
    /// Name of the column: the given one; for a field its name; for `count()` `count`; otherwise the text of the
    /// expression.
    pub label: String,
}

/// A key of `sort`.
#[derive(Clone, Debug, PartialEq)]
pub struct SortKey {
    /// The value.
    pub expr: Expr,
    /// Whether the largest value comes first. Missing values come last either way.
    pub descending: bool,
}

/// A column that `lookup` adds.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupColumn {
    /// Name in the result.
    pub name: Name,
    /// Name in the table.
    pub source: Name,
}

/// A comparison that selects the row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupKey {
    /// Column of the table.
    pub column: Name,
    /// How the values are compared.
    pub how: LookupMatch,
    /// The value that is looked up.
    pub expr: Expr,
}

/// How `lookup` compares a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupMatch {
    /// `=`: the values are equal.
    Equal,
    /// `=:anycase`: the values are equal except for case.
    AnyCase,
    /// `=:wildcard`: the table has a pattern with `*` and `?`.
    Wildcard,
    /// `=:cidr`: the table has networks; the longest one that contains the address matches.
    Cidr,
    /// `=:anyof`: the values are equal; of several such keys the first that finds a row is enough.
    AnyOf,
}

/// Which rows of a join are kept without a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// No rows.
    Inner,
    /// Rows of the first side.
    Left,
    /// Rows of all sides.
    Outer,
}

/// One query of a join.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinSide {
    /// Name of the side in `on`.
    pub alias: Option<Name>,
    /// The query.
    pub query: Query,
}

/// A pair of columns that must be equal. `on k` means `a.k = b.k`, and the column is called `k`.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinKey {
    /// A column of one side, with or without `alias.` in front.
    pub left: Name,
    /// A column of another side; `None` if it has the same name.
    pub right: Option<Name>,
}

/// An expression: a value computed for each row.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// The expression itself.
    pub kind: ExprKind,
    /// Place in the text.
    pub span: Span,
}

/// Kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number.
    Number(f64),
    /// A whole number beyond 2^53 that no 64-bit float is equal to.
    Whole(i64),
    /// A text in quotes.
    Text(String),
    /// A field, a column, or a lambda's parameter. Names and shortcuts of S1QL 1.0 have been replaced.
    Field(String),
    /// `not x`: true unless `x` is true.
    Not(Box<Expr>),
    /// `-x`
    Negative(Box<Expr>),
    /// An operator between two values.
    Binary {
        /// The operator.
        op: BinaryOp,
        /// Left operand.
        left: Box<Expr>,
        /// Right operand.
        right: Box<Expr>,
    },
    /// `x = *`: true if the value is not missing.
    Present(Box<Expr>),
    /// `x contains ('a', 'b')` and the like: one of the patterns fits.
    Match {
        /// The operator.
        op: MatchOp,
        /// Whether upper and lower case differ.
        case: Case,
        /// The text that is searched.
        subject: MatchSubject,
        /// The patterns: texts, or expressions.
        patterns: Vec<Expr>,
    },
    /// `x in (1, 2)`; an element in CIDR form means the addresses inside it.
    In {
        /// Whether upper and lower case differ.
        case: Case,
        /// The value.
        value: Box<Expr>,
        /// The set.
        set: Vec<Expr>,
    },
    /// `x in (subquery)`: a value of the subquery's column of the same name (its only one if it has one).
    InQuery {
        /// Whether upper and lower case differ.
        case: Case,
        /// The value.
        value: Box<Expr>,
        /// The subquery.
        query: Box<Query>,
    },
    /// A text alone: true if any field contains it, ignoring case.
    Anywhere(String),
    /// `$"regex"`: true if it matches any field, ignoring case.
    AnywhereRegex(String),
    /// `a ? b : c`
    Ternary {
        /// The condition.
        condition: Box<Expr>,
        /// The value if it is true.
        then: Box<Expr>,
        /// The value otherwise.
        otherwise: Box<Expr>,
    },
    /// `name(a, b)`, or `a.name(b)`: the same call.
    Call {
        /// Name of the function, in lower case.
        name: String,
        /// Place of the name.
        name_span: Span,
        /// The arguments.
        arguments: Vec<Expr>,
        /// `where condition` behind the arguments of an aggregate: only rows for which it is true count.
        condition: Option<Box<Expr>>,
        /// `by key, …` behind the arguments of a function over rows: it sees the rows with the same keys only.
        by: Vec<Expr>,
    },
    /// `func(x) -> expression` or `func(x, y) -> expression`, as an argument.
    Lambda {
        /// Names of the elements in the body, one or two.
        parameters: Vec<Name>,
        /// Expression computed for each element.
        body: Box<Expr>,
    },
}

/// Operators between two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BinaryOp {
    Or,
    And,
    Equal,
    /// `=:anycase`
    EqualAnyCase,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl BinaryOp {
    /// Whether the result is a comparison's: true or false.
    pub fn is_comparison(self) -> bool {
        matches!(
            self,
            Self::Equal
                | Self::EqualAnyCase
                | Self::NotEqual
                | Self::Less
                | Self::LessOrEqual
                | Self::Greater
                | Self::GreaterOrEqual
        )
    }
}

/// How a pattern is compared with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchOp {
    /// The text contains the pattern.
    Contains,
    /// The pattern is a regular expression that matches somewhere in the text.
    Matches,
    /// The text begins with the pattern.
    StartsWith,
    /// The text ends with the pattern.
    EndsWith,
    /// The whole text fits the pattern, in which `%` is any text and `_` any character.
    Like,
}

/// Whether upper and lower case differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Case matters: `:matchcase`.
    Sensitive,
    /// Case is ignored: `:anycase`.
    Insensitive,
}

/// What a pattern is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum MatchSubject {
    /// A value.
    Value(Box<Expr>),
    /// `*`: every field, in the first filter only.
    AnyField,
}

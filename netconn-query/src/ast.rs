//! A query as it is written: what the parser makes and the printer writes, with the places in the text.

/// A place in the query: bytes, from the first to the one after the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

/// A filter, then commands.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// Which events are meant; all when there is none.
    pub filter: Option<Expr>,
    /// What is done with them, in this order.
    pub commands: Vec<Command>,
    /// Where it stands; a subquery's is within its parentheses.
    pub span: Span,
}

/// One step: what stands between two `|`.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// What is done.
    pub kind: CommandKind,
    /// Where it stands.
    pub span: Span,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandKind {
    /// Keeps the rows for which it is true.
    Filter(Expr),
    /// Keeps these columns only.
    Columns(Vec<Column>),
    /// Adds columns, or replaces those of the same name. Each may use those before it.
    Let(Vec<Column>),
    /// One row for each combination of the keys; one row when there are none.
    Group {
        /// Columns made of all rows of a group.
        aggregates: Vec<Column>,
        /// The keys.
        by: Vec<Column>,
    },
    /// Orders the rows.
    Sort(Vec<SortKey>),
    /// Keeps the first so many rows.
    Limit(u64),
    /// Shows all rows.
    NoLimit,
    /// Takes columns out of a text.
    Parse {
        /// The pattern, with `$name$`, `$name{regex=…}$` and the like in it.
        pattern: String,
        /// Where the pattern stands.
        pattern_span: Span,
        /// The text; the whole record when there is none.
        from: Option<Expr>,
    },
    /// Adds columns from a table in a file.
    Lookup {
        /// The columns to take, by their name in the table, with the name that they get.
        columns: Vec<LookupColumn>,
        /// Name of the table.
        table: Name,
        /// All have to match.
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
    /// Puts rows of queries side by side. As the first command after an empty filter the queries are the only sides; else
    /// the rows so far are the first side.
    Join {
        /// Which rows stay that have no match.
        kind: JoinKind,
        /// `sql`: every match makes a row; else only the first one.
        all: bool,
        /// The queries, with the names that they are given.
        sides: Vec<JoinSide>,
        /// What has to be equal.
        on: Vec<JoinKey>,
    },
    /// The rows of all queries, and those so far, one after another.
    Union(Vec<Query>),
    /// Makes a column of each value of a column.
    Transpose {
        /// The column.
        column: Name,
        /// What makes one row; when there are none, all other columns but the last.
        keys: Vec<Name>,
        /// At most so many columns.
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
    /// Repeats the query so far over another time and puts its values beside.
    Compare {
        /// Name of the column.
        name: Name,
        /// Text of the shift, like `-1w`; `-queryspan` is the length of the time that is searched.
        shift: String,
        /// Where the text of the shift stands.
        shift_span: Span,
    },
    /// Keeps the first row of each combination; of whole rows when none is named.
    Dedup(Vec<Name>),
}

/// A name and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// The name, without quotes and backslashes.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// `name = expression`, or an expression alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The name that was given; else the column is called by [`Column::label`].
    pub name: Option<Name>,
    /// What it is made of.
    pub expr: Expr,
    /// Its name: the one given; the field's, for a field alone; `count` for `count()`; else the text of the expression as it
    /// was written.
    pub label: String,
}

/// One of the keys that rows are ordered by.
#[derive(Clone, Debug, PartialEq)]
pub struct SortKey {
    /// The value.
    pub expr: Expr,
    /// The largest first. Missing values come last either way.
    pub descending: bool,
}

/// A column that `lookup` takes.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupColumn {
    /// Its name in the result.
    pub name: Name,
    /// Its name in the table.
    pub source: Name,
}

/// What `lookup` compares.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupKey {
    /// Column of the table.
    pub column: Name,
    /// How it is compared.
    pub how: LookupMatch,
    /// The value it is compared with.
    pub expr: Expr,
}

/// How a key of a lookup is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupMatch {
    /// `=`: equal.
    Equal,
    /// `=:anycase`: equal but for upper and lower case.
    AnyCase,
    /// `=:wildcard`: the table has a pattern with `*` and `?`.
    Wildcard,
    /// `=:cidr`: the table has a network; the longest that contains the address is taken.
    Cidr,
}

/// Which rows stay without a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// None.
    Inner,
    /// Those of the first side.
    Left,
    /// Those of all sides.
    Outer,
}

/// One query of a join.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinSide {
    /// What its columns are called by in `on`.
    pub alias: Option<Name>,
    /// The query.
    pub query: Query,
}

/// What has to be equal in a join. `on k` means `a.k = b.k`, under the name `k`.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinKey {
    /// A column of one side, with or without `alias.` in front.
    pub left: Name,
    /// A column of another side; the same name when there is none.
    pub right: Option<Name>,
}

/// A value that is made of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it stands.
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
    /// A text in quotes.
    Text(String),
    /// A field, a column, or a lambda's parameter. Names and shortcuts of S1QL 1.0 have been replaced.
    Field(String),
    /// `not x`: true unless `x` is true.
    Not(Box<Expr>),
    /// `-x`
    Negative(Box<Expr>),
    /// Two values.
    Binary {
        /// What is done with them.
        op: BinaryOp,
        /// On the left of it.
        left: Box<Expr>,
        /// On the right of it.
        right: Box<Expr>,
    },
    /// `x = *`: it is there.
    Present(Box<Expr>),
    /// `x contains ('a', 'b')` and the like: one of the patterns fits.
    Match {
        /// How.
        op: MatchOp,
        /// Whether upper and lower case differ.
        case: Case,
        /// The text.
        subject: Subject,
        /// The patterns: texts, or expressions.
        patterns: Vec<Expr>,
    },
    /// `x in (1, 2)`; an element in CIDR form means the addresses inside it.
    In {
        /// Whether upper and lower case differ.
        case: Case,
        /// The value.
        value: Box<Expr>,
        /// The values it may be.
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
    /// A text alone: it is somewhere in the record, whatever the case.
    Anywhere(String),
    /// `$"regex"`: it matches somewhere in the record.
    AnywhereRegex(String),
    /// `a ? b : c`
    Ternary {
        /// What decides.
        condition: Box<Expr>,
        /// The value if it is true.
        then: Box<Expr>,
        /// The value otherwise.
        otherwise: Box<Expr>,
    },
    /// `name(a, b)`, or `a.name(b)`: the same call.
    Call {
        /// Its name, in lower case.
        name: String,
        /// Where the name stands.
        name_span: Span,
        /// The arguments.
        arguments: Vec<Expr>,
        /// `where condition` behind the arguments of an aggregate: the rows that it counts.
        condition: Option<Box<Expr>>,
    },
    /// `func(x) -> expression`, as an argument.
    Lambda {
        /// What the element is called.
        parameter: Name,
        /// The value made of it.
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
    /// Whether it compares two values, so that the result is true or false.
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
    /// It is in it.
    Contains,
    /// A regular expression finds something in it.
    Matches,
    /// It begins with it.
    StartsWith,
    /// It ends with it.
    EndsWith,
    /// All of it fits the pattern, in which `%` is any text and `_` any character.
    Like,
}

/// Whether upper and lower case differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// They do: `:matchcase`.
    Sensitive,
    /// They do not: `:anycase`.
    Insensitive,
}

/// What a pattern is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// A value.
    Value(Box<Expr>),
    /// `*`: every field; only in the first filter.
    AnyField,
}

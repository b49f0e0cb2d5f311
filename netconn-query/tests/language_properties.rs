//! What holds for every query: no text makes the parser, the checker or the evaluator panic, and what is printed is understood as
//! it was.

#![expect(clippy::panic, reason = "a property that does not hold shows the query")]

use std::borrow::Cow;

use netconn_model::field::{Field, Type};
use netconn_query::{
    Fields,
    ast::{
        BinaryOp, Case, Column, Command, CommandKind, Expr, ExprKind, JoinKey, JoinKind, JoinSide, LookupColumn,
        LookupKey, LookupMatch, MatchOp, MatchSubject, Name, Query, SortKey, Span,
    },
    check,
    evaluate::{EventFields, Predicate},
    parse, printer,
    value::{Value, ValueKind},
    walk,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// An event that has every field.
enum Event {
    /// Each field has an ordinary value of its type.
    Ordinary,
    /// Each field has a value at the limit of its type.
    Extreme,
    /// Each field has a value of another type.
    Wrong,
}

impl Event {
    fn of_kind(&self, kind: ValueKind) -> Value<'static> {
        match (self, kind) {
            (Self::Ordinary, ValueKind::Integer) => Value::Integer(443),
            (Self::Ordinary, ValueKind::Number) => Value::Number(-1.5),
            (Self::Ordinary, ValueKind::Bool) => Value::Bool(true),
            (Self::Ordinary, _) => Value::from("10.0.1.20 \u{dc}\n"),
            (Self::Extreme, ValueKind::Integer) => Value::Integer(i64::MIN),
            (Self::Extreme, ValueKind::Number) => Value::Number(f64::NAN),
            (Self::Extreme, ValueKind::Bool) => Value::Bool(false),
            (Self::Extreme, _) => Value::Text(Cow::Owned("\u{130}%\\[(/".repeat(50))),
            (Self::Wrong, ValueKind::Integer) => Value::Number(f64::INFINITY),
            (Self::Wrong, ValueKind::Number) => Value::List(vec![Value::Null, Value::Bool(true)]),
            (Self::Wrong, ValueKind::Bool) => Value::from("2026-09-21T14:13:20Z"),
            (Self::Wrong, _) => Value::Time(i64::MAX),
        }
    }
}

impl EventFields for Event {
    fn value(&self, field: Field) -> Option<Value<'_>> {
        let value = match (self, field.info().r#type) {
            (Self::Ordinary, Type::Rfc3339) => "2026-09-21T14:13:20.000000500Z".into(),
            (_, r#type) => self.of_kind(r#type.into()),
        };
        Some(value)
    }

    fn other(&self, _name: &str) -> Option<Value<'_>> {
        Some(self.of_kind(ValueKind::Text))
    }
}

/// An event that has no field.
struct Empty;

impl EventFields for Empty {
    fn value(&self, _field: Field) -> Option<Value<'_>> {
        None
    }
}

/// Evaluates the query over single events, if it is a filter; returns whether it is one.
fn evaluate(query: &Query) -> bool {
    let Ok(compiled) = Predicate::compile(query, &[("other", ValueKind::Text)]) else { return false };
    let _ = compiled.predicate.verdict(&Empty);
    for event in [Event::Ordinary, Event::Extreme, Event::Wrong] {
        let _ = compiled.predicate.verdict(&event);
    }
    true
}

/// Parses, checks, evaluates, and shows all that is said; returns whether the text is a filter over one event.
fn handle(text: &str) -> bool {
    let parsed = parse(text);
    for diagnostic in &parsed.diagnostics {
        diagnostic.render(text);
        diagnostic.report(text);
    }
    let Some(query) = parsed.query else { return false };
    let checked = check(&query, &Fields::new(["other"]));
    checked.diagnostics.iter().for_each(|diagnostic| drop(diagnostic.report(text)));
    let is_filter = evaluate(&query);
    let printed = printer::lines(&query);
    let again = parse(&printed);
    // Parentheses that only the canonical form has can be one level too many.
    if again.diagnostics.iter().any(|diagnostic| diagnostic.message.contains("nested too deeply")) {
        return is_filter;
    }
    let again = again.query.unwrap_or_else(|| panic!("{text:?} is printed as {printed:?}: {:?}", again.diagnostics));
    assert!(query.same_as(&again), "{text:?} is printed as {printed:?}");
    is_filter
}

/// What fuzzing has found worth to be kept, also what it once broke.
#[test]
fn the_corpus_of_the_fuzzer_is_handled() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/language");
    let (mut count, mut filters) = (0, 0);
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read(file.unwrap().path()).unwrap();
        let is_filter = handle(&String::from_utf8_lossy(&text));
        count += 1;
        filters += usize::from(is_filter);
    }
    assert!(count > 200, "{count}");
    assert!(filters > 20, "{filters}");
}

const PIECES: [&str; 74] = [
    "a",
    "b.c",
    "x-1",
    "'t'",
    "\"u\"",
    "$'r'",
    "1",
    "2.5",
    "and",
    "or",
    "not",
    "&&",
    "||",
    "!",
    "=",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "<>",
    "=:anycase",
    "contains",
    "matches",
    "in",
    "like",
    "(",
    ")",
    ",",
    "|",
    "*",
    "+",
    "-",
    "/",
    "%",
    "?",
    ":",
    ".",
    "->",
    "func",
    "count",
    "len",
    "where",
    "by",
    "filter",
    "columns",
    "let",
    "group",
    "sort",
    "limit",
    "nolimit",
    "parse",
    "from",
    "lookup",
    "dataset",
    "savelookup",
    "sql",
    "left",
    "join",
    "union",
    "on",
    "transpose",
    "top",
    "compare",
    "timeshift",
    "dedup",
    "sequence",
    "within",
    "#ip",
    "SrcIP",
    "is empty",
    "// c\n",
    "\\",
];

fn span() -> Span {
    Span::default()
}

fn expr(kind: ExprKind) -> Expr {
    Expr { kind, span: span() }
}

fn binary(op: BinaryOp, left: Expr, right: Expr) -> Expr {
    expr(ExprKind::Binary { op, left: Box::new(left), right: Box::new(right) })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9./ ]{0,8}", any::<String>(), Just("it's \\ \n\"".to_owned())]
}

fn name_text() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-zA-Z_][a-zA-Z0-9_.:-]{0,8}",
        1 => any::<String>().prop_filter("a name", |name| !name.is_empty()),
        1 => select(vec!["in", "by", "SrcIP", "limit", "not", "event.type", "2nd", "a b", "desc"]).prop_map(ToOwned::to_owned),
    ]
}

fn name() -> impl Strategy<Value = Name> {
    name_text().prop_map(|text| Name { text, span: span() })
}

fn case() -> impl Strategy<Value = Case> {
    select(vec![Case::Sensitive, Case::Insensitive])
}

fn leaf() -> impl Strategy<Value = Expr> {
    prop_oneof![
        Just(ExprKind::Null),
        any::<bool>().prop_map(ExprKind::Bool),
        any::<i32>().prop_map(|number| ExprKind::Number(f64::from(number))),
        (-1e9..1e9).prop_map(ExprKind::Number),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(ExprKind::Number),
        (9_007_199_254_740_993_i64..1_i64 << 54).prop_map(|number| ExprKind::Whole(number | 1)),
        text().prop_map(ExprKind::Text),
        name_text().prop_map(ExprKind::Field),
        "[a-z.+ ]{0,5}".prop_map(ExprKind::AnywhereRegex),
    ]
    .prop_map(expr)
}

/// A chain of `and` or `or` in the one shape that the parser makes.
fn chain(op: BinaryOp, operands: Vec<Expr>) -> Expr {
    fn flat(op: BinaryOp, expr: Expr, all: &mut Vec<Expr>) {
        match expr.kind {
            ExprKind::Binary { op: own, left, right } if own == op => {
                flat(op, *left, all);
                flat(op, *right, all);
            }
            _ => all.push(expr),
        }
    }
    fn halves(op: BinaryOp, mut operands: Vec<Expr>) -> Expr {
        if operands.len() == 1 {
            return operands.remove(0);
        }
        let right = operands.split_off(operands.len() / 2);
        binary(op, halves(op, operands), halves(op, right))
    }
    let mut all = Vec::new();
    operands.into_iter().for_each(|operand| flat(op, operand, &mut all));
    halves(op, all)
}

fn value() -> impl Strategy<Value = Expr> {
    leaf().prop_recursive(4, 40, 4, |inner| {
        use BinaryOp::{
            Add, Divide, Equal, EqualAnyCase, Greater, GreaterOrEqual, Less, LessOrEqual, Multiply, NotEqual,
            Remainder, Subtract,
        };
        let operators = vec![
            Equal,
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
        ];
        let matches =
            select(vec![MatchOp::Contains, MatchOp::Matches, MatchOp::StartsWith, MatchOp::EndsWith, MatchOp::Like]);
        let boxed = || inner.clone().prop_map(Box::new);
        // An `and` or `or` is no pattern, and no element.
        let single = inner.clone().prop_filter("a single value", |value| {
            !matches!(value.kind, ExprKind::Binary { op: BinaryOp::And | BinaryOp::Or, .. })
        });
        // One comparison alone in the parentheses of `in` is a query.
        let set = vec(leaf(), 1..4);
        let calls = select(vec!["len", "lower", "timebucket", "contains", "unknown"]);
        prop_oneof![
            inner.clone().prop_map(|inner| expr(ExprKind::Not(Box::new(inner)))),
            inner.clone().prop_map(|inner| match inner.kind {
                ExprKind::Number(number) => expr(ExprKind::Number(-number)),
                ExprKind::Whole(number) => expr(ExprKind::Whole(-number)),
                _ => expr(ExprKind::Negative(Box::new(inner))),
            }),
            (select(operators), inner.clone(), inner.clone()).prop_map(|(op, left, right)| binary(op, left, right)),
            (select(vec![BinaryOp::And, BinaryOp::Or]), vec(inner.clone(), 2..5)).prop_map(|(op, all)| chain(op, all)),
            boxed().prop_map(|value| expr(ExprKind::Present(value))),
            (matches, case(), option::weighted(0.9, boxed()), vec(single, 1..3)).prop_map(
                |(op, case, subject, patterns)| {
                    let subject = subject.map_or(MatchSubject::AnyField, MatchSubject::Value);
                    expr(ExprKind::Match { op, case, subject, patterns })
                }
            ),
            (case(), boxed(), set).prop_map(|(case, value, set)| expr(ExprKind::In { case, value, set })),
            (boxed(), boxed(), boxed())
                .prop_map(|(condition, then, otherwise)| { expr(ExprKind::Ternary { condition, then, otherwise }) }),
            (calls, vec(inner.clone(), 1..3), option::of(boxed()), vec(inner.clone(), 0..3)).prop_map(
                |(name, arguments, condition, by)| {
                    expr(ExprKind::Call { name: name.to_owned(), name_span: span(), arguments, condition, by })
                }
            ),
            (vec(name(), 1..3), boxed()).prop_map(|(parameters, body)| expr(ExprKind::Lambda { parameters, body })),
        ]
    })
}

/// In a filter a text alone is searched for.
fn condition() -> impl Strategy<Value = Expr> {
    fn anywhere(value: Expr) -> Expr {
        expr(match value.kind {
            ExprKind::Text(text) => ExprKind::Anywhere(text),
            ExprKind::Not(inner) => ExprKind::Not(Box::new(anywhere(*inner))),
            ExprKind::Binary { op: op @ (BinaryOp::And | BinaryOp::Or), left, right } => {
                ExprKind::Binary { op, left: Box::new(anywhere(*left)), right: Box::new(anywhere(*right)) }
            }
            other => other,
        })
    }
    value().prop_map(anywhere)
}

fn column() -> impl Strategy<Value = Column> {
    let named = (name_text(), value()).prop_map(|(label, expr)| Column { name: None, expr, label });
    let field =
        name_text().prop_map(|field| Column { name: None, label: field.clone(), expr: expr(ExprKind::Field(field)) });
    let unnamed = value().prop_filter("not a name in quotes", |value| !matches!(value.kind, ExprKind::Text(_)));
    let unnamed =
        unnamed.prop_map(|expr| Column { name: None, label: walk::label(&expr, &printer::expression(&expr)), expr });
    prop_oneof![3 => named, 2 => field, 1 => unnamed]
}

fn sort_key() -> impl Strategy<Value = SortKey> {
    let key = value().prop_filter("not a name in quotes", |value| !matches!(value.kind, ExprKind::Text(_)));
    (key, any::<bool>()).prop_map(|(expr, descending)| SortKey { expr, descending })
}

fn command(query: impl Strategy<Value = Query> + Clone + 'static) -> impl Strategy<Value = CommandKind> {
    let columns = || vec(column(), 1..4);
    let how = select(vec![LookupMatch::Equal, LookupMatch::AnyCase, LookupMatch::Wildcard, LookupMatch::Cidr]);
    let lookup_key = (name(), how, value()).prop_map(|(column, how, expr)| LookupKey { column, how, expr });
    let lookup_column = (name(), name()).prop_map(|(name, source)| LookupColumn { name, source });
    let kind = select(vec![JoinKind::Inner, JoinKind::Left, JoinKind::Outer]);
    let side = (option::of(name()), query.clone()).prop_map(|(alias, query)| JoinSide { alias, query });
    let key = (name(), option::of(name())).prop_map(|(left, right)| JoinKey { left, right });
    prop_oneof![
        condition().prop_map(CommandKind::Filter),
        columns().prop_map(CommandKind::Columns),
        vec(
            (name_text(), value()).prop_map(|(label, expr)| Column {
                name: Some(Name { text: label.clone(), span: span() }),
                expr,
                label
            }),
            1..3
        )
        .prop_map(CommandKind::Let),
        (columns(), vec(column(), 0..3)).prop_map(|(aggregates, by)| CommandKind::Group { aggregates, by }),
        vec(sort_key(), 1..3).prop_map(CommandKind::Sort),
        (0..1_000_000_u64).prop_map(CommandKind::Limit),
        Just(CommandKind::NoLimit),
        ("[a-z ]{0,3}\\$[a-z.]{1,4}(=digits)?\\$[a-z]{0,3}", option::of(value()))
            .prop_map(|(pattern, from)| CommandKind::Parse { pattern, pattern_span: span(), from }),
        (vec(lookup_column, 1..3), name(), vec(lookup_key, 1..3))
            .prop_map(|(columns, table, by)| CommandKind::Lookup { columns, table, by }),
        name().prop_map(CommandKind::Dataset),
        (name(), any::<bool>()).prop_map(|(table, merge)| CommandKind::SaveLookup { table, merge }),
        (kind, any::<bool>(), vec(side, 1..3), vec(key, 0..3)).prop_map(|(kind, all, sides, on)| CommandKind::Join {
            kind,
            all,
            sides,
            on
        }),
        vec(query, 1..3).prop_map(CommandKind::Union),
        (name(), vec(name(), 0..3), any::<bool>(), option::of(0..100_u64))
            .prop_map(|(column, keys, totals, limit)| CommandKind::Transpose { column, keys, totals, limit }),
        (1..100_u64, vec(column(), 0..3), vec(column(), 1..3)).prop_map(|(count, aggregates, by)| CommandKind::Top {
            count,
            aggregates,
            by
        }),
        (name(), "[-+]?[0-9]{1,2}[smhdw]").prop_map(|(name, shift)| CommandKind::Compare {
            name,
            shift,
            shift_span: span()
        }),
        vec(name(), 0..3).prop_map(CommandKind::Dedup),
        (vec(column(), 0..3), "[0-9]{1,2}[smhdw]", vec(condition(), 1..4))
            .prop_map(|(by, within, steps)| { CommandKind::Sequence { by, within, within_span: span(), steps } }),
    ]
}

fn whole(filter: Option<Expr>, commands: Vec<CommandKind>) -> Query {
    let commands = commands.into_iter().map(|kind| Command { kind, span: span() }).collect();
    Query { filter, commands, span: span() }
}

fn query() -> impl Strategy<Value = Query> {
    let simple = option::of(condition()).prop_map(|filter| whole(filter, Vec::new()));
    simple.prop_recursive(2, 12, 3, |inner| {
        (option::of(condition()), vec(command(inner), 0..4)).prop_map(|(filter, commands)| whole(filter, commands))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_handled(text in any::<String>()) {
        handle(&text);
    }

    #[test]
    fn any_words_are_handled(pieces in vec((select(PIECES.to_vec()), any::<bool>()), 0..40)) {
        let text: String = pieces.iter().map(|(piece, space)| format!("{piece}{}", if *space { " " } else { "" })).collect();
        handle(&text);
    }

    #[test]
    fn any_filter_is_evaluated(filter in condition()) {
        evaluate(&whole(Some(filter), Vec::new()));
    }

    #[test]
    fn what_is_printed_is_understood_as_it_was(query in query()) {
        evaluate(&query);
        let printed = printer::line(&query);
        let parsed = parse(&printed);
        let again = parsed.query.unwrap_or_else(|| panic!("{printed}\n{:#?}\n{query:#?}", parsed.diagnostics));
        prop_assert!(query.same_as(&again), "{}\nagain {}\n{:#?}\n{:#?}", printed, printer::line(&again), query, again);
    }
}

#[test]
fn nesting_is_bounded() {
    let many = 100_000;
    let parentheses = "(".repeat(many);
    let deep = [
        parentheses.clone(),
        format!("{parentheses}a{}", ")".repeat(many)),
        format!("a in {}", "(a in ".repeat(many)),
        format!("a in {}", "(| filter a in ".repeat(many)),
        format!("| let x = {}1", "-".repeat(many)),
        format!("{}a", "not ".repeat(many)),
        format!("{}a", "!".repeat(many)),
        format!("| let x = {}", "a ? ".repeat(many)),
        format!("| let x = {}1", "a ? b : ".repeat(many)),
        format!("| let x = {}1", "f(".repeat(many)),
        format!("| let x = a{}", ".len()".repeat(many)),
        format!("| let x = 1{}", " + 1".repeat(many)),
        format!("a{}", " = 1".repeat(many)),
        format!("| let x = {}1", "func(x) -> ".repeat(many)),
        format!("| union {}", "(| union ".repeat(many)),
    ];
    for text in deep {
        let parsed = parse(&text);
        let start: String = text.chars().take(30).collect();
        assert!(parsed.query.is_none(), "{start}");
        let told = parsed.diagnostics.iter().any(|diagnostic| diagnostic.message.contains("nested too deeply"));
        assert!(told, "{start}: {:?}", parsed.diagnostics.iter().take(3).collect::<Vec<_>>());
    }
}

#[test]
fn long_queries_are_no_deep_ones() {
    let terms = 20_000;
    for text in [
        vec!["dst.port.number = 443"; terms].join(" and "),
        vec!["dst.port.number = 443"; terms].join(" or "),
        vec!["dst.port.number = 443"; terms].join(" "),
        format!("dst.port.number in ({})", vec!["443"; terms].join(", ")),
        format!("event.type = * {}", "| limit 5 ".repeat(terms)),
    ] {
        let parsed = parse(&text);
        assert_eq!(parsed.diagnostics, []);
        let query = parsed.query.unwrap();
        assert_eq!(check(&query, &Fields::new(Vec::<String>::new())).diagnostics, []);
        assert!(query.same_as(&parse(&printer::line(&query)).query.unwrap()));
    }
}

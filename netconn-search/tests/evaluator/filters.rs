//! Random filters, made so that they match often: of the values that the events have.

use proptest::{collection::vec, prelude::*, sample::select, strategy::BoxedStrategy};

/// Fields: in all events, in some, of every type, and in none.
const FIELDS: [&str; 20] = [
    "event.type",
    "event.network.direction",
    "src.process.name",
    "src.process.cmdline",
    "src.ip.address",
    "dst.ip.address",
    "dst.ip.address",
    "dst.port.number",
    "dst.port.number",
    "event.network.bytesSent",
    "event.network.durationMs",
    "event.network.preexisting",
    "event.time",
    "timestamp",
    "src.process.startTime",
    "x.tag",
    "x.count",
    "x.ratio",
    "x.flag",
    "nowhere.to.be.found",
];

const LITERALS: [&str; 41] = [
    "'IP Connect'",
    "'ip connect'",
    "'curl'",
    "'CURL'",
    "'küche'",
    "'KÜCHE'",
    "'OUTGOING'",
    "'red'",
    "''",
    "' '",
    "'443'",
    "' 443 '",
    "'443.0'",
    "'4.43e2'",
    "'inf'",
    "'-0'",
    "'10.0.1.20'",
    "'10.0.1.9'",
    "'::ffff:10.0.1.20'",
    "'2001:DB8::9'",
    "'10.0.1[.]20 '",
    "'10.0.0.0/8'",
    "'10.0.0.0/15'",
    "443",
    "443.5",
    "22",
    "0",
    "-1.5",
    "-7",
    "1e18",
    "9007199254740992",
    "20000",
    "1790000000000",
    "'2026-09-21T14:13:20Z'",
    "'2026-09-21 14:13:20.0005'",
    "'2026-09-21T16:13:20.0000005+02:00'",
    "'2026-09-21'",
    "true",
    "false",
    "'true'",
    "null",
];

const PATTERNS: [&str; 22] = [
    "'c'",
    "'FOX'",
    "'f3'",
    "'ÜCHE'",
    "'^c.*l$'",
    "'^[A-Z]'",
    "'10\\.0'",
    "'%e%'",
    "'10._.1%'",
    "'%\\\\%%'",
    "'sshd%'",
    "'100\\\\%\\\\_a%'",
    "'D.-e'",
    "'%D_-e'",
    "'443'",
    "443",
    "443.5",
    "('f3', 'C', '10.0.1.')",
    "('nothing', src.process.name)",
    "dst.ip.address",
    "(x.tag, 'true', 20000)",
    "''",
];

/// Calls with one operand `$`, or two: `$` and `%`.
const CALLS: [&str; 69] = [
    "len($)",
    "lower($)",
    "upper($)",
    "trim($)",
    "ltrim($, 'ci')",
    "rtrim($, '0l')",
    "string($)",
    "number($)",
    "bool($)",
    "isempty($)",
    "isblank($)",
    "abs($)",
    "floor($)",
    "ceiling($)",
    "sqrt($)",
    "ln($)",
    "log($, 2)",
    "exp($)",
    "pow($, %)",
    "min($, %)",
    "max($, %, 443)",
    "substr($, 1)",
    "substr($, -3, 2)",
    "substr($, %)",
    "replace($, '[0-9]+', 'N')",
    "replace($, '(.)o(.)', '$2x$1')",
    "format('%s-%05d|%,.2f', $, %, %)",
    "json_object_value('{\"443\":\"curl\",\"a\":1}', $)",
    "net_ip($)",
    "net_ipv4($)",
    "net_ipv6($)",
    "net_private($)",
    "net_rfc1918($)",
    "net_rfc4193($)",
    "net_ipsubnet($, '10.0.0.0/8', '2001:db8::/32')",
    "net_ipsubnet($, dst.ip.address)",
    "net_url_domain($)",
    "net_url_path($)",
    "net_url_netloc($)",
    "split($, '[ .]').len()",
    "split($, ' ', 2).get(1)",
    "array($, %).contains(443)",
    "array_get(array($, %), -1)",
    "array_to_string(array($, %), '-')",
    "array_to_string(array($, %).sort().distinct().slice(0, 1))",
    "array($, %)",
    "array($).concat(array(%), $).len()",
    "extract_matches($, '[0-9]+').get(0)",
    "strftime($, '%Y-%m-%d %H:%M')",
    "strftime($)",
    "strptime($, '%Y-%m-%d')",
    "timebucket($, '1 minute')",
    "timebucket('1h')",
    "array($, %, null).map(func(x) -> x + 1).get(0)",
    "array($, %).filter(func(x) -> x = 443 or x).len()",
    "array($, %).match_any(func(x) -> x contains 'c' or x > dst.port.number)",
    "array($, %).match_all(func(x) -> array(x, 443).match_any(func(y) -> y = x and y != null))",
    "array_filter(split($, ''), func(x) -> x in ('c', '4')).len()",
    "(timestamp - event.time > '1s')",
    "(event.time + (timestamp - event.time))",
    "((timestamp - event.time) - (event.time - event.time) in ('1s', '0ms'))",
    "(-(event.time - timestamp) < '500us')",
    "array($, %).reduce(0, func(x, y) -> x + len(y))",
    "array($, 1).zip(array(%, 2), func(x, y) -> x = y).match_any(func(x) -> x)",
    "array($, %).sort_desc().get(0)",
    "array($, %).intersect(array(%, 443)).len()",
    "split_matchcase($, 'C').len()",
    "simpledateformat($, 'yyyy-MM-dd HH:mm')",
    "array($, %).median()",
];

fn of(choices: &'static [&'static str]) -> BoxedStrategy<String> {
    select(choices).prop_map(ToOwned::to_owned).boxed()
}

fn field() -> BoxedStrategy<String> {
    of(&FIELDS)
}

/// What can stand between operators.
fn operand() -> BoxedStrategy<String> {
    let leaf = prop_oneof![3 => field(), 2 => of(&LITERALS)];
    let nested = leaf.prop_recursive(2, 6, 2, |inner| {
        let sum = (inner.clone(), select(vec!["+", "-", "*", "/", "%"]), inner.clone());
        let call = (of(&CALLS), inner.clone(), inner.clone());
        let chosen = (condition(inner.clone()), inner.clone(), inner.clone());
        prop_oneof![
            3 => sum.prop_map(|(left, sign, right)| format!("({left} {sign} {right})")),
            4 => call.prop_map(|(call, one, two)| called(&call, &one, &two)),
            1 => chosen.prop_map(|(condition, then, other)| format!("({condition} ? {then} : {other})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(one, two)| format!("({one} or {two})")),
            1 => inner.clone().prop_map(|inner| format!("-({inner})")),
            1 => condition(inner).prop_map(|condition| format!("({condition})")),
        ]
    });
    nested.boxed()
}

/// Fills in the operands of a call. A `%` before a letter, a digit or a sign belongs to a format.
fn called(call: &str, one: &str, two: &str) -> String {
    let mut text = String::new();
    let mut in_text = false;
    for letter in call.chars() {
        in_text ^= letter == '\'';
        match letter {
            '$' if !in_text => text.push_str(one),
            '%' if !in_text => text.push_str(two),
            other => text.push(other),
        }
    }
    text
}

/// A condition about one or two values.
fn condition(operand: impl Strategy<Value = String> + Clone + 'static) -> BoxedStrategy<String> {
    let signs = select(vec!["=", "==", "!=", "<", "<=", ">", ">=", "=:anycase"]);
    let compare = (operand.clone(), signs.clone(), operand.clone());
    let likely = (field(), signs, of(&LITERALS));
    let compare = prop_oneof![compare, likely].prop_map(|(left, sign, right)| format!("{left} {sign} {right}"));
    let names = vec![
        "contains",
        "contains:matchcase",
        "matches",
        "matches:matchcase",
        "starts_with",
        "starts_with:matchcase",
        "ends_with",
        "ends_with:matchcase",
        "like",
        "like:matchcase",
        "like:anycase",
    ];
    let subject = prop_oneof![4 => field(), 1 => operand.clone()];
    let text = (subject.clone(), select(names), of(&PATTERNS));
    let text = text.prop_map(|(subject, name, pattern)| format!("{subject} {name} {pattern}"));
    let elements = prop_oneof![6 => of(&LITERALS), 1 => field()];
    let set = (subject.clone(), select(vec!["in", "in:anycase", "not in"]), vec(elements, 1..6));
    let set = set.prop_map(|(subject, name, values)| format!("{subject} {name} ({})", values.join(", ")));
    let present = (subject, select(vec!["= *", "!= null", "= null", "!= *"]));
    let present = present.prop_map(|(subject, what)| format!("{subject} {what}"));
    prop_oneof![4 => compare, 3 => text, 3 => set, 1 => present].boxed()
}

/// What is only in the filter before the first command.
fn anywhere() -> BoxedStrategy<String> {
    let words =
        ["'curl'", "'443'", "'GREEN'", "$'10\\.0\\.[01]'", "* contains 'example'", "* matches ('^fe80', '^ip c')"];
    let words = words.map(ToOwned::to_owned).to_vec();
    let names = select(vec!["contains", "contains:matchcase", "starts_with", "like"]);
    let star = (names, of(&PATTERNS)).prop_map(|(name, pattern)| format!("* {name} {pattern}"));
    prop_oneof![select(words), star].boxed()
}

/// A filter.
pub(super) fn filter() -> BoxedStrategy<String> {
    let term = prop_oneof![12 => condition(operand()), 1 => anywhere(), 1 => operand()];
    let filter = term.prop_recursive(3, 8, 3, |inner| {
        let some = vec(inner.clone(), 2..4);
        let both = (some, select(vec![" and ", " or "]));
        let chosen = (inner.clone(), inner.clone(), inner.clone());
        prop_oneof![
            4 => both.prop_map(|(all, word)| all.iter().map(|one| format!("({one})")).collect::<Vec<_>>().join(word)),
            2 => inner.prop_map(|inner| format!("not ({inner})")),
            1 => chosen.prop_map(|(one, two, three)| format!("({one}) ? ({two}) : ({three})")),
        ]
    });
    filter.boxed()
}

//! Checks constants: whether a field can ever have the value that it is compared with.

use netconn_model::{
    field::{self, FieldInfo, Type},
    value::Domain,
};

use super::{Checker, literal, scope::Scope};
use crate::{
    address,
    ast::{Case, Expr, ExprKind, MatchOp},
    diagnostic::{Diagnostic, nearest},
    printer,
    text_pattern::Matcher,
};

/// How a constant is compared with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// `=`, `in`
    Equal(Case),
    /// `!=`
    NotEqual,
    /// `contains` and the like.
    Match(MatchOp, Case),
}

impl Test {
    fn case(self) -> Case {
        match self {
            Self::Equal(case) | Self::Match(_, case) => case,
            Self::NotEqual => Case::Sensitive,
        }
    }

    /// Says what becomes of a comparison that cannot hold.
    fn outcome(self) -> &'static str {
        if self == Self::NotEqual { "this is always true" } else { "this is never true" }
    }
}

impl Checker<'_> {
    /// Checks a constant that a field is compared with. One remark about each place is enough: a shortcut stands for several
    /// fields.
    pub(super) fn constant(&mut self, test: Test, value: &Expr, constant: &Expr, scope: &Scope) {
        let ExprKind::Field(name) = &value.kind else { return };
        let info = field::by_name(name).filter(|_| scope.is_of_events(name));
        let found = match (info.map(|info| info.domain), &constant.kind) {
            (Some(Domain::Names(names)), ExprKind::Text(text)) => of_names(name, names, false, test, text),
            (Some(Domain::NamesOrNumbers(names)), ExprKind::Text(text)) => of_names(name, names, true, test, text),
            (Some(Domain::Names(names)), ExprKind::Number(_) | ExprKind::Whole(_)) => {
                Some((format!("{} in events of netconn, so {}", one_of(name, names), test.outcome()), None))
            }
            (Some(Domain::Addresses), ExprKind::Text(text)) => of_addresses(name, test, text),
            _ => None,
        };
        let found = found.or_else(|| info.and_then(|info| of_type(info, test, &constant.kind)));
        let found = found.or_else(|| match &constant.kind {
            ExprKind::Text(text) => wildcard(value, test, text),
            _ => None,
        });
        if let Some((message, suggestion)) = found
            && self.diagnostics.iter().all(|said| said.span != constant.span)
        {
            self.diagnostics.push(Diagnostic::warning(constant.span, message).suggest_any(suggestion));
        }
    }
}

/// What is said about a constant, and what to write instead.
type Remark = (String, Option<String>);

/// Checks a constant of a field that has certain texts only.
fn of_names(name: &str, names: &[&str], or_numbers: bool, test: Test, text: &str) -> Option<Remark> {
    let insensitive = test.case() == Case::Insensitive;
    let is_number = or_numbers && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let holds = match test {
        Test::Equal(_) | Test::NotEqual if insensitive => names.iter().any(|name| name.eq_ignore_ascii_case(text)),
        Test::Equal(_) | Test::NotEqual => names.contains(&text),
        // A pattern that cannot be compiled is reported elsewhere.
        Test::Match(op, _) => {
            Matcher::new(op, insensitive, text).is_none_or(|matcher| names.iter().any(|name| matcher.fits(name)))
        }
    };
    if holds || is_number {
        return None;
    }
    // Files of other programs may have others, so the sentence is about netconn's. The nearest name says enough; without one all
    // are listed.
    let near = nearest(text, names.iter().copied());
    let what = match (near, test) {
        (Some(_), Test::Match(..)) => format!("'{name}' never has {}", printer::text(text)),
        (Some(_), _) => format!("'{name}' is never {}", printer::text(text)),
        (None, _) => one_of(name, names),
    };
    Some((format!("{what} in events of netconn, so {}", test.outcome()), near.map(printer::text)))
}

/// Lists the values of a field.
fn one_of(name: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| printer::text(name)).collect();
    let how = if names.len() == 1 { "always" } else { "one of" };
    format!("'{name}' is {how} {}", names.join(", "))
}

/// Checks a constant by the type of its field.
fn of_type(info: &FieldInfo, test: Test, constant: &ExprKind) -> Option<Remark> {
    let FieldInfo { name, .. } = info;
    let never = |what: String| Some((format!("{what}, so {}", test.outcome()), None));
    match (info.r#type, test, constant) {
        (Type::Integer | Type::Number, Test::Equal(_) | Test::NotEqual, ExprKind::Text(text))
            if !literal::is_number(text) =>
        {
            never(format!("'{name}' is a number and {} is not", printer::text(text)))
        }
        (
            Type::Integer,
            Test::Match(MatchOp::Contains | MatchOp::StartsWith | MatchOp::EndsWith, _),
            ExprKind::Text(text),
        ) if text.bytes().any(|byte| !byte.is_ascii_digit() && byte != b'-') => {
            never(format!("'{name}' is a whole number, which never has {}", printer::text(text)))
        }
        (Type::Integer, Test::Equal(_) | Test::NotEqual, ExprKind::Number(number)) if number.fract() != 0.0 => {
            never(format!("'{name}' is a whole number and {number} is not"))
        }
        (Type::Integer, Test::Equal(_) | Test::NotEqual, ExprKind::Number(number)) => match info.domain {
            #[expect(
                clippy::cast_precision_loss,
                reason = "only limits beyond 2^53 are rounded, by less than one in 2^53"
            )]
            Domain::UpTo(most) if *number > most as f64 => never(format!("'{name}' is at most {most}")),
            _ => None,
        },
        (Type::Integer, Test::Equal(_) | Test::NotEqual, ExprKind::Whole(number)) => match info.domain {
            Domain::UpTo(most) if u64::try_from(*number).is_ok_and(|number| number > most) => {
                never(format!("'{name}' is at most {most}"))
            }
            _ => None,
        },
        (Type::Boolean, Test::Equal(_) | Test::NotEqual, ExprKind::Text(text))
            if !["true", "false"].iter().any(|word| word.eq_ignore_ascii_case(text)) =>
        {
            never(format!("'{name}' is true or false"))
        }
        _ => None,
    }
}

/// Warns about `=` with `*`, which stands for itself there.
fn wildcard(value: &Expr, test: Test, text: &str) -> Option<Remark> {
    if matches!(test, Test::Match(..)) || !text.contains('*') {
        return None;
    }
    let inner = text.trim_matches('*');
    let shown = printer::expression(value);
    let (starts, ends) = (!text.starts_with('*'), !text.ends_with('*'));
    let instead = match (inner.contains('*'), starts, ends) {
        _ if inner.is_empty() => format!("{shown} = *"),
        (false, true, _) => format!("{shown} starts_with {}", printer::text(inner)),
        (false, false, true) => format!("{shown} ends_with {}", printer::text(inner)),
        (false, false, false) => format!("{shown} contains {}", printer::text(inner)),
        (true, ..) => {
            let regex = text.split('*').map(regex::escape).collect::<Vec<_>>().join(".*");
            format!("{shown} matches {}", printer::text(&format!("^{regex}$")))
        }
    };
    let instead = if test == Test::NotEqual { format!("not ({instead})") } else { instead };
    let message = format!("{} is compared as it stands: `*` is no wildcard here", printer::text(text));
    Some((message, Some(instead)))
}

/// Checks a constant of a field of addresses.
fn of_addresses(name: &str, test: Test, text: &str) -> Option<Remark> {
    let shown = printer::text(text);
    let name = printer::name(name);
    match test {
        Test::Match(MatchOp::Matches, _) => return None,
        Test::Match(op, _) => {
            let wildcards: &[char] = if op == MatchOp::Like { &['%', '_'] } else { &[] };
            let is_of_addresses = |character: char| {
                character.is_ascii_hexdigit() || ".:".contains(character) || wildcards.contains(&character)
            };
            let plain = address::refanged(text);
            return (!text.chars().all(is_of_addresses)).then(|| {
                let suggestion = plain.chars().all(is_of_addresses).then(|| printer::text(&plain));
                (format!("no address has {shown} in it, so {}", test.outcome()), suggestion)
            });
        }
        Test::Equal(_) | Test::NotEqual => {}
    }
    if let Some(address) = address::meant(text) {
        // A form that every program reads needs no remark.
        let is_plain = address::address(text).is_some();
        return (!is_plain)
            .then(|| (format!("{shown} is taken as the address {address}"), Some(format!("'{address}'"))));
    }
    if text.contains('/') && (literal::network(text).is_some() || address::network(text).is_some()) {
        return None;
    }
    let plain = address::refanged(text);
    let (reason, suggestion) = not_an_address(&name, &plain);
    // A suggestion that is a condition denies what is not wanted, as `!=` does; a text is put in the place of the constant.
    let suggestion = suggestion.map(|suggestion| match test {
        Test::NotEqual if !suggestion.starts_with('\'') => format!("not ({suggestion})"),
        _ => suggestion,
    });
    Some((format!("{shown} is no address, so {}: {reason}", test.outcome()), suggestion))
}

/// Says why a text is no address, and what was probably meant.
fn not_an_address(name: &str, text: &str) -> Remark {
    // A URL has the address or the name between its slashes.
    if let Some((_, rest)) = text.split_once("://") {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let host = &rest[..end];
        return match address::meant(host).or_else(|| Some(with_port(host)?.0)) {
            Some(address) => ("a URL is no address".into(), Some(format!("'{address}'"))),
            None => ("names of hosts are not looked up, ask for their addresses".into(), None),
        };
    }
    if let Some((address, port)) = with_port(text) {
        let side = name.split_once('.').map_or(name, |(side, _)| side);
        let suggestion = format!("{name} = '{address}' and {side}.port.number = {port}");
        return ("the port is a field of its own".into(), Some(suggestion));
    }
    if let Some(address) = text.split_once('%').and_then(|(address, _)| address::meant(address)) {
        return ("events have addresses without an interface".into(), Some(format!("'{address}'")));
    }
    let parts: Vec<&str> = text.split('.').collect();
    let numbers: Vec<Option<u32>> = parts.iter().map(|part| part.parse().ok()).collect();
    let known = numbers.iter().take_while(|number| number.is_some_and(|number| number < 256)).count();
    // `10.*`, `192.0.2.*`, also `192.0.2.`.
    let is_open = |part: &&str| part.is_empty() || *part == "*" || part.eq_ignore_ascii_case("x");
    if (1..4).contains(&known) && parts.len() <= 4 && parts[known..].iter().all(is_open) && known < parts.len() {
        let mut network: Vec<&str> = parts[..known].to_vec();
        network.resize(4, "0");
        let suggestion = format!("{name} in ('{}/{}')", network.join("."), known * 8);
        return ("`in` with a network asks for all addresses of it".into(), Some(suggestion));
    }
    if parts.len() == 4 && numbers.iter().all(Option::is_some) {
        if let Some(large) = numbers.iter().flatten().find(|number| **number > 255) {
            return (format!("{large} is more than 255"), None);
        }
        let plain: Vec<String> = numbers.iter().flatten().map(ToString::to_string).collect();
        return (
            "a number that begins with 0 is read as octal by some programs".into(),
            Some(format!("'{}'", plain.join("."))),
        );
    }
    if let Some((first, last)) = text.split_once('-')
        && let (Some(first), Some(last)) = (address::meant(first), address::meant(last))
    {
        let suggestion = format!("{name} >= '{first}' and {name} <= '{last}'");
        return ("a range is asked for with two comparisons".into(), Some(suggestion));
    }
    if text.eq_ignore_ascii_case("localhost") {
        return ("names of hosts are not looked up".into(), Some(format!("{name} in ('127.0.0.0/8', '::1')")));
    }
    ("names of hosts are not looked up, ask for their addresses".into(), None)
}

/// Splits `192.0.2.1:443` and `[2001:db8::1]:443`.
fn with_port(text: &str) -> Option<(std::net::IpAddr, u16)> {
    let (address, port) = text.rsplit_once(':')?;
    // Without brackets the last part of an IPv6 address would be taken for a port.
    if address.contains(':') && !address.ends_with(']') {
        return None;
    }
    Some((address::meant(address)?, port.parse().ok()?))
}

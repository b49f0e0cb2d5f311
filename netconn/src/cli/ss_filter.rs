//! The filters of `ss`, as ss(8) describes them, in the language of searches: `dst 10/8 and ( sport = :22 or dport = :22 )`.

use std::net::{IpAddr, Ipv4Addr};

use netconn_model::state::{self, States};
use netconn_query::{Diagnostic, ast::Span};

use crate::cli::services;

/// Words that a condition of `ss` begins with; fields of the language have dots in their names.
const PREDICATES: [&str; 10] =
    ["src", "dst", "sport", "dport", "state", "exclude", "dev", "fwmark", "cgroup", "autobound"];

/// Operators of the language that may stand behind a field: `state = 'ESTABLISHED'` is no condition of `ss`.
const OPERATORS_OF_LANGUAGE: [&str; 8] = ["=", "==", "!=", "in", "not", "contains", "matches", "starts_with"];

/// What is not known of rows and events, with what is.
const ABSENT: [(&str, &str); 3] = [
    ("fwmark", "netconn does not know the mark of a socket"),
    (
        "autobound",
        "netconn does not know whether the port was chosen by the kernel: `local.port.number >= 32768` is near to it",
    ),
    ("cgroup", "netconn knows containers and systemd units: use --container or --unit"),
];

/// A word or a sign of a condition.
#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    text: &'a str,
    start: usize,
}

impl Token<'_> {
    fn span(self) -> Span {
        Span { start: self.start, end: self.start + self.text.len() }
    }
}

/// Returns whether a text is a condition of `ss` and not one of the language of searches.
pub(super) fn is_one(text: &str) -> bool {
    let tokens = tokens(text);
    let mut rest = tokens.iter().map(|token| token.text).skip_while(|text| matches!(*text, "(" | "!" | "not"));
    match rest.next() {
        Some("state") => rest.next().is_none_or(|next| !OPERATORS_OF_LANGUAGE.contains(&next)),
        Some(first) => PREDICATES.contains(&first),
        None => false,
    }
}

/// Translates a condition to the language of searches.
///
/// # Errors
///
/// What cannot be read or is not known of connections, with its place.
pub(super) fn translated(text: &str) -> Result<String, Diagnostic> {
    let mut reader = Reader { tokens: tokens(text), next: 0, end: text.len() };
    let condition = reader.any()?;
    match reader.peek() {
        None => Ok(condition),
        Some(token) => Err(Diagnostic::error(token.span(), format!("'{}' is not expected here", token.text))),
    }
}

/// Splits a text into words, brackets and operators.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(|character: char| !character.is_whitespace()) {
        rest = &rest[start..];
        let length = match rest.as_bytes() {
            [b'&', b'&', ..] | [b'|', b'|', ..] | [b'=' | b'!' | b'<' | b'>', b'=', ..] => 2,
            [b'(' | b')' | b'&' | b'|' | b'=' | b'!' | b'<' | b'>', ..] => 1,
            _ => rest
                .find(|character: char| character.is_whitespace() || "()&|=!<>".contains(character))
                .unwrap_or(rest.len()),
        };
        tokens.push(Token { text: &rest[..length], start: text.len() - rest.len() });
        rest = &rest[length..];
    }
    tokens
}

/// How ports are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    /// An operator of the language.
    Order(&'static str),
}

/// Returns the condition that the state is one of these.
fn in_states(is_wanted: impl Fn(u8) -> bool) -> String {
    let wanted = state::ALL.iter().copied().filter(|state| is_wanted(*state));
    let names: Vec<String> = wanted.map(|state| format!("'{}'", state::name(state))).collect();
    // A list of nothing is no condition of the language; no state is `none`.
    let names = if names.is_empty() { "'none'".to_owned() } else { names.join(", ") };
    format!("state in ({names})")
}

struct Reader<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
    /// Length of the text.
    end: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).copied()
    }

    fn take(&mut self) -> Option<Token<'a>> {
        let token = self.peek()?;
        self.next += 1;
        Some(token)
    }

    /// Takes the next token if it is one of these.
    fn take_if(&mut self, any: &[&str]) -> bool {
        let is_one = self.peek().is_some_and(|token| any.contains(&token.text));
        self.next += usize::from(is_one);
        is_one
    }

    fn ended(&self, expected: &str) -> Diagnostic {
        Diagnostic::error(Span { start: self.end, end: self.end }, format!("{expected} is missing at the end"))
    }

    /// Reads conditions of which one must hold.
    fn any(&mut self) -> Result<String, Diagnostic> {
        let mut conditions = vec![self.all()?];
        while self.take_if(&["or", "|", "||"]) {
            conditions.push(self.all()?);
        }
        Ok(joined(conditions, " or "))
    }

    /// Reads conditions that must all hold. Several states are alternatives, as in `ss`.
    fn all(&mut self) -> Result<String, Diagnostic> {
        let mut conditions = Vec::new();
        let (mut wanted, mut excluded) = (None, States::NONE);
        loop {
            if self.take_if(&["state"]) {
                wanted = Some(wanted.unwrap_or(States::NONE) | self.states()?);
            } else if self.take_if(&["exclude"]) {
                excluded = excluded | self.states()?;
            } else {
                conditions.push(self.one()?);
            }
            let is_over = self.peek().is_none_or(|token| matches!(token.text, ")" | "or" | "|" | "||"));
            // `and` may be left out.
            if !self.take_if(&["and", "&", "&&"]) && is_over {
                break;
            }
        }
        if wanted.is_some() || excluded != States::NONE {
            let is_wanted = |state: u8| wanted.is_none_or(|wanted| wanted.contains(state)) && !excluded.contains(state);
            conditions.insert(0, in_states(is_wanted));
        }
        Ok(joined(conditions, " and "))
    }

    fn states(&mut self) -> Result<States, Diagnostic> {
        let token = self.take().ok_or_else(|| self.ended("a state"))?;
        // The kernel's name for what is not connected.
        let name = if matches!(token.text, "closed" | "close") { "unconnected" } else { token.text };
        States::parse(name).ok_or_else(|| {
            let message = format!(
                "'{}' is not a state: use all, connected, synchronized, bucket, big, established, syn-sent, syn-recv, fin-wait-1, \
                 fin-wait-2, time-wait, closed, close-wait, last-ack, listening or closing",
                token.text
            );
            Diagnostic::error(token.span(), message)
        })
    }

    fn one(&mut self) -> Result<String, Diagnostic> {
        let token = self.take().ok_or_else(|| self.ended("a condition"))?;
        match token.text {
            "not" | "!" => {
                // `state` is read here too, because it may be negated alone.
                let inner = if self.take_if(&["state"]) {
                    let states = self.states()?;
                    in_states(|state| states.contains(state))
                } else {
                    self.one()?
                };
                Ok(format!("not ({inner})"))
            }
            "(" => {
                let inner = self.any()?;
                if self.take_if(&[")"]) { Ok(format!("({inner})")) } else { Err(self.ended("`)`")) }
            }
            "sport" => self.port("local.port.number"),
            "dport" => self.port("remote.port.number"),
            "src" => self.host("local"),
            "dst" => self.host("remote"),
            "dev" => {
                let comparison = self.comparison().unwrap_or(Comparison::Equal);
                let name = self.take().ok_or_else(|| self.ended("the name of an interface"))?;
                let operator = if comparison == Comparison::NotEqual { "!=" } else { "=" };
                Ok(format!("interface {operator} {}", quoted(name.text)))
            }
            text => {
                let known = ABSENT.iter().find(|(word, _)| *word == text);
                let message = known.map_or_else(
                    || format!("'{text}' is not a condition of ss: there are src, dst, sport, dport, dev, state and exclude"),
                    |(_, sentence)| (*sentence).to_owned(),
                );
                Err(Diagnostic::error(token.span(), message))
            }
        }
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let comparison = match self.peek()?.text {
            "=" | "==" | "eq" => Comparison::Equal,
            "!=" | "ne" | "neq" => Comparison::NotEqual,
            "<=" | "le" | "leq" => Comparison::Order("<="),
            ">=" | "ge" | "geq" => Comparison::Order(">="),
            "<" | "lt" => Comparison::Order("<"),
            ">" | "gt" => Comparison::Order(">"),
            _ => return None,
        };
        self.next += 1;
        Some(comparison)
    }

    /// Reads `= :22`, `:https` and `>= 1024`.
    fn port(&mut self, field: &str) -> Result<String, Diagnostic> {
        let comparison = self.comparison().unwrap_or(Comparison::Equal);
        let token = self.take().ok_or_else(|| self.ended("a port"))?;
        // An address before the port means nothing to ss here.
        let text = token.text.rsplit_once(':').map_or(token.text, |(_, port)| port);
        port_condition(field, comparison, text).map_err(|message| Diagnostic::error(token.span(), message))
    }

    /// Reads `10.0.0.0/8`, `= [::1]:443` and `*:22`, about the end with this name.
    fn host(&mut self, end: &str) -> Result<String, Diagnostic> {
        let comparison = self.comparison().unwrap_or(Comparison::Equal);
        let token = self.take().ok_or_else(|| self.ended("an address"))?;
        let wrong = |message: String| Diagnostic::error(token.span(), message);
        if let Comparison::Order(operator) = comparison {
            return Err(wrong(format!(
                "addresses are not compared by `{operator}`: use a network, such as 10.0.0.0/8"
            )));
        }
        let (host, port) = parts(token.text).map_err(wrong)?;
        let mut conditions = Vec::new();
        if let Some(host) = host {
            conditions.push(format!("{end}.ip.address in ('{host}')"));
        }
        if let Some(port) = port {
            let field = format!("{end}.port.number");
            conditions.push(port_condition(&field, Comparison::Equal, port).map_err(wrong)?);
        }
        // `*` alone is any end there is.
        if conditions.is_empty() {
            conditions.push(format!("{end}.ip.address = *"));
        }
        let condition = joined(conditions, " and ");
        Ok(if comparison == Comparison::NotEqual { format!("not ({condition})") } else { condition })
    }
}

fn port_condition(field: &str, comparison: Comparison, text: &str) -> Result<String, String> {
    let ports = match text.parse::<u16>() {
        Ok(port) => vec![port],
        Err(_) => services::ports(text)?,
    };
    let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    Ok(match (comparison, ports.as_slice()) {
        (Comparison::Order(operator), [port, ..]) => format!("{field} {operator} {port}"),
        (Comparison::NotEqual, _) => format!("not ({field} in ({list}))"),
        _ => format!("{field} in ({list})"),
    })
}

/// Splits what stands behind `src` or `dst`: an address or network, and a port.
fn parts(text: &str) -> Result<(Option<String>, Option<&str>), String> {
    let text = match text.split_once(':') {
        Some(("inet" | "inet6", rest)) => rest,
        Some((family @ ("unix" | "link" | "netlink" | "packet" | "vsock"), _)) => {
            return Err(format!("only addresses of IPv4 and IPv6 can be asked for, not those of `{family}:`"));
        }
        _ => text,
    };
    // Behind the bracket may be the length of a network, then the port. An IPv6 address without brackets has no port behind it.
    let (before, behind) = text.rfind(']').map_or(("", text), |end| text.split_at(end));
    let (host, port) = match behind.rsplit_once(':') {
        Some((rest, port)) if address(text).is_none() => (&text[..before.len() + rest.len()], Some(port)),
        _ => (text, None),
    };
    let port = port.filter(|port| !matches!(*port, "" | "*"));
    let plain = host.replace(['[', ']'], "");
    if matches!(&*plain, "" | "*" | "any" | "all") {
        return Ok((None, port));
    }
    let host = address(&plain)
        .ok_or_else(|| format!("'{plain}' is not an IP address or network: names of hosts are not looked up"))?;
    Ok((Some(host), port))
}

/// Returns an address or network in full: `10/8` is `10.0.0.0/8`, as ss reads it.
fn address(text: &str) -> Option<String> {
    let (host, length) = text.split_once('/').map_or((text, None), |(host, length)| (host, Some(length)));
    let address = host.parse::<IpAddr>().ok().or_else(|| {
        let mut octets = [0; 4];
        let given: Vec<&str> = host.split('.').collect();
        // Numbers alone are ports, unless a length says otherwise.
        if given.len() > octets.len() || (given.len() == 1 && length.is_none()) {
            return None;
        }
        for (octet, given) in octets.iter_mut().zip(given) {
            *octet = given.parse().ok()?;
        }
        Some(Ipv4Addr::from(octets).into())
    })?;
    let Some(length) = length else { return Some(address.to_string()) };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.parse::<u8>().ok().filter(|length| *length <= most)?;
    Some(format!("{address}/{length}"))
}

fn joined(mut conditions: Vec<String>, operator: &str) -> String {
    match conditions.len() {
        1 => conditions.remove(0),
        _ => conditions.iter().map(|condition| format!("({condition})")).collect::<Vec<_>>().join(operator),
    }
}

/// Returns a text in quotes of the language.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_ss_are_told_from_those_of_searches() {
        for text in [
            "dst 10/8",
            "( sport = :22 )",
            "! dst 10/8",
            "not dport = :80",
            "state established",
            "exclude listening",
            "state",
        ] {
            assert!(is_one(text), "{text}");
        }
        for text in
            ["dst.port.number = 443", "state = 'LISTENING'", "state in ('LISTENING')", "not (state = 'x')", "'dst'", ""]
        {
            assert!(!is_one(text), "{text}");
        }
    }

    #[test]
    fn conditions_have_an_equivalent() {
        for (text, expected) in [
            ("dst 10/8", "remote.ip.address in ('10.0.0.0/8')"),
            ("dst 193.233.7/24", "remote.ip.address in ('193.233.7.0/24')"),
            ("src 192.0.2.1:22", "(local.ip.address in ('192.0.2.1')) and (local.port.number in (22))"),
            ("dst [2001:db8::/32]:443", "(remote.ip.address in ('2001:db8::/32')) and (remote.port.number in (443))"),
            ("dst [::1]", "remote.ip.address in ('::1')"),
            ("dst [2001:db8::]/32:443", "(remote.ip.address in ('2001:db8::/32')) and (remote.port.number in (443))"),
            ("dst ::1", "remote.ip.address in ('::1')"),
            ("dst != inet6:::1", "not (remote.ip.address in ('::1'))"),
            ("src *:22", "local.port.number in (22)"),
            ("dst *", "remote.ip.address = *"),
            ("sport = :22", "local.port.number in (22)"),
            ("sport :ssh", "local.port.number in (22)"),
            ("dport 443", "remote.port.number in (443)"),
            ("dport != :443", "not (remote.port.number in (443))"),
            ("dport ge :1024 and sport lt 1024", "(remote.port.number >= 1024) and (local.port.number < 1024)"),
            ("sport>=:1024&dport=:80", "(local.port.number >= 1024) and (remote.port.number in (80))"),
            (
                "( dport = :80 || dport = :81 ) dst 10/8",
                "((remote.port.number in (80)) or (remote.port.number in (81)))",
            ),
            ("not dst 10/8", "not (remote.ip.address in ('10.0.0.0/8'))"),
            ("dev eth0", "interface = 'eth0'"),
            ("state established", "state in ('ESTABLISHED')"),
            ("state listening state time-wait dst 10/8", "(state in ('LISTENING', 'TIME_WAIT')) and (remote"),
            ("state connected exclude time-wait exclude established", "state in ('SYN_SENT', 'SYN_RECV', 'FIN_WAIT1'"),
            ("state closed", "state in ('UNCONNECTED')"),
            ("exclude all", "state in ('none')"),
        ] {
            let found = translated(text).unwrap_or_else(|error| panic!("{text}: {}", error.to_string_in(text)));
            assert!(found.contains(expected), "{text}: {found}");
            let parsed = netconn_query::parse(&found);
            assert!(parsed.query.is_some() && parsed.diagnostics.is_empty(), "{found}: {:?}", parsed.diagnostics);
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_place() {
        for (text, expected) in [
            ("dst 10.0.0.0/33", "error 1:5 '10.0.0.0/33' is not an IP address or network"),
            ("dst example.com", "error 1:5 'example.com' is not an IP address or network"),
            ("dst unix:/run/x", "error 1:5 only addresses of IPv4 and IPv6"),
            ("dst > 10/8", "error 1:7 addresses are not compared by `>`"),
            ("sport = :no-such", "error 1:9 'no-such' is not a port"),
            ("state open", "error 1:7 'open' is not a state: use all,"),
            ("( dport = :80", "error 1:14 `)` is missing at the end"),
            ("dport = :80 )", "error 1:13 ')' is not expected here"),
            ("dst 10/8 and", "error 1:13 a condition is missing at the end"),
            ("dst 10/8 tcp", "error 1:10 'tcp' is not a condition of ss: there are src,"),
            ("fwmark = 1", "error 1:1 netconn does not know the mark"),
            ("cgroup /x", "error 1:1 netconn knows containers and systemd units"),
            ("dst", "error 1:4 an address is missing at the end"),
        ] {
            let error = translated(text).unwrap_err().to_string_in(text);
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}

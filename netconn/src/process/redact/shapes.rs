//! Secrets that their own form tells: keys of services, JSON Web Tokens, private keys, passwords in addresses.

use std::ops::Range;

/// A kind of key.
struct Shape {
    /// What it begins with.
    prefix: &'static str,
    /// Fewest characters behind that.
    least: usize,
    /// Which characters it has.
    has: fn(u8) -> bool,
}

const fn shape(prefix: &'static str, least: usize, has: fn(u8) -> bool) -> Shape {
    Shape { prefix, least, has }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn is_dotted(byte: u8) -> bool {
    is_url_safe(byte) || byte == b'.'
}

fn is_upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

/// Forms that the services document for their keys, so that they can be found where they leak.
const SHAPES: [Shape; 40] = [
    // AWS: long-lived and temporary access key ids.
    shape("AKIA", 16, is_upper),
    shape("ASIA", 16, is_upper),
    // GitHub.
    shape("ghp_", 20, is_word),
    shape("gho_", 20, is_word),
    shape("ghu_", 20, is_word),
    shape("ghs_", 20, is_word),
    shape("ghr_", 20, is_word),
    shape("github_pat_", 20, is_word),
    // GitLab.
    shape("glpat-", 15, is_dotted),
    shape("glptt-", 15, is_dotted),
    shape("gldt-", 15, is_dotted),
    shape("glrt-", 15, is_dotted),
    shape("glcbt-", 15, is_dotted),
    // Slack.
    shape("xoxa-", 8, is_url_safe),
    shape("xoxb-", 8, is_url_safe),
    shape("xoxc-", 8, is_url_safe),
    shape("xoxd-", 8, is_url_safe),
    shape("xoxe-", 8, is_url_safe),
    shape("xoxe.", 8, is_dotted),
    shape("xoxp-", 8, is_url_safe),
    shape("xoxr-", 8, is_url_safe),
    shape("xoxs-", 8, is_url_safe),
    shape("xapp-", 8, is_url_safe),
    // Google: keys of its services, tokens of OAuth.
    shape("AIza", 30, is_url_safe),
    shape("ya29.", 20, is_dotted),
    shape("GOCSPX-", 20, is_url_safe),
    // Stripe.
    shape("sk_live_", 10, is_word),
    shape("sk_test_", 10, is_word),
    shape("rk_live_", 10, is_word),
    shape("rk_test_", 10, is_word),
    shape("whsec_", 16, is_word),
    // Others.
    shape("sk-ant-", 16, is_url_safe),
    shape("sk-proj-", 16, is_url_safe),
    shape("npm_", 30, is_word),
    shape("pypi-AgE", 30, is_url_safe),
    shape("dckr_pat_", 20, is_url_safe),
    shape("hvs.", 20, is_url_safe),
    shape("tskey-", 16, is_url_safe),
    shape("SWMTKN-", 20, is_url_safe),
    shape("AGE-SECRET-KEY-1", 30, is_upper),
];

/// Appends where keys stand in a text. One that the end of a cut text cuts is found by its beginning.
pub(super) fn keys(text: &str, is_cut: bool, found: &mut Vec<Range<usize>>) {
    let bytes = text.as_bytes();
    let mut place = 0;
    let mut before = b' ';
    // Where the run of characters ends in which no token was found: it is not looked through again and again.
    let mut without_token = 0;
    while let Some(byte) = bytes.get(place).copied() {
        // A key begins where a word does; an option may be glued to it (`-pghp_…`).
        let is_glued = before.is_ascii_alphabetic() && place >= 2 && bytes.get(place - 2) == Some(&b'-');
        let begins = (is_glued || !is_word(before)) && may_begin(byte, bytes.get(place + 1));
        before = byte;
        let end = if !begins {
            None
        } else if bytes.get(place..).is_some_and(|rest| rest.starts_with(b"eyJ")) {
            let token = if place < without_token { None } else { json_web_token(bytes, place, is_cut) };
            token.and_then(|(end, is_token)| {
                without_token = end;
                is_token.then_some(end)
            })
        } else {
            key_at(bytes, place, is_cut)
        };
        match end {
            Some(end) => {
                found.push(place..end);
                place = end;
                before = b' ';
            }
            None => place += 1,
        }
    }
}

/// Returns whether a key can begin with these bytes: most words begin with others.
fn may_begin(first: u8, second: Option<&u8>) -> bool {
    matches!(
        (first, second),
        (b'A', Some(b'K' | b'S' | b'I' | b'G'))
            | (b'G', Some(b'O'))
            | (b'S', Some(b'W'))
            | (b'-', Some(b'-'))
            | (b'd', Some(b'c'))
            | (b'e', Some(b'y'))
            | (b'g', Some(b'h' | b'i' | b'l'))
            | (b'h', Some(b'v'))
            | (b'n', Some(b'p'))
            | (b'p', Some(b'y'))
            | (b'r' | b's', Some(b'k'))
            | (b't', Some(b's'))
            | (b'w', Some(b'h'))
            | (b'x', Some(b'o' | b'a'))
            | (b'y', Some(b'a'))
    )
}

/// Returns the end of the key that begins here.
fn key_at(bytes: &[u8], place: usize, is_cut: bool) -> Option<usize> {
    let rest = bytes.get(place..)?;
    if rest.starts_with(b"-----BEGIN ") {
        return private_key(rest).map(|length| place + length);
    }
    let shape = SHAPES.iter().find(|shape| rest.starts_with(shape.prefix.as_bytes()))?;
    let length =
        shape.prefix.len() + rest.get(shape.prefix.len()..)?.iter().take_while(|byte| (shape.has)(**byte)).count();
    let is_whole = length - shape.prefix.len() >= shape.least;
    let ends_the_cut = is_cut && length == rest.len() && length > shape.prefix.len();
    (is_whole || ends_the_cut).then_some(place + length)
}

/// Returns the end of what may be a JSON Web Token (RFC 7519) and whether it is one: two or three parts in base64url, of which the
/// first two are JSON objects.
fn json_web_token(bytes: &[u8], place: usize, is_cut: bool) -> Option<(usize, bool)> {
    let rest = bytes.get(place..)?;
    let length = rest.iter().take_while(|byte| is_dotted(**byte)).count();
    let token = rest.get(..length)?;
    let mut parts = token.split(|byte| *byte == b'.');
    let (header, payload) = (parts.next()?, parts.next());
    let is_whole =
        header.len() >= 10 && payload.is_some_and(|payload| payload.starts_with(b"eyJ") && payload.len() >= 8);
    // An encrypted one (RFC 7516) has five parts, and no JSON behind the header.
    let is_encrypted = header.len() >= 10 && token.iter().filter(|byte| **byte == b'.').count() == 4;
    Some((place + length, is_whole || is_encrypted || (is_cut && length == rest.len())))
}

/// Returns the length of a private key in PEM (RFC 7468): to its end, or to that of the text.
fn private_key(rest: &[u8]) -> Option<usize> {
    const END: &[u8] = b"-----END ";
    let label = rest.get(b"-----BEGIN ".len()..)?;
    let label = label.get(..label.windows(5).take(64).position(|window| window == b"-----")?)?;
    if !label.ends_with(b"PRIVATE KEY") {
        return None;
    }
    let Some(end) = rest.windows(END.len()).position(|window| window == END) else { return Some(rest.len()) };
    let behind = rest.get(end + END.len()..).unwrap_or_default();
    let length = behind.windows(5).take(64).position(|window| window == b"-----").map_or(behind.len(), |at| at + 5);
    Some(end + END.len() + length)
}

/// Appends where passwords stand in addresses: `scheme://user:password@host`, and a token alone before the `@`.
pub(super) fn passwords_in_addresses(text: &str, is_cut: bool, found: &mut Vec<Range<usize>>) {
    let bytes = text.as_bytes();
    let ends_word = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`');
    let (mut from, mut word_end) = (0, 0);
    while let Some(at) = bytes.iter().skip(from).position(|byte| *byte == b':') {
        from += at + 1;
        if bytes.get(from..from + 2) != Some(b"//") {
            continue;
        }
        let begin = from + 2;
        from = begin;
        // A word may have many addresses: its end is searched once.
        if begin > word_end {
            let length = bytes.iter().skip(begin).position(ends_word);
            word_end = length.map_or(bytes.len(), |length| begin + length);
        }
        let Some(word) = bytes.get(begin..word_end) else { continue };
        let authority = word.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(word.len());
        let colon = word.iter().take(authority).position(|byte| *byte == b':');
        let port = colon.and_then(|colon| word.get(colon + 1..authority));
        let is_port = port.is_some_and(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit));
        let last_at = |part: &[u8]| part.iter().rposition(|byte| *byte == b'@');
        // A password with a slash that was not escaped: what stands before it is no port.
        let at = word.get(..authority).and_then(last_at).or_else(|| {
            let next = word.windows(3).position(|window| window == b"://").unwrap_or(word.len());
            colon.filter(|_| !is_port).and(word.get(..next)).and_then(last_at)
        });
        match (colon, at) {
            (Some(colon), Some(at)) if colon < at => found.push(begin + colon + 1..begin + at),
            (_, Some(at)) if is_token(word.get(..at).unwrap_or_default()) => found.push(begin..begin + at),
            // Nobody knows whether an `@` would follow.
            (Some(colon), None) if is_cut && begin + authority == bytes.len() => {
                found.push(begin + colon + 1..bytes.len());
            }
            _ => {}
        }
    }
}

/// Returns whether the user of an address is a token: no name is so long and has digits.
fn is_token(user: &[u8]) -> bool {
    user.len() >= 20 && user.iter().any(u8::is_ascii_digit) && user.iter().all(|byte| is_dotted(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_begins_where_a_word_does() {
        let of = |text: &str, is_cut| {
            let mut found = Vec::new();
            keys(text, is_cut, &mut found);
            found.into_iter().map(|range| text[range].to_owned()).collect::<Vec<_>>()
        };
        let key = format!("ghp_{}", "a".repeat(36));
        assert_eq!(of(&format!("x={key} -p{key} x{key}"), false), [key.clone(), key.clone()]);
        assert_eq!(of("ghp_aaaa", false), [""; 0]);
        assert_eq!(of("x ghp_aaaa", true), ["ghp_aaaa"]);
        assert_eq!(
            of("é eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc é", false),
            ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc"]
        );
        assert_eq!(of("eyJhbGciOi", true), ["eyJhbGciOi"]);
        let pem = "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----";
        assert_eq!(of(&format!("echo {pem} x"), false), [pem]);
        assert_eq!(of("-----BEGIN PRIVATE KEY----- abc", true), ["-----BEGIN PRIVATE KEY----- abc"]);
        assert_eq!(of("-----BEGIN CERTIFICATE----- abc -----END CERTIFICATE-----", false), [""; 0]);
    }

    #[test]
    fn prefixes_are_found_by_their_first_letters() {
        for shape in &SHAPES {
            let key = format!("{}{}", shape.prefix, "A1".repeat(40));
            let mut found = Vec::new();
            keys(&key, false, &mut found);
            assert_eq!((found.len(), found.pop()), (1, Some(0..key.len())), "{}", shape.prefix);
        }
    }
}

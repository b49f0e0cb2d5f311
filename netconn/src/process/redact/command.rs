//! Finds secrets by their place in a command: behind an option, a name, a header.

use std::ops::Range;

use super::{
    names::{Secret, is_scheme, is_signature, secret, secret_of_option},
    programs::{self, Place, Program},
    words::{Source, Word, closing, split},
};

/// How deep commands in arguments of commands are looked at: `ssh HOST sudo sh -c '…'`.
const DEPTH_MAX: usize = 4;
/// Most bytes of a name.
const NAME_MAX: usize = 128;
/// A longer argument with a hyphen is no option.
const OPTION_MAX: usize = 28;

/// What is found in one text.
pub(super) struct Scan<'a> {
    text: &'a str,
    /// The text is the beginning of a longer one.
    is_cut: bool,
    /// Where secrets stand.
    pub(super) found: Vec<Range<usize>>,
}

/// A word whose next is a secret.
#[derive(Clone, Copy)]
struct Pending {
    secret: Secret,
    /// The next word is the value whatever it looks like.
    is_certain: bool,
}

/// What is known of the command in whose words the scan is.
#[derive(Clone, Copy, Default)]
struct Command {
    program: Option<&'static Program>,
    /// The word was there that the program's short options need.
    counts: bool,
    /// The option was there with which the last word is a secret.
    takes_last: bool,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str, is_cut: bool) -> Self {
        Self { text, is_cut, found: Vec::new() }
    }

    /// Looks through a text of which nothing is known.
    pub(super) fn text(&mut self) {
        let words = split(self.text, 0..self.text.len(), Source::Text, self.is_cut);
        self.command(&words, Source::Text, 0);
    }

    /// Looks through the arguments of `exec`.
    pub(super) fn arguments(&mut self, parts: &[Range<usize>]) {
        let word = |part: &Range<usize>| Word { begin: part.start, end: part.end, is_operator: false };
        let words: Vec<Word> = parts.iter().map(word).collect();
        self.command(&words, Source::Arguments, 0);
    }

    fn of(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    fn command(&mut self, words: &[Word], source: Source, depth: usize) {
        let mut command = Command::default();
        let mut pending: Option<Pending> = None;
        let mut before = "";
        for (index, whole) in words.iter().enumerate() {
            if whole.is_operator {
                (command, pending, before) = (Command::default(), None, "");
                continue;
            }
            let word = if source == Source::Arguments { *whole } else { whole.bare(self.text) };
            let text = self.of(word.range());
            if let Some(Pending { secret, is_certain }) = pending.take()
                && (is_certain || !is_option(text))
            {
                pending = self.value(secret, word.range(), source);
                before = text;
                continue;
            }
            let is_script = is_script_option(before);
            let has_words = text.bytes().any(|byte| byte.is_ascii_whitespace());
            let inner = if has_words && depth < DEPTH_MAX {
                let source = if is_script { Source::Script } else { Source::Text };
                let words = split(self.text, word.range(), source, self.is_cut);
                // One word that quotes hold together is what it was; a script begins with another one.
                (words.len() > 1 || is_script).then_some((words, source))
            } else {
                None
            };
            // The name at the beginning of a script is not that of all of the script.
            if !is_script || inner.is_none() {
                self.pairs(word.range(), source);
            }
            if let Some((words, source)) = inner {
                self.command(&words, source, depth + 1);
            }
            // A header in a text that lost its quotes: `-H Authorization: Bearer TOKEN`.
            let header = text.strip_suffix(':').and_then(|name| secret(name.rsplit('=').next().unwrap_or(name)));
            pending = if let Some(secret) = header {
                Some(Pending { secret, is_certain: true })
            } else if let Some(body) = text.strip_prefix('-').filter(|body| !body.is_empty()) {
                self.option(body, word, &mut command)
            } else {
                let is_last = words.get(index + 1).is_none_or(|next| next.is_operator);
                self.positional(text, before, word, (&mut command, is_last))
            };
            before = text;
        }
    }

    /// Looks at an option, `body` without its first hyphen; returns what the next word is.
    fn option(&mut self, body: &str, word: Word, command: &mut Command) -> Option<Pending> {
        let Command { program, counts, .. } = *command;
        let long = body.strip_prefix('-');
        let last_with = program.and_then(|program| program.last_with);
        command.takes_last |= long.is_none() && last_with.is_some_and(|letter| body.contains(letter));
        if long.is_none()
            && counts
            && let Some((secret, place, rest)) = program.and_then(|program| program.secret_in(body))
        {
            let is_glued = rest < body.len();
            if is_glued && place != Place::Next {
                // In `-k=x` of some programs the sign is no part of the value; in others one byte of it is shown.
                return self.value(secret, word.begin + 1 + rest..word.end, Source::Arguments);
            }
            if !is_glued && place != Place::Same {
                return Some(Pending { secret, is_certain: true });
            }
            return None;
        }
        let name = long.unwrap_or(body);
        let begin = word.end - name.len();
        let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
        let of_program = program.and_then(|program| program.longs.iter().find(|(known, _)| *known == name));
        if let (Some((_, secret)), Some(_)) = (of_program, value) {
            return self.value(*secret, begin + name.len() + 1..word.end, Source::Arguments);
        }
        // With a value, it is a pair.
        if value.is_some() || program.is_some_and(|program| program.harmless.contains(&name)) {
            return None;
        }
        // `-token VALUE`, as programs in Go and Java have it; shorter ones are letters.
        let is_name = (long.is_some() || name.len() >= 4) && name.bytes().all(is_of_name);
        let secret = of_program.map(|(_, secret)| *secret).or_else(|| secret_of_option(name).filter(|_| is_name))?;
        Some(Pending { secret, is_certain: false })
    }

    /// Looks at a word that is no option; returns what the next word is.
    fn positional(
        &mut self,
        text: &str,
        before: &str,
        word: Word,
        (command, is_last): (&mut Command, bool),
    ) -> Option<Pending> {
        if let Some(program) = programs::find(text) {
            *command = Command { program: Some(program), counts: program.after.is_none(), takes_last: false };
            return None;
        }
        if let Some(program) = command.program {
            command.counts |= program.after == Some(text);
            if program.words.contains(&text) {
                return Some(Pending { secret: Secret::Whole, is_certain: true });
            }
            if program.is_prefix {
                // The next words are another command.
                *command = Command::default();
            }
            if is_last && command.takes_last {
                return self.value(Secret::Whole, word.range(), Source::Arguments);
            }
            if program.has_slashes {
                return self.value(Secret::AfterSlash, word.range(), Source::Arguments);
            }
        }
        // `aws configure set NAME VALUE`, `npm config set //HOST/:NAME VALUE`.
        let name = text.rsplit([':', '/']).next().unwrap_or(text);
        let secret = secret(name).filter(|_| before == "set")?;
        Some(Pending { secret, is_certain: true })
    }

    /// Notes the secret part of a value; returns what the next word is.
    fn value(&mut self, secret: Secret, range: Range<usize>, source: Source) -> Option<Pending> {
        let text = self.of(range.clone());
        if is_no_secret(text, source) {
            return None;
        }
        let behind = |place: Option<usize>| place.map(|place| range.start + place + 1..range.end);
        let is_path = ["/", "./", "../", "~/", "@", "file:"].iter().any(|path| text.starts_with(path));
        let places_of_secrets = ["env:", "file:", "fd:", "stdin", "agent", "prompt"];
        let part = match secret {
            Secret::Whole | Secret::Cookies => Some(range),
            Secret::Key => (!is_path).then_some(range),
            Secret::AfterColon => behind(text.find(':')),
            Secret::AfterComma => behind(text.find(',')),
            Secret::AfterPercent => behind(text.find('%')),
            Secret::AfterSlash => {
                let end = text.rfind('@').filter(|at| *at > 0).map_or(range.end, |at| range.start + at);
                // `/` alone asks for no password, `@FILE` is a script, and `NAME=/PATH` a parameter.
                let is_user = |user: &str| !user.is_empty() && !user.contains(['=', '@']);
                let user = text.split('/').next().unwrap_or_default();
                let is_login = is_user(user.strip_prefix("userid=").unwrap_or(user));
                text.find('/')
                    .filter(|_| is_login)
                    .map(|slash| range.start + slash + 1..end)
                    .filter(|part| !part.is_empty())
            }
            Secret::Named => {
                let names = ["id=", "type=", "src=", "source=", "env="];
                (!names.iter().any(|name| text.starts_with(name))).then_some(range)
            }
            Secret::Phrase => (!places_of_secrets.iter().any(|place| text.starts_with(place))).then_some(range),
            Secret::Header => {
                let scheme = text.split_ascii_whitespace().next().filter(|word| is_scheme(word));
                match scheme {
                    // The secret is the next word.
                    Some(scheme) if scheme.len() == text.trim_end().len() => {
                        return Some(Pending { secret: Secret::Whole, is_certain: true });
                    }
                    Some(scheme) => {
                        let begin = text.find(scheme).unwrap_or_default() + scheme.len();
                        let blanks = text.get(begin..).unwrap_or_default();
                        let blanks = blanks.len() - blanks.trim_start().len();
                        Some(range.start + begin + blanks..range.end)
                    }
                    None => Some(range),
                }
            }
        };
        self.found.extend(part);
        // The next cookie of a list that lost its quotes.
        (secret == Secret::Cookies && text.ends_with(';')).then_some(Pending { secret, is_certain: true })
    }

    /// Finds `NAME=VALUE` and `NAME: VALUE` in a word.
    fn pairs(&mut self, unit: Range<usize>, source: Source) {
        let bytes = self.text.as_bytes();
        let mut place = unit.start;
        while place < unit.end {
            let Some(sign) = bytes.get(place).filter(|byte| matches!(byte, b'=' | b':')) else {
                place += 1;
                continue;
            };
            match self.pair(place, *sign == b':', &unit) {
                Some((secret, value)) => {
                    place = value.end.max(place + 1);
                    self.value(secret, value, source);
                }
                None => place += 1,
            }
        }
    }

    /// Returns the secret and its place if a name of one stands before the sign.
    fn pair(&self, sign: usize, is_colon: bool, unit: &Range<usize>) -> Option<(Secret, Range<usize>)> {
        let bytes = self.text.as_bytes();
        let at = |place: usize| bytes.get(place).copied().filter(|_| unit.contains(&place));
        // Comparisons, and addresses.
        if matches!(at(sign + 1), Some(b'=' | b'~'))
            || (is_colon && at(sign + 1) == Some(b'/') && at(sign + 2) == Some(b'/'))
        {
            return None;
        }
        // Back over the name, and the quotes of JSON around it.
        let mut end = sign;
        let is_quoted = end > unit.start && matches!(at(end - 1), Some(b'"' | b'\''));
        if is_quoted {
            end -= 1;
            end -= usize::from(end > unit.start && at(end - 1) == Some(b'\\'));
        }
        let mut begin = end;
        while begin > unit.start && end - begin < NAME_MAX && at(begin - 1).is_some_and(is_of_name) {
            begin -= 1;
        }
        let full = self.of(begin..end);
        let name = full.trim_start_matches('-');
        if name.is_empty() {
            return None;
        }
        let is_parameter = !is_colon && begin > unit.start && matches!(at(begin - 1), Some(b'?' | b'&'));
        let signature = (is_parameter && is_signature(name)).then_some(Secret::Whole);
        let secret = secret(name).or(signature)?;
        let is_at_start = begin == unit.start || is_behind_option(self.of(unit.start..begin));
        let is_spaced = matches!(at(sign + 1), Some(b' ' | b'\t') | None);
        if is_colon && !is_quoted && !is_spaced {
            // A header without a blank. A volume of a container looks like one: `-v my-token:/run/token`.
            let is_header = is_at_start && (name.contains('-') || matches!(secret, Secret::Header | Secret::Cookies));
            if !is_header || at(sign + 1) == Some(b'/') {
                return None;
            }
        }
        // To the value.
        let mut from = sign + 1;
        let skips = |byte: u8| byte.is_ascii_whitespace() || byte == b'[';
        while (is_colon || is_quoted) && at(from).is_some_and(skips) {
            from += 1;
        }
        if at(from) == Some(b'{') && is_quoted {
            return None;
        }
        let is_escaped = at(from) == Some(b'\\') && matches!(at(from + 1), Some(b'"' | b'\''));
        let opening = from + usize::from(is_escaped);
        if matches!(at(opening), Some(b'"' | b'\'')) {
            let end =
                if is_escaped { escaped_end(bytes, opening, unit.end) } else { closing(bytes, opening, unit.end) };
            return Some((secret, opening + 1..end.unwrap_or(unit.end)));
        }
        let is_header = is_colon && !is_quoted;
        // Whole names at the beginning of an argument have all of it, with blanks: options and variables.
        let has_all = is_at_start && (full.starts_with('-') || begin > unit.start || is_header || is_variable(name));
        let ends = |place: usize| {
            let byte = at(place).unwrap_or(b' ');
            if is_at_start {
                // `password=x&user=y`: a form; `password=x host=y`: a connection.
                (matches!(byte, b'&' | b',' | b';') || byte.is_ascii_whitespace())
                    && begins_pair(self.of(place + 1..unit.end))
            } else {
                byte.is_ascii_whitespace()
                    || matches!(
                        byte,
                        b'&' | b',' | b';' | b'"' | b'\'' | b')' | b'}' | b']' | b'<' | b'>' | b'|' | b'`'
                    )
            }
        };
        let end = if has_all { unit.end } else { (from..unit.end).find(|place| ends(*place)).unwrap_or(unit.end) };
        // A header that is not alone in its text may have a scheme before the secret.
        let end = if is_header && !is_at_start && secret == Secret::Header && is_scheme(self.of(from..end)) {
            let next = end + 1;
            (next..unit.end).find(|place| ends(*place)).unwrap_or(unit.end)
        } else {
            end
        };
        Some((secret, from.min(end)..end))
    }
}

/// Returns the place of the escaped quote that closes an escaped one.
fn escaped_end(bytes: &[u8], opening: usize, end: usize) -> Option<usize> {
    let quote = bytes.get(opening)?;
    let inside = bytes.get(opening + 1..end)?;
    let close = inside.windows(2).position(|pair| matches!(pair, [b'\\', last] if last == quote))?;
    Some(opening + 1 + close)
}

/// Returns whether names of options, variables and headers have this byte.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Returns whether a word looks like an option, and not like a value that begins with a hyphen.
fn is_option(word: &str) -> bool {
    let Some(name) = word.strip_prefix('-') else { return false };
    let name = name.strip_prefix('-').unwrap_or(name);
    let name = name.split('=').next().unwrap_or(name);
    name.len() <= OPTION_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(is_of_name)
}

/// Returns whether the next argument is a script: `sh -c`, `bash -lc`, `su --command`.
fn is_script_option(word: &str) -> bool {
    word == "--command" || (word.starts_with('-') && !word.starts_with("--") && word.len() <= 5 && word.ends_with('c'))
}

/// Returns whether a text is an option that has a pair as its value: `--env=`, `--from-literal=`, `-e`.
fn is_behind_option(text: &str) -> bool {
    text.starts_with('-') && text.strip_suffix('=').is_some_and(|name| name.bytes().all(is_of_name))
}

/// Returns whether a name is one of a variable of the environment, by custom.
fn is_variable(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Returns whether a text begins with `NAME=`.
fn begins_pair(text: &str) -> bool {
    let length = text.bytes().take(NAME_MAX).take_while(|byte| is_of_name(*byte)).count();
    length > 0 && text.as_bytes().get(length) == Some(&b'=')
}

/// Returns whether a value is known to be none that has to be hidden.
fn is_no_secret(value: &str, source: Source) -> bool {
    let is_word = ["true", "false", "yes", "no", "none", "null", "on", "off", "0", "1"]
        .iter()
        .any(|word| word.eq_ignore_ascii_case(value));
    value.is_empty() || value == "-" || is_word || (source == Source::Script && is_reference_to_variable(value))
}

/// Returns whether a word of a script is nothing but a variable, or what a command prints.
fn is_reference_to_variable(value: &str) -> bool {
    let value = value.trim_matches('"');
    let Some(name) = value.strip_prefix('$') else { return false };
    let name = name.strip_prefix('{').map_or(name, |name| name.strip_suffix('}').unwrap_or(name));
    name.is_empty() || name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

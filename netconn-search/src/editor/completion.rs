//! Completion: determines which commands, fields, functions and values can stand at the cursor.

use std::borrow::Cow;

use netconn_model::{
    field::{self, FIELDS},
    term,
};
use netconn_query::{
    AnswerColumns, Fields,
    catalogue::{COMMANDS, FUNCTIONS, FunctionKind},
    check,
    keyword::{self, KEYWORDS, Keyword, KeywordUse, Spelling},
    parse, printer,
};

/// A candidate for the word at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The text that replaces the word at the cursor.
    pub text: String,
    /// The text in the list of candidates.
    pub shown: String,
}

/// The syntactic context of the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorContext<'a> {
    /// A value of a field, within an open quote.
    Value {
        /// The field that is compared with the value; empty if there is none.
        field: &'a str,
        /// The part of the value before the cursor.
        begun: &'a str,
        /// The quote that began it.
        quote: char,
    },
    /// The name of a command, after `|`; holds the part before the cursor.
    Command(&'a str),
    /// A name in an expression.
    Name {
        /// The part of the name before the cursor.
        begun: &'a str,
        /// The command that it belongs to; `None` in the first filter.
        command: Option<&'a str>,
        /// The query before that command.
        before: &'a str,
    },
}

impl<'a> CursorContext<'a> {
    /// Determines the context at the end of `text`, the text before the cursor.
    pub fn of(text: &'a str) -> Self {
        // Quotes are checked first: within them, neither `|` nor names have a meaning.
        if let Some(place) = open_quote(text) {
            let field = field_before(&text[..place]).unwrap_or_default();
            let quote = if text[place..].starts_with('"') { '"' } else { '\'' };
            return Self::Value { field, begun: &text[place + 1..], quote };
        }
        let start = text
            .rfind(|character| !is_name(character))
            .map_or(0, |place| place + text[place..].chars().next().map_or(0, char::len_utf8));
        let (before, begun) = text.split_at(start);
        // Names can contain a hyphen but do not begin with one: in `sort -name` it is an operator.
        let begun = begun.trim_start_matches('-');
        let Some(pipe) = last_pipe(before) else { return Self::Name { begun, command: None, before: "" } };
        let step = before[pipe + 1..].trim_start();
        if step.is_empty() {
            return Self::Command(begun);
        }
        let command = step.split(|character: char| !is_name(character)).next();
        Self::Name { begun, command: command.filter(|command| !command.is_empty()), before: &before[..pipe] }
    }

    /// Returns where the word that is completed begins, in a text of this length (bytes).
    pub fn start(&self, length: usize) -> usize {
        match self {
            Self::Value { begun, .. } | Self::Command(begun) | Self::Name { begun, .. } => length - begun.len(),
        }
    }

    /// Returns the candidates. `fields` are the fields found in the files, and `values` returns frequent values of a
    /// field. Candidates with control characters are left out, because a chosen one is written to the terminal
    /// unchanged.
    pub fn candidates(&self, fields: &[String], values: impl FnOnce(&str) -> Vec<String>) -> Vec<Candidate> {
        match self {
            // Without a field there is nothing to look values up for.
            Self::Value { field: "", .. } => Vec::new(),
            Self::Value { field, begun, quote } => {
                let fitting = |value: &String| starts_with(value, begun) && is_harmless(value);
                values(field).into_iter().filter(fitting).map(|value| quoted(&value, *quote)).collect()
            }
            Self::Command(begun) => {
                let names = COMMANDS.iter().map(|command| (command.name, command.meaning));
                names
                    .filter(|(name, _)| starts_with(name, begun))
                    .map(|(name, meaning)| named(name, " ", meaning))
                    .collect()
            }
            Self::Name { begun, command, before } => names(begun, *command, before, fields),
        }
    }
}

/// Returns whether the rows after these commands have the fields of events, and which other columns they have.
fn columns(before: &str, fields: &[String]) -> (bool, Vec<String>) {
    // If the query before the cursor has errors, all fields are offered.
    let Some(query) = parse(before).query else { return (true, Vec::new()) };
    match check(&query, &Fields::new(fields)).columns {
        AnswerColumns::Events { added } | AnswerColumns::Partly(added) => (true, added),
        AnswerColumns::Named(names) => (false, names),
    }
}

/// Returns names that begin with `begun`: columns, fields, functions and key words.
fn names(begun: &str, command: Option<&str>, before: &str, fields: &[String]) -> Vec<Candidate> {
    let in_group = matches!(command, Some("group" | "top"));
    let (has_fields, made) = columns(before, fields);
    let made = made.iter().filter(|name| is_harmless(name) && starts_with(name, begun));
    let mut candidates: Vec<Candidate> = made.map(|name| named(&printer::name(name), "", "")).collect();
    if has_fields {
        let known = FIELDS.iter().map(|field| (field.name, field.meaning));
        let found = fields.iter().filter(|field| is_harmless(field)).map(|field| (field.as_str(), "in these files"));
        let known = known.chain(found.filter(|(name, _)| field::by_name(name).is_none()));
        candidates
            .extend(known.filter(|(name, _)| starts_with(name, begun)).map(|(name, meaning)| named(name, "", meaning)));
    }
    // Without a first letter, the list of functions and key words would be too long to help.
    if begun.is_empty() {
        return candidates;
    }
    let fits = |kind| match kind {
        FunctionKind::Aggregate => in_group,
        FunctionKind::Running => !in_group && command.is_some(),
        FunctionKind::Plain => true,
    };
    let functions = FUNCTIONS.iter().filter(|function| fits(function.kind) && starts_with(function.name, begun));
    // The operator `x contains y` is meant more often than the function `x.contains(y)`.
    let functions = functions.filter(|function| keyword::by_name(function.name).is_none());
    candidates.extend(functions.map(|function| named(function.name, "(", function.meaning)));
    candidates.dedup_by(|one, other| one.text == other.text);
    let is_offered = |keyword: &&Keyword| {
        keyword.spelling == Spelling::Canonical
            && keyword.r#use != KeywordUse::Lambda
            && starts_with(keyword.name, begun)
    };
    let words = KEYWORDS.iter().filter(is_offered);
    candidates.extend(words.map(|word| named(word.name, " ", "")));
    candidates
}

/// Returns a candidate for a name, with the text that follows it and its explanation in the list.
fn named(name: &str, behind: &str, meaning: &str) -> Candidate {
    let shown = if meaning.is_empty() { name.to_owned() } else { format!("{name}  {meaning}") };
    Candidate { text: format!("{name}{behind}"), shown }
}

/// Returns a value with its closing quote; quotes and backslashes within it are escaped.
fn quoted(value: &str, quote: char) -> Candidate {
    let mut text = String::new();
    for character in value.chars() {
        if character == quote || character == '\\' {
            text.push('\\');
        }
        text.push(character);
    }
    text.push(quote);
    Candidate { text, shown: value.to_owned() }
}

/// Returns whether a text is free of control characters.
fn is_harmless(text: &str) -> bool {
    matches!(term::sanitize(text), Cow::Borrowed(_))
}

fn starts_with(name: &str, begun: &str) -> bool {
    name.get(..begun.len()).is_some_and(|start| start.eq_ignore_ascii_case(begun))
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || "._-:#".contains(character)
}

/// Returns where the quote that is open at the end of a text begins.
pub(super) fn open_quote(text: &str) -> Option<usize> {
    let mut open: Option<(usize, char)> = None;
    let mut characters = text.char_indices();
    while let Some((place, character)) = characters.next() {
        match (open, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some((_, quote)), _) if character == quote => open = None,
            (None, '\'' | '"') => open = Some((place, character)),
            // A comment, in which quotes have no meaning, extends to the end of its line.
            (None, '/') if text[place..].starts_with("//") => {
                characters.by_ref().find(|(_, character)| *character == '\n');
            }
            _ => {}
        }
    }
    open.map(|(place, _)| place)
}

/// Returns the field with which a value at the end of this text is compared: `field = `, `field in ('a', `.
fn field_before(text: &str) -> Option<&str> {
    let text = text.trim_end();
    // Within an open list, the text before the list decides.
    let list = text.rfind('(').filter(|open| !text[*open..].contains(')')).map(|open| text[..open].trim_end());
    list.and_then(compared).or_else(|| compared(text))
}

/// Returns the field before the operator at the end of this text.
fn compared(text: &str) -> Option<&str> {
    let operators = ["==", "!=", "=", ">=", "<=", ">", "<"];
    // `contains:anycase`, `=:anycase`
    // The suffix belongs to the operator and stands between it and the value.
    let text = [":anycase", ":matchcase"].iter().find_map(|suffix| text.strip_suffix(suffix)).unwrap_or(text);
    let field = match operators.iter().find_map(|operator| text.strip_suffix(operator)) {
        Some(field) => field,
        None => {
            let (field, operator) = text.rsplit_once(char::is_whitespace)?;
            let operator = operator.to_ascii_lowercase();
            let known = ["in", "contains", "matches", "starts_with", "startswith", "ends_with", "endswith", "like"];
            let field = known.contains(&operator.as_str()).then_some(field)?;
            field.trim_end().strip_suffix(" not").unwrap_or(field)
        }
    };
    let field = field.trim_end();
    let start = field.rfind(|character| !is_name(character)).map_or(0, |place| place + 1);
    field.get(start..).filter(|field| !field.is_empty())
}

/// Returns where the last `|` that begins a command is: not `||`, and not within quotes.
fn last_pipe(text: &str) -> Option<usize> {
    let pipe = text.rfind('|').filter(|place| open_quote(&text[..*place]).is_none())?;
    if text[..pipe].ends_with('|') { None } else { Some(pipe) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the first five candidates at the end of a text, separated by `|`.
    fn offered(text: &str) -> String {
        let context = CursorContext::of(text);
        let values = |field: &str| match field {
            "src.process.name" => {
                ["curl", "it's", "cron", "cr\u{1b}]0;owned\u{7}", "c\u{202e}x", "c\n| savelookup 'x'"]
                    .map(str::to_owned)
                    .to_vec()
            }
            _ => Vec::new(),
        };
        let candidates = context.candidates(&["cluster.name".to_owned(), "clus\u{1b}[2J".to_owned()], values);
        let texts: Vec<String> = candidates.into_iter().take(5).map(|candidate| candidate.text).collect();
        format!("{}:{}", &text[context.start(text.len())..], texts.join("|"))
    }

    #[test]
    fn what_can_stand_at_the_cursor() {
        for (text, expected) in [
            ("event.ty", "event.ty:event.type"),
            ("EVENT.TY", "EVENT.TY:event.type"),
            ("a = 1 and not(dst.", "dst.:dst.ip.address|dst.port.number"),
            ("clus", "clus:cluster.name"),
            ("a = 1 | gr", "gr:group "),
            ("a = 1 |", ":filter |columns |let |group |sort "),
            ("a || ev", "ev:event.type|event.category|event.time|event.id|event.connection.id"),
            ("| group n = estimate", "estimate:estimate_distinct("),
            ("| filter estimate", "estimate:"),
            ("| let x = running_c", "running_c:running_count("),
            ("| group hits = count() by dst.ip.address | sort -", ":dst.ip.address|hits"),
            ("| group hits = count(), max(dst.port.number) by dst.ip.address | filter hi", "hi:hits"),
            ("| let hits = 1 | filter hi", "hi:hits"),
            ("| let hits = 1 | columns dst.p", "dst.p:dst.port.number"),
            (
                "| union (| group hits = count() by a | sort ev",
                "ev:event.type|event.category|event.time|event.id|event.connection.id",
            ),
            ("a con", "con:container.id|concat(|contains "),
            ("src.process.name = '", ":curl'|it\\'s'|cron'"),
            ("src.process.name='c", "c:curl'|cron'"),
            ("src.process.name in ('curl', \"C", "C:curl\"|cron\""),
            ("src.process.name not in ('c", "c:curl'|cron'"),
            ("(src.process.name contains:anycase 'i", "i:it\\'s'"),
            ("| sort 'gro", "gro:"),
            ("other = '", ":"),
            ("// it's\nevent.ty", "event.ty:event.type"),
        ] {
            assert_eq!(offered(text), expected, "{text}");
        }
    }
}

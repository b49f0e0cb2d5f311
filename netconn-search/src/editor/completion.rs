//! What can stand at the cursor: commands, fields, functions, values.

use std::borrow::Cow;

use netconn_model::{
    field::{self, FIELDS},
    term,
};
use netconn_query::{
    Columns, Fields,
    catalogue::{COMMANDS, FUNCTIONS, FunctionKind},
    check,
    keyword::{self, KEYWORDS, Keyword, KeywordUse, Spelling},
    parse, printer,
};

/// Something that can stand at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What is put in the place of the word at the cursor.
    pub text: String,
    /// What is shown in a list.
    pub shown: String,
}

/// What stands at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorContext<'a> {
    /// A value of a field, within quotes that begin before it.
    Value {
        /// The field; empty if none is compared with it.
        field: &'a str,
        /// The value as far as it is written.
        begun: &'a str,
        /// The character that it began with.
        quote: char,
    },
    /// A command, behind `|`.
    Command(&'a str),
    /// A name in an expression.
    Name {
        /// As far as it is written.
        begun: &'a str,
        /// The command that it belongs to; the first filter has none.
        command: Option<&'a str>,
        /// What stands before that command.
        before: &'a str,
    },
}

impl<'a> CursorContext<'a> {
    /// What stands at the end of a text: that before the cursor.
    pub fn of(text: &'a str) -> Self {
        if let Some(place) = open_quote(text) {
            let field = field_before(&text[..place]).unwrap_or_default();
            let quote = if text[place..].starts_with('"') { '"' } else { '\'' };
            return Self::Value { field, begun: &text[place + 1..], quote };
        }
        let start = text
            .rfind(|character| !is_name(character))
            .map_or(0, |place| place + text[place..].chars().next().map_or(0, char::len_utf8));
        let (before, begun) = text.split_at(start);
        // A name has a hyphen within, at most: `sort -name`.
        let begun = begun.trim_start_matches('-');
        let Some(pipe) = last_pipe(before) else { return Self::Name { begun, command: None, before: "" } };
        let step = before[pipe + 1..].trim_start();
        if step.is_empty() {
            return Self::Command(begun);
        }
        let command = step.split(|character: char| !is_name(character)).next();
        Self::Name { begun, command: command.filter(|command| !command.is_empty()), before: &before[..pipe] }
    }

    /// Where the word begins that is completed, in a text of this length.
    pub fn start(&self, length: usize) -> usize {
        match self {
            Self::Value { begun, .. } | Self::Command(begun) | Self::Name { begun, .. } => length - begun.len(),
        }
    }

    /// What can stand there. `fields` are those in the files beyond the table of fields, `values` gives the frequent values
    /// of a field. What could harm a terminal is left out: what is taken is written as it is.
    pub fn candidates(&self, fields: &[String], values: impl FnOnce(&str) -> Vec<String>) -> Vec<Candidate> {
        match self {
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

/// The columns that there are behind these commands: whether fields of events are among them, and others.
fn columns(before: &str, fields: &[String]) -> (bool, Vec<String>) {
    let Some(query) = parse(before).query else { return (true, Vec::new()) };
    match check(&query, &Fields::new(fields)).columns {
        Columns::Events { added } | Columns::Partly(added) => (true, added),
        Columns::Named(names) => (false, names),
    }
}

/// Names that begin like that: columns, fields, functions, words; as the very first word commands too.
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
    // Everything at once is no help.
    if begun.is_empty() {
        return candidates;
    }
    let fits = |kind| match kind {
        FunctionKind::Aggregate => in_group,
        FunctionKind::Running => !in_group && command.is_some(),
        FunctionKind::Plain => true,
    };
    let functions = FUNCTIONS.iter().filter(|function| fits(function.kind) && starts_with(function.name, begun));
    // `x contains y` is what is meant more often than `x.contains(y)`.
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

fn named(name: &str, behind: &str, meaning: &str) -> Candidate {
    let shown = if meaning.is_empty() { name.to_owned() } else { format!("{name}  {meaning}") };
    Candidate { text: format!("{name}{behind}"), shown }
}

/// A value with the quote that ends it; what would end it earlier is escaped.
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

/// Whether a terminal shows a text as it is.
fn is_harmless(text: &str) -> bool {
    matches!(term::sanitize(text), Cow::Borrowed(_))
}

fn starts_with(name: &str, begun: &str) -> bool {
    name.get(..begun.len()).is_some_and(|start| start.eq_ignore_ascii_case(begun))
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || "._-:#".contains(character)
}

/// Where the text began that is not ended.
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
            // A comment goes to the end of its line.
            (None, '/') if text[place..].starts_with("//") => {
                characters.by_ref().find(|(_, character)| *character == '\n');
            }
            _ => {}
        }
    }
    open.map(|(place, _)| place)
}

/// The field that a value belongs to which begins at the end of this text: `field = `, `field in ('a', `.
fn field_before(text: &str) -> Option<&str> {
    let text = text.trim_end();
    // Of a list that is open, what stands before it decides.
    let list = text.rfind('(').filter(|open| !text[*open..].contains(')')).map(|open| text[..open].trim_end());
    list.and_then(compared).or_else(|| compared(text))
}

/// The field before the operator at the end of this text.
fn compared(text: &str) -> Option<&str> {
    let operators = ["==", "!=", "=", ">=", "<=", ">", "<"];
    // `contains:anycase`, `=:anycase`
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

/// The last `|` that begins a command: `||` does not, nor one in a text.
fn last_pipe(text: &str) -> Option<usize> {
    let pipe = text.rfind('|').filter(|place| open_quote(&text[..*place]).is_none())?;
    if text[..pipe].ends_with('|') { None } else { Some(pipe) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is offered at the end of a text, separated by `|`, at most five.
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

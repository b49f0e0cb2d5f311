//! Patterns of `parse`: text with `$name$` in it.

use thiserror::Error;

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text between columns.
    Text(String),
    /// A column that is taken out.
    Column {
        /// Name of the column.
        name: String,
        /// Text that the column may be.
        content: Content,
    },
    /// `$$`: the parsed text ends here.
    End,
}

/// Text that a column may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// `$name$`: the shortest text that fits.
    Any,
    /// `$name=digits$`
    Digits,
    /// `$name=identifier$`: letters, digits and `_`, not beginning with a digit.
    Identifier,
    /// `$name{regex=…}$`
    Regex(String),
}

/// Why a pattern cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PatternError {
    /// A `$` begins a name and none ends it.
    #[error("a $ in the pattern begins a name, and no $ ends it")]
    Unclosed,
    /// `$ $` or `$a b$`.
    #[error("'{0}' is not a name for a column: use letters, digits, '.', '_' and '-'")]
    Name(String),
    /// `$name=x$` or `$name{x}$`.
    #[error("'{0}' is unknown in a pattern: use =digits, =identifier or {{regex=…}}")]
    Content(String),
    /// The pattern has no column.
    #[error("the pattern has no column: write its name between two $, like \"port $port$\"")]
    NoColumn,
    /// The pattern has a column twice.
    #[error("the pattern has the column '{0}' twice")]
    Twice(String),
}

/// Splits a pattern into its pieces.
///
/// # Errors
///
/// The pattern cannot be read.
pub fn pieces(pattern: &str) -> Result<Vec<Piece>, PatternError> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut rest = pattern;
    // Ends because each turn takes a `$`.
    while let Some((before, after)) = rest.split_once('$') {
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        if let Some(after) = after.strip_prefix('$') {
            pieces.push(Piece::End);
            rest = after;
            continue;
        }
        let name_end = after.find(['$', '{', '=']).ok_or(PatternError::Unclosed)?;
        let (name, after) = after.split_at(name_end);
        // The characters that a name may have without a backslash.
        let is_part = |character: char| character.is_alphanumeric() || "._-:".contains(character);
        if name.is_empty() || !name.chars().all(is_part) {
            return Err(PatternError::Name(name.to_owned()));
        }
        let same = |piece: &Piece| matches!(piece, Piece::Column { name: other, .. } if other == name);
        // A row has one value for each column, so a second one would win silently.
        if pieces.iter().any(same) {
            return Err(PatternError::Twice(name.to_owned()));
        }
        let (content, after) = content(after)?;
        pieces.push(Piece::Column { name: name.to_owned(), content });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    if pieces.iter().any(|piece| matches!(piece, Piece::Column { .. })) {
        Ok(pieces)
    } else {
        Err(PatternError::NoColumn)
    }
}

/// Reads what follows a name up to the `$` that ends it, and returns the rest of the text as well.
fn content(text: &str) -> Result<(Content, &str), PatternError> {
    if let Some(after) = text.strip_prefix('$') {
        return Ok((Content::Any, after));
    }
    if let Some(after) = text.strip_prefix("{regex=") {
        let (regex, after) = closing_brace(after)
            .and_then(|end| Some((&after[..end], after[end..].strip_prefix("}$")?)))
            .ok_or(PatternError::Unclosed)?;
        return Ok((Content::Regex(regex.to_owned()), after));
    }
    let (given, after) = text.split_once('$').ok_or(PatternError::Unclosed)?;
    match given {
        "=digits" => Ok((Content::Digits, after)),
        "=identifier" => Ok((Content::Identifier, after)),
        _ => Err(PatternError::Content(given.to_owned())),
    }
}

/// Returns the place of the brace that closes a regular expression, which may have pairs of braces itself.
fn closing_brace(text: &str) -> Option<usize> {
    let (mut open, mut escaped) = (0_usize, false);
    // Where the class of characters begins that this is in: braces in it are characters like others.
    let mut class = None;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            // Right behind the `[` or `[^`, a `]` is one of the characters.
            ']' if class.is_some_and(|start: usize| !matches!(&text[start..at], "[" | "[^")) => class = None,
            _ if class.is_some() => {}
            '[' => class = Some(at),
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            // Not below 0: the branch before has returned then.
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

/// Returns the columns of a pattern in their order.
pub fn columns(pieces: &[Piece]) -> impl Iterator<Item = &str> {
    pieces.iter().filter_map(|piece| match piece {
        Piece::Column { name, content: _ } => Some(name.as_str()),
        Piece::Text(_) | Piece::End => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_taken_apart() {
        let column = |name: &str, content| Piece::Column { name: name.into(), content };
        let text = |text: &str| Piece::Text(text.into());
        assert_eq!(
            pieces("took $ms=digits$ ms for $what$$$"),
            Ok(vec![
                text("took "),
                column("ms", Content::Digits),
                text(" ms for "),
                column("what", Content::Any),
                Piece::End
            ])
        );
        assert_eq!(
            pieces("/$f{regex=[^/]{2,}$}$"),
            Ok(vec![text("/"), column("f", Content::Regex("[^/]{2,}$".into()))])
        );
        assert_eq!(
            pieces("$f{regex=[]${}]+}$ $g$"),
            Ok(vec![column("f", Content::Regex("[]${}]+".into())), text(" "), column("g", Content::Any)])
        );
        assert_eq!(columns(&pieces("$a$ $b.c=identifier$").unwrap()).collect::<Vec<_>>(), ["a", "b.c"]);
    }

    #[test]
    fn wrong_patterns_are_told() {
        let wrong = |pattern: &str| pieces(pattern).unwrap_err().to_string();
        assert_eq!(wrong("a $b"), "a $ in the pattern begins a name, and no $ ends it");
        assert_eq!(wrong("$b{regex=x$"), "a $ in the pattern begins a name, and no $ ends it");
        assert_eq!(wrong("$a b$"), "'a b' is not a name for a column: use letters, digits, '.', '_' and '-'");
        assert_eq!(wrong("$a=hex$"), "'=hex' is unknown in a pattern: use =digits, =identifier or {regex=…}");
        assert_eq!(wrong("abc$$"), "the pattern has no column: write its name between two $, like \"port $port$\"");
        assert_eq!(wrong("$a$ $a$"), "the pattern has the column 'a' twice");
    }
}

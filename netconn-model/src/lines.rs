//! Finds the whole lines in bytes that arrive in parts.

/// Returns how many bytes at the beginning of `bytes` are whole lines: up to and including the last line feed, 0
/// without one. The rest is the beginning of a line whose end has not arrived yet.
pub fn whole_length(bytes: &[u8]) -> usize {
    memchr::memrchr(b'\n', bytes).map_or(0, |last| last + 1)
}

/// Adds `part` to the beginning of a line in `rest`, and calls `line` for each line that is whole then, without its line feed.
/// Returns `false` as soon as `line` does.
///
/// # Errors
///
/// Those of `line`.
pub fn each<E>(rest: &mut Vec<u8>, part: &[u8], mut line: impl FnMut(&[u8]) -> Result<bool, E>) -> Result<bool, E> {
    rest.extend_from_slice(part);
    let whole = whole_length(rest);
    // The last line feed leaves an empty piece.
    for text in rest[..whole].split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
        if !line(text)? {
            return Ok(false);
        }
    }
    rest.drain(..whole);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_whole_with_its_line_feed() {
        for (bytes, expected) in [("", 0), ("a", 0), ("\n", 1), ("a\nb", 2), ("a\nb\n", 4), ("\n\nab", 2)] {
            assert_eq!(whole_length(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn lines_are_put_together_of_parts() {
        let (mut rest, mut found) = (Vec::new(), Vec::new());
        for part in ["a", "b\nc\n\nd", "\n", "stop\nno\n"] {
            let goes_on = each(&mut rest, part.as_bytes(), |line| {
                found.push(String::from_utf8(line.to_vec()).unwrap());
                Ok::<_, ()>(line != b"stop")
            });
            assert_eq!(goes_on, Ok(part != "stop\nno\n"));
        }
        assert_eq!(found, ["ab", "c", "d", "stop"]);
    }
}

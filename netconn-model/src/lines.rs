//! Finds the whole lines in bytes that arrive in parts.

/// Returns how many bytes at the beginning of `bytes` are whole lines: up to and including the last line feed, 0
/// without one. The rest is the beginning of a line whose end has not arrived yet.
pub fn whole_length(bytes: &[u8]) -> usize {
    memchr::memrchr(b'\n', bytes).map_or(0, |last| last + 1)
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
}

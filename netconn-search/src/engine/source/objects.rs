//! Puts JSON objects that go over several lines, or stand in an array, on one line each, while they are read.

use std::io::{self, Read};

use super::find::has_objects;

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Reads text in which each object has one line. Text that is lines already passes unchanged.
pub(super) struct ObjectLines<R> {
    input: R,
    /// Whether the text is rewritten; `None` before its first bytes are known.
    rewrites: Option<bool>,
    chunk: Vec<u8>,
    /// Text that was not asked for yet, and how much of it was.
    made: Vec<u8>,
    given: usize,
    state: State,
}

/// Where the text is.
#[derive(Default)]
struct State {
    /// Number of objects that are open.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// Whether something that is no object stands between objects: it becomes a line of its own.
    has_other: bool,
}

impl<R: Read> ObjectLines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, rewrites: None, chunk: vec![0; CHUNK_BYTES], made: Vec::new(), given: 0, state: State::default() }
    }

    /// Reads a chunk; returns `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.made.clear();
        self.given = 0;
        let mut filled = self.input.read(&mut self.chunk)?;
        // The beginning decides, so it has to be long enough.
        while self.rewrites.is_none() && filled < 4096 {
            match self.input.read(&mut self.chunk[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        let chunk = &self.chunk[..filled];
        if *self.rewrites.get_or_insert_with(|| has_objects(chunk)) {
            chunk.iter().for_each(|byte| self.state.put(*byte, &mut self.made));
        } else {
            self.made.extend_from_slice(chunk);
        }
        Ok(filled > 0)
    }
}

impl State {
    fn put(&mut self, byte: u8, made: &mut Vec<u8>) {
        if self.in_string {
            made.push(byte);
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'{' => {
                self.depth += 1;
                made.push(byte);
            }
            b'}' => {
                self.depth = self.depth.saturating_sub(1);
                made.push(byte);
                if self.depth == 0 {
                    made.push(b'\n');
                    self.has_other = false;
                }
            }
            _ if byte.is_ascii_whitespace() => {
                if self.depth > 0 {
                    made.push(b' ');
                } else if self.has_other && byte == b'\n' {
                    made.push(byte);
                    self.has_other = false;
                }
            }
            // The array around the objects.
            b'[' | b']' | b',' if self.depth == 0 && !self.has_other => {}
            _ => {
                self.in_string = byte == b'"' && self.depth > 0;
                self.has_other |= self.depth == 0;
                made.push(byte);
            }
        }
    }
}

impl<R: Read> Read for ObjectLines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A chunk may make no text, so it is asked for more until there is some.
        while self.given == self.made.len() {
            if !self.fill()? {
                return Ok(0);
            }
        }
        let count = (self.made.len() - self.given).min(buffer.len());
        buffer[..count].copy_from_slice(&self.made[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> String {
        let mut made = String::new();
        ObjectLines::new(text.as_bytes()).read_to_string(&mut made).unwrap();
        made
    }

    #[test]
    fn each_object_has_a_line() {
        assert_eq!(lines("{\"a\":1}\n{\"b\""), "{\"a\":1}\n{\"b\"", "lines stay as they are");
        assert_eq!(lines("[{\"a\":[1,2]},\n {\"b\":\"}{,\\\"\"}]\n"), "{\"a\":[1,2]}\n{\"b\":\"}{,\\\"\"}\n");
        assert_eq!(lines("{\n  \"a\": {\n    \"b\": 1\n  }\n}\n{\n}\n"), "{   \"a\": {     \"b\": 1   } }\n{ }\n");
        assert_eq!(lines("[]"), "");
        // What is no object is a line of its own, which is counted as no event.
        assert_eq!(lines("[{}, 7,\n{}]"), "{}\n7,\n{}\n");
    }
}

//! Puts JSON objects that go over several lines, or stand in an array, on one line each, while they are read.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
};

use super::{BOM, find::has_objects};

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// In which line of its file each rewritten line begins, counted from 1: of the lines that nobody has asked for yet. Without
/// numbers the lines are those of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct LineNumbers(Arc<Mutex<VecDeque<u64>>>);

impl LineNumbers {
    /// Returns the number of the next rewritten line; `None` if the text is not rewritten.
    pub(super) fn next(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

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
    numbers: LineNumbers,
}

/// Where the text is.
#[derive(Debug)]
struct State {
    /// Number of objects that are open.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// Whether something that is no object stands between objects: it becomes a line of its own.
    has_other: bool,
    /// Number of the line, counted from 1.
    line: u64,
    /// Number of bytes before this one in its line.
    column: usize,
    /// Whether only blanks are before this byte in its line.
    is_line_start: bool,
    /// The column of the first object.
    first: Option<usize>,
    /// Whether an object that begins a line further left than, or as far left as the first one is never a part of another object;
    /// `None` before the layout of the first object is known.
    has_layout: Option<bool>,
    /// Whether the rewritten line has bytes.
    has_begun: bool,
    /// Where the rewritten lines begin that were made since the last call.
    begun: Vec<u64>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            depth: 0,
            in_string: false,
            is_escaped: false,
            has_other: false,
            line: 1,
            column: 0,
            is_line_start: true,
            first: None,
            has_layout: None,
            has_begun: false,
            begun: Vec::new(),
        }
    }
}

impl<R: Read> ObjectLines<R> {
    pub(super) fn new(input: R, numbers: LineNumbers) -> Self {
        Self {
            input,
            rewrites: None,
            chunk: vec![0; CHUNK_BYTES],
            made: Vec::new(),
            given: 0,
            state: State::default(),
            numbers,
        }
    }

    /// Reads a chunk; returns `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.made.clear();
        self.given = 0;
        let mut filled = self.input.read(&mut self.chunk)?;
        let is_first = self.rewrites.is_none();
        // The beginning decides, so it has to be long enough.
        while is_first && filled < 4096 {
            match self.input.read(&mut self.chunk[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        let chunk = &self.chunk[..filled];
        if *self.rewrites.get_or_insert_with(|| has_objects(chunk)) {
            // The mark is no part of the text, so the brackets of an array may follow it.
            let text = if is_first { chunk.strip_prefix(BOM).unwrap_or(chunk) } else { chunk };
            text.iter().for_each(|byte| self.state.put(*byte, &mut self.made));
            self.numbers.0.lock().unwrap_or_else(PoisonError::into_inner).extend(self.state.begun.drain(..));
        } else {
            self.made.extend_from_slice(chunk);
        }
        Ok(filled > 0)
    }
}

impl State {
    fn put(&mut self, byte: u8, made: &mut Vec<u8>) {
        if byte == b'\n' {
            // JSON has no line feed within a string: the end of this one is missing.
            self.in_string = false;
            self.is_escaped = false;
        }
        self.text(byte, made);
        if byte == b'\n' {
            self.line += 1;
            self.column = 0;
            self.is_line_start = true;
        } else {
            self.column += 1;
            self.is_line_start &= byte.is_ascii_whitespace();
        }
    }

    fn text(&mut self, byte: u8, made: &mut Vec<u8>) {
        if self.in_string {
            self.write(byte, made);
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        if self.is_line_start && self.depth > 0 && !byte.is_ascii_whitespace() {
            self.look_at_line(byte, made);
        }
        match byte {
            b'{' => {
                self.first.get_or_insert(self.column);
                self.depth += 1;
                self.write(byte, made);
            }
            b'}' => {
                self.depth = self.depth.saturating_sub(1);
                self.write(byte, made);
                if self.depth == 0 {
                    // The first object has one line, and so have all.
                    self.has_layout.get_or_insert(true);
                    self.end_line(made);
                    self.has_other = false;
                }
            }
            _ if byte.is_ascii_whitespace() => {
                if self.depth > 0 {
                    self.write(b' ', made);
                } else if self.has_other && byte == b'\n' {
                    self.end_line(made);
                    self.has_other = false;
                }
            }
            // The array around the objects.
            b'[' | b']' | b',' if self.depth == 0 && !self.has_other => {}
            _ => {
                self.in_string = byte == b'"' && self.depth > 0;
                self.has_other |= self.depth == 0;
                self.write(byte, made);
            }
        }
    }

    /// Looks at the first byte of a line within an object: it may be the next object, because this one was cut off. Without that,
    /// one object without an end would take all that follow.
    fn look_at_line(&mut self, byte: u8, made: &mut Vec<u8>) {
        let first = self.first.unwrap_or_default();
        // What is in the first object stands further right, unless the text is not indented. A brace behind a brace is no JSON.
        let is_indented = || byte == b'{' || byte == b'}' || self.column > first;
        let has_layout = *self.has_layout.get_or_insert_with(is_indented);
        if has_layout && byte == b'{' && self.column <= first {
            self.depth = 0;
            self.end_line(made);
        }
    }

    /// Writes a byte of a rewritten line.
    fn write(&mut self, byte: u8, made: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.begun.push(self.line);
        }
        made.push(byte);
    }

    fn end_line(&mut self, made: &mut Vec<u8>) {
        made.push(b'\n');
        self.has_begun = false;
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
        ObjectLines::new(text.as_bytes(), LineNumbers::default()).read_to_string(&mut made).unwrap();
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

    #[test]
    fn a_byte_order_mark_hides_no_object() {
        assert_eq!(lines("\u{feff}[{\"a\":1},{\"b\":2}]"), "{\"a\":1}\n{\"b\":2}\n");
        assert_eq!(lines("\u{feff} {\n \"a\": 1\n}\n"), "{  \"a\": 1 }\n");
    }

    #[test]
    fn an_object_that_is_cut_off_hides_no_other() {
        let made = |text: &str| lines(text).lines().map(|line| line.replace(' ', "")).collect::<Vec<_>>();
        let whole = "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n";
        assert_eq!(
            made(&format!("{{\n  \"a\": [\n{whole}{whole}")),
            ["{\"a\":[", "{\"a\":{\"b\":1}}", "{\"a\":{\"b\":1}}"]
        );
        assert_eq!(
            made(&format!("{whole}{{\n  \"a\": \"x\n{whole}")),
            ["{\"a\":{\"b\":1}}", "{\"a\":\"x", "{\"a\":{\"b\":1}}"]
        );
        assert_eq!(made("{\n{\"a\":1}\n{\"b\":2}\n"), ["{", "{\"a\":1}", "{\"b\":2}"]);
        assert_eq!(made("[{\"a\":1},\n{\"b\":\n{\"c\":3}]\n"), ["{\"a\":1}", "{\"b\":", "{\"c\":3}"]);
        // The objects of an array are indented themselves.
        let array = "[\n  {\n    \"a\": {\n  {\n    \"b\": [\n      {\n        \"c\": 3\n      }\n    ]\n  }\n]\n";
        assert_eq!(made(array), ["{\"a\":{", "{\"b\":[{\"c\":3}]}"]);
        // Without indentation, an object at the beginning of a line may be a part of another one.
        assert_eq!(made("{\n\"a\":[\n{\n\"b\":1\n}\n]\n}\n"), ["{\"a\":[{\"b\":1}]}"]);
    }

    #[test]
    fn rewritten_lines_know_where_they_begin() {
        let numbers = LineNumbers::default();
        let text = "\n{\n  \"a\": 1\n}\n{\n  \"b\": 2\n} 7\n\n{ \"c\": 3 }{}\n";
        let mut made = String::new();
        ObjectLines::new(text.as_bytes(), numbers.clone()).read_to_string(&mut made).unwrap();
        let found: Vec<u64> = std::iter::from_fn(|| numbers.next()).collect();
        assert_eq!((made.lines().count(), found), (5, vec![2, 5, 7, 9, 9]), "{made}");
    }
}

//! Writes flat JSON objects member by member, without building them in memory first.

use std::{fmt::Write as _, net::IpAddr};

use bytes::{BufMut, BytesMut};

use crate::moment::Moment;

const NS_PER_SECOND: i64 = 1_000_000_000;

/// The last character of a text that was cut: U+2026, an ellipsis.
pub const CUT: &str = "…";
/// No text is cut to fewer bytes.
const TEXT_MIN: usize = 64;
/// Bytes of the longest escape, `\u001b`.
const ESCAPE_MAX: usize = 6;

/// The text of the last second that was written, so that the calendar is asked once a second.
#[derive(Debug, Default)]
pub struct SecondText {
    second: Option<i64>,
    text: String,
}

impl SecondText {
    /// Returns RFC 3339 in UTC up to the seconds, `2026-01-01T00:00:00`, of a second since the epoch.
    fn of(&mut self, second: i64) -> &str {
        if self.second != Some(second) {
            self.second = Some(second);
            self.text.clear();
            // The text stays empty outside the years that can be written (-9999 to 9999); no machine boots there.
            if let Ok(time) = jiff::Timestamp::from_second(second) {
                // Writing to a string cannot fail.
                let _ = write!(self.text, "{time}");
                // Without the `Z`, which comes behind the fraction.
                self.text.truncate("2026-01-01T00:00:00".len());
            }
        }
        &self.text
    }
}

/// The name of a member, as it is written before its value. The comma of the first member becomes the opening brace.
#[derive(Clone, Copy, Debug)]
pub struct MemberKey {
    /// Before numbers and truth values: `,"name":`.
    pub bare: &'static str,
    /// Before texts, with their opening quote: `,"name":"`. It saves a write for each text.
    pub quoted: &'static str,
}

/// Makes a [`MemberKey`] of a name.
macro_rules! member_key {
    ($name:literal) => {
        &$crate::json::MemberKey { bare: concat!(",\"", $name, "\":"), quoted: concat!(",\"", $name, "\":\"") }
    };
}
pub(crate) use member_key;

/// A flat JSON object that is being written at the end of a buffer.
pub struct Object<'a> {
    out: &'a mut BytesMut,
    seconds: &'a mut SecondText,
    /// Where the object begins: its first member is written without the comma.
    start: usize,
    /// Most bytes of a text with its escapes; longer ones are cut.
    text_max: usize,
}

impl<'a> Object<'a> {
    /// Begins an object.
    pub fn begin(out: &'a mut BytesMut, seconds: &'a mut SecondText) -> Self {
        let start = out.len();
        Self { out, seconds, start, text_max: usize::MAX }
    }

    /// Ends the object.
    pub fn end(self) {
        // No member has written the brace.
        if self.out.len() == self.start {
            self.out.put_u8(b'{');
        }
        self.out.put_u8(b'}');
    }

    /// Ends the object and the line.
    pub fn end_line(self) {
        let Self { out, seconds, start, text_max } = self;
        // Put together anew: `end` takes the object, and the buffer is needed once more.
        Object { out: &mut *out, seconds, start, text_max }.end();
        out.put_u8(b'\n');
    }

    fn key(&mut self, key: &'static str) {
        let at = self.out.len();
        self.out.put_slice(key.as_bytes());
        // The keys are constants with a comma, so that each is one copy; only the first is mended.
        if at == self.start
            && let Some(comma) = self.out.get_mut(at)
        {
            *comma = b'{';
        }
    }

    /// Copies members that were written before, each with its leading comma; the object must have a member already.
    pub fn members(&mut self, members: &[u8]) {
        self.out.put_slice(members);
    }

    /// Writes members and returns a copy of them, for [`members`](Self::members); the object must have a member already.
    pub fn written(&mut self, write: impl FnOnce(&mut Self)) -> Vec<u8> {
        let start = self.out.len();
        write(self);
        self.out.get(start..).unwrap_or_default().to_vec()
    }

    /// Writes members that take at most `max` bytes together, escapes and names included. If they are longer, the longest texts
    /// among them are cut until they fit; a text that was cut ends with [`CUT`]. Short members stay as they are, so that a long one
    /// hides none of them.
    pub fn within(&mut self, max: usize, write: impl Fn(&mut Self)) {
        let start = self.out.len();
        self.text_max = max;
        loop {
            write(self);
            // Below this, what is too long are not the texts.
            if self.out.len() - start <= max || self.text_max < TEXT_MIN {
                break;
            }
            // Written anew: this is rare, and costs nothing where it does not happen.
            self.out.truncate(start);
            self.text_max /= 2;
        }
        self.text_max = usize::MAX;
    }

    /// Writes a text, with escapes where they are needed.
    pub fn string(&mut self, key: &MemberKey, value: &str) {
        self.key(key.quoted);
        let fitting = fitting(value, self.text_max);
        string(self.out, fitting);
        if fitting.len() < value.len() {
            // Before the closing quote.
            self.out.truncate(self.out.len() - 1);
            self.out.put_slice(CUT.as_bytes());
            self.out.put_u8(b'"');
        }
    }

    /// Writes a text that needs no escapes.
    pub fn plain(&mut self, key: &MemberKey, value: &str) {
        self.key(key.quoted);
        plain(self.out, value);
    }

    /// Writes a text of ASCII that needs no escapes.
    pub(crate) fn ascii(&mut self, key: &MemberKey, value: &[u8]) {
        self.key(key.quoted);
        self.out.put_slice(value);
        self.out.put_u8(b'"');
    }

    /// Writes a whole number.
    pub fn integer(&mut self, key: &MemberKey, value: impl itoa::Integer) {
        self.key(key.bare);
        self.out.put_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Writes `true` or `false`.
    pub fn boolean(&mut self, key: &MemberKey, value: bool) {
        self.key(key.bare);
        self.out.put_slice(if value { b"true" } else { b"false" });
    }

    /// Writes a list of objects, whose members the function writes.
    pub fn list<T>(&mut self, key: &MemberKey, items: &[T], write: impl Fn(&T, &mut Object<'_>)) {
        self.key(key.bare);
        self.out.put_u8(b'[');
        for (place, item) in items.iter().enumerate() {
            if place != 0 {
                self.out.put_u8(b',');
            }
            let mut object = Object::begin(&mut *self.out, &mut *self.seconds);
            write(item, &mut object);
            object.end();
        }
        self.out.put_u8(b']');
    }

    /// Writes an IP address in its shortest standard form.
    pub fn address(&mut self, key: &MemberKey, value: IpAddr) {
        self.key(key.quoted);
        address(self.out, value);
        self.out.put_u8(b'"');
    }

    /// Writes milliseconds, given in nanoseconds, to the microsecond.
    pub fn milliseconds(&mut self, key: &MemberKey, nanoseconds: u64) {
        self.integer(key, nanoseconds / 1_000_000);
        let microseconds = nanoseconds / 1000 % 1000;
        if microseconds != 0 {
            let digits = [b'.', digit(microseconds / 100), digit(microseconds / 10 % 10), digit(microseconds % 10)];
            // Zeros at the end are left out; one digit is not zero, so that a point never stands alone.
            let end = digits.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1);
            self.out.put_slice(&digits[..end]);
        }
    }

    /// Writes a moment as RFC 3339 in UTC with nine digits of the second.
    pub fn moment(&mut self, key: &MemberKey, value: Moment) {
        self.key(key.quoted);
        let mut digits = *b".000000000Z\"";
        // Euclidean, here and below: moments before 1970 count forward from the second before them.
        let mut rest = value.0.rem_euclid(NS_PER_SECOND).unsigned_abs();
        for place in (1..=9).rev() {
            digits[place] = digit(rest);
            rest /= 10;
        }
        self.out.put_slice(self.seconds.of(value.0.div_euclid(NS_PER_SECOND)).as_bytes());
        self.out.put_slice(&digits);
    }
}

fn digit(value: u64) -> u8 {
    // The remainder is below ten, so the default is never used.
    b'0' + u8::try_from(value % 10).unwrap_or(0)
}

/// Writes an address in its shortest standard form.
pub fn address(out: &mut impl BufMut, value: IpAddr) {
    match value {
        IpAddr::V4(value) => {
            let mut number = itoa::Buffer::new();
            for (place, octet) in value.octets().into_iter().enumerate() {
                if place != 0 {
                    out.put_u8(b'.');
                }
                out.put_slice(number.format(octet).as_bytes());
            }
        }
        // Writing to a buffer that grows cannot fail.
        IpAddr::V6(value) => drop(write!(Utf8(out), "{value}")),
    }
}

/// A buffer that text is formatted into.
struct Utf8<'a, B>(&'a mut B);

impl<B: BufMut> std::fmt::Write for Utf8<'_, B> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.put_slice(text.as_bytes());
        Ok(())
    }
}

/// Writes the rest of a text that needs no escapes: its opening quote stands behind the key.
fn plain(out: &mut impl BufMut, value: &str) {
    out.put_slice(value.as_bytes());
    out.put_u8(b'"');
}

/// Returns the beginning of a text that takes at most `max` bytes with its escapes; if that is not all, it leaves room for [`CUT`].
fn fitting(value: &str, max: usize) -> &str {
    // Almost every text is so short that its escapes need not be counted.
    if value.len() <= max / ESCAPE_MAX {
        return value;
    }
    let (mut length, mut end) = (0, 0);
    for (at, character) in value.char_indices() {
        length += escape(character).map_or(character.len_utf8(), EscapedCharacter::len);
        if length > max {
            return value.get(..end).unwrap_or_default();
        }
        if length + CUT.len() <= max {
            end = at + character.len_utf8();
        }
    }
    value
}

/// How a character is written that needs an escape.
#[derive(Clone, Copy)]
enum EscapedCharacter {
    /// A backslash and this letter.
    Short(u8),
    /// Its code in hex.
    Code(u32),
}

impl EscapedCharacter {
    fn len(self) -> usize {
        match self {
            Self::Short(_) => 2,
            Self::Code(_) => ESCAPE_MAX,
        }
    }
}

/// Returns the escape of a character, if it needs one: quotes, backslashes and all control characters (C0, DEL, C1).
fn escape(character: char) -> Option<EscapedCharacter> {
    Some(match character {
        '"' | '\\' => EscapedCharacter::Short(character as u8),
        '\n' => EscapedCharacter::Short(b'n'),
        '\t' => EscapedCharacter::Short(b't'),
        '\r' => EscapedCharacter::Short(b'r'),
        // JSON does not ask for escapes of DEL and C1; terminals that show a line raw do.
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => EscapedCharacter::Code(character.into()),
        _ => return None,
    })
}

/// Writes the rest of a JSON string: its opening quote stands behind the key.
pub(crate) fn string(out: &mut impl BufMut, value: &str) {
    if is_plain(value.as_bytes()) {
        return plain(out, value);
    }
    // Text between two escapes is copied at once.
    let mut done = 0;
    for (at, character) in value.char_indices() {
        let Some(escape) = escape(character) else { continue };
        out.put_slice(&value.as_bytes()[done..at]);
        match escape {
            EscapedCharacter::Short(letter) => out.put_slice(&[b'\\', letter]),
            // Writing to a buffer that grows cannot fail.
            EscapedCharacter::Code(code) => drop(write!(Utf8(out), "\\u{code:04x}")),
        }
        // C1 characters take two bytes.
        done = at + character.len_utf8();
    }
    out.put_slice(&value.as_bytes()[done..]);
    out.put_u8(b'"');
}

/// Returns whether a text is printable ASCII without quotes and backslashes, so that JSON needs no escapes for it.
///
/// Eight bytes at once: most texts are shorter than what compilers make wide loops for.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks::<8>();
    // Spaces, which are plain, fill the last word.
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).all(|word| is_plain_word(u64::from_le_bytes(*word)))
}

/// See "Bit Twiddling Hacks", "Determine if a word has a byte less than n" and "… equal to n": the sign bit of a byte of each term
/// tells whether it may be such a byte. A borrow can only make a plain word look otherwise where a byte below it is not plain.
fn is_plain_word(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    let less = |word: u64, than: u64| word.wrapping_sub(ONES * than) & !word;
    let equal = |byte: u64| less(word ^ (ONES * byte), 1);
    // `word` itself has the sign bit where a byte is not ASCII.
    let harmful = less(word, 0x20) | equal(b'"'.into()) | equal(b'\\'.into()) | equal(0x7f) | word;
    harmful & (ONES << 7) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(write: impl FnOnce(&mut Object<'_>)) -> String {
        let (mut out, mut seconds) = (BytesMut::new(), SecondText::default());
        let mut object = Object::begin(&mut out, &mut seconds);
        write(&mut object);
        object.end();
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn members_are_separated() {
        assert_eq!(object(|_| {}), "{}");
        assert_eq!(object(|object| object.integer(member_key!("port"), 7_u16)), r#"{"port":7}"#);
        let text = object(|object| {
            object.string(member_key!("kind"), "IP Close");
            object.members(b",\"a\":1");
            object.boolean(member_key!("new"), true);
        });
        assert_eq!(text, r#"{"kind":"IP Close","a":1,"new":true}"#);
    }

    #[test]
    fn lists_have_objects() {
        let list = |items: &[u8]| {
            object(|object| {
                object.list(member_key!("list"), items, |item, object| object.integer(member_key!("a"), *item));
            })
        };
        assert_eq!(list(&[]), r#"{"list":[]}"#);
        assert_eq!(list(&[1, 2]), r#"{"list":[{"a":1},{"a":2}]}"#);
    }

    #[test]
    fn milliseconds_keep_microseconds() {
        let text = |nanoseconds| object(|object| object.milliseconds(member_key!("ms"), nanoseconds));
        assert_eq!(text(0), r#"{"ms":0}"#);
        assert_eq!(text(12_000_999), r#"{"ms":12}"#);
        assert_eq!(text(12_034_000), r#"{"ms":12.034}"#);
        assert_eq!(text(12_300_000), r#"{"ms":12.3}"#);
    }

    #[test]
    fn seconds_are_written_once_and_nanoseconds_exactly() {
        let mut seconds = SecondText::default();
        let mut text = |nanoseconds| {
            let mut out = BytesMut::new();
            Object::begin(&mut out, &mut seconds).moment(member_key!("at"), Moment(nanoseconds));
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(text(1_767_225_600_000_000_042), r#"{"at":"2026-01-01T00:00:00.000000042Z""#);
        assert_eq!(text(1_767_225_600_999_999_999), r#"{"at":"2026-01-01T00:00:00.999999999Z""#);
        assert_eq!(text(1_767_312_000_000_000_000), r#"{"at":"2026-01-02T00:00:00.000000000Z""#);
        assert_eq!(text(-1), r#"{"at":"1969-12-31T23:59:59.999999999Z""#);
    }

    proptest! {
        #[test]
        fn strings_read_back(value: String) {
            let text = object(|object| object.string(member_key!("text"), &value));
            prop_assert!(!text.chars().any(char::is_control));
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read["text"].as_str().unwrap(), value);
        }

        #[test]
        fn members_fit_and_only_long_texts_are_cut(long: String, times in 0..200_usize, longest: String, max in 600..3000_usize) {
            let texts = [long.repeat(times), longest.repeat(200), "short \x1b".to_owned()];
            let text = object(|object| {
                object.within(max, |object| {
                    object.string(member_key!("a"), &texts[0]);
                    object.string(member_key!("b"), &texts[1]);
                    object.string(member_key!("c"), &texts[2]);
                });
            });
            // Without the brace behind them.
            prop_assert!(text.len() - 1 <= max, "{} of {max}", text.len());
            let whole = object(|object| {
                object.string(member_key!("a"), &texts[0]);
                object.string(member_key!("b"), &texts[1]);
                object.string(member_key!("c"), &texts[2]);
            });
            prop_assert_eq!(text == whole, whole.len() - 1 <= max);
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            for (name, given) in ["a", "b", "c"].into_iter().zip(&texts) {
                let shown = read[name].as_str().unwrap();
                let is_cut = shown.strip_suffix(CUT).is_some_and(|beginning| given.starts_with(beginning));
                prop_assert!(shown == given || is_cut, "{name}");
            }
            prop_assert_eq!(read["c"].as_str(), Some(&*texts[2]));
        }

        #[test]
        fn plain_texts_are_told_apart(text: Vec<u8>, at: usize, printable in "[ -~]{0,40}") {
            let is_plain_byte = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
            prop_assert_eq!(is_plain(&text), text.iter().all(is_plain_byte));
            let mut one = printable.into_bytes();
            if let Some(byte) = text.first() {
                one.insert(at % (one.len() + 1), *byte);
            }
            prop_assert_eq!(is_plain(&one), one.iter().all(is_plain_byte));
        }

        #[test]
        fn moments_are_those_of_the_calendar(nanoseconds: i64) {
            let text = object(|object| object.moment(member_key!("at"), Moment(nanoseconds)));
            prop_assert_eq!(text, format!("{{\"at\":\"{}\"}}", Moment(nanoseconds)));
        }

        #[test]
        fn addresses_are_in_standard_form(octets: [u8; 16], v6: bool) {
            let value: IpAddr = if v6 { octets.into() } else { [octets[0], octets[1], octets[2], octets[3]].into() };
            let mut out = BytesMut::new();
            address(&mut out, value);
            prop_assert_eq!(String::from_utf8(out.to_vec()).unwrap(), value.to_string());
        }
    }
}

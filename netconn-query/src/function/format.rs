//! `format("%,d of %s (%.2f%%)", …)`.

use std::fmt::Write as _;

use crate::value::Value;

/// Replaces the places of the first argument by the other arguments, as C's `printf` does; `%,d` groups digits by
/// thousands.
pub(super) fn format<'a>(arguments: &[Value<'a>]) -> Value<'a> {
    let Some(template) = arguments[0].text() else { return Value::Null };
    let mut values = arguments[1..].iter();
    // Room for the template and a number or two.
    let mut text = String::with_capacity(template.len() + 16);
    let mut rest = template.as_ref();
    while let Some(place) = rest.find('%') {
        text.push_str(&rest[..place]);
        rest = &rest[place + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            text.push('%');
            rest = after;
            continue;
        }
        // What is no place stays as it is written, because a text may have a percent sign in it.
        let Some((place, after)) = Place::parse(rest) else {
            text.push('%');
            continue;
        };
        rest = after;
        place.fill(&mut text, values.next().unwrap_or(&Value::Null));
    }
    text.push_str(rest);
    Value::owned(text)
}

/// A place: one `%…`.
#[derive(Debug, Default)]
struct Place {
    left: bool,
    zeros: bool,
    plus: bool,
    thousands: bool,
    width: usize,
    precision: Option<usize>,
    conversion: char,
}

impl Place {
    fn parse(text: &str) -> Option<(Self, &str)> {
        let mut place = Self::default();
        let mut rest = text;
        while let Some(flag) = rest.chars().next() {
            match flag {
                '-' => place.left = true,
                '0' => place.zeros = true,
                '+' => place.plus = true,
                ',' => place.thousands = true,
                // Flags of C that change nothing here.
                ' ' | '#' => {}
                _ => break,
            }
            rest = &rest[1..];
        }
        (place.width, rest) = digits(rest);
        if let Some(after) = rest.strip_prefix('.') {
            // Both are bounded because they come from the query: a width of a million would make each row as long. More
            // than 32 digits are beyond any float.
            let (precision, after) = digits(after);
            (place.precision, rest) = (Some(precision.min(32)), after);
        }
        place.width = place.width.min(256);
        place.conversion = rest.chars().next().filter(|letter| "disfgexXcb".contains(*letter))?;
        Some((place, &rest[1..]))
    }

    fn fill(&self, text: &mut String, value: &Value<'_>) {
        let body = match self.conversion {
            // A value that is no number gives "null", as a missing one does.
            'd' | 'i' => value.integer().map(|number| number.to_string()),
            'f' => value.number().map(|number| format!("{number:.*}", self.precision.unwrap_or(6))),
            'e' => value.number().map(|number| format!("{number:.*e}", self.precision.unwrap_or(6))),
            'g' => value.number().map(|number| number.to_string()),
            'x' => value.integer().map(|number| format!("{number:x}")),
            'X' => value.integer().map(|number| format!("{number:X}")),
            _ => value.text().map(|text| match self.precision {
                Some(count) => text.chars().take(count).collect(),
                None => text.into_owned(),
            }),
        };
        let there = body.is_some();
        // A missing value is shown, so that the other values keep their places.
        let mut body = body.unwrap_or_else(|| "null".to_owned());
        if there && self.thousands && matches!(self.conversion, 'd' | 'i' | 'f') {
            body = thousands(&body);
        }
        if there && self.plus && matches!(self.conversion, 'd' | 'i' | 'f' | 'e' | 'g') && !body.starts_with('-') {
            body.insert(0, '+');
        }
        let width = self.width;
        // Writing to a `String` cannot fail.
        let _ = match (self.left, there && self.zeros && self.conversion != 's') {
            (true, _) => write!(text, "{body:<width$}"),
            (false, true) => {
                // Zeros belong between the sign and the digits.
                let (sign, number) = body.split_at(usize::from(body.starts_with(['-', '+'])));
                write!(text, "{sign}{number:0>0$}", width.saturating_sub(sign.len()))
            }
            (false, false) => write!(text, "{body:>width$}"),
        };
    }
}

fn digits(text: &str) -> (usize, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    // No digits mean 0, and so does a number that is too large.
    (text[..end].parse().unwrap_or(0), &text[end..])
}

fn thousands(number: &str) -> String {
    let (whole, fraction) = number.find('.').map_or((number, ""), |point| number.split_at(point));
    let (sign, whole) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut text = String::from(sign);
    for (place, digit) in whole.chars().enumerate() {
        // Groups are counted from the end. All characters are ASCII, so bytes and places agree.
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, values: &[Value<'_>], expected: &str) {
        let mut arguments = vec![Value::owned(template)];
        arguments.extend(values.iter().cloned());
        assert_eq!(format(&arguments), Value::owned(expected), "{template}");
    }

    #[test]
    fn places_are_filled() {
        let million = Value::Integer(1_234_567);
        check("%,d of %s (%.2f%%)", &[million, Value::owned("x"), Value::Number(12.345)], "1,234,567 of x (12.35%)");
        check("%5d|%-5d|%05d|%+d", &[7, 7, -7, 7].map(Value::Integer), "    7|7    |-0007|+7");
        check("%x %X %s", &[Value::Integer(255), Value::Integer(255), Value::Null], "ff FF null");
        check("%,.1f", &[Value::Number(-1234.56)], "-1,234.6");
        check("%,d %+d %06d %6d", &[Value::Null, Value::Null, Value::Null, Value::Null], "null null   null   null");
        check("100% %q %", &[], "100% %q %");
        check("%.3s|%3s", &[Value::owned("äöüß"), Value::owned("ä")], "äöü|  ä");
    }
}

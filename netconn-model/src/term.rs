//! Text for terminals: sanitized, cut to the width, in columns, with readable numbers.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Write as _},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use terminal_size::{Width, terminal_size_of};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Narrowest width to which a column is cut, in terminal columns; a column with less room is left out.
pub const NARROWEST_COLUMN: usize = 8;

/// Narrowest width to which the end of a connection is cut so that other columns have room: `[2001:…]:443`.
const NARROWEST_END: usize = 13;

/// Spaces between two columns of a table.
pub const COLUMN_GAP: usize = 2;

/// Replaces every character that could move the cursor, change colours or reverse the direction of writing. Attackers choose
/// names and arguments of processes.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    let harmful = |character: char| {
        character.is_control()
            // Bidirectional controls and other format characters (Unicode Cf) that hide or reorder text.
            || matches!(character,
                '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
    };
    if text.contains(harmful) {
        text.chars().map(|character| if harmful(character) { '\u{fffd}' } else { character }).collect()
    } else {
        text.into()
    }
}

/// Writes a line to standard error, without colours where nobody sees them, like `eprintln!`. A line that cannot be written, because the
/// disk is full or the reader has gone, is no reason to panic: what a program returns is its result and its exit code.
#[macro_export]
macro_rules! tell {
    ($($argument:tt)*) => { $crate::term::tell(::std::format_args!($($argument)*)) };
}

/// See [`tell!`](crate::tell).
pub fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// Returns the width of the terminal behind standard output; `None` if it is no terminal, so that nothing is cut.
pub fn width() -> Option<usize> {
    terminal_size_of(io::stdout()).map(|(Width(width), _)| usize::from(width)).filter(|width| *width > 0)
}

/// Returns the width of a text on a terminal, in columns.
pub fn text_width(text: &str) -> usize {
    text.width()
}

/// Cuts a text to a width; an ellipsis shows that it was cut.
pub fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let mut short = String::new();
    let mut used = 1; // the ellipsis
    for character in text.chars() {
        // Characters without a width of their own, such as combining ones, go with the one before.
        used += character.width().unwrap_or(0);
        if used > width {
            break;
        }
        short.push(character);
    }
    // Not even the ellipsis fits otherwise.
    if width > 0 {
        short.push('…');
    }
    short.into()
}

/// Cuts an end as [`end`] writes it to a width: in the address, so that the port stays.
fn cut_end(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let from_port =
        |mark: char| text.rfind(mark).filter(|at| text[at + 1..].chars().all(|c| "0123456789*:".contains(c)));
    let tail = if text.starts_with('[') { from_port(']') } else { from_port(':') };
    let tail = tail.map_or("", |at| &text[at..]);
    match width.checked_sub(tail.width()).filter(|room| *room > 1) {
        Some(room) => format!("{}{tail}", cut(&text[..text.len() - tail.len()], room)).into(),
        None => cut(text, width),
    }
}

/// Returns a readable number of bytes: `517 B`, `4.7 kB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // From here on one decimal would be rounded to 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Returns a readable duration: `0.8 ms`, `12 s`, `3h 5m`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.as_millis() < 10 => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Returns an end as people read it: IPv6 in brackets, `*` for an unknown port, the address alone for protocols without ports.
pub fn end(protocol: &str, address: &str, port: Option<u32>) -> String {
    // An empty protocol is an unknown one, which may have ports.
    if port.is_none() && !matches!(protocol, "" | "TCP" | "UDP") {
        return address.to_owned();
    }
    let port = port.map_or_else(|| "*".into(), |port| port.to_string());
    // Only IPv6 addresses have colons; host names have none.
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Colours, which anstream removes where they are not wanted (`NO_COLOR`, pipes).
pub mod style {
    use super::{AnsiColor, Style};

    /// Good.
    pub const GOOD: Style = AnsiColor::Green.on_default();
    /// Bad.
    pub const BAD: Style = AnsiColor::Red.on_default();
    /// Worth attention.
    pub const CAUTION: Style = AnsiColor::Yellow.on_default();
    /// Less important.
    pub const FAINT: Style = Style::new().dimmed();
    /// Headings.
    pub const HEADING: Style = Style::new().bold();
    /// A state of waiting.
    pub const QUIET: Style = AnsiColor::Cyan.on_default();
}

/// Widths of a table's columns: each is as wide as its content, except the last, which takes the rest of the terminal.
#[derive(Debug)]
pub struct Columns {
    widths: Vec<usize>,
    /// Columns that are aligned to the right, as numbers are.
    right: Vec<bool>,
    limit: Option<usize>,
    /// Columns with ends of connections, which are cut so that these and the others up to this one fit.
    ends: Vec<usize>,
    fit: usize,
}

impl Columns {
    /// Returns columns without rows; `right` has the columns that are aligned to the right; `limit` is the terminal's width, if any.
    pub fn new(right: &[bool], limit: Option<usize>) -> Self {
        Self { widths: vec![0; right.len()], right: right.to_vec(), limit, ends: Vec::new(), fit: 0 }
    }

    /// Lets columns that hold ends of connections be cut, the first of them first, where the columns up to `fit` have no room otherwise: an
    /// IPv6 address may be half as wide as the terminal.
    #[must_use]
    pub fn with_ends(self, ends: &[usize], fit: usize) -> Self {
        Self { ends: ends.to_vec(), fit, ..self }
    }

    /// Returns the most columns of the terminal that a column may take.
    fn most(&self, column: usize) -> usize {
        let width = |column: usize| self.widths.get(column).copied().unwrap_or(0);
        if !self.ends.contains(&column) {
            return usize::MAX;
        }
        let Some(limit) = self.limit else { return usize::MAX };
        let used: usize = (0..=self.fit).map(width).sum::<usize>() + self.fit * self.gap();
        let mut over = used.saturating_sub(limit);
        for end in &self.ends {
            let spare = width(*end).saturating_sub(NARROWEST_END).min(over);
            if *end == column {
                return width(column) - spare;
            }
            over -= spare;
        }
        usize::MAX
    }

    /// Widens the columns for a row or the heading.
    pub fn widen(&mut self, row: &[String]) {
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }

    /// Returns the spaces between two columns: one where all columns but the last would not fit otherwise.
    fn gap(&self) -> usize {
        let (before_last, gaps) = match self.widths.split_last() {
            Some((_, before)) => (before.iter().sum::<usize>(), before.len().saturating_sub(1)),
            None => (0, 0),
        };
        if self.limit.is_some_and(|limit| before_last + gaps * COLUMN_GAP > limit) { 1 } else { COLUMN_GAP }
    }

    /// Returns a row as one line; `style` returns the style of each column.
    pub fn line(&self, row: &[String], style: impl Fn(usize) -> Style) -> String {
        use std::fmt::Write as _;
        let mut line = String::new();
        let mut used = 0;
        let wide = self.gap();
        let last = row.len().saturating_sub(1);
        for (column, cell) in row.iter().enumerate() {
            let gap = if column == 0 { 0 } else { wide };
            // Without a terminal, nothing is cut.
            let left = self.limit.map_or(usize::MAX, |limit| limit.saturating_sub(used + gap));
            // A short cell needs less than the narrowest column. Once one has no room, those behind it have none
            // either.
            if left < NARROWEST_COLUMN.min(cell.width()) {
                break;
            }
            let width = self.widths.get(column).copied().unwrap_or(0).min(left);
            let most = self.most(column);
            let width = width.min(most);
            let text = if most == usize::MAX { cut(cell, left) } else { cut_end(cell, left.min(most)) };
            let padding = width.saturating_sub(text.width());
            // The last column is not filled up: its spaces would only wrap in a narrower terminal.
            let (before, after) = match (self.right.get(column), column == last) {
                (Some(true), _) => (padding, 0),
                (_, true) => (0, 0),
                _ => (0, padding),
            };
            let style = style(column);
            let _ = write!(line, "{:gap$}{:before$}{style}{text}{style:#}{:after$}", "", "", "");
            // Counted without the style, which takes no columns.
            used += gap + before + text.width() + after;
        }
        // An empty last cell leaves the gap before it.
        line.truncate(line.trim_end_matches(' ').len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_terminal() {
        assert_eq!(sanitize("plain é 日本"), "plain é 日本");
        assert_eq!(sanitize("\x1b[2Ja\nb\u{202e}c\u{9b}d"), "\u{fffd}[2Ja\u{fffd}b\u{fffd}c\u{fffd}d");
    }

    #[test]
    fn ends_are_readable() {
        assert_eq!(end("TCP", "192.0.2.1", Some(80)), "192.0.2.1:80");
        assert_eq!(end("UDP", "2001:db8::1", Some(80)), "[2001:db8::1]:80");
        assert_eq!(end("TCP", "0.0.0.0", None), "0.0.0.0:*");
        assert_eq!(end("ICMP", "2001:db8::1", None), "2001:db8::1");
        assert_eq!(end("47", "192.0.2.1", None), "192.0.2.1");
    }

    #[test]
    fn text_is_cut_by_width() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 5), "abcd…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(4711), "4.7 kB");
        assert_eq!(bytes(999_960), "1.0 MB");
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
        assert_eq!(duration(Duration::from_micros(812)), "0.8 ms");
        assert_eq!(duration(Duration::from_millis(12)), "12 ms");
        assert_eq!(duration(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(duration(Duration::from_secs(11100)), "3h 5m");
    }

    #[test]
    fn long_ends_leave_room_for_what_follows() {
        assert_eq!(cut_end("[2001:db8:1:2:3:4:5:6]:443", 13), "[2001:d…]:443");
        assert_eq!(cut_end("very.long.example.com:443", 13), "very.lon…:443");
        assert_eq!(cut_end("2001:db8:1:2:3:4:5:abc", 13), "2001:db8:1:2…", "ICMP has no port");
        assert_eq!(cut_end("/run/systemd/notify", 13), "/run/systemd…");
        let long = "[2001:db8:1111:2222:3333:4444:5555:6666]:50000";
        let row = ["tcp", long, "[2001:db8::1]:443", "4194304", "nginx", "www-data", "nginx -g daemon off"]
            .map(str::to_owned);
        let line = |limit| {
            let mut columns =
                Columns::new(&[false, false, false, true, false, false, false], limit).with_ends(&[1, 2], 5);
            columns.widen(&row);
            columns.line(&row, |_| Style::new())
        };
        assert!(line(None).contains(long));
        assert_eq!(line(Some(80)), "tcp [2001:db8:1111:2222:3333:44…]:50000 [2001:db8::1]:443 4194304 nginx www-data");
        assert_eq!(line(Some(50)), "tcp [2001…]:50000 [2001:d…]:443 4194304 nginx");
        assert!(line(Some(130)).contains(long) && line(Some(130)).ends_with("nginx -g daemon off"));
    }

    #[test]
    fn columns_fit_the_terminal() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows = [row(["PORT", "NAME", "COMMAND"]), row(["5", "x", "a long command line"])];
        let plain = |_| Style::new();
        let fit = |limit| {
            let mut columns = Columns::new(&[true, false, false], limit);
            rows.iter().for_each(|row| columns.widen(row));
            columns
        };
        let columns = fit(None);
        assert_eq!(columns.line(&rows[1], plain), "   5  x     a long command line");
        let columns = fit(Some(22));
        assert_eq!(columns.line(&rows[1], plain), "   5  x     a long co…");
        let columns = fit(Some(15));
        assert_eq!(columns.line(&rows[1], plain), "   5  x", "too narrow for the rest");
    }
}

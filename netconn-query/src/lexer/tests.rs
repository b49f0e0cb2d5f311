//! Tokens of texts.

use super::*;

/// The tokens in one line: names bare, texts in «», numbers as they are, signs by their names.
fn tokens(text: &str) -> String {
    let shown = lex(text).0.into_iter().map(|token| match token.kind {
        Kind::Word { text, escaped } => format!("{text}{}", if escaped { "\\" } else { "" }),
        Kind::Shortcut(name) => format!("#{name}"),
        Kind::Text(text) => format!("«{text}»"),
        Kind::Regex(text) => format!("$«{text}»"),
        Kind::Number(number) => number.to_string(),
        Kind::EqualWith(suffix) => format!("=:{suffix}"),
        Kind::NotEqualWith(suffix) => format!("!=:{suffix}"),
        sign => format!("{sign:?}"),
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(tokens(text), format!("{expected} End").trim(), "{text}");
    assert_eq!(lex(text).1, [], "{text}");
}

/// What is said: severity, place, message, suggestion.
#[track_caller]
fn check_said(text: &str, expected_tokens: &str, expected: &[&str]) {
    assert_eq!(tokens(text), format!("{expected_tokens} End").trim(), "{text}");
    let said: Vec<String> = lex(text).1.into_iter().map(|said| said.to_string_in(text)).collect();
    assert_eq!(said, expected, "{text}");
}

#[test]
fn texts() {
    check("'a' \"b\" '' 'it\"s' \"it's\"", "«a» «b» «» «it\"s» «it's»");
    check(r"'it\'s' 'a\\b' 'a\nb\tc\r'", "«it's» «a\\b» «a\nb\tc\r»");
    check(r"'10\.' '10\\.' '\d\w\u0041\uzz'", r"«10\.» «10\.» «\d\wA\uzz»");
    check("'two\nlines'", "«two\nlines»");
    check(r#"$"a\d\\\"b" $'c"d'"#, r#"$«a\d\\\"b» $«c"d»"#);
}

#[test]
fn curly_quotes() {
    let quotes = "curly quotes are taken as straight ones";
    check_said(
        "“a” ‘b’",
        "«a» «b»",
        &[&format!("warning 1:1 {quotes} -> \"a\""), &format!("warning 1:5 {quotes} -> 'b'")],
    );
    check_said("„it's“", "«it's»", &[&format!("warning 1:1 {quotes} -> \"it's\"")]);
    check("'a “quoted” word'", "«a “quoted” word»");
}

#[test]
fn texts_without_end() {
    check_said("a = 'b", "a Equal «b»", &["error 1:5 the text that begins here has no end: ' is missing -> 'b'"]);
    check_said("'a\\", "«a\\»", &["error 1:1 the text that begins here has no end: ' is missing -> 'a\\\\'"]);
    check_said("$\"a\\", "$«a\\»", &["error 1:1 the text that begins here has no end: \" is missing -> $\"a\\\\\""]);
}

#[test]
fn numbers() {
    check("1_000_000 3.5 .5 1e3 2E-1 0", "1000000 3.5 0.5 1000 0.2 0");
    check("5-3 10/2 1?2:3", "5 Minus 3 10 Slash 2 1 Question 2 Colon 3");
    check("5.string() (1).len()", "5 Dot string Open Close Open 1 Close Dot len Open Close");
    let quotes = "needs quotes";
    for written in ["10.0.0.1", "5m", "10.0.0.0/8", "1.2.3", "0x10"] {
        let said = format!(
            "error 1:1 '{written}' is not a number: a text, an address or a span of time {quotes} -> '{written}'"
        );
        check_said(written, &format!("«{written}»"), &[&said]);
    }
    check_said("1e999", "inf", &["error 1:1 this number is too large: the largest is 1.7e308 -> 1.7e308"]);
}

#[test]
fn names() {
    check("src.ip.address a_b a-b a:b _x größe9", "src.ip.address a_b a-b a:b _x größe9");
    check("a -b a- b a - b", "a Minus b a Minus b a Minus b");
    check(r"a\ b \in \#x a\-", r"a b\ in\ #x\ a-\");
    check("c ? a: b a. b", "c Question a Colon b a Dot b");
    check("x->y func(x) -> x", "x Arrow y func Open x Close Arrow x");
    check("#ip #UserName", "#ip #username");
    check_said("a\\", "a", &["error 1:2 a backslash ends the query: the character that it escapes is missing"]);
}

#[test]
fn signs() {
    check(
        "= == != <> < <= > >= && || ! + * / % , . | ( )",
        "Equal EqualEqual NotEqual LessGreater Less LessOrEqual Greater GreaterOrEqual And Or Not Plus Star Slash Percent Comma Dot Pipe Open Close",
    );
    check("a=:anycase 'b' a =:CIDR b a!=:anycase c", "a =:anycase «b» a =:cidr b a !=:anycase c");
    check("a=*&&!(b)", "a Equal Star And Not Open b Close");
    check("contains:anycase('a')", "contains:anycase Open «a» Close");
    let said = "error 1:3 '–' means nothing here: in a name it needs a backslash, in a text quotes -> -";
    check_said("a – b", "a b", &[said]);
    let said = "error 1:2 ';' means nothing here: in a name it needs a backslash, in a text quotes";
    check_said("a;", "a", &[said]);
}

#[test]
fn white_space_and_comments() {
    check("\u{feff}a // b | c\r\n| d\u{a0}e//", "a Pipe d e");
    check("count()by x NOT(a) filter(b)", "count Open Close by x NOT Open a Close filter Open b Close");
    check("", "");
}

#[test]
fn glued_keywords() {
    let glued = "is glued to the value before it and is taken as a key word";
    check_said(
        "'IP Connect'and x",
        "«IP Connect» and x",
        &[&format!("warning 1:13 'and' {glued} -> 'IP Connect' and")],
    );
    check_said("a=443OR b", "a Equal 443 OR b", &[&format!("warning 1:6 'OR' {glued} -> 443 OR")]);
}

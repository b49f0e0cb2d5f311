//! Man pages that are not about a command, made of headings, paragraphs and lists.

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// A page of the manual.
#[derive(Debug)]
pub struct Page {
    name: &'static str,
    section: u8,
    about: &'static str,
    body: Body,
}

impl Page {
    /// Begins a page with its name, the section of the manual, and what it is about in one line.
    pub fn new(name: &'static str, section: u8, about: &'static str) -> Self {
        Self { name, section, about, body: Body::default() }
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Returns the section of the manual, from 1 to 8.
    pub fn section(&self) -> u8 {
        self.section
    }

    /// Begins a section of the page.
    pub fn heading(&mut self, text: &str) -> &mut Self {
        self.body.heading(text);
        self
    }

    /// Adds a paragraph; code stands between backticks.
    pub fn paragraph(&mut self, text: &str) -> &mut Self {
        self.body.paragraph(text);
        self
    }

    /// Adds a term, of one line, and what it means; code stands between backticks.
    pub fn item(&mut self, term: &str, meaning: &str) -> &mut Self {
        self.body.item(term, meaning);
        self
    }

    /// Adds lines that are shown as they are.
    pub fn code(&mut self, text: &str) -> &mut Self {
        self.body.code(text);
        self
    }

    /// Ends the page with the names of others.
    pub fn see(&mut self, pages: &[&str]) -> &mut Self {
        self.body.see(pages);
        self
    }

    /// Returns the page as roff. `source` stands at its foot, `manual` at its head.
    pub(crate) fn render(&self, source: &str, manual: &str) -> String {
        let mut head = Roff::new();
        head.control("TH", [&*self.name.to_uppercase(), &self.section.to_string(), "", source, manual]);
        head.control("SH", ["NAME"]);
        head.text([roman(format!("{} - {}", self.name, self.about))]);
        format!("{}{}", head.render(), self.body.render())
    }
}

/// What stands on a page.
#[derive(Debug, Default)]
pub(crate) struct Body(Roff);

impl Body {
    pub(crate) fn heading(&mut self, text: &str) -> &mut Self {
        self.0.control("SH", [text.to_uppercase().as_str()]);
        self
    }

    pub(crate) fn paragraph(&mut self, text: &str) -> &mut Self {
        self.0.control("PP", []);
        self.0.text(inlines(text));
        self
    }

    pub(crate) fn item(&mut self, term: &str, meaning: &str) -> &mut Self {
        self.0.control("TP", []);
        self.0.text([bold(term)]);
        self.0.text(inlines(meaning));
        self
    }

    pub(crate) fn code(&mut self, text: &str) -> &mut Self {
        self.0.control("PP", []);
        self.0.control("RS", ["4"]);
        self.0.control("nf", []);
        for line in text.lines() {
            self.0.text([roman(line)]);
        }
        self.0.control("fi", []);
        self.0.control("RE", []);
        self
    }

    /// Adds the text behind a command's help: paragraphs, in which lines that begin with spaces are shown as they are.
    pub(crate) fn help(&mut self, text: &str) -> &mut Self {
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            let lines: Vec<&str> = paragraph.trim_matches('\n').lines().collect();
            for run in lines.chunk_by(|one, next| one.starts_with(' ') == next.starts_with(' ')) {
                if run.iter().all(|line| line.starts_with(' ')) {
                    let indent = run.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or_default();
                    let unindented: Vec<&str> = run.iter().filter_map(|line| line.get(indent..)).collect();
                    self.code(&unindented.join("\n"));
                } else {
                    self.paragraph(&run.join(" "));
                }
            }
        }
        self
    }

    pub(crate) fn see(&mut self, pages: &[&str]) -> &mut Self {
        if pages.is_empty() {
            return self;
        }
        self.heading("See also");
        let mut line = Vec::new();
        for (index, page) in pages.iter().enumerate() {
            let (name, section) = page.split_once('(').unwrap_or((page, ""));
            if index > 0 {
                line.push(roman(", "));
            }
            line.push(bold(name));
            line.push(roman(if section.is_empty() { String::new() } else { format!("({section}") }));
        }
        self.0.text(line);
        self
    }

    pub(crate) fn render(&self) -> String {
        self.0.to_roff()
    }
}

/// Returns the parts of a text in Markdown: what stands between backticks in bold, links as their text.
fn inlines(text: &str) -> Vec<Inline> {
    let mut parts = Vec::new();
    for (index, part) in text.split('`').enumerate().filter(|(_, part)| !part.is_empty()) {
        parts.push(if index % 2 == 1 { bold(part) } else { roman(without_links(part)) });
    }
    parts
}

fn without_links(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, behind)) = after.split_once(')') else { break };
        match before.rsplit_once('[') {
            Some((start, name)) => result.extend([start, name]),
            None => result.extend([before, "](", target, ")"]),
        }
        rest = behind;
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_bold_and_links_are_text() {
        assert_eq!(inlines("a `b` c"), [roman("a "), bold("b"), roman(" c")]);
        assert_eq!(without_links("see [Age](history.md#age), too"), "see Age, too");
        assert_eq!(without_links("a]( b"), "a]( b");
    }

    #[test]
    fn a_page_is_roff() {
        let mut page = Page::new("netconn-events", 5, "events of netconn");
        page.heading("Fields").item("event.id", "Identity, `unique`.").code("{\n}").see(&["netconn(1)", "jq(1)"]);
        let text = page.render("netconn 1", "netconn");
        assert!(text.contains(".TH NETCONN-EVENTS 5"), "{text}");
        assert!(text.contains(".TP\n\\fBevent.id\\fR\nIdentity, \\fBunique\\fR.\n"), "{text}");
        assert!(text.contains(".nf\n{\n}\n.fi\n"), "{text}");
        assert!(text.ends_with("\\fBnetconn\\fR(1), \\fBjq\\fR(1)\n"), "{text}");
    }
}

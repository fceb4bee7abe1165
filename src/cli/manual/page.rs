//! The parts that all man pages are made of.

use std::time::{Duration, SystemTime};

use roff::{Inline, Roff, bold, roman};

/// `.TH`, the first line of a page.
pub(super) fn title(name: &str, section: &str) -> Roff {
    let source = format!("agentd {}", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    roff.control("TH", [&name.to_uppercase() as &str, section, &date(), &source, "agentd"]);
    roff
}

/// The date of the page: today, or the day that the variable of reproducible builds names.
fn date() -> String {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    let when = epoch.map_or_else(SystemTime::now, |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    humantime::format_rfc3339_seconds(when).to_string().chars().take(10).collect()
}

/// Text in the notation of Markdown, with `code`, which becomes bold, and [links](…), of which the text is left.
pub(super) fn text(roff: &mut Roff, text: &str) {
    roff.text(inlines(text));
}

pub(super) fn inlines(text: &str) -> Vec<Inline> {
    // Not every formatter knows that a page is in UTF-8.
    let text = without_links(text).replace('…', "...");
    let parts = text.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(number, part)| if number % 2 == 1 { bold(part) } else { roman(part) }).collect()
}

fn without_links(text: &str) -> String {
    let Some((before, rest)) = text.split_once('[') else { return text.to_owned() };
    match rest.split_once("](").and_then(|(label, rest)| Some((label, rest.split_once(')')?.1))) {
        Some((label, rest)) if !label.contains(['[', '`', ']']) => format!("{before}{label}{}", without_links(rest)),
        _ => format!("{before}[{}", without_links(rest)),
    }
}

/// A section with paragraphs.
pub(super) fn section(roff: &mut Roff, heading: &str, paragraphs: &[&str]) {
    roff.control("SH", [heading]);
    for (number, paragraph) in paragraphs.iter().enumerate() {
        if number > 0 {
            roff.control("PP", []);
        }
        text(roff, paragraph);
    }
}

/// A section that is a list: what is named is bold.
pub(super) fn list<T: AsRef<str>>(roff: &mut Roff, heading: &str, items: impl IntoIterator<Item = (T, T)>) {
    roff.control("SH", [heading]);
    for (name, meaning) in items {
        item(roff, vec![bold(name.as_ref())], meaning.as_ref());
    }
}

pub(super) fn item(roff: &mut Roff, head: Vec<Inline>, meaning: &str) {
    roff.control("TP", []);
    roff.text(head);
    text(roff, meaning);
}

/// A block of lines that are printed unchanged.
pub(super) fn verbatim(roff: &mut Roff, lines: &str) {
    roff.control("PP", []);
    roff.control("RS", ["4"]);
    roff.control("nf", []);
    for line in lines.lines() {
        if line.is_empty() {
            roff.control("sp", []);
        } else {
            roff.text([roman(line)]);
        }
    }
    roff.control("fi", []);
    roff.control("RE", []);
}

/// References to other pages: `agentd(8)`.
pub(super) fn see_also<'a>(roff: &mut Roff, pages: impl IntoIterator<Item = &'a str>) {
    roff.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for page in pages {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        let (name, section) = page.split_at(page.find('(').unwrap_or(page.len()));
        line.extend([bold(name), roman(section)]);
    }
    roff.text(line);
}

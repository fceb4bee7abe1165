//! `jcard.toml(5)`, from the page of the docs about the jcard: the example, the table of fields, and what follows it.

use roff::{bold, italic, roman};

use super::page::{item, list, section, see_also, text, title, verbatim};

const DOCS: &str = include_str!("../../../docs/jcard.md");

/// A row of the table.
struct Field<'a> {
    name: &'a str,
    kind: &'a str,
    default: &'a str,
    meaning: &'a str,
}

fn fields() -> impl Iterator<Item = Field<'static>> {
    let rows = DOCS.lines().skip_while(|line| !line.starts_with("| field | type |")).skip(2);
    rows.take_while(|line| line.starts_with('|')).filter_map(|row| {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let [name, kind, default, meaning] = [cells.next()?, cells.next()?, cells.next()?, cells.next()?];
        Some(Field { name: name.trim_matches('`'), kind, default, meaning })
    })
}

/// The first example of a jcard.
fn example() -> &'static str {
    let after = DOCS.split_once("```toml\n").map_or("", |(_, rest)| rest);
    after.split_once("```").map_or("", |(example, _)| example)
}

/// What is true of all values: the paragraph below the table.
fn values() -> String {
    let below = DOCS.lines().skip_while(|line| !line.starts_with("| field | type |"));
    let below = below.skip_while(|line| line.starts_with('|')).skip_while(|line| line.is_empty());
    below.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// What links to another part of the docs, which is not part of the page.
fn without_reference(meaning: &str) -> &str {
    meaning.rsplit_once("; see [").map_or(meaning, |(before, _)| before)
}

pub(super) fn page() -> String {
    let mut roff = title("jcard.toml", "5");
    section(&mut roff, "NAME", &["jcard.toml - declares the AI coding agents that agentd keeps running"]);
    section(
        &mut roff,
        "DESCRIPTION",
        &[
            "A jcard is a TOML file. `agentd`(8) reads `[agent]` (one agent) and `[[agents]]` (many); all other sections belong to \
             other programs and may hold anything. An edit takes effect when the file is saved.",
            "A mistake in an entry affects that agent alone, and if it runs, it goes on as it was declared before. A file that is \
             missing, empty, or not valid TOML changes nothing that runs. `agentd-check`(1) prints every mistake with its line and \
             column, and `agentd-schema`(1) prints a JSON Schema of the fields below for editors.",
        ],
    );
    roff.control("SH", ["FIELDS"]);
    for Field { name, kind, default, meaning } in fields() {
        let mut head = vec![bold(name), roman(" = "), italic(kind)];
        if default == "required" {
            head.push(roman(" (required)"));
        }
        item(&mut roff, head, &format!("{}.", upper(without_reference(meaning))));
        if default != "required" {
            roff.control("IP", []);
            text(&mut roff, &format!("Default: {default}."));
        }
    }
    section(&mut roff, "VALUES", &[&values()]);
    list(
        &mut roff,
        "FILES",
        [
            ("/etc/stereos/jcard.toml", "What a daemon of root reads."),
            (
                "~/.config/agentd/jcard.toml",
                "What a daemon of yours reads; `$XDG_CONFIG_HOME` names another folder than `~/.config`.",
            ),
        ],
    );
    section(
        &mut roff,
        "EXAMPLES",
        &["Two agents. The second one gets its prompt from a file beside the jcard, and one secret:"],
    );
    verbatim(&mut roff, example());
    see_also(&mut roff, ["agentd(8)", "agentd-check(1)", "agentd-schema(1)", "agentd-explain(1)"]);
    roff.render()
}

fn upper(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_from_the_docs_is_there() {
        assert!(fields().count() > 20);
        assert!(example().contains("[[agents]]") && example().contains("prompt_file"), "{}", example());
        assert!(values().starts_with("Durations are") && values().ends_with('.'), "{}", values());
        assert_eq!(without_reference("a; see [Prompts](#prompts)"), "a");
    }
}

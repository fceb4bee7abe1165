//! Checks that the imports in `src/` follow the table of wings in `src/lib.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Wings = BTreeMap<String, BTreeSet<String>>;

/// The wings that each wing may use, according to the table.
fn plan() -> Wings {
    let text = fs::read_to_string(root().join("lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    let row = |row: &str| {
        let (wing, cells) = row.split_once("`] |").expect("a row begins with a wing");
        let uses = cells.split('|').nth(1).expect("a row says what its wing may use");
        (
            wing.to_owned(),
            uses.split(',')
                .map(|wing| wing.trim().trim_matches('`').to_owned())
                .filter(|wing| !wing.is_empty())
                .collect(),
        )
    };
    rows.map(row).collect()
}

/// The wings that each wing uses outside of its tests, and the file that does.
fn imports() -> BTreeMap<(String, String), PathBuf> {
    let mut files = Vec::new();
    collect(&root(), &mut files);
    let mut imports = BTreeMap::new();
    for file in files {
        let within = file.strip_prefix(root()).unwrap();
        let wing = within.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if within.ends_with("tests.rs")
            || within.iter().any(|part| part == "tests")
            || ["bin", "lib", "main"].contains(&wing.as_str())
        {
            continue;
        }
        for used in used(&fs::read_to_string(&file).unwrap()) {
            if used != wing {
                imports.entry((wing.clone(), used)).or_insert_with(|| within.to_owned());
            }
        }
    }
    imports
}

/// What of a file is neither comment nor test.
fn code(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn used(text: &str) -> BTreeSet<String> {
    code(text)
        .lines()
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.chars().take_while(|&c| c.is_ascii_lowercase() || c == '_').collect::<String>())
        .filter(|wing| !wing.is_empty())
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn every_wing_is_in_the_plan() {
    let mut wings = BTreeSet::new();
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        wings.insert(name.trim_end_matches(".rs").to_owned());
    }
    assert!(["bin", "lib", "main"].iter().all(|face| wings.remove(*face)));
    assert_eq!(plan().into_keys().collect::<BTreeSet<_>>(), wings);
}

#[test]
fn wings_import_only_what_the_plan_allows() {
    let plan = plan();
    let forbidden: Vec<String> = imports()
        .into_iter()
        .filter(|((wing, used), _)| !plan[wing].contains(used))
        .map(|((wing, used), file)| format!("src/{}: {wing} may not use {used}", file.display()))
        .collect();
    assert!(forbidden.is_empty(), "{}", forbidden.join("\n"));
}

#[test]
fn plan_allows_no_import_that_is_not_used() {
    let imports = imports();
    let unused: Vec<String> = plan()
        .into_iter()
        .flat_map(|(wing, uses)| uses.into_iter().map(move |used| (wing.clone(), used)))
        .filter(|pair| !imports.contains_key(pair))
        .map(|(wing, used)| format!("{wing} does not use {used}"))
        .collect();
    assert!(unused.is_empty(), "{}", unused.join("\n"));
}

/// What serves strangers' requests holds no secret, no prompt and no command line: only a `Launch` has them.
#[test]
fn what_is_served_knows_no_launch() {
    let mut files = Vec::new();
    collect(&root(), &mut files);
    let served = |file: &PathBuf| ["observe", "api"].iter().any(|wing| file.starts_with(root().join(wing)));
    for file in files.into_iter().filter(served) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        assert!(!code.contains("agent::launch") && !code.contains("Launch>"), "{}", file.display());
    }
}

#[test]
fn imports_are_found_anywhere_in_the_code() {
    let text = "use crate::sys::log; // crate::api\nfn f() { crate::text::ansi::f(crate::wire::g()) }\n\
                \n#[cfg(test)]\nmod tests {\nuse crate::cli;\n}";
    assert_eq!(used(text), ["sys", "text", "wire"].map(str::to_owned).into());
}

/// Where a program asks what the words of a text say.
const QUESTIONS: [&str; 8] =
    ["contains(", "starts_with(", "ends_with(", "strip_prefix(", "strip_suffix(", "split", "find(", "== \""];

/// The statements in which a program asks what the words of a `reason` say.
fn parsed_reasons(text: &str) -> Vec<String> {
    let code = code(text);
    let statements = code.split([';', '{', '}']).filter(|statement| statement.contains("reason"));
    let asks = |statement: &&str| QUESTIONS.iter().any(|question| statement.contains(question));
    statements.filter(asks).map(|statement| statement.trim().to_owned()).collect()
}

/// The words that the daemon makes its sentences of, which stand between quotation marks in one file.
fn phrases() -> Vec<String> {
    let code = code(&fs::read_to_string(root().join("wire/reason.rs")).unwrap());
    let literals = code.split('"').skip(1).step_by(2);
    let pieces = literals.flat_map(|literal| literal.split(['{', '}'])).map(str::trim);
    pieces.filter(|piece| piece.contains(' ')).map(str::to_owned).collect()
}

/// Words of the daemon's that a program looks for, whatever it calls the text in which it does.
fn sought_phrases(text: &str, phrases: &[String]) -> Vec<String> {
    let code = code(text);
    let arguments = QUESTIONS.iter().flat_map(|question| code.split(question).skip(1));
    let literals = arguments.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    let is_known = |literal: &str| phrases.iter().any(|phrase| literal.len() > 5 && phrase.contains(literal.trim()));
    literals.filter(|literal| is_known(literal)).map(str::to_owned).collect()
}

#[test]
fn no_client_parses_a_reason() {
    let mut files = Vec::new();
    for wing in ["cli", "client"] {
        files.push(root().join(wing).with_extension("rs"));
        collect(&root().join(wing), &mut files);
    }
    assert!(files.len() > 10, "{files:?}");
    let phrases = phrases();
    assert!(phrases.len() > 10, "{phrases:?}");
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let told = |found: String| format!("{}: {found}", file.display());
        found.extend(parsed_reasons(&text).into_iter().map(told));
        found.extend(sought_phrases(&text, &phrases).into_iter().map(told));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_parsed_reason_is_seen() {
    for code in [
        "agent.reason.as_ref().is_some_and(|reason| reason.contains(words))",
        "let rest = reason.strip_prefix(\"waiting: \");",
        "reason.split(\"; \").map(supply).collect()",
    ] {
        assert_eq!(parsed_reasons(code).len(), 1, "{code}");
    }
    let sought = sought_phrases("text.strip_suffix(\" does not exist\"); name.contains(\"an x\")", &phrases());
    assert_eq!(sought, [" does not exist"]);
    let harmless =
        "why: agent.reason; // reason.find(x)\nname.contains(y)\n\n#[cfg(test)]\nmod tests {\nreason.split(1)\n}";
    assert_eq!(parsed_reasons(harmless), Vec::<String>::new());
}

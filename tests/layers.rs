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

fn used(text: &str) -> BTreeSet<String> {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines
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

#[test]
fn imports_are_found_anywhere_in_the_code() {
    let text = "use crate::sys::log; // crate::api\nfn f() { crate::text::ansi::f(crate::wire::g()) }\n\
                \n#[cfg(test)]\nmod tests {\nuse crate::cli;\n}";
    assert_eq!(used(text), ["sys", "text", "wire"].map(str::to_owned).into());
}

//! Checks that the documentation has no dead links, and that the tests and files that it names exist.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use agentd::wire::hold::GroupHold;
use agentd::wire::status::{AgentStatus, Health, PastAttempt};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn is_there(path: &Path) -> bool {
    Path::new(ROOT).join(path).exists()
}

/// Collects every Markdown file below a folder, except hidden files and build products.
fn pages_below(folder: &Path, pages: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "found", "artifacts", "corpus"].contains(&name.as_str()) {
                pages_below(&path, pages);
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
}

/// The repository's pages: the path of each, relative to the root, and its text.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut found = Vec::new();
    pages_below(Path::new(ROOT), &mut found);
    let within = |page: PathBuf| {
        let text = fs::read_to_string(&page).unwrap();
        (page.strip_prefix(ROOT).unwrap().to_owned(), text)
    };
    found.into_iter().map(within).collect()
}

/// The lines of a page outside of code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence && !line.starts_with("    ")
    })
}

/// The name by which links refer to a heading.
fn anchor(heading: &str) -> String {
    let letters = heading.trim().to_lowercase();
    let kept = letters.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The anchors of a page. A repeated heading gets a number at its end.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let name = anchor(line.trim_start_matches('#'));
        let numbered = (1..).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !all.contains(name));
        all.extend(free);
    }
    all
}

/// The text without what is in backticks.
fn without_code(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join("code")
}

/// The targets of a page's links: inline links (`[text](target)`) and definitions (`[name]: target`).
fn links(text: &str) -> Vec<String> {
    let prose = without_code(&prose(text).collect::<Vec<_>>().join("\n"));
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let defined = prose.lines().filter(|line| line.starts_with('[')).filter_map(|line| line.split_once("]: "));
    let all = inline.chain(defined.map(|(_, target)| target));
    all.map(|target| target.split(' ').next().unwrap_or_default().to_owned()).collect()
}

fn is_elsewhere(link: &str) -> bool {
    ["https://", "http://", "mailto:"].iter().any(|scheme| link.starts_with(scheme))
}

/// Resolves a path relative to a page into one relative to the root; `None` if it is outside.
fn resolve(page: &Path, path: &str) -> Option<PathBuf> {
    let mut resolved = page.parent().unwrap().to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => resolved.push(name),
            Component::CurDir => {}
            Component::ParentDir if resolved.pop() => {}
            _ => return None,
        }
    }
    Some(resolved)
}

/// The dead links of these pages.
fn dead(pages: &BTreeMap<PathBuf, String>, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut dead = Vec::new();
    for (page, text) in pages {
        for link in links(text).iter().filter(|link| !is_elsewhere(link)) {
            let (path, name) = link.split_once('#').map_or((link.as_str(), None), |(path, name)| (path, Some(name)));
            let target = if path.is_empty() { Some(page.clone()) } else { resolve(page, path) };
            let leads = target.is_some_and(|target| match (pages.get(&target), name) {
                (Some(text), Some(name)) => anchors(text).contains(name),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => exists(&target),
            });
            if !leads {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    dead
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let count: usize = pages.values().map(|text| links(text).len()).sum();
    assert!(count > 50, "only {count} links were found in {:?}", pages.keys());
    assert_eq!(dead(&pages, is_there), [""; 0]);
}

#[test]
fn dead_links_are_found() {
    let page = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
    let other = "# A page\n\n## What it's `like`\n\n## Twice\n\n## Twice\n\n```sh\n# no heading\n```\n";
    let good = "[a](docs/b.md) [b](docs/b.md#what-its-like) ![c](there.png) [d](#top) [e](https://nowhere.example/#x)\n\
                # Top\n[f](docs/b.md#twice-1) `[code](nowhere.md)`\n\n    [code](nowhere.md)\n\n[g]: docs/b.md\n";
    let exists = |path: &Path| path == Path::new("there.png");
    assert_eq!(dead(&[page("a.md", good), page("docs/b.md", other)].into(), exists), [""; 0]);
    let all_dead = ["c.md", "#nowhere", "b.md#no-heading", "b.md#twice-2", "../there.png", "../../a.md", "b.md#like"];
    for link in all_dead {
        let text = format!("see\n[this\npage]({link}).\n");
        let found = dead(&[page("docs/a.md", &text), page("docs/b.md", other)].into(), |_| false);
        assert_eq!(found, [format!("docs/a.md: {link}")]);
    }
    let defined = dead(&[page("a.md", "[x][y]\n\n[y]: z.md\n")].into(), |_| false);
    assert_eq!(defined, ["a.md: z.md"]);
}

#[test]
fn readme_links_every_page_of_the_docs() {
    let pages = pages();
    let linked: BTreeSet<String> = links(&pages[Path::new("README.md")]).into_iter().collect();
    let of_docs = pages.keys().filter(|page| page.starts_with("docs")).map(|page| page.to_str().unwrap().to_owned());
    let missing: Vec<String> = of_docs.filter(|page| !linked.contains(page)).collect();
    assert_eq!(missing, [""; 0]);
}

/// The tests in a Rust file: the names of the functions that have a test attribute.
fn tests_in(text: &str) -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            is_test |= ["test]", "test(", "rstest"].iter().any(|kind| line.contains(kind)) && !line.contains("cfg(");
        } else if let Some((_, rest)) = line.split_once("fn ") {
            if is_test && let Some(name) = rest.split(['(', '<']).next() {
                tests.insert(name.to_owned());
            }
            is_test = false;
        }
    }
    tests
}

fn tests_below(folder: &Path, tests: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            tests.extend(tests_in(&fs::read_to_string(path).unwrap()));
        }
    }
}

/// The names in the second column of the tables of promises (`held by`).
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_table = false;
    for line in text.lines() {
        is_table = line.starts_with('|') && (is_table || line.ends_with("| held by |"));
        if let Some((_, cell)) = is_table.then(|| line.trim_end_matches(" |").rsplit_once("| ")).flatten() {
            names.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    names
}

#[test]
fn every_promise_of_security_is_held_by_tests() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/security.md")).unwrap();
    let named = named(&text);
    assert!(named.len() > 40, "{named:?}");
    let mut tests = BTreeSet::new();
    for folder in ["src", "tests"] {
        tests_below(&Path::new(ROOT).join(folder), &mut tests);
    }
    let missing: Vec<&String> = named.difference(&tests).collect();
    assert!(missing.is_empty(), "docs/security.md names tests that do not exist: {missing:#?}");
    let empty: Vec<&str> = text.lines().filter(|line| line.starts_with('|') && line.ends_with("|  |")).collect();
    assert_eq!(empty, [""; 0], "a promise names no test");
}

#[test]
fn tests_are_distinguished_from_other_functions() {
    let text = "#[test]\nfn a() {}\nfn b() {}\n#[tokio::test]\n#[ignore]\nasync fn c() {}\n#[cfg(test)]\nfn d() {}\n\
                #[rstest]\n#[case(1)]\nfn e(x: u8) {}\n";
    let tests: Vec<String> = tests_in(text).into_iter().collect();
    assert_eq!(tests, ["a", "c", "e"]);
    let table = "| promise | held by |\n|---|---|\n| `x` | `a`, `b` |\n\n| other | `c` |\n";
    assert_eq!(named(table).into_iter().collect::<Vec<_>>(), ["a", "b"]);
}

/// The paths in `src/`, `tests/` and so on that a page names in backticks.
fn paths(text: &str) -> BTreeSet<String> {
    let all = text.split('`').skip(1).step_by(2);
    let is_path = |name: &&str| {
        ["src/", "nix/", "tests/", "fuzz/", "benches/"].iter().any(|folder| name.starts_with(folder))
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
    };
    all.filter(is_path).map(str::to_owned).collect()
}

#[test]
fn design_names_files_that_exist() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/design.md")).unwrap();
    let paths = paths(&text);
    assert!(paths.len() > 25, "{paths:?}");
    let missing: Vec<&String> = paths.iter().filter(|path| !is_there(Path::new(path))).collect();
    assert!(missing.is_empty(), "docs/design.md names files that do not exist: {missing:#?}");
}

/// The names in backticks in a text.
fn in_backticks(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The modules in a wing's folder, by the names of their files and folders.
fn modules(wing: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(Path::new(ROOT).join("src").join(wing)).unwrap();
    let names = entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned());
    names.filter(|name| !["tests", "fuzzing"].contains(&name.as_str())).collect()
}

#[test]
fn the_design_names_every_module_of_a_wing() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/design.md")).unwrap();
    let table = page.split_once("| wing | files |\n|---|---|\n").unwrap().1.split("\n\n").next().unwrap();
    let rows: Vec<(&str, &str)> =
        table.lines().map(|row| row.trim_matches(['|', ' ']).split_once(" | ").unwrap()).collect();
    assert!(rows.len() >= 13, "{rows:?}");
    for (wing, files) in rows.iter().filter(|(wing, _)| *wing != "`cli`") {
        let named = in_backticks(files);
        let missing: Vec<String> =
            modules(wing.trim_matches('`')).into_iter().filter(|module| !named.contains(module.as_str())).collect();
        assert_eq!(missing, [""; 0], "{wing}");
    }
}

/// The keys of this object of the API.
fn keys_of<T: schemars::JsonSchema>() -> BTreeSet<String> {
    let schema = schemars::schema_for!(T);
    schema.get("properties").unwrap().as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_page_of_the_api_names_every_key() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/api.md")).unwrap();
    for keys in [keys_of::<AgentStatus>(), keys_of::<PastAttempt>(), keys_of::<Health>(), keys_of::<GroupHold>()] {
        let unnamed: Vec<String> = keys.into_iter().filter(|key| !page.contains(&format!("`{key}`"))).collect();
        assert_eq!(unnamed, [""; 0]);
    }
}

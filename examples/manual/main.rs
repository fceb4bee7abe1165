//! Writes agentd's man pages and shell completions into a folder, for packages to install:
//! `cargo run --example manual -- FOLDER`.
//!
//! `agentd man FOLDER` and `agentd completions SHELL` do the same; a build for another machine cannot run that.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use agentd::cli::{complete, manual};

/// Shells, and what their completions are called where they look for them.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "agentd.bash"), ("fish", "agentd.fish"), ("zsh", "_agentd")];

fn main() -> ExitCode {
    let is_folder = |word: &OsString| !word.as_encoded_bytes().starts_with(b"-");
    let Some(folder) = std::env::args_os().nth(1).filter(is_folder).map(PathBuf::from) else {
        eprintln!("usage: manual FOLDER");
        return ExitCode::FAILURE;
    };
    match write(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed to write into {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> io::Result<()> {
    manual::write(folder)?;
    for (shell, name) in COMPLETIONS {
        complete::write_script(shell, &mut fs::File::create(folder.join(name))?)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "../../tests/support/skip.rs"]
mod skip;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use agentd::cli::Arguments;
    use agentd::cli::manual::TOPICS;
    use clap::CommandFactory;

    use super::*;

    fn written() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        folder
    }

    fn pages(folder: &Path) -> Vec<PathBuf> {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut pages: Vec<_> = files
            .filter(|file| {
                file.extension().is_some_and(|extension| ["1", "5", "8"].map(AsRef::as_ref).contains(&extension))
            })
            .collect();
        pages.sort();
        pages
    }

    /// The output of a program; `None` if the program does not exist.
    fn said_by(program: &str, words: &[&str], page: &Path) -> Option<String> {
        let output = Command::new(program).args(words).arg(page).env("MANWIDTH", "80").output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                skip::skip(&format!("it needs {program}: see tests/need"));
                None
            }
            output => {
                let output = output.unwrap();
                Some([output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap()).concat())
            }
        }
    }

    #[test]
    fn every_command_has_a_page_and_every_flag_is_on_it() {
        let folder = written();
        let mut command = Arguments::command().disable_help_subcommand(true);
        command.build();
        let commands = command.get_subcommands().map(|it| (format!("agentd-{}.1", it.get_name()), it));
        let mut expected = vec!["jcard.toml.5".to_owned()];
        for (name, command) in commands.chain([("agentd.8".to_owned(), &command)]) {
            let page = fs::read_to_string(folder.path().join(&name)).unwrap();
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                let flag = format!("\\-\\-{}", flag.replace('-', "\\-"));
                assert!(page.contains(&flag), "{flag} is not on the page {name}");
            }
            expected.push(name);
        }
        expected.sort();
        let names =
            pages(folder.path()).iter().map(|it| it.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(expected, Vec::<String>::from_iter::<Vec<String>>(names));
    }

    #[test]
    fn every_page_of_a_command_has_exit_statuses_and_examples() {
        let folder = written();
        for topic in &TOPICS {
            let name = if topic.verb.is_empty() { "agentd.8".to_owned() } else { format!("agentd-{}.1", topic.verb) };
            let page = fs::read_to_string(folder.path().join(&name)).unwrap();
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
                let heading = format!(
                    ".SH {}\n",
                    if section.contains(' ') { format!("\"{section}\"") } else { section.to_owned() }
                );
                assert_eq!(page.matches(&heading).count(), 1, "{name}: {section}");
            }
            for (status, meaning) in topic.exit {
                assert!(page.contains(&format!("\\fB{status}\\fR\n")), "{name}: {status}");
                assert!(page.replace("\\-", "-").contains(&meaning.replace('\'', "\\*(Aq")), "{name}: {meaning}");
            }
            let asks = TOPICS
                .iter()
                .find(|it| it.verb == topic.verb)
                .is_some_and(|it| !["check", "harnesses", "schema", "init", "completions", "man"].contains(&it.verb));
            assert_eq!(page.contains("AGENTD_API_SOCKET"), asks, "{name}");
        }
    }

    #[test]
    fn the_page_of_the_jcard_has_every_field_of_the_schema() {
        let folder = written();
        let page = folder.path().join("jcard.toml.5");
        let source = fs::read_to_string(&page).unwrap();
        let schema = agentd::config::schema();
        let fields = schema["definitions"]["agent"]["properties"].as_object().unwrap();
        assert!(fields.len() > 20);
        for (field, schema) in fields {
            assert!(source.contains(&format!(".TP\n\\fB{field}\\fR ")), "{field}");
            // Stops where Markdown and man pages differ.
            let meaning = schema["description"].as_str().unwrap();
            let start = meaning.split(['`', '[', '-', '\'', '…', ';']).next().unwrap();
            let is_there = source.to_lowercase().contains(&start.trim().to_lowercase());
            assert!(is_there, "{field}: {meaning}");
        }
    }

    #[test]
    fn mandoc_has_nothing_to_say_against_any_page() {
        let folder = written();
        for page in pages(folder.path()) {
            let Some(complaints) = said_by("mandoc", &["-T", "lint", "-W", "warning"], &page) else { return };
            assert_eq!(complaints, "", "{}", page.display());
        }
    }

    #[test]
    fn pages_read_as_text_without_markup() {
        let folder = written();
        for page in pages(folder.path()) {
            let Some(text) = said_by("mandoc", &["-T", "utf8", "-O", "width=80"], &page) else { return };
            let plain = overstrikes_removed(&text);
            assert!(plain.contains("SEE ALSO"), "{}: {plain}", page.display());
            for markup in ["`", "](", "\\f", "**", "\\-"] {
                let found = plain.lines().find(|line| line.contains(markup));
                assert_eq!(found, None, "{}: {markup}", page.display());
            }
            let source = fs::read_to_string(&page).unwrap();
            assert!(source.is_ascii(), "{}: some formatters do not know that the page is UTF-8", page.display());
        }
    }

    /// A terminal prints bold letters twice, and underlines below letters.
    fn overstrikes_removed(text: &str) -> String {
        let mut plain = String::new();
        for character in text.chars() {
            if character == '\u{8}' {
                plain.pop();
            } else {
                plain.push(character);
            }
        }
        plain
    }

    #[test]
    fn every_shell_is_told_whom_to_ask() {
        let folder = written();
        for (_, name) in COMPLETIONS {
            let completions = fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(completions.contains("AGENTD_COMPLETE="), "{name}: {completions}");
        }
    }
}

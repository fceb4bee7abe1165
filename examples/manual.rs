//! Writes agentd's man pages and shell completions into a folder, for packages to install:
//! `cargo run --example manual -- FOLDER`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentd::cli::{Arguments, complete};
use clap::CommandFactory;

/// Shells, and what their completions are called where they look for them.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "agentd.bash"), ("fish", "agentd.fish"), ("zsh", "_agentd")];

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
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
    fs::create_dir_all(folder)?;
    for (shell, name) in COMPLETIONS {
        complete::write_script(shell, &mut fs::File::create(folder.join(name))?)?;
    }
    // Pages on how to ask for help help nobody.
    clap_mangen::generate_to(Arguments::command().disable_help_subcommand(true), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        folder
    }

    #[test]
    fn every_command_has_a_page_and_every_flag_is_on_it() {
        let folder = written();
        assert!(!folder.path().join("agentd-help.1").exists());
        let mut command = Arguments::command().disable_help_subcommand(true);
        command.build();
        let commands = command.get_subcommands().map(|it| (format!("agentd-{}", it.get_name()), it));
        for (name, command) in commands.chain([("agentd".to_owned(), &command)]) {
            let page = fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                let flag = format!("\\-\\-{}", flag.replace('-', "\\-"));
                assert!(page.contains(&flag), "{flag} is not on the page of {name}");
            }
        }
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

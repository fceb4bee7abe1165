//! The manual: exit statuses and examples of each command, for `--help`, and the man pages, which `agentd man` writes.
//!
//! The pages of commands come from the command line's own definition, and `jcard.toml(5)` from the table of fields in `docs/jcard.md`,
//! which a unit test compares with the schema and with what is read. Tests parse every example as a command line, so that no example
//! goes stale.

mod commands;
mod jcard;
mod page;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::output::{complain, say};
use crate::sys::safe_path;

/// Where to write the man pages.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The folder of the manual, such as /usr/local/share/man; each page goes into the folder of its section in there
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Writes the man pages where man looks for them, and says how to read one.
pub fn run(arguments: &Arguments) -> ExitCode {
    let shown = arguments.folder.display();
    match write_sections(&arguments.folder) {
        Ok(()) => {
            say(&format!("wrote the man pages; for example: man -M {shown} agentd"));
            ExitCode::SUCCESS
        }
        Err(error) => complain(1, &format!("failed to write into {shown}: {error}")),
    }
}

/// Writes every man page into one folder, for packages.
pub fn write(folder: &Path) -> io::Result<()> {
    write_into(folder, pages())
}

/// Writes every man page into the folder of its section.
fn write_sections(folder: &Path) -> io::Result<()> {
    pages().try_for_each(|(name, page)| {
        let section = name.rsplit('.').next().unwrap_or_default().to_owned();
        write_into(&folder.join(format!("man{section}")), std::iter::once((name, page)))
    })
}

/// Writes pages into a folder. A page replaces what has its name, and a link in its place is not followed: somebody else may have
/// planted it.
fn write_into(folder: &Path, mut pages: impl Iterator<Item = (String, String)>) -> io::Result<()> {
    let folder = safe_path::open_dir(folder, Some(Mode::from_bits_truncate(0o755)))?;
    pages.try_for_each(|(name, page)| replace(&folder, name.as_ref(), page.as_ref()))
}

fn pages() -> impl Iterator<Item = (String, String)> {
    commands::pages().into_iter().chain([("jcard.toml.5".to_owned(), jcard::page())])
}

fn replace(folder: &OwnedFd, name: &OsStr, text: &[u8]) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let create = || openat(folder, name, flags, Mode::from_bits_truncate(0o644));
    let file = match create() {
        Err(Errno::EEXIST) => {
            unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?;
            create()?
        }
        file => file?,
    };
    File::from(file).write_all(text)
}

/// What an exit status means, whatever the command. `docs/using.md` has the same table.
pub const EXIT_STATUSES: [(&str, &str); 9] = [
    ("0", "it went well"),
    ("1", "it failed, or a check found a fault (`check`, `doctor`) or a difference (`diff`)"),
    ("2", "the command line is wrong; `diff`: what would change is not known"),
    ("3", "`status`, `send`: the agent does not run; `status` without NAME: the daemon does not"),
    ("4", "the command could not act: no agent has that name, agentd does not answer, or you do not have permission"),
    ("5", "`status --check`: an agent needs attention"),
    ("6", "`send`: it was sent, but the agent's screen did not change"),
    ("123", "`wait`, `start --wait`, `restart --wait`: the agent does not get there by itself"),
    ("124, 125", "`wait`: as `timeout`(1) has it, since its other statuses may be the agent's own; 125 is its 4"),
];

/// The exit statuses and examples of one command.
#[derive(Debug)]
pub struct Topic {
    /// The command's name; empty for the daemon.
    pub verb: &'static str,
    /// Exit statuses, and what each means.
    pub exit: &'static [(&'static str, &'static str)],
    /// Command lines, and what each does.
    pub examples: &'static [(&'static str, &'static str)],
}

const USAGE: (&str, &str) = ("2", "the command line is wrong");
const SHOWN: (&str, &str) = ("0", "it was printed");
const ORDERED: (&str, &str) = ("0", "agentd does what was asked");
const NOT_TAKEN: (&str, &str) = ("1", "it could not be written, or agentd has not taken it within 2 s");
const NOT_ORDERED: (&str, &str) =
    ("1", "it could not be written, agentd has not taken it within 2 s, or the entry of an agent to start is wrong");
const NOT_KNOWN: (&str, &str) = ("4", "there is no such agent, agentd does not answer, or you are not allowed to ask");
const ANSWER_LOST: (&str, &str) =
    ("1", "it could not be written, agentd has not taken it within 3 s, or something else was answered before");
const NOT_ALLOWED: (&str, &str) =
    ("4", "there is no such agent, agentd does not answer, or you are not allowed to do it");
const NOT_ASKED: (&str, &str) = ("4", "no agent asks this, agentd does not answer, or you are not allowed to do it");

/// The topics of the daemon and of all commands.
pub const TOPICS: [Topic; 27] = [
    Topic {
        verb: "",
        exit: &[
            ("0", "the daemon was asked to stop, and has"),
            ("1", "the daemon failed to start, or had to end; standard error says why"),
            USAGE,
        ],
        examples: &[
            ("agentd", "Run the daemon: as root for the whole machine, else for yourself"),
            ("agentd --config ./jcard.toml --debug", "Run it with a jcard of your own, and log more"),
            ("agentd status", "Show the agents"),
        ],
    },
    Topic {
        verb: "check",
        exit: &[
            ("0", "the jcard has no error, and with --strict no warning"),
            ("1", "it has one, or it cannot be read; with --screen, no rule matches"),
            USAGE,
        ],
        examples: &[
            ("agentd check", "Check the jcard that the daemon reads"),
            ("agentd check --strict ./jcard.toml", "Check a file before it is installed, as in CI"),
            ("agentd check --here", "Also look for programs, workdirs, prompt files and secrets on this machine"),
            ("agentd check -", "Check what comes from standard input"),
            (
                "agentd check --screen screen.txt --harness codex",
                "Say which rule of a harness matches a screen that was saved",
            ),
        ],
    },
    Topic {
        verb: "diff",
        exit: &[
            ("0", "nothing would change"),
            ("1", "something would"),
            ("2", "that is not known: a file has an error or cannot be read, or the command line is wrong"),
        ],
        examples: &[
            ("agentd diff ./jcard.toml", "Say what installing a file as the jcard would start, stop and restart"),
            ("agentd diff -", "The same for standard input, such as the output of git show main:jcard.toml"),
        ],
    },
    Topic {
        verb: "harnesses",
        exit: &[("0", "it was printed"), ("1", "the jcard cannot be read"), USAGE, ("4", "no harness has that name")],
        examples: &[
            ("agentd harnesses", "List every harness that an entry can name"),
            ("agentd harnesses codex", "Print what is known of codex, to paste into a jcard and change"),
        ],
    },
    Topic {
        verb: "schema",
        exit: &[("0", "it was printed"), ("1", "it could not be printed"), USAGE],
        examples: &[(
            "agentd schema > jcard.schema.json",
            "Write the schema to a file that taplo or tombi is configured to use",
        )],
    },
    Topic {
        verb: "status",
        exit: &[
            ("0", "the agents that are named run; without NAME, the daemon runs"),
            ("3", "one of them does not run; without NAME, the daemon does not"),
            ("4", "no agent has that name, agents are named and agentd does not answer, or you may not use its API"),
            ("5", "with --check, an agent has failed, gave up, timed out, is invalid, or has an error"),
            USAGE,
        ],
        examples: &[
            ("agentd status", "Show all agents in a table"),
            ("agentd status --failed --check", "Show the agents that have failed, and end with 5 if there are any"),
            ("agentd status reviewer", "Show one agent, with its latest attempts"),
            ("agentd status 'rev*' writer", "Show some agents"),
            ("agentd status -w", "Show them until Ctrl-C, as things happen"),
            ("agentd status --json", "Print what the API answers"),
        ],
    },
    Topic {
        verb: "wait",
        exit: &[
            ("0", "the agent is in the state; with --exit-code, it ended with status 0"),
            ("123", "the agent cannot reach the state by itself: it has ended, its entry is wrong, or it was removed"),
            ("124", "the time of --timeout has passed"),
            ("125", "there is no such agent, or agentd does not answer"),
            ("N", "with --exit-code, the agent's own exit status, or 128 plus the number of the signal that ended it"),
            USAGE,
        ],
        examples: &[
            ("agentd wait writer", "Wait until an agent has ended for good"),
            (
                "agentd wait --exit-code --timeout 2h writer",
                "Wait at most two hours, and exit with the agent's exit status",
            ),
            ("agentd wait --for running,backoff writer", "Wait until it has been started, successfully or not"),
            ("agentd wait --for blocked fixer", "Wait until it asks a question that a person must answer"),
        ],
    },
    Topic {
        verb: "explain",
        exit: &[SHOWN, NOT_KNOWN, USAGE],
        examples: &[
            ("agentd explain reviewer", "Say why an agent does not run, and what would change that"),
            ("agentd explain --json reviewer", "The same for programs"),
        ],
    },
    Topic {
        verb: "watch",
        exit: &[("0", "it was shown until Ctrl-C, or until the agent was removed"), NOT_KNOWN, USAGE],
        examples: &[
            ("agentd watch reviewer", "Look over an agent's shoulder; Ctrl-C ends it"),
            ("agentd watch --once reviewer", "Print the screen as it is now"),
        ],
    },
    Topic {
        verb: "logs",
        exit: &[SHOWN, ("4", "there is no such agent or attempt, it has no log, or agentd does not answer"), USAGE],
        examples: &[
            ("agentd logs -f reviewer", "Print what an agent has printed, and continue as it prints more"),
            ("agentd logs -n 20 --previous reviewer", "Print the last 20 lines of the attempt before the latest"),
            ("agentd logs --since 2h -t reviewer", "Print what it has printed in the last two hours, with times"),
            ("agentd logs -f reviewer writer", "Follow two agents; each line begins with the name"),
            ("agentd logs --all-attempts reviewer", "Print all attempts that are kept"),
        ],
    },
    Topic {
        verb: "events",
        exit: &[SHOWN, NOT_KNOWN, USAGE],
        examples: &[
            ("agentd events", "Print what has happened, one event on each line"),
            ("agentd events -f --json reviewer", "Print what happens to one agent, for programs"),
        ],
    },
    Topic {
        verb: "stop",
        exit: &[ORDERED, NOT_TAKEN, NOT_ALLOWED, USAGE],
        examples: &[
            ("agentd stop reviewer", "Stop an agent within its grace period; it stays stopped"),
            ("agentd stop --wait reviewer writer", "Stop two agents, and wait until both are"),
            ("agentd stop --now reviewer", "Kill an agent at once, with everything that it started"),
        ],
    },
    Topic {
        verb: "start",
        exit: &[ORDERED, NOT_ORDERED, NOT_ALLOWED, ("123", "with --wait: it failed, or its entry is wrong"), USAGE],
        examples: &[
            ("agentd start reviewer", "Start an agent that was stopped, or run one again that has ended"),
            ("agentd start --wait reviewer", "Start it, and wait until it runs"),
        ],
    },
    Topic {
        verb: "restart",
        exit: &[ORDERED, NOT_ORDERED, NOT_ALLOWED, ("123", "with --wait: it failed, or its entry is wrong"), USAGE],
        examples: &[
            ("agentd restart reviewer", "Stop an agent within its grace period, and start it again"),
            ("agentd restart --now reviewer", "Kill it at once, and start it again"),
        ],
    },
    Topic {
        verb: "pause",
        exit: &[ORDERED, NOT_TAKEN, ("4", "agentd does not answer, or you are not allowed to do it"), USAGE],
        examples: &[("agentd pause --all", "Let nothing start from now on, and leave alone what runs")],
    },
    Topic {
        verb: "unpause",
        exit: &[ORDERED, NOT_TAKEN, ("4", "agentd does not answer, or you are not allowed to do it"), USAGE],
        examples: &[("agentd unpause --all", "Let agents start again")],
    },
    Topic {
        verb: "approvals",
        exit: &[("0", "it was printed"), USAGE, ("4", "agentd does not answer, or you are not allowed to ask")],
        examples: &[("agentd approvals", "List the questions that wait for an answer, with the ids to answer them by")],
    },
    Topic {
        verb: "approve",
        exit: &[("0", "the answer was passed on"), ANSWER_LOST, NOT_ASKED, USAGE],
        examples: &[
            ("agentd approve k7q2m4xd", "Allow what an agent asks"),
            ("agentd approve k7", "The same, if no other question begins like this"),
        ],
    },
    Topic {
        verb: "deny",
        exit: &[("0", "the answer was passed on"), ANSWER_LOST, NOT_ASKED, USAGE],
        examples: &[
            ("agentd deny k7q2m4xd", "Deny what an agent asks"),
            ("agentd deny k7q2m4xd --why 'Push to the fork.'", "Deny it, and tell the agent why"),
        ],
    },
    Topic {
        verb: "release",
        exit: &[
            ORDERED,
            ("1", "it is not held, or agentd has not taken it yet"),
            ("4", "agentd does not answer, or you are not allowed to do it"),
            USAGE,
        ],
        examples: &[
            ("agentd release reviewer", "Let an agent of its group try the credential again, and then the others"),
            ("agentd release claude-code@agent", "The same, by the name of the group"),
        ],
    },
    Topic {
        verb: "attach",
        exit: &[("0", "you detached, or the session ended"), ("1", "attaching failed"), NOT_ALLOWED, USAGE],
        examples: &[
            ("agentd attach reviewer", "Use an agent's terminal; Ctrl-b d leaves it"),
            ("agentd attach --read-only reviewer", "Only watch: no key reaches the agent"),
        ],
    },
    Topic {
        verb: "send",
        exit: &[
            ("0", "it was sent, and the agent's screen changed"),
            ("1", "it was refused, or sending failed"),
            ("3", "the agent does not run"),
            NOT_ALLOWED,
            ("6", "it was sent, but the agent's screen did not change"),
            USAGE,
        ],
        examples: &[
            ("agentd send reviewer 'Look at the failing test first.'", "Give an agent a task, as if you had typed it"),
            ("agentd send reviewer - <task.md", "Send a file, however many lines it has"),
            ("agentd send reviewer --keys Escape", "Press a key, such as the one that interrupts an agent"),
            ("agentd send reviewer --keys 'Down Enter'", "Answer a question by choosing the second entry of a menu"),
        ],
    },
    Topic {
        verb: "doctor",
        exit: &[
            ("0", "no check failed; there may be warnings"),
            ("1", "a check failed"),
            ("4", "no check failed, but some could not be made, or not by this user"),
            USAGE,
        ],
        examples: &[
            ("sudo agentd doctor", "Check everything, with a remedy for each problem"),
            ("agentd doctor -v", "Also list what is in order"),
            ("agentd doctor --json", "The same for programs"),
        ],
    },
    Topic {
        verb: "show",
        exit: &[
            SHOWN,
            ("1", "the entry is wrong; standard error says where"),
            ("4", "there is no such agent in the jcard, or the jcard cannot be read"),
            USAGE,
        ],
        examples: &[
            ("agentd show reviewer", "Show every field with its value, and the line or the default that it comes from"),
            ("agentd show --config ./jcard.toml reviewer", "The same for a file that is not in use"),
        ],
    },
    Topic {
        verb: "init",
        exit: &[("0", "everything is there"), ("1", "something could not be made; standard error says why"), USAGE],
        examples: &[
            ("agentd init", "Write a jcard to begin with, and make the folder of secrets"),
            ("agentd init --config ./jcard.toml", "Write it elsewhere"),
        ],
    },
    Topic {
        verb: "completions",
        exit: &[("0", "it was printed"), ("1", "it could not be printed"), ("2", "the shell is not known")],
        examples: &[
            ("agentd completions bash > /etc/bash_completion.d/agentd", "Install completions for bash"),
            ("agentd completions fish > ~/.config/fish/completions/agentd.fish", "Install completions for fish"),
            ("agentd completions zsh > /usr/local/share/zsh/site-functions/_agentd", "Install completions for zsh"),
        ],
    },
    Topic {
        verb: "man",
        exit: &[("0", "they were written"), ("1", "they could not be written"), USAGE],
        examples: &[("agentd man /usr/local/share/man", "Install the man pages")],
    },
];

/// The exit statuses and examples at the end of a command's long help.
pub(super) fn help(verb: &str) -> String {
    let Some(topic) = TOPICS.iter().find(|topic| topic.verb == verb) else { return String::new() };
    let exit: Vec<_> = topic.exit.iter().map(|(status, meaning)| format!("  {status:<4} {meaning}")).collect();
    let examples: Vec<_> = topic.examples.iter().map(|(line, what)| format!("  {line}\n      {what}")).collect();
    format!("Exit status:\n{}\n\nExamples:\n{}", exit.join("\n"), examples.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsString;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Arguments;

    #[test]
    fn a_planted_link_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (pages, precious) = (folder.path().join("man8"), folder.path().join("precious"));
        std::fs::create_dir(&pages).unwrap();
        std::fs::write(&precious, "kept").unwrap();
        std::os::unix::fs::symlink(&precious, pages.join("agentd.8")).unwrap();
        for _ in 0..2 {
            write(&pages).unwrap();
            assert_eq!(std::fs::read_to_string(&precious).unwrap(), "kept");
            assert!(std::fs::symlink_metadata(pages.join("agentd.8")).unwrap().is_file());
            assert!(std::fs::metadata(pages.join("jcard.toml.5")).unwrap().len() > 1000);
        }
    }

    #[test]
    fn the_docs_have_the_table_of_exit_statuses() {
        let page = include_str!("../../docs/using.md");
        let table = page.split_once("### Exit statuses").unwrap().1.split("\n## ").next().unwrap();
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        assert_eq!(rows, EXIT_STATUSES.map(|(status, meaning)| format!("| {status} | {meaning} |")));
    }

    #[test]
    fn every_command_has_a_topic_and_shows_it() {
        let mut command = Arguments::command().disable_help_subcommand(true);
        command.build();
        let mut verbs: BTreeSet<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        verbs.insert("");
        assert_eq!(verbs, TOPICS.iter().map(|topic| topic.verb).collect());
        for topic in &TOPICS {
            let command = command.find_subcommand_mut(topic.verb).map_or_else(Arguments::command, |it| it.clone());
            let said = command.clone().render_long_help().to_string();
            assert!(said.contains("Exit status:\n") && said.contains("\nExamples:\n"), "{}: {said}", topic.verb);
        }
    }

    /// The words of a command line before any redirection, as a shell splits them.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" >").next().unwrap_or_default().split(" <").next().unwrap_or_default();
        let parts = line.split('\'').enumerate();
        let words =
            parts.flat_map(|(at, part)| if at % 2 == 1 { vec![part] } else { part.split_whitespace().collect() });
        words.map(str::to_owned).collect()
    }

    #[test]
    fn every_example_is_a_command_line_of_its_topic() {
        for topic in &TOPICS {
            assert!(!topic.examples.is_empty() && topic.exit.len() >= 3, "{}", topic.verb);
            for (line, _) in topic.examples {
                let words = words(line.strip_prefix("sudo ").unwrap_or(line));
                let read =
                    Arguments::read(words.iter().map(OsString::from)).unwrap_or_else(|it| panic!("{line}: {it}"));
                let is_of_the_verb = words.get(1).is_some_and(|word| word == topic.verb);
                assert!(topic.verb.is_empty() || is_of_the_verb && read.command.is_some(), "{line}");
            }
        }
    }
}

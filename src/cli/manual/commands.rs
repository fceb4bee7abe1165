//! `agentd(8)`, and `agentd-VERB(1)` for each command.

use clap::{Arg, ArgAction, Command, CommandFactory};
use roff::{Inline, Roff, bold, italic, roman};

use super::page::{inlines, item, list, section, see_also, text, title};
use super::{EXIT_STATUSES, TOPICS, Topic};
use crate::cli::Arguments;
use crate::wire::SOCKET_VARIABLE;

const ENVIRONMENT: [(&str, &str); 8] = [
    (SOCKET_VARIABLE, "The API's socket, for commands. The daemon does not read it, and `--api-socket` wins over it."),
    (
        "CREDENTIALS_DIRECTORY",
        "The secrets, as systemd's `LoadCredential=` provides them, unless `--secret-dir` names others.",
    ),
    ("STATE_DIRECTORY", "The state, as systemd's `StateDirectory=` provides it, unless `--state-dir` names another."),
    (
        "LOGS_DIRECTORY",
        "What agents print, as systemd's `LogsDirectory=` provides it, unless `--log-dir` names another.",
    ),
    (
        "XDG_CONFIG_HOME",
        "Without root, the folder of `agentd/jcard.toml` and `agentd/secrets`; by default `~/.config`.",
    ),
    ("XDG_STATE_HOME", "Without root, the folder of `agentd`, the state; by default `~/.local/state`."),
    (
        "XDG_RUNTIME_DIR",
        "Without root, the folder of `agentd/agentd.sock` and `agentd/tmux.sock`; by default both are with the state.",
    ),
    (
        "LISTEN_FDS",
        "The API's socket, if systemd holds it. agentd also sends systemd its readiness, its status and its watchdog signals.",
    ),
];

const FILES: [(&str, &str); 9] = [
    ("/etc/stereos/jcard.toml", "What agents there are; see `jcard.toml`(5)."),
    ("/run/stereos/secrets", "The secrets, one file for each variable."),
    ("/run/stereos/agentd.sock", "The API."),
    ("/run/agentd/tmux.sock", "The tmux server of the agents."),
    ("/run/agentd-daemon/terminal.sock", "Where operators attach and send."),
    ("/var/lib/agentd-overrides", "What operators want of agents, one file for each."),
    ("/var/lib/agentd", "What the next daemon has to know, for root only."),
    ("/var/log/agentd", "What agents print, one folder for each agent."),
    ("~/.config/agentd, ~/.local/state/agentd", "The same without root."),
];

const SIGNALS: [(&str, &str); 3] = [
    ("SIGINT", "Stops the agents, each within its grace period, and then the daemon."),
    (
        "SIGTERM",
        "Does what `--on-terminate` says. By default the agents go on if systemd restarts the daemon, and stop otherwise.",
    ),
    ("SIGHUP", "Reads the jcard, the secrets and the prompts again at once."),
];

/// Every page: the name of its file, and its content.
pub(super) fn pages() -> Vec<(String, String)> {
    // Pages about how to ask for help are not useful.
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let page = |topic: &Topic| match command.find_subcommand(topic.verb) {
        Some(verb) => (format!("agentd-{}.1", topic.verb), of_verb(verb, topic).render()),
        None => ("agentd.8".to_owned(), of_daemon(&command, topic).render()),
    };
    TOPICS.iter().map(page).collect()
}

fn of_daemon(command: &Command, topic: &Topic) -> Roff {
    let mut roff = title("agentd", "8");
    name(&mut roff, "agentd", command);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text(synopsis(command));
    roff.control("br", []);
    roff.text([bold("agentd"), roman(" "), italic("COMMAND"), roman(" ...")]);
    description(&mut roff, command);
    roff.control("PP", []);
    text(
        &mut roff,
        "Flags are also understood with one dash (`-config`), as unit files of earlier daemons of this name write them.",
    );
    options(&mut roff, command);
    let verbs = command.get_subcommands().map(|verb| (format!("agentd-{}", verb.get_name()), about(verb)));
    roff.control("SH", ["COMMANDS"]);
    for (verb, about) in verbs {
        item(&mut roff, vec![bold(verb), roman("(1)")], &about);
    }
    list(&mut roff, "SIGNALS", SIGNALS);
    exit_status(&mut roff, topic);
    list(&mut roff, "EXIT STATUS OF COMMANDS", EXIT_STATUSES);
    list(&mut roff, "ENVIRONMENT", ENVIRONMENT);
    list(&mut roff, "FILES", FILES);
    examples(&mut roff, topic);
    see_also(
        &mut roff,
        ["agentd-init(1)", "agentd-status(1)", "agentd-doctor(1)", "jcard.toml(5)", "tmux(1)", "systemd.service(5)"],
    );
    roff
}

fn of_verb(verb: &Command, topic: &Topic) -> Roff {
    let full = format!("agentd-{}", topic.verb);
    let mut roff = title(&full, "1");
    name(&mut roff, &full, verb);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text(synopsis(verb));
    description(&mut roff, verb);
    options(&mut roff, verb);
    exit_status(&mut roff, topic);
    if verb.get_arguments().any(|argument| argument.get_long() == Some("api-socket")) {
        list(
            &mut roff,
            "ENVIRONMENT",
            [
                (SOCKET_VARIABLE, "The API's socket, unless `--api-socket` names one."),
                ("NO_COLOR", "If set, nothing is printed in color."),
                ("CLICOLOR_FORCE", "If set and not 0, colors are printed even into a pipe, unless `NO_COLOR` is set."),
                ("TZ", "The time zone of times on a terminal; by default that of the machine."),
            ],
        );
    }
    examples(&mut roff, topic);
    let others = TOPICS.iter().filter(|it| !it.verb.is_empty() && it.verb != topic.verb);
    let others: Vec<String> = others.map(|it| format!("agentd-{}(1)", it.verb)).collect();
    see_also(&mut roff, ["agentd(8)", "jcard.toml(5)"].into_iter().chain(others.iter().map(String::as_str)));
    roff
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn name(roff: &mut Roff, name: &str, command: &Command) {
    let mut about = about(command);
    about[..1].make_ascii_lowercase();
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {about}"))]);
}

fn value(argument: &Arg) -> String {
    argument.get_value_names().map_or_else(|| argument.get_id().to_string(), |names| names.join(" "))
}

/// How it is called: its own options, and what it is about.
fn synopsis(command: &Command) -> Vec<Inline> {
    let mut line = vec![bold(command.get_bin_name().unwrap_or("agentd"))];
    for argument in flags(command).filter(|argument| !is_of_clap(argument)) {
        let flag = match (argument.get_short(), argument.get_long()) {
            (Some(short), _) => format!("-{short}"),
            (None, long) => format!("--{}", long.unwrap_or_default()),
        };
        line.extend([roman(" ["), bold(flag)]);
        if argument.get_action().takes_values() {
            line.extend([roman(" "), italic(value(argument))]);
        }
        line.push(roman("]"));
    }
    for argument in command.get_positionals() {
        let (before, after) = if argument.is_required_set() { (" ", "") } else { (" [", "]") };
        let is_several = argument.get_num_args().is_some_and(|range| range.max_values() > 1);
        let more = if is_several { " ..." } else { "" };
        line.extend([roman(before), italic(value(argument)), roman(more), roman(after)]);
    }
    line
}

fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|argument| !argument.is_positional())
}

/// `--help` and `--version`.
fn is_of_clap(argument: &Arg) -> bool {
    !matches!(argument.get_action(), ArgAction::Set | ArgAction::SetTrue | ArgAction::Append)
}

fn description(roff: &mut Roff, command: &Command) {
    let long = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let paragraphs: Vec<String> = long.split("\n\n").map(|paragraph| sentence(&paragraph.replace('\n', " "))).collect();
    section(roff, "DESCRIPTION", &paragraphs.iter().map(String::as_str).collect::<Vec<_>>());
}

/// With a full stop, which help leaves out.
fn sentence(text: &str) -> String {
    if text.ends_with(['.', ':', ')', ']']) { text.to_owned() } else { format!("{text}.") }
}

fn options(roff: &mut Roff, command: &Command) {
    roff.control("SH", ["OPTIONS"]);
    for argument in command.get_positionals().chain(flags(command)) {
        let mut head = Vec::new();
        if argument.is_positional() {
            head.push(italic(value(argument)));
        } else {
            head.extend(argument.get_short().map(|short| bold(format!("-{short}"))));
            if let Some(long) = argument.get_long() {
                head.extend((!head.is_empty()).then(|| roman(", ")));
                head.push(bold(format!("--{long}")));
            }
            if argument.get_action().takes_values() {
                head.extend([roman(" "), italic(value(argument))]);
            }
        }
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        item(roff, head, &sentence(&help.replace('\n', " ")));
        possible_values(roff, argument);
        let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if !defaults.is_empty() && argument.get_action().takes_values() {
            roff.control("IP", []);
            text(roff, &format!("The default is `{}`.", defaults.join(",")));
        }
    }
}

fn possible_values(roff: &mut Roff, argument: &Arg) {
    // Flags have the values true and false, which are not typed.
    if !argument.get_action().takes_values() {
        return;
    }
    let values = argument.get_possible_values();
    if values.is_empty() {
        return;
    }
    roff.control("RS", []);
    for value in &values {
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        item(roff, vec![bold(value.get_name())], &sentence(&help));
    }
    roff.control("RE", []);
}

fn exit_status(roff: &mut Roff, topic: &Topic) {
    list(roff, "EXIT STATUS", topic.exit.iter().copied());
}

fn examples(roff: &mut Roff, topic: &Topic) {
    roff.control("SH", ["EXAMPLES"]);
    for (line, what) in topic.examples {
        item(roff, inlines(&format!("`{line}`")), &sentence(what));
    }
}

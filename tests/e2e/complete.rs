//! The completions that real shells offer on Tab, with the scripts that packages install.

use std::fs::{self, File};

use agentd::cli::complete;
use agentd::wire::status::State;

use crate::support::{Daemon, Setup, agent, as_user, binary, path, run, skip};

fn daemon() -> Daemon {
    let daemon = Setup::new().start(&(agent("reviewer", "sleep inf", "") + &agent("writer", "exit 0", "")));
    daemon.wait_until_running("reviewer");
    daemon.wait_for_state("writer", State::Exited);
    for (shell, name) in [("bash", "agentd.bash"), ("fish", "agentd.fish"), ("zsh", "_agentd")] {
        complete::write_script(shell, &mut File::create(daemon.path(name)).unwrap()).unwrap();
    }
    daemon
}

/// The output of a shell that runs this as `op`, with agentd in PATH. `None` if the shell is not installed, which is allowed only
/// outside CI.
fn shell(daemon: &Daemon, words: &[&str]) -> Option<String> {
    let is_there = std::env::split_paths(&path()).any(|folder| folder.join(words[0]).exists());
    if !is_there {
        skip(&format!("there is no {}", words[0]));
        return None;
    }
    let path = format!("{}:{}", binary().parent().unwrap().display(), path());
    let mut command = as_user("op", words);
    command.env("PATH", path).env("SOCKET", daemon.api_socket()).env("HOME", daemon.path("home-of-op"));
    Some(run(command.current_dir(daemon.dir())).1)
}

#[test]
fn bash_offers_commands_flags_and_known_agents() {
    let daemon = daemon();
    let complete_with = |variable: &str, words: &str| {
        let script = format!(
            "source ./agentd.bash; {variable} COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_TYPE=9
            _clap_complete_agentd agentd \"${{COMP_WORDS[-1]}}\" ''; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        shell(&daemon, &["bash", "-c", &script]).unwrap()
    };
    let complete = |words: &str| complete_with("", words);
    let offered = complete("agentd --api-socket $SOCKET wait ''");
    assert!(offered.contains("reviewer") && offered.contains("writer"), "{offered}");
    let offered = complete("agentd --api-socket $SOCKET explain wr");
    assert!(offered.contains("writer") && !offered.contains("reviewer"), "{offered}");
    assert!(complete("agentd wa").split_whitespace().any(|word| word == "watch"));
    assert!(complete("agentd wait --t").contains("--timeout"));
    let offered = complete("agentd ''");
    assert!(offered.contains("status") && !offered.contains("--"), "options are offered only after a dash: {offered}");
    assert!(complete("agentd wait --for ''").contains("backoff"));
    assert!(complete("agentd completions ''").contains("zsh"));
    let nowhere = complete("agentd --api-socket /no/where wait ''");
    assert!(!nowhere.contains("reviewer"), "{nowhere}");
    let by_variable = complete_with("export AGENTD_API_SOCKET=$SOCKET;", "agentd wait ''");
    assert!(by_variable.contains("reviewer"), "{by_variable}");
}

#[test]
fn fish_offers_the_agents_with_their_states() {
    let daemon = daemon();
    fs::create_dir_all(daemon.path("home-of-op")).unwrap();
    let script = "source ./agentd.fish; complete -C \"agentd --api-socket $SOCKET wait \"";
    let Some(offered) = shell(&daemon, &["fish", "--no-config", "-c", script]) else { return };
    assert!(offered.contains("reviewer\trunning") && offered.contains("writer\tcompleted"), "{offered}");
}

#[test]
fn zsh_offers_the_agents_on_the_first_completion() {
    let daemon = daemon();
    // The variable that the completion system would set, and the matches that it would show.
    let script =
        "fpath=(. $fpath); autoload -Uz _agentd; compdef() { : }; _describe() { print -l \"${(@P)${argv[-1]}}\" }
        words=(agentd --api-socket $SOCKET wait ''); CURRENT=5; _agentd";
    let Some(offered) = shell(&daemon, &["zsh", "-f", "-c", script]) else { return };
    assert!(offered.contains("reviewer:running") && offered.contains("writer:completed"), "{offered}");
}

#[test]
fn the_variable_of_other_programs_prints_a_script_and_starts_nothing() {
    let (code, script) = run(&mut Setup::new().agentd(&["completions", "bash"]));
    assert!(code == Some(0) && script.contains("AGENTD_COMPLETE="), "{script}");
    let usual = std::process::Command::new(binary()).env("COMPLETE", "bash").output().unwrap();
    assert_eq!((usual.status.code(), String::from_utf8(usual.stdout).unwrap()), (Some(0), script));
}

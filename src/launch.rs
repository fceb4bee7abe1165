//! The launcher: the small parent process of each agent.
//!
//! ```text
//! daemon ── tmux new-session … agentd-launcher NAME ATTEMPT SOCKET AGENTD ──▶ pane
//!
//! launcher                                  daemon
//!    ── connect ──────────────────────────▶   peer's uid and pid checked
//!    ── Hello { name, attempt } ──────────▶   attempt pending? pid the pane's? pidfd taken
//!    ◀───────────────────────── Launch ────   argv, environment, workdir, the files for what is printed
//!    ── Building ─────────────────────────▶   only if it has packages, which may take long
//!    ── Started { pid } or Failed ────────▶
//!    ◀────────────────────── Interrupt ────   SIGINT to the foreground process group; half way through the grace period again
//!    ── Activity, Quiet, … ───────────────▶   only on a change, see `reports`
//!    ── Ended { how, usage } ─────────────▶   recorded
//!    (kills what the harness left, lets the terminal drain)
//!    ◀────────────────────────── Noted ────
//!    (ends as the harness did)
//! ```
//!
//! The daemon may die at any instant. The agent does not notice: its launcher connects to the next daemon and says in its `Hello` how
//! far it has come. The launcher reports an end until it is noted, or for a minute; after that tmux still holds the status.
//!
//! Secrets travel over the socket only: they are in no argument, and in no environment but the harness's own. The launcher keeps those
//! that it redacts in the [log](crate::logs), and forgets everything else.
//!
//! The launcher runs as the agent user, so its word is no better than the agent's. It can lie about its own agent; it cannot
//! speak for another, because the daemon knows it by the process id of the pane before it sends anything, and nothing it says
//! makes the daemon act on a path or process of its choice.

pub mod ask;
pub mod asks;
mod conversation;
mod daemon_link;
mod git;
pub mod launcher;
pub mod listener;
pub mod login;
pub mod packages;
pub mod program;
pub mod protocol;
pub mod reports;
pub mod sandbox;
mod secret_files;
mod skills;
pub mod socket_dir;
pub mod stream;
pub mod tell;
pub mod temporary_dir;
pub mod terminal;
pub mod traces;

/// The hidden command that ran the launcher before it became a separate program.
///
/// It still works, for two callers. A daemon of an earlier build, whose executable was replaced while it runs, starts agents with
/// it until it is restarted. And an operator who has tmux run an old pane's command again (`respawn-pane`) gets the message that
/// no daemon expects this launcher.
pub const FORMER_COMMAND: &str = "exec";

/// The hidden command that runs an operator's shell beside the pane of an agent that has ended.
pub const SHELL_COMMAND: &str = "shell";

#[cfg(test)]
mod tests {
    use crate::agent::launch::Launch;
    use crate::sys::secret_bytes::SecretBytes;

    #[test]
    fn a_prompt_is_shown_in_full_only_on_request() {
        let launch = Launch {
            arguments: ["claude", "-p", "the plan"].map(SecretBytes::from).to_vec(),
            prompt: Some(2),
            ..Launch::of_nothing()
        };
        assert_eq!(launch.command_line(false), r#""claude" "-p" [prompt of 8 bytes]"#);
        assert_eq!(launch.command_line(true), r#""claude" "-p" "the plan""#);
        assert!(!format!("{launch:?}").contains("plan"));
    }
}

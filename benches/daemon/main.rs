//! Measures agentd from outside: the binary as a whole, with a real tmux, real processes and its real sockets.
//!
//! ```text
//! cargo bench --bench daemon                      # some three minutes; the table is on standard output
//! cargo bench --bench daemon -- --tries 3 --idle-seconds 2 --load-seconds 1      # a quick look
//! cargo bench --bench daemon -- --help
//! ```
//!
//! As root the daemon runs as root and its agents as `--user` (`nobody` unless said otherwise, whose login costs nothing: it is
//! refused), with `--admin-group` as the sockets' group; else everything runs as whoever measures. The daemon's flags are the
//! defaults, but `--settle 0ms`. The agents' harness is this very program in another role (see [`harness`]), which says when it
//! began on a clock that all processes share.
//!
//! Nothing is subtracted from what is measured, and nothing is judged: the table tells median and 99th percentile (by nearest
//! rank) of so many samples, and on what machine. Whatever else runs there shows in the figures, so let nothing else run.
//!
//! System calls and forks are counted by strace, in an idle time of their own so that it does not disturb the other figures;
//! where there is none, the forks of the whole machine stand in. Whatever is started is stopped, also after ctrl-C.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot be made is not worth going on with; the table goes to standard output"
)]

mod client;
mod daemon;
mod harness;
mod idle;
mod latency;
mod load;
mod machine;
mod process;
mod table;
mod trace;
mod wait;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::unistd::{Group, User, getegid, geteuid};

use crate::daemon::Setting;
use crate::table::{Table, Unit};

/// Measures agentd: latencies, cost of idling, memory, requests per second, size.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench daemon --", max_term_width = 100)]
struct Options {
    /// Whom agents run as, under root; a login shell of theirs takes part in what is measured
    #[arg(long, value_name = "NAME", default_value = "nobody")]
    user: String,
    /// The group of the sockets, under root [default: root's own]
    #[arg(long, value_name = "NAME")]
    admin_group: Option<String>,
    /// How often each latency is measured
    #[arg(long, value_name = "COUNT", default_value_t = 30)]
    tries: usize,
    /// How long the daemon is watched while nothing happens, once without and once with strace
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    idle_seconds: u64,
    /// How long each load of requests lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    load_seconds: u64,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if let Some(code) = harness::play() {
        return code;
    }
    let options = Options::parse();
    if !options.bench {
        eprintln!("nothing is measured: this is not an optimised build unless `cargo bench` runs it");
        return ExitCode::SUCCESS;
    }
    wait::heed_signals();
    let setting = Setting {
        binary: env!("CARGO_BIN_EXE_agentd").into(),
        user: agent_user(&options),
        group: admin_group(&options),
    };
    // What is running now is the noise in the figures, so it is told as it was before.
    let machine = machine::describe(&setting);
    let table = measure(&options, &setting);
    println!("{machine}\n{table}");
    ExitCode::SUCCESS
}

fn measure(options: &Options, setting: &Setting) -> Table {
    let mut table = Table::default();
    latency::measure(setting, options.tries, &mut table);
    idle::measure(setting, &[1, 50], Duration::from_secs(options.idle_seconds), &mut table);
    load::measure(setting, &[1, 100], &[1, 8], Duration::from_secs(options.load_seconds), &mut table);
    table.single("size of the binary", Unit::Bytes, fs::metadata(&setting.binary).unwrap().len());
    table
}

fn agent_user(options: &Options) -> User {
    let user = if geteuid().is_root() { User::from_name(&options.user) } else { User::from_uid(geteuid()) };
    user.unwrap().unwrap_or_else(|| panic!("there is no user {}; name another with --user", options.user))
}

fn admin_group(options: &Options) -> String {
    let own = || Group::from_gid(getegid()).unwrap().map(|group| group.name);
    options.admin_group.clone().or_else(own).unwrap_or_default()
}

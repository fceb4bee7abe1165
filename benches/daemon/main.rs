//! Measures agentd from outside: the binary as a whole, with a real tmux, real processes and its real sockets.
//!
//! ```text
//! cargo bench --bench daemon                      # some ten minutes; the table is on standard output
//! cargo bench --bench daemon -- --against PATH    # another agentd beside it, in turn, and the ratio
//! cargo bench --bench daemon -- --quick           # a minute: whether it works, no figures to believe
//! cargo bench --bench daemon -- --only sandboxes  # only the parts with this in their names
//! cargo bench --bench daemon -- --help
//! ```
//!
//! As root the daemon runs as root and its agents as `--user` (`nobody` unless said otherwise, whose login costs nothing: it is
//! refused), with `--admin-group` as the sockets' group; else everything runs as whoever measures. The daemon's flags are the
//! defaults, but `--settle 0ms`. The agents' harness is this very program in another role (see [`harness`]), which says when it
//! began on a clock that all processes share.
//!
//! The other binary needs only the flags and routes of the Go daemon. It gets other flags if its `--help` lists them, and the table
//! shows `—` for what it cannot do. The table also shows `—` for whatever fails, and standard error says why.
//!
//! Nothing is subtracted from the measured figures, and nothing is judged. The table has the median and the 99th percentile (by
//! nearest rank), the number of samples, and the machine. Run nothing else meanwhile: it would show in the figures.
//!
//! strace counts system calls and forks during an idle time of its own, so that it does not disturb the other figures. Without
//! strace, the forks of the whole machine stand in. The benchmark stops everything that it starts, also after Ctrl-C.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement that cannot be made is not worth going on with; the table goes to standard output"
)]

mod client;
mod daemon;
mod fanout;
mod fleet;
mod harness;
mod idle;
mod latency;
mod load;
mod machine;
mod process;
mod sandboxes;
mod size;
mod table;
mod trace;
mod wait;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use nix::unistd::{Group, User, getegid, geteuid};

use crate::daemon::Setting;
use crate::table::{Comparison, Table};

/// Measures agentd: latencies, cost of idling, memory, requests per second, size.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench daemon --", max_term_width = 100)]
struct Options {
    /// The user that agents run as, under root; the figures include the time of the user's login shell
    #[arg(long, value_name = "NAME", default_value = "nobody")]
    user: String,
    /// The group of the sockets, under root [default: root's own]
    #[arg(long, value_name = "NAME")]
    admin_group: Option<String>,
    /// Another agentd to measure beside this one
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// Few agents and little time: shows whether the measurement works
    #[arg(long)]
    quick: bool,
    /// Also how long it takes to build agentd from nothing
    #[arg(long)]
    build: bool,
    /// Only the parts with this in their names, which standard error shows as they begin
    #[arg(long, value_name = "WORD", default_value = "", hide_default_value = true)]
    only: String,
    /// How often each latency is measured
    #[arg(long, value_name = "COUNT", default_value_t = 30)]
    tries: usize,
    /// How long the idle daemon is observed, once without and once with strace
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    idle_seconds: u64,
    /// How long each load of requests lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    load_seconds: u64,
    /// Passed by cargo
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
    let of = |binary: PathBuf| Setting::new(binary, agent_user(&options), admin_group(&options));
    let this = of(env!("CARGO_BIN_EXE_agentd").into());
    let other = options.against.clone().map(of);
    // Whatever runs now disturbs the figures, so the load is read before they are taken.
    let machine = machine::describe(&this, other.as_ref());
    let mut tables = [Table::default(), Table::default()];
    let settings: Vec<&Setting> = std::iter::once(&this).chain(&other).collect();
    Run { settings, scale: Scale::of(&options), only: &options.only }.measure(&mut tables);
    let [mut table, others] = tables;
    if options.build {
        size::build(&mut table);
    }
    println!("{machine}\n{}", Comparison { this: &table, other: other.as_ref().map(|_| &others) });
    ExitCode::SUCCESS
}

/// How many of everything, and for how long.
struct Scale {
    tries: usize,
    /// Of what takes seconds each time.
    few: usize,
    agents: [usize; 3],
    /// How many of them rest.
    resting: &'static [usize],
    connections: &'static [usize],
    adopted: usize,
    clients: usize,
    /// How many of each kind are sandboxed at the same time.
    sandboxed: usize,
    idle: Duration,
    load: Duration,
}

impl Scale {
    fn of(options: &Options) -> Self {
        if options.quick {
            let second = Duration::from_secs(1);
            let (agents, connections) = ([1, 5, 10], [1, 8].as_slice());
            let resting = &[1, 5, 10];
            return Self {
                tries: 2,
                few: 1,
                agents,
                resting,
                connections,
                adopted: 5,
                clients: 10,
                sandboxed: 2,
                idle: second,
                load: second,
            };
        }
        Self {
            tries: options.tries,
            few: 3,
            agents: [1, 100, 500],
            resting: &[1, 50, 100, 500],
            connections: &[1, 8, 64],
            adopted: 100,
            clients: 100,
            sandboxed: 20,
            idle: Duration::from_secs(options.idle_seconds),
            load: Duration::from_secs(options.load_seconds),
        }
    }
}

/// The binaries, each measured in turn, and how.
struct Run<'a> {
    settings: Vec<&'a Setting>,
    scale: Scale,
    /// What is in the names of the parts that are measured.
    only: &'a str,
}

impl Run<'_> {
    fn measure(&self, tables: &mut [Table]) {
        let scale = &self.scale;
        for (what, measure) in latency::ALL {
            self.each(what, tables, |setting, table| measure(setting, scale.tries, table));
        }
        let what = format!("exit → event, each of {} clients", scale.clients);
        self.each(&what, tables, |setting, table| fanout::measure(setting, scale.clients, scale.tries, table));
        let what = format!("start after SIGKILL, {} agents", scale.adopted);
        self.each(&what, tables, |setting, table| fleet::adoption(setting, scale.adopted, 2 * scale.few, table));
        for agents in scale.agents {
            let what = format!("start and stop, {agents} agents");
            self.each(&what, tables, |setting, table| fleet::start_and_stop(setting, agents, scale.few, table));
            let [first, ..] = tables else { return };
            let bare = |table: &mut Table| fleet::bare_tmux(self.settings[0], agents, scale.few, table);
            if "bare tmux".contains(self.only) {
                guarded("bare tmux", first, bare);
            }
        }
        self.each("sandboxes", tables, |setting, table| {
            sandboxes::measure(setting, scale.tries, scale.sandboxed, table);
        });
        self.each("idle", tables, |setting, table| idle::measure(setting, scale.resting, scale.idle, table));
        for agents in scale.agents {
            let what = format!("load, {agents} agents");
            self.each(&what, tables, |setting, table| {
                load::measure(setting, agents, scale.connections, scale.load, table);
            });
        }
        self.each("size", tables, size::binary);
    }

    fn each(&self, what: &str, tables: &mut [Table], measure: impl Fn(&Setting, &mut Table)) {
        if !what.contains(self.only) {
            return;
        }
        for (setting, table) in self.settings.iter().zip(tables) {
            guarded(what, table, |table| measure(setting, table));
        }
    }
}

/// Measures one figure. If that fails, the table lacks the figure, and the other figures are still measured.
fn guarded(what: &str, table: &mut Table, measure: impl FnOnce(&mut Table)) {
    let from = Instant::now();
    eprintln!("{what}");
    if let Err(why) = catch_unwind(AssertUnwindSafe(|| measure(table))) {
        if wait::interrupted() {
            resume_unwind(why);
        }
        table.remark_missing(what, "it failed");
    }
    eprintln!("    took {:.1} s", from.elapsed().as_secs_f64());
}

fn agent_user(options: &Options) -> User {
    let user = if geteuid().is_root() { User::from_name(&options.user) } else { User::from_uid(geteuid()) };
    user.unwrap().unwrap_or_else(|| panic!("there is no user {}; name another with --user", options.user))
}

fn admin_group(options: &Options) -> String {
    let own = || Group::from_gid(getegid()).unwrap().map(|group| group.name);
    options.admin_group.clone().or_else(own).unwrap_or_default()
}

//! Counts the instructions of pure code, which shows on any machine, even a busy one, whether the code has become slower.
//!
//! ```text
//! cargo bench --profile dev --bench cost                  # compares with what is recorded, and fails if it costs more
//! cargo bench --profile dev --bench cost -- --record      # records new counts; say in the commit why they changed
//! ```
//!
//! Valgrind's callgrind counts the instructions of [`cases`]. The file `recorded.toml` beside this one has the recorded counts. A case
//! fails if its count is more than [`TOLERANCE`] percent above the record. It also fails if the count is that far below: an improvement
//! must be recorded, or it could be lost again unnoticed. Another compiler or processor makes other instructions of the same source, so
//! there a case fails only beyond [`ELSEWHERE`] percent. No case is ever skipped.
//!
//! [`GROWTH`] compares cases with each other and not with a record: how the cost grows with the number of agents.
//!
//! The code is not optimized. So the benchmark needs no build that the tests do not need, and it counts the source as written: an
//! additional copy, search or allocation shows. `benches/daemon` measures the optimized code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "what cannot be counted is a failure; what was counted goes to standard output"
)]

mod cases;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};

use serde::Deserialize;

/// How many percent a case may differ from the record.
const TOLERANCE: f64 = 5.0;

/// How many percent it may differ if another compiler, or one for another processor, built it.
const ELSEWHERE: f64 = 40.0;

/// Pairs of cases, and how many times as much as the second the first may cost.
const GROWTH: [(&str, &str, f64); 6] = [
    // Five times the agents: in proportion to them, but for the depth of a tree.
    ("plan/nothing-changed/500", "plan/nothing-changed/100", 6.0),
    ("desired/500", "desired/100", 6.0),
    ("status-body/500", "status-body/100", 6.0),
    // Unchanged agents cost only the comparison.
    ("plan/one-changed/100", "plan/nothing-changed/100", 1.1),
    ("plan/one-changed/500", "plan/nothing-changed/500", 1.05),
    // A body is handed on as it is, whatever its length.
    ("get-agents/100", "get-agents/1", 1.05),
];

/// The argument with which this program, under callgrind, does one case.
const COUNTED: &str = "--counted";

/// The path of the record.
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/cost/recorded.toml");

/// The content of the record.
#[derive(Debug, Deserialize)]
struct Record {
    compiler: String,
    instructions: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [COUNTED, name] => {
            let mut work = cases::find(name);
            // What is done only once is not counted.
            work();
            under_callgrind(&mut *work);
            ExitCode::SUCCESS
        }
        ["--record", ..] => {
            fs::write(RECORD, written(&compiler(), &count_all())).unwrap();
            println!("recorded in {RECORD}");
            ExitCode::SUCCESS
        }
        ["--bench"] => {
            let record: Record = toml::from_str(&fs::read_to_string(RECORD).unwrap()).unwrap();
            let (counts, compiler) = (count_all(), compiler());
            let complaints = judge(&record, &counts, &compiler);
            println!("{}", table(&record, &counts));
            for complaint in &complaints {
                println!("{complaint}");
            }
            if complaints.is_empty() {
                return ExitCode::SUCCESS;
            }
            println!(
                "recorded with {}, counted with {compiler}\n\
                 if it is to cost that: cargo bench --profile dev --bench cost -- --record, and say in the commit why",
                record.compiler
            );
            ExitCode::FAILURE
        }
        _ => {
            eprintln!("nothing is counted unless `cargo bench` asks for it");
            ExitCode::SUCCESS
        }
    }
}

/// Callgrind counts while this function runs, and is given its name.
#[inline(never)]
fn under_callgrind(work: &mut dyn FnMut()) {
    work();
    // Or else it would be left before the work is done.
    black_box(());
}

fn count_all() -> BTreeMap<String, u64> {
    cases::NAMES.iter().map(|&name| (name.to_owned(), count(name))).collect()
}

fn count(name: &str) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*under_callgrind*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe().unwrap())
        .args([COUNTED, name])
        .stdin(Stdio::null())
        .output()
        .expect("valgrind is to be installed: tests/need valgrind");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(file).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).expect("callgrind tells a total");
    let count = total.trim().parse().unwrap();
    assert!(count > 0, "{name}: callgrind has not seen it");
    count
}

/// The compiler that makes these instructions, and its target processor.
fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output().expect("there is a compiler").stdout;
    // Without the commit and the date.
    let version: Vec<String> = String::from_utf8(said).unwrap().split(' ').take(2).map(str::to_owned).collect();
    format!("{} for {}", version.join(" "), std::env::consts::ARCH)
}

/// The message about what is wrong.
fn judge(record: &Record, counts: &BTreeMap<String, u64>, compiler: &str) -> Vec<String> {
    let tolerance = if record.compiler == compiler { TOLERANCE } else { ELSEWHERE };
    let mut complaints = Vec::new();
    for (name, &count) in counts {
        match record.instructions.get(name) {
            None => complaints.push(format!("{name} is not recorded")),
            Some(&before) => {
                let change = percent(count, before);
                if change.abs() > tolerance {
                    let verb = if change > 0.0 { "more than" } else { "other than" };
                    complaints
                        .push(format!("{name} costs {verb} recorded: {change:+.1} %, where {tolerance} % may be"));
                }
            }
        }
    }
    let gone = record.instructions.keys().filter(|&name| !counts.contains_key(name));
    complaints.extend(gone.map(|name| format!("{name} is recorded, but there is no such case")));
    for (large, small, most) in GROWTH {
        let times = ratio(counts[large], counts[small]);
        if times > most {
            complaints.push(format!("{large} costs {times:.2} times what {small} does; {most} is the most"));
        }
    }
    complaints
}

fn table(record: &Record, counts: &BTreeMap<String, u64>) -> String {
    let mut text = format!("{:28} {:>12} {:>12}\n", "instructions", "recorded", "now");
    for (name, &count) in counts {
        let before = record.instructions.get(name);
        let change = before.map(|&before| format!("{:+6.1} %", percent(count, before))).unwrap_or_default();
        let before = before.map(ToString::to_string).unwrap_or_default();
        writeln!(text, "{name:28} {before:>12} {count:>12} {change}").unwrap();
    }
    text
}

#[allow(clippy::cast_precision_loss, reason = "nobody counts that far")]
fn ratio(one: u64, other: u64) -> f64 {
    one as f64 / other as f64
}

fn percent(now: u64, before: u64) -> f64 {
    (ratio(now, before) - 1.0) * 100.0
}

fn written(compiler: &str, counts: &BTreeMap<String, u64>) -> String {
    let mut text = format!(
        "# Instructions, as callgrind counts them; see main.rs beside this file, which also writes it.\n\
         compiler = \"{compiler}\"\n\n[instructions]\n"
    );
    for (name, count) in counts {
        writeln!(text, "\"{name}\" = {count}").unwrap();
    }
    text
}

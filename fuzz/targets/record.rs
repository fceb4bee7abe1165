//! Fuzzes records: whatever the state directory holds is set aside or becomes agents. The API, the command line and the next daemon can
//! read what is said about them, and they continue without a defect whatever happens next.
//!
//! An input is what is on record of an agent, its history, and a script of what happens then, separated by 0xff. The first two are put
//! into documents of this version and boot unless they begin with an exclamation mark.

#![no_main]

mod life;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use agentd::agent::machine::Machine;
use agentd::agent::name::Key;
use agentd::observe::snapshot::{Parts, Snapshot};
use agentd::state::history::{self, Histories, History};
use agentd::state::record::{Reading, Record, Recorder};
use agentd::wire::status::Errors;
use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use life::{Life, check_metrics, check_snapshot};

/// The most steps of a script, for the sake of speed.
const MOST_STEPS: usize = 60;

/// How many of its attempts an agent's history keeps.
const MOST_KEPT: usize = 50;

fuzz_target!(|input: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().enable_all().build().expect("there can be one"));
    let mut parts = input.split(|&byte| byte == 0xff);
    let mut next = || parts.next().unwrap_or_default();
    let (agent, history, script) = (next(), next(), next());
    let state_dir = std::env::temp_dir().join(format!("agentd-fuzz-{}", std::process::id()));
    drop(fs::remove_dir_all(&state_dir));

    let record = Record::new(&state_dir).expect("there is a boot id");
    let boot = fs::read("/proc/sys/kernel/random/boot_id").expect("likewise");
    write(&state_dir.join("agents"), &String::from_utf8_lossy(boot.trim_ascii()), agent);
    let machines = read(&record, |machine: &Machine| machine.name().key());
    let lasting = Record::lasting(&state_dir, history::FOLDER);
    write(&state_dir.join(history::FOLDER), "", history);
    let read_histories = read(&lasting, |history: &History| history.agent().clone());

    let most = (16 << 10) + 12 * input.len();
    let statuses = || machines.iter().map(Machine::status).collect();
    let parts = Parts::new(statuses(), Instant::now(), Errors::default());
    let snapshot = runtime.block_on(async {
        let by_key = read_histories.into_iter().map(|history| (history.agent().clone(), history)).collect();
        let histories = Histories::new(by_key, Recorder::new(lasting, drop));
        let parts = Parts { histories: histories.of([key()].iter()), ..parts };
        histories.finish(Duration::from_secs(10)).await;
        Snapshot::from(parts)
    });
    let whole = snapshot.agent_in_full(&key());
    assert!(whole.is_none_or(|agent| agent.history.len() <= MOST_KEPT));
    check_snapshot(&snapshot, most);
    check_metrics(snapshot, 16 << 10);

    for machine in machines {
        let mut life = Life::of(machine, input.len());
        life.resume();
        script.iter().take(MOST_STEPS).for_each(|&byte| life.act(byte));
    }
});

fn write(folder: &Path, boot: &str, text: &[u8]) {
    let document = text.strip_prefix(b"!").map_or_else(
        || [format!(r#"{{"version":1,"boot":"{boot}","agent":"#).as_bytes(), text, b"}"].concat(),
        <[u8]>::to_vec,
    );
    fs::create_dir_all(folder).expect("folders can be made");
    fs::write(folder.join("a.json"), document).expect("files can be written");
}

/// What can be used. What cannot is gone, or put aside with a reason that fits on a line, and is read no more.
fn key() -> Key {
    "A".parse().expect("it is a name")
}

fn read<T: DeserializeOwned>(record: &Record, key_of: impl Fn(&T) -> Key) -> Vec<T> {
    let Reading { agents, problems } = record.read(&key_of);
    assert!(agents.len() + problems.len() <= 1 && agents.keys().all(|key| *key == self::key()));
    for problem in &problems {
        let told = problem.to_string();
        assert!(told.len() < 1000 && !told.contains(agentd::text::printable::acts), "{told:?}");
    }
    let again = record.read(key_of);
    assert!(again.problems.is_empty() && again.agents.len() == agents.len());
    agents.into_values().collect()
}

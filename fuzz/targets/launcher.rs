//! Fuzzes launchers: whatever a launcher sends, in whatever order, and whatever happens meanwhile, the state of its agent can be
//! described and recorded, its past events lie in the past, and the agent's policy is kept.
//!
//! The first byte of an input selects the policy. The rest is separated by 0xff: a message in JSON, or, after a zero byte, a script of
//! what else happens.

#![no_main]

mod life;

use std::time::{Duration, Instant};

use agentd::agent::machine::{Event, Machine};
use agentd::launch::protocol::{FromLauncher, MAX_FROM_LAUNCHER};
use agentd::observe::snapshot::Snapshot;
use agentd::supervisor::attempt::told;
use agentd::wire::exit_status::ExitStatus;
use agentd::wire::status::Errors;
use libfuzzer_sys::fuzz_target;

use life::{Life, check_metrics, check_snapshot, declaration};

/// The most characters of what a launcher says that are shown.
const MOST_WORDS: usize = 2000;

/// The most steps of one script, for the sake of speed.
const MOST_STEPS: usize = 20;

fuzz_target!(|input: &[u8]| {
    let Some((&policy, rest)) = input.split_first() else { return };
    let Ok(name) = "a".try_into() else { return };
    // What is shown is bounded whatever was said.
    let mut life = Life::of(Machine::new(name), 4 * MOST_WORDS);
    let declaration = declaration(policy & 0x0f);
    let most_restarts = declaration.policy.max_restarts;
    life.tell(Event::Declare(declaration));
    for part in rest.split(|&byte| byte == 0xff).filter(|part| part.len() <= MAX_FROM_LAUNCHER) {
        if let [0, script @ ..] = part {
            // Under another declaration it would be another policy.
            let is_of_policy = |byte: &&u8| !matches!(*byte & 0x0f, 10 | 11);
            script.iter().filter(is_of_policy).take(MOST_STEPS).for_each(|&byte| life.act(byte));
        } else if let Ok(message) = serde_json::from_slice::<FromLauncher>(part) {
            for event in told(message, life.attempt(), life.now) {
                life.tell(event);
                check(&life, most_restarts);
            }
        }
    }
    let snapshot = Snapshot::new(vec![life.machine.status()], Instant::now(), Errors::default());
    check_snapshot(&snapshot, 256 << 10);
    check_metrics(snapshot, 16 << 10);
});

fn check(life: &Life, most_restarts: Option<u64>) {
    let status = life.machine.status();
    assert!(most_restarts.is_none_or(|most| status.restarts <= most), "{status:?}");
    // The wall clock shows whole seconds here, and nothing was set.
    let now = life.now.wall() + Duration::from_nanos(1);
    assert!(status.started_at.is_none_or(|at| at.0 < now), "{status:?}");
    let words = |text: &String| text.chars().count() <= MOST_WORDS + 200;
    assert!([&status.error, &status.reason, &status.environment_error].into_iter().flatten().all(words), "{status:?}");
    let Some(exit) = &status.exit else { return };
    assert!(exit.at.0 < now, "{status:?}");
    match &exit.how {
        ExitStatus::Code(code) => assert!((0..=255).contains(code)),
        ExitStatus::Signal(signal) => assert!((1..=64).contains(&signal.number()), "{signal}"),
        ExitStatus::Cause(cause) => assert!(words(cause) && !cause.contains(char::is_control), "{cause:?}"),
    }
}

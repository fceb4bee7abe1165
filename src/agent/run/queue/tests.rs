//! Tests of the queue.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn id(text: &str) -> RunId {
    text.parse().unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn allowed(at_once: u32, waiting: u32) -> Allowance {
    Allowance { at_once, waiting, is_ready: true }
}

/// The queue with these tasks of `a`, on record, in this order of arrival.
fn queue(ids: &[&str]) -> Queue {
    let mut queue = Queue::default();
    for (number, text) in ids.iter().enumerate() {
        let run = queue.offer(&name("a"), &id(text), at(number as u64), false, allowed(1, 100), None).unwrap();
        assert_eq!(queue.recorded(&run.key(), true), Some(Turn::Waits));
    }
    queue
}

fn begun(queue: &mut Queue, at_once: u32, places: Option<u32>) -> Vec<String> {
    let begun = queue.give_places(|_| Some(allowed(at_once, 100)), places);
    begun.iter().map(ToString::to_string).collect()
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// Brings a run that begins to its end.
fn finish(queue: &mut Queue, run: &str) {
    let run = key(run);
    assert_eq!(queue.begun(&run), Some(Turn::Starts));
    assert_eq!(queue.over(&run, Outcome::Completed), Some(Outcome::Completed));
    queue.ended(&run);
    queue.remove(&run);
    assert_eq!(queue.phase(&run), None);
}

#[test]
fn runs_begin_in_the_order_of_their_arrival_as_places_become_free() {
    let mut queue = queue(&["z", "y", "x", "w"]);
    assert_eq!(begun(&mut queue, 2, None), ["a/z", "a/y"]);
    assert_eq!(begun(&mut queue, 2, None), [""; 0]);
    finish(&mut queue, "a+y");
    assert_eq!(begun(&mut queue, 2, None), ["a/x"]);
    assert_eq!((queue.placed(&key("a")), queue.unplaced(&key("a"))), (2, 1));
}

#[test]
fn runs_that_arrived_together_begin_in_the_order_of_their_names() {
    let mut queue = Queue::default();
    for text in ["c", "a", "b"] {
        let run = queue.offer(&name("t"), &id(text), at(5), false, allowed(1, 9), None).unwrap();
        queue.recorded(&run.key(), true);
    }
    assert_eq!(begun(&mut queue, 3, None), ["t/a", "t/b", "t/c"]);
}

#[test]
fn the_machine_has_places_for_the_first_of_all_templates() {
    let mut queue = Queue::default();
    for (number, (agent, text)) in [("b", "1"), ("a", "1"), ("b", "2"), ("a", "2")].into_iter().enumerate() {
        let run = queue.offer(&name(agent), &id(text), at(number as u64), false, allowed(9, 9), None).unwrap();
        queue.recorded(&run.key(), true);
    }
    assert_eq!(begun(&mut queue, 9, Some(3)), ["b/1", "a/1", "b/2"]);
    assert_eq!(begun(&mut queue, 9, Some(3)), [""; 0]);
}

#[test]
fn a_template_that_is_not_ready_gives_no_places() {
    let mut queue = queue(&["1"]);
    assert!(queue.give_places(|_| None, None).is_empty());
    let stopped = Allowance { is_ready: false, ..allowed(1, 9) };
    assert!(queue.give_places(|_| Some(stopped), None).is_empty());
    assert_eq!(begun(&mut queue, 1, None), ["a/1"]);
}

#[test]
fn an_id_is_used_once() {
    let mut queue = queue(&["One"]);
    let mut offer = |text, is_used| queue.offer(&name("A"), &id(text), at(9), is_used, allowed(1, 9), None).map(drop);
    assert_eq!(offer("oNE", false), Err(Refusal::UnderWay));
    assert_eq!(offer("two", true), Err(Refusal::Used));
    assert_eq!(offer("two", false), Ok(()));
}

#[test]
fn a_task_is_refused_once_as_many_wait_as_may() {
    let mut queue = Queue::default();
    let mut offer = |text| queue.offer(&name("a"), &id(text), at(1), false, allowed(2, 1), None).map(drop);
    // Two have places, and one waits.
    assert_eq!((offer("1"), offer("2"), offer("3")), (Ok(()), Ok(()), Ok(())));
    assert_eq!(offer("4"), Err(Refusal::Full { waiting: 3 }));
}

#[test]
fn without_a_line_a_task_is_refused_when_all_places_are_taken() {
    let mut queue = Queue::default();
    let run = queue.offer(&name("a"), &id("1"), at(1), false, allowed(1, 0), None).unwrap();
    queue.recorded(&run.key(), true);
    queue.give_places(|_| Some(allowed(1, 0)), None);
    let offer = queue.offer(&name("a"), &id("2"), at(2), false, allowed(1, 0), None);
    assert_eq!(offer, Err(Refusal::Full { waiting: 0 }));
}

#[test]
fn a_run_is_cancelled_wherever_it_is() {
    let cancelled = Outcome::Cancelled;
    let mut waits = queue(&["1"]);
    assert_eq!(waits.doom(&key("a+1"), cancelled), Some(Turn::Ends(cancelled)));
    assert_eq!(begun(&mut waits, 1, None), [""; 0]);

    let mut begins = queue(&["1"]);
    begun(&mut begins, 1, None);
    assert_eq!(begins.doom(&key("a+1"), cancelled), None);
    assert_eq!(begins.begun(&key("a+1")), Some(Turn::Ends(cancelled)));

    let mut lives = queue(&["1"]);
    begun(&mut lives, 1, None);
    lives.begun(&key("a+1"));
    assert_eq!(lives.doom(&key("a+1"), cancelled), Some(Turn::Starts));
    assert_eq!(lives.doom(&key("a+1"), cancelled), None, "once is enough");
    assert_eq!(lives.over(&key("a+1"), Outcome::Completed), Some(cancelled), "a stop that agentd made decides");
    assert_eq!(lives.doom(&key("a+1"), cancelled), None);

    let mut records = Queue::default();
    records.offer(&name("a"), &id("1"), at(1), false, allowed(1, 1), None).unwrap();
    assert_eq!(records.doom(&key("a+1"), cancelled), None);
    assert_eq!(records.recorded(&key("a+1"), true), Some(Turn::Ends(cancelled)));
}

#[test]
fn a_run_that_could_not_be_put_on_record_keeps_its_place_in_line() {
    let mut queue = queue(&["1", "2"]);
    begun(&mut queue, 1, None);
    assert_eq!(queue.not_begun(&key("a+1")), Some(Turn::Waits));
    assert_eq!(begun(&mut queue, 1, None), ["a/1"]);
}

#[test]
fn a_held_run_gives_its_place_back_and_waits_for_another() {
    let mut queue = queue(&["1", "2"]);
    begun(&mut queue, 1, None);
    queue.begun(&key("a+1"));
    queue.hold(&key("a+1"), true);
    assert_eq!(begun(&mut queue, 1, None), ["a/2"]);
    assert!(!queue.has_room_for(&key("a+1"), Some(allowed(1, 9)), None));
    finish(&mut queue, "a+2");
    assert!(queue.has_room_for(&key("a+1"), Some(allowed(1, 9)), None));
    assert!(!queue.has_room_for(&key("a+1"), Some(allowed(1, 9)), Some(0)));
}

/// What can happen to a queue.
#[derive(Clone, Copy, Debug)]
enum Act {
    Offer(u8),
    Recorded(u8),
    NotRecorded(u8),
    Give,
    Begun(u8),
    NotBegun(u8),
    Over(u8),
    Cancel(u8),
    Hold(u8, bool),
    Ended(u8),
    Remove(u8),
    /// The daemon is killed, and another one reads what is on record.
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let run = || 0..12_u8;
    let act = prop_oneof![
        4 => run().prop_map(Act::Offer),
        4 => run().prop_map(Act::Recorded),
        1 => run().prop_map(Act::NotRecorded),
        4 => Just(Act::Give),
        4 => run().prop_map(Act::Begun),
        1 => run().prop_map(Act::NotBegun),
        4 => run().prop_map(Act::Over),
        1 => run().prop_map(Act::Cancel),
        1 => (run(), any::<bool>()).prop_map(|(run, held)| Act::Hold(run, held)),
        3 => run().prop_map(Act::Ended),
        3 => run().prop_map(Act::Remove),
        1 => Just(Act::Restart),
    ];
    proptest::collection::vec(act, 0..200)
}

proptest! {
    #[test]
    fn a_taken_run_ends_once_and_never_are_more_placed_than_may(acts in acts(), at_once in 1..4_u32, places in 1..4_u32) {
        let allowance = allowed(at_once, 4);
        let mut queue = Queue::default();
        // What is on disk: which tasks are on record, which begun, which machines are held or over, and the ledger.
        let (mut on_record, mut begun, mut ledger) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut held, mut over) = (BTreeSet::new(), BTreeSet::new());
        let of = |run: u8| (name("a"), id(&format!("r{run}")));
        let key_of = |run: u8| { let (agent, id) = of(run); agent.of_run(&id).key() };
        for act in acts {
            match act {
                Act::Offer(run) => {
                    let (agent, id) = of(run);
                    let _ = queue.offer(&agent, &id, at(run.into()), ledger.contains(&run), allowance, Some(places));
                }
                Act::Recorded(run) => {
                    if queue.phase(&key_of(run)) == Some(Phase::Recording) {
                        on_record.insert(run);
                    }
                    queue.recorded(&key_of(run), true);
                }
                Act::NotRecorded(run) => queue.forget(&key_of(run)),
                Act::Give => {
                    let line: Vec<Key> = queue.lines().flat_map(|(_, line)| line.iter().map(|(_, key)| key.clone())).collect();
                    let names = queue.give_places(|_| Some(allowance), Some(places));
                    let begins: Vec<Key> = names.iter().map(Name::key).collect();
                    prop_assert_eq!(&begins[..], &line[..begins.len()], "first come, first served");
                }
                Act::Begun(run) => {
                    if queue.phase(&key_of(run)) == Some(Phase::Beginning) {
                        begun.insert(run);
                    }
                    queue.begun(&key_of(run));
                }
                Act::NotBegun(run) => _ = queue.not_begun(&key_of(run)),
                Act::Over(run) => {
                    if queue.over(&key_of(run), Outcome::Completed).is_some() {
                        over.insert(run);
                    }
                }
                Act::Cancel(run) => _ = queue.doom(&key_of(run), Outcome::Cancelled),
                Act::Hold(run, is_held) => {
                    if is_held || queue.has_room_for(&key_of(run), Some(allowance), Some(places)) {
                        if matches!(queue.phase(&key_of(run)), Some(Phase::Live { .. })) {
                            if is_held { held.insert(run); } else { held.remove(&run); }
                        }
                        queue.hold(&key_of(run), is_held);
                    }
                }
                Act::Ended(run) => {
                    if matches!(queue.phase(&key_of(run)), Some(Phase::Ending(_))) {
                        prop_assert!(ledger.insert(run), "{} has ended twice", run);
                    }
                    queue.ended(&key_of(run));
                }
                Act::Remove(run) => {
                    if queue.phase(&key_of(run)) == Some(Phase::Ended) {
                        on_record.remove(&run);
                        begun.remove(&run);
                        (held.remove(&run), over.remove(&run));
                    }
                    queue.remove(&key_of(run));
                }
                Act::Restart => {
                    queue = Queue::default();
                    for &run in &on_record {
                        let (agent, id) = of(run);
                        let phase = match () {
                            () if ledger.contains(&run) => Phase::Ended,
                            () if over.contains(&run) => Phase::Ending(Outcome::Completed),
                            () if begun.contains(&run) => Phase::Live { is_held: held.contains(&run) },
                            () => Phase::Waiting { is_free: true },
                        };
                        queue.restore(&agent, &id, at(run.into()), phase);
                    }
                }
            }
            let placed = queue.runs().filter(|(_, _, phase)| phase.has_place()).count();
            let unplaced = queue.runs().filter(|(_, _, phase)| phase.is_unplaced()).count();
            prop_assert!(placed <= at_once.min(places) as usize, "{} have places", placed);
            prop_assert_eq!((queue.all_placed() as usize, queue.unplaced(&key("a")) as usize), (placed, unplaced));
            let in_line = queue.lines().flat_map(|(_, line)| line).count();
            let waiting = |phase| phase == Phase::Waiting { is_free: true };
            prop_assert_eq!(in_line, queue.runs().filter(|(_, _, phase)| waiting(*phase)).count());
        }
        // Left alone, everything that was taken comes to an end.
        for _ in 0..100 {
            for name in queue.give_places(|_| Some(allowance), Some(places)) {
                queue.begun(&name.key());
            }
            let all: Vec<(Key, Phase)> = queue.runs().map(|(key, _, phase)| (key.clone(), phase)).collect();
            for (key, phase) in all {
                match phase {
                    Phase::Recording => _ = queue.recorded(&key, true),
                    Phase::Beginning => _ = queue.begun(&key),
                    Phase::Live { is_held } => {
                        if is_held && queue.has_room_for(&key, Some(allowance), Some(places)) {
                            queue.hold(&key, false);
                        } else if !is_held {
                            queue.over(&key, Outcome::Completed);
                        }
                    }
                    Phase::Ending(_) => queue.ended(&key),
                    Phase::Ended => queue.remove(&key),
                    Phase::Waiting { .. } => {}
                }
            }
        }
        prop_assert_eq!(queue.runs().count(), 0);
    }
}

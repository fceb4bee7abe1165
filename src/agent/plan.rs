//! Plans: tasks that are given together, some of which come after others. Pure.
//!
//! A task becomes a run as soon as those that it names have completed, or ended: there is no barrier between layers. If one of them has
//! failed, it is skipped, and so is what comes after it, so that nothing waits for ever.

use std::collections::BTreeMap;

use crate::agent::after::{Awaited, Condition, Unmet, closings, layers};
use crate::agent::name::{Name, RunId};
use crate::sys::secret_bytes::SecretBytes;
use crate::wire::after::in_words;
use crate::wire::plan::{PlanStatus, PlanTaskStatus};
use crate::wire::reason::WaitingFor;
use crate::wire::status::{Outcome, State, Time};

/// The most tasks of a plan.
pub const MOST_TASKS: usize = 1_000;

/// The largest plan that is read, in bytes. The reader of the file must refuse a larger one.
pub const MAX_SIZE: u64 = 4 << 20;

/// The most tasks that are listed of those that one waits for.
const MOST_LISTED: usize = 16;

/// The most characters that are kept of why a task has ended.
const MOST_OF_REASON: usize = 256;

/// What names a plan among others. It has the form of the id of a run.
pub type PlanId = RunId;

/// A plan that can be carried out: its tasks come after each other in some order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    name: Option<String>,
    stop_on_failure: bool,
    tasks: Vec<PlanTask>,
    /// The layer of each task, from 0.
    layers: Vec<usize>,
    /// The tasks, each after those that it comes after.
    order: Vec<usize>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanTask {
    /// The id of its run.
    pub id: RunId,
    /// The template.
    pub agent: Name,
    /// What is to be done.
    pub prompt: SecretBytes,
    /// What comes before it.
    pub after: Vec<Upstream>,
    /// What its run can be selected by.
    pub labels: BTreeMap<String, String>,
}

/// A task that comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its place in the plan.
    pub task: usize,
    /// What must become of it: [`Condition::Completed`], or [`Condition::Ended`].
    pub condition: Condition,
}

impl Upstream {
    /// Whether that has become of a task that ended like this.
    fn is_met_by(self, outcome: Outcome) -> bool {
        self.condition == Condition::Ended || outcome == Outcome::Completed
    }
}

/// What has become of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It is no run yet.
    Waiting,
    /// It is a run in this state.
    UnderWay(State),
    /// It is over.
    Over {
        /// How it ended.
        outcome: Outcome,
        /// The same as a sentence for people.
        reason: Option<String>,
        /// Whether it was a run.
        was_run: bool,
    },
}

impl TaskState {
    fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Over { outcome, .. } => Some(*outcome),
            Self::Waiting | Self::UnderWay(_) => None,
        }
    }
}

/// What is to be done about a task. The numbers are places in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a run of it.
    Start(usize),
    /// It is over, and never was a run.
    Leave {
        /// Which.
        task: usize,
        /// [`Outcome::Skipped`] or [`Outcome::Cancelled`].
        outcome: Outcome,
        /// Why, as a sentence for people.
        reason: String,
    },
}

impl Plan {
    /// A plan of these tasks, unless they wait for each other, for none of the plan, or for a condition that no task can meet.
    pub fn new(name: Option<String>, stop_on_failure: bool, tasks: Vec<PlanTask>) -> Option<Self> {
        let edges = edges(&tasks);
        let is_possible = |upstream: &Upstream| {
            upstream.task < tasks.len() && matches!(upstream.condition, Condition::Completed | Condition::Ended)
        };
        let is_good = tasks.iter().flat_map(|task| &task.after).all(is_possible) && closings(&edges).is_empty();
        if !is_good {
            return None;
        }
        let layers = layers(&edges);
        let mut order: Vec<usize> = (0..tasks.len()).collect();
        order.sort_by_key(|&task| layers[task]);
        Some(Self { name, stop_on_failure, tasks, layers, order })
    }

    /// What it calls itself.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether the tasks that wait are cancelled once one has failed.
    pub fn stops_on_failure(&self) -> bool {
        self.stop_on_failure
    }

    /// Its tasks, in the order of the file.
    pub fn tasks(&self) -> &[PlanTask] {
        &self.tasks
    }

    /// Its tasks by layer, those of a layer in the order of the file.
    pub fn layers(&self) -> Vec<Vec<usize>> {
        let count = self.layers.iter().max().map_or(0, |last| last + 1);
        let mut all = vec![Vec::new(); count];
        for (task, &layer) in self.layers.iter().enumerate() {
            all[layer].push(task);
        }
        all
    }

    /// What is to be done now, those that start in the order of the file. `states` are those of its tasks, in that order; a task without
    /// one waits.
    ///
    /// What is to be left is decided to the end: whatever came after it is left, too.
    pub fn decide(&self, states: &[TaskState]) -> Vec<Step> {
        let state = |task: usize| states.get(task).unwrap_or(&TaskState::Waiting);
        let stop = self.stop_on_failure.then(|| Self::failure(states)).flatten();
        let causes = self.causes(states);
        let (mut steps, mut starts) = (Vec::new(), Vec::new());
        for &task in &self.order {
            if *state(task) != TaskState::Waiting {
                continue;
            }
            match (&causes[task], stop) {
                (Some(cause), _) => {
                    let reason = self.why_skipped(cause, states);
                    steps.push(Step::Leave { task, outcome: Outcome::Skipped, reason });
                }
                (None, Some(failed)) => {
                    let reason = format!("{}, and the plan stops on a failure", self.ended(failed, states));
                    steps.push(Step::Leave { task, outcome: Outcome::Cancelled, reason });
                }
                (None, None) => {
                    let is_met = |upstream: &Upstream| {
                        state(upstream.task).outcome().is_some_and(|outcome| upstream.is_met_by(outcome))
                            || causes[upstream.task].is_some() && upstream.is_met_by(Outcome::Skipped)
                    };
                    if self.tasks[task].after.iter().all(is_met) {
                        starts.push(task);
                    }
                }
            }
        }
        starts.sort_unstable();
        steps.extend(starts.into_iter().map(Step::Start));
        steps
    }

    /// What is to be done about the tasks that are no runs yet once the plan is no longer wanted. Its runs are for the caller to cancel.
    pub fn cancel(&self, states: &[TaskState]) -> Vec<Step> {
        let waiting = (0..self.tasks.len()).filter(|&task| matches!(states.get(task), None | Some(TaskState::Waiting)));
        let reason = || "its plan was removed".to_owned();
        waiting.map(|task| Step::Leave { task, outcome: Outcome::Cancelled, reason: reason() }).collect()
    }

    /// Why each task that waits, or was skipped, is skipped: the task that it comes after and that has ended otherwise, and what that goes
    /// back to.
    fn causes(&self, states: &[TaskState]) -> Vec<Option<Cause>> {
        let mut causes: Vec<Option<Cause>> = vec![None; self.tasks.len()];
        for &task in &self.order {
            let is_left = match states.get(task) {
                None | Some(TaskState::Waiting) => true,
                Some(state) => state.outcome() == Some(Outcome::Skipped),
            };
            if !is_left {
                continue;
            }
            causes[task] = self.tasks[task].after.iter().find_map(|upstream| {
                let other = upstream.task;
                let is_skipped = causes[other].is_some();
                let outcome = states.get(other).and_then(TaskState::outcome);
                let outcome = outcome.or(is_skipped.then_some(Outcome::Skipped))?;
                let root = causes[other].as_ref().map_or(other, |cause| cause.root);
                (!upstream.is_met_by(outcome)).then_some(Cause { task: other, root })
            });
        }
        causes
    }

    fn why_skipped(&self, cause: &Cause, states: &[TaskState]) -> String {
        let root = self.ended(cause.root, states);
        if cause.task == cause.root { root } else { format!("{} was skipped: {root}", self.tasks[cause.task].id) }
    }

    /// The first task that has failed.
    fn failure(states: &[TaskState]) -> Option<usize> {
        let is_failure = |outcome| match outcome {
            Outcome::Failed | Outcome::TimedOut | Outcome::GaveUp | Outcome::Refused | Outcome::Interrupted => true,
            Outcome::Completed | Outcome::Cancelled | Outcome::Skipped => false,
        };
        states.iter().position(|state| state.outcome().is_some_and(is_failure))
    }

    /// How a task has ended, as a sentence: `lint failed: exited with status 1`.
    fn ended(&self, task: usize, states: &[TaskState]) -> String {
        let id = &self.tasks[task].id;
        let Some(TaskState::Over { outcome, reason, .. }) = states.get(task) else {
            return format!("{id} is not over");
        };
        let how = match outcome {
            Outcome::Completed | Outcome::Failed | Outcome::TimedOut | Outcome::GaveUp => in_words(*outcome).to_owned(),
            Outcome::Cancelled | Outcome::Skipped | Outcome::Refused | Outcome::Interrupted => {
                format!("was {}", outcome.word())
            }
        };
        let reason: Option<String> = reason.as_ref().map(|reason| reason.chars().take(MOST_OF_REASON).collect());
        reason.map_or_else(|| format!("{id} {how}"), |reason| format!("{id} {how}: {reason}"))
    }

    /// What a task still waits for.
    pub fn unmet(&self, task: usize, states: &[TaskState]) -> Unmet {
        let left = |upstream: &Upstream| {
            let state = states.get(upstream.task).unwrap_or(&TaskState::Waiting);
            let name = self.tasks[upstream.task].id.to_string();
            let condition = upstream.condition;
            let (state, outcome, reason) = match state {
                TaskState::Over { outcome, .. } if upstream.is_met_by(*outcome) => return None,
                TaskState::Over { outcome, reason, .. } => (State::Exited, Some(*outcome), reason.clone()),
                TaskState::UnderWay(state) => (*state, None, None),
                TaskState::Waiting => (State::Waiting, None, None),
            };
            let reason = reason.map(|reason| reason.chars().take(MOST_OF_REASON).collect());
            Some(Awaited { name, condition, state: Some(state), outcome, reason, stuck: outcome.is_some() })
        };
        let mut agents: Vec<Awaited> =
            self.tasks.get(task).into_iter().flat_map(|task| &task.after).filter_map(left).collect();
        agents.sort_by_key(|agent| !agent.stuck);
        let more = u64::try_from(agents.len().saturating_sub(MOST_LISTED)).unwrap_or(u64::MAX);
        agents.truncate(MOST_LISTED);
        Unmet { agents, more }
    }

    /// The state of the plan as a whole, and how it ended.
    pub fn progress(&self, states: &[TaskState]) -> (State, Option<Outcome>) {
        let state = |task: usize| states.get(task).unwrap_or(&TaskState::Waiting);
        let all = || (0..self.tasks.len()).map(state);
        if all().all(|state| *state == TaskState::Waiting) {
            return (State::Waiting, None);
        }
        if all().any(|state| state.outcome().is_none()) {
            return (State::Running, None);
        }
        let outcome = if Self::failure(states).is_some() {
            Outcome::Failed
        } else if all().all(|state| state.outcome() == Some(Outcome::Completed)) {
            Outcome::Completed
        } else {
            Outcome::Cancelled
        };
        (State::Exited, Some(outcome))
    }

    /// The plan as the API shows it.
    pub fn status(&self, taken: &Taken, states: &[TaskState]) -> PlanStatus {
        let (state, outcome) = self.progress(states);
        let after = |upstream: &Upstream| match upstream.condition {
            Condition::Completed => self.tasks[upstream.task].id.to_string(),
            condition => format!("{}:{}", self.tasks[upstream.task].id, condition.word()),
        };
        let shown = |(place, task): (usize, &PlanTask)| {
            let of_task = states.get(place).unwrap_or(&TaskState::Waiting);
            let unmet = (*of_task == TaskState::Waiting).then(|| self.unmet(place, states));
            let unmet = unmet.filter(|unmet| !unmet.is_nothing());
            let waits = unmet.as_ref().map(|unmet| format!("waits for {unmet}"));
            let (state, outcome, reason, is_run) = match of_task {
                TaskState::Waiting => (State::Waiting, None, waits, false),
                TaskState::UnderWay(state) => (*state, None, None, true),
                TaskState::Over { outcome, reason, was_run } => {
                    (State::Exited, Some(*outcome), reason.clone(), *was_run)
                }
            };
            PlanTaskStatus {
                id: task.id.to_string(),
                agent: task.agent.to_string(),
                run: is_run.then(|| task.agent.of_run(&task.id).to_string()),
                after: task.after.iter().map(after).collect(),
                layer: u64::try_from(self.layers[place]).unwrap_or(u64::MAX).saturating_add(1),
                state,
                outcome,
                reason,
                waiting_for: unmet
                    .map(|Unmet { agents, more }| WaitingFor::After { agents, more })
                    .into_iter()
                    .collect(),
            }
        };
        PlanStatus {
            id: taken.id.to_string(),
            name: self.name.clone(),
            state,
            outcome,
            by: taken.by.clone(),
            stop_on_failure: self.stop_on_failure,
            queued_at: taken.queued_at,
            ended_at: taken.ended_at.filter(|_| state == State::Exited),
            tasks: self.tasks.iter().enumerate().map(shown).collect(),
        }
    }
}

/// Which plan it is, whose, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The writer's choice.
    pub id: PlanId,
    /// Who wrote it. Advisory.
    pub by: Option<String>,
    /// When it was taken.
    pub queued_at: Time,
    /// When the last of its tasks was over.
    pub ended_at: Option<Time>,
}

/// Why a task is skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cause {
    /// What it comes after.
    task: usize,
    /// What has failed first.
    root: usize,
}

/// What each task comes after, as far as that is in the plan.
fn edges(tasks: &[PlanTask]) -> Vec<Vec<usize>> {
    let known = |upstream: &Upstream| Some(upstream.task).filter(|&task| task < tasks.len());
    tasks.iter().map(|task| task.after.iter().filter_map(known).collect()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;

    /// Tasks `a`, `b`, … that come after those of these letters, which end in `!` if any end will do.
    fn plan(stop_on_failure: bool, after: &[&[&str]]) -> Plan {
        let tasks = after.iter().enumerate().map(|(place, after)| PlanTask {
            id: letter(place).parse().unwrap(),
            agent: "fixer".parse().unwrap(),
            prompt: SecretBytes::from("x"),
            after: after.iter().map(|text| upstream(text)).collect(),
            labels: BTreeMap::new(),
        });
        Plan::new(None, stop_on_failure, tasks.collect()).unwrap()
    }

    fn letter(place: usize) -> String {
        char::from(b'a' + u8::try_from(place).unwrap()).to_string()
    }

    fn upstream(text: &str) -> Upstream {
        let condition = if text.ends_with('!') { Condition::Ended } else { Condition::Completed };
        Upstream { task: usize::from(text.as_bytes()[0] - b'a'), condition }
    }

    fn over(outcome: Outcome) -> TaskState {
        let reason = (outcome == Outcome::Failed).then(|| "exited with status 1".to_owned());
        TaskState::Over { outcome, reason, was_run: true }
    }

    const RUNS: TaskState = TaskState::UnderWay(State::Running);

    fn in_words(plan: &Plan, states: &[TaskState]) -> Vec<String> {
        let steps = plan.decide(states).into_iter().map(|step| match step {
            Step::Start(task) => format!("start {}", letter(task)),
            Step::Leave { task, outcome, reason } => format!("{} {}: {reason}", outcome.word(), letter(task)),
        });
        steps.collect()
    }

    #[test]
    fn a_task_starts_when_its_own_have_completed() {
        let plan = plan(false, &[&[], &["a"], &[], &["a", "c"]]);
        assert_eq!(in_words(&plan, &[]), ["start a", "start c"]);
        let states = |a, c| [a, TaskState::Waiting, c, TaskState::Waiting];
        assert_eq!(in_words(&plan, &states(RUNS, RUNS)), [""; 0]);
        assert_eq!(in_words(&plan, &states(over(Outcome::Completed), RUNS)), ["start b"], "no layer is waited for");
        assert_eq!(plan.layers(), [vec![0, 2], vec![1, 3]]);
    }

    #[test]
    fn what_comes_after_a_failure_is_skipped_down_to_the_end() {
        let plan = plan(false, &[&[], &["a"], &["b"], &["c"], &[], &["c!"]]);
        let mut states = vec![TaskState::Waiting; 6];
        states[0] = over(Outcome::Failed);
        states[4] = RUNS;
        assert_eq!(
            in_words(&plan, &states),
            [
                "skipped b: a failed: exited with status 1",
                "skipped c: b was skipped: a failed: exited with status 1",
                "skipped d: c was skipped: a failed: exited with status 1",
                "start f",
            ]
        );
        // The same if that was done only in part.
        states[1] = over(Outcome::Skipped);
        assert_eq!(in_words(&plan, &states)[0], "skipped c: b was skipped: a failed: exited with status 1");
    }

    #[test]
    fn other_ends_skip_in_their_own_words() {
        let plan = plan(false, &[&[], &["a"]]);
        for (outcome, words) in [
            (Outcome::TimedOut, "a timed out"),
            (Outcome::GaveUp, "a gave up"),
            (Outcome::Cancelled, "a was cancelled"),
            (Outcome::Refused, "a was refused"),
            (Outcome::Interrupted, "a was interrupted"),
        ] {
            assert_eq!(in_words(&plan, &[over(outcome), TaskState::Waiting]), [format!("skipped b: {words}")]);
        }
    }

    #[test]
    fn a_plan_that_stops_on_a_failure_cancels_what_waits() {
        let plan = plan(true, &[&[], &["a"], &["d"], &[]]);
        let states = [over(Outcome::Failed), TaskState::Waiting, TaskState::Waiting, RUNS];
        assert_eq!(
            in_words(&plan, &states),
            [
                "skipped b: a failed: exited with status 1",
                "cancelled c: a failed: exited with status 1, and the plan stops on a failure",
            ]
        );
        let cancelled = [over(Outcome::Cancelled), TaskState::Waiting, TaskState::Waiting, over(Outcome::Completed)];
        assert_eq!(in_words(&plan, &cancelled), ["skipped b: a was cancelled", "start c"], "that is no failure");
    }

    #[test]
    fn a_plan_that_is_removed_leaves_what_waits() {
        let plan = plan(false, &[&[], &["a"]]);
        let reason = "its plan was removed".to_owned();
        let left = Step::Leave { task: 1, outcome: Outcome::Cancelled, reason };
        assert_eq!(plan.cancel(&[RUNS, TaskState::Waiting]), [left]);
    }

    #[test]
    fn tasks_that_wait_for_each_other_are_no_plan() {
        let task = |after: &[Upstream]| PlanTask {
            id: "t".parse().unwrap(),
            agent: "fixer".parse().unwrap(),
            prompt: SecretBytes::from("x"),
            after: after.to_vec(),
            labels: BTreeMap::new(),
        };
        let of = |tasks| Plan::new(None, false, tasks);
        assert_eq!(of(vec![task(&[upstream("b")]), task(&[upstream("a!")])]), None);
        assert_eq!(of(vec![task(&[upstream("c")])]), None);
        let runs = Upstream { task: 0, condition: Condition::Running };
        assert_eq!(of(vec![task(&[]), task(&[runs])]), None);
        assert!(of(vec![task(&[]), task(&[upstream("a")])]).is_some());
    }

    #[test]
    fn a_plan_is_shown_with_the_layers_of_its_tasks_and_what_they_wait_for() {
        let plan = plan(false, &[&[], &["a", "c!"], &[]]);
        let taken = Taken {
            id: "p".parse().unwrap(),
            by: Some("op".to_owned()),
            queued_at: Time(SystemTime::UNIX_EPOCH),
            ended_at: None,
        };
        let status = plan.status(&taken, &[RUNS, TaskState::Waiting, over(Outcome::Failed)]);
        assert_eq!((status.state, status.outcome), (State::Running, None));
        let task = &status.tasks[1];
        assert_eq!((task.layer, task.state, task.run.as_deref()), (2, State::Waiting, None));
        assert_eq!(task.after, ["a", "c:ended"]);
        assert_eq!(task.reason.as_deref(), Some("waits for a (running)"));
        assert_eq!(status.tasks[0].run.as_deref(), Some("fixer/a"));
        assert_eq!(status.tasks[2].reason.as_deref(), Some("exited with status 1"));
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(serde_json::from_value::<PlanStatus>(json).unwrap(), status);
    }

    #[test]
    fn a_plan_has_ended_as_its_tasks_have() {
        let plan = plan(false, &[&[], &["a"]]);
        let ended = |a, b| plan.progress(&[over(a), over(b)]).1.unwrap();
        assert_eq!(plan.progress(&[]), (State::Waiting, None));
        assert_eq!(plan.progress(&[over(Outcome::Completed)]), (State::Running, None));
        assert_eq!(ended(Outcome::Completed, Outcome::Completed), Outcome::Completed);
        assert_eq!(ended(Outcome::Failed, Outcome::Skipped), Outcome::Failed);
        assert_eq!(ended(Outcome::Cancelled, Outcome::Skipped), Outcome::Cancelled);
    }

    /// What a task comes after, each with whether any end will do, and how it ends.
    type Story = (Vec<(usize, bool)>, usize);

    fn stories() -> impl Strategy<Value = (bool, Vec<Story>)> {
        let task = (prop::collection::vec((0..20_usize, any::<bool>()), 0..4), 0..6_usize);
        (any::<bool>(), prop::collection::vec(task, 1..20))
    }

    const ENDS: [Outcome; 6] = [
        Outcome::Completed,
        Outcome::Completed,
        Outcome::Completed,
        Outcome::Failed,
        Outcome::Cancelled,
        Outcome::Interrupted,
    ];

    proptest! {
        #[test]
        fn each_task_ends_once_and_none_after_one_that_has_failed((stops, story) in stories(), choices in prop::collection::vec(any::<prop::sample::Index>(), 64)) {
            let tasks: Vec<PlanTask> = story
                .iter()
                .enumerate()
                .map(|(place, (after, _))| PlanTask {
                    id: letter(place).parse().unwrap(),
                    agent: "fixer".parse().unwrap(),
                    prompt: SecretBytes::from("x"),
                    // Only earlier ones, so that it can be carried out.
                    after: after
                        .iter()
                        .filter(|(task, _)| *task < place)
                        .map(|&(task, any_end)| Upstream {
                            task,
                            condition: if any_end { Condition::Ended } else { Condition::Completed },
                        })
                        .collect(),
                    labels: BTreeMap::new(),
                })
                .collect();
            let plan = Plan::new(None, stops, tasks).unwrap();
            let mut states = vec![TaskState::Waiting; plan.tasks().len()];
            let mut choices = choices.into_iter().cycle();
            for _ in 0..=plan.tasks().len() * 2 {
                for step in plan.decide(&states) {
                    match step {
                        Step::Start(task) => {
                            prop_assert_eq!(&states[task], &TaskState::Waiting, "starts twice");
                            for upstream in &plan.tasks()[task].after {
                                let outcome = states[upstream.task].outcome();
                                prop_assert!(outcome.is_some_and(|outcome| upstream.is_met_by(outcome)));
                            }
                            states[task] = RUNS;
                        }
                        Step::Leave { task, outcome, reason } => {
                            prop_assert_eq!(&states[task], &TaskState::Waiting, "ends twice");
                            prop_assert!(!reason.is_empty() && reason.len() < 600);
                            if outcome == Outcome::Skipped {
                                let is_failed = |upstream: &Upstream| {
                                    states[upstream.task].outcome().is_some_and(|outcome| !upstream.is_met_by(outcome))
                                };
                                prop_assert!(plan.tasks()[task].after.iter().any(is_failed), "skipped for nothing");
                            } else {
                                prop_assert!(stops && outcome == Outcome::Cancelled);
                            }
                            states[task] = TaskState::Over { outcome, reason: Some(reason), was_run: false };
                        }
                    }
                }
                let under_way: Vec<usize> = (0..states.len()).filter(|&task| states[task] == RUNS).collect();
                if under_way.is_empty() {
                    break;
                }
                let task = under_way[choices.next().unwrap().index(under_way.len())];
                states[task] = over(ENDS[story[task].1]);
            }
            prop_assert!(states.iter().all(|state| state.outcome().is_some()), "waits for ever: {:?}", states);
            prop_assert_eq!(plan.decide(&states), []);
            prop_assert_eq!(plan.progress(&states).0, State::Exited);
        }
    }
}

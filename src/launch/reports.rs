//! What a launcher reports of what its harness does, and when. Pure: time is an argument.
//!
//! Reports are few. What is said again is not reported again, of what is said quickly the last counts, and of the output only the edges
//! matter: that it has been quiet for a while, and that it goes on after that. A harness that prints nothing and calls no hook costs
//! nothing: nothing is [due](Reports::due) then.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::protocol::FromLauncher;
use crate::agent::harness::hooks::{HookKind, Hooks, Told};
use crate::wire::activity::{Doing, Source};

/// How long nothing must be printed before the screen is worth a look.
pub const QUIET: Duration = Duration::from_secs(2);

/// How long output must go on, without a pause of [`QUIET`], before what was shown last counts as over. A person who types an answer
/// prints, too.
const GOES_ON: Duration = Duration::from_secs(3);

/// The shortest time between two reports of what the harness says.
const GAP: Duration = Duration::from_millis(500);

/// How long other tools of the same turn may still be heard of after the question whether one may be used.
const SIDE_BY_SIDE: Duration = Duration::from_secs(2);

/// How long after its first output a harness may take to call the first of its hooks.
const FIRST_CALL: Duration = Duration::from_secs(30);

/// The longest detail of a report, in characters. The daemon shortens it once it is redacted.
const MOST_OF_DETAIL: usize = 1024;

/// What is known, and what of it is reported.
#[derive(Debug, Default)]
pub struct Reports {
    hooks: Option<Hooks>,
    latest: Option<Statement>,
    /// Whether that is to be reported.
    is_news: bool,
    reported: Option<Statement>,
    reported_at: Option<Instant>,
    /// Whether the screen may have said something else since: then the same, said again, is news.
    is_doubtful: bool,
    /// The use of a tool that a person is asked about, and since when.
    question: Option<(u64, Instant)>,
    output: Output,
    /// When the hooks count as unheard.
    unheard_at: Option<Instant>,
    is_heard: bool,
}

#[derive(Clone, Debug)]
struct Statement {
    doing: Doing,
    detail: Option<String>,
    source: Source,
    at: Instant,
}

impl Statement {
    fn says_the_same(&self, other: &Self) -> bool {
        (self.doing, &self.detail, self.source) == (other.doing, &other.detail, other.source)
    }
}

#[derive(Clone, Copy, Debug, Default)]
enum Output {
    /// There was none.
    #[default]
    None,
    /// There is some.
    Fresh {
        since: Instant,
        last: Instant,
        /// Whether it is known to the daemon that there is.
        is_reported: bool,
    },
    /// There has been none since.
    Quiet { last: Instant },
}

impl Reports {
    /// Of a harness that was given these hooks.
    pub fn new(hooks: Option<Hooks>) -> Self {
        Self { hooks, ..Self::default() }
    }

    /// The harness has printed something.
    pub fn printed(&mut self, now: Instant) {
        let is_expected = self.hooks.is_some_and(|hooks| hooks.kind == HookKind::Claude);
        self.output = match self.output {
            Output::None => {
                self.unheard_at = (is_expected && !self.is_heard).then(|| now + FIRST_CALL);
                Output::Fresh { since: now, last: now, is_reported: true }
            }
            Output::Quiet { .. } => Output::Fresh { since: now, last: now, is_reported: false },
            Output::Fresh { since, is_reported, .. } => Output::Fresh { since, last: now, is_reported },
        };
    }

    /// A hook was called.
    pub fn heard(&mut self, told: Told, now: Instant) {
        (self.is_heard, self.unheard_at) = (true, None);
        let hash = |call: &str| {
            let mut hasher = DefaultHasher::new();
            call.hash(&mut hasher);
            hasher.finish()
        };
        match told {
            Told::Nothing => {}
            Told::Doing(doing, detail) => {
                self.question = None;
                self.say(doing, detail, Source::Hook, now);
            }
            Told::Asks(tool, wish) => {
                self.question = Some((hash(&tool.call), now));
                self.say(Doing::Blocked, Some(wish), Source::Hook, now);
            }
            Told::Tool(tool) => {
                let is_beside = self.question.is_some_and(|(call, at)| {
                    let is_answer = tool.is_over && call == hash(&tool.call);
                    !is_answer && now.saturating_duration_since(at) < SIDE_BY_SIDE
                });
                if !is_beside {
                    self.question = None;
                    self.say(Doing::Working, None, Source::Hook, now);
                }
            }
        }
    }

    /// A source says what the harness does.
    pub fn say(&mut self, doing: Doing, detail: Option<String>, source: Source, now: Instant) {
        let detail = detail.map(|detail| detail.chars().take(MOST_OF_DETAIL).collect());
        let statement = Statement { doing, detail, source, at: now };
        self.is_news |= self.is_doubtful || !self.reported.as_ref().is_some_and(|it| it.says_the_same(&statement));
        self.latest = Some(statement);
    }

    /// Another daemon listens, which knows nothing yet.
    pub fn begin_again(&mut self) {
        (self.reported, self.reported_at, self.is_news) = (None, None, self.latest.is_some());
        if let Output::Quiet { last } = self.output {
            self.output = Output::Fresh { since: last, last, is_reported: true };
        }
    }

    /// When there is something to [take](Reports::take), if nothing happens before.
    pub fn due(&self) -> Option<Instant> {
        let output = match self.output {
            Output::Fresh { last, is_reported: true, .. } => Some(last + QUIET),
            Output::Fresh { since, last, is_reported: false } => Some((last + QUIET).min(since + GOES_ON)),
            Output::None | Output::Quiet { .. } => None,
        };
        let statement = self.latest.as_ref().filter(|_| self.is_news);
        let statement = statement.map(|statement| self.reported_at.map_or(statement.at, |at| at + GAP));
        output.into_iter().chain(statement).chain(self.unheard_at).min()
    }

    /// The next report that is due.
    pub fn take(&mut self, now: Instant) -> Option<FromLauncher> {
        let is_in_turn = self.reported_at.is_none_or(|at| at + GAP <= now);
        if let Some(statement) = self.latest.clone().filter(|_| self.is_news && is_in_turn) {
            let Statement { doing, detail, source, .. } = statement.clone();
            (self.reported, self.reported_at) = (Some(statement), Some(now));
            (self.is_news, self.is_doubtful) = (false, false);
            return Some(FromLauncher::Activity { doing, detail, source });
        }
        if self.unheard_at.take_if(|at| *at <= now).is_some() {
            return Some(FromLauncher::HooksUnheard);
        }
        let Output::Fresh { since, last, is_reported } = self.output else { return None };
        if last + QUIET <= now {
            self.output = Output::Quiet { last };
            // What the harness has said since then is fresher than its screen.
            if self.latest.as_ref().is_some_and(|statement| statement.at > last) {
                return self.take(now);
            }
            self.is_doubtful = true;
            return Some(FromLauncher::Quiet);
        }
        if !is_reported && since + GOES_ON <= now {
            self.output = Output::Fresh { since, last, is_reported: true };
            return Some(FromLauncher::Printing);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::harness::hooks::Tool;

    const HOOKS: Hooks = Hooks { kind: HookKind::Claude, at: 1, has_prompt: true };

    /// A launcher's reports, at so many milliseconds after its start.
    struct Told {
        start: Instant,
        reports: Reports,
    }

    impl Told {
        fn new(hooks: Option<Hooks>) -> Self {
            Self { start: Instant::now(), reports: Reports::new(hooks) }
        }

        fn at(&self, milliseconds: u64) -> Instant {
            self.start + Duration::from_millis(milliseconds)
        }

        fn due(&self) -> Option<u128> {
            self.reports.due().map(|due| due.saturating_duration_since(self.start).as_millis())
        }

        fn printed(&mut self, milliseconds: u64) {
            let now = self.at(milliseconds);
            self.reports.printed(now);
        }

        fn hook(&mut self, milliseconds: u64, told: super::Told) {
            let now = self.at(milliseconds);
            self.reports.heard(told, now);
        }

        fn taken(&mut self, milliseconds: u64) -> Vec<String> {
            let now = self.at(milliseconds);
            let taken = std::iter::from_fn(|| self.reports.take(now));
            taken
                .map(|message| match message {
                    FromLauncher::Activity { doing, .. } => doing.to_string(),
                    message => format!("{message:?}"),
                })
                .collect()
        }
    }

    fn does(doing: Doing) -> super::Told {
        super::Told::Doing(doing, None)
    }

    fn tool(call: &str, is_over: bool) -> super::Told {
        super::Told::Tool(Tool { call: call.to_owned(), is_over })
    }

    fn asks(call: &str) -> super::Told {
        super::Told::Asks(Tool { call: call.to_owned(), is_over: false }, format!("permission: {call}"))
    }

    #[test]
    fn a_silent_agent_costs_nothing() {
        let mut told = Told::new(Some(HOOKS));
        assert_eq!((told.due(), told.taken(1_000_000)), (None, vec![]));
        told.hook(0, does(Doing::Working));
        told.printed(10);
        assert_eq!(told.taken(10), ["working"]);
        assert_eq!(told.due(), Some(2010));
        assert_eq!(told.taken(2010), ["Quiet"]);
        assert_eq!((told.due(), told.taken(1_000_000)), (None, vec![]));
    }

    #[test]
    fn the_screen_is_of_interest_once_output_has_paused() {
        let mut told = Told::new(None);
        for time in (0..10_000).step_by(500) {
            told.printed(time);
            assert_eq!(told.taken(time), [""; 0]);
        }
        assert_eq!(told.due(), Some(11_500));
        assert_eq!(told.taken(11_499), [""; 0]);
        assert_eq!(told.taken(11_500), ["Quiet"]);
    }

    #[test]
    fn output_that_goes_on_is_reported_once() {
        let mut told = Told::new(None);
        told.printed(0);
        assert_eq!(told.taken(2000), ["Quiet"]);
        let taken: Vec<String> = (5000..20_000)
            .step_by(100)
            .flat_map(|time| {
                told.printed(time);
                told.taken(time)
            })
            .collect();
        assert_eq!(taken, ["Printing"]);
        // A key or two are not work.
        assert_eq!(told.taken(22_000), ["Quiet"]);
        told.printed(30_000);
        assert_eq!(told.taken(32_000), ["Quiet"]);
    }

    #[test]
    fn a_statement_after_the_last_output_is_fresher_than_the_screen() {
        let mut told = Told::new(Some(HOOKS));
        told.printed(0);
        told.hook(1000, does(Doing::Blocked));
        assert_eq!(told.taken(1000), ["blocked"]);
        assert_eq!(told.taken(2000), [""; 0]);
        told.printed(3000);
        assert_eq!(told.taken(5000), ["Quiet"]);
    }

    #[test]
    fn what_is_said_again_is_news_only_after_the_screen_was_read() {
        let mut told = Told::new(Some(HOOKS));
        for time in [0, 1000, 2000] {
            told.hook(time, does(Doing::Working));
        }
        told.printed(2100);
        assert_eq!(told.taken(2100), ["working"]);
        told.hook(3000, tool("Bash", false));
        told.printed(3100);
        assert_eq!(told.taken(3100), [""; 0]);
        assert_eq!(told.taken(5100), ["Quiet"]);
        told.hook(6000, tool("Bash", true));
        assert_eq!(told.taken(6000), ["working"]);
    }

    #[test]
    fn a_flood_is_reported_twice_a_second_and_its_last_word_counts() {
        let mut told = Told::new(Some(HOOKS));
        let mut count = 0;
        for time in 0..10_000 {
            told.hook(time, does(if time % 2 == 0 { Doing::Working } else { Doing::Idle }));
            count += told.taken(time).len();
        }
        assert!((10..=21).contains(&count), "{count}");
        told.hook(10_000, does(Doing::Blocked));
        assert_eq!(told.taken(11_000), ["blocked"]);
        assert_eq!(told.due(), None);
    }

    #[test]
    fn a_tool_beside_the_one_that_is_asked_for_ends_no_question() {
        let mut told = Told::new(Some(HOOKS));
        told.hook(0, tool("Bash a", false));
        told.hook(10, asks("Bash a"));
        told.hook(20, tool("Bash b", false));
        told.hook(30, tool("Bash b", true));
        assert_eq!(told.taken(40), ["blocked"]);
        told.hook(1000, tool("Bash a", true));
        assert_eq!(told.taken(1000), ["working"]);
    }

    #[test]
    fn a_question_is_over_when_work_goes_on() {
        for (time, news) in [(9000, tool("Bash b", false)), (100, does(Doing::Working)), (100, does(Doing::Idle))] {
            let mut told = Told::new(Some(HOOKS));
            told.hook(10, asks("Bash a"));
            assert_eq!(told.taken(10), ["blocked"]);
            told.hook(time, news);
            assert_eq!(told.taken(time + 600).len(), 1);
        }
    }

    #[test]
    fn hooks_that_nobody_calls_are_reported_once() {
        let mut told = Told::new(Some(HOOKS));
        told.printed(0);
        assert_eq!(told.taken(2000), ["Quiet"]);
        assert_eq!(told.due(), Some(30_000));
        assert_eq!(told.taken(30_000), ["HooksUnheard"]);
        assert_eq!((told.due(), told.taken(1_000_000)), (None, vec![]));
    }

    #[test]
    fn hooks_that_are_heard_are_waited_for_no_longer() {
        let mut told = Told::new(Some(HOOKS));
        told.printed(0);
        told.hook(29_000, super::Told::Nothing);
        assert_eq!(told.taken(29_000), ["Quiet"]);
        assert_eq!((told.due(), told.taken(1_000_000)), (None, vec![]));
        let mut codex = Told::new(Some(Hooks { kind: HookKind::CodexNotify, ..HOOKS }));
        codex.printed(0);
        assert_eq!(codex.taken(2000), ["Quiet"]);
        assert_eq!(codex.due(), None, "it calls only when its turn is over");
    }

    #[test]
    fn the_next_daemon_hears_what_is_known() {
        let mut told = Told::new(Some(HOOKS));
        told.hook(0, does(Doing::Working));
        told.printed(100);
        assert_eq!([told.taken(0), told.taken(2100)].concat(), ["working", "Quiet"]);
        told.reports.begin_again();
        assert_eq!(told.taken(60_000), ["working", "Quiet"]);
        assert_eq!(told.due(), None);
    }

    proptest! {
        #[test]
        fn what_is_due_is_taken_and_then_it_is_quiet(news in prop::collection::vec((0..5000_u64, 0..6_u8), 0..40)) {
            let mut told = Told::new(Some(HOOKS));
            let mut time = 0;
            for (pause, what) in news {
                time += pause;
                match what {
                    0..=2 => told.printed(time),
                    3 => told.hook(time, does(Doing::Working)),
                    4 => told.hook(time, asks("Bash")),
                    _ => drop(told.taken(time)),
                }
            }
            // Each wake takes something, and there are few.
            for _ in 0..8 {
                let Some(due) = told.due() else { break };
                time = time.max(u64::try_from(due).unwrap());
                prop_assert!(!told.taken(time).is_empty() || told.due().is_none_or(|later| later > u128::from(time)));
            }
            prop_assert_eq!(told.due(), None);
        }
    }
}

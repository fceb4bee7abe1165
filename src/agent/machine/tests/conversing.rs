//! Conversations that attempts share.

use super::*;
use crate::agent::conversation::{Line, Plan, Resume, SessionId, SessionWords, Taken, Way};

fn id(text: &str) -> SessionId {
    SessionId::try_from(text.to_owned()).unwrap()
}

#[allow(clippy::unnecessary_wraps, reason = "that is what a launch has")]
fn words(scope: &str) -> Option<Arc<SessionWords>> {
    let line = || Line(Vec::new());
    Some(Arc::new(SessionWords { new: Some(line()), resume: line(), proof: None, scope: scope.to_owned() }))
}

fn resuming(resume: Resume, argument: &str, scope: &str) -> Declaration {
    let launch = Launch { session_words: words(scope), ..Arc::unwrap_or_clone(launch("a", argument)) };
    let declaration = declaration(|policy| {
        (policy.resume, policy.restart, policy.backoff) = (resume, Restart::OnFailure, vec![Duration::ZERO]);
    });
    Declaration { launch: Ok(Arc::new(launch)), ..declaration }
}

/// A machine that is given ids as the supervisor gives them, and what its launchers were asked to do.
struct Talk {
    machine: Machine,
    now: Timestamp,
    spares: u32,
    plans: Vec<Plan>,
}

impl Talk {
    fn new(declaration: Declaration) -> Self {
        let mut talk = Self { machine: Machine::new(name("a")), now: START, spares: 0, plans: Vec::new() };
        talk.tell(Event::Declare(declaration));
        talk
    }

    fn tell(&mut self, event: Event) {
        if self.machine.lacks_spare() {
            self.spares += 1;
            self.machine.give_spare(id(&format!("id{}", self.spares)));
        }
        for effect in self.machine.step(event, self.now) {
            if let Effect::Launch { plan, .. } = effect {
                self.plans.extend(plan);
            }
        }
    }

    fn attempt(&self) -> Attempt {
        self.machine.latest_attempt()
    }

    /// The launcher of the latest attempt takes what it was asked to, and starts the harness.
    fn start(&mut self) {
        let (attempt, at) = (self.attempt(), self.now);
        let taken = match self.plans.last().cloned() {
            Some(Plan::New(id)) => Taken { id: Some(id), way: Way::New },
            Some(Plan::Resume { id, .. }) => Taken { id: Some(id), way: Way::Resumed },
            Some(Plan::Begin) | None => Taken { id: None, way: Way::New },
        };
        self.tell(Event::Took { attempt, taken });
        self.tell(Event::Started { attempt, pid: 101, at });
    }

    fn end(&mut self, after: u64, code: i32) {
        self.now = self.now + seconds(after);
        let (attempt, at) = (self.attempt(), self.now);
        let how = ExitStatus::Code(code);
        self.tell(Event::Ended { attempt, how, at, usage: Usage::default(), result: None, evidence: None });
        self.tell(Event::Gone { attempt });
        self.tell(Event::Due);
    }

    /// As a daemon after this one takes it up.
    fn read_again(&mut self) {
        let text = serde_json::to_string(&self.machine).unwrap();
        self.machine = serde_json::from_str(&text).unwrap();
    }

    fn resumed(&self, id: &str) -> bool {
        matches!(self.plans.last(), Some(Plan::Resume { id: resumed, .. }) if resumed.as_str() == id)
    }
}

#[test]
fn a_resume_that_fails_is_made_up_for_without_a_restart() {
    let mut talk = Talk::new(resuming(Resume::Restart, "x", "s"));
    talk.start();
    talk.end(60, 1);
    assert!(talk.resumed("id1"), "{:?}", talk.plans);
    talk.start();
    talk.end(1, 1);
    assert_eq!(talk.plans.last(), Some(&Plan::New(id("id2"))));
    let status = talk.machine.status();
    assert_eq!((status.restarts, status.attempt), (1, Some(3)));
    // The next failure is for the policy.
    talk.start();
    talk.end(1, 1);
    assert_eq!(talk.machine.status().restarts, 2);
    assert!(talk.resumed("id2"));
    talk.start();
    talk.end(1, 1);
    assert_eq!(talk.machine.status().restarts, 3, "what nothing has worked since is not made up for");
    assert!(matches!(talk.plans.last(), Some(Plan::New(_))), "{:?}", talk.plans);
}

#[test]
fn what_a_failed_resume_leads_to_is_on_record() {
    let mut talk = Talk::new(resuming(Resume::Restart, "x", "s"));
    talk.start();
    talk.end(60, 1);
    talk.start();
    let (attempt, at) = (talk.attempt(), talk.now);
    let how = ExitStatus::Code(1);
    talk.tell(Event::Ended { attempt, how, at, usage: Usage::default(), result: None, evidence: None });
    talk.read_again();
    talk.tell(Event::Update(resuming(Resume::Restart, "x", "s")));
    talk.tell(Event::Gone { attempt });
    talk.tell(Event::Due);
    assert!(matches!(talk.plans.last(), Some(Plan::New(new)) if *new != id("id1")), "{:?}", talk.plans);
    assert_eq!(talk.machine.status().restarts, 1);
}

#[test]
fn a_resume_that_is_stopped_keeps_its_conversation() {
    let mut talk = Talk::new(resuming(Resume::Always, "x", "s"));
    talk.start();
    talk.end(60, 1);
    talk.start();
    talk.tell(Event::Declare(resuming(Resume::Always, "y", "s")));
    talk.end(1, 1);
    assert!(talk.resumed("id1"), "{:?}", talk.plans);
}

#[rstest]
#[case(Resume::Restart, "s", false)]
#[case(Resume::Always, "s", true)]
#[case(Resume::Always, "another prompt", false)]
fn a_new_life_is_in_the_same_conversation_only_for_always(
    #[case] resume: Resume,
    #[case] scope: &str,
    #[case] goes_on: bool,
) {
    let mut talk = Talk::new(resuming(resume, "x", "s"));
    talk.start();
    talk.tell(Event::Declare(resuming(resume, "y", scope)));
    talk.end(1, 0);
    assert_eq!(talk.resumed("id1"), goes_on, "{:?}", talk.plans);
}

#[test]
fn what_a_boot_must_know_is_kept_for_always_alone() {
    let kept = |resume| {
        let mut talk = Talk::new(resuming(resume, "x", "s"));
        let before = talk.machine.conversation_kept();
        talk.start();
        (before, talk.machine.conversation_kept().flatten())
    };
    assert_eq!(Machine::new(name("a")).conversation_kept(), None);
    assert_eq!(kept(Resume::Restart), (Some(None), None));
    let (before, conversation) = kept(Resume::Always);
    assert_eq!(before, Some(None), "no harness was ever in it");
    let mut machine = Machine::new(name("a"));
    machine.remember(conversation.unwrap());
    machine.give_spare(id("other"));
    let effects = machine.step(Event::Declare(resuming(Resume::Always, "x", "s")), START);
    let plan =
        effects.into_iter().find_map(|effect| if let Effect::Launch { plan, .. } = effect { plan } else { None });
    assert_eq!(plan, Some(Plan::Resume { id: id("id1"), turned: false }));
}

#[test]
fn a_conversation_that_the_harness_tells_is_shown_and_that_of_another_agent_is_not_taken() {
    let mut talk = Talk::new(resuming(Resume::Restart, "x", "s"));
    talk.start();
    let attempt = talk.attempt();
    talk.tell(Event::Conversation { attempt, id: id("cleared") });
    talk.tell(Event::Conversation { attempt: attempt + 1, id: id("of-no-attempt") });
    assert_eq!(talk.machine.conversation(), Some(&id("cleared")));
    talk.tell(Event::Foreign { attempt, id: id("taken"), holder: name("b") });
    assert_eq!(talk.machine.conversation(), Some(&id("cleared")));
    assert!(talk.machine.status().conversation.unwrap().note.unwrap().contains("taken"));
    talk.read_again();
    assert_eq!(talk.machine.conversation(), Some(&id("cleared")));
}

#[test]
fn a_launch_that_is_repeated_does_not_begin_another_conversation() {
    let mut talk = Talk::new(resuming(Resume::Restart, "x", "s"));
    let attempt = talk.attempt();
    talk.tell(Event::NotStarted { attempt, why: NotStarted::CutOff });
    talk.tell(Event::Gone { attempt });
    talk.tell(Event::Due);
    assert_eq!(talk.plans, [(); 2].map(|()| Plan::New(id("id1"))));
}

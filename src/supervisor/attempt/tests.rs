use std::sync::Mutex;

use nix::libc::{ENOENT, ENOEXEC, ENOMEM};
use rstest::rstest;
use tokio::sync::Semaphore;

use super::*;
use crate::launch::protocol::Log;
use crate::logs::guard;
use crate::supervisor::pacing::Turn;
use crate::supervisor::resources::CLEARINGS;
use crate::supervisor::tests::fakes::{
    Calls, ENDED_PID, FakeLauncher, Fakes, Groups, LOGIN_PATIENCE, SIZE, Trouble, dead_pane, end, harness, pass,
    settle, until,
};
use crate::supervisor::tests::journal::Journal;
use crate::sys::file_id::FileId;
use crate::tmux::Pane;

const SECOND: Duration = Duration::from_secs(1);

/// An attempt of agent `a`, and everything around it.
struct Stage {
    fakes: Fakes,
    resources: Arc<Resources>,
    /// `None` once the daemon is ending.
    commands: Option<mpsc::UnboundedSender<Command>>,
    told: Arc<Mutex<Vec<machine::Event>>>,
}

impl Stage {
    fn new() -> Self {
        let fakes = Fakes::default();
        let resources = Arc::new(fakes.resources());
        Self { fakes, resources, commands: None, told: Arc::default() }
    }

    async fn begin(&mut self, start: Start) {
        let (commands, inbox) = mpsc::unbounded_channel();
        self.commands = Some(commands);
        let told = Arc::clone(&self.told);
        let tell = move |event| told.lock().unwrap().push(event);
        let name = "a".parse().unwrap();
        let seat = Arc::clone(self.resources.seats.default_seat());
        tokio::spawn(run((Arc::clone(&self.resources), seat), name, 1, start, Arc::default(), inbox, tell));
        settle().await;
    }

    async fn launch(&mut self) {
        self.begin(launch(false)).await;
    }

    async fn resume(&mut self, launcher: Option<Identity>) {
        self.begin(Start::Resume { launcher, numbers: Numbers::of(1) }).await;
    }

    async fn command(&self, command: Command) {
        self.commands.as_ref().unwrap().send(command).unwrap();
        settle().await;
    }

    /// The launcher connects and says how far it has come.
    async fn report(&self, launcher: &mut FakeLauncher, progress: Progress) {
        self.command(Command::Visitor(Box::new(launcher.report("a", progress)))).await;
    }

    /// What was told since, in short.
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap()).iter().map(in_short).collect()
    }

    fn count_told(&self) -> usize {
        self.told.lock().unwrap().len()
    }

    fn containment_calls(&self) -> &Calls {
        &self.fakes.containment.calls
    }
}

fn launch(look_first: bool) -> Start {
    let limits = Limits::default();
    Start::Launch {
        plan: None,
        launch: Arc::new(Launch::of_nothing()),
        redactor: Arc::default(),
        numbers: Numbers::of(1),
        limits,
        look_first,
    }
}

fn in_short(event: &machine::Event) -> String {
    use machine::Event;
    match event {
        Event::Opened { .. } => "opened".to_owned(),
        Event::Met { .. } => "met".to_owned(),
        Event::Started { .. } => "started".to_owned(),
        Event::Found { .. } => "found".to_owned(),
        Event::NotStarted { why: NotStarted::NotFound(program), .. } => format!("not found: {program}"),
        Event::NotStarted { why: NotStarted::Unbuilt(packages), .. } => format!("unbuilt: {packages}"),
        Event::NotStarted { why: NotStarted::Unreached(proxy), .. } => format!("unreached: {}: {proxy}", proxy.path),
        Event::NotStarted { why: NotStarted::Failed(why), .. } => format!("failed: {why}"),
        Event::NotStarted { why: NotStarted::Retry(why), .. } => format!("retry: {why}"),
        Event::NotStarted { why: NotStarted::CutOff, .. } => "cut off".to_owned(),
        Event::Ended { how, usage, .. } => match usage.cpu_usec {
            Some(cpu) => format!("ended: {how}, cpu {cpu}"),
            None => format!("ended: {how}"),
        },
        Event::Limited { error, .. } => in_words("limited", error.as_deref()),
        Event::Environment { error, .. } => format!("environment: {error}"),
        Event::Logged { error, .. } => in_words("logged", error.as_deref()),
        Event::Gone { .. } => "gone".to_owned(),
        other => format!("{other:?}"),
    }
}

fn in_words(what: &str, error: Option<&str>) -> String {
    error.map_or_else(|| what.to_owned(), |error| format!("{what}: {error}"))
}

/// An attempt whose launcher was sent its work.
async fn launched() -> (Stage, FakeLauncher) {
    let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
    stage.fakes.sessions.open.set(Ok(launcher.pid()));
    stage.launch().await;
    stage.report(&mut launcher, Progress::New).await;
    stage.command(Command::MetNoted).await;
    assert_eq!(stage.told(), ["opened", "met", "limited", "logged"]);
    assert_eq!(launcher.heard().await, ["launch"]);
    (stage, launcher)
}

/// An attempt whose harness runs.
async fn running() -> (Stage, FakeLauncher) {
    let (stage, mut launcher) = launched().await;
    launcher.say(FromLauncher::Started(harness())).await;
    assert_eq!(stage.told(), ["started"]);
    (stage, launcher)
}

#[test]
fn a_launcher_that_keeps_to_the_rules_is_heard() {
    let (mut talk, start) = (Talk::default(), Instant::now());
    assert_eq!((0..1000).filter(|_| talk.pass(MOST_ACCOUNTS, start)).count(), 150);
    assert!(talk.pass(MOST_ACCOUNTS, start + Duration::from_secs(5)));
}

mod before_the_launcher {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pane_runs_the_launcher_of_this_attempt() {
        let mut stage = Stage::new();
        stage.launch().await;
        let opened = stage.fakes.sessions.calls.take();
        assert_eq!(opened, ["open a a /bin/launcher a 1 /run/launch.sock /bin/agentd"]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_pane_opens_while_it_is_not_its_turn() {
        let mut stage = Stage::new();
        let mut turns: Vec<Turn> = Vec::new();
        for _ in 0..8 {
            turns.push(stage.resources.pace.turn().await);
        }
        stage.launch().await;
        assert!(stage.fakes.sessions.calls.take().is_empty());
        turns.pop();
        settle().await;
        assert_eq!(stage.fakes.sessions.calls.count("open"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_before_its_turn_opens_no_pane() {
        let mut stage = Stage::new();
        let mut turns: Vec<Turn> = Vec::new();
        for _ in 0..8 {
            turns.push(stage.resources.pace.turn().await);
        }
        stage.launch().await;
        stage.command(Command::Interrupt).await;
        assert_eq!(stage.told(), ["retry: it was stopped before it started", "gone"]);
        assert!(stage.fakes.sessions.calls.take().is_empty());
    }

    #[rstest]
    #[case::interrupted(Command::Interrupt)]
    #[case::interrupted_again(Command::InterruptAgain)]
    #[case::killed(Command::Kill)]
    #[tokio::test(start_paused = true)]
    async fn a_stop_while_the_pane_opens_takes_effect_once_it_is_open(#[case] stop: Command) {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.open.hang();
        stage.launch().await;
        stage.command(stop).await;
        stage.report(&mut launcher, Progress::New).await;
        // Whoever closes the session next must find it.
        assert!(stage.told().is_empty());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        settle().await;
        assert_eq!(stage.told(), ["opened", "retry: it was stopped before it started", "gone"]);
        assert_eq!(launcher.heard().await, ["unwanted", "closed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pane_that_does_not_open_is_given_up() {
        let mut stage = Stage::new();
        stage.fakes.sessions.open.hang();
        stage.launch().await;
        pass(OPEN_TIMEOUT.saturating_sub(SECOND)).await;
        assert!(stage.told().is_empty());
        pass(SECOND).await;
        assert_eq!(stage.told(), ["retry: tmux does not open its pane", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_cannot_be_opened_is_retried_in_tmuxs_words() {
        let mut stage = Stage::new();
        stage.fakes.sessions.open.set(Err(Trouble::Words("no space for a new session")));
        stage.launch().await;
        assert_eq!(stage.told(), ["retry: no space for a new session", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_launcher_that_does_not_report_is_given_up() {
        let mut stage = Stage::new();
        stage.launch().await;
        pass(REPORT_TIMEOUT.saturating_sub(SECOND)).await;
        assert_eq!(stage.told(), ["opened"]);
        pass(SECOND).await;
        let why = "retry: its launcher did not report within 10s; can user agent run /bin/launcher?";
        assert_eq!(stage.told(), [why, "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_at_the_launch_socket_is_why_nobody_reports() {
        let mut stage = Stage::new();
        stage.fakes.trouble.send_replace(Some("too many open files".to_owned()));
        stage.launch().await;
        pass(REPORT_TIMEOUT).await;
        assert_eq!(stage.told(), ["opened", "retry: too many open files", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_the_attempt_before_is_cleared_first() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.fakes.containment.prepare.hang();
        stage.launch().await;
        stage.report(&mut launcher, Progress::New).await;
        stage.command(Command::MetNoted).await;
        assert_eq!(stage.told(), ["opened"]);
        assert!(launcher.heard().await.is_empty());
        stage.fakes.containment.prepare.set(Ok(()));
        assert_eq!(launcher.heard().await, ["launch"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_starts_beside_what_cannot_be_cleared() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.fakes.containment.prepare.set(Err("it is frozen"));
        stage.launch().await;
        stage.report(&mut launcher, Progress::New).await;
        let why = "retry: what is left of it is in the way: failed to arrange its control group: it is frozen";
        assert_eq!(stage.told(), ["opened", why, "gone"]);
        assert_eq!(launcher.heard().await, ["closed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_launcher_is_sent_away() {
        let (mut stage, mut launcher, mut second) = (Stage::new(), FakeLauncher::start(), FakeLauncher::start());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.launch().await;
        stage.report(&mut second, Progress::New).await;
        assert_eq!(second.heard().await, ["unwanted", "closed"]);
        assert_eq!(stage.told(), ["opened"]);
        stage.report(&mut launcher, Progress::New).await;
        assert_eq!(stage.told(), ["met"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_launcher_may_report_before_tmux_answers() {
        let (mut stage, mut launcher, mut second) = (Stage::new(), FakeLauncher::start(), FakeLauncher::start());
        stage.fakes.sessions.open.hang();
        stage.launch().await;
        for unverified in [&mut second, &mut launcher] {
            stage.report(unverified, Progress::New).await;
        }
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        settle().await;
        assert_eq!(stage.told(), ["opened", "met"]);
        stage.command(Command::MetNoted).await;
        assert_eq!(launcher.heard().await, ["launch"]);
        assert_eq!(second.heard().await, ["unwanted", "closed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_few_unverified_launchers_wait() {
        let mut stage = Stage::new();
        stage.fakes.sessions.open.hang();
        stage.launch().await;
        let mut crowd: Vec<_> = (0..=MAX_UNVERIFIED).map(|_| FakeLauncher::start()).collect();
        for unverified in &mut crowd {
            stage.report(unverified, Progress::Running(harness())).await;
        }
        assert_eq!(crowd[MAX_UNVERIFIED].heard().await, ["closed"]);
        // One that has launched nothing gets the place of one that says it has.
        let mut launcher = FakeLauncher::start();
        stage.report(&mut launcher, Progress::New).await;
        assert!(launcher.heard().await.is_empty());
        assert_eq!(crowd[0].heard().await, ["closed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_launcher_of_another_version_is_not_sent_work() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        launcher.version = WIRE_VERSION - 1;
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.launch().await;
        stage.report(&mut launcher, Progress::New).await;
        let told = stage.told();
        assert_eq!(told[0], "opened");
        let expected = format!("retry: /bin/launcher speaks version {} ", WIRE_VERSION - 1);
        assert!(told[1].starts_with(&expected), "{told:?}");
        assert_eq!(told[2..], ["gone"]);
        assert_eq!(launcher.heard().await, ["unwanted", "closed"]);
    }
}

mod its_work {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_sent_only_once_the_launcher_is_on_record() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.launch().await;
        stage.report(&mut launcher, Progress::New).await;
        assert_eq!(stage.told(), ["opened", "met"]);
        pass(RECORD_TIMEOUT / 2).await;
        assert!(launcher.heard().await.is_empty());
        stage.command(Command::MetNoted).await;
        assert_eq!(launcher.heard().await, ["launch"]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_sent_in_time_whatever_becomes_of_the_record() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.launch().await;
        stage.report(&mut launcher, Progress::New).await;
        pass(RECORD_TIMEOUT).await;
        assert_eq!(launcher.heard().await, ["launch"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_while_it_is_prepared_keeps_it_back() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.fakes.containment.contain.hang();
        stage.launch().await;
        stage.report(&mut launcher, Progress::New).await;
        stage.command(Command::MetNoted).await;
        stage.command(Command::Interrupt).await;
        assert!(launcher.heard().await.is_empty());
        stage.fakes.containment.contain.set(None);
        assert_eq!(launcher.heard().await, ["unwanted"]);
        assert_eq!(stage.told(), ["opened", "met", "limited", "logged", "retry: it was stopped before it started"]);
        launcher.die().await;
        assert_eq!(stage.told(), ["gone"]);
    }

    #[rstest]
    #[case::unwritable("failed to open /logs/a: permission denied")]
    #[case::disk_full("failed to create /logs/a/1.log: No space left on device")]
    #[tokio::test(start_paused = true)]
    async fn it_is_sent_without_files_that_cannot_be_made(#[case] error: &str) {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.fakes.log_files.make.set(Err(error.to_owned()));
        stage.launch().await;
        stage.report(&mut launcher, Progress::New).await;
        stage.command(Command::MetNoted).await;
        assert_eq!(stage.told()[2..], ["limited".to_owned(), format!("logged: {error}")]);
        assert_eq!(launcher.heard().await, ["launch without a log"]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_sent_with_files_that_have_a_flaw() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.fakes.log_files.make.set(Ok(Some("it begins again and again".to_owned())));
        stage.launch().await;
        stage.report(&mut launcher, Progress::New).await;
        stage.command(Command::MetNoted).await;
        assert_eq!(stage.told()[2..], ["limited", "logged: it begins again and again"]);
        assert_eq!(launcher.heard().await, ["launch"]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_sent_although_its_limits_are_not_applied() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.fakes.containment.contain.set(Some("systemd does not run".to_owned()));
        stage.launch().await;
        stage.report(&mut launcher, Progress::New).await;
        stage.command(Command::MetNoted).await;
        assert_eq!(stage.told()[2..], ["limited: systemd does not run", "logged"]);
        assert_eq!(launcher.heard().await, ["launch"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_limits_are_the_ones_it_begins_with() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.launch().await;
        let limits = Limits { memory: Some(4096), ..Limits::default() };
        stage.command(Command::Limit(Box::new(limits))).await;
        stage.report(&mut launcher, Progress::New).await;
        assert_eq!(stage.containment_calls().count("contain Some(4096)"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_launcher_that_starts_nothing_with_it_is_killed() {
        let (stage, mut launcher) = launched().await;
        pass((LOGIN_PATIENCE + START_TIMEOUT).saturating_sub(SECOND)).await;
        assert!(launcher.lives());
        pass(SECOND).await;
        launcher.see_end().await;
        assert_eq!(stage.told(), ["retry: its launcher ended before it had started anything", "gone"]);
    }
}

mod a_launcher_at_work {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_let_go_once_the_end_is_on_record() {
        let (stage, mut launcher) = running().await;
        stage.fakes.containment.usage.lock().unwrap().cpu_usec = Some(7);
        launcher.say(FromLauncher::Ended(end(Ending::Code(3)))).await;
        assert_eq!(stage.told(), ["ended: exited with status 3, cpu 7"]);
        assert!(launcher.heard().await.is_empty());
        stage.command(Command::EndNoted).await;
        assert_eq!(launcher.heard().await, ["noted"]);
        launcher.die().await;
        assert_eq!(stage.told(), ["gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_let_go_in_time_whatever_becomes_of_the_record() {
        let (_stage, mut launcher) = running().await;
        launcher.say(FromLauncher::Ended(end(Ending::Code(0)))).await;
        pass(RECORD_TIMEOUT / 2).await;
        assert!(launcher.heard().await.is_empty());
        pass(RECORD_TIMEOUT / 2).await;
        assert_eq!(launcher.heard().await, ["noted"]);
    }

    #[tokio::test(start_paused = true)]
    async fn its_end_is_told_once_though_the_connection_was_lost() {
        let (stage, mut launcher) = running().await;
        launcher.say(FromLauncher::Ended(end(Ending::Code(0)))).await;
        launcher.hang_up().await;
        stage.command(Command::EndNoted).await;
        let ended = Progress::Ended { harness: harness(), end: end(Ending::Code(0)) };
        stage.report(&mut launcher, ended).await;
        assert_eq!(launcher.heard().await, ["noted"]);
        assert_eq!(stage.told(), ["ended: exited with status 0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_without_any_count_is_told_without_usage() {
        let (stage, mut launcher) = running().await;
        launcher.say(FromLauncher::Ended(end(Ending::Signal(9)))).await;
        assert_eq!(stage.told(), ["ended: ended by SIGKILL"]);
    }

    #[rstest]
    #[case::its_own_fault(Some(ENOEXEC), false, "failed: no such program")]
    #[case::the_machine_is_short(Some(ENOMEM), false, "retry: no such program")]
    #[case::something_went_missing(None, true, "retry: no such program")]
    #[tokio::test(start_paused = true)]
    async fn a_failure_to_start_counts_as_what_it_is(
        #[case] errno: Option<i32>,
        #[case] missing: bool,
        #[case] expected: &str,
    ) {
        let (stage, mut launcher) = launched().await;
        launcher
            .say(FromLauncher::Failed(Failure {
                message: "no such program".to_owned(),
                errno,
                missing,
                program: None,
                packages: false,
                proxy: None,
            }))
            .await;
        until("it is told", || stage.count_told() > 0).await;
        assert_eq!(stage.told(), [expected]);
        stage.command(Command::EndNoted).await;
        assert_eq!(launcher.heard().await, ["noted"]);
    }

    #[rstest]
    #[case::not_in_path(Some("/usr/bin"), "not found: claude is not in the PATH of user agent")]
    #[case::by_its_path(None, "not found: the program claude does not exist")]
    #[tokio::test(start_paused = true)]
    async fn a_missing_program_is_told_and_no_log_is_kept(#[case] path: Option<&str>, #[case] expected: &str) {
        let (stage, mut launcher) = launched().await;
        let program = ProgramNotFound { name: "claude".to_owned(), path: path.map(str::to_owned) };
        let message = "claude: not found".to_owned();
        let failure = Failure {
            message,
            errno: Some(ENOENT),
            missing: false,
            program: Some(program),
            packages: false,
            proxy: None,
        };
        launcher.say(FromLauncher::Failed(failure)).await;
        until("it is told", || stage.count_told() > 0).await;
        assert_eq!(stage.told(), [expected]);
        stage.command(Command::EndNoted).await;
        assert_eq!(launcher.heard().await, ["noted"]);
        assert_eq!(stage.fakes.log_files.calls.count("discard"), 0, "its launcher may still write");
        launcher.die().await;
        assert_eq!(stage.told(), ["gone"]);
        assert_eq!(stage.fakes.log_files.calls.count("discard a 1-1"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn missing_packages_are_told_in_the_words_of_the_launcher() {
        let (stage, mut launcher) = launched().await;
        launcher.say(FromLauncher::Building).await;
        until("it is told", || stage.count_told() > 0).await;
        assert_eq!(stage.told(), ["Building { attempt: 1 }"]);
        let message = format!("no such\u{1b}[31m package {}", "x".repeat(2000));
        let failure = Failure { message, errno: None, missing: true, program: None, packages: true, proxy: None };
        launcher.say(FromLauncher::Failed(failure)).await;
        until("it is told", || stage.count_told() > 0).await;
        let told = stage.told();
        assert!(told[0].starts_with("unbuilt: its extra_packages are not there: no such [31m package xxx"), "{told:?}");
        assert!(told[0].len() < 700, "{}", told[0].len());
        stage.command(Command::EndNoted).await;
        launcher.die().await;
        assert_eq!(stage.fakes.log_files.calls.count("discard a 1-1"), 1, "it is no attempt");
    }

    #[tokio::test(start_paused = true)]
    async fn a_launch_without_its_proxy_is_no_attempt() {
        let (stage, mut launcher) = launched().await;
        let (message, proxy) = ("/run/p does not\u{1b} exist".to_owned(), Some("/run/p".to_owned()));
        let failure = Failure { message, errno: None, missing: true, program: None, packages: false, proxy };
        launcher.say(FromLauncher::Failed(failure)).await;
        until("it is told", || stage.count_told() > 0).await;
        assert_eq!(stage.told(), ["unreached: /run/p: /run/p does not  exist"]);
        stage.command(Command::EndNoted).await;
        launcher.die().await;
        assert_eq!(stage.fakes.log_files.calls.count("discard a 1-1"), 1, "it is no attempt");
    }

    #[test]
    fn what_is_said_of_a_missing_program_is_bounded() {
        let long = "a b".repeat(1000);
        let MissingProgram { name, path, hint, .. } = not_found(&long, Some(&long), "agent".to_owned());
        let lengths = [name, path.unwrap()].map(|text| text.chars().count());
        assert_eq!((lengths, hint), ([201, 601], None));
        let name = "é x".repeat(60);
        let short = not_found(&name, Some("/bin"), "agent".to_owned());
        assert_eq!((short.name.as_str(), short.path.as_deref()), (name.as_str(), Some("/bin")));
        assert!(short.hint.unwrap().ends_with("\"xé\", \"x\"]"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_failed_keeps_its_log() {
        let (stage, mut launcher) = launched().await;
        let failure = Failure {
            message: "no such program".to_owned(),
            errno: Some(ENOEXEC),
            missing: false,
            program: None,
            packages: false,
            proxy: None,
        };
        launcher.say(FromLauncher::Failed(failure)).await;
        until("it is told", || stage.count_told() > 0).await;
        stage.command(Command::EndNoted).await;
        launcher.die().await;
        assert_eq!(stage.told(), ["failed: no such program", "gone"]);
        assert_eq!(stage.fakes.log_files.calls.count("discard"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn its_death_is_the_end_of_its_harness() {
        let (stage, mut launcher) = running().await;
        launcher.die().await;
        assert_eq!(stage.told(), ["ended: its launcher was killed", "gone"]);
        assert_eq!(stage.containment_calls().count("clear"), 1);
        assert_eq!(stage.fakes.sessions.calls.count("see_noticed"), 1);
    }

    #[rstest]
    #[case::of_itself(0, "retry: its launcher ended before it had started anything")]
    #[case::out_of_memory(
        1,
        "retry: the kernel killed it for lack of memory before it had started; allow it more `memory`"
    )]
    #[tokio::test(start_paused = true)]
    async fn its_death_before_it_started_anything_is_retried(#[case] oom_kills: u64, #[case] expected: &str) {
        let (stage, mut launcher) = launched().await;
        stage.fakes.containment.usage.lock().unwrap().oom_kills = oom_kills;
        launcher.die().await;
        assert_eq!(stage.told(), [expected, "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_cleared_after_it_does_not_hold_up_the_end() {
        let (stage, mut launcher) = running().await;
        stage.fakes.containment.clear.set(Err("it is frozen"));
        launcher.die().await;
        assert_eq!(stage.told(), ["ended: its launcher was killed", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn its_end_is_not_over_before_all_is_cleared() {
        let (stage, mut launcher) = running().await;
        stage.fakes.containment.clear.hang();
        launcher.die().await;
        assert!(stage.told().is_empty());
        stage.fakes.containment.clear.set(Ok(()));
        settle().await;
        assert_eq!(stage.told(), ["ended: its launcher was killed", "gone"]);
    }

    #[rstest]
    #[case::init(1)]
    #[case::nobody(0)]
    #[case::a_stranger(std::process::id().cast_signed())]
    #[tokio::test(start_paused = true)]
    async fn a_harness_that_cannot_be_its_own_is_not_believed(#[case] pid: i32) {
        let (stage, mut launcher) = launched().await;
        launcher.say(FromLauncher::Started(Harness { pid, ..harness() })).await;
        launcher.say(FromLauncher::Ended(end(Ending::Code(0)))).await;
        until("nothing is told", || stage.count_told() == 0).await;
        assert!(stage.told().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_is_told_twice_counts_once() {
        let (stage, mut launcher) = running().await;
        launcher.say(FromLauncher::Ended(end(Ending::Code(0)))).await;
        launcher.say(FromLauncher::Ended(end(Ending::Code(1)))).await;
        assert_eq!(stage.told(), ["ended: exited with status 0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_its_environment_lacks_is_told_once() {
        let (stage, mut launcher) = launched().await;
        for _ in 0..3 {
            launcher.say(FromLauncher::Environment("its login shell failed".to_owned())).await;
        }
        until("it is told", || stage.count_told() > 0).await;
        assert_eq!(stage.told(), ["environment: its login shell failed"]);
    }

    #[rstest]
    #[case::for_good(false)]
    #[case::for_a_moment(true)]
    #[tokio::test(start_paused = true)]
    async fn what_it_holds_against_a_credential_counts_unless_it_takes_that_back(#[case] is_taken_back: bool) {
        let (stage, mut launcher) = running().await;
        let held = Held { kind: HoldKind::Login, until: None, evidence: "401".to_owned() };
        launcher.say(FromLauncher::Held(held)).await;
        let doing = |stage: &Stage| stage.told().iter().map(|told| told.contains("doing: Login")).collect::<Vec<_>>();
        assert_eq!(doing(&stage), [true]);
        if is_taken_back {
            launcher.say(FromLauncher::Unheld).await;
            let told = stage.told();
            assert!(told.len() == 1 && told[0].contains("doing: Working"), "{told:?}");
        }
        let end = end(Ending::Code(1));
        launcher.say(FromLauncher::Ended(end)).await;
        let events = stage.told.lock().unwrap();
        let evidence = events.iter().find_map(|event| match event {
            machine::Event::Ended { evidence, .. } => Some(evidence.is_some()),
            _ => None,
        });
        assert_eq!(evidence, Some(!is_taken_back));
    }

    #[tokio::test(start_paused = true)]
    async fn its_words_are_logged_at_powers_of_two() {
        let journal = Journal::of_this_thread();
        let (_stage, mut launcher) = running().await;
        for _ in 0..9 {
            launcher.say(FromLauncher::Warning("look at me".to_owned())).await;
        }
        until("it is logged", || journal.count("look at me") >= 4).await;
        for count in [1, 2, 4, 8] {
            assert_eq!(journal.count(&format!("({count} so far): look at me")), 1, "{count}");
        }
        assert_eq!(journal.count("look at me"), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_daemons_end_leaves_it_alone() {
        let (mut stage, mut launcher) = running().await;
        stage.commands = None;
        settle().await;
        assert_eq!(stage.told(), ["gone"]);
        assert!(launcher.lives());
        assert!(stage.containment_calls().take().iter().all(|call| call != "kill" && call != "clear"));
    }
}

mod a_stop {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn interrupts_through_the_launcher() {
        let (stage, mut launcher) = running().await;
        stage.command(Command::Interrupt).await;
        stage.command(Command::InterruptAgain).await;
        assert_eq!(launcher.heard().await, ["interrupt", "interrupt again"]);
        pass(SECOND * 60).await;
        assert_eq!(stage.containment_calls().count("kill"), 0);
        assert!(launcher.lives());
    }

    #[tokio::test(start_paused = true)]
    async fn kills_the_harness_and_lets_the_launcher_report() {
        let (stage, mut launcher) = running().await;
        stage.command(Command::Interrupt).await;
        stage.command(Command::Kill).await;
        assert_eq!(stage.containment_calls().count("kill"), 1);
        launcher.say(FromLauncher::Ended(end(Ending::Signal(9)))).await;
        assert_eq!(stage.told(), ["ended: ended by SIGKILL"]);
        assert!(launcher.lives());
    }

    #[tokio::test(start_paused = true)]
    async fn kills_again_with_the_launcher_if_that_does_not_end() {
        let (stage, mut launcher) = running().await;
        stage.command(Command::Kill).await;
        pass(END_TIMEOUT.saturating_sub(SECOND)).await;
        assert_eq!(stage.containment_calls().count("kill"), 1);
        assert!(launcher.lives());
        pass(SECOND).await;
        assert!(stage.containment_calls().count("kill") > 1);
        launcher.see_end().await;
        assert_eq!(stage.told(), ["ended: its launcher was killed", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn is_said_again_to_a_launcher_that_comes_back() {
        let (stage, mut launcher) = running().await;
        stage.command(Command::Interrupt).await;
        launcher.hang_up().await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        assert_eq!(launcher.heard().await, ["report", "interrupt"]);
        assert!(stage.told().is_empty());
    }
}

mod a_lost_connection {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn may_be_made_again_in_time() {
        let (stage, mut launcher) = running().await;
        launcher.hang_up().await;
        pass(REPORT_TIMEOUT.saturating_sub(SECOND)).await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        pass(REPORT_TIMEOUT * 2).await;
        assert!(launcher.lives());
        assert!(stage.told().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn that_is_not_made_again_is_the_launchers_end() {
        let (stage, mut launcher) = running().await;
        launcher.hang_up().await;
        pass(REPORT_TIMEOUT).await;
        launcher.see_end().await;
        assert_eq!(stage.told(), ["ended: its launcher was killed", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_is_made_again_tells_of_the_end_meanwhile() {
        let (stage, mut launcher) = running().await;
        launcher.hang_up().await;
        let ended = Progress::Ended { harness: harness(), end: end(Ending::Code(4)) };
        stage.report(&mut launcher, ended).await;
        assert_eq!(stage.told(), ["ended: exited with status 4"]);
    }
}

mod somebody_else {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn with_nothing_launched_is_sent_away() {
        let (stage, _launcher) = running().await;
        let mut other = FakeLauncher::start();
        stage.report(&mut other, Progress::New).await;
        assert_eq!(other.heard().await, ["unwanted", "closed"]);
        assert!(other.lives());
    }

    #[tokio::test(start_paused = true)]
    async fn who_claims_to_run_the_agent_is_ended() {
        let (stage, mut launcher) = running().await;
        let mut other = FakeLauncher::start();
        stage.report(&mut other, Progress::Running(harness())).await;
        other.see_end().await;
        assert!(launcher.lives());
        assert!(stage.told().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_poses_again_and_again_is_logged_at_powers_of_two() {
        let journal = Journal::of_this_thread();
        let (stage, mut launcher) = running().await;
        for count in 1..=9 {
            let mut other = FakeLauncher::start();
            stage.report(&mut other, Progress::Running(harness())).await;
            other.see_end().await;
            assert_eq!(journal.count(&format!("({count} so far)")), usize::from([1, 2, 4, 8].contains(&count)));
        }
        assert!(launcher.lives());
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_claim_to_run_the_agent_do_not_hold_up_a_stop() {
        let (stage, mut launcher) = running().await;
        stage.fakes.containment.kill_below.hang();
        let room = Arc::new(Semaphore::new(2 * CLEARINGS));
        let mut others: Vec<_> = (0..2 * CLEARINGS).map(|_| FakeLauncher::start()).collect();
        let commands = stage.commands.as_ref().unwrap();
        for other in &mut others {
            let mut visitor = other.report("a", Progress::Running(harness()));
            visitor.permit = Arc::clone(&room).try_acquire_owned().unwrap();
            commands.send(Command::Visitor(Box::new(visitor))).unwrap();
        }
        let start = Instant::now();
        stage.command(Command::Interrupt).await;
        assert_eq!(launcher.heard().await, ["interrupt"]);
        stage.command(Command::Kill).await;
        assert_eq!(stage.containment_calls().count("kill"), 1);
        assert_eq!(room.available_permits(), 2 * CLEARINGS);
        assert_eq!(start.elapsed(), Duration::ZERO);

        let (cleared, unseen) = others.split_at_mut(CLEARINGS);
        for other in unseen {
            other.see_end().await;
        }
        assert_eq!(stage.containment_calls().count("below"), CLEARINGS);
        assert!(cleared.iter_mut().all(FakeLauncher::lives), "what is below them is found only as long as they live");
        stage.fakes.containment.kill_below.set(());
        for other in cleared {
            other.see_end().await;
        }
        assert!(launcher.lives());

        // There is room to look again.
        let mut other = FakeLauncher::start();
        stage.report(&mut other, Progress::Running(harness())).await;
        other.see_end().await;
        assert_eq!(stage.containment_calls().count("below"), CLEARINGS + 1);
    }
}

mod its_log {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn continues_in_other_files_when_it_was_moved() {
        let (stage, mut launcher) = running().await;
        stage.fakes.log_files.report(guard::Finding::Moved);
        assert_eq!(launcher.heard().await, ["keep"]);
        assert_eq!(stage.told(), ["logged"]);
        assert_eq!(stage.fakes.log_files.calls.take(), ["make a 1", "make a 1"]);
        pass(log_keeper::SWITCH_TIME).await;
        assert_eq!(stage.fakes.log_files.calls.take(), ["has_moved"]);
    }

    #[tokio::test(start_paused = true)]
    async fn is_not_replaced_again_at_once() {
        let (stage, mut launcher) = running().await;
        for _ in 0..3 {
            stage.fakes.log_files.report(guard::Finding::Moved);
            settle().await;
        }
        assert_eq!(launcher.heard().await, ["keep"]);
        pass(log_keeper::REMAKE_INTERVAL).await;
        stage.fakes.log_files.report(guard::Finding::Moved);
        assert_eq!(launcher.heard().await, ["keep"]);
    }

    #[tokio::test(start_paused = true)]
    async fn is_flawed_when_it_cannot_be_replaced() {
        let (stage, mut launcher) = running().await;
        stage.fakes.log_files.make.set(Err("No space left on device".to_owned()));
        stage.fakes.log_files.report(guard::Finding::Moved);
        assert!(launcher.heard().await.is_empty());
        assert_eq!(stage.told(), ["logged: No space left on device"]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_takes_too_much_again_and_again_ends_its_launcher() {
        let (stage, mut launcher) = running().await;
        let flaw = "its launcher took 9 bytes of the disk for its log, more than it was told to; they were given back";
        for count in 1..=3 {
            stage.fakes.log_files.report(guard::Finding::Excess { occupied: 9, count });
            settle().await;
            assert_eq!(stage.containment_calls().count("kill"), usize::from(count == 3));
        }
        assert_eq!(stage.told(), [format!("logged: {flaw}")]);
        launcher.say(FromLauncher::Ended(end(Ending::Signal(9)))).await;
        assert_eq!(stage.told(), [format!("ended: it was ended, because {flaw} 3 times")]);
    }
}

mod its_limits {
    use super::*;

    async fn limit(stage: &Stage, memory: u64) {
        let limits = Limits { memory: Some(memory), ..Limits::default() };
        stage.command(Command::Limit(Box::new(limits))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn change_while_it_runs() {
        let (stage, _launcher) = running().await;
        limit(&stage, 1).await;
        stage.fakes.containment.limit.set(Some("systemd does not run".to_owned()));
        limit(&stage, 2).await;
        assert_eq!(stage.told(), ["limited", "limited: systemd does not run"]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_are_still_changing_do_not_hold_up_a_stop() {
        let (stage, mut launcher) = running().await;
        stage.fakes.containment.limit.hang();
        limit(&stage, 1).await;
        limit(&stage, 2).await;
        stage.command(Command::Interrupt).await;
        assert_eq!(launcher.heard().await, ["interrupt"]);
        stage.fakes.containment.limit.set(None);
        settle().await;
        // The first change was given up for the second.
        assert_eq!(stage.told(), ["limited"]);
    }
}

mod a_survivor {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn on_record_is_followed_when_it_reports() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.resume(Some(launcher.identity())).await;
        // It may take as long as it lives.
        pass(REPORT_TIMEOUT * 10).await;
        assert!(stage.told().is_empty());
        stage.report(&mut launcher, Progress::Running(harness())).await;
        assert_eq!(stage.told(), ["met", "opened", "started"]);
        launcher.say(FromLauncher::Ended(end(Ending::Code(0)))).await;
        assert_eq!(stage.told(), ["ended: exited with status 0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_ended_meanwhile_says_how() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.resume(Some(launcher.identity())).await;
        let ended = Progress::Ended { harness: harness(), end: end(Ending::Code(5)) };
        stage.report(&mut launcher, ended).await;
        assert_eq!(stage.told(), ["met", "opened", "started", "ended: exited with status 5"]);
        stage.command(Command::EndNoted).await;
        assert_eq!(launcher.heard().await, ["noted"]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_could_not_start_says_why() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.resume(Some(launcher.identity())).await;
        let failure = Failure {
            message: "no such program".to_owned(),
            errno: None,
            missing: false,
            program: None,
            packages: false,
            proxy: None,
        };
        stage.report(&mut launcher, Progress::Failed(failure)).await;
        pass(SECRETS_TIMEOUT).await;
        until("it is told", || stage.count_told() >= 3).await;
        // Its secrets are not known to this daemon yet.
        assert_eq!(stage.told(), ["met".to_owned(), "opened".to_owned(), format!("failed: {UNSAID}")]);
    }

    #[tokio::test(start_paused = true)]
    async fn with_nothing_to_do_is_sent_away() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.resume(Some(launcher.identity())).await;
        stage.report(&mut launcher, Progress::New).await;
        assert_eq!(stage.told(), ["met", "opened", "cut off"]);
        assert_eq!(launcher.heard().await, ["unwanted"]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_another_wire_version_is_followed() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        launcher.version = WIRE_VERSION + 1;
        stage.resume(Some(launcher.identity())).await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        assert_eq!(stage.told(), ["met", "opened", "started"]);
        stage.command(Command::Interrupt).await;
        assert_eq!(launcher.heard().await, ["report", "interrupt"]);
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_pane_is_believed_if_its_group_proves_it() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        *stage.fakes.containment.whose.lock().unwrap() = Groups::Of(Whose::Its);
        stage.fakes.sessions.panes.set(Ok(vec![launcher.pane()]));
        stage.resume(None).await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        assert_eq!(stage.told(), ["met", "opened", "found", "started"]);
    }

    #[rstest]
    #[case::in_anothers_group(Whose::Anothers)]
    #[case::in_no_group(Whose::Nobodys)]
    #[tokio::test(start_paused = true)]
    async fn in_the_pane_is_ended_if_its_group_refutes_it(#[case] whose: Whose) {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        *stage.fakes.containment.whose.lock().unwrap() = Groups::Of(whose);
        stage.fakes.sessions.panes.set(Ok(vec![launcher.pane()]));
        stage.resume(None).await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        launcher.see_end().await;
        assert_eq!(stage.told(), ["cut off", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn whose_group_cannot_be_read_is_neither_believed_nor_ended() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        *stage.fakes.containment.whose.lock().unwrap() = Groups::Unreadable;
        stage.fakes.sessions.panes.set(Ok(vec![launcher.pane()]));
        stage.resume(None).await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        assert!(stage.told().is_empty());
        assert!(launcher.lives());
        // It comes again.
        *stage.fakes.containment.whose.lock().unwrap() = Groups::Of(Whose::Its);
        stage.report(&mut launcher, Progress::Running(harness())).await;
        assert_eq!(stage.told(), ["met", "opened", "found", "started"]);
    }

    #[rstest]
    #[case::is_its_parent(Ok(Some(std::process::id().cast_signed())), true)]
    #[case::is_not_its_parent(Ok(Some(ENDED_PID)), false)]
    #[tokio::test(start_paused = true)]
    async fn is_proven_without_groups_by_a_tmux_server_that(
        #[case] server: Result<Option<i32>, Trouble>,
        #[case] is_proven: bool,
    ) {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.server.set(server);
        stage.fakes.sessions.panes.set(Ok(vec![launcher.pane()]));
        stage.resume(None).await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        if is_proven {
            assert_eq!(stage.told(), ["met", "opened", "found", "started"]);
        } else {
            launcher.see_end().await;
            assert_eq!(stage.told(), ["cut off", "gone"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_pane_that_does_not_report_is_ended() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.fakes.sessions.panes.set(Ok(vec![launcher.pane()]));
        stage.resume(None).await;
        pass(REPORT_TIMEOUT.saturating_sub(SECOND)).await;
        assert!(launcher.lives() && stage.told().is_empty());
        pass(SECOND).await;
        launcher.see_end().await;
        assert_eq!(stage.told(), ["cut off", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_is_found_before_a_launch_is_the_attempt() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        *stage.fakes.containment.whose.lock().unwrap() = Groups::Of(Whose::Its);
        stage.fakes.sessions.panes.set(Ok(vec![launcher.pane()]));
        stage.begin(launch(true)).await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        assert_eq!(stage.told(), ["met", "opened", "found", "started", "limited"]);
        assert_eq!(stage.fakes.sessions.calls.count("open"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn outside_of_the_pane_is_the_attempt_if_it_is_proven() {
        let (mut stage, mut launcher, mut survivor) = (Stage::new(), FakeLauncher::start(), FakeLauncher::start());
        *stage.fakes.containment.whose.lock().unwrap() = Groups::Of(Whose::Its);
        stage.fakes.sessions.open.hang();
        stage.begin(launch(true)).await;
        stage.report(&mut survivor, Progress::Running(harness())).await;
        stage.report(&mut launcher, Progress::New).await;
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        settle().await;
        assert_eq!(stage.told(), ["opened", "met", "opened", "found", "started", "limited"]);
        assert_eq!(launcher.heard().await, ["unwanted", "closed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_cannot_be_judged_keeps_another_from_starting() {
        let (mut stage, launcher, mut survivor) = (Stage::new(), FakeLauncher::start(), FakeLauncher::start());
        *stage.fakes.containment.whose.lock().unwrap() = Groups::Unreadable;
        stage.fakes.sessions.open.set(Ok(launcher.pid()));
        stage.begin(launch(true)).await;
        stage.report(&mut survivor, Progress::Running(harness())).await;
        assert_eq!(stage.told(), ["opened", "retry: it could not be found out whether it runs already", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn interrupted_before_it_reports_is_interrupted_when_it_does() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.resume(Some(launcher.identity())).await;
        stage.command(Command::Interrupt).await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        assert_eq!(launcher.heard().await, ["report", "interrupt"]);
    }

    #[tokio::test(start_paused = true)]
    async fn killed_before_it_reports_may_still_report() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.resume(Some(launcher.identity())).await;
        stage.command(Command::Kill).await;
        pass(RECONNECT_TIMEOUT.saturating_sub(SECOND)).await;
        assert!(launcher.lives());
        pass(SECOND).await;
        launcher.see_end().await;
        assert_eq!(stage.told(), ["ended: ended by SIGKILL", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_writes_elsewhere_gets_other_files() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        let elsewhere = tempfile::tempfile().unwrap();
        launcher.log = Some(Log { file: FileId::of(&elsewhere).unwrap(), size: SIZE, lost_at: None });
        stage.fakes.log_files.find.set(Ok(true));
        stage.resume(Some(launcher.identity())).await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        assert_eq!(launcher.heard().await, ["report", "keep"]);
        assert_eq!(stage.told(), ["met", "opened", "started", "logged"]);
    }

    #[tokio::test(start_paused = true)]
    async fn whose_files_cannot_be_looked_for_keeps_its_own() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        let elsewhere = tempfile::tempfile().unwrap();
        launcher.log = Some(Log { file: FileId::of(&elsewhere).unwrap(), size: SIZE, lost_at: None });
        stage.fakes.log_files.find.set(Err(crate::supervisor::log_files::NotFound));
        stage.resume(Some(launcher.identity())).await;
        stage.report(&mut launcher, Progress::Running(harness())).await;
        assert_eq!(launcher.heard().await, ["report"]);
    }

    #[tokio::test(start_paused = true)]
    async fn that_dies_while_it_is_awaited_has_ended() {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        stage.resume(Some(launcher.identity())).await;
        launcher.die().await;
        assert_eq!(stage.told(), ["ended: its launcher was killed", "gone"]);
    }
}

mod nobody_left {
    use super::*;

    /// An attempt that an earlier daemon had put on record, whose launcher has ended.
    async fn resume_ended(panes: impl FnOnce(i32) -> Result<Vec<Pane>, Trouble>) -> (Stage, i32) {
        let (mut stage, mut launcher) = (Stage::new(), FakeLauncher::start());
        let identity = launcher.identity();
        stage.fakes.sessions.panes.set(panes(launcher.pid()));
        launcher.die().await;
        stage.resume(Some(identity)).await;
        (stage, launcher.pid())
    }

    #[tokio::test(start_paused = true)]
    async fn ends_as_its_pane_says() {
        let (stage, _) = resume_ended(|pid| Ok(vec![dead_pane(pid, Some(7))])).await;
        assert_eq!(stage.told(), ["ended: exited with status 7", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_somehow_where_the_pane_is_gone() {
        let (stage, _) = resume_ended(|_| Ok(Vec::new())).await;
        assert_eq!(stage.told(), ["ended: it ended while no daemon ran, and its pane is gone", "gone"]);
        assert_eq!(stage.containment_calls().take(), ["clear_after a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_somehow_where_there_is_no_server() {
        let (stage, _) = resume_ended(|_| Err(Trouble::NoServer)).await;
        assert_eq!(stage.told(), ["ended: it ended while no daemon ran, and its pane is gone", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn had_started_nothing_if_the_pane_says_so() {
        let nothing_started = Some(i32::from(launch_command::NOTHING_STARTED));
        let (stage, _) = resume_ended(|pid| Ok(vec![dead_pane(pid, nothing_started)])).await;
        assert_eq!(stage.told(), ["cut off", "ended: exited with status 125", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn is_not_taken_for_dead_while_panes_cannot_be_read() {
        let mut stage = Stage::new();
        stage.fakes.sessions.panes.set(Err(Trouble::Words("the server does not answer")));
        stage.resume(None).await;
        pass(REPORT_TIMEOUT * 6).await;
        assert!(stage.told().is_empty());
        stage.fakes.sessions.panes.set(Ok(Vec::new()));
        pass(POLL_INTERVAL).await;
        assert_eq!(stage.told(), ["cut off", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_launch_while_panes_cannot_be_read() {
        let mut stage = Stage::new();
        stage.fakes.sessions.panes.set(Err(Trouble::Words("the server does not answer")));
        stage.begin(launch(true)).await;
        assert_eq!(stage.told(), ["retry: the server does not answer", "gone"]);
        assert_eq!(stage.fakes.sessions.calls.count("open"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn is_asked_about_for_a_while_only_once_it_has_ended() {
        let (stage, _) = resume_ended(|_| Err(Trouble::Words("the server does not answer"))).await;
        pass(REPORT_TIMEOUT).await;
        // Then whatever runs in the pane is asked for, and that without end.
        assert!(stage.told().is_empty());
        stage.command(Command::Kill).await;
        pass(REPORT_TIMEOUT + POLL_INTERVAL).await;
        assert_eq!(stage.told(), ["ended: it ended while no daemon ran, and its pane is gone", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn is_awaited_until_tmux_notices_the_end() {
        let (stage, pid) = resume_ended(|pid| Ok(vec![Pane { pid, end: None }])).await;
        assert!(stage.told().is_empty());
        assert_eq!(stage.fakes.sessions.calls.count("see_noticed"), 1);
        stage.fakes.sessions.panes.set(Ok(vec![dead_pane(pid, Some(0))]));
        pass(POLL_INTERVAL).await;
        assert_eq!(stage.told(), ["ended: exited with status 0", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn was_cut_off_where_nothing_is_on_record() {
        let mut stage = Stage::new();
        stage.fakes.sessions.panes.set(Ok(vec![dead_pane(ENDED_PID, Some(0))]));
        stage.resume(None).await;
        assert_eq!(stage.told(), ["cut off", "gone"]);
    }
}

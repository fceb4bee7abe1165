//! Runs clients of the tmux server: which program, with which arguments, and what their exit means.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::parse::{self, Complaint};
use super::{DEFAULT_SHELL, Error, OLDEST, Tmux, USUAL_SHELL};
use crate::agent::harness::rule::Rule;
use crate::deputy::screen::Reading;
use crate::deputy::{Input, Output, Program, RunError, Server};
use crate::sys::rate_limit::Brake;

/// How long a client may take. A stopped server answers nothing.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server that cuts off its clients may take to end, if that is why.
const DISCONNECT_GRACE: Duration = Duration::from_millis(100);

/// Refuses versions that are too old. A tmux that does not report a version, such as a build of a branch, is tried.
pub(crate) fn judge_version(what: &'static str, printed: &str) -> Result<(), Error> {
    match parse::version(printed) {
        Some(version) if version < OLDEST => Err(Error::TooOld { what, found: parse::message(printed) }),
        _ => Ok(()),
    }
}

/// Replaces the shell in a client's arguments with the usual one; returns whether they named another.
fn stand_in_for_shell(words: &mut [String]) -> bool {
    let at = words.iter().position(|word| word == DEFAULT_SHELL).map(|at| at + 1);
    let shell = at.and_then(|at| words.get_mut(at)).filter(|shell| *shell != USUAL_SHELL);
    shell.map(|shell| USUAL_SHELL.clone_into(shell)).is_some()
}

/// The outcome of a client that ran to its end.
enum Answer {
    Done(Output),
    Complaint(Complaint, String),
}

/// A client's argument list: several commands, run one after the other.
#[derive(Debug, Default)]
pub(super) struct Arguments(Vec<String>);

impl Arguments {
    pub(super) fn command(&mut self, words: &[&str]) {
        self.command_with(words, &[]);
    }

    pub(super) fn command_with(&mut self, words: &[&str], more: &[String]) {
        if !self.0.is_empty() {
            self.0.push(";".to_owned());
        }
        self.0.extend(words.iter().copied().chain(more.iter().map(String::as_str)).map(parse::escape_argument));
    }
}

/// How often a client is started for one operation: with the installed program, with the server's own, and once more after the
/// server recreated its socket.
const TRIES: u32 = 3;

impl Tmux {
    pub(super) async fn check_version(&self) -> Result<(), Error> {
        let output = self.deputy.tmux(Program::Installed, vec!["-V".to_owned()], TIMEOUT).await??;
        judge_version("what is installed", &output.stdout)
    }

    /// Checks whether tmux is too old for the command that it does not know.
    async fn check_versions(&self) -> Result<(), Error> {
        self.check_version().await?;
        let mut arguments = Arguments::default();
        arguments.command(&["display-message", "-p", "tmux #{version}"]);
        match self.ask(self.program(), self.words(&["-N"], arguments)).await {
            Ok(Answer::Done(output)) => judge_version("the server that runs", &output.stdout),
            // The message that led here says more than another error.
            _ => Ok(()),
        }
    }

    /// Runs a client that never starts a server by itself: a server keeps the command line that started it.
    pub(super) async fn client(&self, operation: &'static str, arguments: Arguments) -> Result<Output, Error> {
        self.run(operation, &["-N"], arguments).await
    }

    pub(super) async fn run(
        &self,
        operation: &'static str,
        flags: &[&str],
        arguments: Arguments,
    ) -> Result<Output, Error> {
        let mut words = self.words(flags, arguments);
        // A client of the server's own program cannot start a server.
        let mut program = if flags.contains(&"-N") { self.program() } else { Program::Installed };
        let mut tries = TRIES;
        loop {
            let (complaint, message) = match self.ask(program.clone(), words.clone()).await {
                Ok(Answer::Done(output)) => {
                    self.note_program(&program);
                    return Ok(output);
                }
                // Determined each time: the shell may be usable again.
                Ok(Answer::Complaint(Complaint::Request, message))
                    if parse::is_about_shell(&message) && stand_in_for_shell(&mut words) =>
                {
                    if !self.is_shell_refused.swap(true, Ordering::Relaxed) {
                        tracing::warn!("tmux: {message}; its windows get {USUAL_SHELL} in its place");
                    }
                    continue;
                }
                Ok(Answer::Complaint(Complaint::Request, message)) => {
                    if parse::is_about_words(&message) {
                        self.check_versions().await?;
                    }
                    return Err(Error::Refused { operation, message });
                }
                Ok(Answer::Complaint(complaint, message)) => (complaint, message),
                // The server has ended, or the file that it was started from cannot be run again.
                Err(Error::Run(error)) if program != Program::Installed => (Complaint::NotReached, error.to_string()),
                Err(error) => return Err(error),
            };
            tries -= 1;
            program = match self.tend().await? {
                // The next server is started from the installed program.
                Server::None if program != Program::Installed => {
                    self.note_program(&Program::Installed);
                    Program::Installed
                }
                Server::None => return Err(Error::NoServer { socket: self.socket.clone(), message }),
                Server::Silent { pid } => return Err(Error::Silent { socket: self.socket.clone(), pid }),
                Server::Serving { pid, is_installed: false, .. } if tries == 0 => {
                    return Err(Error::Versions { socket: self.socket.clone(), pid, message });
                }
                Server::Serving { .. } if tries == 0 => return Err(Error::Refused { operation, message }),
                Server::Serving { is_installed: false, .. }
                    if complaint == Complaint::CutOff
                        && program == Program::Installed
                        && !self.understands_installed().await? =>
                {
                    Program::OfServer(self.socket.clone())
                }
                // The operation may have been done, and must not be done twice.
                Server::Serving { .. } if complaint == Complaint::CutOff => {
                    sleep(DISCONNECT_GRACE).await;
                    return Err(match self.tend().await? {
                        Server::None => Error::NoServer { socket: self.socket.clone(), message },
                        Server::Serving { pid, is_installed: false, .. } => {
                            Error::Versions { socket: self.socket.clone(), pid, message }
                        }
                        Server::Serving { .. } | Server::Silent { .. } => Error::Refused { operation, message },
                    });
                }
                Server::Serving { .. } => Program::Installed,
            };
        }
    }

    /// Runs one client, once: an operation that was cut off may have been done.
    pub(super) async fn once(&self, operation: &'static str, arguments: Arguments, input: Input) -> Result<(), Error> {
        let words = self.words(&["-N"], arguments);
        match self.ask_reading(self.program(), words, input).await? {
            Answer::Done(_) => Ok(()),
            Answer::Complaint(Complaint::NotReached, message) => {
                Err(Error::NoServer { socket: self.socket.clone(), message })
            }
            Answer::Complaint(_, message) => Err(Error::Refused { operation, message }),
        }
    }

    /// Has the deputy run one client, and read what that prints by these rules. The inner error is what tmux complains of.
    pub(super) async fn read(&self, arguments: Arguments, rules: &[Rule]) -> Result<Result<Reading, String>, Error> {
        let words = self.words(&["-N"], arguments);
        let reading = self.deputy.read_screen(self.program(), words, rules.to_vec(), TIMEOUT);
        Ok(self.in_time(reading).await???)
    }

    /// Whether the server answers a client of the installed program.
    async fn understands_installed(&self) -> Result<bool, Error> {
        let mut question = Arguments::default();
        question.command(&["display-message", "-p", "#{pid}"]);
        let answer = self.ask(Program::Installed, self.words(&["-N"], question)).await?;
        Ok(!matches!(answer, Answer::Complaint(Complaint::CutOff | Complaint::NotReached, _)))
    }

    pub(super) fn words(&self, flags: &[&str], arguments: Arguments) -> Vec<String> {
        let mut words: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        words.extend(["-S".to_owned(), self.socket.to_string_lossy().into_owned()]);
        words.extend(arguments.0);
        words
    }

    /// Runs one client.
    async fn ask(&self, program: Program, words: Vec<String>) -> Result<Answer, Error> {
        self.ask_reading(program, words, Input::default()).await
    }

    /// Runs one client with something on its standard input.
    async fn ask_reading(&self, program: Program, words: Vec<String>, input: Input) -> Result<Answer, Error> {
        match self.in_time(self.deputy.tmux_reading(program, words, input, TIMEOUT)).await?? {
            Ok(output) if output.success => Ok(Answer::Done(output)),
            Ok(output) => {
                let message = parse::message(&output.stderr);
                Ok(Answer::Complaint(parse::complaint(&message), message))
            }
            Err(RunError::TimedOut { .. }) => Err(Error::Silent { socket: self.socket.clone(), pid: None }),
            Err(error) => Err(error.into()),
        }
    }

    /// The program that the server last understood.
    pub(super) fn program(&self) -> Program {
        if self.is_apart.load(Ordering::Relaxed) { Program::OfServer(self.socket.clone()) } else { Program::Installed }
    }

    fn note_program(&self, program: &Program) {
        let is_apart = *program != Program::Installed;
        if is_apart && !self.is_apart.swap(is_apart, Ordering::Relaxed) {
            // A server can fake this as often as it likes.
            static BRAKE: Brake = Brake::new();
            if BRAKE.pass().is_none() {
                self.is_apart.store(is_apart, Ordering::Relaxed);
                return;
            }
            tracing::warn!(
                "the tmux server on {} does not understand the installed tmux, and agentd uses the one that the server was started from; to use the installed one, end the server when its programs may end (tmux kill-server)",
                self.socket.display()
            );
        }
        self.is_apart.store(is_apart, Ordering::Relaxed);
    }
}

//! Waits for a run: until it is known, begins, prints, and is over.

use std::process::ExitCode;
use std::time::Duration;

use nix::libc;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::ended;
use super::outputs::{Sink, pass};
use super::spool::Spool;
use crate::cli::output::{BETWEEN_DAEMONS, Failure, block_on, complain, print, say};
use crate::client::{Answer, Client, Error};
use crate::text::printable::json_line;
use crate::wire::run::RunStatus;
use crate::wire::status::State;

/// As `timeout(1)` has it.
const TIMED_OUT: u8 = 124;

/// The pause after the first question, and the longest.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(500);

/// For how long a run may be unknown whose task is gone: it may be about to be listed.
const TO_BE_LISTED: Duration = Duration::from_secs(2);

/// How many bytes of each output a document has at most.
const MOST_OUTPUT: u64 = 1 << 20;

/// What is waited for, and how.
pub struct Waiting {
    /// The daemon.
    pub client: Client,
    /// Where the task is.
    pub spool: Spool,
    /// The run: `NAME/ID`.
    pub name: String,
    /// For how long at most.
    pub timeout: Option<Duration>,
    /// Whether one document is printed in the end, instead of the output as it comes.
    pub is_json: bool,
}

/// How the waiting ended.
enum End {
    /// The run is over.
    Over(Box<Answer<RunStatus>>),
    /// It never was: its task was refused or removed before it was taken.
    Never(u8, String),
    /// The time was up.
    TimedOut(Option<Box<RunStatus>>),
    /// This signal came.
    Signal(i32),
}

/// Waits, and prints what comes: data to stdout, messages to stderr.
pub fn run(waiting: &Waiting) -> ExitCode {
    let work = async {
        let ended = waiting.wait().await?;
        if let End::Over(answer) = &ended
            && waiting.is_json
        {
            return Ok((ended_with(&answer.value), Some(waiting.document(answer).await?)));
        }
        Ok::<_, Failure>((waiting.conclude(ended), None))
    };
    match block_on(ended::UNKNOWN, work) {
        Ok(Ok(((status, message), document))) => {
            if let Some(message) = message {
                say(&message);
            }
            print(document.unwrap_or_default().as_bytes(), status, ended::UNKNOWN)
        }
        // The reader has seen enough.
        Ok(Err(Failure::Print(error))) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Ok(Err(failure)) => complain(ended::UNKNOWN, &failure.to_string()),
        Err(code) => code,
    }
}

/// The exit status of a run that is over, and what is to be said of it.
fn ended_with(run: &RunStatus) -> (u8, Option<String>) {
    ended::status(&run.as_agent())
}

impl Waiting {
    async fn wait(&self) -> Result<End, Failure> {
        let limit = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut last = None;
        let up = async {
            match limit {
                Some(limit) => sleep_until(limit).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            biased;
            ended = self.to_the_end(&mut last) => Some(ended?),
            number = interrupted() => Some(End::Signal(number.map_err(Failure::Print)?)),
            () = up => None,
        };
        Ok(ended.unwrap_or_else(|| End::TimedOut(last.map(Box::new))))
    }

    async fn to_the_end(&self, last: &mut Option<RunStatus>) -> Result<End, Failure> {
        let (mut pause, mut is_away) = (SHORTEST, false);
        let (mut of_stdout, mut of_stderr) = (0, 0);
        let (mut stdout, mut stderr) = (Sink::stdout(), Sink::stderr());
        let mut gone_since = None;
        loop {
            match self.client.run(&self.name).await {
                Ok(answer) => {
                    (is_away, gone_since) = (false, None);
                    let (run, has_begun) = (answer.value.clone(), answer.value.state != State::Waiting);
                    *last = Some(run.clone());
                    let has_printed = run.is_over() && run.attempts > 0;
                    if (has_printed || has_begun && !run.is_over()) && !self.is_json {
                        let (out, error) = tokio::join!(
                            pass(&self.client, &self.name, "stdout", &mut of_stdout, &mut stdout),
                            pass(&self.client, &self.name, "stderr", &mut of_stderr, &mut stderr),
                        );
                        for passed in [out, error] {
                            match passed {
                                Err(Failure::Ask(error)) if error.is_unknown_name() => {}
                                passed => passed?,
                            }
                        }
                    }
                    if has_begun {
                        pause = SHORTEST;
                    }
                    if run.is_over() {
                        return Ok(End::Over(Box::new(answer)));
                    }
                }
                Err(Error::NoSuchRun { .. }) if last.is_some() => {
                    return Ok(End::Never(ended::UNKNOWN, format!("{} is no longer kept", self.name)));
                }
                Err(Error::NoSuchRun { .. }) => {
                    (is_away, *last) = (false, None);
                    if self.has_task() {
                        gone_since = None;
                    } else if gone_since.get_or_insert_with(Instant::now).elapsed() > TO_BE_LISTED {
                        return Ok(self.never());
                    }
                }
                Err(error) if error.may_come_back() => {
                    // A task that is removed while no daemon runs is not wanted any more.
                    if !self.has_task()
                        && last.is_none()
                        && gone_since.get_or_insert_with(Instant::now).elapsed() > TO_BE_LISTED
                    {
                        return Ok(self.never());
                    }
                    if !std::mem::replace(&mut is_away, true) {
                        say(&format!("{error}; waiting for it"));
                    }
                    pause = pause.max(BETWEEN_DAEMONS);
                }
                Err(error) => return Err(Failure::Ask(error)),
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST);
        }
    }

    /// Whether the task is in the spool, or that cannot be found out.
    fn has_task(&self) -> bool {
        let Some((agent, id)) = self.name.split_once('/') else { return true };
        self.spool.has(agent, id) != Some(false)
    }

    /// A run of which nobody knows, and whose task is gone.
    fn never(&self) -> End {
        let (agent, id) = self.name.split_once('/').unwrap_or((&self.name, ""));
        match self.spool.refusal(agent, id) {
            Some(why) => End::Never(ended::REFUSED, format!("{} was refused: {why}", self.name)),
            None => End::Never(ended::OTHERWISE, format!("{} was cancelled: its task was removed", self.name)),
        }
    }

    /// The exit status, and what is to be said.
    fn conclude(&self, ended: End) -> (u8, Option<String>) {
        let name = &self.name;
        let goes_on = format!("the run goes on; agentd wait {name} waits for it, and agentd cancel {name} ends it");
        match ended {
            End::Over(answer) => ended_with(&answer.value),
            End::Never(status, message) => (status, Some(message)),
            End::TimedOut(last) => {
                let after = humantime::format_duration(self.timeout.unwrap_or_default());
                let seen = last.map_or_else(
                    || "it is not known yet".to_owned(),
                    |run| {
                        run.reason
                            .map_or_else(|| format!("it is {}", run.state), |why| format!("it is {}: {why}", run.state))
                    },
                );
                (TIMED_OUT, Some(format!("timed out after {after}: {seen}; {goes_on}")))
            }
            End::Signal(number) => {
                let number = u8::try_from(number).unwrap_or_default();
                (number.saturating_add(128), Some(goes_on))
            }
        }
    }

    /// All that there is to say of a run that is over, as one document.
    async fn document(&self, answer: &Answer<RunStatus>) -> Result<String, Failure> {
        let run = &answer.value;
        let (stdout, stdout_truncated) = self.output("stdout", run.stdout_bytes, run.truncated).await?;
        let (stderr, stderr_truncated) = self.output("stderr", run.stderr_bytes, run.truncated).await?;
        let mut rest: Map<String, Value> = serde_json::from_slice(&answer.body).map_err(Failure::Malformed)?;
        let [_, _, outcome, result] = ["id", "name", "outcome", "result"].map(|key| rest.remove(key));
        let (status, _) = ended_with(run);
        Ok(json_line(&Document {
            id: &run.id,
            name: &run.name,
            outcome,
            exit_code: Some(status).filter(|_| run.exit.is_some()),
            stdout,
            stdout_truncated,
            stderr,
            stderr_truncated,
            result,
            rest,
        }))
    }

    /// The end of an output, and whether that is not all.
    async fn output(&self, output: &str, bytes: Option<u64>, is_truncated: bool) -> Result<(String, bool), Failure> {
        let query = format!("tail={MOST_OUTPUT}");
        let mut stream = match self.client.output(&self.name, output, &query).await {
            Ok(stream) => stream,
            Err(Error::Refused { status, .. }) if status.as_u16() == 404 => {
                return Ok((String::new(), bytes.unwrap_or(0) > 0));
            }
            Err(error) => return Err(Failure::Ask(error)),
        };
        let mut kept = Vec::new();
        while let Some(piece) = stream.next().await.map_err(Failure::Ask)? {
            kept.extend_from_slice(&piece);
        }
        let length = u64::try_from(kept.len()).unwrap_or(u64::MAX);
        let is_cut = bytes.is_some_and(|bytes| bytes > MOST_OUTPUT || is_truncated && bytes > length);
        Ok((String::from_utf8_lossy(&kept).into_owned(), is_cut))
    }
}

/// The end of a run for programs. Keys may be added, none removed or renamed.
#[derive(Serialize)]
struct Document<'a> {
    id: &'a str,
    name: &'a str,
    outcome: Option<Value>,
    /// Absent if it never ran.
    #[serde(rename = "exitCode")]
    exit_code: Option<u8>,
    stdout: String,
    #[serde(rename = "stdoutTruncated")]
    stdout_truncated: bool,
    stderr: String,
    #[serde(rename = "stderrTruncated")]
    stderr_truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Until the person at the terminal, or the system, wants an end. Returns the number of the signal.
async fn interrupted() -> std::io::Result<i32> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (mut hang_up, mut quit) = (signal(SignalKind::hangup())?, signal(SignalKind::quit())?);
    Ok(tokio::select! {
        _ = interrupt.recv() => libc::SIGINT,
        _ = terminate.recv() => libc::SIGTERM,
        _ = hang_up.recv() => libc::SIGHUP,
        _ = quit.recv() => libc::SIGQUIT,
    })
}

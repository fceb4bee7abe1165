//! `agentd cancel`: removes the tasks of runs, which ends the runs.
//!
//! A task that is in the spool is wanted, so its file is removed as the calling user. That needs no daemon.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::output::{block_on, complain, print};
use super::run::{Directory, End, Place};
use super::{Arguments as Whole, complete};
use crate::agent::name::Name;
use crate::client::Error;
use crate::settings::Surroundings;
use crate::text::printable::escaped;
use crate::wire::run::RunStatus;
use crate::wire::status::{Outcome, State};

/// A task could not be removed, or there was none.
const FAILED: u8 = 1;
/// As that of `agentd status`; also for one who may not.
const UNKNOWN: u8 = 4;

/// How long the daemon may take to notice that a task is gone.
const TAKEN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Which runs.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The runs: NAME/ID, or ids that one run alone has; case does not matter
    #[arg(required = true, value_name = "RUN", value_parser = written, add = complete::live_runs())]
    pub runs: Vec<String>,
    /// Where the tasks are.
    #[command(flatten)]
    pub directory: Directory,
}

/// Parses the name of a run, `NAME/ID` or an id.
fn written(text: &str) -> Result<String, &'static str> {
    let can_be = text.parse::<crate::agent::name::RunId>().is_ok() || Name::parse_any(text).is_ok();
    if can_be { Ok(text.to_owned()) } else { Err("write NAME/ID, or the id of a run") }
}

/// Cancels the runs, and prints what happens: data to stdout, messages to stderr.
pub fn run(all: &Whole, arguments: &Arguments, here: &Surroundings) -> ExitCode {
    let work = async {
        let place = Place::find(all, here, &arguments.directory).await?;
        let mut meant = Vec::new();
        for run in &arguments.runs {
            meant.push(find(&place, run).await?);
        }
        let (mut lines, mut status) = (Vec::new(), 0);
        for run in meant {
            let (line, is_cancelled) = cancel(&place, &run).await?;
            lines.push(format!("{}: {line}", run.name));
            status = if is_cancelled { status } else { FAILED };
        }
        Ok::<_, End>((lines, status))
    };
    match block_on(UNKNOWN, work) {
        Ok(Ok((lines, status))) => {
            let text: String = lines.iter().map(|line| escaped(line) + "\n").collect();
            print(text.as_bytes(), status, FAILED)
        }
        Ok(Err(End { status, message })) => complain(status, &message),
        Err(code) => code,
    }
}

/// A run that is to be cancelled.
struct Meant {
    /// `NAME/ID`.
    name: String,
    agent: String,
    id: String,
    /// What the daemon knows of it, if it does.
    known: Option<RunStatus>,
}

async fn find(place: &Place, run: &str) -> Result<Meant, End> {
    let unknown = |message: String| End { status: UNKNOWN, message };
    let named = |agent: &str, id: &str, known| Meant {
        name: format!("{agent}/{id}"),
        agent: agent.to_owned(),
        id: id.to_owned(),
        known,
    };
    if let Some((agent, id)) = run.split_once(['/', '+']) {
        return match place.client.run(&format!("{agent}/{id}")).await {
            Ok(answer) => Ok(named(&answer.value.agent, &answer.value.id, Some(answer.value.clone()))),
            // Its task may be there all the same: a daemon that is down has not taken it, and one who may write need not be one who
            // may ask.
            Err(error) if place.spool.has(agent, id) == Some(true) => {
                let _ = error;
                Ok(named(agent, id, None))
            }
            Err(error) => Err(unknown(error.to_string())),
        };
    }
    let known = match place.client.run_with_id(run).await {
        Ok(Some(known)) => return Ok(named(&known.agent, &known.id, Some(known.clone()))),
        Err(error @ Error::SeveralRuns { .. }) => return Err(unknown(error.to_string())),
        Ok(None) => None,
        Err(error) => Some(error),
    };
    match place.spool.templates_with(run).as_slice() {
        [template] => Ok(named(template, run, None)),
        [] => Err(unknown(known.map_or_else(
            || format!("there is no run {run:?}; agentd runs lists those that are kept"),
            |error| error.to_string(),
        ))),
        several => {
            let names = several.iter().map(|template| format!("{template}/{run}")).collect();
            Err(unknown(Error::SeveralRuns { id: run.to_owned(), names }.to_string()))
        }
    }
}

/// Removes the task, and says what comes of it, and whether the run is cancelled.
async fn cancel(place: &Place, run: &Meant) -> Result<(String, bool), End> {
    if let Some(known) = run.known.as_ref().filter(|known| known.is_over()) {
        let how = known.outcome.map_or_else(|| known.state.to_string(), |outcome| outcome.to_string());
        let is_cancelled = known.outcome == Some(Outcome::Cancelled);
        return Ok((format!("it is over already: {how}"), is_cancelled));
    }
    let line = format!("agentd cancel {}", run.name);
    if !place.spool.remove(&run.agent, &run.id, &line)? {
        return Ok((without_task(run), false));
    }
    if place.health.is_err() || run.known.is_none() {
        return Ok(("its task is removed; agentd has not taken it yet, and does not run it".to_owned(), true));
    }
    let limit = Instant::now() + TAKEN;
    loop {
        match place.client.run(&run.name).await {
            Err(Error::NoSuchRun { .. }) => return Ok(("cancelled".to_owned(), true)),
            Ok(answer) => match (answer.value.state, answer.value.outcome) {
                (State::Stopping, _) => {
                    return Ok((format!("it is being stopped; agentd wait {} waits for that", run.name), true));
                }
                (State::Exited | State::Invalid, outcome) => {
                    let how = outcome.map_or_else(|| "over".to_owned(), |outcome| outcome.to_string());
                    return Ok((how, true));
                }
                _ => {}
            },
            Err(_) => {}
        }
        if Instant::now() >= limit {
            return Ok((
                "its task is removed, but agentd has not noticed yet; it does within its --resync".to_owned(),
                true,
            ));
        }
        sleep(PAUSE).await;
    }
}

/// What to do about a run that has no task in the spool.
fn without_task(Meant { name, agent, known, .. }: &Meant) -> String {
    match known {
        Some(RunStatus { plan: Some(plan), .. }) => {
            format!(
                "it has no task of its own: it is part of the plan {plan}, whose file in .plans/ of the spool cancels all of it when it is removed"
            )
        }
        Some(known) if known.by.as_deref() == Some("schedule") => format!(
            "it has no task that could be removed: a schedule made it; agentd stop {agent} skips the next ones, and agentd send --keys C-c \
             {name} interrupts this one"
        ),
        Some(_) => "its task was removed before; agentd stops it, or has not noticed yet".to_owned(),
        None => "it has no task in the spool".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn meant(more: &Value) -> Meant {
        let mut run = json!({ "name": "fixer/t1", "agent": "fixer", "id": "t1", "state": "running",
            "queued_at": "2026-12-01T06:00:00.000Z" });
        run.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let known = serde_json::from_value(run).unwrap();
        Meant { name: "fixer/t1".into(), agent: "fixer".into(), id: "t1".into(), known: Some(known) }
    }

    #[test]
    fn a_run_without_a_task_is_told_with_what_ends_it() {
        let of_plan = without_task(&meant(&json!({ "plan": "p1", "by": "op" })));
        assert!(of_plan.contains("part of the plan p1"), "{of_plan}");
        let scheduled = without_task(&meant(&json!({ "by": "schedule" })));
        assert!(
            scheduled.contains("agentd stop fixer") && scheduled.contains("send --keys C-c fixer/t1"),
            "{scheduled}"
        );
        assert!(without_task(&meant(&json!({ "by": "op" }))).contains("removed before"));
    }

    #[test]
    fn what_can_be_no_run_is_refused() {
        assert!(written("t1").is_ok() && written("fixer/t1").is_ok());
        for text in ["", "a b", "a/b/c", "a.b"] {
            assert_eq!(written(text), Err("write NAME/ID, or the id of a run"), "{text:?}");
        }
    }
}

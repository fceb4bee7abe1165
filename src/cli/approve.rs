//! `agentd approvals`, `agentd approve` and `agentd deny`: what agents ask, and an operator's answer, written as a file.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};

use super::operate::{Daemon, Directory, End, FAILED, UNKNOWN};
use super::output::{block_on, complain, print};
use super::wording::{wish, words};
use super::{Arguments as Whole, complete};
use crate::agent::approval::{MOST_OF_WHY, is_id, is_whole_id};
use crate::config::answer::Answer;
use crate::inputs::answers::FOLDER;
use crate::settings::Surroundings;
use crate::text::printable::escaped;
use crate::wire::approval::{self, Approval, Approvals};
use crate::wire::status::Time;

/// How long the daemon may take to take an answer.
const TAKEN: Duration = Duration::from_secs(3);

/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// How the questions are printed.
#[derive(Clone, Debug, clap::Args)]
pub struct List {
    /// Print the same as data, as `GET /v1/approvals` has it
    #[arg(long)]
    pub json: bool,
}

/// Which questions.
#[derive(Clone, Debug, clap::Args)]
pub struct Approve {
    /// The id of the question, or its beginning
    #[arg(required = true, value_name = "ID", value_parser = id, add = complete::questions())]
    pub ids: Vec<String>,
    /// Where to write.
    #[command(flatten)]
    pub directory: Directory,
}

/// Which questions, and why.
#[derive(Clone, Debug, clap::Args)]
pub struct Deny {
    /// The id of the question, or its beginning
    #[arg(required = true, value_name = "ID", value_parser = id, add = complete::questions())]
    pub ids: Vec<String>,
    /// What the agent learns of it
    #[arg(long, value_name = "TEXT", value_parser = why)]
    pub why: Option<String>,
    /// Where to write.
    #[command(flatten)]
    pub directory: Directory,
}

fn id(text: &str) -> Result<String, String> {
    if is_id(text) { Ok(text.to_owned()) } else { Err("an id has eight letters and digits".to_owned()) }
}

fn why(text: &str) -> Result<String, String> {
    let is_right = text.chars().count() <= MOST_OF_WHY && !text.chars().any(char::is_control);
    if is_right { Ok(text.to_owned()) } else { Err(format!("write one line of at most {MOST_OF_WHY} characters")) }
}

/// Answers, and prints what came of it.
pub fn run(all: &Whole, ids: &[String], answer: &Answer, directory: &Directory, here: &Surroundings) -> ExitCode {
    match block_on(UNKNOWN, answer_all(all, ids, answer, directory, here)) {
        Ok(Ok((lines, status))) => {
            let text: String = lines.iter().map(|line| escaped(line) + "\n").collect();
            print(text.as_bytes(), status, FAILED)
        }
        Ok(Err(End { status, message })) => complain(status, &message),
        Err(code) => code,
    }
}

/// Prints what agents ask.
pub fn list(all: &Whole, List { json }: &List, here: &Surroundings) -> ExitCode {
    let work = async {
        let daemon = Daemon::find(all, here, &Directory::default()).await?;
        approvals(&daemon).await
    };
    match block_on(UNKNOWN, work) {
        Ok(Ok(known)) if *json => match serde_json::to_string(&known) {
            Ok(text) => print((text + "\n").as_bytes(), 0, FAILED),
            Err(error) => complain(FAILED, &format!("failed to write what agents ask as JSON: {error}")),
        },
        Ok(Ok(Approvals { pending, .. })) => {
            let now = SystemTime::now();
            let lines = pending.iter().map(|approval| escaped(&described(approval, now)) + "\n");
            let text: String = lines.collect();
            let text = if text.is_empty() { "no agent asks for anything\n".to_owned() } else { text };
            print(text.as_bytes(), 0, FAILED)
        }
        Ok(Err(End { status, message })) => complain(status, &message),
        Err(code) => code,
    }
}

fn described(approval: &Approval, now: SystemTime) -> String {
    let Approval { id, agent, deadline: Time(deadline), .. } = approval;
    let left = deadline.duration_since(now).map_or_else(|_| "no time".to_owned(), words);
    format!("{id}  {agent}  {}  ({left} left)", wish(approval))
}

async fn approvals(daemon: &Daemon) -> Result<Approvals, End> {
    let unknown = |error: crate::client::Error| End { status: UNKNOWN, message: error.to_string() };
    Ok(daemon.client.approvals().await.map_err(unknown)?.value)
}

async fn answer_all(
    all: &Whole,
    ids: &[String],
    answer: &Answer,
    directory: &Directory,
    here: &Surroundings,
) -> Result<(Vec<String>, u8), End> {
    let daemon = Daemon::find(all, here, directory).await?;
    let known = match approvals(&daemon).await {
        Ok(known) => known,
        // Whoever knows the id may answer: the question waits for the next daemon.
        Err(_) if daemon.health.is_err() && ids.iter().all(|id| is_whole_id(id)) => {
            let mut lines = Vec::new();
            for id in ids {
                let written = daemon.files.write_in(Path::new(FOLDER), id, &answer.render(), &line(id, answer))?;
                let path = written.path().display();
                lines.push(format!("agentd does not answer; {path} says so if it comes back in time"));
            }
            return Ok((lines, 0));
        }
        Err(end) => return Err(end),
    };
    let mut meant = Vec::new();
    for id in ids {
        let found = find(id, &known)?;
        if !meant.iter().any(|other: &&Approval| other.id == found.id) {
            meant.push(found);
        }
    }
    for approval in &meant {
        daemon.files.write_in(Path::new(FOLDER), &approval.id, &answer.render(), &line(&approval.id, answer))?;
    }
    let (mut lines, mut status) = (Vec::new(), 0);
    let limit = Instant::now() + TAKEN;
    for approval in meant {
        let decided = loop {
            let now = approvals(&daemon).await?;
            let decided = now.decided.into_iter().find(|it| it.id == approval.id);
            if decided.is_some() || Instant::now() >= limit || !now.pending.iter().any(|it| it.id == approval.id) {
                break decided;
            }
            sleep(PAUSE).await;
        };
        let (line, worst) = what_came(approval, decided.as_ref(), answer.allow);
        lines.push(line);
        status = status.max(worst);
    }
    Ok((lines, status))
}

/// The command line of it, for one who may not do it.
fn line(id: &str, answer: &Answer) -> String {
    format!("agentd {} {id}", if answer.allow { "approve" } else { "deny" })
}

/// The question that this is the id of, or the beginning of the id.
fn find<'a>(id: &str, known: &'a Approvals) -> Result<&'a Approval, End> {
    let begins = |approval: &&Approval| approval.id.starts_with(id);
    let found: Vec<&Approval> = known.pending.iter().filter(begins).collect();
    let message = match found[..] {
        [one] => return Ok(one),
        [] => match known.decided.iter().find(begins) {
            Some(Approval { id, decision: Some(decision), .. }) => {
                let by = decision.who.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
                format!("question {id} is over: {}{by}", decision.answer)
            }
            _ => format!("no agent asks a question {id} (agentd approvals lists all)"),
        },
        _ => {
            let ids: Vec<&str> = found.iter().map(|approval| approval.id.as_str()).collect();
            format!("{id} is the beginning of {}; write more of it", ids.join(" and "))
        }
    };
    Err(End { status: UNKNOWN, message })
}

fn what_came(approval: &Approval, decided: Option<&Approval>, allow: bool) -> (String, u8) {
    let Approval { id, agent, .. } = approval;
    let Some(decision) = decided.and_then(|decided| decided.decision.as_ref()) else {
        return (format!("{id}: written, but agentd has not taken it yet"), FAILED);
    };
    let wanted = if allow { approval::Answer::Allow } else { approval::Answer::Deny };
    let by = decision.who.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
    let line = format!("{agent}: {}{by}: {}", decision.answer, wish(approval));
    (line, if decision.answer == wanted { 0 } else { FAILED })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question(id: &str, decision: Option<serde_json::Value>) -> Approval {
        let mut text = json!({
            "id": id, "agent": "a", "tool": "Bash", "command": "git push",
            "asked_at": "2026-11-21T17:00:00.000Z", "deadline": "2026-11-21T17:10:00.000Z",
        });
        if let Some(decision) = decision {
            text["decision"] = decision;
        }
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_question_is_found_by_the_beginning_of_its_id() {
        let decision = json!({ "answer": "deny", "by": "operator", "who": "op", "at": "2026-11-21T17:00:01.000Z" });
        let known = Approvals {
            pending: vec![question("aaaabbbb", None), question("aaaacccc", None), question("dddddddd", None)],
            decided: vec![question("eeeeeeee", Some(decision))],
        };
        assert_eq!(find("d", &known).ok().map(|found| found.id.as_str()), Some("dddddddd"));
        for (id, expected) in [
            ("aaaa", "aaaa is the beginning of aaaabbbb and aaaacccc; write more of it"),
            ("ee", "question eeeeeeee is over: denied by op"),
            ("x", "no agent asks a question x (agentd approvals lists all)"),
        ] {
            assert_eq!(find(id, &known).err().map(|end| end.message).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_line_says_what_is_asked_and_how_long_it_waits() {
        let question = question("aaaabbbb", None);
        let Time(asked) = question.asked_at;
        assert_eq!(described(&question, asked), "aaaabbbb  a  Bash: git push  (10m left)");
    }

    #[test]
    fn blanks_hide_nothing_of_what_is_asked() {
        let mut question = question("aaaabbbb", None);
        question.command = format!("git status{}; rm -rf x\n    y", " \t".repeat(2000));
        question.cut = true;
        let Time(asked) = question.asked_at;
        let line = described(&question, asked);
        assert_eq!(line, "aaaabbbb  a  Bash: git status [4000 blanks] ; rm -rf x\n    y…  (10m left)");
    }

    #[test]
    fn another_answer_than_this_one_is_a_failure() {
        let asked = question("aaaabbbb", None);
        let decision = json!({ "answer": "allow", "by": "operator", "who": "op", "at": "2026-11-21T17:00:01.000Z" });
        let decided = question("aaaabbbb", Some(decision));
        assert_eq!(what_came(&asked, Some(&decided), true), ("a: allowed by op: Bash: git push".to_owned(), 0));
        assert_eq!(what_came(&asked, Some(&decided), false).1, FAILED);
        assert_eq!(what_came(&asked, None, true).1, FAILED);
    }
}

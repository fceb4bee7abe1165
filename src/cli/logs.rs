//! `agentd logs`: prints an agent's log, and follows it.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use serde::Serialize;

use super::complete;
use super::output::{self, BETWEEN_DAEMONS, Failure, say};
use crate::client::Client;
use crate::logs::attempt::Named;
use crate::sys::clock::{self, NoMoment};
use crate::text::printable;
use crate::text::size;
use crate::wire::status::Time;

/// Which agent's log, and which part of it.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag that people know")]
pub struct Arguments {
    /// The agent; the case of its name does not matter
    #[arg(add = complete::names())]
    pub name: String,
    /// Continue with what it prints later, also in its next attempts, until the agent has ended for good
    #[arg(short, long)]
    pub follow: bool,
    /// Print at most the last N lines
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    pub lines: Option<usize>,
    /// Print the log of this attempt instead of the latest: K counts over the agent's whole life, as in `status` and `explain`. S-K is
    /// attempt K in the log with the number S, as in the name of its file, where several have the number K
    #[arg(long, value_name = "K", conflicts_with = "previous")]
    pub attempt: Option<Named>,
    /// Print the log of the attempt before the latest
    #[arg(long)]
    pub previous: bool,
    /// Print only what was printed since this time (2026-11-21T17:00:00Z, 2026-11-21 18:00:00+01:00, 2026-11-21; UTC without an
    /// offset), or within this duration (90s, 2h)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<SystemTime>,
    /// Print what the terminal received, including escape sequences such as those that move the cursor or set colors
    #[arg(long)]
    pub raw: bool,
    /// Print a JSON object for each line, with its `text`
    #[arg(long, conflicts_with = "raw")]
    pub json: bool,
}

fn count(text: &str) -> Result<usize, &'static str> {
    size::count(text).map_err(|_| "write a whole number from 0 on, such as 100")
}

fn moment(text: &str) -> Result<SystemTime, NoMoment> {
    clock::parse_moment(text, SystemTime::now())
}

/// Prints the log: data to stdout, messages to stderr.
pub fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    output::run(print(arguments, socket))
}

async fn print(arguments: &Arguments, socket: &Path) -> Result<(), Failure> {
    let client = Client::new(socket).map_err(Failure::Ask)?;
    let mut printer = Printer { json: arguments.json, line: Vec::new() };
    let (mut query, mut was_there, mut is_away) = (query(arguments), false, false);
    loop {
        let mut heard = SystemTime::now();
        match listen(&client, &arguments.name, &query, &mut printer, &mut was_there, &mut heard).await {
            Err(Failure::Ask(error)) if arguments.follow && was_there && error.may_come_back() => {
                if !std::mem::replace(&mut is_away, true) {
                    say(&format!("{error}; waiting for it; the last lines may be repeated"));
                    query = again(arguments, heard);
                }
            }
            Ok(()) => return printer.end().map_err(Failure::Print),
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(BETWEEN_DAEMONS).await;
    }
}

/// Prints what one daemon sends, until the end of its answer.
async fn listen(
    client: &Client,
    name: &str,
    query: &str,
    printer: &mut Printer,
    was_there: &mut bool,
    heard: &mut SystemTime,
) -> Result<(), Failure> {
    let mut stream = client.log(name, query).await.map_err(Failure::Ask)?;
    *was_there = true;
    while let Some(piece) = stream.next().await.map_err(Failure::Ask)? {
        *heard = SystemTime::now();
        printer.print(&piece).map_err(Failure::Print)?;
    }
    Ok(())
}

fn query(arguments: &Arguments) -> String {
    let lines = arguments.lines.map(|lines| format!("&lines={lines}")).unwrap_or_default();
    let since = arguments.since.map(|since| format!("&since={}", Time(since))).unwrap_or_default();
    which(arguments) + &lines + &since
}

/// The query for the next daemon, if the previous one last sent something at this time.
fn again(arguments: &Arguments, heard: SystemTime) -> String {
    format!("{}&since={}", which(arguments), Time(heard))
}

fn which(arguments: &Arguments) -> String {
    let attempt = match arguments.attempt {
        Some(named) => named.to_string(),
        None if arguments.previous => "previous".to_owned(),
        None => "latest".to_owned(),
    };
    format!("follow={}&raw={}&attempt={attempt}", arguments.follow, arguments.raw)
}

/// A line of the log as JSON.
#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
}

struct Printer {
    json: bool,
    /// The beginning of a line whose end has not arrived yet.
    line: Vec<u8>,
}

impl Printer {
    fn print(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if !self.json {
            out.write_all(piece)?;
            return out.flush();
        }
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(part);
            if let Some(text) = self.line.strip_suffix(b"\n") {
                write_line(&mut out, text)?;
                self.line.clear();
            }
        }
        out.flush()
    }

    fn end(self) -> io::Result<()> {
        if self.line.is_empty() { Ok(()) } else { write_line(&mut io::stdout().lock(), &self.line) }
    }
}

fn write_line(out: &mut impl Write, text: &[u8]) -> io::Result<()> {
    writeln!(out, "{}", printable::json(serde_json::to_string(&Line { text: &String::from_utf8_lossy(text) })?))
}

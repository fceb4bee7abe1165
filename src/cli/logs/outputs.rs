//! What a run printed on its standard output or standard error, apart from its terminal.

use std::io;

use tokio::time::sleep;

use super::{Arguments, Failure};
use crate::cli::output::BETWEEN_DAEMONS;
use crate::cli::run::outputs::{Sink, pass};
use crate::client::{Client, Error};

/// Prints one of the outputs of a run.
pub(super) async fn print(client: &Client, arguments: &Arguments, output: &str) -> Result<(), Failure> {
    let [name] = arguments.names.as_slice() else {
        return Err(Failure::Said(format!("--{output} prints the output of one run; name it")));
    };
    let name = whole_name(client, name).await?;
    let sink = Sink::stdout();
    let mut sink = if arguments.raw { sink.raw() } else { sink };
    if arguments.follow && arguments.lines.is_none() {
        return follow(client, &name, output, &mut sink).await;
    }
    let lines = arguments.lines.map(|lines| format!("&lines={lines}")).unwrap_or_default();
    let query = format!("follow={}{lines}", arguments.follow);
    let mut stream = client.output(&name, output, &query).await.map_err(Failure::Ask)?;
    while let Some(piece) = stream.next().await.map_err(Failure::Ask)? {
        sink.write(&piece).map_err(Failure::Print)?;
    }
    Ok(())
}

/// The run that is meant: `NAME/ID`.
async fn whole_name(client: &Client, name: &str) -> Result<String, Failure> {
    if name.contains('/') {
        return Ok(name.to_owned());
    }
    match client.run_with_id(name).await.map_err(Failure::Ask)? {
        Some(run) => Ok(run.name),
        None => Err(Failure::Said(format!(
            "{name:?} is no run, and only runs have outputs apart from their terminal; agentd runs lists those that are kept"
        ))),
    }
}

/// Goes on until the run is over, also over restarts of the daemon.
async fn follow(client: &Client, name: &str, output: &str, sink: &mut Sink<io::Stdout>) -> Result<(), Failure> {
    let mut sent = 0;
    loop {
        pass(client, name, output, &mut sent, sink).await?;
        match client.run(name).await {
            Ok(answer) if answer.value.is_over() => return Ok(()),
            Err(Error::NoSuchRun { .. }) => return Ok(()),
            Err(error) if !error.may_come_back() => return Err(Failure::Ask(error)),
            Ok(_) | Err(_) => sleep(BETWEEN_DAEMONS).await,
        }
    }
}

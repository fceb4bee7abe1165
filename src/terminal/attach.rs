//! Attaches an operator to an agent.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::access::Operator;
use super::{ANSWER_TIMEOUT, Failure, Service, answer, failed, note, present_state};
use crate::deputy::{Deputy, Wanted};
use crate::sys::fd::reader_is_gone;
use crate::tmux::desks::Desk;
use crate::wire::status::AgentStatus;
use crate::wire::terminal::{self, Accepted, Attach, Kind, Why};

/// How long an operator's client may read nothing while there is something to show.
const STALL: Duration = Duration::from_secs(30);

/// How long the relay may take to end once the operator has gone.
const END_TIMEOUT: Duration = Duration::from_secs(4);

/// How long it may take to notice that the operator has gone, after the relay has noticed it.
const NOTICE_TIMEOUT: Duration = Duration::from_millis(100);

/// Serves an attachment to its end.
pub(super) async fn serve(
    service: &Service,
    operator: &Operator,
    asked: Attach,
    mut socket: UnixStream,
    closing: watch::Receiver<()>,
) {
    let (agent, deputy, wanted, accepted) = match prepare(service, asked.clone()).await {
        Ok(prepared) => prepared,
        Err(failure) => return answer(&mut socket, &failed(failure)).await,
    };
    let accepted = terminal::json(Kind::Accepted, &accepted);
    if !matches!(timeout(ANSWER_TIMEOUT, socket.write_all(&accepted)).await, Ok(Ok(()))) {
        return;
    }
    let how = if asked.read_only { "read-only" } else { "with keys" };
    let begun = Instant::now();
    note(operator, &agent, &format!("attaches, {how}"));
    let ended = match relay(&deputy, wanted, &socket, closing).await {
        Ok(why) => why.to_owned(),
        Err(failure) => {
            let message = failure.to_string();
            answer(&mut socket, &failed(failure)).await;
            message
        }
    };
    let time = humantime::format_duration(Duration::from_secs(begun.elapsed().as_secs()));
    note(operator, &agent, &format!("was attached for {time}, {how}; {ended}"));
}

/// Finds the agent's session, and what is to run.
async fn prepare(service: &Service, asked: Attach) -> Result<(AgentStatus, Deputy, Wanted, Accepted), Failure> {
    let Attach { agent: name, read_only, size, term, all_colors, utf_8 } = asked;
    let (key, agent) = service.agent(&name).await?;
    let Desk { tmux, deputy, .. } = service.desk(&key)?;
    let entrance = tmux.entrance(&key).await.map_err(Failure::of)?;
    let none = || Failure::new(Why::NotRunning, format!("it has no session; {}", present_state(&agent)));
    let entrance = entrance.ok_or_else(none)?;
    let how = if read_only { "read-only; " } else { "" };
    let prefix = entrance.prefix.as_deref().unwrap_or("tmux's prefix key, then");
    let notice = format!("{how}detach with {prefix} d");
    let (_, looking) = tmux.looking(&entrance);
    let features = all_colors.then_some("RGB");
    let (program, entering) = tmux.entering(&entrance, read_only, features, &notice);
    let size = (size.columns, size.rows);
    let wanted = Wanted { program, looking, entering, term, utf_8, size, stall: STALL };
    let accepted = Accepted { agent: agent.name.clone(), prefix: entrance.prefix };
    Ok((agent, deputy, wanted, accepted))
}

/// Has the deputy relay, until it has ended, the operator is gone, or the daemon is ending. Returns how it ended, for the log.
async fn relay(
    deputy: &Deputy,
    wanted: Wanted,
    socket: &UnixStream,
    mut closing: watch::Receiver<()>,
) -> Result<&'static str, Failure> {
    let copy: OwnedFd = socket.as_fd().try_clone_to_owned().map_err(Failure::of)?;
    let (mut near, far) = UnixStream::pair().map_err(Failure::of)?;
    let far = far.into_std().map_err(Failure::of)?.into();
    deputy.attach(wanted, copy, far).await.map_err(Failure::of)?.map_err(Failure::of)?;
    let mut byte = [0];
    let why = tokio::select! {
        biased;
        said = near.read(&mut byte) => match said {
            // The client learns it meanwhile.
            Ok(1..) => "the session was left or has ended",
            // Both may notice at once that the client has gone.
            _ if timeout(NOTICE_TIMEOUT, reader_is_gone(socket)).await.is_ok() => "the client has gone",
            _ => "the relay has ended",
        },
        () = reader_is_gone(socket) => "the client has gone",
        // Closed when the daemon is ending.
        _ = closing.changed() => "agentd is ending",
    };
    // The relay ends the tmux client, and then itself.
    let _ = near.shutdown().await;
    let _ = timeout(END_TIMEOUT, near.read(&mut byte)).await;
    Ok(why)
}

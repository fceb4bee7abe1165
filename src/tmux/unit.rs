//! The systemd unit of a user's tmux server, where agentd does not start the server itself.
//!
//! A server that agentd starts has the restrictions of agentd's own unit, and so have the agents in it. So the server has a unit, and
//! agentd asks systemd to start it when the user is needed: nobody has to enable a unit for each user.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Error, Tmux};
use crate::agent::user::UserName;
use crate::deputy::Server;
use crate::sys::systemd::Systemd;

/// How long a server may take to listen once systemd was asked for it.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look whether it listens.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The unit of a server, and whom to ask for it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerUnit {
    systemd: Systemd,
    name: String,
}

impl ServerUnit {
    /// The unit of the server of a user who is not the default one.
    pub fn of(user: &UserName, systemd: Systemd) -> Self {
        Self { systemd, name: format!("agentd-tmux@{user}.service") }
    }
}

impl Tmux {
    /// Has the unit started, and waits until the server listens.
    pub(super) async fn start_unit(&self, unit: &ServerUnit) -> Result<Server, Error> {
        let failed = |why| Error::NotStarted { socket: self.socket.clone(), why };
        unit.systemd.start_unit(&unit.name).await.map_err(|error| failed(error.to_string()))?;
        let limit = Instant::now() + START_TIMEOUT;
        loop {
            match self.tend().await? {
                Server::None if Instant::now() >= limit => {
                    let time = humantime::format_duration(START_TIMEOUT);
                    let ServerUnit { name, .. } = unit;
                    return Err(failed(format!(
                        "systemd was asked to start {name}, and no server has come within {time}; systemctl status {name} says more"
                    )));
                }
                Server::None => sleep(LOOK_INTERVAL).await,
                found => return Ok(found),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::deputy::{Deputy, Output, Reply, Request};
    use crate::sys::account::Account;
    use crate::tmux::Origin;

    #[tokio::test]
    async fn an_unreachable_systemd_is_why_there_is_no_server() {
        let deputy = Deputy::of(|request| match request {
            Request::Server { .. } => Some(Reply::Server(Ok(Server::None))),
            _ => Some(Reply::Tmux(Ok(Output { success: true, stdout: "tmux 3.4".to_owned(), stderr: String::new() }))),
        });
        let account = Account::current().unwrap();
        let unit = ServerUnit::of(&"reviewer".parse().unwrap(), Systemd::on(Path::new("/no/bus")));
        assert_eq!(unit.name, "agentd-tmux@reviewer.service");
        let tmux = Tmux::new(deputy, "/no/where".into(), Origin::Elsewhere, String::new(), &account).with_unit(unit);
        let error = tmux.start_server().await.unwrap_err().to_string();
        assert!(
            error.starts_with("no tmux server listens on /no/where: failed to start a unit with systemd"),
            "{error}"
        );
        // At the end of the daemon, no server is started that nobody would stop.
        tmux.hurry();
        let told = tmux.start_server().await.map_err(|error| error.to_string());
        assert!(!told.is_err_and(|error| error.contains("systemd")));
    }
}

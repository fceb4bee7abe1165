//! The types of the API, which daemon and clients share.

pub mod activity;
pub mod approval;
pub mod conversation;
pub mod events;
pub mod exit_status;
pub mod hold;
pub mod reason;
pub mod result;
pub mod status;
pub mod terminal;

/// The variable that names the API's socket to commands. The daemon does not heed it: a variable that was exported to look at one
/// daemon must not lead another daemon to the same socket.
pub const SOCKET_VARIABLE: &str = "AGENTD_API_SOCKET";

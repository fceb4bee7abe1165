//! The types of the API, which daemon and clients share.

pub mod events;
pub mod exit_status;
pub mod status;

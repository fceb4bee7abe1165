//! The types of the API, which daemon and clients share.

pub mod events;
pub mod status;

//! Finds and kills everything that belongs to an agent.

pub mod cgroup;
pub mod marker;
pub mod scope;
pub mod server_scope;
pub mod tree;

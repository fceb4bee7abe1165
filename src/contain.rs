//! Finding and killing everything that is an agent's.

pub mod cgroup;
pub mod marker;
pub mod scope;
pub mod tree;

//! Linux, one topic per file: descriptors, files, processes, sockets, clocks, the log.

pub mod account;
pub mod atomic_file;
pub mod blocking;
pub mod clock;
pub mod exec;
pub mod fd;
pub mod fd_passing;
pub mod file_id;
pub mod frame;
pub mod inheritance;
pub mod inotify;
pub mod local_time;
pub mod log;
pub mod memory;
pub mod panics;
mod path_error;
pub mod poll;
pub mod presence;
pub mod process;
pub mod procfs;
pub mod pty_child;
pub mod rate_limit;
pub mod reaper;
pub mod regular_file;
pub mod repository;
pub mod rlimit;
pub mod safe_path;
pub mod secret_bytes;
pub mod signal;
pub mod steady_path;
pub mod systemd;
pub mod terminal;
pub mod tree;
pub mod unix_socket;
pub mod watch;

pub use path_error::PathError;

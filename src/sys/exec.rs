//! What programs can be given: names of variables, sizes (`execve(2)`), words of a shell.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The largest argument, and the largest `NAME=VALUE`, that the kernel passes to a program.
///
/// In bytes: `MAX_ARG_STRLEN` (128 KiB) minus the terminating NUL, see `execve(2)`.
pub const MAX_ARGUMENT: usize = 131_071;

/// Whether a shell could assign to a variable of that name: `[A-Za-z_][A-Za-z0-9_]*`.
pub fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A path as one word for any shell.
pub fn single_quote(path: &Path) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            byte => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

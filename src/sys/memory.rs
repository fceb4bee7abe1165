//! Protects secrets in this process's memory: clears them, and keeps other users from reading them.
//!
//! A value that holds a secret clears its memory when it is dropped (`zeroize`), and `Debug` does not show it. Copies that other
//! code makes and frees are out of reach: those of the TOML and JSON parsers for strings with escapes, those of
//! `std::process::Command` for the environment of a new process, and the kernel's. For that reason, the memory as a whole is
//! protected from other users.

use zeroize::Zeroizing;

/// Keeps this process's memory private, until the next `execve(2)`.
///
/// No core is written, whatever limits and the system's `core_pattern` say, and only root may trace the process, read its memory
/// and environment, or take over its descriptors (`PR_SET_DUMPABLE(2const)`, `ptrace(2)`).
///
/// The limit on core files stays: agents would inherit it, and their cores are theirs. Call this after the last change of user or
/// group, which resets it.
pub fn keep_private() {
    // Fails only for values that do not exist.
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// Makes room for more bytes, without leaving a copy of the old contents behind in freed memory.
pub fn make_room(buffer: &mut Zeroizing<Vec<u8>>, count: usize) {
    if buffer.capacity() - buffer.len() < count {
        let mut larger = Zeroizing::new(Vec::with_capacity((buffer.len() + count) * 2));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
}

/// Appends to a buffer, without leaving a copy of the old contents behind in freed memory.
pub fn append(buffer: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    make_room(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
}

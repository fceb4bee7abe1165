//! What is logged, for tests of how often it is.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Once;

thread_local! {
    /// What this thread has logged, while a test wants to know.
    static TEXT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Everything that is logged on this thread while it lives.
pub struct Journal(());

struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        TEXT.with_borrow_mut(|text| text.iter_mut().for_each(|text| text.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Journal {
    pub fn of_this_thread() -> Self {
        static ONCE: Once = Once::new();
        // One for all threads: a line that a thread without any came upon first would not be logged by others either.
        ONCE.call_once(|| {
            let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
            tracing::subscriber::set_global_default(lines.with_writer(|| Lines).finish()).unwrap();
            tracing::callsite::rebuild_interest_cache();
        });
        TEXT.set(Some(Vec::new()));
        Self(())
    }

    /// How many lines have these words.
    #[allow(clippy::unused_self, reason = "there are none without a journal")]
    pub fn count(&self, words: &str) -> usize {
        TEXT.with_borrow(|text| {
            let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default());
            text.lines().filter(|line| line.contains(words)).count()
        })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        TEXT.set(None);
    }
}

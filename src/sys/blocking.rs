//! Work that blocks, in a thread of its own.
//!
//! The runtime's own pool panics when the system has no thread for it. Here that is an error, to be named and tried again like
//! any other shortage.

use std::io;
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;

/// Does the work in a thread of its own. Fails if there is none to be had; the work was not begun then. When this is cancelled
/// the work goes on, and its result is lost.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let work = move || drop(done.send(work()));
    thread::Builder::new()
        .spawn(work)
        .map_err(|error| io::Error::new(error.kind(), format!("no thread can be started: {error}")))?;
    // Only a defect in the work ends the thread without a result.
    result.await.map_err(io::Error::other)
}

/// Likewise, for work that may be long: it is given a question to ask now and then, whether its result is still wanted. It is not when
/// this was cancelled.
pub async fn run_while_wanted<T: Send + 'static>(
    work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
) -> io::Result<T> {
    let wish = Arc::new(());
    let granted = Arc::downgrade(&wish);
    let done = run(move || work(&|| granted.strong_count() > 0)).await;
    // It lives as long as this waits.
    drop(wish);
    done
}

/// Does the work in a thread of its own, or here where there is none: for what must be done even if everything else has to wait.
pub async fn insist<T: Send + 'static>(work: impl Fn() -> T + Clone + Send + 'static) -> T {
    match run(work.clone()).await {
        Ok(result) => result,
        Err(_) => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_result_comes_back() {
        assert_eq!(run(|| 6 * 7).await.unwrap(), 42);
    }

    #[tokio::test]
    async fn long_work_learns_that_nobody_waits_for_it_any_more() {
        let (over, mut is_over) = tokio::sync::mpsc::unbounded_channel();
        let work = run_while_wanted(move |is_wanted| {
            while is_wanted() {
                thread::yield_now();
            }
            over.send(()).unwrap();
        });
        tokio::time::timeout(std::time::Duration::from_millis(1), work).await.unwrap_err();
        is_over.recv().await.unwrap();
        assert!(run_while_wanted(|is_wanted| is_wanted()).await.unwrap());
    }

    #[tokio::test]
    async fn a_defect_in_the_work_is_an_error_and_not_a_wait_without_end() {
        run(|| assert!(std::env::args().count() == usize::MAX)).await.unwrap_err();
    }
}

//! Futures that trait objects return.

use std::pin::Pin;

/// What an `async fn` of a trait object returns. Each call allocates, beside work that starts a process or asks the kernel.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

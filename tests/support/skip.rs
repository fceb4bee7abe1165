//! How a test says that it cannot be on this machine.

use std::io::Write;

/// Says so past what keeps the output of a test that passes. In CI, which must have what the tests need, it fails the test instead.
///
/// `./tests/run` tells at its end what was skipped.
pub fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "this test must not be skipped in CI: {why}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("skipped {test}: {why}\n");
    // Not by a macro, whose output nobody would see.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("SKIPPED_TESTS") {
        let list = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let _ = list.and_then(|mut list| list.write_all(line.as_bytes()));
    }
}

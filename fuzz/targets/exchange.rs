//! Fuzzes requests: whatever a client sends is answered or waited for, a query is an order or is refused with a reason, and an event's
//! id is read as it is written.

#![no_main]

use agentd::api::fuzzing::{order, talk};
use agentd::wire::events::Id;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    talk(bytes);
    let text = String::from_utf8_lossy(bytes);
    if let Ok(id) = text.parse::<Id>() {
        assert_eq!(id.to_string().parse::<Id>().ok(), Some(id));
    }
    let query: String = text.chars().filter(char::is_ascii_graphic).collect();
    for path in ["/v1/events", "/v1/agents/a/screen", "/v1/agents/a/log"] {
        order(&format!("{path}?{query}"));
    }
});

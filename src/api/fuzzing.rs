//! What is fuzzed of the API, and private otherwise.

use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use hyper::Request;
use tokio::sync::watch;

use super::exchange::{Next, Responder, header_length};
use super::order::Order;
use super::places::Client;
use super::{Limits, Sources};
use crate::events::Ring;
use crate::status::{Errors, Snapshot};

/// Says this to a server, request by request, and checks that each is answered or waited for.
pub fn talk(mut bytes: &[u8]) {
    let snapshot = Snapshot::new(Vec::new(), Instant::now(), Errors::default());
    let happenings = watch::channel(Ring::new(UNIX_EPOCH)).1;
    let snapshot = watch::channel(Arc::new(snapshot)).1;
    let sources = Sources { snapshot, happenings, tmux: None, logs: None, renderers: None };
    let responder = Responder::new(sources, Limits::default(), true);
    while !bytes.is_empty() {
        let length = header_length(bytes);
        let request = &bytes[..length.unwrap_or(bytes.len())];
        let next = responder.answer(request, length.is_some(), None, Client::Other);
        assert!(next.is_some(), "what nothing more can come of is answered");
        assert!(length.is_none() || responder.answer(request, true, None, Client::Other).is_some());
        match next {
            Some(Next::Say(answer)) if answer.goes_on => bytes = &bytes[request.len()..],
            _ => return,
        }
    }
}

/// Asks for this, and checks that it is an order, or refused with a reason.
pub fn order(uri: &str) {
    let Ok(request) = Request::builder().uri(uri).body(()) else { return };
    let Ok(name) = "a".parse() else { return };
    for order in [Order::events(&request), Order::screen("A", &request), Order::log(name, &request)] {
        assert!(order.err().is_none_or(|why| !why.is_empty()));
    }
}

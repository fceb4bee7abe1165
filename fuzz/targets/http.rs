//! Parses and checks the responses of a server.

use agentd::text::printable;

/// One answer.
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
    /// Whether its end has arrived.
    pub is_whole: bool,
}

/// The answers that arrived, one after the other. Only the last may be cut off.
pub fn answers(mut rest: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !rest.is_empty() {
        let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else {
            answers.push(Answer { status: 0, content_type: String::new(), body: Vec::new(), is_whole: false });
            break;
        };
        let header = str::from_utf8(&rest[..end]).expect("a header is text");
        assert!(header.split("\r\n").all(|line| line.bytes().all(|byte| matches!(byte, b' '..=b'~'))), "{header:?}");
        rest = &rest[end + 4..];
        let (first, fields) = header.split_once("\r\n").unwrap_or((header, ""));
        let status = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|status| status.get(..3)?.parse().ok()).expect("a status");
        let field = |wanted: &str| {
            let mut fields = fields.split("\r\n").filter(|line| !line.is_empty());
            let named = |line: &&str| line.split_once(": ").expect("name and value").0.eq_ignore_ascii_case(wanted);
            fields.find(named).and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned())
        };
        let (body, is_whole);
        if field("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            (body, is_whole) = chunks(&mut rest);
        } else if let Some(length) = field("content-length") {
            let length: usize = length.parse().expect("a length");
            // The answer to a HEAD has none.
            let length = if rest.starts_with(b"HTTP/1.") { 0 } else { length };
            is_whole = rest.is_empty() || rest.len() >= length;
            body = rest[..length.min(rest.len())].to_vec();
            rest = &rest[body.len()..];
        } else {
            (body, is_whole) = (rest.to_vec(), false);
            rest = &[];
        }
        let content_type = field("content-type").unwrap_or_default();
        let answer = Answer { status, content_type, body, is_whole };
        check(&answer);
        answers.push(answer);
    }
    answers
}

/// The body that comes in chunks, up to its end if that is there.
fn chunks(rest: &mut &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let length = str::from_utf8(&rest[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let length = length.expect("the length of a chunk");
        let after = &rest[end + 2..];
        let Some((chunk, after)) = after.split_at_checked(length) else {
            body.extend_from_slice(after);
            break;
        };
        body.extend_from_slice(chunk);
        let Some(after) = after.strip_prefix(b"\r\n") else { break };
        *rest = after;
        if length == 0 {
            return (body, true);
        }
    }
    *rest = &[];
    (body, false)
}

/// Whatever kind of answer it is, it is one of its kind.
fn check(Answer { status, content_type, body, is_whole }: &Answer) {
    assert!((200..600).contains(status), "{status}");
    if body.is_empty() || content_type == "application/octet-stream" {
        return;
    }
    let text = match str::from_utf8(body) {
        Ok(text) => text,
        Err(error) if !is_whole && error.error_len().is_none() => {
            str::from_utf8(&body[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(error) => panic!("{error}"),
    };
    assert!(!text.contains(|character| !matches!(character, '\n' | '\t') && printable::acts(character)), "{text:?}");
    match content_type.split(';').next().unwrap_or_default() {
        "application/json" if *is_whole => {
            serde_json::from_str::<serde_json::Value>(text).expect("it is JSON");
        }
        "text/event-stream" => {
            let kinds = ["id: ", "event: ", "data: ", "retry: ", ":"];
            let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            let mut lines = lines.filter(|line| !line.is_empty());
            assert!(lines.all(|line| kinds.iter().any(|kind| line.starts_with(kind))), "{text:?}");
        }
        "application/openmetrics-text" => assert!(!is_whole || text.ends_with("# EOF\n"), "{text:?}"),
        "application/json" | "text/plain" => {}
        other => panic!("{other:?}, {text:?}"),
    }
}

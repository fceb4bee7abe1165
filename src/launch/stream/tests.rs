//! Each harness's stream as it was recorded, and streams of bad input.

use proptest::prelude::*;
use rstest::rstest;

use super::said::Said;
use super::*;

fn read(kind: StreamKind, bytes: &[u8], piece: usize) -> (Said, Ending) {
    let (mut stream, mut said) = (Stream::new(kind), Said::default());
    for piece in bytes.chunks(piece.max(1)) {
        stream.feed(piece, &mut said);
        assert!(stream.capacity() <= 2 * LONGEST + 2 * MOST_TEXT, "{}", stream.capacity());
    }
    let ending = stream.end(None, &mut said);
    (said, ending)
}

/// A fact, in a word or two.
fn in_words(fact: &Fact) -> String {
    match fact {
        Fact::Conversation(id) => format!("conversation {}", &id[..8]),
        Fact::Working => "working".into(),
        Fact::Idle => "idle".into(),
        Fact::Blocked(what) => format!("blocked {what}"),
        Fact::Tokens(Tokens { input, output, cache_read, cache_write }) => {
            format!("tokens {input} {output} {cache_read} {cache_write}")
        }
        Fact::Cost(cost) => format!("cost {cost}"),
        Fact::Limit(Limit { kind, until, text }) => {
            let until = match until {
                Some(Until::At(at)) => format!(" until {at}"),
                Some(Until::After(wait)) => format!(" for {wait}"),
                None => String::new(),
            };
            format!("{kind}{until}: {}", &text[..text.floor_char_boundary(20)])
        }
        Fact::Unlimited => "unlimited".into(),
    }
}

macro_rules! recording {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/recordings/streams/", $name))
    };
}

const CLAUDE: StreamKind = StreamKind::Claude;
const CODEX: StreamKind = StreamKind::Codex;
const GEMINI: StreamKind = StreamKind::Gemini;
const OPENCODE: StreamKind = StreamKind::Opencode;
const PI: StreamKind = StreamKind::Pi;

#[rstest]
#[case::claude_success(CLAUDE, recording!("claude-success"), "success", &[
    "conversation 91876b9c", "working", "tokens 1200 1 4000 300", "tokens 2400 2 8000 600", "cost 0.032775",
    "tokens 2400 84 8000 600", "idle",
])]
#[case::claude_denied(CLAUDE, recording!("claude-denied"), "success", &[
    "conversation 2680fd89", "working", "tokens 1200 1 4000 300", "tokens 2400 2 8000 600", "cost 0.032775",
    "tokens 2400 84 8000 600", "idle",
])]
#[case::claude_max_turns(CLAUDE, recording!("claude-max-turns"), "error error_max_turns", &[
    "conversation 207f88f2", "working", "tokens 1200 1 4000 300", "tokens 2400 2 8000 600", "cost 0.032775",
    "tokens 2400 84 8000 600", "idle",
])]
#[case::claude_bad_key_cut(CLAUDE, recording!("claude-bad-key-cut"), "cut", &[
    "conversation 870e6f6c", "working", "login: authentication_faile",
])]
#[case::claude_rejected(CLAUDE, recording!("claude-rejected"), "error success", &[
    "conversation b936d848", "working", "cost 0", "quota: API Error: Request r", "idle",
])]
#[case::claude_subscription_limit(CLAUDE, recording!("claude-subscription-limit"), "error success", &[
    "conversation 91876b9c", "working", "quota until 1795997090: rate limit five_hour", "cost 0",
    "quota until 1795997090: You've hit your 5-ho", "idle",
])]
#[case::qwen_bad_key(CLAUDE, recording!("qwen-bad-key"), "error error_during_execution", &[
    "conversation 9a1ae4b0", "working", "login: [API Error: 401 Inco", "idle",
])]
#[case::codex_success(CODEX, recording!("codex-success"), "turn.completed", &[
    "conversation 01a22e98", "working", "tokens 800 42 400 0", "idle",
])]
#[case::codex_tool(CODEX, recording!("codex-tool"), "turn.completed", &[
    "conversation 01a22e98", "working", "tokens 1600 84 800 0", "idle",
])]
#[case::codex_bad_key(CODEX, recording!("codex-bad-key"), "error turn.failed", &[
    "conversation 01a22e99", "working", "login: Reconnecting... 1/5 ", "login: Reconnecting... 2/5 ",
    "login: Reconnecting... 3/5 ", "login: Reconnecting... 4/5 ", "login: Reconnecting... 5/5 ",
    "login: unexpected status 40", "idle",
])]
#[case::codex_quota(CODEX, recording!("codex-quota"), "error turn.failed", &[
    "conversation 01a22e9a", "working", "quota: You’ve hit your us", "idle",
])]
#[case::gemini_success(GEMINI, recording!("gemini-success"), "success", &[
    "conversation f0121bce", "working", "tokens 2400 126 1200 0", "idle",
])]
#[case::gemini_bad_key(GEMINI, recording!("gemini-bad-key"), "error error", &[
    "conversation e8b7490e", "working", "login: [API Error: {\"error\"", "idle",
])]
#[case::gemini_quota(GEMINI, recording!("gemini-quota"), "error error", &[
    "conversation 7e28b2c1", "working", "quota: [API Error: You have", "idle",
])]
#[case::opencode_success(OPENCODE, recording!("opencode-success"), "stop", &[
    "conversation ses_dd16", "working", "tokens 800 42 400 0", "cost 0", "tokens 1600 84 800 0", "idle",
])]
#[case::opencode_bad_key(OPENCODE, recording!("opencode-bad-key"), "error APIError", &[
    "conversation ses_dd16", "login: Incorrect API key pr",
])]
#[case::pi_success(PI, recording!("pi-success"), "stop", &[
    "conversation 01a22e9e", "working", "tokens 800 42 400 0", "cost 0", "tokens 1600 84 800 0", "idle",
])]
#[case::pi_bad_key(PI, recording!("pi-bad-key"), "error error", &[
    "conversation 01a22e9e", "working", "cost 0", "login: 401 Incorrect API ke", "idle",
])]
fn a_recorded_stream_says(
    #[case] kind: StreamKind,
    #[case] recording: &[u8],
    #[case] end: &str,
    #[case] expected: &[&str],
) {
    let (said, ending) = read(kind, recording, recording.len());
    let facts: Vec<String> = said.facts.iter().map(in_words).collect();
    assert_eq!(facts, expected);
    let result = ending.result.unwrap();
    let error = if result.is_error { "error " } else { "" };
    let told =
        if ending.seen { format!("{error}{}", result.subtype.as_deref().unwrap_or_default()) } else { "cut".into() };
    assert_eq!((told.as_str(), result.is_partial), (end, !ending.seen));
    assert_eq!(ending.skipped, 0);
    // No record is left as it is.
    assert!(!said.shown.contains("{\"type\""), "{}", said.shown);
}

#[test]
fn a_result_has_what_the_harness_says() {
    let (said, ending) = read(CLAUDE, recording!("claude-denied"), 1000);
    let result = ending.result.unwrap();
    assert_eq!(result.text, "Mock answer: the tool has run.");
    assert_eq!((result.turns, result.duration_api_ms, result.cost_usd), (Some(2), Some(64), Some(0.032_775)));
    assert_eq!(result.denied, ["Write"]);
    assert_eq!(result.model.as_deref(), Some("claude-opus-4-8[1m]"));
    assert_eq!(result.tokens, Some(Tokens { input: 2400, output: 84, cache_read: 8000, cache_write: 600 }));
    assert!(said.shown.contains("Mock answer: all is well.\n> tool: Write /etc/x\n> tool failed: "), "{}", said.shown);
}

#[rstest]
#[case(CODEX, recording!("codex-tool"), "> tool: /bin/bash -lc 'false'\n> tool failed: status 1\nThe tool has run.\n")]
#[case(GEMINI, recording!("gemini-success"), "Mock answer: all is well.\n> tool: run_shell_command echo hi\nMock answer: the tool has run.\n")]
#[case(OPENCODE, recording!("opencode-success"), "Mock answer: all is well.\n> tool: bash echo hi\nMock answer: the tool has run.\n")]
#[case(PI, recording!("pi-success"), "Mock answer: all is well.\n> tool: bash echo hi\nMock answer: the tool has run.\n")]
#[case(CODEX, recording!("codex-quota"), "error: You’ve hit your usage limit. ")]
fn a_transcript_reads_as_people_read(#[case] kind: StreamKind, #[case] recording: &[u8], #[case] expected: &str) {
    let (said, _) = read(kind, recording, 7);
    assert!(said.shown.starts_with(expected), "{}", said.shown);
}

#[test]
fn the_final_message_is_that_of_the_last_turn() {
    let (_, ending) = read(GEMINI, recording!("gemini-success"), 7);
    let result = ending.result.unwrap();
    assert_eq!((result.text.as_str(), result.turns), ("Mock answer: the tool has run.", Some(2)));
}

#[test]
fn a_conversation_that_says_more_than_this_attempt_took_is_not_believed() {
    let stream = r#"{"type":"assistant","message":{"id":"m","usage":{"input_tokens":10,"output_tokens":5}}}
{"type":"assistant","message":{"id":"m","usage":{"input_tokens":10,"output_tokens":7}}}
{"type":"result","subtype":"success","is_error":false,"usage":{"input_tokens":1000,"output_tokens":900}}"#;
    let (_, ending) = read(CLAUDE, stream.as_bytes(), 10);
    assert_eq!(ending.result.unwrap().tokens, Some(Tokens { input: 10, output: 7, ..Tokens::default() }));
}

#[test]
fn what_is_no_record_is_shown_as_it_is() {
    let output = "plain {\n{broken\n{\"no\":\"type\"}\n[1]\n\n\u{2028}\x1b[31mred\x1b[0m\r\nhalf";
    for kind in [CLAUDE, CODEX, GEMINI, OPENCODE, PI] {
        let (said, ending) = read(kind, output.as_bytes(), 3);
        assert_eq!(
            said.shown, "plain {\n{broken\n{\"no\":\"type\"}\n[1]\n\n\\u{2028}\\u{1b}[31mred\\u{1b}[0m\nhalf\n",
            "{kind:?}"
        );
        assert_eq!((said.facts, ending), (vec![], Ending { result: None, seen: false, skipped: 0 }));
    }
}

#[test]
fn a_long_line_is_skipped_and_the_rest_is_read() {
    let long = format!("{{\"type\":\"item.completed\",\"item\":{{\"text\":\"{}\"}}}}\n", "x".repeat(5 << 20));
    let stream = [long.as_bytes(), recording!("codex-success")].concat();
    let (said, ending) = read(CODEX, &stream, 4096);
    assert_eq!((ending.skipped, ending.seen), (1, true));
    assert_eq!(ending.result.unwrap().note.as_deref(), Some("1 line was too long, and skipped"));
    assert!(said.shown.starts_with("[a line of 5242924 bytes is left out]\n"), "{}", said.shown);
}

#[test]
fn a_separator_of_unicode_within_a_string_ends_no_line() {
    let stream = "{\"type\":\"turn.started\"}\n{\"type\":\"item.completed\",\"item\":{\"type\":\"agent_message\",\"text\":\"a\u{2028}b\"}}\n";
    let (said, ending) = read(CODEX, stream.as_bytes(), 1);
    assert_eq!(ending.result.unwrap().text, "a\u{2028}b");
    assert_eq!(said.shown, "a\\u{2028}b\n");
}

#[test]
fn the_end_of_a_long_message_is_kept_and_no_half_of_a_character() {
    let text = "é".repeat(100_000);
    let stream =
        format!("{{\"type\":\"item.completed\",\"item\":{{\"type\":\"agent_message\",\"text\":\"a{text}\"}}}}\n");
    let (_, ending) = read(CODEX, stream.as_bytes(), 4096);
    assert_eq!(ending.result.unwrap().text, "é".repeat(MOST_TEXT / 2));

    let pieces = "{\"type\":\"message\",\"role\":\"assistant\",\"content\":\"漢字\",\"delta\":true}\n".repeat(20_000);
    let (_, ending) = read(GEMINI, pieces.as_bytes(), 4096);
    let kept = ending.result.unwrap().text;
    assert!(kept.len() <= MOST_TEXT && kept.len() > MOST_TEXT - 3, "{}", kept.len());
}

#[test]
fn absurd_figures_are_left_out() {
    let stream = r#"{"type":"result","subtype":["x"],"is_error":"no","total_cost_usd":1e308,"num_turns":-5,"duration_api_ms":1e300,"usage":{"input_tokens":-1,"output_tokens":"7","cache_read_input_tokens":{"a":[1]},"cache_creation_input_tokens":1e30}}
{"type":"result","subtype":"success","is_error":false,"total_cost_usd":-1}
{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1795997090000}}
{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":-1795997090}}
{"type":"result","total_cost_usd":1e999}
{"type":"result","total_cost_usd":NaN}"#;
    let (said, ending) = read(CLAUDE, stream.as_bytes(), 100);
    let result = ending.result.unwrap();
    assert_eq!((result.cost_usd, result.turns, result.duration_api_ms), (None, None, None));
    assert_eq!(result.tokens, Some(Tokens { output: 7, ..Tokens::default() }));
    let facts: Vec<String> = said.facts.iter().map(in_words).collect();
    assert_eq!(facts, ["tokens 0 7 0 0", "idle", "quota until 1795997090: rate limit"]);
}

#[test]
fn a_limit_that_was_overcome_is_said_again_when_it_comes_back() {
    let limit = r#"{"type":"error","message":"401 Unauthorized"}"#;
    let work = r#"{"type":"turn.completed","usage":{"input_tokens":1,"output_tokens":1}}"#;
    let (said, _) = read(CODEX, [limit, limit, work, limit].join("\n").as_bytes(), 100);
    let limits = said.facts.iter().filter(|fact| matches!(fact, Fact::Limit(_)));
    assert_eq!(limits.count(), 2, "{:?}", said.facts);
}

#[rstest]
#[case("ses_dd165c8a2ffe", true)]
#[case("01a22e98-4fd3-7aa1-bd6b-c9ca0baf3dce", true)]
#[case("", false)]
#[case("-rf", false)]
#[case("../../etc", false)]
#[case("a b", false)]
fn an_id_that_is_none_is_no_conversation(#[case] id: &str, #[case] is_one: bool) {
    assert_eq!(conversation(id).is_some(), is_one);
    assert!(conversation(&"x".repeat(129)).is_none());
}

#[test]
fn gemini_without_a_login_says_so_by_its_status() {
    let mut said = Said::default();
    let ending = Stream::new(GEMINI).end(Some(&ExitStatus::Code(41)), &mut said);
    assert_eq!(ending.result, None);
    assert!(matches!(&said.facts[..], [Fact::Limit(Limit { kind: HoldKind::Login, .. })]), "{said:?}");
}

#[test]
fn a_harness_that_asks_for_a_permission_is_blocked_until_it_goes_on() {
    let stream = r#"{"type":"control_request","request":{"subtype":"can_use_tool","tool_name":"Bash"}}
{"type":"user","message":{"content":"go"}}"#;
    let (said, _) = read(CLAUDE, stream.as_bytes(), 100);
    assert_eq!(said.facts, [Fact::Blocked("may it use Bash?".into()), Fact::Working]);
}

#[test]
fn half_of_a_character_spoils_no_record() {
    let of = |text: &str| {
        let line = format!(r#"{{"type":"result","subtype":"success","is_error":false,"result":"{text}"}}"#);
        read(CLAUDE, line.as_bytes(), 100).1
    };
    for (text, expected) in [
        (r"cut \ud83d", "cut \u{fffd}"),
        (r"\ude00 \uD83D\n", "\u{fffd} \u{fffd}\n"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
        (r"\\ud83d \ud83d", "\\ud83d \u{fffd}"),
        (r"\ud83d\u0041", "\u{fffd}A"),
    ] {
        let ending = of(text);
        assert!(ending.seen, "{text}");
        assert_eq!(ending.result.unwrap().text, expected);
    }
    for text in [r"\ud83", r"\ud83d\", r"\x\ud83d"] {
        assert!(!of(text).seen, "{text}");
    }
}

#[rstest]
#[case::claude(CLAUDE, r#"{"type":"system","subtype":"api_retry","attempt":1,"error_status":401,"error":"authentication_failed"}
{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"x"}],"usage":{"input_tokens":1,"output_tokens":1}}}"#)]
#[case::rate_limit(CLAUDE, r#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1795997090}}
{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"x"}],"usage":{"input_tokens":1,"output_tokens":1}}}"#)]
#[case::codex(
    CODEX,
    r#"{"type":"error","message":"Reconnecting... 1/5 (unexpected status 401 Unauthorized)"}
{"type":"item.completed","item":{"type":"agent_message","text":"x"}}"#
)]
#[case::opencode(
    OPENCODE,
    r#"{"type":"error","error":{"name":"APIError","data":{"message":"x","statusCode":401}}}
{"type":"step_finish","part":{"reason":"stop","tokens":{"input":1,"output":1}}}"#
)]
#[case::pi(PI, r#"{"type":"message_end","message":{"role":"assistant","stopReason":"error","errorMessage":"429: x"}}
{"type":"message_end","message":{"role":"assistant","content":"x","stopReason":"stop","usage":{"input":1,"output":1}}}"#)]
fn a_limit_is_over_once_the_model_answers(#[case] kind: StreamKind, #[case] stream: &str) {
    let (said, _) = read(kind, stream.as_bytes(), 100);
    let facts: Vec<String> = said.facts.iter().map(in_words).collect();
    let limit = facts.iter().position(|fact| fact.starts_with("login") || fact.starts_with("quota"));
    let over = facts.iter().position(|fact| fact == "unlimited");
    assert!(limit.is_some() && limit < over, "{facts:?}");
}

#[test]
fn a_harness_that_says_another_limit_each_time_is_heard_a_hundred_times() {
    let lines: Vec<String> =
        (0..1000).map(|at| format!("{{\"type\":\"error\",\"message\":\"{at}: 401 Unauthorized\"}}\n")).collect();
    let stream = lines.concat();
    let (said, _) = read(CODEX, stream.as_bytes(), 1000);
    assert_eq!(said.facts.len(), 100);
}

/// Lines that are like records, and others.
fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("type"),
        Just("subtype"),
        Just("result"),
        Just("assistant"),
        Just("message"),
        Just("content"),
        Just("delta"),
        Just("usage"),
        Just("input_tokens"),
        Just("part"),
        Just("tokens"),
        Just("error"),
        Just("step_finish"),
        Just("turn.completed"),
        Just("agent_end"),
        Just("text"),
        Just("é\u{2028}"),
        Just("role"),
        Just("item"),
    ];
    let leaf = prop_oneof![
        word.clone().prop_map(|word| format!("{word:?}").replace("\\u{2028}", "\u{2028}")),
        any::<f64>().prop_map(|number| format!("{number:e}")),
        any::<i64>().prop_map(|number| number.to_string()),
        Just("null".to_owned()),
        Just("true".to_owned()),
    ];
    let json = leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec((word.clone(), inner), 0..5).prop_map(|fields| {
                let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    });
    prop_oneof![
        4 => json.prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

proptest! {
    #[test]
    fn the_facts_do_not_depend_on_how_the_bytes_are_cut(
        lines in prop::collection::vec(any_line(), 0..12),
        recording in 0..4_usize,
        piece in 1..200_usize,
    ) {
        let recording: &[u8] = [
            &recording!("claude-success")[..], recording!("codex-tool"), recording!("opencode-success"), recording!("gemini-quota"),
        ][recording];
        let bytes = [recording, &lines.join(&b'\n')].concat();
        for kind in [CLAUDE, CODEX, GEMINI, OPENCODE, PI] {
            let whole = read(kind, &bytes, bytes.len());
            prop_assert!(!whole.0.shown.contains(|character| character != '\n' && character != '\t' && crate::text::printable::acts(character)));
            for fact in &whole.0.facts {
                if let Fact::Cost(cost) = fact {
                    prop_assert!((0.0..=1e6).contains(cost));
                }
            }
            prop_assert_eq!(read(kind, &bytes, piece), whole);
        }
    }
}

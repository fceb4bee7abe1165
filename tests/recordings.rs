//! Checks the plain text that agentd makes of real harnesses, recorded on a terminal of 80 columns and 24 rows.

use agentd::logs::rendering::{Rendering, USUAL_SIZE};

fn rendered(recording: &[u8], looks: bool) -> String {
    let mut rendering = Rendering::new(USUAL_SIZE);
    for piece in recording.chunks(1000) {
        rendering.feed(piece);
        if looks {
            rendering.look();
        }
    }
    rendering.show();
    rendering.take()
}

/// Asserts that the text has these lines in this order, apart from white space at their ends.
fn assert_reads(text: &str, expected: &[&str]) {
    let mut lines = text.lines().map(str::trim_end);
    for line in expected {
        assert!(lines.any(|read| read == *line), "{line:?} in\n{text}");
    }
    let acts = |character: char| character != '\n' && agentd::text::printable::acts(character);
    assert!(!text.contains(acts), "{text:?}");
}

#[test]
fn claude_is_read_as_a_person_reads_it() {
    let text = rendered(include_bytes!("recordings/claude"), false);
    assert_reads(
        &text,
        &[
            "│                 Welcome back!                 │ Ask Claude to create a new … │",
            "│                 /home/agent1                  │                              │",
            "❯ MODE[slow] please tell me about wrapping",
            "● word0 word1 word2 word3 word4 word5 word6 word7 word8 word9 word10 word11",
        ],
    );
    assert!(text.lines().count() < 40, "what was painted over is not repeated: {text}");
}

#[test]
fn codex_is_read_as_a_person_reads_it() {
    let text = rendered(include_bytes!("recordings/codex"), true);
    assert_reads(
        &text,
        &[
            "  >_ OpenAI Codex (v0.171.0)",
            "› MODE[slow] please tell me about wrapping",
            "• word0 word1 word2 word3 word4 word5 word6 word7 word8 word9 word10 word11",
        ],
    );
}

#[test]
fn gemini_is_read_as_a_person_reads_it() {
    let text = rendered(include_bytes!("recordings/gemini"), false);
    assert_reads(
        &text,
        &[
            "  ▗▟▀    Authenticated with gemini-api-key /auth",
            "1. Create GEMINI.md files to customize your interactions",
            " >   Type your message or @path/to/file",
        ],
    );
    assert!(text.lines().count() < 60, "a spinner is one line: {text}");
}

#[test]
fn opencode_is_read_as_a_person_reads_it() {
    let text = rendered(include_bytes!("recordings/opencode"), true);
    assert_reads(&text, &["   ┃  Ask anything… \"Fix a TODO in the codebase\"", "   ┃  Build · m sp"]);
}

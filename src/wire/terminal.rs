//! The protocol of the terminal socket, over which operators attach to agents and send them text.
//!
//! ```text
//! client                                     server
//! Request (attach)         ──────────▶
//!                          ◀──────────       Accepted, then Started
//! Bytes, Size, End         ◀────────▶        Bytes
//!                          ◀──────────       End
//!
//! Request (send), Bytes…, End  ──────▶
//!                          ◀──────────       End
//! ```
//!
//! A frame is one byte that names its [`Kind`], the length of its body in four bytes, the most significant first, and the body, which
//! has [`MAX_BODY`] bytes at most. Both sides treat the other as hostile: a frame that is too long or of no known kind ends the
//! connection.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many bytes the body of a frame may have.
pub const MAX_BODY: usize = 16 << 10;

/// How many bytes come before the body.
pub const HEAD: usize = 5;

/// How many bytes of text one request may send: 128 KiB.
pub const MAX_TEXT: usize = 128 << 10;

/// How many keys one request may send.
pub const MAX_KEYS: usize = 256;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client's [`Request`], in JSON.
    Request,
    /// The server's [`Accepted`], in JSON.
    Accepted,
    /// The terminal name under which the tmux client starts now.
    Started,
    /// What the client typed, or what the server shows.
    Bytes,
    /// The client's [`Size`], in four bytes.
    Size,
    /// The client has nothing more to say; or the server's [`End`], in JSON.
    End,
}

impl Kind {
    const ALL: [(Self, u8); 6] = [
        (Self::Request, b'R'),
        (Self::Accepted, b'A'),
        (Self::Started, b'S'),
        (Self::Bytes, b'B'),
        (Self::Size, b'W'),
        (Self::End, b'E'),
    ];

    fn byte(self) -> u8 {
        Self::ALL.into_iter().find(|(kind, _)| *kind == self).map_or(0, |(_, byte)| byte)
    }
}

/// The other side broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The kind is not known.
    #[error("a frame of an unknown kind ({0})")]
    Kind(u8),
    /// The body is too long.
    #[error("a frame of {0} bytes, more than {MAX_BODY}")]
    Long(usize),
    /// The body of a frame is not what its kind says.
    #[error("a frame that is not understood")]
    Body,
}

/// Interprets what comes before a body: its kind and its length.
pub fn head(bytes: [u8; HEAD]) -> Result<(Kind, usize), Malformed> {
    let [kind, length @ ..] = bytes;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let known = Kind::ALL.into_iter().find(|(_, byte)| *byte == kind);
    match known {
        None => Err(Malformed::Kind(kind)),
        Some(_) if length > MAX_BODY => Err(Malformed::Long(length)),
        Some((kind, _)) => Ok((kind, length)),
    }
}

/// A frame, ready to be sent. What is beyond [`MAX_BODY`] is cut off: split it with [`frames`].
pub fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(MAX_BODY)];
    let length = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
    [&[kind.byte()], &length[..], body].concat()
}

/// The frames that carry these bytes.
pub fn frames(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    bytes.chunks(MAX_BODY).map(|piece| frame(Kind::Bytes, piece))
}

/// A frame with a body in JSON.
pub fn json<T: Serialize>(kind: Kind, body: &T) -> Vec<u8> {
    // These types always can be serialized.
    frame(kind, &serde_json::to_vec(body).unwrap_or_default())
}

/// Reads the body of a frame in JSON.
pub fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Malformed> {
    serde_json::from_slice(body).map_err(|_| Malformed::Body)
}

/// Splits a stream of bytes into frames, however it is cut into pieces.
///
/// Holds no more than one incomplete frame and the last piece.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Adds the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// The next frame; `None` until more has arrived.
    pub fn next_frame(&mut self) -> Result<Option<(Kind, Vec<u8>)>, Malformed> {
        let Some(&first) = self.bytes.first_chunk::<HEAD>() else { return Ok(None) };
        let (kind, length) = head(first)?;
        if self.bytes.len() < HEAD + length {
            return Ok(None);
        }
        let rest = self.bytes.split_off(HEAD + length);
        let mut frame = std::mem::replace(&mut self.bytes, rest);
        frame.drain(..HEAD);
        Ok(Some((kind, frame)))
    }
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Its columns; 0 if they are not known.
    pub columns: u16,
    /// Its rows; 0 if they are not known.
    pub rows: u16,
}

impl Size {
    /// The body of a frame.
    pub fn body(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.columns.to_be_bytes(), self.rows.to_be_bytes());
        [a, b, c, d]
    }

    /// Reads the body of a frame.
    pub fn of(body: &[u8]) -> Result<Self, Malformed> {
        let &[a, b, c, d] = body else { return Err(Malformed::Body) };
        Ok(Self { columns: u16::from_be_bytes([a, b]), rows: u16::from_be_bytes([c, d]) })
    }
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// To attach to an agent's terminal.
    Attach(Attach),
    /// To send text or keys to an agent.
    Send(Send),
}

/// How a client wants to attach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The agent.
    pub agent: String,
    /// Whether it only looks on.
    pub read_only: bool,
    /// The client's terminal.
    pub size: Size,
    /// The name of the client's terminal, if it has one that is valid.
    pub term: Option<String>,
    /// Whether the terminal announces that it has all colors.
    pub all_colors: bool,
    /// Whether the terminal takes UTF-8.
    pub utf_8: bool,
}

/// What a client wants to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// The agent.
    pub agent: String,
    /// The keys, by tmux's names; none if text follows.
    pub keys: Vec<String>,
    /// Whether to press Enter after the text.
    pub enter: bool,
}

/// The server has found the agent's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The agent's name.
    pub agent: String,
    /// The key before each tmux command, such as `Ctrl-b`.
    pub prefix: Option<String>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The client detached, or the session ended.
    Detached,
    /// The text or the keys were passed on. `confirmed` says whether the screen changed after that.
    Sent {
        /// Whether the screen changed.
        confirmed: bool,
    },
    /// The request was refused, or failed. The message completes "failed to …: ".
    Failed {
        /// The kind of the failure.
        why: Why,
        /// The reason.
        message: String,
    },
}

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// There is no such agent.
    Unknown,
    /// The agent does not run, or has no session.
    NotRunning,
    /// The peer may not use the socket.
    Forbidden,
    /// The request is wrong.
    Invalid,
    /// Anything else.
    Other,
}

/// Why a text cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// There is nothing.
    #[error("there is no text; --keys Enter presses Enter alone")]
    Empty,
    /// It is too long.
    #[error("the text has {0} bytes; at most {MAX_TEXT} (128 KiB) can be sent at once")]
    Long(usize),
    /// It is not text.
    #[error("the text is not UTF-8")]
    Encoding,
    /// It has a control character.
    #[error(
        "line {line} of the text has the control character {}; only newlines and tabs can be sent as text; --keys sends keys such as Escape or C-c",
        Codepoint(*character)
    )]
    Control {
        /// The line, counted from 1.
        line: usize,
        /// The character.
        character: char,
    },
}

struct Codepoint(char);

impl fmt::Display for Codepoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            '\u{1b}' => f.write_str("ESC (U+001B)"),
            other => write!(f, "U+{:04X}", u32::from(other)),
        }
    }
}

/// The bytes as text that can be sent: UTF-8 without control characters other than newline and tab.
///
/// An ESC could end a bracketed paste, and what follows it would then be taken for keys.
pub fn sendable(bytes: &[u8]) -> Result<&str, Unsendable> {
    if bytes.is_empty() {
        return Err(Unsendable::Empty);
    }
    if bytes.len() > MAX_TEXT {
        return Err(Unsendable::Long(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Unsendable::Encoding)?;
    let is_forbidden = |c: char| c.is_control() && c != '\n' && c != '\t';
    match text.char_indices().find(|&(_, c)| is_forbidden(c)) {
        Some((at, character)) => Err(Unsendable::Control { line: text[..at].matches('\n').count() + 1, character }),
        None => Ok(text),
    }
}

/// Whether tmux knows a key of that name: modifiers such as `C-`, then a printable ASCII character or the name of a key.
///
/// tmux would type other words letter by letter.
pub fn is_key(word: &str) -> bool {
    const NAMES: [&str; 25] = [
        "Enter", "Escape", "Tab", "BTab", "Space", "BSpace", "Up", "Down", "Left", "Right", "Home", "End", "PageUp",
        "PgUp", "PPage", "PageDown", "PgDn", "NPage", "Insert", "IC", "Delete", "DC", "KPEnter", "F10", "F11",
    ];
    let mut key = word;
    for _ in 0..3 {
        let rest = ["C-", "M-", "S-"].iter().find_map(|modifier| key.strip_prefix(modifier));
        match rest.filter(|rest| !rest.is_empty()) {
            Some(rest) => key = rest,
            None => break,
        }
    }
    let is_character = matches!(key.as_bytes(), [byte] if byte.is_ascii_graphic());
    let is_function = matches!(key.as_bytes(), [b'F', b'1'..=b'9']) || key == "F12";
    is_character || is_function || NAMES.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_wherever_the_stream_is_cut() {
        let size = Size { columns: 80, rows: 24 };
        let stream = [frame(Kind::Bytes, b"abc"), frame(Kind::Size, &size.body()), frame(Kind::End, b"")].concat();
        for at in 0..stream.len() {
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for piece in [&stream[..at], &stream[at..]] {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    found.push(frame);
                }
            }
            let expected = [(Kind::Bytes, b"abc".to_vec()), (Kind::Size, size.body().to_vec()), (Kind::End, vec![])];
            assert_eq!(found, expected, "{at}");
        }
        assert_eq!(Size::of(&size.body()), Ok(size));
        assert_eq!(Size::of(b"123"), Err(Malformed::Body));
    }

    #[test]
    fn frame_of_another_form_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(b"x\0\0\0\0");
        assert_eq!(decoder.next_frame(), Err(Malformed::Kind(b'x')));
        assert_eq!(head(*b"B\0\0\x40\x01"), Err(Malformed::Long(MAX_BODY + 1)));
        assert_eq!(head(*b"B\xff\xff\xff\xff"), Err(Malformed::Long(0xffff_ffff)));
        assert_eq!(head(*b"B\0\0\x40\0"), Ok((Kind::Bytes, MAX_BODY)));
        assert_eq!(read::<Request>(b"{\"attach\":{}}"), Err(Malformed::Body));
    }

    #[test]
    fn long_text_is_split_into_frames() {
        let text = vec![b'x'; 2 * MAX_BODY + 1];
        let lengths: Vec<usize> = frames(&text).map(|frame| frame.len() - HEAD).collect();
        assert_eq!(lengths, [MAX_BODY, MAX_BODY, 1]);
    }

    #[test]
    fn text_with_control_characters_is_not_sendable() {
        assert_eq!(sendable("grün\n\tzwei".as_bytes()), Ok("grün\n\tzwei"));
        assert_eq!(sendable(b""), Err(Unsendable::Empty));
        assert_eq!(sendable(b"\xff"), Err(Unsendable::Encoding));
        for character in ['\u{1b}', '\r', '\0', '\u{7f}', '\u{9b}', '\u{3}'] {
            let text = format!("one\ntwo{character}");
            assert_eq!(sendable(text.as_bytes()), Err(Unsendable::Control { line: 2, character }));
        }
        let message = sendable(b"\x1b").unwrap_err().to_string();
        assert!(message.contains("ESC (U+001B)"), "{message}");
        assert!(sendable(&vec![b'x'; MAX_TEXT]).is_ok());
        assert_eq!(sendable(&vec![b'x'; MAX_TEXT + 1]), Err(Unsendable::Long(MAX_TEXT + 1)));
    }

    #[test]
    fn only_names_of_keys_are_keys() {
        for key in
            ["Enter", "C-c", "M-x", "C-M-x", "Escape", "Up", "F1", "F12", "y", ";", "-", "C--", "S-Tab", "C-S-Up"]
        {
            assert!(is_key(key), "{key}");
        }
        for word in
            ["", "enter", "Foo", "C-", "F0", "F13", "F21", "yes", "\u{1b}", "ä", "C-Foo", "-l", "0x1b", "C-M-S-C-x"]
        {
            assert!(!is_key(word), "{word}");
        }
    }
}

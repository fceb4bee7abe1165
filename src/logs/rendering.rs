//! Renders what an agent printed as a person would have read it: the lines that scrolled off its screen, and the final screen.
//!
//! Harnesses are terminal interfaces: they write gaps as cursor movements, position rows, and paint the same rows repeatedly. So
//! the bytes go through a terminal emulator, after a [sanitizer](super::sanitizer). Of the *main screen*, the lines that scroll
//! off its top are emitted, and in the end those that are still on it. Rows that the terminal wrapped are joined again,
//! overwritten rows are replaced, and what a program [prints again](super::replay) from the beginning is emitted once. The
//! *alternate screen* has no history; programs scroll it by painting it. It is examined once a second. A row is emitted if two
//! [looks](Rendering::look) found it and it is not among those emitted before, wherever it stands. The rows that it shows when
//! the program leaves it, and in the end, are emitted as well.
//!
//! A follower gets lines before they scroll off. What was emitted of the screen is remembered, and is not emitted again when it
//! scrolls off unchanged:
//!
//! | an agent that | is emitted |
//! |---|---|
//! | prints line by line | at once, including the beginning of a line |
//! | overwrites its line (a progress bar) | the line when it ends, or has stood still for a [`settle`](Rendering::settle) |
//! | paints rows again | lines that scroll off at once, other lines when they and all above them have stood still; of a screen that was emitted before, the new rows |
//!
//! This parses what agents print, so it must not run in a process with more rights than theirs. It never panics, needs no more
//! memory than the screen has cells, and ends early if it would take too long.

use std::time::Duration;

use avt::parser::{DecMode, EdScope, Function, State};
use avt::{Line, Observation, Observer, Parser, ScreenKind, Terminal};
use memchr::{memchr, memchr_iter, memrchr};
use nix::time::{ClockId, clock_gettime};

use super::replay::{Novelty, Replay};
use super::sanitizer::Sanitizer;
use crate::text::printable;

/// The size of a screen whose size is unknown.
pub const USUAL_SIZE: Size = Size { columns: 80, rows: 24 };

/// The largest size that is emulated: time and memory grow with it.
const LARGEST_SIZE: Size = Size { columns: 500, rows: 200 };

/// How much processor time the emulation of one log may take, plus how much for each of its bytes.
///
/// A log of the usual size takes a second or two, about 20 ns per byte.
const LONGEST: Duration = Duration::from_secs(5);
const LONGEST_OF_BYTE: Duration = Duration::from_nanos(200);

/// How much more a [`settle`](Rendering::settle) may take: there is at most one per second, and a person may follow for days.
const LONGEST_OF_SETTLE: Duration = Duration::from_millis(5);

/// How much processor time [telling at once](Rendering::tell_at_once) may take between two settles.
///
/// An agent can cause the screen to be examined for every byte that it prints. What is not emitted at once because of this limit
/// is emitted once it has stood still.
const LONGEST_AT_ONCE: Duration = Duration::from_millis(50);

/// How many settles may emit nothing of the screen because a picture is printed again and again. A row that was never emitted
/// might repeat forever.
const LONGEST_SILENCE: usize = 10;

/// How much text a log may become, plus how much for each of its bytes.
///
/// Gaps and rows that are painted again make more text than was printed, but an agent could make gigabytes of it.
const MOST_TEXT: usize = 4 << 20;
const MOST_TEXT_OF_BYTE: usize = 32;

/// Replaces the rest of a log that exceeds these limits.
const CUT: &str = "[agentd: the rest takes too long to show as text; --raw has it]\n";

/// How many bytes are emulated before the time spent is checked.
const STEP: usize = 4096;

/// How many bytes are searched at a time for lines that are only text.
const PIECE: usize = 64 << 10;

/// A screen's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
}

impl Size {
    fn within_reason(self) -> (usize, usize) {
        let within = |count: u16, most: u16| usize::from(count.clamp(1, most));
        (within(self.columns, LARGEST_SIZE.columns), within(self.rows, LARGEST_SIZE.rows))
    }
}

/// Renders output that comes in pieces.
pub struct Rendering {
    sanitizer: Sanitizer,
    guarded: String,
    parser: Parser,
    terminal: Terminal,
    teller: Teller,
    /// What was emitted of the alternate screen.
    told_elsewhere: Vec<String>,
    /// Whether nothing printed so far changes how plain text is printed.
    is_simple: bool,
    /// How many more lines must scroll off before the screen is assumed to be printed line by line.
    repainted: usize,
    /// What the screen showed at the last look.
    last_look: Vec<Row>,
    /// How much processor time is left.
    left: Duration,
    /// How much processor time is left for telling at once.
    left_at_once: Duration,
    is_over: bool,
    /// How many bytes were printed, and how many bytes of text were taken.
    fed: usize,
    taken: usize,
    /// How many of the printed bytes were emulated.
    #[cfg(test)]
    emulated: usize,
}

/// A row of a screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    text: String,
    /// Whether the next row continues this one.
    is_wrapped: bool,
}

impl Row {
    fn of(line: &Line) -> Self {
        let mut text: String = line.chars().collect();
        let is_wrapped = line.is_wrapped();
        if !is_wrapped {
            text.truncate(text.trim_end().len());
        }
        Self { text, is_wrapped }
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty() && !self.is_wrapped
    }

    fn push_to(&self, text: &mut String) {
        text.push_str(&self.text);
        if !self.is_wrapped {
            text.push('\n');
        }
    }
}

/// Decides what to emit, and remembers how much of it is still on the screen.
#[derive(Default)]
struct Teller {
    /// Text to be taken.
    text: String,
    /// Whether the text emitted so far ends in the middle of a line.
    is_mid_line: bool,
    /// What was emitted of the main screen, from its top on.
    told: String,
    /// The beginning of a line that is emitted only if the line continues.
    unsaid: String,
    /// How many lines have scrolled off.
    scrolled: usize,
    replay: Replay,
    erasure: Erasure,
    /// How many empty rows to emit if more follows.
    blanks: usize,
    /// Whether rows were left out since the last one emitted.
    is_apart: bool,
    /// How many settles have passed since something of the screen was emitted.
    silent: usize,
}

/// How much of the earlier output is being erased.
#[derive(Default)]
struct Erasure {
    is_under_way: bool,
    /// What the screen showed when it was erased.
    screen: Option<Vec<String>>,
    /// Whether the terminal forgot the rows that had scrolled off.
    is_forgotten: bool,
}

fn is_blank(row: &str) -> bool {
    row == "\n"
}

impl Teller {
    fn push(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.extend([std::mem::take(&mut self.unsaid).as_str(), text]);
            self.is_mid_line = !text.ends_with('\n');
        }
    }

    /// Ends the line, so that the next one does not continue it. What was emitted of the line is emitted again.
    fn end_line(&mut self) {
        self.unsaid.clear();
        if self.is_mid_line {
            self.push("\n");
            self.told.truncate(self.told.rfind('\n').map_or(0, |end| end + 1));
        }
    }

    /// Handles a row that leaves the screen at its top.
    fn scroll_off(&mut self, row: &Row) {
        self.scrolled += 1;
        let mut piece = String::with_capacity(row.text.len() + 1);
        row.push_to(&mut piece);
        match &mut self.erasure {
            Erasure { is_under_way: true, screen: Some(screen), .. } => screen.push(piece),
            _ => self.tell_if_new(&piece),
        }
    }

    fn tell_if_new(&mut self, piece: &str) {
        let left = self.left_of(piece);
        if self.replay.is_expected() {
            let decided = self.replay.judge(piece, left);
            self.tell_decided(decided);
            if self.replay.is_left_behind() {
                self.release(&[]);
            }
            self.replay.end_if_missed();
        } else {
            self.replay.remember(piece);
            self.tell_row(&left, Novelty::New);
        }
    }

    /// What remains to be emitted of the topmost row, which leaves the screen.
    fn left_of(&mut self, piece: &str) -> String {
        if self.told.starts_with(piece) {
            self.told.drain(..piece.len());
            String::new()
        } else if self.told.is_empty() {
            piece.to_owned()
        } else if let Some(rest) = piece.strip_prefix(self.told.as_str()) {
            self.told.clear();
            self.push(rest);
            String::new()
        } else {
            self.end_line();
            self.told.drain(..self.told.find('\n').map_or(0, |end| end + 1));
            piece.to_owned()
        }
    }

    fn tell_decided(&mut self, decided: Vec<(String, Novelty)>) {
        for (left, novelty) in decided {
            self.tell_row(&left, novelty);
        }
    }

    fn tell_row(&mut self, left: &str, novelty: Novelty) {
        match novelty {
            Novelty::Repeated => {
                self.blanks = 0;
                self.is_apart = true;
            }
            _ if left.is_empty() => {}
            Novelty::New => {
                if self.replay.is_other() {
                    self.release(&[]);
                }
                self.tell_blanks();
                self.begin_apart();
                self.push(left);
            }
            Novelty::Unclear => self.blanks += 1,
        }
    }

    fn tell_blanks(&mut self) {
        for _ in 0..std::mem::take(&mut self.blanks) {
            self.begin_apart();
            self.push("\n");
        }
    }

    /// Ends the line if rows were left out after it.
    fn begin_apart(&mut self) {
        if std::mem::take(&mut self.is_apart) && self.told.is_empty() {
            self.end_line();
        }
    }

    /// Ends the erasure: whatever comes next is something else.
    fn end_erasure(&mut self) {
        let Erasure { screen, is_forgotten, .. } = std::mem::take(&mut self.erasure);
        let Some(screen) = screen else { return };
        if !is_forgotten {
            for piece in &screen {
                self.tell_if_new(piece);
            }
            return;
        }
        let found = self.replay.find(&screen);
        let of_screen = &found[self.replay.held()..];
        let left: Vec<String> = screen.iter().map(|piece| self.left_of(piece)).collect();
        self.end_line();
        self.told.clear();
        let decided = self.replay.close(&found);
        self.tell_decided(decided);
        self.release(of_screen);
        self.blanks = 0;
        let is_told = |(at, left): (usize, &String)| left.is_empty() || self.replay.was_told(of_screen[at]);
        let is_told: Vec<bool> = left.iter().enumerate().map(is_told).collect();
        self.replay.advance_to(of_screen);
        let is_empty = screen.iter().all(|piece| is_blank(piece));
        self.replay.begin(screen.into_iter().zip(is_told).filter(|_| !is_empty).collect());
    }

    /// Emits the withheld rows that are not among these of the screen.
    fn release(&mut self, screen: &[Option<usize>]) {
        if !self.replay.withholds() {
            return;
        }
        let rest = self.replay.release(screen);
        if !rest.is_empty() {
            self.end_line();
            for piece in &rest {
                self.push(piece);
            }
            self.end_line();
        }
    }

    /// Returns which of these rows of the screen were emitted before it was erased. Emits the withheld rows that are not among
    /// them.
    fn compare(&mut self, screen: &[String]) -> Vec<bool> {
        if !self.replay.is_expected() && !self.replay.withholds() {
            return vec![false; screen.len()];
        }
        let found = self.replay.find(screen);
        let of_screen = &found[self.replay.held()..];
        let decided = self.replay.give_up(&found);
        self.tell_decided(decided);
        self.release(of_screen);
        of_screen.iter().map(|&found| self.replay.tell(found)).collect()
    }

    /// Remembers lines that were emitted as they scrolled off.
    fn remember(&mut self, lines: &str, columns: usize) {
        for line in lines.split_inclusive('\n') {
            if self.replay.is_full() {
                return;
            }
            // Only text of one byte per column is wider than the screen here.
            let mut row = line;
            while row.len() > columns + 1 {
                let Some((first, rest)) = row.split_at_checked(columns) else { break };
                self.replay.remember(first);
                row = rest;
            }
            self.replay.remember(row);
        }
    }

    /// Whether everything that scrolls off is emitted.
    fn is_at_ease(&self) -> bool {
        self.told.is_empty()
            && self.blanks == 0
            && self.erasure.screen.is_none()
            && !self.replay.withholds()
            && !self.replay.is_expected()
    }

    /// Whether the screen is probably not complete yet.
    fn is_pending(&self) -> bool {
        self.silent < LONGEST_SILENCE && self.replay.is_under_way()
    }

    /// Emits what the screen shows from its top on.
    fn tell(&mut self, rows: &[String]) {
        self.silent = 0;
        self.end_erasure();
        let is_told = self.compare(rows);
        self.tell_blanks();
        self.begin_apart();
        let shown = rows.concat();
        // A line has one row or more.
        let mut lines: Vec<(&str, bool)> = Vec::new();
        let (mut begin, mut end, mut is_repeated) = (0, 0, true);
        for (row, is_told) in rows.iter().zip(is_told) {
            end += row.len();
            is_repeated &= is_told;
            if row.ends_with('\n') || end == shown.len() {
                lines.push((&shown[begin..end], is_repeated));
                (begin, is_repeated) = (end, true);
            }
        }
        if shown.starts_with(&self.told) {
            let mut rest = self.told.len();
            for (line, is_repeated) in lines {
                if rest < line.len() {
                    self.push_unless(&line[rest..], is_repeated && rest == 0);
                }
                rest = rest.saturating_sub(line.len());
            }
            self.told = shown;
        } else if !self.told.starts_with(&shown) {
            let told = std::mem::take(&mut self.told);
            self.unsaid.clear();
            if self.is_mid_line {
                self.push("\n");
            }
            let before: Vec<&str> = told.split_inclusive('\n').collect();
            let now: Vec<&str> = lines.iter().map(|(line, _)| *line).collect();
            let is_common = common(&before, &now);
            for ((line, is_repeated), _) in lines.iter().zip(is_common).filter(|(_, place)| place.is_none()) {
                self.push_unless(line, *is_repeated);
            }
            self.told = shown;
        }
    }

    /// Emits a line unless it was emitted before. A line that continues later is emitted then.
    fn push_unless(&mut self, line: &str, is_repeated: bool) {
        if !is_repeated {
            self.push(line);
        } else if !line.ends_with('\n') {
            line.clone_into(&mut self.unsaid);
        }
    }
}

impl Observer for &mut Teller {
    type Output = ();

    fn evicted(&mut self, _: &mut Observation<'_>, line: &Line) {
        self.scroll_off(&Row::of(line));
    }

    fn end(&mut self, _: &mut Observation<'_>) {}
}

impl Rendering {
    /// Starts with an empty screen of this size.
    pub fn new(size: Size) -> Self {
        Self {
            sanitizer: Sanitizer::default(),
            guarded: String::new(),
            parser: Parser::new(),
            terminal: terminal(size),
            teller: Teller::default(),
            told_elsewhere: Vec::new(),
            is_simple: true,
            repainted: 0,
            last_look: Vec::new(),
            left: LONGEST,
            left_at_once: LONGEST_AT_ONCE,
            is_over: false,
            fed: 0,
            taken: 0,
            #[cfg(test)]
            emulated: 0,
        }
    }

    /// Resizes the screen.
    pub fn resize(&mut self, size: Size) {
        if self.is_over {
            return;
        }
        let (columns, rows) = size.within_reason();
        let begun = spent();
        self.terminal.resize_with(columns, rows, &mut self.teller);
        self.pay(spent().saturating_sub(begun), Duration::ZERO);
        self.bound_text();
    }

    /// Renders printed bytes.
    pub fn feed(&mut self, printed: &[u8]) {
        self.feed_while(printed, || true);
    }

    /// Renders printed bytes as long as the result is wanted.
    pub fn feed_while(&mut self, printed: &[u8], is_wanted: impl Fn() -> bool) {
        let mut rest = printed;
        while !rest.is_empty() && !self.is_over && is_wanted() {
            let lines = self.pass_lines(&rest[..rest.len().min(PIECE)]);
            let step = step(&rest[lines..], rest.len() == printed.len() && lines == 0);
            let begun = spent();
            self.emulate(&rest[lines..lines + step]);
            self.pay(spent().saturating_sub(begun), LONGEST_OF_BYTE * u32::try_from(step).unwrap_or(u32::MAX));
            self.fed += lines + step;
            self.bound_text();
            rest = &rest[lines + step..];
        }
    }

    fn bound_text(&mut self) {
        let text = self.taken.saturating_add(self.teller.text.len());
        if !self.is_over && text > self.fed.saturating_mul(MOST_TEXT_OF_BYTE).saturating_add(MOST_TEXT) {
            self.cut();
        }
    }

    fn pay(&mut self, spent: Duration, allowed: Duration) {
        if let Some(left) = (self.left + allowed).checked_sub(spent) {
            self.left = left.min(LONGEST);
        } else {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.is_over = true;
        self.show();
        self.teller.end_line();
        self.teller.push(CUT);
    }

    /// Takes the text emitted so far.
    pub fn take(&mut self) -> String {
        self.taken = self.taken.saturating_add(self.teller.text.len());
        std::mem::take(&mut self.teller.text)
    }

    /// The text emitted so far.
    pub fn text(&mut self) -> &mut String {
        &mut self.teller.text
    }

    fn emulate(&mut self, printed: &[u8]) {
        #[cfg(test)]
        {
            self.emulated += printed.len();
        }
        let mut guarded = std::mem::take(&mut self.guarded);
        guarded.clear();
        self.sanitizer.pass(printed, &mut guarded);
        for character in guarded.chars() {
            if let Some(function) = self.parser.feed(character) {
                self.execute(function);
            }
        }
        self.guarded = guarded;
    }

    fn execute(&mut self, function: Function) {
        let function = match function {
            // A program may ask for more repetitions than a line shows.
            Function::Rep(count) => Function::Rep(count.min(u16::try_from(self.terminal.size().0).unwrap_or(u16::MAX))),
            function => function,
        };
        let is_main = self.terminal.active_screen_kind() == ScreenKind::Primary;
        match &function {
            Function::Ed(EdScope::All) if is_main => {
                self.teller.erasure.is_under_way = true;
                self.teller.erasure.screen.get_or_insert_default();
            }
            Function::Ed(EdScope::SavedLines) if is_main => self.teller.erasure.is_forgotten = true,
            Function::Cup(0 | 1, 0 | 1) | Function::Sgr(_) => {}
            _ => self.teller.end_erasure(),
        }
        match &function {
            Function::Ris => {
                self.show();
                self.is_simple = true;
                self.repainted = self.terminal.size().1;
            }
            Function::Decset(modes) | Function::Decrst(modes) => {
                let is_elsewhere =
                    |mode: &DecMode| matches!(mode, DecMode::AltScreenBuffer | DecMode::SaveCursorAltScreenBuffer);
                let goes = matches!(function, Function::Decset(_));
                let is_there = self.terminal.active_screen_kind() == ScreenKind::Alternate;
                if goes != is_there && modes.as_slice().iter().any(is_elsewhere) {
                    self.show();
                }
                let is_harmless = |mode: &DecMode| matches!(mode, DecMode::CursorKeys | DecMode::TextCursorEnable);
                self.is_simple &= modes.as_slice().iter().all(is_harmless);
            }
            Function::Cuu(_)
            | Function::Cpl(_)
            | Function::Cup(..)
            | Function::Vpa(_)
            | Function::Ri
            | Function::Decrc
            | Function::Scorc
            | Function::Il(_)
            | Function::Dl(_)
            | Function::Su(_)
            | Function::Sd(_)
            | Function::Ed(EdScope::Above) => self.repainted = self.terminal.size().1,
            Function::Sm(_)
            | Function::Rm(_)
            | Function::G1d4(_)
            | Function::Gzd4(avt::Charset::Drawing)
            | Function::So
            | Function::Hts
            | Function::Tbc(_)
            | Function::Ctc(_)
            | Function::Decaln => self.is_simple = false,
            Function::Decstbm(..) => {
                self.is_simple = false;
                self.repainted = self.terminal.size().1;
            }
            _ => {}
        }
        let scrolled = self.teller.scrolled;
        self.terminal.execute_with(function, &mut self.teller);
        self.teller.erasure.is_under_way = false;
        self.repainted = self.repainted.saturating_sub(self.teller.scrolled - scrolled);
    }

    /// Skips the emulator for lines that are only text, when they come by the hundred.
    ///
    /// All that the emulator would add is to move them up the screen. Returns how many bytes were taken.
    fn pass_lines(&mut self, printed: &[u8]) -> usize {
        let (columns, rows) = self.terminal.size();
        let cursor = self.terminal.cursor();
        let is_at_ease = self.is_simple
            && self.teller.is_at_ease()
            && self.terminal.active_screen_kind() == ScreenKind::Primary
            && self.sanitizer.is_between()
            && self.parser.state == State::Ground
            && cursor.col == 0
            && self.terminal.screen().visible_lines().skip(cursor.row).all(|line| Row::of(line).is_empty());
        if !is_at_ease {
            return 0;
        }
        let mut text = String::with_capacity(printed.len());
        // Where each line ends, in the output and in the text.
        let mut ends = Vec::new();
        let mut begin = 0;
        for end in memchr_iter(b'\n', printed) {
            if !push_line(&printed[begin..end], columns, &mut text) {
                break;
            }
            ends.push((end + 1, text.len()));
            begin = end + 1;
        }
        // The last lines fill the screen, so they are emulated.
        let Some(count) = ends.len().checked_sub(rows + 1).filter(|&count| count > 0) else { return 0 };
        let (taken, told) = ends[count - 1];
        let above: Vec<Row> = self.terminal.screen().visible_lines().take(cursor.row).map(Row::of).collect();
        for row in &above {
            self.teller.scroll_off(row);
        }
        self.teller.push(&text[..told]);
        self.teller.remember(&text[..told], columns);
        self.teller.scrolled += count;
        self.repainted = self.repainted.saturating_sub(count);
        self.terminal.execute([Function::Cup(1, 1), Function::Ed(EdScope::Below)]);
        taken
    }

    /// Emits what is on the screen, even if it may still change.
    pub fn show(&mut self) {
        self.teller.tell(&self.upper_screen(usize::MAX, true));
        if self.terminal.active_screen_kind() == ScreenKind::Alternate {
            // Each row was painted separately, so rows are not joined.
            let shown = rows_of(self.terminal.screen().visible_lines()).into_iter().map(|row| row.text);
            self.tell_elsewhere(shown.collect());
        }
    }

    /// Emits the rows of the alternate screen that were not emitted before.
    fn tell_elsewhere(&mut self, shown: Vec<String>) {
        let is_common = common(&self.told_elsewhere, &shown);
        let mut text = String::new();
        for (row, is_common) in shown.iter().zip(is_common) {
            // Large parts of the alternate screen are empty.
            if is_common.is_none() && !(row.is_empty() && (text.is_empty() || text.ends_with("\n\n"))) {
                text.extend([row.trim_end(), "\n"]);
            }
        }
        let text = text.trim_end_matches('\n');
        if !text.is_empty() {
            self.teller.end_line();
            self.teller.push(text);
            self.teller.push("\n");
        }
        self.told_elsewhere = shown;
    }

    /// Emits the rows of the alternate screen that have stood since the last look.
    ///
    /// Must be called at most once a second: the alternate screen has no history.
    pub fn look(&mut self) {
        if self.is_over || self.terminal.active_screen_kind() == ScreenKind::Primary {
            return;
        }
        let begun = spent();
        self.look_elsewhere(rows_of(self.terminal.screen().visible_lines()));
        self.pay(spent().saturating_sub(begun), Duration::ZERO);
    }

    fn look_elsewhere(&mut self, now: Vec<Row>) {
        let before: Vec<&str> = self.last_look.iter().map(|row| row.text.as_str()).collect();
        let shown: Vec<&str> = now.iter().map(|row| row.text.as_str()).collect();
        let places = common(&before, &shown);
        let (mut stood, mut is_gone, mut next) = (Vec::new(), Vec::new(), 0);
        for (at, place) in places.iter().enumerate().filter_map(|(at, place)| place.map(|place| (at, place))) {
            if at < place {
                // Rows that moved up pushed off the missing rows above them.
                stood.extend(before[next..place].iter().map(|row| (*row).to_owned()));
                is_gone.resize(stood.len(), true);
            }
            stood.push(shown[at].to_owned());
            is_gone.push(false);
            next = place + 1;
        }
        // A row that was emitted and is briefly absent is not emitted again when it returns.
        if common(&self.told_elsewhere, &stood).contains(&None) {
            self.tell_elsewhere(stood);
            let mut is_gone = is_gone.into_iter();
            self.told_elsewhere.retain(|_| is_gone.next() == Some(false));
        }
        self.last_look = now;
    }

    /// Discards everything printed so far.
    pub fn forget(&mut self) {
        self.show();
        let told = &self.teller.told;
        self.teller.unsaid = told[told.rfind('\n').map_or(0, |end| end + 1)..].to_owned();
        self.teller.is_mid_line = false;
        self.teller.text.clear();
    }

    /// Emits for a follower what can be emitted at once, unless that has taken too long since the last settle.
    pub fn tell_at_once(&mut self) {
        let is_elsewhere = self.terminal.active_screen_kind() == ScreenKind::Alternate;
        // A picture that is printed again from the beginning contains nothing new before it is complete.
        let is_pending = self.repainted > 0 || self.teller.is_pending();
        if self.is_over || is_pending || is_elsewhere || self.left_at_once.is_zero() {
            return;
        }
        let begun = spent();
        self.tell_to_cursor();
        self.left_at_once = self.left_at_once.saturating_sub(spent().saturating_sub(begun));
    }

    fn tell_to_cursor(&mut self) {
        let row = self.terminal.cursor().row;
        let mut rows = self.upper_screen(row, false);
        let above = rows.concat();
        let at_cursor = self.terminal.screen().line(row).map(Row::of).unwrap_or_default();
        let told = &self.teller.told;
        let is_overwritten = !above.starts_with(told.as_str()) && !told.starts_with(&above);
        if is_overwritten {
            // Of the part that changed, at most the beginning of a line was emitted.
            let complete = told.rfind('\n').map_or(0, |end| end + 1);
            if !above.starts_with(&told[..complete]) {
                self.repainted = self.terminal.size().1;
                return;
            }
            self.teller.tell(&rows);
        }
        if !at_cursor.text.is_empty() {
            rows.push(at_cursor.text);
        }
        if rows.concat().starts_with(&self.teller.told) {
            self.teller.tell(&rows);
        }
    }

    /// Emits what has stood still since the last call. Returns whether the next call may emit more.
    pub fn settle(&mut self) -> bool {
        if self.is_over {
            return false;
        }
        let begun = spent();
        self.teller.replay.wait();
        self.teller.silent = self.teller.silent.saturating_add(1);
        let may_tell_more = self.tell_still();
        self.left_at_once = LONGEST_AT_ONCE;
        self.pay(spent().saturating_sub(begun), LONGEST_OF_SETTLE);
        may_tell_more && !self.is_over
    }

    fn tell_still(&mut self) -> bool {
        let is_elsewhere = self.terminal.active_screen_kind() == ScreenKind::Alternate;
        let now = rows_of(self.terminal.screen().visible_lines());
        let still = now.iter().zip(&self.last_look).take_while(|(now, before)| now == before).count();
        let is_still = still == now.len() && now.len() == self.last_look.len();
        if is_elsewhere {
            self.look_elsewhere(now);
            return !is_still;
        }
        if is_still {
            self.teller.tell(&self.upper_screen(usize::MAX, true));
        } else if still > 0 && !self.teller.is_pending() {
            self.teller.tell(&self.upper_screen(still, false));
        }
        self.last_look = now;
        !is_still
    }

    /// The first rows of the main screen, down to the last that has text on it or that the cursor has passed.
    ///
    /// If `is_open`, the last row has no line end while the cursor is in it.
    fn upper_screen(&self, count: usize, is_open: bool) -> Vec<String> {
        let rows: Vec<Row> = self.terminal.primary_screen().visible_lines().map(Row::of).collect();
        let cursor = match self.terminal.active_screen_kind() {
            ScreenKind::Primary => self.terminal.cursor().row,
            ScreenKind::Alternate => 0,
        };
        let occupied = rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1);
        let count = count.min(occupied.max(cursor));
        let piece = |row: &Row| {
            let mut piece = String::with_capacity(row.text.len() + 1);
            row.push_to(&mut piece);
            piece
        };
        let mut pieces: Vec<String> = rows[..count].iter().map(piece).collect();
        if is_open && count == occupied && cursor + 1 == occupied {
            pieces.last_mut().filter(|last| last.ends_with('\n')).map(String::pop);
        }
        pieces
    }
}

/// How many bytes to emulate before the short way is tried again.
///
/// The short way starts at the beginning of a line. Output comes in pieces that end anywhere, so most of them start within a
/// line.
fn step(rest: &[u8], is_first: bool) -> usize {
    let within = &rest[..rest.len().min(STEP)];
    let end = if is_first {
        memchr(b'\n', within)
    } else if rest.len() > STEP {
        memrchr(b'\n', within)
    } else {
        None
    };
    end.map_or(within.len(), |end| end + 1)
}

/// How much processor time this thread has used.
fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn terminal(size: Size) -> Terminal {
    let (columns, rows) = size.within_reason();
    match Terminal::with_scrollback(columns, rows, Some(0)) {
        Ok(terminal) => terminal,
        Err(_) => unreachable!("every size within reason is accepted"),
    }
}

/// Where the rows of `now` were `before`: the longest common subsequence.
fn common<S: AsRef<str>, T: AsRef<str>>(before: &[S], now: &[T]) -> Vec<Option<usize>> {
    let is_same = |at: usize, other: usize| before[at].as_ref() == now[other].as_ref();
    let mut places = vec![None; now.len()];
    let least = before.len().min(now.len());
    let first = (0..least).take_while(|&at| is_same(at, at)).count();
    let last = (1..=least - first).take_while(|&back| is_same(before.len() - back, now.len() - back)).count();
    (0..first).for_each(|at| places[at] = Some(at));
    (1..=last).for_each(|back| places[now.len() - back] = Some(before.len() - back));
    let (rows, columns) = (before.len() - first - last, now.len() - first - last);
    // How many rows are common from there on.
    let mut counts = vec![0_u16; (rows + 1) * (columns + 1)];
    let place = |at: usize, other: usize| at * (columns + 1) + other;
    for at in (0..rows).rev() {
        for other in (0..columns).rev() {
            counts[place(at, other)] = if is_same(first + at, first + other) {
                counts[place(at + 1, other + 1)] + 1
            } else {
                counts[place(at + 1, other)].max(counts[place(at, other + 1)])
            };
        }
    }
    let (mut at, mut other) = (0, 0);
    while at < rows && other < columns {
        if is_same(first + at, first + other) {
            places[first + other] = Some(first + at);
            (at, other) = (at + 1, other + 1);
        } else if counts[place(at + 1, other)] >= counts[place(at, other + 1)] {
            at += 1;
        } else {
            other += 1;
        }
    }
    places
}

fn rows_of<'a>(lines: impl Iterator<Item = &'a Line>) -> Vec<Row> {
    let mut rows: Vec<Row> = lines.map(Row::of).collect();
    rows.truncate(rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1));
    rows
}

/// Appends a line that is only text, as the emulator would render it. Recognizes only common text; returns false for the rest.
fn push_line(line: &[u8], columns: usize, text: &mut String) -> bool {
    let begin = text.len();
    let Some(mut line) = line.strip_suffix(b"\r") else { return false };
    // A program that ends lines with CR LF, on a terminal that adds a CR.
    while let Some(shorter) = line.strip_suffix(b"\r") {
        line = shorter;
    }
    let is_usual = printable::is_visible_ascii(line);
    let Ok(line) = std::str::from_utf8(line) else { return false };
    if is_usual {
        // Where a row is full, the emulator keeps the blanks at its end: only those of the last row go.
        let last_row = line.len().saturating_sub(1) / columns.max(1) * columns;
        text.push_str(&line[..line.trim_ascii_end().len().max(last_row)]);
        text.push('\n');
        return true;
    }
    // Wrapped text may look different, so make sure that nothing wraps.
    if line.len() > columns {
        return false;
    }
    let mut characters = line.chars();
    let mut column = 0;
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => {
                let rest = characters.as_str();
                let Some(parameters) = rest.strip_prefix('[') else { return false };
                let end = parameters.bytes().position(|byte| !matches!(byte, b'0'..=b'9' | b';')).unwrap_or(0);
                match parameters.as_bytes().get(end) {
                    Some(b'm') => {}
                    Some(b'K') if end == 0 => {}
                    _ => return false,
                }
                characters = parameters[end + 1..].chars();
            }
            '\t' => {
                let next = (column / 8 + 1) * 8;
                if next >= columns {
                    return false;
                }
                text.extend(std::iter::repeat_n(' ', next - column));
                column = next;
            }
            ' '..='~' => {
                text.push(character);
                column += 1;
            }
            _ if printable::acts(character) => return false,
            _ => {
                // The width of the character is unknown here, so nothing that follows may depend on it.
                if characters.as_str().contains('\t') {
                    return false;
                }
                text.push(character);
                column += 1;
            }
        }
    }
    text.truncate(begin + text[begin..].trim_end().len());
    text.push('\n');
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn rendered_on(size: Size, pieces: &[&[u8]]) -> String {
        let mut rendering = Rendering::new(size);
        for piece in pieces {
            rendering.feed(piece);
        }
        rendering.show();
        rendering.take()
    }

    fn rendered(printed: &str) -> String {
        rendered_on(USUAL_SIZE, &[printed.as_bytes()])
    }

    #[rstest]
    #[case("plain\r\ntext\r\n", "plain\ntext\n")]
    #[case("no end", "no end")]
    #[case("\x1b[1;31mred\x1b[0m\r\n\r\n  indented\r\n", "red\n\n  indented\n")]
    #[case("Quick\x1b[1Csafety\x1b[1Ccheck\r\n", "Quick safety check\n")]
    #[case("name\x1b[10Gvalue\r\n", "name     value\n")]
    #[case("a\tb\r\n", "a       b\n")]
    #[case("step one\x1b[2K\x1b[1Gstep two\r\n", "step two\n")]
    #[case("10%\r50%\r100%\r\ndone", "100%\ndone")]
    #[case("ab\x08c\r\n", "ac\n")]
    #[case("\x1b[3;5Hrow three\x1b[5;5Hrow five\r\n", "\n\n    row three\n\n    row five\n")]
    #[case("one\r\ntwo\r\n\x1b[2A\x1b[Knew\x1b[2B\r", "new\ntwo\n")]
    #[case("\x1b]0;half a title\r\nnext\r\n", "\nnext\n")]
    #[case("\u{9b}31mred\u{9d}0;title\u{9c}.\r\n", "red.\n")]
    #[case("txet\u{202e} \u{2066}\u{200b}x\r\n", "txet x\n")]
    #[case("漢字 wide\r\n", "漢字 wide\n")]
    #[case("\x1b(0lqk\x1b(B\r\n", "┌─┐\n")]
    #[case("ab\x1b[70000b\r\n", "abbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n")]
    #[case("before\r\n\x1b[2J\x1b[Hafter\r\n", "before\nafter\n")]
    #[case("before\r\n\x1bcafter\r\n", "before\nafter\n")]
    #[case("before\r\n\x1b[H\x1b[2J\x1b[3Jafter\r\n", "before\nafter\n")]
    #[case("before\r\n\x1b[2J\x1b[3J\x1b[H", "before\n")]
    #[case("before\r\n\x1b[3Jafter\r\n", "before\nafter\n")]
    fn text_is_what_a_person_would_have_read(#[case] printed: &str, #[case] expected: &str) {
        assert_eq!(rendered(printed), expected);
        for cut in 0..printed.len() {
            let (one, other) = printed.as_bytes().split_at(cut);
            assert_eq!(rendered_on(USUAL_SIZE, &[one, other]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn wrapped_lines_are_joined_on_a_terminal_of_any_size() {
        let line = "0123456789".repeat(30_000);
        let printed = format!("{line}\r\nnext\r\n");
        for size in
            [USUAL_SIZE, Size { columns: 7, rows: 2 }, Size { columns: 1, rows: 1 }, Size { columns: 0, rows: 0 }]
        {
            assert!(rendered_on(size, &[printed.as_bytes()]) == format!("{line}\nnext\n"), "{size:?}");
        }
    }

    #[test]
    fn text_far_longer_than_the_output_is_cut() {
        let mut rendering = Rendering::new(Size { columns: 500, rows: 200 });
        let flip = "\x1b[?1049h\x1b#8\x1b[?1049l\x1b[?1049h\x1b[2J\x1b[?1049l".repeat(2000);
        for piece in flip.as_bytes().chunks(4096) {
            rendering.feed(piece);
        }
        let text = rendering.take();
        assert!(text.ends_with(CUT) && text.len() < 2 * (MOST_TEXT + MOST_TEXT_OF_BYTE * flip.len()), "{}", text.len());
    }

    /// The picture of a terminal interface that is higher than the screen: lines, and a status below them.
    fn picture(lines: std::ops::Range<usize>, doing: &str) -> String {
        let lines = lines.map(|number| format!("line {number}\r\n\r\n")).collect::<Vec<_>>().concat();
        format!("title\r\n\r\n{lines}{doing}\r\n----\r\n> \r\n")
    }

    /// Erases the screen and what scrolled off, as Ink does.
    const ERASE: &str = "\x1b[2J\x1b[3J\x1b[H";

    #[test]
    fn a_picture_printed_again_is_emitted_once() {
        let expected: String = picture(0..90, "working 89").replace('\r', "").replace("> \n", ">\n");
        let printed: String = (12..90).map(|last| picture(0..last + 1, &format!("working {last}")) + ERASE).collect();
        let printed = printed.strip_suffix(ERASE).unwrap();
        assert_eq!(rendered(printed), expected);
        for size in [100, 997] {
            let pieces: Vec<&[u8]> = printed.as_bytes().chunks(size).collect();
            assert_eq!(rendered_on(USUAL_SIZE, &pieces), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_follower_gets_a_picture_printed_again_once() {
        let mut rendering = Rendering::new(USUAL_SIZE);
        for last in 12..90 {
            let picture = picture(0..last + 1, "working");
            let (half, rest) = picture.split_at(picture.len() * 2 / 3);
            rendering.feed((picture.clone() + ERASE + half).as_bytes());
            rendering.tell_at_once();
            rendering.settle();
            rendering.feed(rest.as_bytes());
            rendering.tell_at_once();
            rendering.settle();
            rendering.settle();
            rendering.feed(ERASE.as_bytes());
        }
        rendering.feed(picture(0..90, "done").as_bytes());
        rendering.show();
        let text = rendering.take();
        for number in 0..90 {
            let line = format!("line {number}");
            assert_eq!(text.lines().filter(|told| *told == line).count(), 1, "{line} in {text}");
        }
    }

    #[test]
    fn output_of_any_length_is_emitted_after_a_clear() {
        let lines =
            |of: &str, count| (0..count).map(|number| format!("{of} {number}\r\n")).collect::<Vec<_>>().concat();
        for (first, second) in [(3, 3), (60, 3), (3, 60), (60, 60), (60, 900)] {
            let (first, second) = (lines("first", first), lines("second", second));
            let printed = format!("{first}\x1b[H\x1b[2J\x1b[3J{second}");
            assert_eq!(rendered(&printed), format!("{first}{second}").replace('\r', ""));
        }
    }

    fn lines(of: &str, numbers: std::ops::Range<usize>) -> String {
        numbers.map(|number| format!("{of} {number}\r\n")).collect::<Vec<_>>().concat()
    }

    fn told(text: &str, line: &str) -> usize {
        text.lines().filter(|told| *told == line).count()
    }

    #[test]
    fn erased_rows_that_do_not_return_are_emitted() {
        let printed = format!(
            "Running tests\r\n{}{}{ERASE}Running tests\r\n{}",
            lines("test ok", 0..40),
            lines("FAILED detail", 0..20),
            lines("other", 0..3)
        );
        let text = rendered(&printed);
        (0..20).for_each(|number| assert_eq!(told(&text, &format!("FAILED detail {number}")), 1, "{number} in {text}"));
        (0..40).for_each(|number| assert_eq!(told(&text, &format!("test ok {number}")), 1, "{number} in {text}"));
        (0..3).for_each(|number| assert_eq!(told(&text, &format!("other {number}")), 1, "{number} in {text}"));
    }

    #[rstest]
    #[case(40)]
    #[case(10)]
    fn an_answer_erased_below_a_returning_title_is_emitted(#[case] count: usize) {
        let prompt = "----\r\n> \r\n----\r\nhelp\r\n";
        for rest in ["", "\x1b[2J\x1b[3J\x1b[H", "more\r\n", "\x1b[2J\x1b[3J\x1b[Htitle\r\n"] {
            let printed = format!(
                "title\r\n{}THE ANSWER IS 42\r\n{prompt}{ERASE}title\r\n{prompt}{rest}",
                lines("line", 0..count)
            );
            let text = rendered(&printed);
            assert_eq!(told(&text, "THE ANSWER IS 42"), 1, "{rest:?}: {text}");
            (0..count).for_each(|number| assert_eq!(told(&text, &format!("line {number}")), 1, "{number} in {text}"));
            let mut rendering = Rendering::new(USUAL_SIZE);
            for piece in printed.as_bytes().chunks(100) {
                rendering.feed(piece);
                rendering.tell_at_once();
                rendering.settle();
            }
            rendering.settle();
            rendering.show();
            let text = rendering.take();
            assert_eq!(told(&text, "THE ANSWER IS 42"), 1, "{rest:?}: {text}");
        }
    }

    #[test]
    fn a_follower_gets_new_rows_although_a_replay_seems_under_way() {
        for erases in [false, true] {
            let mut rendering = Rendering::new(USUAL_SIZE);
            rendering.feed(lines("line", 0..60).as_bytes());
            rendering.tell_at_once();
            rendering.take();
            rendering.feed(format!("{ERASE}I will now delete everything\r\nspinner").as_bytes());
            let mut settles = 0;
            while !rendering.text().contains("I will now delete everything") {
                assert!(settles < 2 * LONGEST_SILENCE, "it is never told, erases: {erases}");
                let again = if erases { format!("{ERASE}I will now delete everything\r\n") } else { "\r".to_owned() };
                rendering.feed(format!("{again}spinner {settles}").as_bytes());
                rendering.tell_at_once();
                rendering.settle();
                settles += 1;
            }
        }
    }

    #[test]
    fn rows_similar_to_earlier_ones_are_emitted_without_a_replay() {
        let lines = |of: &str, count: usize| -> String {
            (0..count)
                .map(|number| if number % 10 == 9 { "}\r\n".to_owned() } else { format!("{of} {number}\r\n") })
                .collect::<Vec<_>>()
                .concat()
        };
        let text = rendered(&format!("{}{ERASE}{}", lines("first", 100), lines("second", 60)));
        assert_eq!(told(&text, "}"), 16, "{text}");
        let text = rendered(&format!("title\r\n{}{ERASE}title\r\n{}", lines("first", 100), lines("second", 60)));
        assert_eq!(told(&text, "}"), 16, "{text}");
    }

    #[test]
    fn a_picture_that_shrinks_and_grows_is_emitted_once() {
        let printed: String = [60, 5, 60, 30, 70].map(|last| picture(0..last, "working") + ERASE).concat();
        let text = rendered(printed.strip_suffix(ERASE).unwrap());
        for number in 0..70 {
            assert_eq!(told(&text, &format!("line {number}")), 1, "line {number} in {text}");
        }
    }

    #[test]
    fn a_screen_erased_again_and_again_is_kept_once() {
        let mut rendering = Rendering::new(USUAL_SIZE);
        rendering.feed(lines("line", 0..60).as_bytes());
        for _ in 0..1000 {
            rendering.feed("\x1b[2J\x1b[3J\x1b[H".as_bytes());
        }
        let kept = rendering.teller.erasure.screen.as_ref().map_or(0, Vec::len);
        assert!(kept <= usize::from(USUAL_SIZE.rows), "{kept} rows");
        rendering.show();
        assert_eq!(rendering.take(), lines("line", 0..60).replace('\r', ""));
    }

    #[test]
    fn plain_lines_skip_the_emulator_wherever_pieces_end() {
        let printed = "a line of a build that is nothing but text\r\n".repeat(20_000);
        for size in [PIECE, PIECE - 1, 10_007] {
            let mut rendering = Rendering::new(USUAL_SIZE);
            for piece in printed.as_bytes().chunks(size) {
                rendering.feed(piece);
            }
            let bound = printed.len() / 5;
            assert!(rendering.emulated < bound, "{} bytes in pieces of {size} were emulated", rendering.emulated);
            rendering.show();
            assert!(rendering.take() == printed.replace('\r', ""));
        }
    }

    #[test]
    fn output_no_longer_wanted_is_not_rendered() {
        let mut rendering = Rendering::new(USUAL_SIZE);
        rendering.feed_while(b"x\r\n", || false);
        rendering.show();
        assert_eq!(rendering.take(), "");
    }

    #[test]
    fn the_alternate_screen_is_emitted_as_the_program_left_it() {
        let printed = "$ less\r\n\x1b[?1049h\x1b[Hpage one\x1b[2;1H~\x1b[Hpage two";
        assert_eq!(rendered(printed), "$ less\npage two\n~\n", "it is still there");
        let left = format!("{printed}\x1b[?1049l$ exit\r\n");
        assert_eq!(rendered(&left), "$ less\npage two\n~\n$ exit\n");
        assert_eq!(rendered("a\r\n\x1b[?1049l\x1b[?1049hb\x1b[?1049h\x1b[?1049lc\r\n"), "a\nb\nc\n");
    }

    #[test]
    fn lines_scrolled_on_the_alternate_screen_are_emitted_once() {
        let mut rendering = Rendering::new(USUAL_SIZE);
        rendering.feed(b"\x1b[?1049h");
        let mut told = String::new();
        for second in 0..9 {
            let lines =
                (second..second + 5).map(|number| format!("answer {number}\x1b[K\r\n")).collect::<Vec<_>>().concat();
            rendering.feed(format!("\x1b[H{lines}\x1b[20;1Hworking {second}").as_bytes());
            rendering.look();
            told += &rendering.take();
        }
        rendering.feed(b"\x1b[?1049lbye\r\n");
        rendering.show();
        told += &rendering.take();
        let answers = (0..13).map(|number| format!("answer {number}\n")).collect::<Vec<_>>().concat();
        assert_eq!(told, format!("{answers}working 8\nbye\n"));
    }

    #[test]
    fn a_change_of_size_repeats_and_loses_nothing() {
        let mut rendering = Rendering::new(USUAL_SIZE);
        let line = "x".repeat(100);
        rendering.feed(format!("{line}\r\nshort\r\n").as_bytes());
        rendering.tell_at_once();
        for (columns, rows) in [(40, 10), (200, 3), (80, 24), (20, 2), (80, 24)] {
            rendering.resize(Size { columns, rows });
            rendering.tell_at_once();
        }
        rendering.feed(b"end\r\n");
        rendering.show();
        assert_eq!(rendering.take(), format!("{line}\nshort\nend\n"));
    }

    /// What is emitted after each piece, and in the end.
    fn followed(pieces: &[&str]) -> Vec<String> {
        let mut rendering = Rendering::new(USUAL_SIZE);
        let mut told: Vec<String> = pieces
            .iter()
            .map(|piece| {
                match *piece {
                    "settle" => drop(rendering.settle()),
                    piece => {
                        rendering.feed(piece.as_bytes());
                        rendering.tell_at_once();
                    }
                }
                rendering.take()
            })
            .collect();
        rendering.show();
        told.push(rendering.take());
        told
    }

    #[test]
    fn a_follower_of_plain_lines_gets_them_at_once() {
        let printed = ["one\r\ntw", "o\r\n", "\r\nthree: ", "four\r\n"];
        assert_eq!(followed(&printed), ["one\ntw", "o\n", "\nthree:", " four\n", ""]);
    }

    #[test]
    fn a_follower_of_a_progress_bar_gets_its_end() {
        let printed = ["get 10%", "\rget 20%", "\rget 30%", "settle", "settle", "\rget 90%", "\rget 100%\r\nnext"];
        let expected = ["get 10%", "", "", "", "\nget 30%", "", "\nget 100%\nnext", ""];
        assert_eq!(followed(&printed), expected);
    }

    #[test]
    fn a_follower_gets_what_scrolls_off_and_what_stays() {
        let frame = |count: usize| format!("\x1b[2A\r\x1b[Jworking {count}\r\n> input\r\n");
        let first = "welcome\r\n\r\nworking 0\r\n> input\r\n";
        let mut pieces = vec![first.to_owned()];
        pieces.extend((1..5).map(frame));
        pieces.extend(["settle".to_owned(), frame(5), "settle".to_owned(), "settle".to_owned()]);
        pieces.push("\x1b[2A\r\x1b[Jthe answer\r\n> input\r\n".to_owned());
        pieces.extend(["settle".to_owned(), "settle".to_owned()]);
        pieces.push("bye\r\n".repeat(30));
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let told = followed(&pieces);
        assert_eq!(told[0], "welcome\n\nworking 0\n> input\n");
        assert_eq!(
            told[1..9].concat(),
            "working 5\n",
            "what had stood still, without what was emitted before: {told:?}"
        );
        assert_eq!(told[9..12], ["", "", "the answer\n"]);
        assert_eq!(told[12..].concat(), "bye\n".repeat(30));
    }

    #[test]
    fn forgotten_output_is_not_emitted() {
        let mut rendering = Rendering::new(USUAL_SIZE);
        rendering.feed(b"old\r\nhalf");
        rendering.forget();
        rendering.show();
        assert_eq!(rendering.take(), "");
        rendering.feed(b" a line\r\nnew\r\n");
        rendering.show();
        assert_eq!(rendering.take(), "half a line\nnew\n");
    }

    #[test]
    fn output_that_takes_too_long_is_cut_with_a_note() {
        let mut rendering = Rendering::new(USUAL_SIZE);
        rendering.feed(b"text\r\n");
        rendering.pay(LONGEST + Duration::from_secs(1), Duration::ZERO);
        rendering.feed(b"more\r\n");
        assert_eq!(rendering.take(), format!("text\n{CUT}"));
    }

    #[test]
    fn a_resize_costs_time_and_is_skipped_once_time_is_up() {
        let mut rendering = Rendering::new(USUAL_SIZE);
        rendering.feed(b"text\r\n");
        rendering.left = Duration::ZERO;
        rendering.resize(Size { columns: 500, rows: 200 });
        assert!(rendering.is_over);
        assert_eq!(rendering.take(), format!("text\n{CUT}"));
        rendering.resize(Size { columns: 1, rows: 1 });
        assert_eq!(rendering.terminal.size(), (500, 200));
        assert!(!rendering.settle(), "there is nothing more to emit");
    }

    #[test]
    fn a_settle_costs_time_beyond_its_allowance() {
        let mut rendering = Rendering::new(USUAL_SIZE);
        rendering.feed(b"text\r\n");
        rendering.left = Duration::ZERO;
        rendering.settle();
        assert!(!rendering.left.is_zero() && rendering.left < LONGEST_OF_SETTLE, "{:?}", rendering.left);
    }

    #[test]
    fn telling_at_once_is_bounded_between_two_settles() {
        let mut rendering = Rendering::new(LARGEST_SIZE);
        let full = format!("{}\r\n", "x".repeat(500)).repeat(199);
        rendering.feed(full.as_bytes());
        let mut looks = 0;
        let begun = spent();
        while !rendering.left_at_once.is_zero() {
            rendering.feed(b"x\x08");
            rendering.tell_at_once();
            looks += 1;
            assert!(spent().saturating_sub(begun) < LONGEST, "it never ends ({looks} looks)");
        }
        rendering.take();
        rendering.feed(b"last");
        rendering.tell_at_once();
        assert_eq!(rendering.take(), "");
        rendering.settle();
        rendering.settle();
        assert_eq!(rendering.take(), "\nlast", "what was not emitted at once is emitted when it stands still");
        rendering.feed(b" word");
        rendering.tell_at_once();
        assert_eq!(rendering.take(), " word");
    }

    #[test]
    fn blanks_at_the_end_of_a_full_row_are_kept_as_the_emulator_keeps_them() {
        for (line, expected) in
            [("ab  \r\n", "ab\n"), ("abc \r\n", "abc\n"), ("abc  \r\n", "abc \n"), ("    x  \r\n", "    x\n")]
        {
            let mut text = String::new();
            assert!(push_line(line.trim_end_matches('\n').as_bytes(), 4, &mut text), "{line:?}");
            let mut slow = Rendering::new(Size { columns: 4, rows: 1 });
            line.bytes().for_each(|byte| slow.feed(&[byte]));
            slow.show();
            assert_eq!((text.as_str(), slow.take().as_str()), (expected, expected), "{line:?}");
        }
    }

    proptest! {
        /// The short way gives the same text as the emulator.
        #[test]
        fn plain_lines_are_rendered_as_the_emulator_has_them(
            lines in prop::collection::vec("([a-z \té漢]|\x1b\\[(1;3)?[mK]|[a-z ]{30}){0,6}", 0..60),
            before in "(x\r\n){0,3}(\x1b\\[[HA])?",
            after in "(x|\x1b\\[A\x1b\\[Ky\r\n){0,3}",
            rows in 1..10u16,
            columns in 1..100u16,
            dos in any::<bool>(),
        ) {
            let printed = before + &lines.concat_lines(dos) + &after;
            let size = Size { columns, rows };
            let mut slow = Rendering::new(size);
            // A byte at a time, so that the short way is never taken.
            for byte in printed.as_bytes() {
                slow.feed(&[*byte]);
            }
            slow.show();
            prop_assert_eq!(rendered_on(size, &[printed.as_bytes()]), slow.take());
        }

        /// Whatever is printed after the terminal was erased, and however it is followed, unless it is a picture printed again.
        #[test]
        fn lines_printed_once_are_emitted_once_whatever_is_erased(
            counts in prop::collection::vec((0..70usize, any::<bool>()), 1..6),
            size in 1..200usize,
            does in prop::collection::vec(0..6u8, 40),
        ) {
            let mut printed = String::new();
            for (section, (count, has_title)) in counts.iter().enumerate() {
                printed += if section == 0 { "" } else { ERASE };
                printed += if *has_title { "title\r\n" } else { "" };
                printed += &lines(&format!("of {section}"), 0..*count);
            }
            let mut rendering = Rendering::new(USUAL_SIZE);
            let mut text = String::new();
            for (piece, does) in printed.as_bytes().chunks(size).zip(does.iter().cycle()) {
                rendering.feed(piece);
                match does {
                    0 | 1 => rendering.tell_at_once(),
                    2 => drop(rendering.settle()),
                    _ => {}
                }
                text += &rendering.take();
            }
            rendering.show();
            text += &rendering.take();
            for (section, (count, _)) in counts.iter().enumerate() {
                for number in 0..*count {
                    let line = format!("of {section} {number}");
                    prop_assert_eq!(told(&text, &line), 1, "{} in {}", line, text);
                }
            }
        }

        /// Where the pieces of output end does not show in the text, even with similar rows and erasures.
        #[test]
        fn replays_give_the_same_text_wherever_pieces_end(
            lines in prop::collection::vec(prop_oneof![
                20 => "[a-d]?\r\n", 4 => Just("title\r\na\r\nb\r\nc\r\n".to_owned()), 3 => Just(ERASE.to_owned()),
            ], 0..120),
            cut in 1..40usize,
            rows in 1..9u16,
        ) {
            let printed = lines.concat();
            let size = Size { columns: 9, rows };
            let pieces: Vec<&[u8]> = printed.as_bytes().chunks(cut).collect();
            let whole = rendered_on(size, &[printed.as_bytes()]);
            prop_assert_eq!(&rendered_on(size, &pieces), &whole);
        }

        /// Whatever is printed, and in whatever order it is emitted.
        #[test]
        fn no_control_character_is_emitted(
            printed in prop::collection::vec(prop_oneof![
                Just(b"\x1b[".to_vec()), Just(b"\x1b]".to_vec()), Just(b"\r\n".to_vec()), Just(b"\x1b[?1049h".to_vec()),
                Just(b"\x1b[?1049l".to_vec()), Just(b"\x1b[2J".to_vec()), Just(b"\x1b[3;3r".to_vec()),
                prop::collection::vec(any::<u8>(), 1..8), "[a-z0-9;ABCDHJKLMPSTXbcdr]{1,9}".prop_map(String::into_bytes),
            ], 0..60),
            does in prop::collection::vec(0..6u8, 60),
            columns in 0..20u16,
            rows in 0..10u16,
        ) {
            let mut rendering = Rendering::new(Size { columns, rows });
            let mut told = String::new();
            for (piece, what) in printed.iter().zip(does) {
                rendering.feed(piece);
                match what {
                    0 => rendering.tell_at_once(),
                    1 => drop(rendering.settle()),
                    2 => rendering.show(),
                    3 => rendering.resize(Size { columns: rows * 3, rows: columns }),
                    _ => {}
                }
                told += &rendering.take();
            }
            rendering.show();
            told += &rendering.take();
            prop_assert!(told.chars().all(|character| character == '\n' || !printable::acts(character)), "{:?}", told);
        }
    }

    proptest! {
        #[test]
        fn common_finds_as_many_rows_as_possible(before in prop::collection::vec("[abc]", 0..8), now in prop::collection::vec("[abc]", 0..8)) {
            fn most(before: &[String], now: &[String]) -> usize {
                let ([one, before @ ..], [other, now @ ..]) = (before, now) else { return 0 };
                let with = if one == other { most(before, now) + 1 } else { 0 };
                let both = [std::slice::from_ref(other), now].concat();
                with.max(most(before, &both)).max(most(&[std::slice::from_ref(one), before].concat(), now))
            }
            let is_common = common(&before, &now);
            let kept: Vec<usize> = is_common.iter().filter_map(|place| *place).collect();
            prop_assert_eq!(kept.len(), most(&before, &now));
            prop_assert!(kept.is_sorted_by(|one, other| one < other));
            prop_assert!(now.iter().zip(is_common).all(|(row, place)| place.is_none_or(|place| before[place] == *row)));
        }
    }

    trait Lines {
        fn concat_lines(&self, dos: bool) -> String;
    }

    impl Lines for Vec<String> {
        fn concat_lines(&self, dos: bool) -> String {
            let end = if dos { "\r\r\n" } else { "\r\n" };
            self.iter().flat_map(|line| [line.as_str(), end]).collect()
        }
    }
}

//! The table: a line for each figure.

use std::fmt;
use std::time::Duration;

/// The unit of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Nanoseconds.
    Time,
    Bytes,
    Count,
}

#[derive(Debug)]
struct Figure {
    what: String,
    unit: Unit,
    /// Sorted. Empty if the figure could not be measured.
    samples: Vec<u64>,
    remark: String,
}

/// All figures of one binary, in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Table(Vec<Figure>);

/// The figures of two binaries side by side, or of one alone.
#[derive(Debug)]
pub struct Comparison<'a> {
    pub this: &'a Table,
    pub other: Option<&'a Table>,
}

impl Table {
    /// Something that was measured several times, or of several things.
    pub fn several(&mut self, what: impl Into<String>, unit: Unit, mut samples: Vec<u64>) {
        samples.sort_unstable();
        self.0.push(Figure { what: what.into(), unit, samples, remark: String::new() });
    }

    /// Times.
    pub fn times(&mut self, what: impl Into<String>, times: &[Duration]) {
        self.several(what, Unit::Time, times.iter().copied().map(nanoseconds).collect());
    }

    /// Something that was measured once.
    pub fn single(&mut self, what: impl Into<String>, unit: Unit, sample: u64) {
        self.several(what, unit, vec![sample]);
    }

    /// Something that could not be measured, for this reason.
    pub fn remark_missing(&mut self, what: impl Into<String>, reason: impl Into<String>) {
        self.several(what, Unit::Count, Vec::new());
        self.remark(reason);
    }

    fn figure(&self, what: &str) -> Option<&Figure> {
        self.0.iter().find(|figure| figure.what == what)
    }

    /// Adds a note for readers to the last figure.
    pub fn remark(&mut self, remark: impl Into<String>) {
        if let Some(figure) = self.0.last_mut() {
            figure.remark = remark.into();
        }
    }
}

/// The one that half of the times do not exceed, as in the table.
pub fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len().div_ceil(2).max(1) - 1).copied().unwrap_or_default()
}

/// As [`Unit::Time`] has it.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

impl Figure {
    /// The smallest sample that this percentage of the samples does not exceed.
    fn percentile(&self, percent: usize) -> Option<u64> {
        let rank = (self.samples.len() * percent).div_ceil(100).max(1);
        self.samples.get(rank - 1).copied()
    }

    fn shown(&self, sample: Option<u64>) -> String {
        match (self.unit, sample) {
            (_, None) => MISSING.to_owned(),
            (Unit::Time, Some(nanoseconds)) => time(Duration::from_nanos(nanoseconds)),
            (Unit::Bytes, Some(bytes)) => format!("{} KiB", grouped(bytes >> 10)),
            (Unit::Count, Some(count)) => grouped(count),
        }
    }

    /// How many samples, median, 99th percentile.
    fn cells(&self) -> [String; 3] {
        let count = self.samples.len();
        let worst = if count > 1 { self.shown(self.percentile(99)) } else { String::new() };
        [grouped(count as u64), self.shown(self.percentile(50)), worst]
    }

    /// How many times the median of `other` is that of this one.
    #[allow(clippy::cast_precision_loss, reason = "it is rounded")]
    fn ratio(&self, other: &Self) -> String {
        match (self.percentile(50), other.percentile(50)) {
            (Some(this), Some(other)) if this > 0 => format!("{:.2}", other as f64 / this as f64),
            _ => MISSING.to_owned(),
        }
    }
}

/// Stands for a figure that could not be measured.
const MISSING: &str = "—";

fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..1e-3 => format!("{:.0} µs", seconds * 1e6),
        ..1.0 => format!("{:.2} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

/// With a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Comparison<'_> {
    /// Figures that only the other binary has come last.
    fn rows(&self) -> Vec<Vec<String>> {
        let Some(other) = self.other else {
            let row = |figure: &Figure| {
                let [count, median, worst] = figure.cells();
                vec![figure.what.clone(), count, median, worst, figure.remark.clone()]
            };
            return self.this.0.iter().map(row).collect();
        };
        let blank = || ["0", MISSING, ""].map(str::to_owned);
        let row = |figure: &Figure| {
            let theirs = other.figure(&figure.what);
            let ([count, median, worst], remark) = (figure.cells(), figure.remark.clone());
            let [_, their_median, their_worst] = theirs.map_or_else(blank, Figure::cells);
            let ratio = theirs.map_or_else(|| MISSING.to_owned(), |theirs| figure.ratio(theirs));
            let theirs = theirs.filter(|theirs| theirs.remark != remark);
            let remark = theirs.map_or(remark.clone(), |theirs| format!("{remark} | other: {}", theirs.remark));
            vec![figure.what.clone(), count, median, worst, their_median, their_worst, ratio, remark.replace('|', "/")]
        };
        let alone = |figure: &&Figure| self.this.figure(&figure.what).is_none();
        let of_other = |figure: &Figure| {
            let [count, median, worst] = figure.cells();
            let (none, what) = (MISSING.to_owned(), figure.what.clone());
            vec![what, count, none.clone(), String::new(), median, worst, none, figure.remark.clone()]
        };
        self.this.0.iter().map(row).chain(other.0.iter().filter(alone).map(of_other)).collect()
    }
}

/// As Markdown has it, in columns.
impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: &[&str] = match self.other {
            None => &["figure", "n", "median", "99th percentile", "remark"],
            Some(_) => &["figure", "n", "median", "99th percentile", "other: median", "99th", "other ÷ this", "remark"],
        };
        let mut rows: Vec<Vec<String>> = vec![head.iter().map(|&word| word.to_owned()).collect()];
        rows.extend(self.rows());
        let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        rows.insert(1, widths.iter().map(|&width| "-".repeat(width)).collect());
        for row in &rows {
            for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                // Words to the left, numbers to the right.
                let is_words = at == 0 || at + 1 == head.len();
                if is_words { write!(f, "| {cell:width$} ")? } else { write!(f, "| {cell:>width$} ")? }
            }
            writeln!(f, "|")?;
        }
        Ok(())
    }
}

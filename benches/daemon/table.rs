//! The table: a line for each figure.

use std::fmt;
use std::time::Duration;

/// What the numbers of a figure are.
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
    /// Sorted. Empty is: could not be measured.
    samples: Vec<u64>,
    remark: String,
}

/// All figures, in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Table(Vec<Figure>);

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

    /// Adds to the last figure what a reader should know.
    pub fn remark(&mut self, remark: impl Into<String>) {
        if let Some(figure) = self.0.last_mut() {
            figure.remark = remark.into();
        }
    }
}

/// As [`Unit::Time`] has it.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

impl Figure {
    /// The smallest sample that so many percent do not exceed.
    fn percentile(&self, percent: usize) -> Option<u64> {
        let rank = (self.samples.len() * percent).div_ceil(100).max(1);
        self.samples.get(rank - 1).copied()
    }

    fn shown(&self, sample: Option<u64>) -> String {
        match (self.unit, sample) {
            (_, None) => "n/a".to_owned(),
            (Unit::Time, Some(nanoseconds)) => time(Duration::from_nanos(nanoseconds)),
            (Unit::Bytes, Some(bytes)) => format!("{} KiB", grouped(bytes >> 10)),
            (Unit::Count, Some(count)) => grouped(count),
        }
    }

    fn cells(&self) -> [String; 5] {
        let count = self.samples.len();
        let worst = if count > 1 { self.shown(self.percentile(99)) } else { String::new() };
        [self.what.clone(), grouped(count as u64), self.shown(self.percentile(50)), worst, self.remark.clone()]
    }
}

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

/// As Markdown has it, in columns.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["figure", "n", "median", "99th percentile", "remark"].map(str::to_owned);
        let mut rows: Vec<[String; 5]> = std::iter::once(head).chain(self.0.iter().map(Figure::cells)).collect();
        let widths = [0, 1, 2, 3, 4].map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default());
        rows.insert(1, widths.map(|width| "-".repeat(width)));
        for row in &rows {
            for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                // Words to the left, numbers to the right.
                if at == 0 || at == 4 { write!(f, "| {cell:width$} ")? } else { write!(f, "| {cell:>width$} ")? }
            }
            writeln!(f, "|")?;
        }
        Ok(())
    }
}

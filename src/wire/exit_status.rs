//! How a process ended, from `waitpid(2)` to the body of an HTTP response.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use nix::libc::{SIGRTMAX, SIGRTMIN};
use nix::sys::signal;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A process's exit status as `wait(2)` tells it, or why it is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// The process exited with this status.
    Code(i32),
    /// The process was ended by this signal, by name (`SIGKILL`, `SIGRTMIN+3`).
    Signal(Signal),
    /// The status is unknown; this is the cause.
    Cause(String),
}

/// Another build of agentd may know a signal that this one does not, so an unknown name is read as a cause.
impl<'de> Deserialize<'de> for ExitStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        enum Written {
            Code(i32),
            Signal(String),
            Cause(String),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Code(code) => Self::Code(code),
            Written::Signal(name) => {
                name.parse().map_or_else(|_| Self::Cause(format!("ended by {name}")), Self::Signal)
            }
            Written::Cause(cause) => Self::Cause(cause),
        })
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exited with status {code}"),
            Self::Signal(signal) => write!(formatter, "ended by {signal}"),
            Self::Cause(cause) => formatter.write_str(cause),
        }
    }
}

impl ExitStatus {
    /// The status of a launcher's report. A launcher runs as the agent user, so an impossible status is reported as a cause.
    pub fn of_code(code: i32) -> Self {
        match u8::try_from(code) {
            Ok(code) => Self::Code(code.into()),
            Err(_) => Self::Cause(format!("its launcher reported an impossible exit status ({code})")),
        }
    }

    /// The signal of a launcher's report, by number. An impossible signal is reported as a cause.
    pub fn of_signal(number: i32) -> Self {
        match Signal::from_number(number) {
            Some(signal) => Self::Signal(signal),
            None => Self::Cause(format!("its launcher reported an impossible signal ({number})")),
        }
    }
}

/// A signal that the kernel has.
///
/// The kernel has 64 of them, and 31 have names in every library, so a number is what is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

impl Signal {
    /// `SIGKILL`, which no process can catch.
    pub const KILL: Self = Self(signal::SIGKILL as i32);

    /// The signal of this number; `None` if the kernel has none.
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=SIGRTMAX()).contains(&number).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }
}

/// `SIGKILL`, or `SIGRTMIN+3` as systemd and bash write it. The few that the C library keeps for itself are written as `SIG32`.
impl fmt::Display for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (signal::Signal::try_from(self.0), self.0.saturating_sub(SIGRTMIN())) {
            (Ok(signal), _) => formatter.write_str(signal.as_str()),
            (Err(_), 0) => formatter.write_str("SIGRTMIN"),
            (Err(_), above @ 1..) => write!(formatter, "SIGRTMIN+{above}"),
            (Err(_), _) => write!(formatter, "SIG{}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The text is not the name of a signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a signal, such as SIGKILL or SIGRTMIN+3")]
pub struct UnknownSignal(String);

/// The inverse of `Display`. It knows `SIGRTMAX-1` and `SIG37` as well.
impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(name: &str) -> Result<Self, UnknownSignal> {
        number(name).and_then(Self::from_number).ok_or_else(|| UnknownSignal(name.to_owned()))
    }
}

fn number(name: &str) -> Option<i32> {
    let known = || signal::Signal::from_str(name).ok().map(|signal| signal as i32);
    let short = name.strip_prefix("SIG")?;
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.get(1..)?.parse::<i32>().ok() };
    let of_real_time = || match (short.strip_prefix("RTMIN"), short.strip_prefix("RTMAX")) {
        (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => SIGRTMIN().checked_add(offset(rest)?),
        (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => SIGRTMAX().checked_sub(offset(rest)?),
        _ => None,
    };
    let by_number = || short.parse().ok();
    known().or_else(of_real_time).or_else(by_number)
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Signal {
    fn schema_name() -> Cow<'static, str> {
        "Signal".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(9, "SIGKILL")]
    #[case(32, "SIG32")]
    #[case(SIGRTMIN(), "SIGRTMIN")]
    #[case(SIGRTMIN() + 3, "SIGRTMIN+3")]
    fn a_signal_is_written_as_systemd_writes_it(#[case] number: i32, #[case] expected: &str) {
        assert_eq!(Signal::from_number(number).unwrap().to_string(), expected);
    }

    #[rstest]
    #[case(0)]
    #[case(65)]
    #[case(-9)]
    #[case(i32::MIN)]
    fn a_number_that_the_kernel_lacks_is_not_a_signal(#[case] number: i32) {
        assert_eq!(Signal::from_number(number), None);
        assert!(matches!(ExitStatus::of_signal(number), ExitStatus::Cause(_)));
    }

    #[test]
    fn every_signal_survives_being_written_and_read() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse(), Ok(signal));
            let status = ExitStatus::Signal(signal);
            let json = serde_json::to_string(&status).unwrap();
            assert_eq!(json, format!("{{\"signal\":\"{signal}\"}}"));
            assert_eq!(serde_json::from_str::<ExitStatus>(&json).unwrap(), status);
        }
    }

    #[test]
    fn an_unknown_signal_is_read_as_a_cause() {
        let read: ExitStatus = serde_json::from_str("{\"signal\":\"SIGNEW\"}").unwrap();
        assert_eq!(read, ExitStatus::Cause("ended by SIGNEW".to_owned()));
    }

    #[rstest]
    #[case("SIG37", Some(37))]
    #[case("SIGRTMAX", Some(64))]
    #[case("SIGRTMAX-1", Some(63))]
    #[case("SIGRTMIN+99", None)]
    #[case("SIGRTMIN+2147483647", None)]
    #[case("SIGRTMIN-1", None)]
    #[case("SIG65", None)]
    #[case("SIG0", None)]
    #[case("KILL", None)]
    #[case("SIGRTMIN+é", None)]
    #[case("", None)]
    fn a_name_that_no_signal_has_is_refused(#[case] name: &str, #[case] expected: Option<i32>) {
        assert_eq!(name.parse().ok().map(Signal::number), expected);
    }
}

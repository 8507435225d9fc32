//! Exit codes, and the one error type that every command ends with.
//!
//! Invariants: the numbers never change meaning, scripts rely on them; a failure says what happened,
//! to what, and (in its hint) what to do about it.

use std::fmt::Display;
use std::io;

use headwater_proto::ErrorCode;
use serde_json::json;

/// What the process tells its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Failure = 1,
    Usage = 2,
    NotFound = 3,
    Conflict = 4,
    Denied = 5,
    Unreachable = 6,
    Partial = 7,
}

/// The table in `--help`.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0  success
  1  failure
  2  wrong usage
  3  not found
  4  conflict, or a precondition does not hold
  5  denied
  6  unreachable, or no answer in time
  7  partial success: some of it was done";

impl Exit {
    /// The name in JSON errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Unreachable => "unreachable",
            Self::Partial => "partial",
        }
    }

    /// The exit code for an answer of the broker.
    #[must_use]
    pub const fn of_code(code: ErrorCode) -> Self {
        match code {
            ErrorCode::UnknownTopicOrPartition => Self::NotFound,
            ErrorCode::TopicAlreadyExists
            | ErrorCode::OffsetOutOfRange
            | ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::DuplicateSequenceNumber
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::UnknownProducerId
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::ReassignmentInProgress => Self::Conflict,
            ErrorCode::LeaderNotAvailable
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::NotController
            | ErrorCode::RequestTimedOut
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::PreferredLeaderNotAvailable
            | ErrorCode::EligibleLeadersNotAvailable
            | ErrorCode::ThrottlingQuotaExceeded => Self::Unreachable,
            _ => Self::Failure,
        }
    }
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
    /// Kafka's name of the broker's error.
    pub kafka_error: Option<&'static str>,
    /// The reader of our output went away: nobody is left to tell.
    quiet: bool,
}

impl Failure {
    #[must_use]
    pub fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string(), hint: None, kafka_error: None, quiet: false }
    }

    #[must_use]
    pub fn usage(message: impl Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// The same failure, with where it happened in front.
    #[must_use]
    pub fn at(mut self, place: impl Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Success as far as the caller is concerned, but with nothing more to write.
    #[must_use]
    pub fn broken_pipe() -> Self {
        Self { quiet: true, ..Self::new(Exit::Ok, "the reader of the output has gone") }
    }

    #[must_use]
    pub const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// An answer of the broker: `subject` is what the command was doing, "create topic flights".
    #[must_use]
    pub fn from_code(subject: impl Display, code: ErrorCode, message: &str) -> Self {
        let said = if message.is_empty() { code.name() } else { message };
        let mut failure = Self::new(Exit::of_code(code), format!("{subject}: {said}"));
        failure.kafka_error = Some(code.name());
        failure.hint = hint_for(code).map(str::to_string);
        failure
    }

    /// An operation on a file of the user's.
    #[must_use]
    pub fn file(doing: &str, path: impl Display, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            io::ErrorKind::PermissionDenied => Exit::Denied,
            _ => Exit::Failure,
        };
        Self::new(exit, format!("cannot {doing} {path}: {error}"))
    }

    /// Writing to standard output or error failed.
    #[must_use]
    pub fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::broken_pipe();
        }
        Self::new(Exit::Failure, format!("cannot write to standard output: {error}"))
    }

    /// The error as `-o json` prints it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({ "error": {
            "kind": self.exit.name(),
            "exit_code": self.exit as u8,
            "message": self.message,
            "hint": self.hint,
            "kafka_error": self.kafka_error,
        }})
    }
}

fn hint_for(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::UnknownTopicOrPartition => {
            "`streamctl topic list` shows what there is, `streamctl topic create` makes one"
        }
        ErrorCode::TopicAlreadyExists => {
            "use --if-not-exists to accept it, or `streamctl topic alter` to change it"
        }
        ErrorCode::InvalidTopic => {
            "a name has 1 to 249 characters of a-z A-Z 0-9 . _ - and is neither . nor .."
        }
        ErrorCode::InvalidConfig => {
            "`streamctl topic configs TOPIC` lists the configs of a topic that exists, and what they mean"
        }
        ErrorCode::OffsetOutOfRange => "`streamctl topic describe TOPIC` shows the offsets that there are",
        ErrorCode::MessageTooLarge => "raise max.message.bytes of the topic, or send smaller records",
        ErrorCode::KafkaStorageError => {
            "a disk of the broker failed or is full (its log says more), or the partition is damaged: \
             `streamctl topic describe TOPIC` shows that"
        }
        ErrorCode::InvalidReplicationFactor | ErrorCode::InvalidReplicaAssignment => {
            "`streamctl cluster status` shows the brokers that there are"
        }
        ErrorCode::ReassignmentInProgress => {
            "`streamctl partition list --unhealthy` shows how far it is; `streamctl partition move TOPIC/N --cancel` \
             gives it up"
        }
        ErrorCode::LeaderNotAvailable
        | ErrorCode::PreferredLeaderNotAvailable
        | ErrorCode::EligibleLeadersNotAvailable => {
            "`streamctl partition list --unhealthy` shows which replicas are missing"
        }
        ErrorCode::RequestTimedOut => "it may or may not have been done: look before trying again",
        _ => return None,
    })
}

/// How a batch of things that are done one by one ends: all, some, or none of them done.
#[derive(Debug, Default)]
pub struct Tally {
    done: usize,
    failures: Vec<Failure>,
}

impl Tally {
    pub fn done(&mut self) {
        self.done += 1;
    }

    pub fn failed(&mut self, failure: Failure) {
        self.failures.push(failure);
    }

    /// The only failure as it is; several become one, partial if anything was done.
    pub fn finish(mut self) -> Result<(), Failure> {
        if self.failures.is_empty() {
            return Ok(());
        }
        if self.failures.len() == 1 && self.done == 0 {
            return Err(self.failures.remove(0));
        }
        let total = self.done + self.failures.len();
        let reasons: Vec<_> = self.failures.iter().map(|f| f.message.as_str()).collect();
        let exit = if self.done > 0 { Exit::Partial } else { self.failures[0].exit };
        let mut failure =
            Failure::new(exit, format!("{} of {total} failed: {}", self.failures.len(), reasons.join("; ")));
        failure.hint = self.failures.iter_mut().find_map(|f| f.hint.take());
        failure.kafka_error = self.failures[0].kafka_error;
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_code_of_the_broker_has_an_exit_code_that_is_not_success() {
        for code in ErrorCode::ALL {
            assert_ne!(Exit::of_code(*code), Exit::Ok, "{}", code.name());
        }
        assert_eq!(Exit::of_code(ErrorCode::UnknownTopicOrPartition) as u8, 3);
        assert_eq!(Exit::of_code(ErrorCode::TopicAlreadyExists) as u8, 4);
    }

    #[test]
    fn a_tally_tells_none_some_and_all() {
        let failure = || Failure::new(Exit::NotFound, "delete topic x: unknown");
        assert!(Tally::default().finish().is_ok());

        let mut none = Tally::default();
        none.failed(failure());
        assert_eq!(none.finish().unwrap_err().exit, Exit::NotFound);

        let mut some = Tally::default();
        some.done();
        some.failed(failure());
        assert_eq!(some.finish().unwrap_err().exit, Exit::Partial);
    }

    #[test]
    fn a_file_error_keeps_its_cause() {
        let denied = Failure::file("read", "x", &io::ErrorKind::PermissionDenied.into());
        assert_eq!(denied.exit, Exit::Denied);
        assert!(Failure::stdout(&io::ErrorKind::BrokenPipe.into()).is_quiet());
    }
}

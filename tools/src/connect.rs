//! From settings to a connected client, and from the client's errors to ours.

use std::time::Duration;

use headwater_client::{Client, ClientConfig, ClientError, ConsumeError, DeliveryError, SendError};

use crate::exit::{Exit, Failure};
use crate::settings::{Settings, Source};

/// A broker that is just starting is waited for, but nobody waits long for one that isn't there.
const BOOTSTRAP: Duration = Duration::from_secs(2);

/// Connects to the cluster that the settings name.
pub async fn connect(settings: &Settings) -> Result<Client, Failure> {
    Client::connect(config(settings)).await.map_err(|e| with_source(e, settings))
}

/// As [`connect`], for a command that has less patience than `--timeout` says.
pub async fn connect_within(settings: &Settings, patience: Duration) -> Result<Client, Failure> {
    let config = config(settings);
    let request_timeout = config.request_timeout.min(patience);
    let config = ClientConfig { request_timeout, ..config };
    Client::connect(config).await.map_err(|e| with_source(e, settings))
}

/// What [`connect`] connects with.
#[must_use]
pub fn config(settings: &Settings) -> ClientConfig {
    let timeout = settings.timeout.value;
    let bootstrap = if settings.timeout.source == Source::Default { BOOTSTRAP } else { timeout };
    ClientConfig {
        brokers: settings.brokers.value.clone(),
        client_id: "streamctl".to_string(),
        connect_timeout: timeout,
        request_timeout: timeout,
        bootstrap_timeout: bootstrap,
        ..ClientConfig::default()
    }
}

fn with_source(error: ClientError, settings: &Settings) -> Failure {
    match error {
        ClientError::Unreachable { brokers, reason, .. } => Failure::new(
            Exit::Unreachable,
            format!("no broker answers at {brokers} (from {}): {reason}", settings.brokers.source),
        )
        .hint(
            "start one with `headwater --data-dir DIR`, or name one that runs: \
             --brokers HOST:PORT or HEADWATER_BROKERS (its gRPC address; the port is 9093 by default)",
        ),
        error => error.into(),
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let text = error.to_string();
        match error {
            ClientError::Config { .. } => Self::usage(text),
            ClientError::Refused { operation, target, code, message, .. } => {
                Self::from_code(format!("{operation} {target}"), code, &message)
            }
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } => {
                Self::new(Exit::Unreachable, text)
                    .hint("see that the broker runs; --timeout 30s waits longer")
            }
            ClientError::OutcomeUnknown { .. } => Self::new(Exit::Unreachable, text),
            ClientError::Protocol { .. } => Self::new(Exit::Failure, text)
                .hint("`streamctl cluster info` and --version show the two versions"),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let text = error.to_string();
        match error {
            SendError::Metadata(e) => e.into(),
            SendError::BufferFull { .. } => Self::new(Exit::Unreachable, text),
            SendError::NoSuchPartition { .. } => Self::new(Exit::NotFound, text)
                .hint("`streamctl topic alter TOPIC --partitions N` adds partitions"),
            SendError::RecordTooLarge { .. } | SendError::Encoding(_) | SendError::Closed => {
                Self::new(Exit::Failure, text)
            }
        }
    }
}

impl From<DeliveryError> for Failure {
    fn from(error: DeliveryError) -> Self {
        let text = error.to_string();
        match error {
            DeliveryError::Refused { partition, code, message } => Self::from_code(partition, code, &message),
            DeliveryError::Expired { .. } | DeliveryError::Unknown { .. } => {
                Self::new(Exit::Unreachable, text)
            }
            DeliveryError::Encoding { .. } | DeliveryError::Closed { .. } => Self::new(Exit::Failure, text),
        }
    }
}

impl From<ConsumeError> for Failure {
    fn from(error: ConsumeError) -> Self {
        let text = error.to_string();
        match error {
            ConsumeError::Client(e) => e.into(),
            ConsumeError::Refused { error, .. } => error.into(),
            ConsumeError::OffsetOutOfRange { .. } => Self::new(Exit::Conflict, text),
            ConsumeError::Corrupt { .. } => Self::new(Exit::Failure, text)
                .hint("`streamctl dump DATA_DIR` shows on the broker's host what is damaged there"),
            ConsumeError::NotAssigned { .. } | ConsumeError::NothingToWaitFor => {
                Self::new(Exit::Failure, text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use headwater_client::{ErrorCode, TopicPartition};

    use super::*;

    #[test]
    fn each_kind_of_error_has_its_exit_code() {
        let refused = |code| {
            Failure::from(ClientError::Refused {
                operation: "describe topic",
                target: "t".into(),
                code,
                message: "because".into(),
                retriable: false,
            })
        };
        assert_eq!(refused(ErrorCode::UnknownTopicOrPartition).exit, Exit::NotFound);
        assert_eq!(refused(ErrorCode::TopicAlreadyExists).exit, Exit::Conflict);
        assert_eq!(refused(ErrorCode::UnknownTopicOrPartition).message, "describe topic t: because");
        let unknown =
            DeliveryError::Unknown { partition: TopicPartition::new("t", 0), reason: "reset".into() };
        assert_eq!(Failure::from(unknown).exit, Exit::Unreachable);
        assert_eq!(Failure::from(ClientError::Config { what: "x".into() }).exit, Exit::Usage);
        assert_eq!(Failure::from(ConsumeError::NothingToWaitFor).exit, Exit::Failure);
    }
}

//! Commands of the metadata group and their encoding: the value of a one-record batch.

use bytes::Bytes;
use headwater_proto::record::{Compression, RecordBatchBuilder, RecordError};
use headwater_proto::types::{BrokerId, TimestampMs, TopicId};

use super::{Broker, wire};
use crate::machine::DecodeError;
use crate::topic_config::Overrides;

/// A change of the cluster. Whatever is random or timed was drawn by the controller that proposes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A broker started; replaces what was known under its id.
    RegisterBroker(Broker),
    CreateTopic {
        id: TopicId,
        name: String,
        /// Brokers by partition number; the first is the preferred leader.
        assignments: Vec<Vec<BrokerId>>,
        overrides: Overrides,
    },
    DeleteTopic {
        id: TopicId,
    },
    CreatePartitions {
        id: TopicId,
        /// Partitions that the topic has now.
        before: usize,
        assignments: Vec<Vec<BrokerId>>,
    },
    AlterConfigs {
        id: TopicId,
        /// `None`: back to the default.
        changes: Vec<(String, Option<String>)>,
    },
    AllocateProducerIds {
        count: u32,
    },
}

impl Command {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        wire::encode_command(self)
    }

    /// Reads an encoded command.
    ///
    /// # Errors
    /// Bytes of a newer version, or no command at all.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::decode_command(bytes)
    }

    /// The overrides of a topic once this command altered them; unchanged by any other command.
    #[must_use]
    pub fn overrides_after(&self, overrides: &Overrides) -> Overrides {
        let mut after = overrides.clone();
        if let Self::AlterConfigs { changes, .. } = self {
            for (name, value) in changes {
                match value {
                    Some(value) => after.insert(name.clone(), value.clone()),
                    None => after.remove(name),
                };
            }
        }
        after
    }
}

/// The batch that carries a command through the metadata group's log.
///
/// # Errors
/// A command of more than 2 GiB.
pub fn command_batch(command: &Command, now: TimestampMs) -> Result<Bytes, RecordError> {
    let mut batch = RecordBatchBuilder::new(Compression::None, None);
    batch.append(now.get(), None, Some(&command.encode()), &[])?;
    batch.build()
}

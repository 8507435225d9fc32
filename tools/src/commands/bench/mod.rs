//! `streamctl bench`: throughput and latency through the public client.
//!
//! Invariants: each producer and consumer has a client (and a connection) of its own; a latency counts
//! from the moment at which the load was due, not from when the tool got round to it; MB are 10^6 bytes.

mod consume;
mod cpu;
mod e2e;
mod latency;
mod load;
mod payload;
mod produce;

use std::time::Duration;

use headwater_client::{Acks, Client, ProducerConfig};
use serde_json::Value;

use super::produce::{AcksArg, Codec};
use crate::connect::config;
use crate::exit::Failure;
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Subcommand)]
pub enum BenchCommand {
    /// Measure how fast records are acknowledged.
    Produce(produce::BenchProduceArgs),
    /// Measure how fast records arrive.
    Consume(consume::BenchConsumeArgs),
    /// Measure how long records take from a producer to a consumer, at a steady rate.
    E2e(e2e::BenchE2eArgs),
}

pub async fn run(command: BenchCommand, settings: &Settings, output: Output) -> Result<(), Failure> {
    match command {
        BenchCommand::Produce(args) => produce::run(args, settings, output).await,
        BenchCommand::Consume(args) => consume::run(args, settings, output).await,
        BenchCommand::E2e(args) => e2e::run(args, settings, output).await,
    }
}

/// What the records of a benchmark look like, and how they are sent.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// Producers, each with a connection of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    producers: u32,
    /// Bytes of each record's value; random, so they do not compress.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=1 << 24))]
    record_bytes: u32,
    /// Records in each batch.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_records: u32,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value_t)]
    compression: Codec,
    /// When a record counts as stored.
    #[arg(long, value_enum, default_value_t)]
    acks: AcksArg,
    /// Batches that each producer has in flight in the closed loop [default: 8 MiB over all producers, 1 to 64
    /// each, and at most 5 for each partition].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: Option<u32>,
}

/// Above the value of a record: lengths, deltas, and room for a header's growth.
const RECORD_OVERHEAD: usize = 32;

/// What all producers have in flight together: what a fast disk takes in 20 ms.
const IN_FLIGHT_BYTES: u64 = 8 << 20;

/// The client takes no larger batch.
const BATCH_BYTES_MAX: usize = 32 << 20;

impl LoadArgs {
    fn batch_bytes(&self) -> u64 {
        u64::from(self.record_bytes) * u64::from(self.batch_records)
    }

    /// Enough to keep the pipe full, not so many that the queue is all that is measured.
    /// Enough to keep the pipe full, not so many that the queue is all that is measured (Little's law).
    fn in_flight(&self, partitions: i32) -> usize {
        let share = IN_FLIGHT_BYTES / u64::from(self.producers.max(1));
        let by_bytes = (share / self.batch_bytes().max(1)).clamp(1, 64) as usize;
        // More would only queue in the client: an idempotent producer sends no more than five.
        let by_partitions = usize::try_from(partitions).unwrap_or(1) * 5;
        self.in_flight.map_or_else(|| by_bytes.min(by_partitions), |n| n as usize)
    }

    /// A batch is sent when its records are complete, and only then.
    fn config(&self) -> Result<ProducerConfig, Failure> {
        let batch_bytes =
            (self.record_bytes as usize + RECORD_OVERHEAD) * self.batch_records as usize + 1_024;
        if batch_bytes > BATCH_BYTES_MAX {
            return Err(Failure::usage(format!(
                "a batch of {} records of {} bytes is too large; {} MiB are the limit",
                self.batch_records,
                self.record_bytes,
                BATCH_BYTES_MAX >> 20
            )));
        }
        let acks = Acks::from(self.acks);
        Ok(ProducerConfig {
            acks,
            idempotent: acks == Acks::All,
            compression: self.compression.into(),
            batch_bytes,
            batch_records: Some(self.batch_records as usize),
            linger: Duration::from_secs(1),
            // Room for what is in flight, and in the open loop for a stall of the broker.
            buffer_bytes: (batch_bytes * 16).max(64 << 20),
            ..ProducerConfig::default()
        })
    }
}

/// A client of its own for each producer and consumer: connections are not shared.
async fn client(settings: &Settings) -> Result<Client, Failure> {
    Ok(Client::connect(config(settings)).await?)
}

/// Prints a flat object; people see its fields one below the other.
fn print(title: &str, data: &Value, output: Output) -> Result<(), Failure> {
    output.report(data, |page| {
        page.line(title);
        let fields = data.as_object().into_iter().flatten();
        let rows = fields.map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Null => "-".to_string(),
                value => value.to_string(),
            };
            vec![format!("  {name}"), text]
        });
        page.table(&["", ">"], rows);
    })
}

/// Three decimals are more than any of these measurements is worth.
fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn load(record_bytes: u32, batch_records: u32) -> LoadArgs {
        LoadArgs {
            producers: 1,
            record_bytes,
            batch_records,
            compression: Codec::None,
            acks: AcksArg::All,
            in_flight: None,
        }
    }

    #[test]
    fn small_batches_are_pipelined_deeply_and_large_ones_are_not() {
        let in_flight = |producers, batch_records, partitions| {
            LoadArgs { producers, ..load(1_024, batch_records) }.in_flight(partitions)
        };
        assert_eq!(in_flight(8, 1_000, 8), 1, "a megabyte each is enough");
        assert_eq!(in_flight(1, 1_000, 8), 8);
        assert_eq!(in_flight(100, 10_000, 8), 1);
        assert_eq!(in_flight(8, 1, 100), 64);
        assert_eq!(in_flight(1, 1, 1), 5);
    }

    #[test]
    fn a_batch_that_the_client_refuses_is_wrong_usage() {
        assert!(load(1 << 20, 100).config().is_err());
        let config = load(1_024, 1_000).config().unwrap();
        assert_eq!(config.batch_records, Some(1_000));
        assert!(config.batch_bytes > 1_024_000 && config.buffer_bytes >= 2 * config.batch_bytes);
    }
}

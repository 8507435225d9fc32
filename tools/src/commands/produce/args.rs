//! The grammar of `streamctl produce`.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use headwater_client::{Acks, Compression, ProducerConfig};

use crate::exit::Failure;
use crate::input::{InputFormat, Layout};
use crate::position::parse_duration;
use crate::text::unescape;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Input:
  lines   each line is a value, byte for byte; with --key-field or --value-field it must be a JSON object
  jsonl   each line is an envelope {\"key\":..,\"value\":..,\"headers\":[{\"key\":..,\"value\":..}],\"timestamp\":..};
          bytes that are no text as base64, with \"key_encoding\" or \"value_encoding\": \"base64\"
  csv     the first row names the columns; each other row becomes a JSON object of texts

A record whose key is missing or null has no key. Records of one key keep their order.
A restart of the broker is waited out: no record is lost or doubled.

Examples:
  zcat flights.jsonl.gz | streamctl produce flights --key-field tailnum
  streamctl produce orders orders.csv --format csv --key-field id --compression zstd
  printf 'k1\\tv1\\nk2\\tv2\\n' | streamctl produce pairs --key-separator '\\t'
  streamctl consume a --from start --until end -o jsonl | streamctl produce b --format jsonl")]
pub struct ProduceArgs {
    /// The topic to write to.
    pub topic: String,
    /// Files to read, one after the other; standard input when none is named, or for `-`.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What the input is.
    #[arg(short, long, value_enum, default_value_t)]
    pub format: InputFormat,
    /// Take the key from this field of a JSON object, or this column.
    #[arg(short = 'K', long, value_name = "NAME", conflicts_with_all = ["key_separator", "key"])]
    pub key_field: Option<String>,
    /// Take the value from this field or column, instead of the whole line or row.
    #[arg(long, value_name = "NAME", conflicts_with = "key_separator")]
    pub value_field: Option<String>,
    /// Take the key from in front of this text; a line without it has no key. Escapes: \t \xHH.
    #[arg(long, value_name = "TEXT", value_parser = parse_separator)]
    pub key_separator: Option<Bytes>,
    /// Key of records that have none of their own.
    #[arg(short, long)]
    pub key: Option<String>,
    /// A header for every record.
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, Bytes)>,
    /// Send to this partition, instead of by the key's hash.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Send each envelope to the partition that it names.
    #[arg(long, conflicts_with = "partition")]
    pub keep_partition: bool,
    /// How batches are compressed.
    #[arg(short = 'z', long, value_enum, default_value_t)]
    pub compression: Codec,
    /// When a record counts as stored.
    #[arg(long, value_enum, default_value_t)]
    pub acks: AcksArg,
    /// Longest wait for more records before a batch is sent.
    #[arg(long, value_name = "DURATION", default_value = "5ms", value_parser = parse_duration)]
    pub linger: Duration,
    /// Give up on a record that was not stored for so long, as while the broker is away.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration)]
    pub delivery_timeout: Duration,
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip,
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AcksArg {
    /// Durable on a quorum of replicas.
    #[default]
    #[value(alias = "-1")]
    All,
    /// Durable on the leader.
    #[value(alias = "1")]
    Leader,
    /// Not waited for at all.
    #[value(alias = "0")]
    None,
}

impl From<AcksArg> for Acks {
    fn from(acks: AcksArg) -> Self {
        match acks {
            AcksArg::All => Self::All,
            AcksArg::Leader => Self::Leader,
            AcksArg::None => Self::None,
        }
    }
}

fn parse_separator(text: &str) -> Result<Bytes, String> {
    let separator = unescape(text)?;
    if separator.is_empty() {
        Err("an empty text separates nothing".to_string())
    } else {
        Ok(separator.into())
    }
}

fn parse_header(text: &str) -> Result<(String, Bytes), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), Bytes::from(unescape(value)?))),
        _ => Err("write NAME=VALUE".to_string()),
    }
}

impl ProduceArgs {
    /// The reader's settings, where they make sense together.
    pub fn layout(&self) -> Result<Layout, Failure> {
        let fields = self.key_field.is_some() || self.value_field.is_some();
        if self.format == InputFormat::Jsonl && fields {
            return Err(Failure::usage("an envelope has its own key and value")
                .hint("use --format lines (the default) to take fields from JSON lines"));
        }
        if self.format != InputFormat::Lines && self.key_separator.is_some() {
            return Err(
                Failure::usage("--key-separator splits lines").hint("it goes with --format lines only")
            );
        }
        if self.format != InputFormat::Jsonl && self.keep_partition {
            return Err(Failure::usage("--keep-partition needs the partitions of envelopes: --format jsonl"));
        }
        Ok(Layout {
            format: self.format,
            key_field: self.key_field.clone(),
            value_field: self.value_field.clone(),
            key_separator: self.key_separator.as_ref().map(|separator| separator.to_vec()),
        })
    }

    pub fn config(&self) -> Result<ProducerConfig, Failure> {
        if self.delivery_timeout <= self.linger {
            return Err(Failure::usage("--delivery-timeout must be longer than --linger"));
        }
        let acks = Acks::from(self.acks);
        Ok(ProducerConfig {
            acks,
            idempotent: acks == Acks::All,
            compression: self.compression.into(),
            linger: self.linger,
            delivery_timeout: self.delivery_timeout,
            // The buffer is full while the broker is away; a record then has the same patience.
            max_block: self.delivery_timeout,
            ..ProducerConfig::default()
        })
    }
}

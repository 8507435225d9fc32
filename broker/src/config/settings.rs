//! Every setting of the broker: its name, type, default and range.
//!
//! A setting `key` of section `section` is `section.key` in the file, `HEADWATER_SECTION_KEY` in the
//! environment; those of the first section have no section in their name. Units are in the names.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::value::{HostPort, LogFormat, NodeList, SeedList, settings};

const MIB: usize = 1 << 20;
/// Time-outs and intervals: none is off, none is longer than a day.
const TIMEOUT_MS: RangeInclusive<u64> = 1..=86_400_000;
/// Memory: from 64 KiB to 1 TiB.
const MEMORY_BYTES: RangeInclusive<usize> = 65_536..=1 << 40;
/// HTTP/2 flow-control windows and frames (RFC 9113, section 6.5.2).
const WINDOW_BYTES: RangeInclusive<u32> = 65_535..=(1 << 31) - 1;
const FRAME_BYTES: RangeInclusive<u32> = 16_384..=(1 << 24) - 1;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

settings! {
    /// The effective configuration: typed, within its ranges, immutable once the broker runs.
    struct Config;

    /// Who this broker is, where its data lies and where it listens.
    broker: BrokerConfig "" {
        /// Number of this broker in its cluster.
        node_id: i32 = 1, in 0..=1_000_000;
        /// Where everything durable lies; created if it is missing.
        data_dir: PathBuf = PathBuf::from("./headwater-data");
        /// Name of the rack or zone: replicas are spread over racks, and clients that name theirs read from the nearest
        /// replica.
        rack: String = String::new();
        /// Listener of the Kafka protocol.
        kafka_addr: SocketAddr = loopback(9092);
        /// What Kafka clients are told to connect to.
        kafka_advertised_addr: Option<HostPort> = None;
        /// Listener of the gRPC protocol.
        grpc_addr: SocketAddr = loopback(9093);
        /// What gRPC clients are told to connect to.
        grpc_advertised_addr: Option<HostPort> = None;
        /// Listener for other brokers.
        peer_addr: SocketAddr = loopback(9094);
        /// What other brokers are told to connect to.
        peer_advertised_addr: Option<HostPort> = None;
        /// Listener of /metrics and /health.
        http_addr: SocketAddr = loopback(9095);
        /// Where people find the HTTP listener, as `cluster status` shows it.
        http_advertised_addr: Option<HostPort> = None;
        /// Other defaults, for a developer's machine; what is set explicitly stays.
        dev: bool = false;
        /// Bound on the drain at a stop: after it, open connections are cut.
        drain_timeout_ms: u64 = 10_000, in TIMEOUT_MS;
        /// Threads of the async runtime; 0: one for each core.
        worker_threads: usize = 0, in 0..=1_024;
    }

    /// The other brokers, and how quickly their silence is noticed.
    cluster: ClusterConfig "cluster." {
        /// The brokers with which a new cluster begins, this one among them: ID@HOST:PORT of each peer listener,
        /// separated by commas. Of no effect once the data directory belongs to a cluster.
        nodes: NodeList = NodeList::default();
        /// Peer listeners of a running cluster to join: HOST:PORT, separated by commas. Of no effect once joined.
        join: SeedList = SeedList::default();
        /// How often the leader of a busy partition proves that it is there.
        heartbeat_interval_ms: u64 = 100, in 10..=10_000;
        /// A follower campaigns this long, at least, after its leader's lease has expired.
        election_timeout_min_ms: u64 = 300, in 50..=60_000;
        /// And at most; also the length of the leader's lease.
        election_timeout_max_ms: u64 = 500, in 60..=120_000;
        /// How often brokers tell one another that they live and what they lead.
        ping_interval_ms: u64 = 200, in 10..=10_000;
        /// A broker silent for longer is taken for dead, and its partitions elect other leaders.
        ping_timeout_ms: u64 = 600, in 50..=120_000;
        /// A partition without writes for longer stops its heartbeats; 0: never.
        quiesce_after_ms: u64 = 5_000, in 0..=86_400_000;
        /// Bytes per second that this broker sends to replicas that are being built, two large ones at a time; 0: no
        /// limit. Partitions to which more is written than their share cannot be built.
        recovery_bytes_per_second: u64 = 32 << 20, in 0..=1 << 40;
        /// Replicas that this broker builds on others at the same time.
        recoveries_max: usize = 8, in 1..=1_000;
        /// A partition is led by its preferred replica again once all has been calm for so long; 0: leaders stay.
        leader_balance_after_ms: u64 = 10_000, in 0..=86_400_000;
        /// A voter of the metadata that is silent for longer gives its vote to another broker, if there is one.
        replace_voter_after_ms: u64 = 60_000, in TIMEOUT_MS;
        /// The metadata log closes a segment, and gives up those before it, after so many bytes.
        metadata_segment_bytes: u64 = 1 << 20, in 16_384..=1 << 30;
    }

    /// What new topics get where their creator does not say.
    topics: TopicsConfig "topics." {
        /// Partitions of a topic created without a number.
        default_partitions: i32 = 1, in 1..=10_000;
        /// Topics that may exist.
        topics_max: usize = 10_000, in 1..=1_000_000;
        /// Partitions of all topics that may exist.
        partitions_max: usize = 10_000, in 1..=1_000_000;
    }

    /// Work in the background of the log.
    storage: StorageConfig "storage." {
        /// How often retention looks at each partition.
        retention_check_interval_ms: u64 = 60_000, in TIMEOUT_MS;
        /// Idempotent producers silent for longer are forgotten.
        producer_id_expiration_ms: u64 = 86_400_000, in 1_000..=31_536_000_000;
        /// Idempotent producers that one partition remembers.
        producer_ids_per_partition_max: usize = 10_000, in 1..=1_000_000;
        /// How often every stored batch is read again and compared with its checksum; 0: never.
        scrub_interval_ms: u64 = 86_400_000, in 0..=31_536_000_000;
    }

    /// Connections of all listeners.
    connections: ConnectionsConfig "connections." {
        /// Open connections of all listeners together; more are closed at once.
        total_max: usize = 1_024, in 1..=1_000_000;
        /// Open connections from one IP address.
        per_ip_max: usize = 512, in 1..=1_000_000;
        /// A connection must have shown its protocol by then.
        handshake_timeout_ms: u64 = 10_000, in TIMEOUT_MS;
        /// A connection without a request for longer is closed.
        idle_timeout_ms: u64 = 600_000, in TIMEOUT_MS;
        /// How often a silent gRPC peer is pinged.
        keepalive_interval_ms: u64 = 30_000, in TIMEOUT_MS;
        /// A ping unanswered for longer closes the connection.
        keepalive_timeout_ms: u64 = 20_000, in TIMEOUT_MS;
    }

    /// The gRPC transport. The defaults were measured over loopback at 1 MiB a message.
    grpc: GrpcConfig "grpc." {
        /// Requests under way on one connection.
        concurrent_streams_max: u32 = 128, in 1..=10_000;
        /// Headers of one request.
        header_bytes_max: u32 = 16_384, in 1_024..=1_048_576;
        /// Largest HTTP/2 frame accepted.
        frame_bytes_max: u32 = 1 << 20, in FRAME_BYTES;
        /// Bytes that one request may send ahead of the broker's reading.
        stream_window_bytes: u32 = 16 << 20, in WINDOW_BYTES;
        /// The same for all requests of a connection; less where `receive_window_bytes_total` runs short.
        connection_window_bytes: u32 = 32 << 20, in WINDOW_BYTES;
        /// Receive windows of all connections together, but for 256 KiB that each is sure of.
        receive_window_bytes_total: usize = 512 * MIB, in MEMORY_BYTES;
    }

    /// HTTP for people and probes.
    http: HttpConfig "http." {
        /// Open connections; apart from `connections.total_max`, so that probes reach a broker that is full.
        connections_max: usize = 64, in 1..=100_000;
        /// Request line and headers together.
        header_bytes_max: usize = 16_384, in 8_192..=1_048_576;
        /// Headers of one request, by number.
        headers_max: usize = 64, in 1..=1_000;
    }

    /// What requests may take.
    requests: RequestsConfig "requests." {
        /// One message of a client, refused by its length before memory is taken.
        message_bytes_max: usize = 64 * MIB, in 65_536..=1 << 30;
        /// A message that has begun must have arrived by then.
        message_timeout_ms: u64 = 30_000, in TIMEOUT_MS;
        /// Unanswered messages of one connection; at least one message is always admitted.
        in_flight_bytes_per_connection: usize = 64 * MIB, in MEMORY_BYTES;
        /// Unanswered messages of all connections.
        in_flight_bytes_total: usize = 512 * MIB, in MEMORY_BYTES;
        /// Partitions that one request may name.
        partitions_max: usize = 2_000, in 1..=100_000;
        /// Topics that one administrative request may name.
        topics_max: usize = 1_000, in 1..=100_000;
        /// Records of one batch.
        batch_records_max: i32 = 1_000_000, in 1..=i32::MAX;
        /// What one batch may decompress to where the broker must look inside.
        decompressed_bytes_max: usize = 64 * MIB, in MEMORY_BYTES;
        /// Record bytes of one fetch response; a single larger batch is sent all the same.
        fetch_bytes_max: usize = 55 * MIB, in 65_536..=1 << 30;
        /// Longest wait of a fetch for records.
        fetch_wait_ms_max: u64 = 60_000, in TIMEOUT_MS;
        /// Wait for an acknowledgement where the request names none, and the longest that it may name.
        timeout_ms_max: u64 = 30_000, in TIMEOUT_MS;
    }

    /// What the broker tells about itself.
    log: LogConfig "log." {
        /// Levels, as tracing-subscriber's directives: `info`, or `warn,headwater_broker=debug`.
        filter: String = String::from("info");
        /// `auto` is human on a terminal and JSON elsewhere.
        format: LogFormat = LogFormat::Auto;
    }
}

/// What `dev` sets where nothing else does: logs for a reader, retention that can be watched, little memory.
pub const DEV: &[(&str, &str)] = &[
    ("log.filter", "info,headwater_broker=debug"),
    ("log.format", "human"),
    ("storage.retention_check_interval_ms", "5000"),
    ("grpc.receive_window_bytes_total", "67108864"),
    ("requests.in_flight_bytes_total", "134217728"),
    ("drain_timeout_ms", "2000"),
];

//! One run of one broker and its clients under load, power cuts and crashes, then the comparison.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_broker::Broker;
use headwater_broker::config::Config;
use headwater_broker::env::{Entropy, Env};
use headwater_client::{Client, ClientConfig, ErrorCode, NewTopic, ProducerConfig};
use headwater_storage::disk::SimDisk;
use tokio::sync::watch;
use turmoil::Sim;

use super::Result;
use super::world::{SimClock, SimEntropy, SimNetwork, connector, now_micros, now_ms};
use crate::history::Recorder;
use crate::workload::{self, Target, patiently};

const BROKER: &str = "broker";
const GRPC_PORT: u16 = 9093;
const TICK: Duration = Duration::from_millis(1);
/// A run that takes longer than this in simulated time hangs.
const RUN_MAX: Duration = Duration::from_secs(600);
const PRODUCERS: u32 = 3;

/// What a run is told.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// How long load and faults go on, in simulated time.
    pub load: Duration,
    /// Cuts the power right after this write point, once, instead of at random moments.
    pub cut_after_operation: Option<u64>,
    /// Whether crashes, power cuts and stalls come at random moments.
    pub random_faults: bool,
}

/// What a run ended with.
#[derive(Debug)]
pub struct Outcome {
    /// Equal for equal runs.
    pub digest: u64,
    pub acked: usize,
    pub operations: u64,
    pub power_cuts: u32,
    pub crashes: u32,
    pub simulated: Duration,
    pub anomalies: Vec<String>,
}

/// Runs the plan to its end.
///
/// # Errors
/// The broker refused to start, a client gave up, or the run hung: each is a failure of the run.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let disk = Arc::new(SimDisk::new(plan.seed));
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .simulation_duration(RUN_MAX)
        .tick_duration(TICK)
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(Duration::from_millis(5))
        .tcp_capacity(1 << 16)
        .build();
    host(&mut sim, &disk, plan.seed);

    let recorder = Recorder::new(now_micros);
    let (stop, stopped) = watch::channel(false);
    let verdict = Arc::new(Mutex::new(Vec::new()));
    let clients = clients(recorder.clone(), stopped, verdict.clone(), plan.seed);
    sim.client("clients", async move { clients.await.map_err(|error| -> Box<dyn Error> { error }) });

    let mut faults = Faults::new(plan, disk.clone());
    let mut finished = false;
    while !finished {
        faults.step(&mut sim);
        if sim.elapsed() >= plan.load && !*stop.borrow() && faults.healed(sim.elapsed()) {
            stop.send_replace(true);
        }
        finished = sim.step().map_err(|error| format!("at {:?}: {error}", sim.elapsed()))?;
    }
    let anomalies = std::mem::take(&mut *verdict.lock().unwrap_or_else(PoisonError::into_inner));
    let (acked, digest) = recorder.note(|history| (history.acked_count(), history.digest()));
    Ok(Outcome {
        digest: digest ^ disk.operations().rotate_left(32) ^ sim.elapsed().as_micros() as u64,
        acked,
        operations: disk.operations(),
        power_cuts: faults.power_cuts,
        crashes: faults.crashes,
        simulated: sim.elapsed(),
        anomalies,
    })
}

fn host(sim: &mut Sim<'_>, disk: &Arc<SimDisk>, seed: u64) {
    let disk = disk.clone();
    let boots = Arc::new(SimEntropy::new(seed));
    sim.host(BROKER, move || {
        let disk = disk.clone();
        let entropy = Arc::new(SimEntropy::new(boots.next_u64()));
        async move {
            let env = Env {
                disk: disk.clone(),
                clock: Arc::new(SimClock::default()),
                entropy,
                network: Arc::new(SimNetwork),
            };
            match Broker::start(config(), env).await {
                // Kept until the host crashes.
                Ok(_broker) => std::future::pending().await,
                // The power failed while it started: the driver will crash the host.
                Err(_) if disk.is_dead() => std::future::pending().await,
                Err(error) => Err(error.to_string().into()),
            }
        }
    });
}

fn config() -> Config {
    let mut config = Config::default();
    let bind = |port| SocketAddr::from(([0, 0, 0, 0], port));
    config.broker.kafka_addr = bind(9092);
    config.broker.grpc_addr = bind(GRPC_PORT);
    config.broker.peer_addr = bind(9094);
    config.broker.http_addr = bind(9095);
    config.broker.grpc_advertised_addr = format!("{BROKER}:{GRPC_PORT}").parse().ok();
    config.broker.data_dir = "/data".into();
    config.storage.retention_check_interval_ms = 100;
    config
}

async fn connect(seed: u64) -> Result<Client> {
    let config = ClientConfig {
        connector: Some(connector()),
        clock: Arc::new(now_ms),
        seed: Some(seed),
        request_timeout: Duration::from_secs(5),
        bootstrap_timeout: Duration::from_secs(60),
        ..ClientConfig::new([format!("{BROKER}:{GRPC_PORT}")])
    };
    Ok(Client::connect(config).await?)
}

/// The load of one run: two topics that roll often, one of which loses its oldest records to retention and
/// to requests, and topics that come and go.
async fn clients(
    recorder: Recorder,
    stop: watch::Receiver<bool>,
    verdict: Arc<Mutex<Vec<String>>>,
    seed: u64,
) -> Result<()> {
    let client = connect(seed).await?;
    let kept = Target::new("kept", 3);
    let trimmed = Target::new("trimmed", 2);
    create(&client, NewTopic::new("kept").partitions(3).config("segment.bytes", "16384")).await?;
    let expiring = NewTopic::new("trimmed").partitions(2).config("segment.bytes", "16384");
    create(&client, expiring.config("retention.bytes", "65536")).await?;

    let mut load = Vec::new();
    for number in 0..PRODUCERS {
        let config = ProducerConfig { linger: Duration::from_millis(2), ..ProducerConfig::default() };
        let client = connect(seed ^ u64::from(number)).await?;
        let producer = patiently(|| client.producer(config.clone())).await?;
        let targets = vec![kept.clone(), trimmed.clone()];
        let pace = Duration::from_millis(1 + u64::from(number));
        load.push(tokio::spawn(workload::produce(
            producer,
            number,
            targets,
            recorder.clone(),
            stop.clone(),
            pace,
        )));
    }
    let reader = connect(seed ^ 0xfeed).await?;
    let reader = tokio::spawn(workload::follow(reader, 1, kept.clone(), recorder.clone(), stop.clone()));
    let churn = tokio::spawn(churn(connect(seed ^ 0xc4).await?, trimmed.clone(), stop));
    for producer in load {
        producer.await?;
    }
    reader.await??;
    churn.await??;

    let admin = client.admin();
    patiently(|| admin.describe_topics(["kept".to_owned()])).await?;
    let (findings, starts) = workload::conclude(&client, &[kept.clone(), trimmed], &recorder).await?;
    let moved = starts.iter().filter(|((topic, _), start)| *topic == *kept.topic && **start != 0);
    let moved =
        moved.map(|(partition, start)| format!("the log start of {partition:?} moved to {start} on its own"));
    let found = moved.chain(findings.lines()).collect();
    *verdict.lock().unwrap_or_else(PoisonError::into_inner) = found;
    Ok(())
}

async fn create(client: &Client, topic: NewTopic) -> Result<()> {
    let admin = client.admin();
    patiently(|| async {
        let created = admin.create_topics(vec![topic.clone()], false).await?;
        match created.into_iter().find_map(|(_, result)| result.err()) {
            // After an unknown outcome it may be there already.
            Some(error) if error.code() != Some(ErrorCode::TopicAlreadyExists) => Err(error),
            _ => Ok(()),
        }
    })
    .await?;
    Ok(())
}

async fn churn(client: Client, trimmed: Target, stop: watch::Receiver<bool>) -> Result<()> {
    for round in 0.. {
        if *stop.borrow() {
            break;
        }
        // Any outcome is fine: what is tested is the broker's next start, and the records.
        let topic = format!("churn-{}", round % 5);
        let _ = client.admin().create_topics(vec![NewTopic::new(&*topic).partitions(2)], false).await;
        let segment_bytes = Some((16_384 + 1_024 * (round % 7)).to_string());
        let _ = client
            .admin()
            .alter_configs("kept", vec![("segment.bytes".to_owned(), segment_bytes)], false)
            .await;
        for partition in trimmed.all() {
            let _ = client.admin().delete_records(vec![(partition, Some(20 * round))]).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = client.admin().delete_topics([topic]).await;
    }
    Ok(())
}

/// The load goes on for so long, at least, after the broker came back: else a cut early in a short run would show nothing.
const LOAD_AFTER_FAULT: Duration = Duration::from_millis(300);

/// Breaks the broker's host while the load goes on, and brings it back.
struct Faults {
    disk: Arc<SimDisk>,
    entropy: SimEntropy,
    load: Duration,
    random: bool,
    next_fault: Duration,
    down_until: Option<Duration>,
    up_since: Duration,
    power_cuts: u32,
    crashes: u32,
}

impl Faults {
    fn new(plan: &Plan, disk: Arc<SimDisk>) -> Self {
        if let Some(operation) = plan.cut_after_operation {
            disk.die_after(operation);
        }
        let entropy = SimEntropy::new(plan.seed ^ 0xfa17);
        let next_fault = Duration::from_millis(200 + entropy.below(2_000));
        Self {
            disk,
            entropy,
            load: plan.load,
            random: plan.random_faults,
            next_fault,
            down_until: None,
            up_since: Duration::ZERO,
            power_cuts: 0,
            crashes: 0,
        }
    }

    /// Whether the broker is up, has been for a while, and nothing is about to break it.
    fn healed(&self, now: Duration) -> bool {
        self.down_until.is_none() && !self.disk.is_dead() && now >= self.up_since + LOAD_AFTER_FAULT
    }

    fn step(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        if let Some(until) = self.down_until {
            if now >= until {
                (self.down_until, self.up_since) = (None, now);
                sim.bounce(BROKER);
            }
        } else if self.disk.is_dead() {
            self.break_down(sim, true);
        } else if self.random && now >= self.next_fault && now < self.load {
            self.next_fault = now + Duration::from_millis(300 + self.entropy.below(4_000));
            match self.entropy.below(4) {
                0 => self.break_down(sim, false),
                1 => self.disk.die_after(self.disk.operations() + 1 + self.entropy.below(50)),
                2 => self.disk.stall_syncs(Some(("", Duration::from_millis(self.entropy.below(400))))),
                _ => self.break_down(sim, true),
            }
        }
        if now >= self.load {
            self.disk.stall_syncs(None);
        }
    }

    fn break_down(&mut self, sim: &mut Sim<'_>, power: bool) {
        sim.crash(BROKER);
        if power {
            self.disk.power_cut();
            self.power_cuts += 1;
        } else {
            self.disk.kill_process();
            self.crashes += 1;
        }
        self.down_until = Some(sim.elapsed() + Duration::from_millis(1 + self.entropy.below(1_000)));
    }
}

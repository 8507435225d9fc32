//! `streamctl cluster status`.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use headwater_client::Admin;
use headwater_proto::v1;
use serde_json::{Value, json};

use crate::connect::connect;
use crate::exit::{Exit, Failure};
use crate::output::{Format, Output, Page, bytes, counted, grouped};
use crate::position::{now_ms, parse_duration, rfc3339};
use crate::settings::Settings;

/// Clears the terminal, its cursor at the top.
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Lag is counted in log entries (batches) that replicas lack of what their leaders have.

Examples:
  streamctl cluster status
  streamctl cluster status --watch
  streamctl cluster status --watch=10s -o jsonl | jq -c '{under_replicated, leaderless}'")]
pub struct StatusArgs {
    /// Show it again and again, every two seconds or as often as told, until interrupted.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true,
          default_missing_value = "2s", value_parser = parse_duration)]
    watch: Option<Duration>,
}

pub async fn run(args: StatusArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let admin = connect(settings).await?.admin();
    let Some(interval) = args.watch else { return show(&admin, output).await };
    let on_terminal = output.format == Format::Table && io::stdout().is_terminal();
    loop {
        if on_terminal {
            write!(io::stdout(), "{CLEAR}").map_err(|e| Failure::stdout(&e))?;
        }
        if !on_terminal && output.format == Format::Table && !output.quiet {
            writeln!(io::stdout(), "{}", rfc3339(now_ms())).map_err(|e| Failure::stdout(&e))?;
        }
        match show(&admin, output).await {
            // All brokers gone for a moment is what one may be watching for.
            Err(failure) if failure.exit == Exit::Unreachable => output.note(failure),
            shown => shown?,
        }
        tokio::time::sleep(interval).await;
    }
}

async fn show(admin: &Admin, output: Output) -> Result<(), Failure> {
    let status = admin.cluster_status().await?;
    output.report(&to_json(&status), |page| print(&status, page))
}

/// A broker's state in a word.
pub fn state_name(state: i32) -> &'static str {
    match v1::BrokerState::try_from(state) {
        Ok(v1::BrokerState::Active) => "active",
        Ok(v1::BrokerState::Draining) => "draining",
        Ok(v1::BrokerState::Leaving) => "leaving",
        Ok(v1::BrokerState::Unspecified) | Err(_) => "unknown",
    }
}

fn to_json(status: &v1::ClusterStatusResponse) -> Value {
    let broker = |b: &v1::BrokerStatus| {
        let about = b.broker.clone().unwrap_or_default();
        json!({
            "id": about.id,
            "state": state_name(b.state),
            "live": b.live,
            "silent_ms": b.silent_ms,
            "version": about.version,
            "rack": about.rack,
            "grpc_address": about.grpc_address,
            "kafka_address": about.kafka_address,
            "peer_address": b.peer_address,
            "http_address": b.http_address,
            "uptime_ms": b.uptime_ms,
            "leaders": b.leaders,
            "replicas": b.replicas,
            "out_of_sync": b.out_of_sync,
            "lag_entries": b.lag_entries,
            "damaged": b.damaged,
            "quiet": b.quiet,
            "disk_total_bytes": b.disk_total_bytes,
            "disk_free_bytes": b.disk_free_bytes,
            "log_bytes": b.log_bytes,
        })
    };
    json!({
        "cluster_id": status.cluster_id,
        "controller_id": status.controller_id,
        "controller_epoch": status.controller_epoch,
        "controller_voters": status.controller_voters,
        "topics": status.topics,
        "partitions": status.partitions,
        "under_replicated": status.under_replicated,
        "leaderless": status.leaderless,
        "moving": status.moving,
        "brokers": status.brokers.iter().map(broker).collect::<Vec<_>>(),
    })
}

fn print(status: &v1::ClusterStatusResponse, page: &mut Page) {
    let voters: Vec<String> = status.controller_voters.iter().map(i32::to_string).collect();
    let controller = match status.controller_id {
        ..0 => format!("none; voters {}", voters.join(",")),
        id => format!("{id}, epoch {}; voters {}", status.controller_epoch, voters.join(",")),
    };
    page.fields(&[
        ("cluster", status.cluster_id.clone()),
        ("controller", controller),
        (
            "topics",
            format!("{} with {}", grouped(status.topics), counted(u64::from(status.partitions), "partition")),
        ),
        ("health", health(status)),
    ]);
    page.line("");
    let rows = status.brokers.iter().map(|b| {
        let about = b.broker.clone().unwrap_or_default();
        // What only the broker itself can tell is not known of one that is silent.
        let own = |text: String| if b.live { text } else { "?".to_owned() };
        vec![
            about.id.to_string(),
            state(b),
            about.version,
            about.rack,
            own(duration(b.uptime_ms)),
            grouped(b.leaders),
            grouped(b.replicas),
            grouped(b.out_of_sync),
            grouped(b.lag_entries),
            own(disk(b)),
            own(bytes(b.log_bytes)),
            about.grpc_address,
            own(b.http_address.clone()),
        ]
    });
    page.table(
        &[
            ">BROKER",
            "STATE",
            "VERSION",
            "RACK",
            ">UP",
            ">LEADS",
            ">REPLICAS",
            ">BEHIND",
            ">LAG",
            ">DISK USED",
            ">LOGS",
            "GRPC",
            "HTTP",
        ],
        rows,
    );
}

fn health(status: &v1::ClusterStatusResponse) -> String {
    let silent = status.brokers.iter().filter(|b| !b.live).count();
    let damaged: u32 = status.brokers.iter().map(|b| b.damaged).sum();
    let troubles = [
        (status.leaderless, "without a leader"),
        (status.under_replicated, "under-replicated"),
        (damaged, "with a damaged replica"),
        (status.moving, "moving"),
    ];
    let mut said: Vec<String> = Vec::new();
    if silent > 0 {
        said.push(format!("{} silent", counted(silent as u64, "broker")));
    }
    if status.controller_id < 0 {
        said.push("no controller".to_owned());
    }
    let troubles = troubles.into_iter().filter(|(count, _)| *count > 0);
    said.extend(troubles.map(|(count, what)| format!("{} {what}", counted(u64::from(count), "partition"))));
    if said.is_empty() { "all is well".to_owned() } else { said.join(", ") }
}

fn state(broker: &v1::BrokerStatus) -> String {
    let state = state_name(broker.state);
    match (broker.live, broker.silent_ms) {
        (true, _) => state.to_owned(),
        (false, Some(silent_ms)) => format!("{state}, silent for {}", duration(silent_ms)),
        (false, None) => format!("{state}, never heard"),
    }
}

fn disk(broker: &v1::BrokerStatus) -> String {
    if broker.disk_total_bytes == 0 {
        return "?".to_owned();
    }
    let used = broker.disk_total_bytes.saturating_sub(broker.disk_free_bytes);
    let percent = used as f64 * 100.0 / broker.disk_total_bytes as f64;
    format!("{percent:.0} % of {}", bytes(broker.disk_total_bytes))
}

/// One unit is enough to see whether it is long: `12 s`, `3 h`.
fn duration(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    let unit = UNITS.iter().find(|(length_ms, _)| ms >= *length_ms);
    unit.map_or_else(|| format!("{ms} ms"), |(length_ms, name)| format!("{} {name}", ms / length_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_names_each_trouble_and_nothing_else() {
        let mut status = v1::ClusterStatusResponse { controller_id: 1, ..Default::default() };
        status.brokers = vec![v1::BrokerStatus { live: true, ..Default::default() }];
        assert_eq!(health(&status), "all is well");
        status.under_replicated = 1;
        status.moving = 1_200;
        status.brokers[0].live = false;
        status.controller_id = -1;
        let said = "1 broker silent, no controller, 1 partition under-replicated, 1,200 partitions moving";
        assert_eq!(health(&status), said);
    }

    #[test]
    fn durations_show_their_largest_unit() {
        let cases =
            [(0, "0 ms"), (999, "999 ms"), (59_999, "59 s"), (3_599_999, "59 min"), (90_000_000, "1 d")];
        for (ms, text) in cases {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn a_silent_broker_is_seen_in_its_state() {
        let broker = |live, silent_ms| v1::BrokerStatus {
            live,
            silent_ms,
            state: v1::BrokerState::Draining.into(),
            ..Default::default()
        };
        assert_eq!(state(&broker(true, Some(3))), "draining");
        assert_eq!(state(&broker(false, Some(3_000))), "draining, silent for 3 s");
        assert_eq!(state(&broker(false, None)), "draining, never heard");
    }
}

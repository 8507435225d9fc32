//! What `streamctl produce` says at its end.

use std::time::Duration;

use headwater_client::ProducerStats;
use serde_json::json;

use super::End;
use super::ledger::Ledger;
use crate::exit::{Exit, Failure};
use crate::output::{Output, bytes, counted, grouped};

/// Prints what was acknowledged, and turns what was not into the failure of the command.
pub fn report(
    topic: &str,
    ledger: &Ledger,
    stats: &ProducerStats,
    elapsed: Duration,
    end: End,
    output: Output,
) -> Result<(), Failure> {
    let records = ledger.acknowledged();
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let unknown = ledger.unknown + ledger.abandoned();
    let partitions: Vec<_> = ledger
        .partitions
        .iter()
        .map(|(partition, totals)| {
            json!({
                "partition": partition,
                "records": totals.records,
                "bytes": totals.bytes,
                "first_offset": totals.offsets.map(|(first, _)| first),
                "last_offset": totals.offsets.map(|(_, last)| last),
            })
        })
        .collect();
    let data = json!({
        "topic": topic,
        "records": records,
        "bytes": ledger.bytes(),
        "partitions": partitions,
        "seconds": round(seconds),
        "records_per_s": round(records as f64 / seconds),
        "mb_per_s": round(ledger.bytes() as f64 / 1e6 / seconds),
        "batches_retried": stats.batches_retried,
        "failed": ledger.failed,
        "unknown": unknown,
    });
    output.report(&data, |page| {
        page.line(format!(
            "{} ({}) acknowledged in {} of {topic} in {seconds:.2} s: {} records/s, {:.1} MB/s",
            counted(records, "record"),
            bytes(ledger.bytes()),
            counted(partitions.len() as u64, "partition"),
            grouped((records as f64 / seconds) as u64),
            ledger.bytes() as f64 / 1e6 / seconds,
        ));
        if stats.batches_retried > 0 {
            page.line(format!("batches that had to be sent again: {}", grouped(stats.batches_retried)));
        }
    })?;
    failure(ledger, unknown, end).map_or(Ok(()), Err)
}

fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// Why not everything was acknowledged; partial when something was.
fn failure(ledger: &Ledger, unknown: u64, end: End) -> Option<Failure> {
    let records = ledger.acknowledged();
    let mut failure = match (&ledger.first_lost, end) {
        (Some(lost), _) => {
            let mut failure = Failure::from(lost.error.clone());
            failure.message = format!(
                "not acknowledged: {} of the input ({} not stored, {} unknown), the first at {}: {}",
                counted(ledger.failed + unknown, "record"),
                grouped(ledger.failed),
                grouped(unknown),
                lost.place,
                failure.message
            );
            failure
        }
        (None, End::Input(e)) => Failure::new(Exit::Failure, format!("stopped at {e}"))
            .hint("what came before it is stored; repair the input and send it from there on"),
        (None, End::Refused(place, cause)) => cause.at(format!("stopped at {place}")),
        (None, End::Interrupted) => Failure::new(Exit::Failure, "interrupted"),
        (None, End::Whole | End::Failed) if unknown > 0 => Failure::new(
            Exit::Unreachable,
            format!(
                "interrupted while {} were not acknowledged: they may or may not be stored",
                counted(unknown, "record")
            ),
        ),
        (None, End::Whole | End::Failed) => return None,
    };
    if records > 0 {
        failure.exit = Exit::Partial;
    }
    Some(failure)
}

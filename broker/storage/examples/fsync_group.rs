//! Synced appends of many waiting writers, against `pwrite` and `fdatasync` with one sync for all of them.
//!
//! `fsync_group [batch bytes = 16384] [writers = 64] [appends a writer = 200] [runs = 7]`, in the directory whose
//! file system is to be measured. Runs alternate; the medians count. Group sizes are not fixed: a round that begins
//! later takes more writers with it.

mod support;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use headwater_storage::log::{Log, NewEntry};
use tokio::task::JoinSet;

use self::support::{MIB, Result, argument, bytes_of, entry, median, new_file, new_log, report, seconds};

/// What one run does.
#[derive(Clone, Copy)]
struct Plan {
    writers: usize,
    appends: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let entry = entry(argument(1, 16 << 10)?)?;
    let plan = Plan { writers: argument(2, 64)?, appends: argument(3, 200)? };
    let runs = argument(4, 7)?;
    let total = (plan.writers * plan.appends * entry.batch.len()) as f64 / MIB;

    let (mut raw, mut store) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        raw.push(total / raw_run(plan, &entry)?);
        store.push(total / store_run(plan, &entry).await?);
    }
    let raw = median(raw);
    let group_bytes = plan.writers * entry.batch.len();
    println!(
        "{} writers of {} bytes, {total:.0} MiB a run, median of {runs}",
        plan.writers,
        entry.batch.len()
    );
    println!("raw round: {:.0} us", group_bytes as f64 / MIB / raw * 1e6);
    report("pwrite + fdatasync", "MiB/s", raw, raw);
    report("Log", "MiB/s", raw, median(store));
    Ok(())
}

/// All writers' batches, then one sync.
fn raw_run(plan: Plan, entry: &NewEntry) -> Result<f64> {
    let directory = tempfile::tempdir_in(".")?;
    let batch = bytes_of(entry);
    let bytes = plan.writers * plan.appends * batch.len();
    let file = new_file(&directory.path().join("raw"), bytes as u64)?;
    seconds(|| {
        for n in 0..plan.writers * plan.appends {
            file.write_all_at(&batch, (n * batch.len()) as u64)?;
            if (n + 1) % plan.writers == 0 {
                rustix::fs::fdatasync(&file)?;
            }
        }
        Ok(())
    })
}

/// Each writer appends, waits until it is durable, and appends again.
async fn store_run(plan: Plan, entry: &NewEntry) -> Result<f64> {
    let directory = tempfile::tempdir_in(".")?;
    let (_data_dir, log) = new_log(directory.path()).await?;
    let begun = Instant::now();
    let mut writers = JoinSet::new();
    // One writer at a time is what a log demands.
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    for _ in 0..plan.writers {
        writers.spawn(writer(Arc::clone(&log), entry.clone(), plan.appends, Arc::clone(&turn)));
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(begun.elapsed().as_secs_f64())
}

async fn writer(
    log: Arc<Log>,
    entry: NewEntry,
    appends: usize,
    turn: Arc<tokio::sync::Mutex<()>>,
) -> Result<()> {
    for _ in 0..appends {
        let turn = turn.lock().await;
        log.append(std::slice::from_ref(&entry))?;
        drop(turn);
        log.flush().await?;
    }
    Ok(())
}

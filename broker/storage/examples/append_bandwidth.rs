//! Appends without a sync, against `pwrite` of the same bytes into a file of the same kind.
//!
//! `append_bandwidth [batch bytes = 16384] [batches an append = 64] [MiB a run = 512] [runs = 7]`, in the directory
//! whose file system is to be measured. Runs alternate; the medians count.

mod support;

use std::os::unix::fs::FileExt;

use self::support::{MIB, Result, argument, bytes_of, entry, median, new_file, new_log, report, seconds};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let (batch_bytes, group) = (argument(1, 16 << 10)?, argument(2, 64)?);
    let (run_bytes, runs) = (argument(3, 512)? << 20, argument(4, 7)?);
    let entries = vec![entry(batch_bytes)?; group];
    let batch = bytes_of(&entries[0]);
    let appends = run_bytes / (batch.len() * group);
    let total = (appends * group * batch.len()) as f64 / MIB;

    let (mut raw, mut store) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let directory = tempfile::tempdir_in(".")?;
        let file = new_file(&directory.path().join("raw"), run_bytes as u64)?;
        raw.push(
            total
                / seconds(|| {
                    for n in 0..appends * group {
                        file.write_all_at(&batch, (n * batch.len()) as u64)?;
                    }
                    Ok(())
                })?,
        );
        drop((file, directory));

        let directory = tempfile::tempdir_in(".")?;
        let (_data_dir, log) = new_log(directory.path()).await?;
        store.push(
            total
                / seconds(|| {
                    for _ in 0..appends {
                        log.append(&entries)?;
                    }
                    Ok(())
                })?,
        );
    }
    let raw = median(raw);
    println!("{group} batches of {} bytes an append, {total:.0} MiB a run, median of {runs}", batch.len());
    report("pwrite", "MiB/s", raw, raw);
    report("Log::append", "MiB/s", raw, median(store));
    Ok(())
}

#![allow(clippy::unwrap_used)]

use std::io::IoSlice;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_proto::types::{PartitionId, TopicId};

use super::*;
use crate::disk::{DiskFile, SimDisk};

/// A log that knows nothing but how many bytes it has and had synced.
#[derive(Debug)]
struct Source {
    group: GroupId,
    file: Arc<dyn DiskFile>,
    written: AtomicU64,
    waiters: Mutex<Vec<oneshot::Sender<io::Result<()>>>>,
    in_flight: Mutex<Vec<oneshot::Sender<io::Result<()>>>>,
}

impl FlushSource for Source {
    fn group(&self) -> GroupId {
        self.group
    }

    fn begin_round(&self) -> FlushRound {
        *self.in_flight.lock().unwrap() = std::mem::take(&mut *self.waiters.lock().unwrap());
        let durable_point = Bytes::copy_from_slice(&self.written.load(Ordering::SeqCst).to_be_bytes());
        FlushRound { files: vec![Arc::clone(&self.file)], directories: vec![], durable_point }
    }

    fn end_round(&self, result: io::Result<()>) {
        for waiter in std::mem::take(&mut *self.in_flight.lock().unwrap()) {
            let _ = waiter.send(copy(&result));
        }
    }
}

struct Bench {
    disk: Arc<SimDisk>,
    flusher: Flusher,
    facts: crate::journal::SharedFacts,
    source: Arc<Source>,
}

fn group() -> GroupId {
    GroupId { topic_id: TopicId([1; 16]), partition: PartitionId(0) }
}

fn put(kind: u8, value: &'static [u8]) -> Vec<Change> {
    vec![Change::Put { group: Some(group()), kind, value: Bytes::from_static(value) }]
}

impl Bench {
    async fn new(seed: u64) -> Self {
        let disk = Arc::new(SimDisk::new(seed));
        disk.create_dir_all(Path::new("/journal")).unwrap();
        let file = disk.create(Path::new("/data"), 0).unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
        let any: Arc<dyn Disk> = Arc::clone(&disk) as _;
        let journal = Journal::create(&any, Path::new("/journal"), &[]).await.unwrap();
        let facts = journal.facts().clone();
        let lock = disk.lock(Path::new("/lock")).unwrap();
        let flusher = Flusher::start(any, journal, lock);
        let source = Arc::new(Source {
            group: group(),
            file,
            written: AtomicU64::new(0),
            waiters: Mutex::default(),
            in_flight: Mutex::default(),
        });
        disk.set_sync_latency(Duration::from_millis(1));
        Self { disk, flusher, facts, source }
    }

    /// Appends a sector and asks for it to be durable.
    fn append(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let at = self.source.written.fetch_add(512, Ordering::SeqCst);
        let (done, wait) = oneshot::channel();
        match self.source.file.write_at(at, &[IoSlice::new(&[1; 512])]) {
            Ok(()) => {
                self.source.waiters.lock().unwrap().push(done);
                self.flusher.mark_dirty(Arc::clone(&self.source) as _);
            }
            Err(error) => done.send(Err(error)).unwrap(),
        }
        async { wait.await.unwrap() }
    }

    fn point(&self) -> Option<u64> {
        self.facts
            .get(Some(group()), fact::DURABLE_POINT)
            .map(|v| u64::from_be_bytes(v[..].try_into().unwrap()))
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_share_a_round() {
    let bench = Bench::new(1).await;
    let before = bench.disk.operations();
    let waits: Vec<_> = (0..64).map(|_| bench.append()).collect();
    let puts: Vec<_> = (0..64).map(|_| bench.flusher.put(put(40, b"x"))).collect();
    future::try_join_all(waits).await.unwrap();
    future::try_join_all(puts).await.unwrap();
    // 64 writes of data; two of the journal, three syncs.
    assert_eq!(bench.disk.operations() - before, 64 + 2 + 3);
}

#[tokio::test(start_paused = true)]
async fn what_was_completed_survives_every_power_cut() {
    for seed in 0..60 {
        let bench = Bench::new(seed).await;
        bench.disk.die_after(bench.disk.operations() + 1 + seed % 30);
        let (mut appended, mut kept) = (0, None);
        let work = async {
            for value in [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"] {
                if future::try_join(bench.append(), bench.append()).await.is_err() {
                    return;
                }
                appended += 1024;
                if bench.flusher.put(put(40, value)).await.is_err() {
                    return;
                }
                kept = Some(value);
            }
        };
        tokio::select! { () = work => {}, () = bench.disk.died() => {} }
        bench.disk.power_cut();
        let data = bench.disk.read_file(Path::new("/data")).unwrap();
        assert!(data.len() >= appended && data[..appended].iter().all(|byte| *byte == 1), "seed {seed}");
        let any: Arc<dyn Disk> = Arc::clone(&bench.disk) as _;
        let facts = Journal::open(&any, Path::new("/journal")).await.unwrap().facts().clone();
        let found = facts.get(Some(group()), 40);
        assert!(found.as_deref() >= kept.map(|value| &value[..]), "seed {seed}");
        let point = facts.get(Some(group()), fact::DURABLE_POINT);
        let point = point.map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap())) as usize;
        assert!(
            data.len() >= point && data[..point].iter().all(|byte| *byte == 1),
            "a point ahead of its data"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn points_are_journalled_with_the_next_round_or_after_a_pause() {
    let bench = Bench::new(1).await;
    bench.append().await.unwrap();
    assert_eq!(bench.point(), None);
    bench.append().await.unwrap();
    assert_eq!(bench.point(), Some(512));
    bench.flusher.put(put(40, b"x")).await.unwrap();
    assert_eq!(bench.point(), Some(1024));
    bench.append().await.unwrap();
    tokio::time::sleep(POINT_INTERVAL * 2).await;
    assert_eq!(bench.point(), Some(1536));
}

#[tokio::test(start_paused = true)]
async fn a_put_wins_over_an_older_point_of_the_same_fact() {
    let bench = Bench::new(1).await;
    bench.append().await.unwrap();
    bench.flusher.put(put(fact::DURABLE_POINT, &[0; 8])).await.unwrap();
    assert_eq!(bench.point(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_removed_group_leaves_no_point_behind() {
    let bench = Bench::new(1).await;
    bench.append().await.unwrap();
    let (append, removal) = (bench.append(), bench.flusher.put(vec![Change::RemoveGroup(group())]));
    future::try_join(append, removal).await.unwrap();
    bench.flusher.put(Vec::new()).await.unwrap();
    tokio::time::sleep(POINT_INTERVAL * 2).await;
    assert_eq!(bench.point(), None);
}

#[tokio::test(start_paused = true)]
async fn a_sync_error_of_a_log_is_its_own() {
    let bench = Bench::new(1).await;
    bench.disk.fail_syncs(Some("/data"));
    let (append, put) = (bench.append(), bench.flusher.put(put(40, b"x")));
    assert!(append.await.is_err());
    put.await.unwrap();
    tokio::time::sleep(POINT_INTERVAL * 2).await;
    assert_eq!(bench.point(), None, "a point for what was not synced");
}

#[tokio::test(start_paused = true)]
async fn a_sync_error_of_the_journal_is_everyones_and_final() {
    let bench = Bench::new(1).await;
    bench.disk.fail_syncs(Some("/journal"));
    let (append, first) = (bench.append(), bench.flusher.put(put(40, b"x")));
    assert!(append.await.is_err() && first.await.is_err());
    bench.disk.fail_syncs(None);
    assert!(bench.flusher.put(put(40, b"y")).await.is_err());
    assert!(bench.append().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stop_journals_every_point_and_frees_the_directory() {
    let bench = Bench::new(1).await;
    let append = bench.append();
    bench.flusher.stop(put(41, b"clean")).await.unwrap();
    append.await.unwrap();
    assert_eq!((bench.point(), bench.facts.get(Some(group()), 41).is_some()), (Some(512), true));
    drop(bench.disk.lock(Path::new("/lock")).unwrap());
    assert!(bench.append().await.is_err() && bench.flusher.put(put(40, b"x")).await.is_err());
}

//! The thread that reads: sources in, chunks of records out through a bounded channel.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::Sender;

use super::{InputError, InputRecord, Layout, open};

const CHUNK_RECORDS: usize = 1_024;
const CHUNK_BYTES: usize = 1 << 20;

/// Records of one source, in order.
#[derive(Debug)]
pub struct Chunk {
    pub source_name: Arc<str>,
    /// Each with its line in the source.
    pub records: Vec<(u64, InputRecord)>,
}

/// What to read, and where to count it.
#[derive(Debug)]
pub struct FeedOptions {
    /// `-`, and no path at all, is standard input.
    pub paths: Vec<PathBuf>,
    pub layout: Layout,
    /// Bytes read so far.
    pub read_bytes: Arc<AtomicU64>,
}

/// Reads every source to its end, or to the first error, which is the last thing sent. Blocks: run it
/// on a blocking thread. Returns early when the receiver is gone.
pub fn feed(options: &FeedOptions, out: &Sender<Result<Chunk, InputError>>) {
    let stdin = [PathBuf::from("-")];
    let paths = if options.paths.is_empty() { &stdin[..] } else { &options.paths };
    for path in paths {
        let name: Arc<str> =
            if is_stdin(path) { "standard input".into() } else { path.display().to_string().into() };
        let pending = Pending { name: Arc::clone(&name), batch: RefCell::default(), out };
        let result = match source(path) {
            Ok(inner) => {
                let tap = Tap { inner, pending: &pending, read_bytes: &options.read_bytes };
                read_source(Box::new(tap), &pending, &options.layout)
            }
            Err(e) => Err(InputError {
                source_name: name.to_string(),
                line: 0,
                reason: format!("cannot be read: {e}"),
            }),
        };
        if !pending.flush() {
            return;
        }
        if let Err(e) = result {
            // The receiver may be gone; then nobody waits for the error.
            let _ = out.blocking_send(Err(e));
            return;
        }
    }
}

fn read_source(source: Box<dyn Read + '_>, pending: &Pending<'_>, layout: &Layout) -> Result<(), InputError> {
    let mut reader = open(source, &pending.name, layout);
    while let Some((line, record)) = reader.next_record()? {
        if !pending.push(line, record) {
            break;
        }
    }
    Ok(())
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn source(path: &Path) -> io::Result<Box<dyn Read>> {
    if is_stdin(path) { Ok(Box::new(io::stdin())) } else { Ok(Box::new(File::open(path)?)) }
}

/// Records read and not yet sent.
struct Pending<'a> {
    name: Arc<str>,
    batch: RefCell<Batch>,
    out: &'a Sender<Result<Chunk, InputError>>,
}

#[derive(Default)]
struct Batch {
    records: Vec<(u64, InputRecord)>,
    size_bytes: usize,
}

impl Pending<'_> {
    /// False when nobody listens any more.
    fn push(&self, line: u64, record: InputRecord) -> bool {
        let full = {
            let mut batch = self.batch.borrow_mut();
            batch.size_bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
            batch.records.push((line, record));
            batch.records.len() >= CHUNK_RECORDS || batch.size_bytes >= CHUNK_BYTES
        };
        !full || self.flush()
    }

    fn flush(&self) -> bool {
        let batch = self.batch.take();
        if batch.records.is_empty() {
            return !self.out.is_closed();
        }
        let chunk = Chunk { source_name: Arc::clone(&self.name), records: batch.records };
        self.out.blocking_send(Ok(chunk)).is_ok()
    }
}

/// Sends what is pending before it asks the source for more, because that may block.
struct Tap<'a> {
    inner: Box<dyn Read>,
    pending: &'a Pending<'a>,
    read_bytes: &'a AtomicU64,
}

impl Read for Tap<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.pending.flush() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        self.read_bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::sync::mpsc;

    use super::*;

    fn run(paths: Vec<PathBuf>) -> (Vec<Chunk>, Option<InputError>, u64) {
        let options = FeedOptions { paths, layout: Layout::default(), read_bytes: Arc::default() };
        let (sender, mut receiver) = mpsc::channel(1_000);
        feed(&options, &sender);
        drop(sender);
        let mut chunks = Vec::new();
        let mut error = None;
        while let Ok(item) = receiver.try_recv() {
            match item {
                Ok(chunk) => chunks.push(chunk),
                Err(e) => error = Some(e),
            }
        }
        (chunks, error, options.read_bytes.load(Ordering::Relaxed))
    }

    #[test]
    fn files_are_read_in_their_order_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let many = "x\n".repeat(3_000);
        std::fs::write(&a, &many).unwrap();
        std::fs::write(&b, "last").unwrap();
        let (chunks, error, read_bytes) = run(vec![a, b.clone()]);
        assert_eq!(error, None);
        assert_eq!(read_bytes, many.len() as u64 + 4);
        let lines: Vec<u64> = chunks.iter().flat_map(|c| c.records.iter().map(|(line, _)| *line)).collect();
        assert_eq!(lines, (1..=3_000).chain([1]).collect::<Vec<_>>());
        assert!(chunks.iter().all(|c| c.records.len() <= CHUNK_RECORDS));
        assert_eq!(&*chunks.last().unwrap().source_name, b.display().to_string());
    }

    #[test]
    fn a_missing_file_is_reported_after_what_came_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let a = dir.path().join("a");
        std::fs::write(&a, "one\n").unwrap();
        let (chunks, error, _) = run(vec![a, dir.path().join("none")]);
        assert_eq!(chunks.len(), 1);
        assert!(error.unwrap().reason.contains("cannot be read"));
    }

    #[test]
    fn a_source_that_pauses_hands_on_what_it_has() {
        let (sender, mut receiver) = mpsc::channel(8);
        let pending = Pending { name: "p".into(), batch: RefCell::default(), out: &sender };
        let count = AtomicU64::new(0);
        assert!(pending.push(1, InputRecord::default()));
        assert!(receiver.try_recv().is_err(), "held back while the source has more");
        let mut tap = Tap { inner: Box::new(io::empty()), pending: &pending, read_bytes: &count };
        assert_eq!(tap.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(receiver.try_recv().unwrap().unwrap().records.len(), 1);
    }
}

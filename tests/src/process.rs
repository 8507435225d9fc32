//! A broker as its own process, for tests that kill it and benchmarks that measure it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const READY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Clock ticks a second in `/proc/<pid>/stat`; fixed by the kernel's user interface.
const TICKS_PER_S: f64 = 100.0;

/// A built binary of the workspace, beside the running test or program.
pub fn binary(name: &str) -> io::Result<PathBuf> {
    let me = std::env::current_exe()?;
    me.ancestors().map(|dir| dir.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let hint = format!(
            "{name} is not built beside {}; run cargo build --bin {name} with the same profile",
            me.display()
        );
        io::Error::new(io::ErrorKind::NotFound, hint)
    })
}

/// Any signal, such as SIGSTOP.
pub fn send_signal(process: &Child, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(process.id() as i32).ok_or(io::ErrorKind::NotFound)?;
    Ok(kill_process(pid, signal)?)
}

/// The loopback addresses of one broker, kept over its restarts.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub kafka: SocketAddr,
    pub grpc: SocketAddr,
    pub peer: SocketAddr,
    pub http: SocketAddr,
}

impl Addresses {
    /// Four free ports. They are taken only when the broker binds them, so another process may win a race;
    /// the kernel does not: they lie below those that it gives to outgoing connections, of which one that
    /// a client makes while the broker is away would otherwise take the broker's port, or meet itself.
    pub fn free() -> io::Result<Self> {
        let next = || -> io::Result<SocketAddr> { Ok(([127, 0, 0, 1], free_port()?).into()) };
        Ok(Self { kafka: next()?, grpc: next()?, peer: next()?, http: next()? })
    }
}

/// A port that nobody listens on and that this process has not given out before, or not lately.
fn free_port() -> io::Result<u16> {
    const FIRST: u32 = 10_000;
    // Below 32,768, where Linux' default net.ipv4.ip_local_port_range begins.
    const COUNT: u32 = 22_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes that run side by side begin far from each other.
    let begin = std::process::id().wrapping_mul(7_919);
    for _ in 0..COUNT {
        let n = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = (FIRST + n) as u16;
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

/// A running broker; killed when dropped.
#[derive(Debug)]
pub struct BrokerProcess {
    child: Child,
    pub addresses: Addresses,
}

impl BrokerProcess {
    /// Starts `headwater` on a data directory and waits until it is ready.
    pub fn start(data_dir: &Path, addresses: Addresses, extra: &[&str]) -> io::Result<Self> {
        let mut broker = Self::spawn(data_dir, addresses, extra)?;
        broker.wait_ready()?;
        Ok(broker)
    }

    /// Starts `headwater`; ready comes later, for a member of a cluster when the others are there.
    pub fn spawn(data_dir: &Path, addresses: Addresses, extra: &[&str]) -> io::Result<Self> {
        let log = fs::File::options().create(true).append(true).open(data_dir.with_extension("log"))?;
        let child = Command::new(binary("headwater")?)
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--kafka-addr", &addresses.kafka.to_string()])
            .args(["--grpc-addr", &addresses.grpc.to_string()])
            .args(["--peer-addr", &addresses.peer.to_string()])
            .args(["--http-addr", &addresses.http.to_string()])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { child, addresses })
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&mut self) -> io::Result<()> {
        let started = Instant::now();
        while started.elapsed() < READY_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("the broker ended at its start: {status}")));
            }
            if http_get(self.addresses.http, "/health/ready")
                .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
            {
                return Ok(());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the broker did not become ready in 30 s"))
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no chance to save anything.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// SIGTERM, and the exit status once it has drained.
    pub fn stop(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.child.wait()
    }

    /// Any signal, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        send_signal(&self.child, signal)
    }

    /// User and system CPU seconds so far.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        cpu_seconds_of(self.pid())
    }

    /// A line of `/proc/<pid>/status` in bytes, such as `RssAnon`.
    pub fn memory_bytes(&self, field: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other(format!("no {field} in the process status")))
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        // Already ended is fine; nothing can be done about anything else here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system CPU seconds of a process so far.
pub fn cpu_seconds_of(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_S)
}

/// Status line, headers and body of a plain GET.
pub fn http_get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

//! Measures whether readers of the admin interface disturb the services: 1,000 services run ten times a second, first
//! without readers, then with 100 readers of `/events`, who also read `/metrics` every 15 s, as Prometheus does. After
//! that, one more reader stops reading for a while.
//!
//! `admin-load 20` measures each part for 20 s. The readers are a process of their own. It fails if the 99th percentile
//! of the lateness is more than doubled (and more than 2 ms), if memory grows by more than a tenth from the first half
//! of the time with readers to the second, or if the reader that stopped is not notified that it was dropped.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use service_core::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SERVICES: u64 = 1_000;
const READERS: u64 = 100;
const INTERVAL: Duration = Duration::from_millis(100);
/// The time between two reads of `/metrics` by one reader.
const SCRAPE: Duration = Duration::from_secs(15);

/// Counts the lateness of runs in steps of 100 µs.
struct Lateness {
    counts: Vec<AtomicU64>,
}

impl Lateness {
    fn new() -> Self {
        Self { counts: (0..20_000).map(|_| AtomicU64::new(0)).collect() }
    }

    fn record(&self, late: Duration) {
        let step = usize::try_from(late.as_micros() / 100).unwrap_or(usize::MAX).min(self.counts.len() - 1);
        self.counts[step].fetch_add(1, Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Returns the upper bound of the step in which this part of the runs ends.
    fn quantile(&self, part: f64) -> Duration {
        let wanted = (self.total() as f64 * part).ceil() as u64;
        let mut seen = 0;
        let step = self.counts.iter().position(|count| {
            seen += count.load(Ordering::Relaxed);
            seen >= wanted
        });
        Duration::from_micros(100 * (step.unwrap_or(self.counts.len()) as u64 + 1))
    }
}

/// What is measured now: nothing, without readers, with readers.
struct Measured {
    part: AtomicUsize,
    parts: [Lateness; 2],
}

struct Ticker(Arc<Measured>);

#[service(interval = 0.1, discover = false)]
impl Ticker {
    async fn update(&mut self, cx: &Context) -> Outcome {
        let late = cx.scheduled_for().and_then(|due| cx.now().duration_since(due).ok()).unwrap_or_default();
        if let Some(part) = self.0.part.load(Ordering::Relaxed).checked_sub(1) {
            self.0.parts[part].record(late);
        }
        Outcome::processed(1)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [role, address] if role == "read" => {
            read_all(address);
            ExitCode::SUCCESS
        }
        _ => {
            let seconds = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(20);
            match measure(Duration::from_secs(seconds)) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => {
                    eprintln!("error: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn measure(time: Duration) -> Result<bool> {
    let measured = Arc::new(Measured { part: AtomicUsize::new(0), parts: [Lateness::new(), Lateness::new()] });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let services = runtime.block_on(start(&measured))?;
    let address = services.admin_address().ok_or_else(|| Error::msg("nothing is served"))?.to_string();
    let part = |part: usize, time: Duration| {
        measured.part.store(part, Ordering::Relaxed);
        std::thread::sleep(time);
        measured.part.store(0, Ordering::Relaxed);
    };
    part(0, Duration::from_secs(5));
    let mut cpu = cpu_seconds();
    part(1, time);
    let cpu_alone = cpu_seconds() - cpu;
    let memory_alone = memory();

    let program = std::env::current_exe()?;
    let mut readers = Command::new(program).args(["read", &address]).stdout(Stdio::piped()).spawn()?;
    let output = readers.stdout.take().ok_or_else(|| Error::msg("the readers have no output"))?;
    // All of them have begun.
    BufReader::new(output).read_line(&mut String::new())?;
    // All buffers have grown when each reader has read `/metrics` twice.
    part(0, SCRAPE * 2);
    cpu = cpu_seconds();
    // An answer that is being written takes some megabytes for a moment. So only the least of many figures shows what
    // remains.
    let least = |time: Duration| {
        measured.part.store(2, Ordering::Relaxed);
        let seconds = (0..time.as_secs().max(1)).map(|_| {
            std::thread::sleep(Duration::from_secs(1));
            memory()
        });
        let least = seconds.min().unwrap_or_default();
        measured.part.store(0, Ordering::Relaxed);
        least
    };
    let (memory_first, memory_last) = (least(time / 2), least(time / 2));
    let cpu_read = cpu_seconds() - cpu;
    readers.kill()?;
    readers.wait()?;
    // How long it takes to fill the buffers of the connection (4 MiB and more) depends on the system. A client that
    // reads nothing for 30 s after that is cut off, so it does not help to wait for long.
    let mut was_notified = false;
    for stuck in [20, 40].map(Duration::from_secs) {
        was_notified = was_notified || runtime.block_on(stuck_reader_is_notified(&address, stuck))?;
    }
    runtime.block_on(services.shutdown())?;

    let [alone, read] = &measured.parts;
    for (name, part, cpu) in [("without readers", alone, cpu_alone), ("with readers", read, cpu_read)] {
        println!(
            "{name}: {:.0} runs a second, lateness median {:?}, 99 % {:?}, 99.9 % {:?}, {:.0} % of a processor",
            part.total() as f64 / time.as_secs_f64(),
            part.quantile(0.5),
            part.quantile(0.99),
            part.quantile(0.999),
            100.0 * cpu / time.as_secs_f64(),
        );
    }
    let kilobytes = |bytes: u64| bytes / 1024;
    println!(
        "memory: {} KiB without readers; with them at least {} KiB in the first half, and {} KiB in the second",
        kilobytes(memory_alone),
        kilobytes(memory_first),
        kilobytes(memory_last)
    );
    println!("the reader that stopped was notified: {was_notified}");
    let limit = (alone.quantile(0.99) * 2).max(Duration::from_millis(2));
    Ok(read.quantile(0.99) <= limit && memory_last <= memory_first + memory_first / 10 && was_notified)
}

async fn start(measured: &Arc<Measured>) -> Result<ServiceRegistry> {
    let mut builder = ServiceRegistry::builder().without_discovered().admin("127.0.0.1:0");
    for n in 0..SERVICES {
        let id = format!("ticker_{n}");
        let measured = measured.clone();
        // Spread over the interval.
        let delay = INTERVAL.mul_f64(n as f64 / SERVICES as f64);
        builder = builder
            .service_fn(&id, move || Ticker(measured.clone()))
            .options_of(&id, ServiceOptions::new().initial_delay(delay));
    }
    let services = builder.build().await?;
    services.start().await?;
    Ok(services)
}

/// Begins to read events, reads nothing more, and reads on after a while. Returns whether the last message says that
/// the reader was dropped.
async fn stuck_reader_is_notified(address: &str, stuck: Duration) -> Result<bool> {
    const MOST: Duration = Duration::from_secs(20);
    let socket = tokio::net::TcpSocket::new_v4()?;
    // A window that is much smaller would take minutes to read what the buffers hold.
    socket.set_recv_buffer_size(256 * 1024)?;
    let mut stream = socket.connect(address.parse().map_err(Error::new)?).await?;
    // With the health of the services, so that the buffers are full soon.
    stream.write_all(format!("GET /events?health=true HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    tokio::time::sleep(stuck).await;
    let mut rest = Vec::new();
    // A connection that was cut is an error after the last bytes.
    let _ = tokio::time::timeout(MOST, stream.read_to_end(&mut rest)).await;
    Ok(String::from_utf8_lossy(&rest).contains("event: dropped"))
}

/// The readers, in a process of their own. They read until they are killed.
fn read_all(address: &str) {
    let reading: Vec<_> = (0..READERS)
        .map(|n| {
            let address = address.to_owned();
            std::thread::spawn(move || {
                let scraping = address.clone();
                std::thread::spawn(move || {
                    // Not all at the same time.
                    std::thread::sleep(SCRAPE.mul_f64(n as f64 / READERS as f64));
                    loop {
                        let began = Instant::now();
                        if let Ok(mut answer) = request(&scraping, "/metrics") {
                            let _ = std::io::copy(&mut answer, &mut std::io::sink());
                        }
                        std::thread::sleep(SCRAPE.saturating_sub(began.elapsed()));
                    }
                });
                let mut events = request(&address, "/events")?;
                std::io::copy(&mut events, &mut std::io::sink())
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    println!("reading");
    for reader in reading {
        if let Ok(Err(error)) = reader.join() {
            eprintln!("a reader has ended: {error}");
        }
    }
}

fn request(address: &str, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

/// The resident memory of this process, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// The processor time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The 14th and 15th fields, in ticks of 10 ms; the name in the second may have spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

//! An HTTP binary cache that can misbehave in every way that one meets.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes written at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// How an origin misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    None,
    /// Takes requests and never answers.
    Hang,
    /// Answers every request with this status.
    Status(u16),
    /// Sends this many bytes of a NAR and closes, its Content-Length unfulfilled.
    TruncateNar(u64),
    /// Sends this many bytes of a NAR and then nothing more, without closing.
    HangInNar(u64),
    /// Flips a bit at this offset of a NAR.
    FlipInNar(u64),
    /// Sends bodies at this many bytes per second.
    Slow(u64),
}

/// A running origin; closed when dropped.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    fault: Mutex<Fault>,
    ranges: AtomicBool,
    bytes: AtomicU64,
    requests: AtomicU64,
    stop: AtomicBool,
}

impl Origin {
    /// Serves a cache directory on a free loopback port.
    pub fn serve(directory: &Path) -> Self {
        Self::serve_at(directory, "127.0.0.1:0")
    }

    /// Serves a cache directory at `ADDR:PORT`.
    pub fn serve_at(directory: &Path, address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            fault: Mutex::new(Fault::None),
            ranges: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || {
                    let _ = answer(&shared, stream);
                });
            }
        });
        Self { address, shared }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Misbehaves like this from now on.
    pub fn set_fault(&self, fault: Fault) {
        *self.shared.fault.lock().expect("the fault") = fault;
    }

    /// Answers `Range: bytes=N-` from now on, or no more.
    pub fn set_ranges(&self, ranges: bool) {
        self.shared.ranges.store(ranges, Ordering::SeqCst);
    }

    /// Bytes of bodies sent.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Requests received.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Refuses connections from now on.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop, which then drops the listener.
        let _ = TcpStream::connect(self.address);
        crate::daemon::wait_until(Duration::from_secs(5), "the origin to refuse", || {
            TcpStream::connect_timeout(&self.address, Duration::from_millis(200)).is_err()
        });
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn answer(shared: &Shared, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    let mut from = 0;
    while reader.read_line(&mut line)? > 2 {
        if shared.ranges.load(Ordering::SeqCst)
            && let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=")
        {
            from = range.trim().trim_end_matches('-').parse().unwrap_or(0);
        }
        line.clear();
    }
    if request.is_empty() {
        return Ok(());
    }
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let fault = *shared.fault.lock().expect("the fault");
    let path = request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
    match fault {
        Fault::Hang => hang(shared),
        Fault::Status(status) => respond(stream, status, b"fault"),
        _ if path.contains("..") => respond(stream, 400, b""),
        _ => match open(&shared.directory.join(&path)) {
            Some((body, length)) => {
                let fault = if path.starts_with("nar/") { fault } else { slow_only(fault) };
                send(shared, stream, body, from..length, fault)
            }
            None => respond(stream, 404, b""),
        },
    }
}

/// A regular file and its length.
fn open(path: &Path) -> Option<(File, u64)> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some((file, metadata.len()))
}

fn slow_only(fault: Fault) -> Fault {
    if matches!(fault, Fault::Slow(_)) { fault } else { Fault::None }
}

fn hang(shared: &Shared) -> std::io::Result<()> {
    while !shared.stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn respond(mut stream: TcpStream, status: u16, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)
}

/// Sends a file piece by piece: it may be larger than the memory.
fn send(
    shared: &Shared,
    mut stream: TcpStream,
    mut body: File,
    part: std::ops::Range<u64>,
    fault: Fault,
) -> std::io::Result<()> {
    let length = part.end;
    if part.start >= length {
        return respond(stream, if length == 0 { 200 } else { 416 }, b"");
    }
    match part.start {
        0 => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n")?,
        from => {
            body.seek(SeekFrom::Start(from))?;
            let (last, rest) = (length - 1, length - from);
            write!(stream, "HTTP/1.1 206 Part\r\nContent-Range: bytes {from}-{last}/{length}\r\n")?;
            write!(stream, "Content-Length: {rest}\r\n")?;
        }
    }
    if shared.ranges.load(Ordering::SeqCst) {
        write!(stream, "Accept-Ranges: bytes\r\n")?;
    }
    write!(stream, "Connection: close\r\n\r\n")?;
    let (mut end, mut flipped) = (length, None);
    match fault {
        Fault::TruncateNar(bytes) | Fault::HangInNar(bytes) => end = end.min(bytes),
        Fault::FlipInNar(offset) => flipped = Some(offset.min(length.saturating_sub(1))),
        Fault::None | Fault::Hang | Fault::Status(_) | Fault::Slow(_) => {}
    }
    let mut sent = part.start;
    let (mut body, mut buffer) = (body.take(end.saturating_sub(sent)), vec![0; CHUNK_BYTES]);
    loop {
        let count = body.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        let chunk = &mut buffer[..count];
        if let Some(byte) = flipped.and_then(|at| chunk.get_mut(usize::try_from(at.checked_sub(sent)?).ok()?))
        {
            *byte ^= 1;
        }
        stream.write_all(chunk)?;
        sent += count as u64;
        shared.bytes.fetch_add(count as u64, Ordering::SeqCst);
        if let Fault::Slow(rate) = fault {
            std::thread::sleep(Duration::from_secs_f64(count as f64 / rate as f64));
        }
    }
    if matches!(fault, Fault::HangInNar(_)) {
        return hang(shared);
    }
    Ok(())
}

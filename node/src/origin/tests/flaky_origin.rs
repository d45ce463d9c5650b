//! A real HTTP server on a real socket that misbehaves as told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use url::Url;

/// A file with its headers beyond `Content-Length`.
#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Ends with the connection instead of after a `Content-Length`.
    pub(super) unannounced: bool,
}

impl File {
    pub(super) fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), ..Self::default() }
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// May be asked for in parts.
    pub(super) fn with_ranges(self, etag: &str) -> Self {
        self.header("Accept-Ranges", "bytes").header("ETag", etag)
    }

    pub(super) fn unannounced(mut self) -> Self {
        self.unannounced = true;
        self
    }
}

/// What happens to one request.
#[derive(Clone)]
pub(super) enum Act {
    Serve(File),
    /// As [`Act::Serve`], after thinking.
    ServeLate(Duration, File),
    Status(u16, &'static str),
    Redirect(String),
    /// Takes the request and says nothing.
    HangBeforeHead,
    /// Sends the head and nothing else.
    HangAfterHead(File),
    /// Sends this many bytes of the body and no more.
    HangInBody(File, usize),
    /// Sends this many bytes of the body and closes.
    CutBody(File, usize),
    /// A byte at a time.
    Drip(File, Duration),
    /// Closes without an answer.
    Close,
}

struct Shared {
    /// What to do for a path, request after request; the last one stays.
    acts: Mutex<HashMap<String, Vec<Act>>>,
    /// Heads of the requests.
    heads: Mutex<Vec<String>>,
}

/// The server; it and all its connections end when it is dropped.
pub(super) struct FlakyOrigin {
    pub(super) url: Url,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

impl FlakyOrigin {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let shared = Arc::new(Shared { acts: Mutex::default(), heads: Mutex::default() });
        let mut accepting = JoinSet::new();
        let state = Arc::clone(&shared);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(serve(socket, Arc::clone(&state)));
            }
        });
        Self { url, shared, _accepting: accepting }
    }

    /// Sets what happens at `path`, request after request; the last act stays.
    pub(super) fn on(&self, path: &str, acts: impl IntoIterator<Item = Act>) {
        let acts: Vec<Act> = acts.into_iter().collect();
        self.shared.acts.lock().unwrap().insert(path.to_owned(), acts);
    }

    /// Requests so far.
    pub(super) fn requests(&self) -> usize {
        self.shared.heads.lock().unwrap().len()
    }

    pub(super) fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }
}

/// The URL of a port that refuses connections for as long as the socket lives: bound, not listening.
pub(super) fn refusing() -> (Url, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (Url::parse(&format!("http://{}/", socket.local_addr().unwrap())).unwrap(), socket)
}

async fn serve(mut socket: TcpStream, shared: Arc<Shared>) {
    let Some(head) = read_head(&mut socket).await else { return };
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    shared.heads.lock().unwrap().push(head.clone());
    let act = {
        let mut acts = shared.acts.lock().unwrap();
        match acts.get_mut(&path) {
            None => Act::Status(404, ""),
            Some(list) if list.len() > 1 => list.remove(0),
            Some(list) => list[0].clone(),
        }
    };
    // The client may be gone; that is its right.
    let _ = perform(&mut socket, act, &head).await;
}

async fn read_head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

async fn perform(socket: &mut TcpStream, act: Act, head: &str) -> std::io::Result<()> {
    match act {
        Act::Close => Ok(()),
        Act::Serve(file) => {
            let from =
                range_start(head).filter(|_| file.headers.iter().any(|(name, _)| *name == "Accept-Ranges"));
            send_head(socket, &file, from).await?;
            socket.write_all(&file.bytes[from.unwrap_or_default()..]).await?;
            socket.shutdown().await
        }
        Act::ServeLate(pause, file) => {
            tokio::time::sleep(pause).await;
            send_head(socket, &file, None).await?;
            socket.write_all(&file.bytes).await?;
            socket.shutdown().await
        }
        Act::Status(status, headers) => {
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n");
            socket.write_all(head.as_bytes()).await
        }
        Act::Redirect(to) => {
            let head =
                format!("HTTP/1.1 302 X\r\nContent-Length: 0\r\nConnection: close\r\nLocation: {to}\r\n\r\n");
            socket.write_all(head.as_bytes()).await
        }
        Act::HangBeforeHead => hang().await,
        Act::HangAfterHead(file) => {
            send_head(socket, &file, None).await?;
            hang().await
        }
        Act::HangInBody(file, after) => {
            send_head(socket, &file, None).await?;
            socket.write_all(&file.bytes[..after]).await?;
            hang().await
        }
        Act::CutBody(file, after) => {
            send_head(socket, &file, None).await?;
            socket.write_all(&file.bytes[..after]).await?;
            socket.shutdown().await
        }
        Act::Drip(file, every) => {
            send_head(socket, &file, None).await?;
            for byte in file.bytes {
                socket.write_all(&[byte]).await?;
                tokio::time::sleep(every).await;
            }
            Ok(())
        }
    }
}

async fn hang() -> std::io::Result<()> {
    std::future::pending().await
}

async fn send_head(socket: &mut TcpStream, file: &File, from: Option<usize>) -> std::io::Result<()> {
    let total = file.bytes.len();
    let mut head = match from {
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
        Some(from) => {
            format!("HTTP/1.1 206 Partial\r\nContent-Range: bytes {from}-{}/{total}\r\n", total - 1)
        }
    };
    for (name, value) in &file.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !file.unannounced {
        head += &format!("Content-Length: {}\r\n", total - from.unwrap_or_default());
    }
    head += "Connection: close\r\n\r\n";
    socket.write_all(head.as_bytes()).await
}

fn range_start(head: &str) -> Option<usize> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("range: bytes="))?;
    line.split('=').nth(1)?.trim_end_matches('-').parse().ok()
}

//! A plain HTTP/1.1 client that shows exactly what was on the wire.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// An answer; `complete` is false when the body broke off before its Content-Length.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code; 0 when there was no answer.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The body as far as it came.
    pub body: Vec<u8>,
    /// Whether the whole body came.
    pub complete: bool,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

/// Sends a request head as it is and reads the answer to its end.
pub fn raw(base: &str, request: &[u8]) -> Answer {
    let address = base.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).expect("the gateway accepts");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes)
}

/// How long a GET takes until its first bytes, beyond the head, and until its last.
pub fn first_and_last_byte(base: &str, path: &str) -> (Duration, Duration) {
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).expect("the gateway accepts");
    let started = Instant::now();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request is sent");
    let mut buffer = vec![0; 64 * 1024];
    let mut seen = 0;
    while seen < 100_000 {
        let read = stream.read(&mut buffer).expect("bytes flow");
        assert!(read > 0, "the answer ended after {seen} bytes");
        seen += read;
    }
    let first = started.elapsed();
    while stream.read(&mut buffer).expect("bytes flow") > 0 {}
    (first, started.elapsed())
}

/// `GET url`.
pub fn get(url: &str) -> Answer {
    request("GET", url, &[])
}

/// Any bodyless request.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    let (base, path) = split(url);
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut answer = raw(&base, head.as_bytes());
    if method == "HEAD" {
        answer.complete = true;
    }
    answer
}

/// `PUT url` with a body. What the server does not take is not sent.
pub fn put(url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let (base, path) = split(url);
    let length = body.len();
    let mut request = format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n"
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    raw(&base, &[request.as_bytes(), body].concat())
}

fn split(url: &str) -> (String, String) {
    let rest = url.trim_start_matches("http://");
    match rest.split_once('/') {
        Some((host, path)) => (format!("http://{host}"), format!("/{path}")),
        None => (format!("http://{rest}"), "/".to_owned()),
    }
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else {
        return Answer { status: 0, head: String::new(), body: bytes.to_vec(), complete: false };
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let mut answer = Answer { status, head, body: bytes[end + 4..].to_vec(), complete: false };
    match answer.header("content-length").and_then(|value| value.parse::<usize>().ok()) {
        Some(length) => answer.complete = answer.body.len() == length,
        None if answer.header("transfer-encoding").is_some() => {
            if let Some(body) = dechunk(&answer.body) {
                answer.body = body;
                answer.complete = true;
            }
        }
        None => answer.complete = true,
    }
    answer
}

fn dechunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).ok()?.trim(), 16).ok()?;
        bytes = &bytes[line + 2..];
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..length)?);
        bytes = bytes.get(length + 2..)?;
    }
}

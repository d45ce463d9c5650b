//! A node that answers every GET with the same bytes, badly.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How one request is answered.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// In full, or the range that was asked for.
    Whole,
    /// As `Whole`, but the connection is closed after so many bytes of the body.
    CutAfter(usize),
    /// In full although a range was asked for.
    IgnoreRange,
}

pub(super) struct FaultyNode {
    address: String,
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

impl FaultyNode {
    /// Answers one request per connection, the n-th as the n-th answer says, then no more.
    pub(super) fn start(body: Vec<u8>, answers: Vec<Answer>) -> FaultyNode {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let seen = ranges.clone();
        std::thread::spawn(move || {
            for answer in answers {
                let Ok((stream, _)) = listener.accept() else { return };
                let range = read_head(&stream);
                seen.lock().unwrap().push(range.clone());
                // The client may leave at any time.
                let _ = reply(&stream, &body, answer, range);
            }
        });
        FaultyNode { address, ranges }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The Range header of each request.
    pub(super) fn ranges(&self) -> Vec<Option<String>> {
        self.ranges.lock().unwrap().clone()
    }
}

fn read_head(stream: &TcpStream) -> Option<String> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let mut range = None;
    for line in lines {
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("range")
        {
            range = Some(value.to_owned());
        }
    }
    range
}

fn reply(mut stream: &TcpStream, body: &[u8], answer: Answer, range: Option<String>) -> std::io::Result<()> {
    let start = range.filter(|_| !matches!(answer, Answer::IgnoreRange)).map(|range| {
        let start: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
        start
    });
    let rest = &body[start.unwrap_or(0)..];
    let length = rest.len();
    match start {
        None => write!(stream, "HTTP/1.1 200 OK\r\n")?,
        Some(start) => {
            let (last, whole) = (body.len() - 1, body.len());
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{last}/{whole}\r\n"
            )?;
        }
    }
    write!(stream, "Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
    let sent = match answer {
        Answer::CutAfter(bytes) => &rest[..bytes],
        Answer::Whole | Answer::IgnoreRange => rest,
    };
    stream.write_all(sent)
}

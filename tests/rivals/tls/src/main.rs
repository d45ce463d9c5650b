//! A file over a bare TLS 1.3 socket with AES-128-GCM, hashed with BLAKE3 and written to a file: the least that a verified
//! transfer over an authenticated connection can cost. Two processes, one connection a transfer, no protocol.
//!
//! `rival-tls send FILE` prints `ready ADDR CERTIFICATE` and serves whoever connects. `rival-tls receive ADDR CERTIFICATE
//! OUT [--sync]` and `rival-tls hash FILE` print one line of JSON.

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of a read from the socket, of a hash update and of a write.
const BUFFER_BYTES: usize = 256 * 1024;
const SERVER_NAME: &str = "rival";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["send", file] => send(file),
        ["receive", address, certificate, out] => receive(address, certificate, out, false),
        ["receive", address, certificate, out, "--sync"] => receive(address, certificate, out, true),
        ["hash", file] => hash(file),
        _ => Err("usage: rival-tls send FILE | receive ADDR CERTIFICATE OUT [--sync] | hash FILE".into()),
    }
}

fn crypto() -> Arc<CryptoProvider> {
    let suite = provider::cipher_suite::TLS13_AES_128_GCM_SHA256;
    Arc::new(CryptoProvider { cipher_suites: vec![suite], ..provider::default_provider() })
}

fn send(file: &str) -> Outcome<()> {
    let generated = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])?;
    let certificate = generated.cert.der().clone();
    let key = PrivateKeyDer::try_from(generated.signing_key.serialize_der())?;
    let config = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("ready {} {}", listener.local_addr()?, to_hex(&certificate));
    for socket in listener.incoming() {
        // Whoever leaves early does not end the sender.
        if let Err(error) = serve(socket?, Arc::clone(&config), file) {
            eprintln!("rival-tls: {error}");
        }
    }
    Ok(())
}

fn serve(socket: TcpStream, config: Arc<ServerConfig>, file: &str) -> Outcome<()> {
    socket.set_nodelay(true)?;
    let mut connection = ServerConnection::new(config)?;
    connection.set_buffer_limit(Some(2 * BUFFER_BYTES));
    let mut stream = StreamOwned::new(connection, socket);
    let (mut file, mut buffer) = (File::open(file)?, vec![0; BUFFER_BYTES]);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        stream.write_all(&buffer[..count])?;
    }
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}

/// A socket that is read in large pieces; rustls itself asks for a record at a time.
struct Buffered(BufReader<TcpStream>);

impl Read for Buffered {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.get_mut().flush()
    }
}

fn receive(address: &str, certificate: &str, out: &str, sync: bool) -> Outcome<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(from_hex(certificate)?))?;
    let config = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let started = Instant::now();
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from(SERVER_NAME)?)?;
    let mut stream = StreamOwned::new(connection, Buffered(BufReader::with_capacity(BUFFER_BYTES, socket)));
    let (mut file, mut hasher) = (File::create(out)?, blake3::Hasher::new());
    let (mut buffer, mut filled, mut total) = (vec![0; BUFFER_BYTES], 0, 0_u64);
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        filled += count;
        if filled == BUFFER_BYTES || count == 0 {
            hasher.update(&buffer[..filled]);
            file.write_all(&buffer[..filled])?;
            total += filled as u64;
            filled = 0;
        }
        if count == 0 {
            break;
        }
    }
    let blake3 = hasher.finalize();
    let written = started.elapsed().as_secs_f64();
    if sync {
        file.sync_all()?;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{{\"bytes\": {total}, \"blake3\": \"{blake3}\", \"written_seconds\": {written}, \"seconds\": {seconds}}}"
    );
    Ok(())
}

/// What one core needs for the two hashes that every blob is checked by, with the daemon's implementations.
fn hash(file: &str) -> Outcome<()> {
    let bytes = std::fs::read(file)?;
    let started = Instant::now();
    let mut sha256 = digest::Context::new(&digest::SHA256);
    bytes.chunks(BUFFER_BYTES).for_each(|chunk| sha256.update(chunk));
    let sha256 = to_hex(sha256.finish().as_ref());
    let sha256_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let mut blake3 = blake3::Hasher::new();
    bytes.chunks(BUFFER_BYTES).for_each(|chunk| {
        blake3.update(chunk);
    });
    let blake3 = blake3.finalize();
    let blake3_seconds = started.elapsed().as_secs_f64();
    println!(
        "{{\"bytes\": {}, \"sha256\": \"{sha256}\", \"sha256_seconds\": {sha256_seconds}, \
         \"blake3\": \"{blake3}\", \"blake3_seconds\": {blake3_seconds}}}",
        bytes.len()
    );
    Ok(())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Outcome<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

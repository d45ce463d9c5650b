//! A file over iroh-blobs: its own store on disk, its own endpoint over QUIC without relays or look-ups, its own get into
//! a fresh store on disk. Two processes on loopback.
//!
//! `rival-iroh send FILE STORE` prints `ready TICKET` and serves whoever connects. `rival-iroh receive TICKET STORE` prints
//! one line of JSON.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use iroh::endpoint::presets;
use iroh::protocol::Router;
use iroh::{Endpoint, RelayMode};
use iroh_blobs::BlobsProtocol;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::ticket::BlobTicket;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["send", file, store] => send(file, store).await,
        ["receive", ticket, store] => receive(ticket, store).await,
        _ => bail!("usage: rival-iroh send FILE STORE | receive TICKET STORE"),
    }
}

async fn endpoint() -> Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled).clear_ip_transports();
    Ok(builder.bind_addr("127.0.0.1:0")?.bind().await?)
}

async fn send(file: &str, store: &str) -> Result<()> {
    let store = FsStore::load(store).await?;
    let tag = store.blobs().add_path(Path::new(file).canonicalize()?).await?;
    let endpoint = endpoint().await?;
    let ticket = BlobTicket::new(endpoint.addr(), tag.hash, tag.format);
    let router = Router::builder(endpoint).accept(iroh_blobs::ALPN, BlobsProtocol::new(&store, None)).spawn();
    println!("ready {ticket}");
    std::io::stdout().flush()?;
    tokio::signal::ctrl_c().await?;
    router.shutdown().await?;
    Ok(())
}

async fn receive(ticket: &str, store: &str) -> Result<()> {
    let ticket: BlobTicket = ticket.parse()?;
    let store = FsStore::load(store).await?;
    let endpoint = endpoint().await?;
    // The connection is made before the clock starts, as the daemon's is.
    let connection = endpoint.connect(ticket.addr().clone(), iroh_blobs::ALPN).await?;
    let started = Instant::now();
    let stats = store.remote().fetch(connection, ticket.hash_and_format()).complete().await?;
    let seconds = started.elapsed().as_secs_f64();
    let local = store.remote().local(ticket.hash_and_format()).await.context("the store after the fetch")?;
    if !local.is_complete() {
        bail!("the store holds only a part after the fetch");
    }
    println!("{{\"bytes\": {}, \"seconds\": {seconds}}}", stats.payload_bytes_read);
    endpoint.close().await;
    store.shutdown().await?;
    Ok(())
}

//! The status for people. Texts of other machines are made harmless.

use std::fmt::{Result, Write};
use std::time::{Duration, Instant};

use p2p_cache_http_gateway::{LiveStoreStatus, OriginStatus, Status, Totals, TransferStatus};

use crate::cli::console::printable;
use crate::cli::progress::size;

/// What an earlier status said, for rates.
pub(super) struct Sample {
    pub(super) totals: Totals,
    pub(super) at: Instant,
}

/// Characters of the bar of a transfer.
const BAR_CHARS: usize = 32;
/// What the parts of a bar are drawn with, by source; a dot where nothing has come.
const SOURCE_LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";

pub(super) fn describe(status: &Status, base: &str, last: Option<&Sample>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_summary(&mut text, status, base, last).and_then(|()| write_lists(&mut text, status));
    text
}

fn write_summary(out: &mut String, status: &Status, base: &str, last: Option<&Sample>) -> Result {
    let uptime = indicatif::HumanDuration(Duration::from_secs(status.uptime_seconds));
    writeln!(out, "p2p-cache {}, up {uptime}", printable(&status.version))?;
    writeln!(out, "id         {}", printable(&status.peer_id))?;
    writeln!(out, "http       {base}")?;
    for address in &status.listen {
        writeln!(out, "listen     {}", printable(address))?;
    }
    let limit = status.store.max_bytes.map_or("unlimited".to_owned(), size);
    writeln!(out, "store      {} in {} blobs, limit {limit}", size(status.store.bytes), status.store.blobs)?;
    if let Some(live) = &status.nix_store {
        write_live(out, live)?;
    }
    let now = &status.totals;
    let rate = |of: fn(&Totals) -> u64| rate(last, of(now), of);
    writeln!(
        out,
        "received   {}{} from origins, {}{} from peers",
        size(now.received_origin_bytes),
        rate(|totals| totals.received_origin_bytes),
        size(now.received_peer_bytes),
        rate(|totals| totals.received_peer_bytes),
    )?;
    writeln!(
        out,
        "served     {}{} to clients, {}{} to peers",
        size(now.served_client_bytes),
        rate(|totals| totals.served_client_bytes),
        size(now.served_peer_bytes),
        rate(|totals| totals.served_peer_bytes),
    )
}

/// ` (3.00 MiB/s)`, where there is something to compare with and something moved.
fn rate(last: Option<&Sample>, now: u64, of: fn(&Totals) -> u64) -> String {
    let Some(last) = last else { return String::new() };
    let bytes = now.saturating_sub(of(&last.totals));
    let seconds = last.at.elapsed().as_secs_f64().max(0.001);
    if bytes == 0 { String::new() } else { format!(" ({}/s)", size((bytes as f64 / seconds) as u64)) }
}

fn write_live(out: &mut String, live: &LiveStoreStatus) -> Result {
    let (root, offered, bytes) = (printable(&live.root), live.offered, size(live.offered_bytes));
    if let Some(problem) = &live.problem {
        return writeln!(out, "nix store  {root} cannot be read: {}", printable(problem));
    }
    write!(out, "nix store  {offered} paths ({bytes}) of {root} hashed")?;
    if live.pending > 0 {
        let percent = live.offered * 100 / (live.offered + live.pending).max(1);
        write!(out, ", {} to go ({percent} % done)", live.pending)?;
    }
    if live.bad > 0 {
        write!(out, ", {} bad", live.bad)?;
    }
    writeln!(out)
}

fn write_lists(out: &mut String, status: &Status) -> Result {
    writeln!(out, "peers      {}", status.peers.len())?;
    let peers = status.peers.iter().map(|peer| {
        let rtt = peer.rtt_ms.map_or("?".to_owned(), |rtt| format!("{rtt:.1}"));
        let agent = peer.agent.as_deref().map(printable).unwrap_or_default();
        [
            printable(&peer.peer_id),
            printable(&peer.scope),
            format!("{rtt} ms"),
            printable(&peer.address),
            agent,
        ]
    });
    write_columns(out, &peers.collect::<Vec<_>>())?;
    writeln!(out, "origins    {}", status.origins.len())?;
    let origins = status.origins.iter().map(|origin| [printable(&origin.url), health(origin)]);
    write_columns(out, &origins.collect::<Vec<_>>())?;
    writeln!(out, "transfers  {}", status.transfers.len())?;
    status.transfers.iter().try_for_each(|transfer| write_transfer(out, transfer))
}

fn health(origin: &OriginStatus) -> String {
    match (origin.healthy, &origin.last_error) {
        (true, None) => "ok".to_owned(),
        (true, Some(error)) => format!("ok, last failure: {}", printable(error)),
        (false, error) => format!("down: {}", printable(error.as_deref().unwrap_or("unknown reason"))),
    }
}

fn write_transfer(out: &mut String, transfer: &TransferStatus) -> Result {
    let (present, whole) = (transfer.present_bytes, transfer.size_bytes);
    let percent = u128::from(present) * 100 / u128::from(whole.max(1));
    let readers = transfer.readers;
    writeln!(out, "  {}", printable(&transfer.digest))?;
    writeln!(out, "  [{}] {percent:>3} % of {}, {readers} waiting", bar(&transfer.strip), size(whole))?;
    for (source, index) in transfer.sources.iter().zip(0..) {
        let (letter, name) = (char::from(letter(index)), printable(&source.name));
        writeln!(out, "    {letter} {:>10}  {name}", size(source.bytes))?;
    }
    Ok(())
}

fn letter(source: u16) -> u8 {
    SOURCE_LETTERS.get(usize::from(source)).copied().unwrap_or(b'*')
}

/// Which parts came from whom.
fn bar(strip: &[Option<u16>]) -> String {
    let at = |cell: usize| strip.get(cell * strip.len() / BAR_CHARS).copied().flatten();
    (0..BAR_CHARS).map(|cell| at(cell).map_or('.', |source| char::from(letter(source)))).collect()
}

/// Rows with their columns below each other.
fn write_columns<const N: usize>(out: &mut String, rows: &[[String; N]]) -> Result {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("  {text:width$}"));
        writeln!(out, "{}", cells.collect::<String>().trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_cache_http_gateway::{PeerStatus, SourceStatus};

    #[test]
    fn a_status_names_its_parts_and_tames_texts_of_peers() {
        let status = Status {
            version: "0.1.0".into(),
            peers: vec![PeerStatus {
                peer_id: "12D3".into(),
                scope: "lan".into(),
                rtt_ms: Some(0.42),
                agent: Some("evil\x1b[2J".into()),
                ..PeerStatus::default()
            }],
            origins: vec![OriginStatus {
                url: "http://o".into(),
                healthy: false,
                last_error: Some("refused".into()),
            }],
            ..Status::default()
        };
        let text = describe(&status, "http://127.0.0.1:5380", None);
        for part in
            ["p2p-cache 0.1.0", "12D3  lan  0.4 ms", "down: refused", "limit unlimited", "transfers  0"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn a_transfer_shows_which_parts_came_from_whom() {
        let source = |name: &str, bytes| SourceStatus { name: name.into(), bytes };
        let status = Status {
            nix_store: Some(LiveStoreStatus {
                root: "/".into(),
                offered: 30,
                pending: 70,
                bad: 2,
                ..LiveStoreStatus::default()
            }),
            transfers: vec![TransferStatus {
                digest: "sha256:00".into(),
                size_bytes: 4 << 20,
                present_bytes: 2 << 20,
                readers: 1,
                sources: vec![source("origin", 1 << 20), source("12D3", 1 << 20)],
                strip: vec![Some(0), Some(1), None, None],
            }],
            ..Status::default()
        };
        let text = describe(&status, "http://127.0.0.1:5380", None);
        for part in [
            "[AAAAAAAABBBBBBBB................]  50 % of 4.00 MiB, 1 waiting",
            "    B   1.00 MiB  12D3",
            "30 paths (0 B) of / hashed, 70 to go (30 % done), 2 bad",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_store_that_cannot_be_read_shows_why_and_no_counts() {
        let live = LiveStoreStatus {
            root: "/".into(),
            problem: Some("locked".into()),
            ..LiveStoreStatus::default()
        };
        let text = describe(&Status { nix_store: Some(live), ..Status::default() }, "", None);
        assert!(text.contains("nix store  / cannot be read: locked\n"), "{text}");
        assert!(!text.contains("paths"), "{text}");
    }

    #[test]
    fn rates_are_those_since_the_last_look() {
        let totals = Totals { received_peer_bytes: 10 << 20, ..Totals::default() };
        let status = Status { totals, ..Status::default() };
        let at = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let text = describe(&status, "", Some(&Sample { totals: Totals::default(), at }));
        assert!(text.contains("received   0 B from origins, 10.00 MiB ("), "{text}");
        assert!(text.contains("MiB/s) from peers"), "{text}");
    }
}

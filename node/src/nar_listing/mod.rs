//! What is in a NAR, as the JSON of a `.ls` file, made from the NAR itself.
//!
//! Only the framing is read where contents are long: an artifact can be read from any position. Memory is bounded by the
//! length of the JSON, whatever the NAR says, and no depth of directories exhausts the stack.

mod cursor;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use p2p_cache_http_gateway::Artifact;

use self::cursor::Cursor;

/// Longest listing, in bytes: some 300,000 files.
const MAX_LISTING_BYTES: usize = 32 * 1024 * 1024;
/// Deepest directory.
const MAX_DEPTH: usize = 4096;
/// Longest name or target of a symlink, and every other string but contents.
const MAX_STRING_BYTES: u64 = 64 * 1024;
/// Which contents are read over, and not skipped by asking for what follows, in bytes.
const MAX_READ_OVER_BYTES: u64 = 512 * 1024;

/// Lists a NAR.
///
/// # Errors
/// When it cannot be read, is no NAR, or its listing is longer than 32 MiB.
pub(crate) async fn list(nar: Arc<dyn Artifact>) -> io::Result<Vec<u8>> {
    let mut lister = Lister { nar: Cursor::new(nar, MAX_READ_OVER_BYTES), json: Vec::new() };
    lister.run().await?;
    Ok(lister.json)
}

struct Lister {
    nar: Cursor,
    json: Vec<u8>,
}

impl Lister {
    async fn run(&mut self) -> io::Result<()> {
        self.expect("nix-archive-1").await?;
        self.write(b"{\"version\":1,\"root\":")?;
        // Directories that are open; whether each has had an entry.
        let mut open: Vec<bool> = Vec::new();
        let mut is_directory = self.node().await?;
        loop {
            if is_directory {
                if open.len() >= MAX_DEPTH {
                    return Err(bad(format!("it is deeper than {MAX_DEPTH} directories")));
                }
                open.push(false);
            }
            // On to the next entry, or out of directories that end.
            loop {
                let Some(had_entries) = open.last_mut() else { return self.finish().await };
                match self.nar.string(MAX_STRING_BYTES).await?.as_ref() {
                    b"entry" => {
                        let first = !std::mem::replace(had_entries, true);
                        self.name(first).await?;
                        break;
                    }
                    b")" => {
                        open.pop();
                        self.write(b"}}")?;
                        if !open.is_empty() {
                            self.expect(")").await?;
                        }
                    }
                    other => return Err(unexpected("entry", other)),
                }
            }
            is_directory = self.node().await?;
            if !is_directory {
                self.expect(")").await?;
            }
        }
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.nar.expect_end()?;
        self.write(b"}")
    }

    async fn name(&mut self, first: bool) -> io::Result<()> {
        self.expect("(").await?;
        self.expect("name").await?;
        let name = self.nar.string(MAX_STRING_BYTES).await?;
        self.expect("node").await?;
        if !first {
            self.write(b",")?;
        }
        self.text(&name)?;
        self.write(b":")
    }

    /// Everything of a node but the entries of a directory; says whether it is one.
    async fn node(&mut self) -> io::Result<bool> {
        self.expect("(").await?;
        self.expect("type").await?;
        match self.nar.string(MAX_STRING_BYTES).await?.as_ref() {
            b"directory" => {
                self.write(b"{\"type\":\"directory\",\"entries\":{")?;
                Ok(true)
            }
            b"regular" => self.file().await.map(|()| false),
            b"symlink" => {
                self.expect("target").await?;
                let target = self.nar.string(MAX_STRING_BYTES).await?;
                self.expect(")").await?;
                self.write(b"{\"type\":\"symlink\",\"target\":")?;
                self.text(&target)?;
                self.write(b"}")?;
                Ok(false)
            }
            other => Err(unexpected("a type", other)),
        }
    }

    async fn file(&mut self) -> io::Result<()> {
        let mut token = self.nar.string(MAX_STRING_BYTES).await?;
        let executable = token.as_ref() == b"executable";
        if executable {
            self.expect("").await?;
            token = self.nar.string(MAX_STRING_BYTES).await?;
        }
        let (mut size, mut offset) = (0, 0);
        if token.as_ref() == b"contents" {
            size = self.nar.number().await?;
            offset = self.nar.at();
            self.nar.skip_padded(size).await?;
            token = self.nar.string(MAX_STRING_BYTES).await?;
        }
        if token.as_ref() != b")" {
            return Err(unexpected(")", &token));
        }
        let mut text = format!("{{\"type\":\"regular\",\"size\":{size}");
        if executable {
            text.push_str(",\"executable\":true");
        }
        if offset > 0 {
            text.push_str(&format!(",\"narOffset\":{offset}"));
        }
        text.push('}');
        self.write(text.as_bytes())
    }

    async fn expect(&mut self, wanted: &str) -> io::Result<()> {
        let found = self.nar.string(MAX_STRING_BYTES).await?;
        if found.as_ref() == wanted.as_bytes() { Ok(()) } else { Err(unexpected(wanted, &found)) }
    }

    /// JSON has no bytes that are not text; nor has Nix.
    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        let quoted = serde_json::to_vec(&String::from_utf8_lossy(bytes)).map_err(io::Error::other)?;
        self.write(&quoted)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.json.len() + bytes.len() > MAX_LISTING_BYTES {
            return Err(bad(format!("its listing is longer than {MAX_LISTING_BYTES} bytes")));
        }
        self.json.extend_from_slice(bytes);
        Ok(())
    }
}

fn bad(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot list a NAR: {reason}"))
}

fn unexpected(wanted: &str, found: &[u8]) -> io::Error {
    let shown = String::from_utf8_lossy(found.get(..found.len().min(32)).unwrap_or_default()).into_owned();
    bad(format!("expected {wanted:?}, found {shown:?}"))
}

//! A valid path as the database has it.

use p2p_cache_protocol::store_path::split_base_name;
use p2p_cache_protocol::{
    Compression, Digest, MAX_BLOB_BYTES, MAX_NARINFO_SIGNATURES, NarInfo, Sha256Digest, Signature, StoreHash,
    StorePath,
};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row};

use super::STORE_DIR;

/// A store path that Nix holds for valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPath {
    /// Its row. Never used again for another path.
    pub id: i64,
    /// The path, in `/nix/store` whatever the root.
    pub store_path: StorePath,
    /// SHA-256 of its NAR.
    pub nar_hash: Sha256Digest,
    /// Bytes of its NAR, at least 1.
    pub nar_size: u64,
    /// Base names of the paths that it refers to, ascending.
    pub references: Vec<String>,
    /// Base name of the derivation that it is known to be an output of.
    pub deriver: Option<String>,
    /// Who vouches for it.
    pub signatures: Vec<Signature>,
    /// Its content address, if it has one.
    pub ca: Option<String>,
    /// Whether it was built here.
    pub ultimate: bool,
    /// When it was registered, seconds since the epoch.
    pub registered_s: u64,
}

impl StoredPath {
    /// What our own gateway says of it.
    #[must_use]
    pub fn gateway_narinfo(&self) -> NarInfo {
        let url = format!("nar/{}-{}.nar", self.store_path.hash(), self.nar_hash.to_nix32());
        self.narinfo(url)
    }

    /// What a binary cache says of it; the NAR is at `url`, and uncompressed.
    #[must_use]
    pub fn narinfo(&self, url: String) -> NarInfo {
        NarInfo {
            store_path: self.store_path.clone(),
            url,
            compression: Compression::None,
            file_hash: Some(self.nar_hash),
            file_size: Some(self.nar_size),
            nar_hash: self.nar_hash,
            nar_size: self.nar_size,
            references: self.references.clone(),
            deriver: self.deriver.clone(),
            system: None,
            signatures: self.signatures.clone(),
            ca: self.ca.clone(),
            unknown: Vec::new(),
        }
    }
}

/// The valid paths that the rest of the query chooses.
pub(super) fn read(
    connection: &Connection,
    which: &str,
    params: impl Params,
) -> rusqlite::Result<Vec<StoredPath>> {
    let columns = "id, path, hash, narSize, deriver, sigs, ca, ultimate, registrationTime";
    let mut statement = connection.prepare_cached(&format!("select {columns} from ValidPaths {which}"))?;
    let mut rows = statement.query(params)?;
    let mut paths = Vec::new();
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        match parse(row) {
            Ok(mut path) => match references(connection, id)? {
                Some(found) => {
                    path.references = found;
                    paths.push(path);
                }
                None => tracing::debug!(id, "a row of the Nix database is left out: wrong references"),
            },
            Err(reason) => tracing::debug!(id, reason, "a row of the Nix database is left out"),
        }
    }
    Ok(paths)
}

/// Everything but the references, or what is wrong with the row.
fn parse(row: &Row<'_>) -> Result<StoredPath, &'static str> {
    let text = |column| text_of(row, column);
    let store_path: StorePath = text(1).and_then(|path| path.parse().ok()).ok_or("no store path")?;
    if store_path.dir() != STORE_DIR {
        return Err("a path in another store directory");
    }
    let Some(Ok(Digest::Sha256(nar_hash))) = text(2).map(str::parse) else { return Err("no NAR hash") };
    let nar_size = row.get::<_, i64>(3).ok().and_then(|size| u64::try_from(size).ok());
    let nar_size = nar_size.filter(|size| (1..=MAX_BLOB_BYTES).contains(size)).ok_or("no NAR size")?;
    let signatures = text(5).unwrap_or_default().split_whitespace().filter_map(|sig| sig.parse().ok());
    Ok(StoredPath {
        id: row.get(0).map_err(|_| "no id")?,
        store_path,
        nar_hash,
        nar_size,
        references: Vec::new(),
        deriver: text(4).and_then(base_name).map(str::to_owned),
        signatures: signatures.take(MAX_NARINFO_SIGNATURES).collect(),
        ca: text(6).filter(|ca| !ca.is_empty() && !ca.contains(char::is_control)).map(str::to_owned),
        ultimate: row.get::<_, Option<bool>>(7).ok().flatten().unwrap_or(false),
        registered_s: row.get::<_, i64>(8).ok().and_then(|time| u64::try_from(time).ok()).unwrap_or(0),
    })
}

/// `None` when one of them is no store path: what is signed would not be what we say.
fn references(connection: &Connection, id: i64) -> rusqlite::Result<Option<Vec<String>>> {
    const SQL: &str =
        "select path from Refs join ValidPaths on reference = id where referrer = ?1 order by path";
    let mut statement = connection.prepare_cached(SQL)?;
    let mut rows = statement.query([id])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match text_of(row, 0).and_then(base_name) {
            Some(name) => found.push(name.to_owned()),
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

/// The text in a column; `None` for anything else that may be there.
fn text_of<'r>(row: &'r Row<'_>, column: usize) -> Option<&'r str> {
    match row.get_ref(column) {
        Ok(value @ ValueRef::Text(_)) => value.as_str().ok(),
        _ => None,
    }
}

/// `HASH-NAME` of a path in the store.
fn base_name(path: &str) -> Option<&str> {
    let name = path.strip_prefix(STORE_DIR)?.strip_prefix('/')?;
    split_base_name(name).is_ok().then_some(name)
}

/// The hash of a path in the store.
pub(super) fn hash_of(path: &str) -> Option<StoreHash> {
    let name = path.strip_prefix(STORE_DIR)?.strip_prefix('/')?;
    Some(split_base_name(name).ok()?.0)
}

//! The database in which Nix notes what is valid: read-only, beside Nix that writes it.
//!
//! Never opened as `immutable`, which would ignore the write-ahead log and with it what Nix has just registered. No
//! read transaction outlives a call, so that Nix can always truncate its log.

mod error;
mod row;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use p2p_cache_protocol::StoreHash;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, Params};

pub use self::error::DatabaseError;
pub use self::row::StoredPath;

/// The newest schema of Nix that is known here. It has been this one since 2016.
pub const MAX_SCHEMA: u32 = 10;
/// How long a look-up waits for a lock; Nix holds one for moments only.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections, each used by one thread at a time and with about 2 MiB of page cache.
const CONNECTIONS: usize = 2;
/// The store directory of every path, also where the files stand below another root.
pub(super) const STORE_DIR: &str = "/nix/store";

/// What is read of the two tables; what a newer Nix adds is its own affair.
const NEEDED: [(&str, &[&str]); 2] = [
    (
        "ValidPaths",
        &["id", "path", "hash", "registrationTime", "narSize", "deriver", "ultimate", "sigs", "ca"],
    ),
    ("Refs", &["referrer", "reference"]),
];

/// Some rows in the order of their ids, and the last id that was looked at.
pub(super) type Batch<T> = (Vec<T>, i64);

/// An open database. Everything here blocks, for as long as a read of the disk and at most half a second for a lock.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    connections: [Mutex<Connection>; CONNECTIONS],
    next: AtomicUsize,
    /// Device and inode of the file that was opened.
    identity: (u64, u64),
}

impl Database {
    /// Where the database of the store below `root` stands.
    #[must_use]
    pub fn path_below(root: &Path) -> PathBuf {
        root.join("nix/var/nix/db/db.sqlite")
    }

    /// Opens the database of the store below `root`.
    ///
    /// # Errors
    /// Each [`DatabaseError`] says what is wrong and what to do.
    pub fn open(root: &Path) -> Result<Self, DatabaseError> {
        let path = Self::path_below(root);
        let metadata = File::open(&path).and_then(|file| file.metadata()).map_err(|source| {
            let path = path.clone();
            match source.kind() {
                io::ErrorKind::NotFound => DatabaseError::Missing { path },
                _ => DatabaseError::Unreadable { path, source },
            }
        })?;
        if !metadata.is_file() {
            return Err(DatabaseError::Foreign { path, reason: "it is not a file".to_owned() });
        }
        check_schema(&path)?;
        let connections = [connect(&path)?, connect(&path)?].map(Mutex::new);
        let identity = (metadata.dev(), metadata.ino());
        let database = Self { path, connections, next: AtomicUsize::new(0), identity };
        database.check_tables()?;
        Ok(database)
    }

    /// Whether another file stands where the one that is open was.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        fs::metadata(&self.path).map_or(true, |found| (found.dev(), found.ino()) != self.identity)
    }

    /// A number that changes whenever another process has written something.
    ///
    /// # Errors
    /// When the database cannot be read any more.
    pub fn data_version(&self) -> Result<i64, DatabaseError> {
        // It is counted by connection, so that it is always asked of the same one.
        let connection = lock(&self.connections[0]);
        let version = connection.pragma_query_value(None, "data_version", |row| row.get(0));
        version.map_err(|source| self.failed("read the version", source))
    }

    /// The valid path with this hash.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn path_by_hash(&self, hash: StoreHash) -> Result<Option<StoredPath>, DatabaseError> {
        const WHICH: &str = "where path >= ?1 order by path limit 1";
        let first = format!("{STORE_DIR}/{hash}-");
        let found = self.rows("look up a path", WHICH, [first])?.into_iter().next();
        Ok(found.filter(|path| path.store_path.hash() == hash))
    }

    /// Up to `limit` paths with ids above `id`; `None` when there is none above. Rows that make no sense are left out.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn registered_after(
        &self,
        id: i64,
        limit: usize,
    ) -> Result<Option<Batch<StoredPath>>, DatabaseError> {
        const LAST: &str =
            "select max(id) from (select id from ValidPaths where id > ?1 order by id limit ?2)";
        const WHICH: &str = "where id > ?1 and id <= ?2 order by id";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let last: Option<i64> =
            self.query("list paths", LAST, |statement| statement.query_row([id, limit], |row| row.get(0)))?;
        let Some(last) = last else { return Ok(None) };
        Ok(Some((self.rows("list paths", WHICH, [id, last])?, last)))
    }

    /// Up to `limit` ids above `id`, each with the hash of its path; `None` when there is none above.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn valid_after(
        &self,
        id: i64,
        limit: usize,
    ) -> Result<Option<Batch<(i64, StoreHash)>>, DatabaseError> {
        const SQL: &str = "select id, path from ValidPaths where id > ?1 order by id limit ?2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.query("list ids", SQL, |statement| {
            let (mut found, mut last) = (Vec::new(), None);
            let mut rows = statement.query([id, limit])?;
            while let Some(row) = rows.next()? {
                let id = row.get(0)?;
                last = Some(id);
                found.extend(row.get_ref(1)?.as_str().ok().and_then(row::hash_of).map(|hash| (id, hash)));
            }
            Ok(last.map(|last| (found, last)))
        })
    }

    /// Whether the path that was registered under this id is still valid.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn is_valid(&self, id: i64, hash: StoreHash) -> Result<bool, DatabaseError> {
        const SQL: &str = "select path from ValidPaths where id = ?1";
        self.query("look up a path", SQL, |statement| {
            let mut rows = statement.query([id])?;
            let Some(row) = rows.next()? else { return Ok(false) };
            Ok(row.get_ref(0)?.as_str().ok().and_then(row::hash_of) == Some(hash))
        })
    }

    /// The highest id in use, 0 in an empty store, and how many paths are valid.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn extent(&self) -> Result<(i64, u64), DatabaseError> {
        const SQL: &str = "select coalesce(max(id), 0), count(*) from ValidPaths";
        let (last, count): (i64, i64) = self.query("count paths", SQL, |statement| {
            statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        })?;
        Ok((last, u64::try_from(count).unwrap_or(0)))
    }

    fn check_tables(&self) -> Result<(), DatabaseError> {
        const SQL: &str = "select name from pragma_table_info(?1)";
        for (table, columns) in NEEDED {
            let found: Vec<String> = self.query("read the schema", SQL, |statement| {
                statement.query_map([table], |row| row.get(0))?.collect()
            })?;
            if let Some(missing) = columns.iter().find(|column| !found.iter().any(|name| name == *column)) {
                let reason = format!("it has no table {table} with a column {missing}");
                return Err(DatabaseError::Foreign { path: self.path.clone(), reason });
            }
        }
        Ok(())
    }

    /// Paths with their references.
    fn rows(
        &self,
        action: &'static str,
        which: &str,
        params: impl Params,
    ) -> Result<Vec<StoredPath>, DatabaseError> {
        let connection = self.connection();
        row::read(&connection, which, params).map_err(|source| self.failed(action, source))
    }

    fn query<T>(
        &self,
        action: &'static str,
        sql: &str,
        work: impl FnOnce(&mut CachedStatement<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let connection = self.connection();
        let result = connection.prepare_cached(sql).and_then(|mut statement| work(&mut statement));
        result.map_err(|source| self.failed(action, source))
    }

    /// A connection that nobody uses, or else the one whose turn it is.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        for connection in &self.connections {
            match connection.try_lock() {
                Ok(free) => return free,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        lock(&self.connections[self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS])
    }

    fn failed(&self, action: &'static str, source: rusqlite::Error) -> DatabaseError {
        classify(&self.path, action, source)
    }
}

/// A panic elsewhere leaves no connection in a state that matters: statements are reset when they are dropped.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path) -> Result<Connection, DatabaseError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // The first read shows whether the file, and its log, can be used at all.
        connection.query_row("select count(*) from sqlite_master", [], |_| Ok(()))?;
        Ok(connection)
    });
    opened.map_err(|source| classify(path, "open the database", source))
}

fn classify(path: &Path, action: &'static str, source: rusqlite::Error) -> DatabaseError {
    let path = path.to_path_buf();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            DatabaseError::Busy { path, waited_ms: BUSY_TIMEOUT.as_millis() }
        }
        Some(ErrorCode::NotADatabase) => DatabaseError::Foreign { path, reason: source.to_string() },
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => DatabaseError::Log { path, source },
        Some(ErrorCode::PermissionDenied) => {
            DatabaseError::Unreadable { path, source: io::Error::other(source) }
        }
        _ => DatabaseError::Query { action, path, source },
    }
}

/// The file `schema` beside the database holds its number. Without it the tables must speak for themselves.
fn check_schema(database: &Path) -> Result<(), DatabaseError> {
    let path = database.with_file_name("schema");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(DatabaseError::Unreadable { path, source }),
    };
    let path = database.to_path_buf();
    match text.trim().parse() {
        Ok(schema) if schema > MAX_SCHEMA => Err(DatabaseError::Newer { path, schema }),
        Ok(_) => Ok(()),
        Err(_) => {
            let reason = "the file schema beside it holds no number".to_owned();
            Err(DatabaseError::Foreign { path, reason })
        }
    }
}

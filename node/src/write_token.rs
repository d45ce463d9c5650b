//! The file that the setting `write-token-file` names.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// More than any token file has.
const MAX_FILE_BYTES: u64 = 4096;

/// The token, without the line break at its end. Blocking.
///
/// # Errors
/// The disk's.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

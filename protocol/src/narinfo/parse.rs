//! Reading narinfos.

use super::{Compression, NarInfo, NarInfoError, url};
use crate::bytes_type::excerpt;
use crate::digest::{Digest, Sha256Digest};
use crate::limits::{MAX_BLOB_BYTES, MAX_NARINFO_BYTES, MAX_NARINFO_SIGNATURES, MAX_NARINFO_UNKNOWN_FIELDS};
use crate::signature::Signature;
use crate::store_path::{StorePath, StorePathError, split_base_name};

/// What Nix writes where it does not know the deriver.
const UNKNOWN_DERIVER: &str = "unknown-deriver";

/// The lines of a narinfo, before we know whether all that must be there is.
#[derive(Default)]
struct Fields<'t> {
    store_path: Option<&'t str>,
    url: Option<&'t str>,
    compression: Option<&'t str>,
    file_hash: Option<&'t str>,
    file_size: Option<&'t str>,
    nar_hash: Option<&'t str>,
    nar_size: Option<&'t str>,
    references: Option<&'t str>,
    deriver: Option<&'t str>,
    system: Option<&'t str>,
    ca: Option<&'t str>,
    signatures: Vec<Signature>,
    unknown: Vec<(String, String)>,
}

pub(super) fn parse(text: &str) -> Result<NarInfo, NarInfoError> {
    if text.len() > MAX_NARINFO_BYTES {
        return Err(NarInfoError::Length { length: text.len() });
    }
    let lines = text.strip_suffix('\n').ok_or(NarInfoError::Unfinished)?;
    let mut fields = Fields::default();
    for (index, line) in lines.split('\n').enumerate() {
        let (field, value) = split_line(line).ok_or(NarInfoError::Line { line: index + 1 })?;
        fields.add(field, value)?;
    }
    fields.finish()
}

fn split_line(line: &str) -> Option<(&str, &str)> {
    let (field, value) = line.split_once(':')?;
    let value = value.strip_prefix(' ').unwrap_or(value);
    let word = !field.is_empty() && !field.chars().any(char::is_whitespace);
    (word && !line.chars().any(char::is_control)).then_some((field, value))
}

impl<'t> Fields<'t> {
    fn add(&mut self, field: &str, value: &'t str) -> Result<(), NarInfoError> {
        match field {
            "StorePath" => once("StorePath", &mut self.store_path, value),
            "URL" => once("URL", &mut self.url, value),
            "Compression" => once("Compression", &mut self.compression, value),
            "FileHash" => once("FileHash", &mut self.file_hash, value),
            "FileSize" => once("FileSize", &mut self.file_size, value),
            "NarHash" => once("NarHash", &mut self.nar_hash, value),
            "NarSize" => once("NarSize", &mut self.nar_size, value),
            "References" => once("References", &mut self.references, value),
            "Deriver" => once("Deriver", &mut self.deriver, value),
            "System" => once("System", &mut self.system, value),
            "CA" => once("CA", &mut self.ca, value),
            "Sig" => {
                bounded("Sig", self.signatures.len(), MAX_NARINFO_SIGNATURES)?;
                self.signatures.push(value.parse()?);
                Ok(())
            }
            _ => {
                bounded("of unknown fields", self.unknown.len(), MAX_NARINFO_UNKNOWN_FIELDS)?;
                self.unknown.push((field.to_owned(), value.to_owned()));
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<NarInfo, NarInfoError> {
        let store_path: StorePath = required("StorePath", self.store_path)?
            .parse()
            .map_err(|source| wrong_path("StorePath", source))?;
        let nar_size = required("NarSize", self.nar_size)?;
        Ok(NarInfo {
            url: checked_url(required("URL", self.url)?)?,
            compression: compression(self.compression)?,
            file_hash: self.file_hash.map(file_hash).transpose()?.flatten(),
            // No compressed NAR is empty: a size of nothing means that the cache does not know.
            file_size: self.file_size.map(|v| number("FileSize", v)).transpose()?.filter(|size| *size > 0),
            nar_hash: nar_hash(required("NarHash", self.nar_hash)?)?,
            nar_size: match number("NarSize", nar_size)? {
                size @ 1..=MAX_BLOB_BYTES => size,
                0 => return Err(wrong("NarSize", nar_size, "a NAR is never empty")),
                _ => {
                    return Err(wrong(
                        "NarSize",
                        nar_size,
                        format!("blobs have at most {MAX_BLOB_BYTES} bytes"),
                    ));
                }
            },
            references: references(self.references.unwrap_or_default())?,
            deriver: self.deriver.map(deriver).transpose()?.flatten(),
            system: filled(self.system),
            signatures: self.signatures,
            ca: filled(self.ca),
            unknown: self.unknown,
            store_path,
        })
    }
}

fn once<'t>(field: &'static str, slot: &mut Option<&'t str>, value: &'t str) -> Result<(), NarInfoError> {
    if slot.replace(value).is_some() { Err(NarInfoError::Duplicate { field }) } else { Ok(()) }
}

fn bounded(field: &'static str, have: usize, most: usize) -> Result<(), NarInfoError> {
    if have >= most { Err(NarInfoError::TooMany { field }) } else { Ok(()) }
}

fn required<'t>(field: &'static str, value: Option<&'t str>) -> Result<&'t str, NarInfoError> {
    value.ok_or(NarInfoError::Missing { field })
}

fn filled(value: Option<&str>) -> Option<String> {
    value.filter(|value| !value.is_empty()).map(str::to_owned)
}

fn wrong(field: &'static str, value: &str, reason: impl ToString) -> NarInfoError {
    NarInfoError::Value { field, value: excerpt(value), reason: reason.to_string() }
}

fn wrong_path(field: &'static str, source: StorePathError) -> NarInfoError {
    NarInfoError::StorePath { field, source }
}

fn checked_url(value: &str) -> Result<String, NarInfoError> {
    match url::refusal(value) {
        Some(reason) => Err(wrong("URL", value, reason)),
        None => Ok(value.to_owned()),
    }
}

fn compression(value: Option<&str>) -> Result<Compression, NarInfoError> {
    match value.unwrap_or_default() {
        "" => Ok(Compression::Bzip2),
        name => name.parse().map_err(|error| wrong("Compression", name, error)),
    }
}

fn nar_hash(value: &str) -> Result<Sha256Digest, NarInfoError> {
    match value.parse() {
        Ok(Digest::Sha256(digest)) => Ok(digest),
        Ok(Digest::Blake3(_)) => Err(wrong("NarHash", value, "only SHA-256 can be signed")),
        Err(error) => Err(wrong("NarHash", value, error)),
    }
}

/// Nix never checks FileHash, so caches may use any algorithm there; we can use SHA-256 only.
fn file_hash(value: &str) -> Result<Option<Sha256Digest>, NarInfoError> {
    let foreign = ["md5", "sha1", "sha512", "blake3"].iter().any(|algorithm| {
        value.strip_prefix(algorithm).is_some_and(|rest| rest.starts_with(':') || rest.starts_with('-'))
    });
    if value.is_empty() || foreign {
        return Ok(None);
    }
    match value.parse() {
        Ok(Digest::Sha256(digest)) => Ok(Some(digest)),
        Ok(Digest::Blake3(_)) => Ok(None),
        Err(error) => Err(wrong("FileHash", value, error)),
    }
}

fn number(field: &'static str, value: &str) -> Result<u64, NarInfoError> {
    // `parse` alone would take a plus sign as well.
    let digits = value.bytes().all(|c| c.is_ascii_digit());
    value.parse().ok().filter(|_| digits).ok_or_else(|| wrong(field, value, "expected a number of bytes"))
}

fn references(value: &str) -> Result<Vec<String>, NarInfoError> {
    let names = value.split(' ').filter(|name| !name.is_empty());
    names.map(|name| base_name("References", name)).collect()
}

fn deriver(value: &str) -> Result<Option<String>, NarInfoError> {
    if value.is_empty() || value == UNKNOWN_DERIVER {
        return Ok(None);
    }
    base_name("Deriver", value).map(Some)
}

fn base_name(field: &'static str, name: &str) -> Result<String, NarInfoError> {
    split_base_name(name).map_err(|source| wrong_path(field, source))?;
    Ok(name.to_owned())
}

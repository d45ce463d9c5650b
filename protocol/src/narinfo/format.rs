//! Writing narinfos.

use std::fmt;

use super::NarInfo;

impl fmt::Display for NarInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "StorePath: {}", self.store_path)?;
        writeln!(f, "URL: {}", self.url)?;
        writeln!(f, "Compression: {}", self.compression)?;
        if let Some(hash) = &self.file_hash {
            writeln!(f, "FileHash: sha256:{}", hash.to_nix32())?;
        }
        if let Some(size) = self.file_size {
            writeln!(f, "FileSize: {size}")?;
        }
        writeln!(f, "NarHash: sha256:{}", self.nar_hash.to_nix32())?;
        writeln!(f, "NarSize: {}", self.nar_size)?;
        // Nix skips two characters after each field name, so the space stays when there are no references.
        writeln!(f, "References: {}", self.references.join(" "))?;
        for (field, value) in [("Deriver", &self.deriver), ("System", &self.system)] {
            if let Some(value) = value {
                writeln!(f, "{field}: {value}")?;
            }
        }
        for signature in &self.signatures {
            writeln!(f, "Sig: {signature}")?;
        }
        if let Some(ca) = &self.ca {
            writeln!(f, "CA: {ca}")?;
        }
        for (field, value) in &self.unknown {
            writeln!(f, "{field}: {value}")?;
        }
        Ok(())
    }
}

pub(super) fn fingerprint(info: &NarInfo) -> String {
    // Nix keeps references in a set ordered by base name, whatever the order in the file.
    let mut references: Vec<&str> = info.references.iter().map(String::as_str).collect();
    references.sort_unstable();
    references.dedup();
    let dir = info.store_path.dir();
    let mut text = format!("1;{};sha256:{};{};", info.store_path, info.nar_hash.to_nix32(), info.nar_size);
    for (index, reference) in references.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(dir);
        text.push('/');
        text.push_str(reference);
    }
    text
}

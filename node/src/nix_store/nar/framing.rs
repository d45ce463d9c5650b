//! What stands between the contents of a NAR.
//!
//! A NAR is a sequence of strings: length (64 bits, little endian), bytes, zeros up to a multiple of 8. In the order
//! in which they are packed, each entry of a tree is a header, its contents (of a file, or the target of a symlink),
//! the zeros behind them, and as many closing brackets as there are nodes that end here. All closing brackets look
//! the same, so where the next entry begins says how many they are.

/// What an entry of a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Executable,
    Symlink,
}

/// `)` as a string.
pub(super) const CLOSING: [u8; 16] = *b"\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0";

const MAGIC: &[u8] = b"nix-archive-1";

impl Kind {
    /// The strings from the opening bracket of a node to its contents.
    fn opening(self) -> &'static [&'static [u8]] {
        match self {
            Self::Directory => &[b"(", b"type", b"directory"],
            Self::File => &[b"(", b"type", b"regular", b"contents"],
            Self::Executable => &[b"(", b"type", b"regular", b"executable", b"", b"contents"],
            Self::Symlink => &[b"(", b"type", b"symlink", b"target"],
        }
    }

    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File => "file",
            Self::Executable => "executable file",
            Self::Symlink => "symlink",
        }
    }

    /// Whether a length, that of the contents, ends the header.
    pub(super) fn has_contents(self) -> bool {
        self != Self::Directory
    }
}

/// Replaces `out` with the header of an entry; the root has no name. `size` is the length of the contents.
pub(super) fn write_header(out: &mut Vec<u8>, name: Option<&[u8]>, kind: Kind, size: u64) {
    out.clear();
    match name {
        None => push(out, MAGIC),
        Some(name) => [b"entry", &b"("[..], b"name", name, b"node"].iter().for_each(|text| push(out, text)),
    }
    kind.opening().iter().for_each(|text| push(out, text));
    if kind.has_contents() {
        out.extend_from_slice(&size.to_le_bytes());
    }
}

/// The length of that header, with the length of the name instead of the name.
pub(super) fn header_bytes(name: Option<usize>, kind: Kind) -> u64 {
    let before = match name {
        None => string_bytes(MAGIC.len()),
        Some(name) => [5, 1, 4, name, 4].into_iter().map(string_bytes).sum(),
    };
    let opening: u64 = kind.opening().iter().map(|text| string_bytes(text.len())).sum();
    before + opening + if kind.has_contents() { 8 } else { 0 }
}

/// The closing brackets of one node: of the entry too, unless it is the root.
pub(super) fn closing_bytes(is_root: bool) -> u64 {
    CLOSING.len() as u64 * if is_root { 1 } else { 2 }
}

/// Fills `out` with what follows contents: `padding` zeros and then closing brackets, beginning `skip` bytes after the
/// contents.
pub(super) fn fill_tail(out: &mut [u8], padding: u64, skip: u64) {
    let zeros = padding.saturating_sub(skip).min(out.len() as u64) as usize;
    let (zeros, brackets) = out.split_at_mut(zeros);
    zeros.fill(0);
    let mut phase = (skip.saturating_sub(padding) % CLOSING.len() as u64) as usize;
    for byte in brackets {
        *byte = CLOSING[phase];
        phase = (phase + 1) % CLOSING.len();
    }
}

fn push(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
    // All that stands before it is a multiple of 8 bytes long.
    out.resize(out.len().next_multiple_of(8), 0);
}

fn string_bytes(length: usize) -> u64 {
    8 + length.next_multiple_of(8) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_as_long_as_announced() {
        let mut out = Vec::new();
        for kind in [Kind::Directory, Kind::File, Kind::Executable, Kind::Symlink] {
            for name in [None, Some(&b"a"[..]), Some(&[b'x'; 255])] {
                write_header(&mut out, name, kind, 7);
                assert_eq!(out.len() as u64, header_bytes(name.map(<[u8]>::len), kind), "{kind:?} {name:?}");
            }
        }
    }

    #[test]
    fn tail_is_the_same_from_wherever_it_is_read() {
        let mut whole = [1; 5 + 3 * 16];
        fill_tail(&mut whole, 5, 0);
        assert_eq!(whole[..5], [0; 5]);
        assert_eq!(whole[5..], [CLOSING; 3].concat());
        for skip in 0..whole.len() {
            let mut part = vec![1; whole.len() - skip];
            fill_tail(&mut part, 5, skip as u64);
            assert_eq!(part, whole[skip..], "from {skip}");
        }
    }
}

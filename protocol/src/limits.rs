//! Bounds of everything that is read, stored or sent. The unit is in the name.

/// Bytes of one chunk group, the smallest part of a blob that can be proved alone.
pub const GROUP_BYTES: u64 = 16 * 1024;

/// Smallest extent worth a request, in bytes; only the last extent of a blob may be shorter.
pub const MIN_EXTENT_BYTES: u64 = 256 * 1024;

/// Largest extent of one range request, in bytes of the blob.
pub const MAX_EXTENT_BYTES: u64 = 1024 * 1024;

/// [`MIN_EXTENT_BYTES`] in groups.
pub const MIN_EXTENT_GROUPS: u64 = MIN_EXTENT_BYTES / GROUP_BYTES;

/// [`MAX_EXTENT_BYTES`] in groups.
pub const MAX_EXTENT_GROUPS: u64 = MAX_EXTENT_BYTES / GROUP_BYTES;

/// Largest blob, in bytes (256 TiB). Sizes above it are refused on decode, which keeps all offset arithmetic
/// far from overflow.
pub const MAX_BLOB_BYTES: u64 = 1 << 48;

/// Most bytes that an encoded extent can have: its data, the hash pairs between its groups, and two paths of
/// hash pairs down from the root of the largest tree.
pub const MAX_ENCODED_EXTENT_BYTES: u64 = MAX_EXTENT_BYTES + (MAX_EXTENT_GROUPS + 2 * 64) * 64;

/// Largest frame, in bytes, without its length prefix.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;

/// Largest narinfo text, in bytes. Leaves room in a frame for what stands around it.
pub const MAX_NARINFO_BYTES: usize = 255 * 1024;

/// Most `Sig` lines in a narinfo. Bounds the cost of looking for one that verifies.
pub const MAX_NARINFO_SIGNATURES: usize = 64;

/// Most lines in a narinfo whose field name is not known to us.
pub const MAX_NARINFO_UNKNOWN_FIELDS: usize = 64;

/// Longest text of a signature or of a key, in bytes.
pub const MAX_KEY_TEXT_BYTES: usize = 1024;

/// Longest store directory (`/nix/store`), in bytes.
pub const MAX_STORE_DIR_BYTES: usize = 255;

/// Longest name after the hash of a store path, in bytes; the limit that Nix itself sets.
pub const MAX_STORE_NAME_BYTES: usize = 211;

/// Most runs of groups in one message about a blob that is not whole: enough for 16 GiB in which every other extent is
/// missing, and small enough for a frame.
pub const MAX_RUNS: usize = 8 * 1024;

/// Largest piece of a blob that is streamed while it arrives, in bytes.
pub const MAX_ARRIVING_CHUNK_BYTES: usize = 256 * 1024;

/// Longest `agent` of a hello message, in bytes.
pub const MAX_AGENT_BYTES: usize = 64;

const _: () = assert!(MAX_NARINFO_BYTES + 64 <= MAX_FRAME_BYTES);
const _: () = assert!(MAX_ENCODED_EXTENT_BYTES <= u32::MAX as u64);

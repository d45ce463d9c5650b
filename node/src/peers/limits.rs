//! The bounds of the peer wire, each with its unit and its reason. Sizes of messages and extents are the
//! protocol's; these are the ones that only a running node needs.

use std::time::Duration;

/// Both sides' first frame must have arrived within this.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A `Hello` is two numbers and at most 64 bytes of text: nothing longer is read.
pub const MAX_HELLO_FRAME_BYTES: usize = 256;
/// Requests are a tag, a digest and a few numbers: nothing longer is read.
pub const MAX_REQUEST_FRAME_BYTES: usize = 256;
/// From the first byte of a frame to its last, and for writing one frame.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer has this long to be dialled and to accept a substream.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(6);
/// A look-up or narinfo is answered within this, opening a substream included.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// At least [`MIN_PROGRESS_BYTES`] of a range must arrive in every period of this length.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(5);
/// What counts as progress: one chunk group. Together with [`PROGRESS_TIMEOUT`] the slowest tolerated rate.
pub const MIN_PROGRESS_BYTES: usize = 16 * 1024;
/// Data substreams opened to one peer; a second one hides the disk time of the first.
pub const DATA_STREAMS_PER_PEER: usize = 2;
/// Requests that may wait in front of one substream of a client; further callers wait outside.
pub const MAX_QUEUED_REQUESTS: usize = 64;
/// Requests on the wire of one substream without an answer yet.
pub const MAX_UNANSWERED_REQUESTS: usize = 64;
/// When nobody waits for the answers any more, a substream that would have to drain more than this is reset.
pub const MAX_DRAIN_BYTES: u64 = 2 * 1024 * 1024;
/// A client closes a substream that was not used for this long; shorter than the server's [`SERVER_IDLE_TIMEOUT`],
/// so that it is the client who closes and no request meets a substream that is being closed.
pub const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Peers with which substreams are kept; the least recently used is forgotten first.
pub const MAX_CLIENT_PEERS: usize = 256;
/// Read buffer of a client's substream; bodies go past it.
pub const CLIENT_READ_BUFFER_BYTES: usize = 16 * 1024;

/// A server closes a substream on which no request arrives for this long.
pub const SERVER_IDLE_TIMEOUT: Duration = Duration::from_secs(180);
/// Every chunk of a body must be taken by the reader within this.
pub const WRITE_PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that one body may spend waiting for its reader, pacing not counted; a slower reader gives up its slot.
pub const MAX_BODY_WRITE: Duration = Duration::from_secs(60);
/// Read buffer of a server's substream: requests are small.
pub const SERVER_READ_BUFFER_BYTES: usize = 2 * 1024;
/// Bytes handed to the transport at once when the upload rate is limited.
pub const MAX_CHUNK_BYTES: usize = 64 * 1024;
/// Pacing granularity: the limiter counts in units of this size.
pub const PACING_UNIT_BYTES: u64 = 1024;
/// A limited upload rate is spent in portions of this much time, so that traffic is smooth.
pub const PACING_PORTION: Duration = Duration::from_millis(20);
/// With a limited upload rate there are no more slots than leave each of them this much, well above what a
/// client takes for a stall.
pub const MIN_BYTES_PER_SECOND_PER_SLOT: u64 = 16 * 1024;
/// A range request waits this long for a slot before it is answered with `Busy`.
pub const SLOT_WAIT: Duration = Duration::from_millis(200);
/// What `Busy` tells the other side.
pub const BUSY_RETRY_AFTER: Duration = Duration::from_millis(250);
/// `NotFound` is never sent sooner than this after its request was read, so that the time does not tell
/// "not held" from "not shared".
pub const MISS_FLOOR: Duration = Duration::from_micros(400);
/// A refusal for which origins were asked is sent at a multiple of this after its request was read.
pub const REFUSAL_GRID: Duration = Duration::from_millis(4);
/// Replies of one substream that wait for the line; the next request is read when there is room.
pub const MAX_QUEUED_REPLIES: usize = 16;
/// Bodies of one peer in memory at once: one on the line and one behind it on each of its data substreams.
pub const MAX_BODIES_PER_PEER: usize = 2 * DATA_STREAMS_PER_PEER;
/// Substreams served for one peer: a client uses four, and one for each blob that it follows or watches.
pub const MAX_STREAMS_PER_PEER: usize = 32;
/// Substreams served in total; each costs a task and a few KiB.
pub const MAX_STREAMS: usize = 1024;
/// Peers whose request and miss rates are remembered.
pub const MAX_METERED_PEERS: usize = 1024;
/// Networks whose miss rates are remembered, about 200 bytes each.
pub const MAX_METERED_NETWORKS: usize = 4096;
/// Blobs that one peer was told of, which it may read on while its look-ups are muted.
pub const MAX_GRANTED_BLOBS_PER_PEER: usize = 256;
/// Signed claims kept ready, about 200 bytes each.
pub const MAX_CACHED_CLAIMS: usize = 4096;
/// How long a ban lasts.
pub const BAN_DURATION: Duration = Duration::from_secs(60 * 60);
/// Bans remembered, so that a peer is counted once while it is banned.
pub const MAX_REMEMBERED_BANS: usize = 1024;

/// A leader that has not begun to answer within this is passed over.
pub const LEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// A leader that sends nothing of a blob for this long is passed over.
pub const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(4);

/// A node that waits for bytes of a blob itself says so this often to those that follow it.
pub const ARRIVAL_HEARTBEAT: Duration = Duration::from_secs(1);

/// One that says nothing else for this long is passed over all the same.
pub const ARRIVAL_PATIENCE: Duration = Duration::from_secs(10);

/// Things done at once on behalf of one peer: narinfos asked of the origins, blobs streamed while they arrive.
pub const MAX_LED_PER_PEER: usize = 16;

/// The same for all peers together. Each blob costs a read buffer and, at worst, a transfer.
pub const MAX_LED: usize = 64;

/// News of what has arrived are sent to a peer at most this often.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// Bytes written at once where there is no rate: any body, with its head.
pub const UNLIMITED_CHUNK_BYTES: usize = 2 * 1024 * 1024;
/// Buffers of bodies, of about 1 MiB each, that are kept to be used again: by the server, and by the client.
pub const MAX_SPARE_BODIES: usize = 4;

//! What the scheduler is told and what it answers.
//!
//! The driver reports events as they happen and runs every action it gets back, in order. It needs no state of its
//! own but a table from [`SourceId`] to the connection behind it.

use std::fmt;
use std::time::Duration;

use super::groups::{GroupRange, GroupSet};

/// A source of one fetch. The driver numbers them; an id is never given to another source of the same fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A reader of the blob while it is being fetched. The driver numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u32);

/// Which groups a peer holds.
#[derive(Debug, Clone)]
pub enum Holdings {
    /// All of the blob.
    Complete,
    /// These groups, of a set made for the same number of groups; one of another length counts as empty.
    Partial(GroupSet),
}

/// What a source is and what is known of it beforehand.
#[derive(Debug, Clone)]
pub enum SourceKind {
    /// A node that yields verified extents in any order.
    Peer {
        /// What it holds.
        holdings: Holdings,
        /// Round trip measured by the connection, if any.
        rtt: Option<Duration>,
        /// The network that it speaks from, as an opaque key (a hash of its /24 or /48, say). Peers with the same key
        /// share the penalties for what one of them does. `None` (a LAN) shares nothing.
        prefix: Option<u64>,
    },
    /// A central upstream: one stream of bytes, unverified until the whole is hashed. It waits until
    /// [`Action::StartOrigin`]. The one expected to be done first is started; of equal ones the one added first.
    Origin {
        /// True when the stream can start anywhere (an uncompressed body with `Range`); false when it always starts
        /// at byte 0.
        ranged: bool,
        /// Bytes per second of the blob (after decompression) seen from this origin lately.
        expected_bytes_per_second: Option<f64>,
        /// Time to the first byte seen from this origin lately.
        expected_first_byte: Option<Duration>,
        /// True for a node of the site that passes on a stream which it is fetching itself. It is asked before any
        /// origin, and left for one when it is silent or far too slow.
        relay: bool,
    },
}

/// How an answer came in, as seen by the connection that carried it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the request to the first byte of its answer, the time behind earlier answers included.
    pub first_byte: Duration,
    /// From the first byte to the last. Zero when they came in one piece: that says nothing of the rate.
    pub receiving: Duration,
}

/// How far the search for sources has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LookupPhase {
    /// Connected peers are being asked; the origin waits for them, for a short time only. A fetch starts here.
    Near,
    /// They have answered; the wide area is being searched. The origin no longer waits.
    Wide,
    /// No more sources will come of it. Only now can the fetch fail.
    Finished,
}

/// Why an extent was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing came for too long. (The scheduler keeps its own time as well; the driver need not.)
    Stalled,
    /// The bytes do not fit the hash tree: the peer lies or its disk does. Groups before the bad one, if they were
    /// stored, are reported by [`Event::Present`] first.
    Corrupt,
    /// Connection or stream broke, or the peer broke the protocol.
    Closed,
    /// The peer does not have this extent.
    NotHeld,
    /// The peer is at its limit and asks to be left alone for a while.
    Busy {
        /// The pause it asked for; bounded by the settings.
        retry_after: Duration,
    },
}

/// What happened. Every order of events is legal: late ones about sources that are gone, unknown ids and duplicates
/// change nothing but the groups that are reported present.
#[derive(Debug, Clone)]
pub enum Event {
    /// A source was found. A known id is updated (holdings, round trip). One that may not come in (banned, or too
    /// many) is answered with [`Action::DropSource`].
    SourceAdded {
        /// Its id.
        source: SourceId,
        /// What it is.
        kind: SourceKind,
    },
    /// A peer holds more, or less, than it said.
    HoldingsChanged {
        /// The peer.
        source: SourceId,
        /// All that it holds now.
        holdings: Holdings,
    },
    /// A source is gone: disconnected, banned elsewhere. Its open requests are forgotten; the driver reports nothing
    /// more about them and gets no action for this source any more, unless it is added again.
    SourceGone {
        /// The source.
        source: SourceId,
    },
    /// A request was answered, and all of its groups are verified and stored.
    ExtentDone {
        /// Who answered.
        source: SourceId,
        /// The extent, as it was requested.
        extent: GroupRange,
        /// What the connection measured, if it did. Without it the scheduler judges by the times of the events, which
        /// count round trip, verification and disk as well.
        timing: Option<Timing>,
    },
    /// A request failed. Not to be reported after [`Action::Cancel`] of the same request (harmless if it is).
    ExtentFailed {
        /// Whose request.
        source: SourceId,
        /// The extent, as it was requested.
        extent: GroupRange,
        /// Why.
        fault: Fault,
    },
    /// The stream of a running origin has been stored up to this byte of the blob. Every 100 KiB or so is often
    /// enough; the last one at the end of the blob.
    OriginAt {
        /// The origin.
        source: SourceId,
        /// Where this stream began: as in [`Action::StartOrigin`]. Tells the reports of a stream that was stopped
        /// from those of the next one.
        from_byte: u64,
        /// The first byte of the blob after `from_byte` that is not stored yet. The same again is a sign of life: a
        /// relay that waits for bytes itself is not left for being silent.
        offset_bytes: u64,
    },
    /// The stream of an origin ended. Not to be reported after [`Action::StopOrigin`] (harmless if it is).
    OriginEnded {
        /// The origin.
        source: SourceId,
        /// Where this stream began.
        from_byte: u64,
        /// True: it came to the end of the blob and all of it is stored. False: it failed, this origin will not be
        /// started again. The next one is a new source.
        ok: bool,
    },
    /// The driver has stopped the stream of an origin for a reason of its own, and will start it again when told to.
    OriginLeft {
        /// The origin.
        source: SourceId,
    },
    /// A reader waits for the bytes from this offset on. Report the start, then every 256 KiB or so.
    ReaderAt {
        /// The reader.
        reader: ReaderId,
        /// The next byte it wants.
        offset_bytes: u64,
    },
    /// A reader is gone.
    ReaderGone {
        /// The reader.
        reader: ReaderId,
    },
    /// Groups are present by other means: resumed from disk, or the good head of a corrupt extent.
    Present {
        /// These.
        groups: GroupRange,
    },
    /// The look-up has come this far. It may go back (a new look-up began).
    Lookup(LookupPhase),
    /// The time of the last [`Action::WakeAt`] has come. Harmless at any other time.
    Tick,
}

/// What the driver has to do. In the order given.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask a peer for an extent: at most 64 groups, never across a multiple of 64 groups. Answer with
    /// [`Event::ExtentDone`] or [`Event::ExtentFailed`].
    Request {
        /// The peer.
        source: SourceId,
        /// The groups.
        extent: GroupRange,
    },
    /// The answer to this request is not wanted any more.
    Cancel {
        /// The peer.
        source: SourceId,
        /// The extent, as it was requested.
        extent: GroupRange,
    },
    /// Open the stream of an origin, and report [`Event::OriginAt`] and [`Event::OriginEnded`].
    StartOrigin {
        /// The origin.
        source: SourceId,
        /// Where the stream is to start; 0 unless the origin is ranged. A multiple of the group size.
        from_byte: u64,
    },
    /// Close the stream of an origin. It may be started again.
    StopOrigin {
        /// The origin.
        source: SourceId,
    },
    /// This source is of no more use for this fetch; its requests are cancelled with it.
    DropSource {
        /// The source.
        source: SourceId,
        /// Why, for the log.
        reason: DropReason,
    },
    /// This source lied; its requests are cancelled with it. Ban the peer everywhere.
    BanSource {
        /// The source.
        source: SourceId,
    },
    /// Report [`Event::Tick`] at this time. Replaces the earlier one.
    WakeAt(Duration),
    /// All groups are present. Nothing follows.
    Complete,
    /// The fetch cannot go on. Nothing follows.
    Failed(FailReason),
}

/// Why a source was let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Too many closed or stalled requests in a row.
    Faults,
    /// It denied what it had said to hold, again and again.
    NotHeld,
    /// It was busy each time it was asked.
    Busy,
    /// It holds nothing that is missing, and nothing else has happened for long.
    Idle,
    /// There are enough sources, or enough that speak from the same network.
    TooMany,
    /// It was banned before.
    Banned,
    /// The origin's stream failed.
    OriginFailed,
}

/// Why a fetch cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailReason {
    /// The look-up finished and there was never a source.
    NoSource,
    /// The look-up finished and every source failed or left.
    SourcesLost,
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSource => "no peer holds it and there is no origin to ask",
            Self::SourcesLost => "every peer and origin that had it failed or left",
        })
    }
}

//! A peer: it answers its requests in order, at the rate of its uplink, until its fate strikes.

use std::collections::VecDeque;
use std::time::Duration;

use p2p_cache_protocol::GroupRange;
use rand::Rng;
use rand::rngs::StdRng;

use super::{PIECE_BYTES, Piece};
use crate::scenario::{Fate, PeerSpec};

/// An answer that is being sent or waits for its turn.
#[derive(Debug)]
struct Answer {
    extent: GroupRange,
    left_bytes: u64,
    corrupt: bool,
}

#[derive(Debug)]
pub(super) struct PeerActor {
    pub(super) spec: PeerSpec,
    answers: VecDeque<Answer>,
    bytes_per_second: f64,
    sending: bool,
    speaks: bool,
}

impl PeerActor {
    pub(super) fn new(spec: PeerSpec) -> Self {
        let bytes_per_second = spec.bytes_per_second;
        Self { spec, answers: VecDeque::new(), bytes_per_second, sending: false, speaks: true }
    }

    /// A request has come.
    pub(super) fn asked(&mut self, extent: GroupRange, bytes: u64, random: &mut StdRng) {
        if !self.speaks {
            return;
        }
        let corrupt = match self.spec.fate {
            Fate::Lies { share } => random.random_bool(share),
            Fate::Steady | Fate::Dies { .. } | Fate::FallsSilent { .. } | Fate::Slows { .. } => false,
        };
        self.answers.push_back(Answer { extent, left_bytes: bytes, corrupt });
    }

    /// Begins the next piece, unless one is on its way already or there is none; how long it takes.
    pub(super) fn start_sending(&mut self, random: &mut StdRng) -> Option<Duration> {
        let answer = self.answers.front().filter(|_| self.speaks && !self.sending)?;
        self.sending = true;
        let bytes = answer.left_bytes.min(PIECE_BYTES) as f64;
        // Uplinks are not metronomes; the mean is the rate.
        Some(Duration::from_secs_f64(bytes / self.bytes_per_second * random.random_range(0.9..1.1)))
    }

    /// The piece that was begun is out.
    pub(super) fn sent(&mut self) -> Option<Piece> {
        self.sending = false;
        let answer = self.answers.front_mut().filter(|_| self.speaks)?;
        let bytes = answer.left_bytes.min(PIECE_BYTES);
        answer.left_bytes -= bytes;
        let last = answer.left_bytes == 0;
        let piece = Piece { extent: answer.extent, bytes, last, corrupt: answer.corrupt };
        if last {
            self.answers.pop_front();
        }
        Some(piece)
    }

    /// Its fate strikes. True when its connection closes by it.
    pub(super) fn strike(&mut self) -> bool {
        match self.spec.fate {
            Fate::Dies { .. } => {
                self.hang_up();
                true
            }
            Fate::FallsSilent { .. } => {
                self.hang_up();
                false
            }
            Fate::Slows { to_bytes_per_second, .. } => {
                self.bytes_per_second = to_bytes_per_second;
                false
            }
            Fate::Steady | Fate::Lies { .. } => false,
        }
    }

    /// Nothing more comes from it.
    pub(super) fn hang_up(&mut self) {
        self.speaks = false;
        self.answers.clear();
    }
}

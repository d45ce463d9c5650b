//! The substreams to one peer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use p2p_cache_discovery::PeerId;

use super::super::error::PeerError;
use super::super::limits::{DATA_STREAMS_PER_PEER, LEADER_TIMEOUT, LOOKUP_TIMEOUT, PROGRESS_TIMEOUT};
use super::super::tasks::TaskGroup;
use super::super::transport::Dialer;
use super::Shortest;
use super::link::Link;
use crate::buffers::BufferPool;

/// What a substream is used for: short answers never wait behind bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Control,
    /// Answers that a peer has to ask its origins for.
    Resolve,
    Data,
}

impl Lane {
    /// How long the answer at the head of the line may take to begin.
    pub(super) fn answer_timeout(self) -> Duration {
        match self {
            Lane::Control => LOOKUP_TIMEOUT,
            Lane::Resolve => LEADER_TIMEOUT,
            Lane::Data => PROGRESS_TIMEOUT,
        }
    }
}

/// One substream for each kind of short answer and up to [`DATA_STREAMS_PER_PEER`] for data, opened when they are first needed.
pub(super) struct PeerLinks {
    peer: PeerId,
    open: Mutex<Open>,
    first_byte: Arc<Shortest>,
    buffers: Arc<BufferPool>,
}

#[derive(Default)]
struct Open {
    control: Option<Link>,
    resolve: Option<Link>,
    data: Vec<Link>,
}

impl PeerLinks {
    pub(super) fn new(peer: PeerId, buffers: Arc<BufferPool>) -> Self {
        Self { peer, open: Mutex::default(), first_byte: Arc::default(), buffers }
    }

    pub(super) fn first_byte(&self) -> &Shortest {
        &self.first_byte
    }

    /// The substream for the next request: an open one, or a new one when there is none or all are at work.
    pub(super) fn link(
        &self,
        lane: Lane,
        dialer: &Arc<dyn Dialer>,
        tasks: &TaskGroup,
    ) -> Result<Link, PeerError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match lane {
            Lane::Control => self.only(&mut open.control, lane, dialer, tasks),
            Lane::Resolve => self.only(&mut open.resolve, lane, dialer, tasks),
            Lane::Data => {
                open.data.retain(|link| !link.is_spent());
                let idlest = open.data.iter().min_by_key(|link| link.outstanding_bytes());
                match idlest {
                    Some(link)
                        if link.outstanding_bytes() == 0 || open.data.len() >= DATA_STREAMS_PER_PEER =>
                    {
                        Ok(link.clone())
                    }
                    Some(_) | None => {
                        let link = self.start(lane, dialer, tasks)?;
                        open.data.push(link.clone());
                        Ok(link)
                    }
                }
            }
        }
    }

    /// The one substream of a lane, opened again when it is gone.
    fn only(
        &self,
        place: &mut Option<Link>,
        lane: Lane,
        dialer: &Arc<dyn Dialer>,
        tasks: &TaskGroup,
    ) -> Result<Link, PeerError> {
        if let Some(link) = place.as_ref().filter(|link| !link.is_spent()) {
            return Ok(link.clone());
        }
        let link = self.start(lane, dialer, tasks)?;
        *place = Some(link.clone());
        Ok(link)
    }

    fn start(&self, lane: Lane, dialer: &Arc<dyn Dialer>, tasks: &TaskGroup) -> Result<Link, PeerError> {
        let (first_byte, buffers) = (Arc::clone(&self.first_byte), Arc::clone(&self.buffers));
        let (link, task) =
            Link::new(self.peer, Arc::clone(dialer), first_byte, lane.answer_timeout(), buffers);
        tasks.spawn(task).map_err(|_| PeerError::NoRoom { peer: self.peer })?;
        Ok(link)
    }
}

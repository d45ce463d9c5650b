//! A TLS stream over rustls' unbuffered interface: records are decrypted where the socket put them, and encrypted into
//! the buffer that the socket takes them from. The buffered interface reads 4 KiB at a time and moves every byte
//! several times more.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use rustls::{
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use super::room::{MAX_RECORD_BYTES, Room};

/// Plaintext of the largest record.
const FRAGMENT_BYTES: usize = 16 * 1024;
/// What a record adds to its plaintext: header, type and tag. Room for one that adds more is found out by rustls.
const RECORD_OVERHEAD_BYTES: usize = 5 + 1 + 16;
/// Encrypted bytes that may wait for the socket; one system call takes them all.
const MAX_OUTGOING_BYTES: usize = 128 * 1024;
/// Plaintext that is encrypted before the socket is tried.
const WRITE_BYTES: usize = 64 * 1024;

/// One side of a connection. What rustls has a type for each of, with equal methods.
pub(crate) trait Session {
    type Side;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Side>;
}

impl Session for UnbufferedClientConnection {
    type Side = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Side> {
        self.process_tls_records(incoming)
    }
}

impl Session for UnbufferedServerConnection {
    type Side = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Side> {
        self.process_tls_records(incoming)
    }
}

/// What is wanted of the session once it has nothing else to do.
enum Want<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    CloseNotify,
}

/// Where the session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Plaintext was read.
    Read,
    /// Everything that had arrived is processed; what was wanted is done.
    Open,
    /// The handshake needs more from the peer.
    Handshaking,
    /// The peer has closed its side in order.
    Ended,
}

/// The encrypted stream.
pub(crate) struct Records<S, C> {
    socket: S,
    session: C,
    incoming: Room,
    outgoing: Room,
    /// Plaintext that the last reader had no room for. At most what `incoming` held: the socket is read only when this
    /// is empty.
    surplus: Room,
    ended: bool,
    close_notified: bool,
}

impl<S, C: Session> Records<S, C> {
    fn new(socket: S, session: C) -> Self {
        let (incoming, outgoing, surplus) = (Room::default(), Room::default(), Room::default());
        Self { socket, session, incoming, outgoing, surplus, ended: false, close_notified: false }
    }

    pub(super) fn session(&self) -> &C {
        &self.session
    }

    /// Lets the session work on what has arrived until it has plaintext, or does what is wanted. Plaintext goes `into`
    /// the reader's buffer, the rest of a record to the surplus; the number says how much the reader got.
    fn advance(&mut self, into: &mut [u8], want: &Want<'_>) -> io::Result<(State, usize)> {
        loop {
            let UnbufferedStatus { discard, state, .. } = self.session.process(self.incoming.filled_mut());
            let mut read = 0;
            let state = match state.map_err(invalid)? {
                ConnectionState::EncodeTlsData(mut data) => {
                    self.outgoing.append(FRAGMENT_BYTES, |room| match data.encode(room) {
                        Ok(written) => Ok(Ok(written)),
                        Err(EncodeError::InsufficientSize(size)) => Ok(Err(size.required_size)),
                        Err(error) => Err(invalid(error)),
                    })?;
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    // It stands in `outgoing`, in its order.
                    data.done();
                    None
                }
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let payload = record.map_err(invalid)?.payload;
                        let fits = payload.len().min(into.len() - read);
                        let (now, later) = payload.split_at(fits);
                        into[read..read + fits].copy_from_slice(now);
                        read += fits;
                        self.surplus.extend(later);
                    }
                    Some(State::Read)
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    let encrypted = |result| match result {
                        Ok(written) => Ok(Ok(written)),
                        Err(EncryptError::InsufficientSize(size)) => Ok(Err(size.required_size)),
                        Err(error @ EncryptError::EncryptExhausted) => Err(invalid(error)),
                    };
                    match *want {
                        Want::Nothing => {}
                        Want::Encrypt(plain) => {
                            let records = plain.len().div_ceil(FRAGMENT_BYTES);
                            let room = plain.len() + records * RECORD_OVERHEAD_BYTES;
                            self.outgoing.append(room, |room| encrypted(traffic.encrypt(plain, room)))?;
                        }
                        Want::CloseNotify => {
                            self.outgoing.append(MAX_RECORD_BYTES, |room| {
                                encrypted(traffic.queue_close_notify(room))
                            })?;
                        }
                    }
                    Some(State::Open)
                }
                ConnectionState::BlockedHandshake => Some(State::Handshaking),
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    self.ended = true;
                    Some(State::Ended)
                }
                // 0-RTT is off, and no other state is known.
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown state of TLS")),
            };
            self.incoming.consume(discard);
            if let Some(state) = state {
                return Ok((state, read));
            }
        }
    }

    /// Makes the session do what is wanted; plaintext that is found on the way waits for the reader.
    fn demand(&mut self, want: &Want<'_>) -> io::Result<()> {
        loop {
            match self.advance(&mut [], want)?.0 {
                State::Read => {}
                State::Open => return Ok(()),
                State::Ended if matches!(want, Want::CloseNotify) => return Ok(()),
                // What the peer has closed is its own side; the next state says whether ours is open.
                State::Ended if !self.close_notified => {}
                State::Ended => return Err(io::ErrorKind::BrokenPipe.into()),
                State::Handshaking => return Err(io::ErrorKind::NotConnected.into()),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, C: Session> Records<S, C> {
    /// Shakes hands to the end.
    pub(super) async fn establish(socket: S, session: C) -> io::Result<Self> {
        let mut records = Self::new(socket, session);
        let result = std::future::poll_fn(|cx| records.poll_handshake(cx)).await;
        if result.is_err() {
            // The peer may learn why, if there is room for it at once.
            let _ = records.advance(&mut [], &Want::Nothing);
            std::future::poll_fn(|cx| Poll::Ready(records.poll_drain(cx).is_ready())).await;
        }
        result.map(|()| records)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.advance(&mut [], &Want::Nothing)?.0 {
                State::Read => {}
                State::Open => {
                    ready!(self.poll_drain(cx))?;
                    return Pin::new(&mut self.socket).poll_flush(cx);
                }
                State::Handshaking => {
                    ready!(self.poll_drain(cx))?;
                    ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
                    if ready!(self.poll_fill(cx))? == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                State::Ended => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    /// Reads the socket once.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.incoming.room_for_reading();
        if room.is_empty() {
            // Out of reach: no record is longer than the smallest buffer.
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a record without an end")));
        }
        let read = ready!(Pin::new(&mut self.socket).poll_read(cx, room))?;
        self.incoming.was_read(read);
        Poll::Ready(Ok(read))
    }

    /// Writes out all that is encrypted.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.filled().is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, self.outgoing.filled()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.consume(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Room for more, or the socket's answer why there is none.
    fn poll_ready_to_encrypt(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.close_notified {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.outgoing.filled().len() >= MAX_OUTGOING_BYTES {
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Tries the socket, which is asked again at the next write or flush if it is busy now.
    fn try_drain(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, C: Session + Unpin> AsyncRead for Records<S, C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if into.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut got = this.surplus.take(into);
        loop {
            // All records that have arrived, as far as there is room.
            while got < into.len() && this.surplus.filled().is_empty() && !this.ended {
                let (state, read) = this.advance(&mut into[got..], &Want::Nothing)?;
                got += read;
                if state != State::Read {
                    break;
                }
            }
            if got > 0 || this.ended {
                return Poll::Ready(Ok(got));
            }
            // The session may have had something to say, to a key update for one.
            this.try_drain(cx)?;
            if ready!(this.poll_fill(cx))? == 0 {
                // Not closed but cut.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, C: Session + Unpin> AsyncWrite for Records<S, C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_ready_to_encrypt(cx))?;
        let plain = &bytes[..bytes.len().min(WRITE_BYTES)];
        if !plain.is_empty() {
            this.demand(&Want::Encrypt(plain))?;
            this.try_drain(cx)?;
        }
        Poll::Ready(Ok(plain.len()))
    }

    /// As if the slices were one: a short first one shares its record with what follows.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let [first, second] = slices else {
            let only = slices.iter().find(|slice| !slice.is_empty());
            return Pin::new(this).poll_write(cx, only.map_or(&[], |slice| slice));
        };
        if first.len() >= FRAGMENT_BYTES || second.is_empty() {
            return Pin::new(this).poll_write(cx, first);
        }
        ready!(this.poll_ready_to_encrypt(cx))?;
        let mut joined = [0; FRAGMENT_BYTES];
        let of_second = second.len().min(FRAGMENT_BYTES - first.len());
        let length = first.len() + of_second;
        joined[..first.len()].copy_from_slice(first);
        joined[first.len()..length].copy_from_slice(&second[..of_second]);
        this.demand(&Want::Encrypt(&joined[..length]))?;
        let rest = &second[of_second..];
        let rest = &rest[..rest.len().min(WRITE_BYTES - FRAGMENT_BYTES)];
        if !rest.is_empty() {
            this.demand(&Want::Encrypt(rest))?;
        }
        this.try_drain(cx)?;
        Poll::Ready(Ok(length + rest.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.close_notified {
            this.demand(&Want::CloseNotify)?;
            this.close_notified = true;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_close(cx)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

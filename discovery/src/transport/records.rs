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
    CommonState,
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

    /// Whether it has something to send: then [`Session::process`] gives that before it looks at what came in.
    fn wants_write(&self) -> bool;
}

impl Session for UnbufferedClientConnection {
    type Side = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Side> {
        self.process_tls_records(incoming)
    }

    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

impl Session for UnbufferedServerConnection {
    type Side = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Side> {
        self.process_tls_records(incoming)
    }

    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
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
    /// The session must not be asked to look at anything again.
    failed: bool,
}

impl<S, C: Session> Records<S, C> {
    fn new(socket: S, session: C) -> Self {
        let (incoming, outgoing, surplus) = (Room::default(), Room::default(), Room::default());
        Self {
            socket,
            session,
            incoming,
            outgoing,
            surplus,
            ended: false,
            close_notified: false,
            failed: false,
        }
    }

    pub(super) fn session(&self) -> &C {
        &self.session
    }

    /// Lets the session work on what has arrived until it has plaintext, or does what is wanted. Plaintext goes `into`
    /// the reader's buffer, the rest of a record to the surplus; the number says how much the reader got.
    fn advance(&mut self, into: &mut [u8], want: &Want<'_>) -> io::Result<(State, usize)> {
        if self.failed {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "TLS failed before"));
        }
        let result = self.process(into, want);
        self.failed = result.is_err();
        result
    }

    fn process(&mut self, into: &mut [u8], want: &Want<'_>) -> io::Result<(State, usize)> {
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

    /// The alert that says what was wrong, if there is one.
    fn last_words(&mut self) {
        if !self.session.wants_write() {
            return;
        }
        // Without what came in: the session would look at it again.
        if let Ok(ConnectionState::EncodeTlsData(mut alert)) = self.session.process(&mut []).state {
            let encoded = self.outgoing.append(FRAGMENT_BYTES, |room| Ok(alert.encode(room).map_err(|_| 0)));
            if let Err(error) = encoded {
                tracing::debug!(%error, "no room for an alert");
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
            records.last_words();
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

#[cfg(test)]
mod tests {
    use std::iter;

    use futures::{executor::block_on, io::Cursor};
    use libp2p::identity::Keypair;

    use super::super::tls::Tls;
    use super::*;

    /// What a server answers to these bytes, and how it ends.
    fn answer(bytes: Vec<u8>) -> (Vec<u8>, io::Result<()>) {
        let session =
            Tls::new(&Keypair::generate_ed25519()).expect("a key").server_session().expect("a session");
        let mut socket = Scripted { bytes: Cursor::new(bytes), written: Vec::new() };
        let result = block_on(Records::establish(&mut socket, session)).map(drop);
        (socket.written, result)
    }

    struct Scripted {
        bytes: Cursor<Vec<u8>>,
        written: Vec<u8>,
    }

    impl AsyncRead for Scripted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.bytes).poll_read(cx, into)
        }
    }

    impl AsyncWrite for Scripted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.written.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn nonsense_ends_the_handshake_with_an_alert() {
        let handshake = |payload: &[u8]| {
            let length = u16::try_from(payload.len()).expect("a record").to_be_bytes();
            [&[22, 3, 1][..], &length, payload].concat()
        };
        let cases = [
            vec![0; 1 << 20],
            vec![0xff; 1 << 20],
            // Two messages in one record: the first is wrong, the second is never looked at.
            handshake(&[2, 0, 0, 1, 0, 1, 0, 0, 1, 0]),
            handshake(&[1, 0, 0, 2, 0, 0, 20, 0, 0, 0]),
            // Part of a message, and then another kind of record.
            [handshake(&[1, 0, 1, 0]), vec![23, 3, 3, 0, 1, 0]].concat(),
            [handshake(&[1, 0, 1, 0]), vec![21, 3, 3, 0, 2, 2, 40]].concat(),
        ];
        for bytes in cases {
            let start = bytes[..16.min(bytes.len())].to_vec();
            let (written, result) = answer(bytes);
            assert!(result.is_err(), "{start:?}");
            assert!(written.is_empty() || written[0] == 21, "an alert or nothing: {start:?} {written:?}");
        }
    }

    #[test]
    fn a_socket_that_ends_in_the_handshake_is_an_error() {
        for length in [0, 1, 5, 100] {
            let bytes: Vec<u8> =
                [22, 3, 1, 0, 200, 1, 0, 0, 196].into_iter().chain(iter::repeat(3)).take(length).collect();
            assert!(answer(bytes).1.is_err(), "{length}");
        }
    }

    proptest::proptest! {
        /// Records of any kind with anything in them: an error, never a panic.
        #[test]
        fn whatever_is_sent_first_is_refused(
            records in proptest::collection::vec((20..25_u8, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)), 1..6),
            message in 0..25_u8,
        ) {
            let mut bytes = Vec::new();
            for (kind, mut payload) in records {
                if let [first, high, middle, low, ..] = payload.as_mut_slice() {
                    // A length that may be right, so that messages are split and joined.
                    (*first, *high, *middle, *low) = (message, 0, 0, *low % 64);
                }
                bytes.extend([kind, 3, 3, 0, payload.len() as u8]);
                bytes.extend(payload);
            }
            proptest::prop_assert!(answer(bytes).1.is_err());
        }
    }
}

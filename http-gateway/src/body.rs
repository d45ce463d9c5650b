//! Bodies: out, of exactly the promised length; in, with a limit on silence.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures::Stream;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tracing::Span;

use crate::BodyStream;
use crate::metrics::{Broken, GatewayMetrics};
use crate::watchdog::Watchdog;

/// A body of `remaining` bytes from a stream.
///
/// Whatever keeps the stream from yielding exactly that many becomes an error, upon which hyper cuts the connection:
/// the client sees that its answer is incomplete, never a shorter one that looks whole.
pub(crate) struct ArtifactBody {
    stream: BodyStream,
    remaining: u64,
    stall: Watchdog,
    metrics: GatewayMetrics,
    span: Span,
    failure: Failure,
}

/// A body fails in two steps, so that the bytes before the fault, which are right, still reach the client: it can
/// resume behind them.
enum Failure {
    None,
    /// To be reported when hyper, finding nothing to read, has flushed what it holds.
    Due(io::Error),
    Reported,
}

impl ArtifactBody {
    pub(crate) fn new(stream: BodyStream, length: u64, stall: Duration, metrics: GatewayMetrics) -> Self {
        Self {
            stream,
            remaining: length,
            stall: Watchdog::new(stall),
            metrics,
            span: Span::current(),
            failure: Failure::None,
        }
    }

    fn fail(&mut self, cx: &Context<'_>, error: io::Error) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.metrics.body_broke(Broken::Source);
        self.span.in_scope(|| {
            tracing::warn!(%error, missing_bytes = self.remaining, "the body broke off; the connection is cut");
        });
        self.failure = Failure::Due(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl HttpBody for ArtifactBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.remaining == 0 {
            return Poll::Ready(None);
        }
        match std::mem::replace(&mut this.failure, Failure::Reported) {
            Failure::None => this.failure = Failure::None,
            Failure::Due(error) => return Poll::Ready(Some(Err(error))),
            Failure::Reported => return Poll::Ready(None),
        }
        loop {
            match this.stream.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(chunk))) if chunk.is_empty() => {}
                Poll::Ready(Some(Ok(chunk))) => {
                    this.stall.reset();
                    let length = chunk.len() as u64;
                    if length > this.remaining {
                        return this.fail(cx, io::Error::other("the source yields more than it promised"));
                    }
                    this.remaining -= length;
                    this.metrics.served_bytes().inc_by(length);
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
                Poll::Ready(Some(Err(error))) => return this.fail(cx, error),
                Poll::Ready(None) => {
                    return this
                        .fail(cx, io::Error::new(io::ErrorKind::UnexpectedEof, "the source ended early"));
                }
                Poll::Pending => {
                    ready!(this.stall.poll_expired(cx));
                    let limit_ms = this.stall.limit().as_millis();
                    let error = format!("the source yielded nothing for {limit_ms} ms");
                    return this.fail(cx, io::Error::new(io::ErrorKind::TimedOut, error));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

impl Drop for ArtifactBody {
    fn drop(&mut self) {
        if self.remaining > 0 && matches!(self.failure, Failure::None) {
            self.metrics.body_broke(Broken::Client);
            self.span.in_scope(|| tracing::debug!(missing_bytes = self.remaining, "the client is gone"));
        }
    }
}

/// Measures a request until the last byte of its answer has been handed over, or nobody wants it any more.
pub(crate) struct Stopwatch {
    pub(crate) route: &'static str,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) started: Instant,
    pub(crate) answered: bool,
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        if !self.answered {
            self.metrics.client_gone(self.route);
        }
        self.metrics.took(self.route, self.started.elapsed());
    }
}

/// A body that keeps a [`Stopwatch`] running while it lasts.
pub(crate) struct Timed {
    pub(crate) body: Body,
    pub(crate) _stopwatch: Stopwatch,
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How an upload stands; shared by its stream, which the source owns, and the handler.
#[derive(Clone, Debug, Default)]
pub(crate) struct UploadProgress(Arc<AtomicU8>);

/// See [`UploadProgress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadState {
    /// Not all of it has been read.
    Unread,
    /// All of it has been read.
    Complete,
    /// The client sent nothing for too long.
    Stalled,
    /// The client broke it off, or its framing was wrong.
    Broken,
}

impl UploadProgress {
    pub(crate) fn state(&self) -> UploadState {
        match self.0.load(Ordering::Acquire) {
            1 => UploadState::Complete,
            2 => UploadState::Stalled,
            3 => UploadState::Broken,
            _ => UploadState::Unread,
        }
    }

    fn set(&self, state: UploadState) {
        let code = match state {
            UploadState::Unread => 0,
            UploadState::Complete => 1,
            UploadState::Stalled => 2,
            UploadState::Broken => 3,
        };
        self.0.store(code, Ordering::Release);
    }
}

/// The body of a PUT as a stream of chunks.
pub(crate) struct Upload {
    body: Body,
    stall: Watchdog,
    progress: UploadProgress,
}

impl Upload {
    pub(crate) fn new(body: Body, stall: Duration, progress: UploadProgress) -> Self {
        if body.is_end_stream() {
            progress.set(UploadState::Complete);
        }
        Self { body, stall: Watchdog::new(stall), progress }
    }
}

impl Stream for Upload {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = self.get_mut();
        loop {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.stall.reset();
                    // Trailers have nothing to say here.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    this.progress.set(UploadState::Broken);
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, error))));
                }
                Poll::Ready(None) => {
                    if this.progress.state() == UploadState::Unread {
                        this.progress.set(UploadState::Complete);
                    }
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    ready!(this.stall.poll_expired(cx));
                    this.progress.set(UploadState::Stalled);
                    let limit_ms = this.stall.limit().as_millis();
                    let text = format!("the client sent nothing for {limit_ms} ms");
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, text))));
                }
            }
        }
    }
}

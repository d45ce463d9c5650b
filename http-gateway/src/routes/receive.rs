//! What every PUT has in common: who may, how the body comes in, and how the answer reaches a client that still sends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_RANGE, HeaderValue};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::{App, Connection, guard};
use crate::SourceError;
use crate::answer::{Access, Refusal, refuse};
use crate::body::{Upload, UploadProgress, UploadState};
use crate::upload::Uploader;

/// One upload.
pub(super) struct Receiving {
    connection: Option<Arc<Connection>>,
    progress: UploadProgress,
}

impl Receiving {
    /// Takes a request apart.
    pub(super) fn begin(app: &App, request: Request) -> (Self, Parts, Upload) {
        let connection = request.extensions().get::<Arc<Connection>>().cloned();
        let progress = UploadProgress::default();
        let (parts, body) = request.into_parts();
        let upload = Upload::new(body, app.client_stall_timeout, progress.clone());
        (Self { connection, progress }, parts, upload)
    }

    /// Who uploads, if it may, and what it sends is a whole thing.
    pub(super) fn admit(&self, app: &App, headers: &HeaderMap) -> Result<Uploader, Refusal> {
        let is_loopback = self.connection.as_ref().is_some_and(|connection| connection.is_loopback);
        let uploader = guard::writer(app, is_loopback, headers)?;
        if headers.contains_key(CONTENT_RANGE) {
            return Err(Refusal::bad_request("uploads come whole, not in ranges"));
        }
        Ok(uploader)
    }

    /// Reads a short body.
    pub(super) async fn read(&self, mut upload: Upload, max_bytes: usize) -> Result<Bytes, Refusal> {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = upload.next().await {
            let chunk = chunk.map_err(|error| self.failed(&SourceError::Invalid(error.to_string())))?;
            if bytes.len() + chunk.len() > max_bytes {
                return Err(refuse(&SourceError::TooLarge, Access::Write));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// Reads a body that nobody wants.
    pub(super) async fn discard(&self, mut upload: Upload) -> Result<(), Refusal> {
        while let Some(chunk) = upload.next().await {
            chunk.map_err(|error| self.failed(&SourceError::Invalid(error.to_string())))?;
        }
        Ok(())
    }

    /// The source can only say that its input failed; the stream knows why.
    pub(super) fn failed(&self, error: &SourceError) -> Refusal {
        match self.progress.state() {
            UploadState::Stalled => Refusal::new(StatusCode::REQUEST_TIMEOUT, "the upload stalled"),
            UploadState::Broken => Refusal::bad_request("the upload broke off"),
            UploadState::Unread | UploadState::Complete => refuse(error, Access::Write),
        }
    }

    /// The answer, in a way that a client sees which has not sent everything.
    pub(super) fn answer(&self, result: Result<impl IntoResponse, Refusal>) -> Response {
        let mut response = result.map_or_else(Refusal::into_response, IntoResponse::into_response);
        if self.progress.state() != UploadState::Complete {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            if let Some(connection) = &self.connection {
                connection.linger.store(true, Ordering::Release);
            }
        }
        response
    }
}

/// 201 for what is new, 200 for what was there.
pub(super) fn kept(created: bool) -> StatusCode {
    if created { StatusCode::CREATED } else { StatusCode::OK }
}

/// The `Content-Encoding`, if there is one.
pub(super) fn encoding(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity")
}

pub(super) const ENCODED: Refusal =
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "it is uploaded without a Content-Encoding");

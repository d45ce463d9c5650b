//! From failures to answers: status codes and short reason phrases. The detail goes to the log.

use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};

use crate::{Rejection, SourceError};

/// What a request does, because the same failure means different things to a reader and to a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// GET and HEAD.
    Read,
    /// PUT.
    Write,
}

/// An answer other than the one asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
}

impl Refusal {
    pub(crate) const NOT_FOUND: Self = Self::new(StatusCode::NOT_FOUND, "not found");

    pub(crate) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason }
    }

    pub(crate) const fn bad_request(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let text = format!("{}\n", self.reason);
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        let mut response = (self.status, [(CONTENT_TYPE, kind)], text).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"p2p-cache\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// The answer to a failed request, after the log has been told why.
///
/// Readers hear 404 of everything that might be different elsewhere: a client of binary caches goes on to its next
/// cache after a 404, but gives up or retries for minutes after most other codes.
pub(crate) fn refuse(error: &SourceError, access: Access) -> Refusal {
    use Access::{Read, Write};
    use SourceError as E;
    let refusal = match (error, access) {
        (E::NotFound, Read | Write) => Refusal::NOT_FOUND,
        (
            E::Upstream(_) | E::Mismatch(_) | E::Rejected(_) | E::TooLarge | E::NoSpace | E::Internal(_),
            Read,
        ) => Refusal::NOT_FOUND,
        (E::Rejected(rejection), Write) => rejected(*rejection),
        (E::Invalid(_), Read | Write) => Refusal::bad_request("bad request"),
        (E::Upstream(_), Write) => Refusal::new(StatusCode::BAD_GATEWAY, "upstream failure"),
        (E::Mismatch(_), Write) => {
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "the bytes do not hash to this digest")
        }
        (E::TooLarge, Write) => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too large for this node"),
        (E::NoSpace, Write) => Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "no space left"),
        (E::Internal(_), Write) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
    };
    match error {
        E::NotFound => tracing::debug!(status = refusal.status.as_u16(), "not found"),
        E::Internal(_) => tracing::error!(status = refusal.status.as_u16(), %error, "request failed"),
        E::Upstream(_) | E::Invalid(_) | E::Mismatch(_) | E::Rejected(_) | E::TooLarge | E::NoSpace => {
            tracing::warn!(status = refusal.status.as_u16(), %error, "request failed");
        }
    }
    refusal
}

fn rejected(rejection: Rejection) -> Refusal {
    let status = match rejection {
        Rejection::NarMissing | Rejection::Superseded => StatusCode::CONFLICT,
        Rejection::NarDiffers | Rejection::FileDiffers | Rejection::BadFile => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Rejection::OtherStore => StatusCode::BAD_REQUEST,
        Rejection::Unsigned => StatusCode::FORBIDDEN,
        Rejection::TooManyWaiting => StatusCode::INSUFFICIENT_STORAGE,
    };
    Refusal::new(status, rejection.reason())
}

/// Waits for a source as long as a client would; a source that hangs becomes an upstream failure, hence a 404.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => {
            Err(SourceError::Upstream(format!("no answer could begin within {} ms", limit.as_millis())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_error() -> Vec<SourceError> {
        let text = || "secret detail".to_owned();
        vec![
            SourceError::NotFound,
            SourceError::Upstream(text()),
            SourceError::Invalid(text()),
            SourceError::Mismatch(text()),
            SourceError::Rejected(Rejection::Unsigned),
            SourceError::TooLarge,
            SourceError::NoSpace,
            SourceError::Internal(text()),
        ]
    }

    #[test]
    fn no_read_is_ever_answered_with_a_code_that_clients_retry() {
        for error in every_error() {
            let status = refuse(&error, Access::Read).status.as_u16();
            assert!(status == 404 || status == 400, "{error}: {status}");
        }
    }

    #[test]
    fn writers_hear_what_went_wrong() {
        let codes: Vec<u16> =
            every_error().iter().map(|error| refuse(error, Access::Write).status.as_u16()).collect();
        assert_eq!(codes, [404, 502, 400, 422, 403, 413, 507, 500]);
    }

    #[test]
    fn clients_never_see_the_detail() {
        for error in every_error() {
            for access in [Access::Read, Access::Write] {
                assert!(!refuse(&error, access).reason.contains("secret"));
            }
        }
    }

    #[tokio::test]
    async fn a_source_that_hangs_becomes_an_upstream_failure() {
        let result = within(Duration::from_millis(5), std::future::pending::<Result<(), _>>()).await;
        assert!(matches!(result, Err(SourceError::Upstream(_))));
    }
}

//! What sled does when its files are damaged.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::store::is_no_space;

/// sled answers some damage with a panic; here that is an error like any other, made by `failed`.
pub(crate) fn unpanic<T, E>(
    work: impl FnOnce() -> Result<T, E>,
    failed: impl FnOnce(sled::Error) -> E,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let reason = format!("sled panicked: {}", panic_text(panic.as_ref()));
        Err(failed(sled::Error::ReportableBug(reason)))
    })
}

/// True when a new index would help: not for a full disk or missing permissions, which a new one would meet too.
pub(crate) fn is_damage(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => !is_no_space(error) && error.kind() != io::ErrorKind::PermissionDenied,
        _ => true,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "without a message",
    }
}

//! The gateway over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod blobs;
mod faults;
mod garbage;
mod limits;
mod nix;
mod page;
mod shutdown;
mod support;
mod uploads;

//! The daemon: blob store, fetch engine, upload server, origins, configuration and command line.

pub mod artifacts;
mod buffers;
pub mod cli;
pub mod config;
pub mod daemon;
mod damage;
pub mod fetch;
pub mod intake;
pub mod key_ring;
mod least_pace;
pub mod logging;
pub mod metrics;
mod missing;
mod nar_listing;
pub mod nix_store;
mod on_thread;
pub mod origin;
pub mod peers;
mod sha256;
pub mod sharing;
pub mod side_files;
pub mod store;
pub mod system;
mod write_token;

pub use p2p_cache_discovery as discovery;

//! The machine's own Nix store.

pub mod nar;

//! The server towards honest, greedy and hostile peers.

mod conformance;
mod hostile;
mod leading;
mod limits;
mod network;
mod networks;
mod sharing;
mod stored;

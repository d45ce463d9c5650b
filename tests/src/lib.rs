//! What the end-to-end tests are made of: real daemons, a real Nix client with a real signed cache, faulty origins
//! and hostile peers.

pub mod crowd;
pub mod daemon;
pub mod hostile;
pub mod http;
pub mod metrics;
pub mod netns;
pub mod nix;
pub mod origin;
pub mod prober;
pub mod site;
pub mod timing;
pub mod tls_origin;
pub mod webdriver;

pub use crowd::Crowd;
pub use daemon::{Daemon, DaemonBuilder};
pub use nix::{Closure, NixStore};
pub use origin::{Fault, Origin};
pub use prober::Prober;

//! The production [`FetchScheduler`](p2p_cache::fetch::scheduler::FetchScheduler) and leader rule in seeded virtual
//! time, in many nodes at once.
//!
//! A [`Scenario`](scenario::Scenario) draws a [`Cast`](cast::Cast): nodes with access links, round trips and fates, and
//! an origin. [`world::run`] plays it: a heap of events, no clocks, no sockets. Each node that does not hold the blob
//! runs the scheduler of the daemon and serves what it has got so far. The same scenario and seed give the same
//! [`Report`](report::Report) to the byte, so that what a seed found can be played again.
//!
//! What is modelled and what is not stands in `docs/simulations.md`.

pub mod cast;
pub mod cli;
pub mod plot;
pub mod report;
pub mod scenario;
pub mod world;

//! The production [`FetchScheduler`](p2p_cache::fetch::scheduler::FetchScheduler) in seeded virtual time.
//!
//! A [`Scenario`](scenario::Scenario) names a cast: links with a rate and a round trip, peers that die, fall silent,
//! slow down or lie, an origin. [`world::run`] plays it: a heap of events, no clocks, no sockets. The same scenario
//! and seed give the same [`Report`](report::Report) to the byte, so that what a seed found can be played again.
//!
//! What is modelled: a peer answers its requests in order at the rate of its uplink; all that arrives shares the one
//! downlink; a cancelled request goes on arriving, because the wire protocol cannot take it back. What is not: loss
//! and congestion control below the rates, the time that hashing and disks take.

pub mod cli;
pub mod report;
pub mod scenario;
pub mod world;

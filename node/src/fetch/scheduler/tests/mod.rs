//! Tests of the whole scheduler: a watcher that checks every action, a small world in virtual time, and chaos.

mod behaviour;
mod chaos;
mod sources;
mod watcher;
mod world;

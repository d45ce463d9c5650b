//! What is private is answered like what is not held, in content and in time, whoever asks and however.

mod limits;
mod others;
mod probes;
mod scene;

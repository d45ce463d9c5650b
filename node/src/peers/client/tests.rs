//! The client against honest servers and against peers that misbehave.

mod hostile;
mod leading;
mod ordinary;

//! Wires the parts together and runs them.

pub mod banner;
pub mod cli;
mod health;
mod relay;
mod signals;
mod single_use;
mod sources;
mod trim;
mod usage;

pub use relay::{run_relay, run_sandbox};

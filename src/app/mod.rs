//! Wires the parts together and runs them.

pub mod banner;
pub mod cli;
mod health;

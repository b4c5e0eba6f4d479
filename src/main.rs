//! Runs the relay: arguments, settings, an exit code.

fn main() {}

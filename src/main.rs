//! Runs the relay: arguments, settings, an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use xi_relay::app;
use xi_relay::app::cli::{self, Arguments, Outcome};

/// Sessions come and go with some two hundred allocations each; it has them for a good part less of
/// processor time than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Settings, arguments or a port that cannot be used.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to be told when stderr is closed.
            let _ = writeln!(io::stderr(), "xi-relay: {error:#}");
            ExitCode::from(UNUSABLE)
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match cli::run(arguments, &mut io::stdout(), &mut io::stderr())? {
        Outcome::Done => Ok(ExitCode::SUCCESS),
        Outcome::Unhealthy => Ok(ExitCode::FAILURE),
        Outcome::Serve(settings, sources) => {
            app::run_relay(*settings, &sources).map(|()| ExitCode::SUCCESS)
        }
        Outcome::Sandbox(settings) => app::run_sandbox(&settings).map(|()| ExitCode::SUCCESS),
    }
}

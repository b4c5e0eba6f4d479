//! The load generator: one scenario against one address, one line of JSON with its figures.

mod client;
mod conversations;
mod crowd;
mod latency;
mod measure;
mod memory;
mod stream;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xi_relay_benches::tls;

use client::Target;
use measure::Subject;

/// Speaks to a proxy, or to the fake upstream itself, and says what it cost.
#[derive(Parser)]
struct Args {
    /// Where to connect.
    #[arg(long)]
    address: SocketAddr,
    /// Sent as `xi-api-key`.
    #[arg(long, default_value = "none")]
    token: String,
    /// Connect with TLS, trusting this certificate (PEM).
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The process whose CPU time and memory are read, with everything below it.
    #[arg(long)]
    pid: Option<i32>,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Waits until sessions can be opened.
    Probe,
    /// One message up, one down, one session, again and again.
    RoundTrip(latency::RoundTrip),
    /// From connecting to the first audio message, one session after another.
    FirstAudio(latency::FirstAudio),
    /// Audio at a steady pace in several sessions.
    Paced(stream::Paced),
    /// Audio as fast as it goes.
    Bulk(stream::Bulk),
    /// Whole short sessions: upgrade, text, a few frames, close.
    Sessions(stream::Sessions),
    /// Memory at rest, of idle sessions, and of sessions idle again after one frame.
    Memory(memory::Idle),
    /// Very many sessions at once under paced audio; memory over time.
    Crowd(crowd::Crowd),
    /// A fixed rate of round trips spread over few or many sessions.
    Scale(crowd::Scale),
    /// What applications say otherwise; nothing is measured.
    Conversations(conversations::Conversations),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let tls = args.ca.as_deref().map(tls::client).transpose()?;
    let target = Target {
        address: args.address,
        token: args.token,
        tls,
    };
    let subject = Subject(args.pid);
    let metrics = match args.scenario {
        Scenario::Probe => latency::probe(&target).await?,
        Scenario::RoundTrip(scenario) => scenario.run(&target, subject).await?,
        Scenario::FirstAudio(scenario) => scenario.run(&target, subject).await?,
        Scenario::Paced(scenario) => scenario.run(&target, subject).await?,
        Scenario::Bulk(scenario) => scenario.run(&target, subject).await?,
        Scenario::Sessions(scenario) => scenario.run(&target, subject).await?,
        Scenario::Memory(scenario) => scenario.run(&target, subject).await?,
        Scenario::Crowd(scenario) => scenario.run(&target, subject).await?,
        Scenario::Scale(scenario) => scenario.run(&target, subject).await?,
        Scenario::Conversations(scenario) => scenario.run(&target).await?,
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&metrics)?)?;
    Ok(())
}

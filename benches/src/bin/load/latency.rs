//! Scenarios about time: round trips and first audio.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use tokio::time::sleep;
use xi_relay_benches::speech::{Order, Script, text_message};

use crate::client::{Session, Target, framed};
use crate::measure::{Metrics, Subject, note_times};

/// Sessions wait for a proxy that has just been started for at most this long.
const READY_WITHIN: Duration = Duration::from_secs(15);

/// Round trips before measuring, to warm caches and the branch predictor of everybody.
const WARM_UP: usize = 300;

/// Opens sessions until one works from end to end.
pub(crate) async fn probe(target: &Target) -> Result<Metrics> {
    let started = Instant::now();
    loop {
        match one_session(target).await {
            Ok(()) => return Ok(Metrics::new()),
            Err(error) if started.elapsed() > READY_WITHIN => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn one_session(target: &Target) -> Result<()> {
    let mut session = Session::open(target, &Order::new(Script::Echo, 200), 0).await?;
    session.send(&framed(&text_message(200))).await?;
    session.expect_audio().await?;
    session.close().await
}

#[derive(Args)]
pub(crate) struct RoundTrip {
    /// Bytes of the message up and of the message down.
    #[arg(long)]
    size: usize,
    /// How long to measure.
    #[arg(long)]
    seconds: f64,
}

impl RoundTrip {
    pub(crate) async fn run(&self, target: &Target, subject: Subject) -> Result<Metrics> {
        let mut session =
            Session::open(target, &Order::new(Script::Echo, self.size), 64 * 1024).await?;
        let message = framed(&text_message(self.size));
        for _ in 0..WARM_UP {
            session.send(&message).await?;
            session.expect_audio().await?;
        }
        let mut times = Vec::with_capacity(200_000);
        let cpu = subject.cpu()?;
        let until = Instant::now() + Duration::from_secs_f64(self.seconds);
        let mut sent = Instant::now();
        while sent < until {
            session.send(&message).await?;
            ensure!(
                session.expect_audio().await? == self.size,
                "an answer of the wrong size"
            );
            let answered = Instant::now();
            times.push(answered - sent);
            sent = answered;
        }
        let mut metrics = Metrics::new();
        subject.note_cpu(
            &mut metrics,
            "cpu_us",
            subject.cpu()? - cpu,
            times.len() as f64,
        );
        note_times(&mut metrics, &mut times);
        session.close().await?;
        Ok(metrics)
    }
}

#[derive(Args)]
pub(crate) struct FirstAudio {
    /// Sessions to open, one after another.
    #[arg(long)]
    total: usize,
    /// Microseconds between the text and the first audio at upstream itself.
    #[arg(long, default_value_t = 1000)]
    delay_us: u64,
    /// Milliseconds between one session and the next.
    #[arg(long, default_value_t = 0)]
    gap_ms: u64,
    /// Bytes of the first audio message.
    #[arg(long, default_value_t = 4096)]
    size: usize,
}

impl FirstAudio {
    pub(crate) async fn run(&self, target: &Target, subject: Subject) -> Result<Metrics> {
        let order = Order {
            delay_us: self.delay_us,
            ..Order::new(Script::FirstAudio, self.size)
        };
        let message = framed(&text_message(200));
        let mut times = Vec::with_capacity(self.total);
        let cpu = subject.cpu()?;
        for _ in 0..self.total {
            let started = Instant::now();
            let mut session = Session::open(target, &order, 64 * 1024).await?;
            session.send(&message).await?;
            session.expect_audio().await?;
            times.push(started.elapsed());
            session.close().await?;
            sleep(Duration::from_millis(self.gap_ms)).await;
        }
        let mut metrics = Metrics::new();
        subject.note_cpu(
            &mut metrics,
            "cpu_us",
            subject.cpu()? - cpu,
            self.total as f64,
        );
        note_times(&mut metrics, &mut times);
        Ok(metrics)
    }
}

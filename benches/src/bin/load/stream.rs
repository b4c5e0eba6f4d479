//! Scenarios about the cost of carrying audio, and of whole sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use tokio::task::JoinSet;
use tokio::time::sleep;
use xi_relay_benches::speech::{Order, Script, text_message};

use crate::client::{Session, Target, framed};
use crate::measure::{Metrics, Subject};

/// After the last byte a proxy may still have a session to wind up; that belongs to its cost.
const SETTLE: Duration = Duration::from_millis(300);

#[derive(Args)]
pub(crate) struct Paced {
    /// Sessions at once.
    #[arg(long, default_value_t = 40)]
    sessions: u64,
    /// Bytes of each audio message.
    #[arg(long, default_value_t = 16_384)]
    size: usize,
    /// Milliseconds between two messages of one session.
    #[arg(long, default_value_t = 20)]
    interval_ms: u64,
    /// How long to measure.
    #[arg(long)]
    seconds: f64,
}

impl Paced {
    pub(crate) async fn run(&self, target: &Target, subject: Subject) -> Result<Metrics> {
        let order = Order {
            interval_ms: self.interval_ms,
            ..Order::new(Script::Paced, self.size)
        };
        let message = framed(&text_message(200));
        let n_frames = Arc::new(AtomicU64::new(0));
        let mut sessions: JoinSet<Result<()>> = JoinSet::new();
        for _ in 0..self.sessions {
            let mut session = Session::open(target, &order, 64 * 1024).await?;
            session.send(&message).await?;
            let (n_frames, size) = (Arc::clone(&n_frames), self.size);
            sessions.spawn(async move {
                loop {
                    ensure!(
                        session.expect_audio().await? == size,
                        "an audio message of the wrong size"
                    );
                    n_frames.fetch_add(1, Ordering::Relaxed);
                }
            });
            // Sessions do not speak in step.
            sleep(Duration::from_micros(
                self.interval_ms * 1000 / self.sessions,
            ))
            .await;
        }
        sleep(SETTLE).await;
        let (cpu, before) = (subject.cpu()?, n_frames.load(Ordering::Relaxed));
        let started = Instant::now();
        tokio::select! {
            () = sleep(Duration::from_secs_f64(self.seconds)) => {}
            Some(ended) = sessions.join_next() => ended??,
        }
        let carried = (n_frames.load(Ordering::Relaxed) - before) as f64;
        let mut metrics = Metrics::new();
        subject.note_cpu(&mut metrics, "cpu_us", subject.cpu()? - cpu, carried);
        metrics.insert("frames_per_s", carried / started.elapsed().as_secs_f64());
        Ok(metrics)
    }
}

#[derive(Args)]
pub(crate) struct Bulk {
    /// Sessions at once.
    #[arg(long, default_value_t = 4)]
    sessions: u64,
    /// Bytes of each audio message.
    #[arg(long, default_value_t = 65_536)]
    size: usize,
    /// Messages for each session.
    #[arg(long)]
    count: u64,
}

impl Bulk {
    pub(crate) async fn run(&self, target: &Target, subject: Subject) -> Result<Metrics> {
        let order = Order {
            count: self.count,
            ..Order::new(Script::Bulk, self.size)
        };
        let message = framed(&text_message(200));
        let mut open = Vec::new();
        for _ in 0..self.sessions {
            open.push(Session::open(target, &order, 256 * 1024).await?);
        }
        let cpu = subject.cpu()?;
        let started = Instant::now();
        let mut sessions = JoinSet::new();
        for mut session in open {
            session.send(&message).await?;
            let (size, count) = (self.size, self.count);
            sessions.spawn(async move {
                let mut n_frames = 0;
                while let Some(len) = session.audio().await? {
                    ensure!(len == size, "an audio message of the wrong size");
                    n_frames += 1;
                }
                ensure!(n_frames == count, "{n_frames} of {count} frames came");
                session.drained().await
            });
        }
        while let Some(ended) = sessions.join_next().await {
            ended??;
        }
        let elapsed = started.elapsed();
        let megabytes = (self.sessions * self.count * self.size as u64) as f64 / 1e6;
        let mut metrics = Metrics::new();
        subject.note_cpu(
            &mut metrics,
            "cpu_us_per_mb",
            subject.cpu()? - cpu,
            megabytes,
        );
        metrics.insert("mb_per_s", megabytes / elapsed.as_secs_f64());
        Ok(metrics)
    }
}

#[derive(Args)]
pub(crate) struct Sessions {
    /// Sessions in all.
    #[arg(long)]
    total: usize,
    /// Sessions at once.
    #[arg(long, default_value_t = 8)]
    at_once: usize,
    /// Audio messages in each.
    #[arg(long, default_value_t = 4)]
    frames: u64,
    /// Bytes of each audio message.
    #[arg(long, default_value_t = 4096)]
    size: usize,
}

impl Sessions {
    pub(crate) async fn run(&self, target: &Target, subject: Subject) -> Result<Metrics> {
        self.batch(target, self.total / 10).await?;
        sleep(SETTLE).await;
        let cpu = subject.cpu()?;
        let started = Instant::now();
        self.batch(target, self.total).await?;
        let elapsed = started.elapsed();
        sleep(SETTLE).await;
        let mut metrics = Metrics::new();
        subject.note_cpu(
            &mut metrics,
            "cpu_us",
            subject.cpu()? - cpu,
            self.total as f64,
        );
        metrics.insert("sessions_per_s", self.total as f64 / elapsed.as_secs_f64());
        Ok(metrics)
    }

    async fn batch(&self, target: &Target, total: usize) -> Result<()> {
        let order = Order {
            count: self.frames,
            ..Order::new(Script::Bulk, self.size)
        };
        let message = framed(&text_message(200));
        let started = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..self.at_once {
            let (target, message, started, frames) = (
                target.clone(),
                message.clone(),
                Arc::clone(&started),
                self.frames,
            );
            workers.spawn(async move {
                while started.fetch_add(1, Ordering::Relaxed) < total {
                    let mut session = Session::open(&target, &order, 32 * 1024).await?;
                    session.send(&message).await?;
                    for _ in 0..frames {
                        session.expect_audio().await?;
                    }
                    ensure!(session.audio().await?.is_none(), "more audio than ordered");
                    session.drained().await?;
                }
                Ok(())
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        Ok(())
    }
}

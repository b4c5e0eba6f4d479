//! Scenarios with thousands of sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use xi_relay_benches::speech::{Order, Script, text_message};

use crate::client::{Session, Speaker, Target, framed};
use crate::measure::{Metrics, Subject};

/// Between opening and measuring, and between two readings of memory.
const PAUSE: Duration = Duration::from_secs(2);

/// Sessions being opened at the same time.
const OPENERS: usize = 32;

/// Opens `n` sessions; those that fail are counted, the first error is kept for the message.
async fn open(
    target: &Target,
    order: Order,
    n: usize,
    capacity: usize,
) -> Result<(Vec<Session>, usize)> {
    let mut openers = JoinSet::new();
    let (mut sessions, mut n_failed) = (Vec::with_capacity(n), 0);
    let mut first_error = None;
    for started in 0..n + OPENERS {
        if started >= OPENERS || started >= n {
            match openers.join_next().await {
                Some(Ok(Ok(session))) => sessions.push(session),
                Some(Ok(Err(error))) => {
                    n_failed += 1;
                    first_error.get_or_insert(error);
                }
                Some(Err(panic)) => return Err(panic.into()),
                None => break,
            }
        }
        if started < n {
            let target = target.clone();
            openers.spawn(async move { Session::open(&target, &order, capacity).await });
        }
    }
    if let Some(error) = first_error.filter(|_| sessions.is_empty()) {
        return Err(error);
    }
    Ok((sessions, n_failed))
}

#[derive(Args)]
pub(crate) struct Crowd {
    /// Sessions at once.
    #[arg(long, default_value_t = 9500)]
    sessions: usize,
    /// Bytes of each audio message.
    #[arg(long, default_value_t = 16_384)]
    size: usize,
    /// Milliseconds between two messages of one session.
    #[arg(long, default_value_t = 5000)]
    interval_ms: u64,
    /// How long to watch once all are open.
    #[arg(long)]
    seconds: u64,
}

impl Crowd {
    pub(crate) async fn run(&self, target: &Target, subject: Subject) -> Result<Metrics> {
        let order = Order {
            interval_ms: self.interval_ms,
            ..Order::new(Script::Paced, self.size)
        };
        let message = framed(&text_message(200));
        let at_rest = subject.memory()?;
        let started = Instant::now();
        let (open, n_failed) = open(target, order, self.sessions, 16 * 1024).await?;
        let opened_in = started.elapsed();
        let n_open = open.len();
        let n_frames = Arc::new(AtomicU64::new(0));
        let mut sessions: JoinSet<Result<()>> = JoinSet::new();
        let spread = Duration::from_millis(self.interval_ms) / u32::try_from(n_open.max(1))?;
        let started = Instant::now();
        for (n, mut session) in (0_u32..).zip(open) {
            let (n_frames, message) = (Arc::clone(&n_frames), message.clone());
            sessions.spawn(async move {
                // Sessions do not speak in step.
                tokio::time::sleep_until((started + spread * n).into()).await;
                session.send(&message).await?;
                loop {
                    session.expect_audio().await?;
                    n_frames.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        sleep(Duration::from_millis(self.interval_ms) + PAUSE).await;

        let (cpu, before) = (subject.cpu()?, n_frames.load(Ordering::Relaxed));
        let (started, first) = (Instant::now(), subject.memory()?.pss);
        let (mut least, mut most, mut last) = (first, first, first);
        while started.elapsed() < Duration::from_secs(self.seconds) {
            sleep(PAUSE).await;
            last = subject.memory()?.pss;
            (least, most) = (least.min(last), most.max(last));
        }
        let elapsed = started.elapsed().as_secs_f64();
        let carried = (n_frames.load(Ordering::Relaxed) - before) as f64;
        let mut n_lost = 0;
        while let Some(ended) = sessions.try_join_next() {
            n_lost += 1;
            if n_lost == 1
                && let Ok(Err(error)) = ended
            {
                eprintln!("first session lost: {error:#}");
            }
        }

        let mb = |pss: u64| pss as f64 / 1_048_576.0;
        let mut metrics = Metrics::new();
        subject.note_cpu(&mut metrics, "cpu_us", subject.cpu()? - cpu, carried);
        metrics.extend([
            ("open", n_open as f64),
            ("failed", n_failed as f64),
            ("lost", f64::from(n_lost)),
            ("opened_per_s", n_open as f64 / opened_in.as_secs_f64()),
            ("seconds", elapsed),
            (
                "frames_due_share",
                carried / (n_open as f64 * elapsed * 1000.0 / self.interval_ms as f64),
            ),
        ]);
        if subject.0.is_some() {
            metrics.extend([
                ("first_mb", mb(first)),
                ("least_mb", mb(least)),
                ("most_mb", mb(most)),
                ("last_mb", mb(last)),
                (
                    "session_kb",
                    (last as f64 - at_rest.pss as f64) / n_open as f64 / 1024.0,
                ),
            ]);
        }
        Ok(metrics)
    }
}

#[derive(Args)]
pub(crate) struct Scale {
    /// Sessions at once.
    #[arg(long)]
    sessions: usize,
    /// Round trips a second, over all sessions.
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// Bytes of the message up and of the message down.
    #[arg(long, default_value_t = 200)]
    size: usize,
    /// How long to measure.
    #[arg(long)]
    seconds: f64,
}

impl Scale {
    pub(crate) async fn run(&self, target: &Target, subject: Subject) -> Result<Metrics> {
        let (open, n_failed) = open(
            target,
            Order::new(Script::Echo, self.size),
            self.sessions,
            4096,
        )
        .await?;
        ensure!(n_failed == 0, "{n_failed} sessions could not be opened");
        let n_answers = Arc::new(AtomicU64::new(0));
        let mut listeners: JoinSet<Result<()>> = JoinSet::new();
        let mut speakers = Vec::with_capacity(open.len());
        for session in open {
            let (mut listener, speaker) = session.split();
            speakers.push(speaker);
            let n_answers = Arc::clone(&n_answers);
            listeners.spawn(async move {
                loop {
                    listener.audio().await?;
                    n_answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Every session has spoken once before anything is measured.
        let warm_up = Duration::from_secs_f64(1.0 + self.sessions as f64 / self.rate as f64);
        self.speak(&speakers, warm_up).await?;
        sleep(PAUSE / 10).await;

        let (cpu, before) = (subject.cpu()?, n_answers.load(Ordering::Relaxed));
        tokio::select! {
            spoken = self.speak(&speakers, Duration::from_secs_f64(self.seconds)) => spoken?,
            Some(ended) = listeners.join_next() => ended??,
        }
        sleep(PAUSE / 10).await;
        let answered = (n_answers.load(Ordering::Relaxed) - before) as f64;
        let mut metrics = Metrics::new();
        subject.note_cpu(&mut metrics, "cpu_us", subject.cpu()? - cpu, answered * 2.0);
        metrics.insert("round_trips_per_s", answered / self.seconds);
        Ok(metrics)
    }

    /// Sends at the rate asked for, to one session after another: what arrives at the proxy in any
    /// millisecond is the same for ten sessions and for thousands.
    async fn speak(&self, speakers: &[Speaker], during: Duration) -> Result<()> {
        let message = framed(&text_message(self.size));
        let started = Instant::now();
        let mut ticks = interval(Duration::from_millis(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut turns = speakers.iter().cycle();
        let mut n_sent = 0;
        while started.elapsed() < during {
            ticks.tick().await;
            let due = (started.elapsed().as_secs_f64() * self.rate as f64) as u64;
            while n_sent < due {
                if let Some(speaker) = turns.next() {
                    speaker.send(&message).await?;
                }
                n_sent += 1;
            }
        }
        Ok(())
    }
}

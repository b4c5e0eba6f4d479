//! What a session costs in memory while nothing happens in it.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use tokio::time::sleep;
use xi_relay_benches::speech::{Order, Script, text_message};

use crate::client::{Session, Target, framed};
use crate::measure::{Metrics, Subject};

/// How long after its start a proxy is at rest: xi-relay unmaps what its start has needed when the
/// first steps are over.
const START: Duration = Duration::from_secs(5);

/// Given to the proxy to hand back what it no longer needs.
const SETTLE: Duration = Duration::from_millis(1500);

/// Opened and closed before the first reading, so that what a proxy sets up once, on first use,
/// is not counted as the cost of a session.
const FIRST_USE: usize = 20;

/// To be run against a proxy that was started for it.
#[derive(Args)]
pub(crate) struct Idle {
    /// Sessions to hold open.
    #[arg(long, default_value_t = 1000)]
    sessions: usize,
    /// Bytes of the one audio message.
    #[arg(long, default_value_t = 65_536)]
    size: usize,
}

impl Idle {
    pub(crate) async fn run(&self, target: &Target, subject: Subject) -> Result<Metrics> {
        let message = framed(&text_message(200));
        sleep(START).await;
        let at_rest = subject.memory()?;

        for mut session in self.open(target, &message, FIRST_USE).await? {
            session.send(&message).await?;
            session.expect_audio().await?;
            session.close().await?;
        }
        sleep(SETTLE).await;
        let before = subject.memory()?;

        let mut sessions = self.open(target, &message, self.sessions).await?;
        sleep(SETTLE).await;
        let idle = subject.memory()?;

        for session in &mut sessions {
            session.send(&message).await?;
            session.expect_audio().await?;
        }
        sleep(SETTLE).await;
        let after = subject.memory()?;

        let per_session =
            |pss: u64| (pss as f64 - before.pss as f64) / self.sessions as f64 / 1024.0;
        let mut metrics = Metrics::new();
        if subject.0.is_some() {
            metrics.insert("rest_pss_mb", at_rest.pss as f64 / 1_048_576.0);
            metrics.insert("rest_rss_mb", at_rest.rss as f64 / 1_048_576.0);
            metrics.insert("idle_kb", per_session(idle.pss));
            metrics.insert("after_frame_kb", per_session(after.pss));
        }
        Ok(metrics)
    }

    async fn open(&self, target: &Target, message: &[u8], n: usize) -> Result<Vec<Session>> {
        let order = Order::new(Script::Idle, self.size);
        let mut sessions = Vec::with_capacity(n);
        for _ in 0..n {
            let mut session = Session::open(target, &order, 8 * 1024).await?;
            session.send(message).await?;
            sessions.push(session);
        }
        Ok(sessions)
    }
}

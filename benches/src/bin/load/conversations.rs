//! What applications say beyond what is measured: every kind of socket, the usual fields.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Session, Target, framed};
use crate::measure::Metrics;

/// How long one conversation may take.
const WITHIN: Duration = Duration::from_secs(20);

/// A path, and what is said there. Each ends the session, so that upstream closes it.
const CONVERSATIONS: [(&str, &[&str]); 4] = [
    (
        "/v1/text-to-speech/profile/stream-input?model_id=eleven_flash_v2_5&output_format=mp3_44100_128",
        &[
            r#"{"text":" ","voice_settings":{"stability":0.5,"similarity_boost":0.8},"generation_config":{"chunk_length_schedule":[120,160,250,290]}}"#,
            r#"{"text":"It was a bright cold day in April, ","try_trigger_generation":true}"#,
            r#"{"text":"and the clocks were striking – “thirteen”. ","flush":true}"#,
            r#"{"text":""}"#,
        ],
    ),
    (
        "/v1/text-to-speech/profile/stream-input?output_format=pcm_16000&sync_alignment=true&auto_mode=true",
        &[
            r#"{ "text": "A word at a time, \"quoted\" and\nbroken. ", "flush": true }"#,
            r#"{ "text": "" }"#,
        ],
    ),
    (
        "/v1/text-to-speech/profile/multi-stream-input?output_format=pcm_16000",
        &[
            r#"{"text":" ","context_id":"one","voice_settings":{"stability":0.5}}"#,
            r#"{"text":"Two can talk at once. ","context_id":"one","flush":true}"#,
            r#"{"text":"So they can. ","context_id":"two","flush":true}"#,
            r#"{"context_id":"one","close_context":true}"#,
            r#"{"close_socket":true}"#,
        ],
    ),
    (
        "/v1/text-to-dialogue/stream-input?output_format=pcm_16000",
        &[
            r#"{"voices":["profile"]}"#,
            r#"{"inputs":[{"text":"Is that you? ","voice_id":"profile"},{"text":"It is. ","voice_id":"profile"}],"flush":true}"#,
            r#"{"close_socket":true}"#,
        ],
    ),
];

#[derive(Args)]
pub(crate) struct Conversations {
    /// How many times each of them is had, all at once.
    #[arg(long)]
    total: usize,
}

impl Conversations {
    pub(crate) async fn run(&self, target: &Target) -> Result<Metrics> {
        let mut under_way = JoinSet::new();
        for (path, messages) in CONVERSATIONS {
            for _ in 0..self.total {
                let target = target.clone();
                under_way.spawn(async move {
                    timeout(WITHIN, have(&target, path, messages))
                        .await
                        .context("takes too long")
                        .flatten()
                        .with_context(|| format!("in a conversation at {path}"))
                });
            }
        }
        while let Some(had) = under_way.join_next().await {
            had??;
        }
        Ok(Metrics::new())
    }
}

async fn have(target: &Target, path: &str, messages: &[&str]) -> Result<()> {
    let mut session = Session::open(target, path, 64 * 1024).await?;
    for message in messages {
        session.send(&framed(message.as_bytes())).await?;
    }
    while session.audio().await?.is_some() {}
    session.drained().await
}

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::auth::Directory;
use crate::frame::{Close, Opcode, Step, apply_mask, write_close, write_frame};
use crate::ids::SessionId;
use crate::protocol::{Dialect, Endpoint, Problem, Secrets};
use crate::quota::{AdmissionRequest, Limits, PlanConfig, Quota, Rates, RatesConfig};
use crate::upstream::{Chopped, Share, Vacancy};
use crate::usage;

/// How much a peer's socket takes before it has to be read.
const SOCKET_BYTES: usize = 64 * 1024;

/// One peer of a session, speaking frames into an in-memory stream.
struct Wire {
    stream: DuplexStream,
    side: Side,
    reader: Reader,
    bytes: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Text(String),
    Ping,
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    /// The stream ended without a close frame before it.
    Gone,
}

impl Wire {
    fn new(stream: DuplexStream, side: Side) -> Self {
        let from = match side {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        };
        Self {
            stream,
            side,
            reader: Reader::whole(from, 1 << 26),
            bytes: Vec::new(),
        }
    }

    fn mask(&self) -> Option<[u8; 4]> {
        (self.side == Side::Client).then_some([7, 1, 200, 13])
    }

    async fn say(&mut self, text: &str) {
        self.send(Opcode::Text, text.as_bytes()).await;
    }

    async fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut frame = Vec::new();
        write_frame(&mut frame, opcode, payload, self.mask());
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn close(&mut self, code: u16, reason: &str) {
        let mut frame = Vec::new();
        write_close(&mut frame, Some(code), reason, self.mask());
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn hear(&mut self) -> Heard {
        loop {
            if let Step::Frame(frame) = self.reader.step(&self.bytes).unwrap() {
                let mut payload = self.bytes[frame.payload.clone()].to_vec();
                if let Some(mask) = frame.mask {
                    apply_mask(&mut payload, mask);
                }
                if !frame.opcode.is_control() {
                    self.reader.payload_of(&frame, &payload).unwrap();
                }
                self.bytes.drain(..frame.len);
                return match frame.opcode {
                    Opcode::Ping => Heard::Ping,
                    Opcode::Pong => Heard::Pong(payload),
                    Opcode::Close => {
                        let close = Close::parse(&payload).unwrap();
                        Heard::Close(close.code, close.reason)
                    }
                    _ => Heard::Text(String::from_utf8(payload).unwrap()),
                };
            }
            if !matches!(self.stream.read_buf(&mut self.bytes).await, Ok(n) if n > 0) {
                return Heard::Gone;
            }
        }
    }

    /// The next thing heard that is not a ping, each of which is answered.
    async fn hear_answering(&mut self) -> Heard {
        loop {
            match self.hear().await {
                Heard::Ping => self.send(Opcode::Pong, b"").await,
                other => return other,
            }
        }
    }

    #[track_caller]
    fn expect_error(heard: Heard, error: &str, code: u16) {
        let Heard::Text(text) = heard else {
            panic!("{heard:?} is no error frame")
        };
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (frame["error"].as_str(), frame["code"].as_u64()),
            (Some(error), Some(code.into()))
        );
        assert_eq!(frame["source"], "relay");
    }

    async fn expect_ending(&mut self, error: &str, code: u16) {
        Self::expect_error(self.hear_answering().await, error, code);
        let Heard::Close(seen, _) = self.hear_answering().await else {
            panic!("no close frame")
        };
        assert_eq!(seen, Some(code));
    }
}

/// A session between two wires.
struct Stage {
    client: Wire,
    upstream: Wire,
    live: Arc<Live>,
    /// Where the session's upstream was taken from.
    warm: Arc<Share>,
    done: JoinHandle<()>,
}

async fn quota() -> Quota {
    let config = usage::Config {
        store: usage::StoreUrl::Memory,
        ..usage::Config::default()
    };
    let books = usage::open(&config, usage::WallClock::system(), Arc::default())
        .await
        .unwrap();
    Quota::new(books, Rates::new(&RatesConfig::default()).unwrap())
}

impl Stage {
    /// Puts the live session under other limits.
    fn is_allowed(&self, change: impl FnOnce(&mut Limits)) {
        let mut limits = Limits::new("default", &PlanConfig::default()).unwrap();
        change(&mut limits);
        self.live.set_limits(Arc::new(limits));
    }
}

async fn stage() -> Stage {
    stage_with(|_, _| {}).await
}

async fn stage_with(change: impl FnOnce(&mut Terms, &mut Limits)) -> Stage {
    stage_recorded(change, None).await
}

async fn stage_recorded(
    change: impl FnOnce(&mut Terms, &mut Limits),
    recordings: Option<&Recordings>,
) -> Stage {
    stage_over(SOCKET_BYTES, change, recordings).await
}

async fn stage_over(
    socket_bytes: usize,
    change: impl FnOnce(&mut Terms, &mut Limits),
    recordings: Option<&Recordings>,
) -> Stage {
    stage_through(socket_bytes, |stream| stream, change, recordings).await
}

/// The session sees its sockets as `wrap` shows them.
async fn stage_through<S: Transport>(
    socket_bytes: usize,
    wrap: impl Fn(DuplexStream) -> S,
    change: impl FnOnce(&mut Terms, &mut Limits),
    recordings: Option<&Recordings>,
) -> Stage {
    let (client, client_far) = duplex(socket_bytes);
    let (upstream, upstream_far) = duplex(socket_bytes);
    let identity = Directory::open()
        .identify(None, IpAddr::V4(Ipv4Addr::LOCALHOST), SystemTime::now())
        .await
        .unwrap();
    let mut limits = Limits::new("default", &PlanConfig::default()).unwrap();
    let mut terms = Terms {
        dialect: Dialect::Single,
        limits: Arc::new(limits.clone()),
        timing: Timing::default(),
        inactivity: Duration::from_secs(20),
        expiry: None,
        narrowing: None,
        max_upstream_message_bytes: 1 << 25,
        secrets: Arc::new(Secrets::new([])),
    };
    change(&mut terms, &mut limits);
    terms.limits = Arc::new(limits);
    let id = SessionId::random();
    let request = AdmissionRequest {
        client: identity.client.clone(),
        limits: Arc::clone(&terms.limits),
        session: id,
        voice: None,
        model: "".into(),
        format: "".into(),
        endpoint: "stream-input",
        cap: None,
        streaming: true,
    };
    let admission = quota().await.admit(request).await.unwrap();
    let registry = Arc::new(Registry::default());
    let registration = registry.enter(id, identity, Endpoint::StreamInput, "voice".into());
    let live = Arc::clone(registration.live());
    let (vacancy, warm) = Vacancy::watched();
    let session = Session {
        client: Peer {
            stream: wrap(client_far),
            read_ahead: Vec::new(),
        },
        upstream: Peer {
            stream: wrap(upstream_far),
            read_ahead: Vec::new(),
        },
        vacancy: Some(vacancy),
        terms,
        admission,
        registration,
        facts: Facts::default(),
        metrics: Arc::new(Metrics::default()),
        started: Instant::now(),
        recorder: recordings.and_then(|recordings| {
            recordings.begin(true, id, Instant::now(), || recorder::tests::head(id))
        }),
    };
    Stage {
        client: Wire::new(client, Side::Client),
        upstream: Wire::new(upstream, Side::Upstream),
        live,
        warm,
        done: tokio::spawn(session.run()),
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_in_one_read_with_a_refused_message_is_still_listened_to() {
    for cut in [0, 5] {
        let mut stage = stage().await;
        let mask = stage.client.mask();
        let mut frames = Vec::new();
        write_frame(&mut frames, Opcode::Binary, b"no", mask);
        write_frame(&mut frames, Opcode::Text, br#"{"text":"more "}"#, mask);
        write_close(&mut frames, Some(1000), "", mask);
        let (now, later) = frames.split_at(frames.len() - cut);
        let started = Instant::now();
        stage.client.stream.write_all(now).await.unwrap();
        stage
            .client
            .expect_ending("invalid_input_message", 1003)
            .await;
        stage.client.stream.write_all(later).await.unwrap();
        assert_eq!(stage.client.hear().await, Heard::Gone);
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "the close had come"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn messages_pass_both_ways_and_the_close_of_upstream_ends_it() {
    let mut stage = stage().await;
    stage.client.say(r#"{"text":" "}"#).await;
    assert_eq!(
        stage.upstream.hear().await,
        Heard::Text(r#"{"text":" "}"#.to_owned())
    );
    stage
        .client
        .say(r#"{"text":"Hi ","xi_api_key":"x","u":1}"#)
        .await;
    assert_eq!(
        stage.upstream.hear().await,
        Heard::Text(r#"{"text":"Hi ","u":1}"#.to_owned())
    );
    let audio = r#"{"audio":"AAAA","isFinal":null}"#;
    stage.upstream.say(audio).await;
    assert_eq!(stage.client.hear().await, Heard::Text(audio.to_owned()));
    stage.upstream.close(1000, "").await;
    assert_eq!(
        stage.client.hear().await,
        Heard::Close(Some(1000), String::new())
    );
    assert_eq!(
        stage.upstream.hear().await,
        Heard::Close(Some(1000), String::new())
    );
    stage.client.close(1000, "").await;
    assert_eq!(stage.client.hear().await, Heard::Gone);
    stage.done.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_warm_connection_is_replaced_once_text_has_gone_up() {
    let mut stage = stage().await;
    for (text, is_replaced) in [(" ", false), ("Hi ", true), ("there ", false)] {
        stage.client.say(&format!(r#"{{"text":"{text}"}}"#)).await;
        stage.upstream.hear().await;
        stage.upstream.say("{}").await;
        stage.client.hear().await;
        assert_eq!(stage.warm.take_vacated(), is_replaced, "after {text:?}");
    }

    // More than is at hand: its characters are waited for.
    let mut long = self::stage().await;
    long.client
        .say(&format!(r#"{{"text":"{}"}}"#, "long ".repeat(5_000)))
        .await;
    long.upstream.hear().await;
    assert!(long.warm.take_vacated());

    let mut silent = self::stage().await;
    silent.client.close(1000, "").await;
    silent.upstream.hear().await;
    assert!(!silent.warm.take_vacated());
    silent.upstream.close(1000, "").await;
    silent.done.await.unwrap();
    assert!(silent.warm.take_vacated());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session_half_a_second_after_upstream_would() {
    let mut stage = stage().await;
    let started = Instant::now();
    stage
        .client
        .expect_ending("input_timeout_exceeded", 1008)
        .await;
    assert_eq!(started.elapsed().as_millis(), 20_500);
    // Upstream is pinged at 20 s, then told that the client has left.
    assert_eq!(
        stage.upstream.hear_answering().await,
        Heard::Close(Some(1001), String::new())
    );
}

#[tokio::test(start_paused = true)]
async fn messages_of_either_side_restart_the_idle_timer_and_pings_do_not() {
    let mut stage = stage().await;
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs(15)).await;
    stage.client.say(r#"{"text":" "}"#).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    stage.upstream.say("{}").await;
    assert_eq!(
        stage.client.hear_answering().await,
        Heard::Text("{}".to_owned())
    );
    tokio::time::sleep(Duration::from_secs(15)).await;
    stage.client.send(Opcode::Ping, b"still here").await;
    assert_eq!(
        stage.client.hear_answering().await,
        Heard::Pong(b"still here".to_vec())
    );
    stage
        .client
        .expect_ending("input_timeout_exceeded", 1008)
        .await;
    assert_eq!(started.elapsed().as_millis(), 50_500);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_gone_after_two() {
    let mut stage = stage_with(|terms, _| terms.inactivity = Duration::from_secs(180)).await;
    let started = Instant::now();
    assert_eq!(stage.client.hear().await, Heard::Ping);
    assert_eq!(stage.client.hear().await, Heard::Ping);
    let upstream = async {
        assert_eq!(
            stage.upstream.hear_answering().await,
            Heard::Close(Some(1001), String::new())
        );
    };
    tokio::join!(upstream, async {
        assert_eq!(stage.client.hear().await, Heard::Gone)
    });
    assert_eq!(started.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_answers_no_ping_is_gone_after_two() {
    let mut stage = stage_with(|terms, _| terms.inactivity = Duration::from_secs(180)).await;
    let started = Instant::now();
    stage
        .client
        .expect_ending("upstream_disconnected", 1011)
        .await;
    assert_eq!(started.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_session_lasts_no_longer_than_its_plan_allows() {
    let mut stage =
        stage_with(|_, limits| limits.max_session_duration = Duration::from_secs(3)).await;
    let started = Instant::now();
    stage.client.expect_ending("session_expired", 1008).await;
    assert_eq!(started.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_live_session_lasts_as_long_as_its_plan_has_come_to_allow() {
    for (seconds, ends_after) in [(60, 60), (5, 5), (1, 2)] {
        let mut stage =
            stage_with(|_, limits| limits.max_session_duration = Duration::from_secs(10)).await;
        let started = Instant::now();
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.is_allowed(|limits| {
            limits.max_session_duration = Duration::from_secs(seconds);
            limits.max_inactivity_timeout = Duration::from_secs(180);
        });
        let speaking = async {
            loop {
                tokio::time::sleep(Duration::from_secs(15)).await;
                stage.upstream.say("{}").await;
            }
        };
        let ending = async {
            loop {
                match stage.client.hear_answering().await {
                    Heard::Text(text) if text == "{}" => {}
                    heard => return Wire::expect_error(heard, "session_expired", 1008),
                }
            }
        };
        tokio::select! {
            () = speaking => {}
            () = ending => {}
        }
        assert_eq!(
            started.elapsed().as_secs(),
            ends_after,
            "{seconds} s allowed"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_allowed_again_up_to_what_upstream_was_asked_for() {
    for (seconds, ends_after_ms) in [([10, 10], 10_500), ([10, 30], 20_500)] {
        let mut stage = stage().await;
        let started = Instant::now();
        for seconds in seconds {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stage.is_allowed(|limits| {
                limits.max_inactivity_timeout = Duration::from_secs(seconds);
            });
        }
        let ending = stage.client.expect_ending("input_timeout_exceeded", 1008);
        ending.await;
        assert_eq!(started.elapsed().as_millis(), ends_after_ms);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_token() {
    let mut stage = stage_with(|terms, _| {
        let expiry = Instant::now() + Duration::from_secs(7);
        terms.expiry = Some((expiry, Problem::token_expired()));
    })
    .await;
    let started = Instant::now();
    stage.client.expect_ending("token_expired", 1008).await;
    assert_eq!(started.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_after_its_time() {
    let mut stage = stage().await;
    let started = Instant::now();
    let message = format!(r#"{{"audio":"{}"}}"#, "A".repeat(30_000));
    let flood = async {
        loop {
            let mut frame = Vec::new();
            write_frame(&mut frame, Opcode::Text, message.as_bytes(), None);
            if stage.upstream.stream.write_all(&frame).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), flood)
        .await
        .unwrap();
    // The relay's socket is full within no time, and stays so for 10 s.
    assert!(
        (10..12).contains(&started.elapsed().as_secs()),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn silence_counts_from_when_a_slow_client_has_read_all() {
    let mut stage = stage_with(|terms, _| terms.inactivity = Duration::from_secs(3)).await;
    // More than the sockets take: the last of it is written when the client reads.
    let message = format!(r#"{{"audio":"{}"}}"#, "A".repeat(3 * SOCKET_BYTES));
    stage.upstream.say(&message).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let read = Instant::now();
    assert_eq!(stage.client.hear().await, Heard::Text(message));
    stage
        .client
        .expect_ending("input_timeout_exceeded", 1008)
        .await;
    assert_eq!(read.elapsed().as_millis(), 3500);
}

impl Transport for Chopped {
    fn gather(&self) {}
}

#[tokio::test(start_paused = true)]
async fn a_turn_cut_short_loses_neither_bytes_nor_deadlines() {
    // One byte a read: a message takes more reads than the runtime allows a turn.
    let wrap = |stream| Chopped::new(stream, 1);
    let mut stage = stage_through(SOCKET_BYTES, wrap, |_, _| {}, None).await;
    let started = Instant::now();
    // Before its first turn, in which the timer is asked last: both have spent it by then.
    let text = format!(r#"{{"text":"{}"}}"#, "so ".repeat(500));
    let audio = format!(r#"{{"audio":"{}"}}"#, "A".repeat(2000));
    stage.client.say(&text).await;
    stage.upstream.say(&audio).await;
    assert_eq!(stage.upstream.hear().await, Heard::Text(text));
    assert_eq!(stage.client.hear().await, Heard::Text(audio));
    stage
        .client
        .expect_ending("input_timeout_exceeded", 1008)
        .await;
    assert_eq!(started.elapsed().as_millis(), 20_500);
}

#[tokio::test(start_paused = true)]
async fn the_echo_of_a_close_is_awaited_for_its_time() {
    let mut stage = stage().await;
    stage.upstream.close(1000, "").await;
    assert_eq!(
        stage.client.hear().await,
        Heard::Close(Some(1000), String::new())
    );
    let started = Instant::now();
    assert_eq!(stage.client.hear().await, Heard::Gone);
    assert_eq!(started.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_close_of_the_client_passes_and_audio_still_comes_before_its_echo() {
    let mut stage = stage().await;
    stage.client.say(r#"{"text":"Hi "}"#).await;
    stage.client.say(r#"{"text":""}"#).await;
    stage.client.close(1000, "enough").await;
    stage.upstream.hear().await;
    stage.upstream.hear().await;
    assert_eq!(
        stage.upstream.hear().await,
        Heard::Close(Some(1000), "enough".to_owned())
    );
    for index in 0..5 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let audio = format!(r#"{{"audio":"AAA{index}"}}"#);
        stage.upstream.say(&audio).await;
        assert_eq!(stage.client.hear_answering().await, Heard::Text(audio));
    }
    stage.upstream.close(1000, "enough").await;
    assert_eq!(
        stage.client.hear_answering().await,
        Heard::Close(Some(1000), "enough".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_before_its_text_has_ended_is_answered_in_time() {
    let mut stage = stage().await;
    stage.client.close(1001, "").await;
    let started = Instant::now();
    assert_eq!(
        stage.client.hear().await,
        Heard::Close(Some(1001), String::new())
    );
    assert_eq!(started.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanishes_takes_upstream_with_it_at_once() {
    let mut stage = stage().await;
    let started = Instant::now();
    drop(stage.client);
    assert_eq!(
        stage.upstream.hear().await,
        Heard::Close(Some(1001), String::new())
    );
    assert_eq!(stage.upstream.hear().await, Heard::Gone);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_breaks_off_in_a_frame_is_told_of_in_a_whole_one() {
    let mut frame = Vec::new();
    let text = format!(r#"{{"audio":"{}"}}"#, "A".repeat(3000));
    write_frame(&mut frame, Opcode::Text, text.as_bytes(), None);
    for n_bytes in [0, 1, 2, 3, 4, 5, 100, frame.len() - 1] {
        let mut stage = stage().await;
        stage.upstream.say(&text).await;
        stage
            .upstream
            .stream
            .write_all(&frame[..n_bytes])
            .await
            .unwrap();
        drop(stage.upstream);
        assert_eq!(stage.client.hear().await, Heard::Text(text.clone()));
        stage
            .client
            .expect_ending("upstream_disconnected", 1011)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_leg_is_failed_with_the_code_its_own_peer_earned() {
    for (bytes, code) in [
        (&[0x83, 0x80, 0, 0, 0, 0][..], 1002),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xFF], 1007),
        (&[0x81, 0xFF, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0], 1009),
    ] {
        let mut stage = stage().await;
        stage.client.stream.write_all(bytes).await.unwrap();
        let Heard::Close(seen, _) = stage.client.hear().await else {
            panic!("no close")
        };
        assert_eq!(seen, Some(code));
        let Heard::Close(seen, _) = stage.upstream.hear().await else {
            panic!("no close")
        };
        assert_eq!(seen, Some(1011));
    }
    for (bytes, code) in [(&[0xC1, 0][..], 1002), (&[0x81, 1, 0xFF], 1007)] {
        let mut stage = stage().await;
        stage.upstream.stream.write_all(bytes).await.unwrap();
        stage
            .client
            .expect_ending("upstream_disconnected", 1011)
            .await;
        let Heard::Close(seen, _) = stage.upstream.hear().await else {
            panic!("no close")
        };
        assert_eq!(seen, Some(code));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_counted_does_not_go_up() {
    for message in [
        "no json",
        "[]",
        r#"{"text":1}"#,
        r#"{"text":"a","text":"b"}"#,
    ] {
        let mut stage = stage().await;
        stage.client.say(message).await;
        stage
            .client
            .expect_ending("invalid_input_message", 1008)
            .await;
        let Heard::Close(..) = stage.upstream.hear().await else {
            panic!("{message} went up")
        };
    }
    let mut stage = stage().await;
    stage.client.send(Opcode::Binary, b"{}").await;
    stage
        .client
        .expect_ending("invalid_input_message", 1003)
        .await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_come_too_fast_end_the_session() {
    let mut stage = stage_with(|_, limits| limits.max_messages_per_second = 5).await;
    for _ in 0..6 {
        stage.client.say(r#"{"text":" "}"#).await;
    }
    stage
        .client
        .expect_ending("rate_limit_exceeded", 1008)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_frames_come_too_fast_is_listened_to_up_to_its_close() {
    let mut stage = stage_with(|_, limits| limits.max_messages_per_second = 5).await;
    let mask = stage.client.mask();
    let mut frames = Vec::new();
    for _ in 0..5 * 20 {
        write_frame(&mut frames, Opcode::Pong, b"", mask);
    }
    // The frame that is one too many, and a message behind it.
    for _ in 0..2 {
        write_frame(&mut frames, Opcode::Text, br#"{"text":" "}"#, mask);
    }
    stage.client.stream.write_all(&frames).await.unwrap();
    stage
        .client
        .expect_ending("rate_limit_exceeded", 1008)
        .await;
    let more = tokio::time::timeout(Duration::from_secs(1), stage.client.hear());
    assert!(more.await.is_err(), "the client has not closed yet");
    stage.client.close(1008, "").await;
    assert_eq!(stage.client.hear().await, Heard::Gone);
}

#[tokio::test(start_paused = true)]
async fn fragments_go_up_as_one_message_and_come_down_as_they_are() {
    let mut stage = stage().await;
    let mut wire = Vec::new();
    write_frame(&mut wire, Opcode::Text, br#"{"te"#, stage.client.mask());
    wire[0] &= 0x7F;
    write_frame(&mut wire, Opcode::Ping, b"p", stage.client.mask());
    write_frame(
        &mut wire,
        Opcode::Continuation,
        br#"xt":"Hi "}"#,
        stage.client.mask(),
    );
    stage.client.stream.write_all(&wire).await.unwrap();
    assert_eq!(stage.client.hear().await, Heard::Pong(b"p".to_vec()));
    assert_eq!(
        stage.upstream.hear().await,
        Heard::Text(r#"{"text":"Hi "}"#.to_owned())
    );

    let mut wire = Vec::new();
    write_frame(&mut wire, Opcode::Text, b"{\"a", None);
    wire[0] &= 0x7F;
    let first_len = wire.len();
    write_frame(&mut wire, Opcode::Ping, b"q", None);
    let ping_end = wire.len();
    write_frame(&mut wire, Opcode::Continuation, b"\":1}", None);
    stage.upstream.stream.write_all(&wire).await.unwrap();
    let expected = [&wire[..first_len], &wire[ping_end..]].concat();
    let mut seen = vec![0; expected.len()];
    stage.client.stream.read_exact(&mut seen).await.unwrap();
    assert_eq!(seen, expected);
    assert_eq!(stage.upstream.hear().await, Heard::Pong(b"q".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_message_of_16_mib_comes_down_unchanged() {
    let stage = stage().await;
    let text = "x".repeat(16 * 1024 * 1024);
    let (mut upstream, mut client) = (stage.upstream, stage.client);
    let sender = tokio::spawn(async move {
        upstream.say(&text).await;
        upstream.close(1000, "").await;
        (upstream, text)
    });
    let Heard::Text(seen) = client.hear().await else {
        panic!("no message")
    };
    let (_upstream, text) = sender.await.unwrap();
    assert!(seen == text);
    assert_eq!(client.hear().await, Heard::Close(Some(1000), String::new()));
}

/// An audio message whose frame is `n_bytes` long, and says which of several it is.
fn audio_of(n_bytes: usize, index: usize) -> String {
    let header = if n_bytes > 65_535 + 10 { 10 } else { 4 };
    let start = format!(r#"{{"audio":"{index:04}"#);
    let end = r#""}"#;
    let filler = "A".repeat(n_bytes - header - start.len() - end.len());
    format!("{start}{filler}{end}")
}

#[tokio::test(start_paused = true)]
async fn messages_come_down_unchanged_wherever_a_read_cuts_them() {
    // With 1 to 14 bytes left of the first read, the second frame is cut in its header or behind it.
    for left in [0, 1, 2, 3, 4, 9, 10, 11, 14] {
        let sizes = [
            65_546,
            scratch::READ_BYTES - 65_546 - left,
            65_546,
            500,
            // Longer than the buffer, but held.
            900_000,
            65_546,
            scratch::READ_BYTES,
            scratch::READ_BYTES + 1,
            300,
        ];
        let texts: Vec<_> = (0..).zip(sizes).map(|(i, n)| audio_of(n, i)).collect();
        let mut bytes = Vec::new();
        for text in &texts {
            write_frame(&mut bytes, Opcode::Text, text.as_bytes(), None);
        }
        write_close(&mut bytes, Some(1000), "", None);
        // All at once; and with a pause in the middle of every frame.
        for piece_len in [bytes.len(), 70_001, 16_384] {
            let mut stage = stage_over(1 << 23, |_, _| {}, None).await;
            for piece in bytes.chunks(piece_len) {
                stage.upstream.stream.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for text in &texts {
                assert!(stage.client.hear().await == Heard::Text(text.clone()));
            }
            assert_eq!(
                stage.client.hear().await,
                Heard::Close(Some(1000), String::new())
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_may_close_while_half_a_message_is_on_its_way() {
    let mut stage = stage().await;
    let mut frame = Vec::new();
    write_frame(
        &mut frame,
        Opcode::Text,
        audio_of(40_000, 0).as_bytes(),
        None,
    );
    stage
        .upstream
        .stream
        .write_all(&frame[..20_000])
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.client.close(1000, "bye").await;
    let bye = Heard::Close(Some(1000), "bye".to_owned());
    assert_eq!(stage.upstream.hear().await, bye);
    assert_eq!(stage.client.hear().await, bye);
}

/// Messages that are held, that go on as they come, and that wait for their characters.
#[tokio::test]
async fn what_crosses_is_written_down_as_it_was_forwarded() {
    let directory = tempfile::tempdir().unwrap();
    let config = RecordingConfig {
        directory: Some(directory.path().to_owned()),
        sessions: RecordedSessions::All,
    };
    let recordings = Recordings::start(&config).unwrap().unwrap();
    let mut stage = stage_recorded(|_, _| {}, Some(&recordings)).await;
    let session = stage.live.id;
    stage.client.say(r#"{"text":"Hi ","xi_api_key":"x"}"#).await;
    assert_eq!(
        stage.upstream.hear().await,
        Heard::Text(r#"{"text":"Hi "}"#.to_owned())
    );
    let (start, rest) = ("s".repeat(100), "r".repeat(2 * 1024 * 1024));
    let whole = format!("{start}{rest}");
    let (mut upstream, mut client) = (stage.upstream, stage.client);
    let sender = tokio::spawn(async move {
        upstream.say(&rest).await;
        let mut fragments = Vec::new();
        write_frame(&mut fragments, Opcode::Text, start.as_bytes(), None);
        // The first of several.
        fragments[0] &= 0x7f;
        write_frame(&mut fragments, Opcode::Continuation, rest.as_bytes(), None);
        upstream.stream.write_all(&fragments).await.unwrap();
        upstream.close(1000, "").await;
        (upstream, rest)
    });
    let mut bytes = Vec::new();
    client.stream.read_to_end(&mut bytes).await.unwrap();
    let (_upstream, rest) = sender.await.unwrap();
    stage.done.await.unwrap();
    recordings.finish();
    let text = std::fs::read_to_string(directory.path().join(format!("{session}.jsonl"))).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let data: Vec<_> = lines.skip(1).map(|line| line["data"].clone()).collect();
    assert_eq!(data.len(), 4);
    assert_eq!(data[0], r#"{"text":"Hi "}"#);
    assert!(data[1] == *rest && data[2] == *whole && data[3].is_null());
}

const SECRET: &str = "hush-hush";

async fn stage_with_secret() -> Stage {
    stage_with(|terms, _| terms.secrets = Arc::new(Secrets::new(&[SECRET.into()]))).await
}

#[tokio::test(start_paused = true)]
async fn a_held_message_of_any_size_comes_down_without_secrets() {
    let mut stage = stage_with_secret().await;
    for n_bytes in [100, 20_000, relay::MAX_HELD_BYTES as usize - 100] {
        let filler = "x".repeat(n_bytes);
        let message = format!(r#"{{"message":"{filler}{SECRET}","error":"e","code":1008}}"#);
        let expected = message.replace(SECRET, "***");
        let (upstream, heard) = (&mut stage.upstream, stage.client.hear());
        let ((), heard) = tokio::join!(upstream.say(&message), heard);
        assert!(heard == Heard::Text(expected), "{n_bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn fragments_come_down_without_secrets() {
    let mut stage = stage_with_secret().await;
    let mut wire = Vec::new();
    write_frame(&mut wire, Opcode::Text, br#"{"note":"hush-"#, None);
    wire[0] &= 0x7F;
    write_frame(&mut wire, Opcode::Continuation, br#"hush"}"#, None);
    stage.upstream.stream.write_all(&wire).await.unwrap();
    let expected = r#"{"note":"***"}"#.to_owned();
    assert_eq!(stage.client.hear().await, Heard::Text(expected));
}

#[tokio::test(start_paused = true)]
async fn the_context_of_audio_comes_down_without_secrets() {
    let mut stage = stage_with_secret().await;
    let audio = format!(r#"{{"audio":"AAEC","contextId":"{SECRET}"}}"#);
    stage.upstream.say(&audio).await;
    let expected = r#"{"audio":"AAEC","contextId":"***"}"#.to_owned();
    assert_eq!(stage.client.hear().await, Heard::Text(expected));
}

#[tokio::test(start_paused = true)]
async fn a_binary_message_stays_one_without_its_secret() {
    let mut stage = stage_with_secret().await;
    let message = [b"\xFF", SECRET.as_bytes()].concat();
    stage.upstream.send(Opcode::Binary, &message).await;
    let mut expected = Vec::new();
    write_frame(&mut expected, Opcode::Binary, b"\xFF***", None);
    let mut seen = vec![0; expected.len()];
    stage.client.stream.read_exact(&mut seen).await.unwrap();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn no_secret_of_upstreams_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let config = RecordingConfig {
        directory: Some(directory.path().to_owned()),
        sessions: RecordedSessions::All,
    };
    let recordings = Recordings::start(&config).unwrap().unwrap();
    let with_secret = |terms: &mut Terms, _: &mut Limits| {
        terms.secrets = Arc::new(Secrets::new(&[SECRET.into()]))
    };
    let mut stage = stage_recorded(with_secret, Some(&recordings)).await;
    let session = stage.live.id;
    // Of these the client gets the first as it came.
    let audio = format!(r#"{{"audio":"AAEC","note":"{SECRET}"}}"#);
    stage.upstream.say(&audio).await;
    let error = format!(r#"{{"error":"{SECRET}"}}"#);
    stage.upstream.say(&error).await;
    stage.upstream.close(1008, SECRET).await;
    stage
        .client
        .stream
        .read_to_end(&mut Vec::new())
        .await
        .unwrap();
    stage.done.await.unwrap();
    recordings.finish();
    let text = std::fs::read_to_string(directory.path().join(format!("{session}.jsonl"))).unwrap();
    assert_eq!(text.matches("***").count(), 3, "{text}");
    assert!(!text.contains(SECRET), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_operator_can_end_a_session() {
    let mut stage = stage().await;
    stage
        .live
        .end(SessionEnd::Refused(Problem::service_restart()));
    stage.client.expect_ending("service_restart", 1012).await;
}

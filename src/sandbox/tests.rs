//! The sandbox through its sockets.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod formats;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::encoder::Encoder;
use super::format::{Codec, Endpoint, Format};
use super::speech::{Frame, Origin, Speech};
use super::voice::{TONES, Voice, frequency};
use super::{Config, Server};

const ADA: &str = "/v1/text-to-speech/AdaTone0000000000001/stream-input";

/// A sandbox on a port of its own, stopped on drop.
struct TestSandbox {
    address: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
    shutdown: DropGuard,
}

impl TestSandbox {
    async fn start() -> Self {
        Self::with(Config::immediate()).await
    }

    async fn with(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(
            Server::new(config)
                .unwrap()
                .serve(listener, shutdown.clone()),
        );
        Self {
            address,
            task,
            shutdown: shutdown.drop_guard(),
        }
    }

    async fn connect(&self, path: &str) -> Result<(TestClient, Response), Error> {
        let tcp = TcpStream::connect(self.address).await?;
        let url = format!("ws://{}{path}", self.address);
        let (socket, response) = client_async(url, tcp).await?;
        Ok((TestClient(socket), response))
    }

    async fn client(&self, path: &str) -> TestClient {
        self.connect(path).await.unwrap().0
    }

    /// Status, head and body of a request.
    async fn http(&self, method: &str, path: &str, key: Option<&str>, body: &str) -> Answer {
        let mut tcp = TcpStream::connect(self.address).await.unwrap();
        let key = key
            .map(|key| format!("xi-api-key: {key}\r\n"))
            .unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        tcp.read_to_end(&mut bytes).await.unwrap();
        Answer::parse(&bytes)
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8(bytes[..end].to_vec())
            .unwrap()
            .to_lowercase();
        let mut body = bytes[end + 4..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = dechunk(&body);
        }
        Self {
            status: head[9..12].parse().unwrap(),
            head,
            body,
        }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
    body
}

struct TestClient(WebSocketStream<TcpStream>);

impl TestClient {
    async fn say(&mut self, message: Value) {
        self.0
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    async fn next(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(Duration::from_secs(10), self.0.next())
            .await
            .unwrap()
    }

    async fn next_text(&mut self) -> String {
        match self.next().await {
            Some(Ok(Message::Text(text))) => text.to_string(),
            other => panic!("a text frame was expected, not {other:?}"),
        }
    }

    async fn expect_close(&mut self, code: u16) -> String {
        match self.next().await {
            Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == code => {
                frame.reason.to_string()
            }
            other => panic!("close {code} was expected, not {other:?}"),
        }
    }
}

#[tokio::test]
async fn every_socket_format_is_decoded_by_ffmpeg() {
    let sandbox = TestSandbox::start().await;
    formats::check_all(&sandbox.address.to_string(), "anything").await;
}

/// The tone that sounds loudest in a stretch of samples.
fn loudest(samples: &[i16], rate: u32) -> u8 {
    let power = |tone: &u8| {
        let step = std::f64::consts::TAU * frequency(*tone) / f64::from(rate);
        let (mut re, mut im) = (0.0, 0.0);
        for (index, sample) in samples.iter().enumerate() {
            let (sin, cos) = (step * index as f64).sin_cos();
            re += f64::from(*sample) * cos;
            im += f64::from(*sample) * sin;
        }
        re.hypot(im)
    };
    (0..TONES)
        .max_by(|a, b| power(a).total_cmp(&power(b)))
        .unwrap()
}

#[test]
fn every_format_sounds_each_character_when_its_alignment_says() {
    let voice = Voice::new("ada", 0);
    for (name, codec, rate, _) in formats::FORMATS {
        let speech = Speech::new(
            "Sphinx of black quartz, judge my vow",
            voice,
            0.7,
            true,
            Frame::Trimmed,
        );
        let timing = speech.spoken.slice(0, u32::MAX, Origin::Segment).unwrap();
        let format = Format::parse(name, Endpoint::Stream).unwrap();
        let mut encoder = Encoder::new(format);
        speech.spans.iter().for_each(|span| encoder.push(*span));
        let mut audio = encoder.take();
        audio.extend(encoder.finish());
        let samples = formats::decode(name, codec, rate, &audio);
        for (index, character) in timing.chars.iter().enumerate() {
            let Some(tone) = voice.span(*character).tone else {
                continue;
            };
            // The middle half: a codec frame may have the neighbor's tone at the edges.
            let at = |quarters: u64| {
                let ms = timing.starts_ms[index] * 4 + timing.durations_ms[index] * quarters;
                (ms * u64::from(rate) / 4000) as usize
            };
            let heard = loudest(&samples[at(1)..at(3)], rate);
            assert!(
                heard.abs_diff(tone) <= 1,
                "{name}: {character:?} sounds as {heard}, not {tone}"
            );
        }
    }
}

#[tokio::test]
async fn a_session_from_upgrade_to_close() {
    let sandbox = TestSandbox::start().await;
    let path = format!("{ADA}?output_format=pcm_8000");
    let (mut client, response) = sandbox.connect(&path).await.unwrap();
    assert!(response.headers().contains_key("x-trace-id"));
    client.say(json!({"text": " ", "xi_api_key": "k"})).await;
    client.say(json!({"text": "Hello there. "})).await;
    client.say(json!({"text": ""})).await;
    let audio: Value = serde_json::from_str(&client.next_text().await).unwrap();
    assert_eq!(audio["isFinal"], Value::Null);
    assert_eq!(audio["alignment"]["charStartTimesMs"][0], 0);
    let tail: Value = serde_json::from_str(&client.next_text().await).unwrap();
    assert_eq!(
        (&tail["alignment"], tail["audio"].is_string()),
        (&Value::Null, true)
    );
    assert_eq!(
        client.next_text().await,
        r#"{"audio":null,"isFinal":true,"normalizedAlignment":null,"alignment":null}"#
    );
    assert_eq!(client.expect_close(1000).await, "");
}

#[tokio::test]
async fn same_text_voice_seed_and_format_same_frames() {
    async fn frames(sandbox: &TestSandbox, path: &str) -> Vec<String> {
        let mut client = sandbox.client(path).await;
        client
            .say(json!({"text": "Ten ships sail. ", "xi_api_key": "k"}))
            .await;
        client.say(json!({"text": ""})).await;
        let mut frames = Vec::new();
        while let Some(Ok(Message::Text(text))) = client.next().await {
            frames.push(text.to_string());
        }
        frames
    }
    let sandbox = TestSandbox::start().await;
    for format in ["mp3_44100_128", "opus_48000_32", "pcm_16000", "ulaw_8000"] {
        let path = format!("{ADA}?output_format={format}");
        let first = frames(&sandbox, &path).await;
        assert_eq!(first, frames(&sandbox, &path).await);
        assert_ne!(first, frames(&sandbox, &format!("{path}&seed=7")).await);
        assert_ne!(first, frames(&sandbox, &path.replace("Ada", "Bob")).await);
    }
}

#[tokio::test]
async fn an_upgrade_is_refused_with_a_body() {
    #[track_caller]
    fn check(result: Result<(TestClient, Response), Error>, status: u16, code: &str) {
        match result {
            Err(Error::Http(response)) => {
                assert_eq!(response.status().as_u16(), status);
                let body: Value =
                    serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
                assert_eq!(body["detail"]["code"], code);
                assert_eq!(body["detail"]["status"], code);
            }
            other => panic!("a refusal was expected, not {:?}", other.map(|(_, r)| r)),
        }
    }
    let sandbox = TestSandbox::start().await;
    let connect = async |query: &str| sandbox.connect(&format!("{ADA}{query}")).await;
    check(
        connect("?model_id=eleven_v3").await,
        400,
        "unsupported_model",
    );
    check(
        connect("?output_format=wav_44100").await,
        403,
        "invalid_output_format",
    );
    let dialogue = "/v1/text-to-dialogue/stream-input?model_id=eleven_flash_v2_5";
    check(sandbox.connect(dialogue).await, 400, "unsupported_model");
    let fault = "/v1/text-to-speech/fault-http-503/stream-input";
    check(sandbox.connect(fault).await, 503, "internal_server_error");
}

#[tokio::test]
async fn malformed_upgrades_are_refused() {
    let sandbox = TestSandbox::start().await;
    let status = async |head: &str| {
        let mut tcp = TcpStream::connect(sandbox.address).await.unwrap();
        let request = format!("GET {ADA} HTTP/1.1\r\n{head}Connection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        tcp.read_to_end(&mut bytes).await.unwrap();
        Answer::parse(&bytes).status
    };
    let upgrade = "Upgrade: websocket\r\nConnection: upgrade\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let host = "Host: localhost\r\n";
    assert_eq!(status(&format!("{host}{upgrade}{version}")).await, 400);
    assert_eq!(
        status(&format!("{host}{upgrade}{key}Sec-WebSocket-Version: 8\r\n")).await,
        426
    );
    assert_eq!(status(&format!("{upgrade}{key}{version}")).await, 403);
    let foreign = "Origin: https://evil.example\r\n";
    assert_eq!(
        status(&format!("{host}{foreign}{upgrade}{key}{version}")).await,
        403
    );
}

#[tokio::test]
async fn an_error_frame_comes_before_its_close() {
    let sandbox = TestSandbox::start().await;
    let mut client = sandbox.client("/v1/text-to-speech/nope/stream-input").await;
    client.say(json!({"text": " ", "xi_api_key": "k"})).await;
    assert_eq!(
        client.next_text().await,
        r#"{"message":"A voice with voice_id nope does not exist.","error":"voice_id_does_not_exist","code":1008}"#
    );
    assert_eq!(
        client.expect_close(1008).await,
        "A voice with voice_id nope does not exist."
    );
}

#[tokio::test]
async fn protocol_faults_earn_their_close_code() {
    let sandbox = TestSandbox::start().await;
    let mut client = sandbox.client(ADA).await;
    client
        .0
        .send(Message::text("x".repeat(300 * 1024)))
        .await
        .unwrap();
    client.expect_close(1009).await;
    let mut client = sandbox.client(ADA).await;
    client
        .0
        .get_mut()
        .write_all(&[0x83, 0x80, 0, 0, 0, 0])
        .await
        .unwrap();
    client.expect_close(1002).await;
    let mut client = sandbox.client(ADA).await;
    client
        .0
        .get_mut()
        .write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff])
        .await
        .unwrap();
    client.expect_close(1007).await;
}

#[tokio::test]
async fn faults_reach_the_wire() {
    let sandbox = TestSandbox::start().await;
    let start = async |voice: &str| {
        let path = format!("/v1/text-to-speech/{voice}/stream-input?output_format=pcm_8000");
        let mut client = sandbox.client(&path).await;
        client
            .say(json!({"text": "Hello. ", "xi_api_key": "k", "flush": true}))
            .await;
        client
    };
    let mut cut = start("fault-cut").await;
    cut.next_text().await;
    match cut.next().await {
        Some(Err(Error::Io(error))) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        other => panic!("a reset was expected, not {other:?}"),
    }
    let mut dropped = start("fault-drop").await;
    dropped.next_text().await;
    assert!(matches!(
        dropped.next().await,
        Some(Err(Error::Protocol(_)))
    ));
    let mut closed = start("fault-close-1011").await;
    closed.next_text().await;
    closed.expect_close(1011).await;
    assert!(start("fault-oversize-2").await.next_text().await.len() > 2 * 1024 * 1024);
    let binary = start("fault-binary").await.next().await;
    assert!(matches!(binary, Some(Ok(Message::Binary(_)))));
}

#[tokio::test]
async fn a_single_use_token_opens_one_socket() {
    let sandbox = TestSandbox::start().await;
    let path = "/v1/single-use-token/tts_websocket";
    assert_eq!(sandbox.http("POST", path, None, "").await.status, 401);
    let answer = sandbox.http("POST", path, Some("k"), "").await.json();
    let query = format!(
        "{ADA}?single_use_token={}",
        answer["token"].as_str().unwrap()
    );
    let mut first = sandbox.client(&query).await;
    first.say(json!({"text": "Hello. ", "flush": true})).await;
    assert!(first.next_text().await.contains(r#""isFinal":null"#));
    let mut second = sandbox.client(&query).await;
    second.say(json!({"text": "Hello. ", "flush": true})).await;
    assert!(second.next_text().await.contains("invalid_api_key"));
}

#[tokio::test]
async fn a_dialogue_over_its_socket() {
    let sandbox = TestSandbox::start().await;
    let path = "/v1/text-to-dialogue/multi-stream-input?sync_alignment=true";
    let mut client = sandbox.client(path).await;
    client
        .say(json!({"context_id": "t", "voices": ["ada"], "xi_api_key": "k"}))
        .await;
    client
        .say(json!({
            "context_id": "t",
            "inputs": [{"text": "Good day.", "voice_id": "ada"}],
            "flush": true,
        }))
        .await;
    client.say(json!({"close_socket": true})).await;
    let audio: Value = serde_json::from_str(&client.next_text().await).unwrap();
    assert_eq!(audio["context_id"], "t");
    assert_eq!(audio["alignment"]["char_start_times_ms"][0], 0);
    let mut rest = Vec::new();
    while let Some(Ok(Message::Text(text))) = client.next().await {
        rest.push(text.to_string());
    }
    assert_eq!(
        rest[rest.len() - 1],
        r#"{"is_final":true,"context_id":"t"}"#
    );
    assert!(rest.contains(&r#"{"is_final_audio_for_turn":true,"context_id":"t"}"#.to_owned()));
}

#[tokio::test]
async fn the_http_paths_speak_in_every_format() {
    let sandbox = TestSandbox::start().await;
    let body = r#"{"text":"Over 9 hills.","model_id":"eleven_flash_v2_5"}"#;
    for format in super::format::ALL {
        let path = format!("/v1/text-to-speech/ada?output_format={}", format.name);
        let whole = sandbox.http("POST", &path, Some("k"), body).await;
        assert_eq!(whole.status, 200, "{}", format.name);
        assert!(
            whole
                .head
                .contains(&format!("content-type: {}", format.content_type()))
        );
        assert!(whole.head.contains("character-cost: 7"), "{}", whole.head);
        for header in [
            "request-id",
            "history-item-id",
            "x-trace-id",
            "server: uvicorn",
        ] {
            assert!(whole.head.contains(header), "{header}");
        }
        let path = path.replace("ada?", "ada/with-timestamps?");
        let timed = sandbox.http("POST", &path, Some("k"), body).await.json();
        let audio = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            timed["audio_base64"].as_str().unwrap(),
        );
        assert_eq!(audio.unwrap(), whole.body, "{}", format.name);
        assert_eq!(
            timed["alignment"]["characters"].as_array().map(Vec::len),
            Some(13)
        );
        let path = format!(
            "/v1/text-to-speech/ada/stream?output_format={}",
            format.name
        );
        let streamed = sandbox.http("POST", &path, Some("k"), body).await;
        if format.codec == Codec::Wav {
            assert_eq!(streamed.json()["detail"]["code"], "invalid_output_format");
        } else if format.codec != Codec::Opus {
            assert_eq!(streamed.body, whole.body, "{}", format.name);
        }
    }
}

#[tokio::test]
async fn streamed_timestamps_are_lines_that_go_on_counting() {
    let sandbox = TestSandbox::start().await;
    let text = "A sentence that is long enough for several frames of audio. ".repeat(3);
    let body = json!({"inputs": [
        {"text": text, "voice_id": "ada"}, {"text": text, "voice_id": "bob"},
    ]});
    let path = "/v1/text-to-dialogue/stream/with-timestamps?output_format=pcm_44100";
    let answer = sandbox
        .http("POST", path, Some("k"), &body.to_string())
        .await;
    let text = String::from_utf8(answer.body).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.len() > 4);
    let starts: Vec<f64> = lines
        .iter()
        .filter_map(|line| line["alignment"]["character_start_times_seconds"].as_array())
        .flatten()
        .filter_map(Value::as_f64)
        .collect();
    assert!(starts.is_sorted() && starts.len() == 360);
    assert_eq!(lines[0]["voice_segments"][0]["voice_id"], "ada");
    let last = &lines[lines.len() - 2]["voice_segments"][0];
    assert_eq!(
        (&last["voice_id"], &last["dialogue_input_index"]),
        (&json!("bob"), &json!(1))
    );
}

#[tokio::test]
async fn faults_strike_over_http_too() {
    let sandbox = TestSandbox::start().await;
    let speak = async |path: &str| {
        let path = format!("/v1/text-to-speech/{path}");
        sandbox
            .http("POST", &path, Some("k"), r#"{"text":"Hello."}"#)
            .await
    };
    assert_eq!(speak("fault-http-502").await.status, 502);
    assert_eq!(
        speak("fault-quota").await.json()["detail"]["code"],
        "quota_exceeded"
    );
    assert!(speak("fault-silent-final/stream").await.body.is_empty());
    let broken = speak("fault-malformed/with-timestamps").await.body;
    assert!(serde_json::from_slice::<Value>(&broken).is_err());
    let mut tcp = TcpStream::connect(sandbox.address).await.unwrap();
    let head = "POST /v1/text-to-speech/fault-cut/stream HTTP/1.1\r\nHost: localhost\r\n\
                xi-api-key: k\r\nContent-Length: 17\r\n\r\n{\"text\":\"Hello.\"}";
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tcp.read_to_end(&mut bytes).await.unwrap();
    // A chunked body is whole only with an empty chunk at its end.
    assert!(bytes.len() > 1000 && !bytes.ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn http_errors_have_their_bodies() {
    let sandbox = TestSandbox::with(Config {
        character_limit: Some(100),
        ..Config::immediate()
    })
    .await;
    let speech = "/v1/text-to-speech/ada";
    let check = async |path: &str, key, body: &str, status, code: &str| {
        let answer = sandbox.http("POST", path, key, body).await;
        assert_eq!(answer.status, status, "{path} {body}");
        let detail = &answer.json()["detail"];
        assert!(
            detail["code"] == code || detail[0]["type"] == code,
            "{detail}"
        );
    };
    let hi = r#"{"text":"Hi"}"#;
    check(speech, None, hi, 401, "needs_authorization").await;
    check(speech, Some("invalid"), hi, 400, "invalid_api_key").await;
    check(
        "/v1/text-to-speech/nope",
        Some("k"),
        hi,
        404,
        "voice_not_found",
    )
    .await;
    check(speech, Some("k"), "{}", 422, "missing").await;
    check(speech, Some("k"), "{", 422, "json_invalid").await;
    check(
        speech,
        Some("k"),
        r#"{"text":"Hi","model_id":"x"}"#,
        404,
        "model_not_found",
    )
    .await;
    check(
        &format!("{speech}?output_format=x"),
        Some("k"),
        hi,
        403,
        "invalid_output_format",
    )
    .await;
    check(
        "/v1/text-to-speech/fault-concurrency",
        Some("k"),
        hi,
        429,
        "too_many_concurrent_requests",
    )
    .await;
    let long = json!({"text": "x".repeat(101)}).to_string();
    check(speech, Some("k"), &long, 401, "quota_exceeded").await;
    let longest = json!({"text": "x".repeat(10_001)}).to_string();
    check(speech, Some("k"), &longest, 400, "text_too_long").await;
    assert_eq!(
        sandbox
            .http("POST", "/v1/text-to-speech/ada/x", Some("k"), hi)
            .await
            .status,
        404
    );
    assert_eq!(
        sandbox
            .http("DELETE", "/v1/voices", Some("k"), "")
            .await
            .status,
        405
    );
}

#[tokio::test]
async fn lookups_answer_and_the_subscription_counts() {
    let sandbox = TestSandbox::start().await;
    sandbox
        .http(
            "POST",
            "/v1/text-to-speech/ada",
            Some("k"),
            r#"{"text":"12345"}"#,
        )
        .await;
    let get = async |path: &str| sandbox.http("GET", path, Some("k"), "").await.json();
    assert_eq!(get("/v1/user/subscription").await["character_count"], 5);
    assert_eq!(get("/v1/user").await["subscription"]["character_count"], 5);
    assert!(
        get("/v1/voices").await["voices"]
            .as_array()
            .is_some_and(|v| v.len() > 3)
    );
    assert_eq!(get("/v2/voices?page_size=10").await["has_more"], false);
    let models = get("/v1/models").await;
    assert!(
        models
            .as_array()
            .unwrap()
            .iter()
            .any(|m| m["model_id"] == "eleven_flash_v2_5")
    );
    assert_eq!(
        sandbox.http("GET", "/v1/models", None, "").await.status,
        401
    );
}

#[tokio::test]
async fn stopping_closes_open_sockets() {
    let sandbox = TestSandbox::start().await;
    let mut client = sandbox.client(ADA).await;
    drop(sandbox.shutdown);
    client.expect_close(1012).await;
    assert!(sandbox.task.await.unwrap().is_ok());
}

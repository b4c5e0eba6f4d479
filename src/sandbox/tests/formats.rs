//! Decodes every format of the sockets with ffmpeg. Uses nothing of the crate, so that the same
//! check runs against the sandbox itself and through whatever stands before it.

use std::io::Write as _;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

/// The names of all socket formats, each with ffmpeg's codec, the rate, and the length of a codec
/// frame in seconds. Times of the alignment are rounded to milliseconds, so no limit is below two.
pub const FORMATS: [(&str, &str, u32, f64); 22] = [
    ("mp3_22050_32", "mp3", 22_050, 576.0 / 22_050.0),
    ("mp3_24000_48", "mp3", 24_000, 576.0 / 24_000.0),
    ("mp3_44100", "mp3", 44_100, 1152.0 / 44_100.0),
    ("mp3_44100_32", "mp3", 44_100, 1152.0 / 44_100.0),
    ("mp3_44100_64", "mp3", 44_100, 1152.0 / 44_100.0),
    ("mp3_44100_96", "mp3", 44_100, 1152.0 / 44_100.0),
    ("mp3_44100_128", "mp3", 44_100, 1152.0 / 44_100.0),
    ("mp3_44100_192", "mp3", 44_100, 1152.0 / 44_100.0),
    ("pcm_8000", "s16le", 8_000, 0.002),
    ("pcm_16000", "s16le", 16_000, 0.002),
    ("pcm_22050", "s16le", 22_050, 0.002),
    ("pcm_24000", "s16le", 24_000, 0.002),
    ("pcm_32000", "s16le", 32_000, 0.002),
    ("pcm_44100", "s16le", 44_100, 0.002),
    ("pcm_48000", "s16le", 48_000, 0.002),
    ("ulaw_8000", "mulaw", 8_000, 0.002),
    ("alaw_8000", "alaw", 8_000, 0.002),
    ("opus_48000_32", "opus", 48_000, 0.02),
    ("opus_48000_64", "opus", 48_000, 0.02),
    ("opus_48000_96", "opus", 48_000, 0.02),
    ("opus_48000_128", "opus", 48_000, 0.02),
    ("opus_48000_192", "opus", 48_000, 0.02),
];

/// Speaks in every format at `authority` (`host:port`) and checks codec, rate, length against the
/// alignment, and that the tones can be heard.
///
/// # Panics
/// When anything is amiss, ffmpeg and ffprobe not being there included.
pub async fn check_all(authority: &str, api_key: &str) {
    for (name, codec, rate, frame) in FORMATS {
        let (audio, seconds) = speak(authority, api_key, name).await;
        let samples = decode(name, codec, rate, &audio);
        if is_named(codec) {
            probe(name, codec, rate, &audio);
        }
        let decoded = samples.len() as f64 / f64::from(rate);
        assert!(
            (decoded - seconds).abs() <= frame,
            "{name}: {decoded} s decoded, {seconds} s in the alignment"
        );
        let power = samples
            .iter()
            .map(|sample| f64::from(*sample).powi(2))
            .sum::<f64>();
        let volume = (power / samples.len() as f64).sqrt();
        assert!(
            (1500.0..9000.0).contains(&volume),
            "{name}: volume {volume}"
        );
    }
}

/// Audio of two segments and a tail, and the seconds that their alignments add up to.
async fn speak(authority: &str, api_key: &str, format: &str) -> (Vec<u8>, f64) {
    let url = format!(
        "ws://{authority}/v1/text-to-speech/AdaTone0000000000001/stream-input\
         ?model_id=eleven_flash_v2_5&output_format={format}"
    );
    let tcp = TcpStream::connect(authority)
        .await
        .expect("the server listens");
    let (mut socket, _) = client_async(url, tcp).await.expect("an upgrade");
    let first = serde_json::json!({ "text": " ", "xi_api_key": api_key }).to_string();
    for message in [
        first.as_str(),
        r#"{"text":"The quick brown fox jumps over 13 lazy dogs. ","flush":true}"#,
        r#"{"text":"And over a fence. "}"#,
        r#"{"text":""}"#,
    ] {
        socket
            .send(Message::text(message))
            .await
            .expect("the server reads");
    }
    let (mut audio, mut milliseconds) = (Vec::new(), 0);
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let frame: Value = serde_json::from_str(&text).expect("frames are JSON");
        assert_eq!(frame.get("error"), None, "{format}: {text}");
        let payload = STANDARD.decode(frame["audio"].as_str().unwrap_or_default());
        audio.extend(payload.expect("audio is base64"));
        let durations = frame["normalizedAlignment"]["charDurationsMs"].as_array();
        milliseconds += durations
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .sum::<u64>();
    }
    (audio, milliseconds as f64 / 1000.0)
}

/// Whether the bytes themselves say what they are.
fn is_named(codec: &str) -> bool {
    matches!(codec, "mp3" | "opus")
}

/// 16-bit samples as ffmpeg decodes them.
///
/// # Panics
/// When ffmpeg is not there, or complains.
pub fn decode(name: &str, codec: &str, rate: u32, audio: &[u8]) -> Vec<i16> {
    let rate = rate.to_string();
    let mut input: Vec<&str> = Vec::new();
    if !is_named(codec) {
        input.extend(["-f", codec, "-ar", &rate, "-ac", "1"]);
    }
    let file = file_with(audio);
    let path = file
        .path()
        .to_str()
        .expect("temporary files have plain names");
    input.extend(["-i", path, "-f", "s16le", "-"]);
    let bytes = run(name, "ffmpeg", &input);
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect()
}

fn probe(name: &str, codec: &str, rate: u32, audio: &[u8]) {
    let file = file_with(audio);
    let path = file
        .path()
        .to_str()
        .expect("temporary files have plain names");
    let entries = "stream=codec_name,sample_rate,channels";
    let answer = run(
        name,
        "ffprobe",
        &["-show_entries", entries, "-of", "csv=p=0", path],
    );
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(answer.trim(), format!("{codec},{rate},1"), "{name}");
}

fn file_with(audio: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(audio).expect("room for a temporary file");
    file
}

fn run(name: &str, program: &str, args: &[&str]) -> Vec<u8> {
    let done = Command::new(program)
        .args(["-v", "warning"])
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let complaint = String::from_utf8_lossy(&done.stderr);
    // ffmpeg says so whenever it has to take the length from the bit rate.
    let is_harmless =
        complaint.is_empty() || complaint.contains("Estimating duration from bitrate");
    assert!(
        done.status.success() && is_harmless,
        "{program} on {name}: {complaint}"
    );
    done.stdout
}

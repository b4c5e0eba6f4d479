//! The HTTP paths that speak: audio or timestamps, in one piece or streamed.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, stream};
use http::{HeaderName, StatusCode, header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::account::{Running, random_hex};
use super::encoder::{self, Encoder};
use super::fault::{self, Fault};
use super::format::{Codec, Endpoint, Format};
use super::message::speed;
use super::model;
use super::query::{self, Query};
use super::refusal::Refusal;
use super::server::{self, Sandbox};
use super::speech::{Frame, Origin, Slice, Speech};
use super::utterance::{Piece, Timings, Utterance};
use super::voice::{self, Voice};

/// The longest request body, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// Voices of one dialogue.
const MAX_VOICES: usize = 10;

/// Which of the four answers a path gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    is_streamed: bool,
    has_timestamps: bool,
}

impl Form {
    const WHOLE: Self = Self {
        is_streamed: false,
        has_timestamps: false,
    };

    fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "stream" => Self {
                is_streamed: true,
                has_timestamps: false,
            },
            "with-timestamps" => Self {
                is_streamed: false,
                has_timestamps: true,
            },
            "stream/with-timestamps" => Self {
                is_streamed: true,
                has_timestamps: true,
            },
            _ => return None,
        })
    }
}

/// What is to be said: by whom and what.
struct Line {
    voice: String,
    text: String,
}

/// Why there is no audio.
enum Failure {
    Refused(Refusal),
    /// The body does not fit the schema: 422 with a list.
    Invalid(Value),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

pub(super) async fn speech(
    State(sandbox): State<Sandbox>,
    Path(voice): Path<String>,
    request: Request,
) -> Response {
    respond(&sandbox, Form::WHOLE, Some(voice), request).await
}

pub(super) async fn speech_in_form(
    State(sandbox): State<Sandbox>,
    Path((voice, form)): Path<(String, String)>,
    request: Request,
) -> Response {
    match Form::parse(&form) {
        Some(form) => respond(&sandbox, form, Some(voice), request).await,
        None => server::not_found().await,
    }
}

pub(super) async fn dialogue(State(sandbox): State<Sandbox>, request: Request) -> Response {
    respond(&sandbox, Form::WHOLE, None, request).await
}

pub(super) async fn dialogue_in_form(
    State(sandbox): State<Sandbox>,
    Path(form): Path<String>,
    request: Request,
) -> Response {
    match Form::parse(&form) {
        Some(form) => respond(&sandbox, form, None, request).await,
        None => server::not_found().await,
    }
}

/// Answers a request; without a voice in the path it is a dialogue.
async fn respond(
    sandbox: &Sandbox,
    form: Form,
    voice: Option<String>,
    request: Request,
) -> Response {
    match prepare(sandbox, form, voice, request).await {
        Ok(job) if job.fault == Some(Fault::Mute) => pending().await,
        Ok(job) => job.respond(sandbox).await,
        Err(Failure::Refused(refusal)) => refusal.response(),
        Err(Failure::Invalid(detail)) => {
            let body = json!({ "detail": [detail] }).to_string();
            server::json(StatusCode::UNPROCESSABLE_ENTITY, body)
        }
    }
}

fn missing(name: &str) -> Failure {
    Failure::Invalid(
        json!({"type": "missing", "loc": ["body", name], "msg": "Field required", "input": null}),
    )
}

async fn prepare(
    sandbox: &Sandbox,
    form: Form,
    voice: Option<String>,
    request: Request,
) -> Result<Job, Failure> {
    let query = Query::parse(request.uri().query());
    sandbox
        .account
        .judge(query::credential(request.headers(), &query).as_ref())?;
    let bytes = to_bytes(request.into_body(), MAX_BODY)
        .await
        .map_err(|_| Refusal {
            status: 413,
            ..Refusal::invalid_message("The request body is too large.")
        })?;
    let body: Value = serde_json::from_slice(&bytes).map_err(|_| {
        Failure::Invalid(json!({
            "type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error", "input": {},
        }))
    })?;
    let endpoint = if form.is_streamed {
        Endpoint::Stream
    } else {
        Endpoint::Whole
    };
    let format = query.format(endpoint)?;
    let is_dialogue = voice.is_none();
    let default_model = if is_dialogue {
        "eleven_v3"
    } else {
        "eleven_multilingual_v2"
    };
    let model = body
        .get("model_id")
        .and_then(Value::as_str)
        .unwrap_or(default_model);
    let model = model::find(model).ok_or_else(Refusal::unknown_model)?;
    let lines = match voice {
        Some(voice) => vec![Line {
            voice,
            text: text_of(&body)?,
        }],
        None => lines_of(&body)?,
    };
    let faults = lines.iter().map(|line| {
        match Fault::of_voice(&line.voice).and_then(Fault::before_upgrade) {
            Some(refusal) => Err(refusal),
            None => fault::check_voice(&line.voice),
        }
    });
    let fault = faults
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .next();
    let n_chars: usize = lines.iter().map(|line| line.text.chars().count()).sum();
    if n_chars > model.max_chars {
        return Err(Refusal::text_too_long(model.max_chars).into());
    }
    let mut cost = 0;
    for line in &lines {
        cost += sandbox
            .account
            .spend(&line.text, model.halves_per_character)?;
    }
    Ok(Job {
        form,
        format,
        cost,
        fault,
        is_dialogue,
        script: Script::new(&lines, &body),
    })
}

fn text_of(body: &Value) -> Result<String, Failure> {
    match body.get("text") {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        None => Err(missing("text")),
        Some(_) => Err(Failure::Invalid(json!({
            "type": "string_type", "loc": ["body", "text"],
            "msg": "Input should be a string that is not empty", "input": null,
        }))),
    }
}

fn lines_of(body: &Value) -> Result<Vec<Line>, Failure> {
    let inputs = body
        .get("inputs")
        .and_then(Value::as_array)
        .ok_or_else(|| missing("inputs"))?;
    let lines = inputs.iter().map(|input| {
        let voice = input.get("voice_id").and_then(Value::as_str);
        Ok(Line {
            voice: voice.ok_or_else(|| missing("voice_id"))?.to_owned(),
            text: text_of(input)?,
        })
    });
    let lines = lines.collect::<Result<Vec<_>, Failure>>()?;
    let mut voices: Vec<_> = lines.iter().map(|line| &line.voice).collect();
    voices.sort();
    voices.dedup();
    if lines.is_empty() || voices.len() > MAX_VOICES {
        return Err(Refusal::invalid_message("inputs must have 1 to 10 voices.")
            .with_param("inputs")
            .into());
    }
    Ok(lines)
}

/// The laid-out speech of a request and who speaks when.
struct Script {
    speech: Speech,
    segments: Vec<Segment>,
}

struct Segment {
    voice: String,
    hops: std::ops::Range<u32>,
    chars: std::ops::Range<usize>,
}

impl Script {
    fn new(lines: &[Line], body: &Value) -> Self {
        let number = |name| body.get(name).and_then(Value::as_u64);
        let seed = number("seed").unwrap_or_default() as u32;
        let normalization = body.get("apply_text_normalization").and_then(Value::as_str);
        let speed = speed(body.get("voice_settings"));
        let mut speech = Speech::empty();
        let mut segments = Vec::new();
        for Line { voice, text } in lines {
            let said = Speech::new(
                text,
                Voice::new(voice, seed),
                speed,
                normalization != Some("off"),
                Frame::Verbatim,
            );
            let (from, first) = (speech.hops(), speech.written.len());
            speech.append(said);
            segments.push(Segment {
                voice: voice.clone(),
                hops: from..speech.hops(),
                chars: first..speech.written.len(),
            });
        }
        Self { speech, segments }
    }
}

impl Segment {
    fn describe(&self, index: usize) -> Value {
        let seconds = |hops: u32| voice::hops_to_ms(hops.into()) as f64 / 1000.0;
        json!({
            "voice_id": self.voice,
            "start_time_seconds": seconds(self.hops.start),
            "end_time_seconds": seconds(self.hops.end),
            "character_start_index": self.chars.start,
            "character_end_index": self.chars.end,
            "dialogue_input_index": index,
        })
    }
}

/// A request that will be answered with audio.
struct Job {
    form: Form,
    format: Format,
    /// Credits.
    cost: u64,
    fault: Option<Fault>,
    is_dialogue: bool,
    script: Script,
}

impl Job {
    async fn respond(self, sandbox: &Sandbox) -> Response {
        let (running, n_running) = sandbox.account.clone().start();
        let head = self.head(&sandbox.config.first_audio_delay, n_running);
        let body = if self.form.is_streamed {
            self.streamed(sandbox, running)
        } else {
            tokio::time::sleep(sandbox.config.first_audio_delay).await;
            self.whole()
        };
        (StatusCode::OK, head, body).into_response()
    }

    fn head(&self, latency: &Duration, n_running: usize) -> [(HeaderName, String); 12] {
        let content_type = match self.form {
            Form {
                has_timestamps: false,
                ..
            } => self.format.content_type(),
            Form {
                is_streamed: true, ..
            } => "text/event-stream",
            Form { .. } => "application/json",
        };
        let named = HeaderName::from_static;
        [
            (header::CONTENT_TYPE, content_type.to_owned()),
            (named("request-id"), random_hex()),
            (named("history-item-id"), random_hex()),
            (named("character-cost"), self.cost.to_string()),
            (named("current-concurrent-requests"), n_running.to_string()),
            (named("maximum-concurrent-requests"), "20".to_owned()),
            (
                named("workspace-concurrent-requests"),
                n_running.to_string(),
            ),
            (named("tts-latency-ms"), latency.as_millis().to_string()),
            (named("x-region"), "sandbox".to_owned()),
            (
                named("x-trace-id"),
                format!("{}{}", random_hex(), random_hex()),
            ),
            (header::SERVER, "uvicorn".to_owned()),
            (header::VIA, "1.1 google".to_owned()),
        ]
    }

    fn whole(self) -> Body {
        let Self {
            form,
            format,
            fault,
            is_dialogue,
            script,
            ..
        } = self;
        let Script { speech, segments } = script;
        let (written, spoken) = (whole_of(&speech.written), whole_of(&speech.spoken));
        let mut audio = Vec::new();
        if fault != Some(Fault::SilentFinal) {
            for mut utterance in utterances(speech, format) {
                while let Some(piece) = utterance.next_piece() {
                    audio.extend(piece.audio);
                }
            }
        }
        if format.codec == Codec::Wav {
            audio = encoder::wav(format.rate, &audio);
        }
        if form.has_timestamps {
            let segments = is_dialogue.then_some(&segments[..]);
            let mut json = timestamps(
                &audio,
                written.as_ref(),
                spoken.as_ref(),
                segments,
                0..u32::MAX,
            );
            if fault == Some(Fault::Malformed) {
                json.truncate(json.len() / 2);
            }
            audio = json.into_bytes();
        }
        match fault {
            Some(Fault::Cut | Fault::Drop | Fault::Close(_)) => {
                let some = Bytes::from(audio).split_to(1);
                let start = stream::once(async { Ok(some) });
                Body::from_stream(start.chain(stream::once(async { Err(broken().await) })))
            }
            _ => Body::from(audio),
        }
    }

    fn streamed(self, sandbox: &Sandbox, running: Running) -> Body {
        let Self {
            form,
            format,
            fault,
            is_dialogue,
            script,
            ..
        } = self;
        let is_silent = fault == Some(Fault::SilentFinal);
        let Script { speech, segments } = script;
        let utterances = if is_silent {
            VecDeque::new()
        } else {
            utterances(speech, format).into()
        };
        let state = Streaming {
            form,
            fault,
            segments: is_dialogue.then_some(segments),
            utterances,
            due: Instant::now() + sandbox.config.first_audio_delay,
            pace: sandbox.config.pace,
            n_chunks: 0,
            _running: running,
        };
        Body::from_stream(stream::unfold(state, Streaming::next))
    }
}

fn whole_of(timing: &super::speech::Timing) -> Option<Slice> {
    timing.slice(0, u32::MAX, Origin::Segment)
}

fn utterances(speech: Speech, format: Format) -> [Utterance; 2] {
    let encoder = Arc::new(Mutex::new(Encoder::new(format)));
    [
        Utterance::speech(speech, Timings::Segment, encoder.clone()),
        Utterance::tail(encoder),
    ]
}

/// An answer on its way out. Nothing more is made once its client is gone.
struct Streaming {
    form: Form,
    fault: Option<Fault>,
    segments: Option<Vec<Segment>>,
    utterances: VecDeque<Utterance>,
    due: Instant,
    pace: f64,
    n_chunks: usize,
    _running: Running,
}

impl Streaming {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        match self.fault {
            Some(Fault::Stall) if self.n_chunks > 0 => pending().await,
            Some(Fault::Cut | Fault::Drop | Fault::Close(_)) if self.n_chunks > 0 => {
                return Some((Err(broken().await), self));
            }
            _ => {}
        }
        let piece = self.next_piece()?;
        tokio::time::sleep_until(self.due).await;
        if self.pace > 0.0 {
            self.due += piece.plays.div_f64(self.pace);
        }
        self.n_chunks += 1;
        let chunk = if self.form.has_timestamps {
            self.line(&piece)
        } else {
            piece.audio.into()
        };
        Some((Ok(chunk), self))
    }

    fn next_piece(&mut self) -> Option<Piece> {
        loop {
            if let Some(piece) = self.utterances.front_mut()?.next_piece() {
                return Some(piece);
            }
            self.utterances.pop_front();
        }
    }

    fn line(&self, piece: &Piece) -> Bytes {
        let (written, spoken) = (piece.written.as_ref(), piece.spoken.as_ref());
        let segments = self.segments.as_deref();
        let mut line = timestamps(&piece.audio, written, spoken, segments, piece.range.clone());
        if self.fault == Some(Fault::Malformed) {
            line.truncate(line.len() / 2);
        }
        line.push('\n');
        line.into()
    }
}

/// Breaks an answer off once what came before is out: hyper flushes while it has to wait.
async fn broken() -> io::Error {
    tokio::task::yield_now().await;
    io::Error::other("broken off on request")
}

/// The JSON of audio with times, which over HTTP are in seconds. Dialogues say who speaks in
/// `range`.
fn timestamps(
    audio: &[u8],
    written: Option<&Slice>,
    spoken: Option<&Slice>,
    segments: Option<&[Segment]>,
    range: std::ops::Range<u32>,
) -> String {
    let mut object = json!({
        "audio_base64": STANDARD.encode(audio),
        "alignment": written.map(in_seconds),
        "normalized_alignment": spoken.map(in_seconds),
    });
    if let Some(segments) = segments {
        object["voice_segments"] = segments
            .iter()
            .enumerate()
            .filter(|(_, segment)| segment.hops.start < range.end && range.start < segment.hops.end)
            .map(|(index, segment)| segment.describe(index))
            .collect();
    }
    object.to_string()
}

fn in_seconds(slice: &Slice) -> Value {
    let starts = slice.starts_ms.iter();
    let ends = starts
        .clone()
        .zip(&slice.durations_ms)
        .map(|(start, ms)| (start + ms) as f64 / 1e3);
    json!({
        "characters": slice.chars,
        "character_start_times_seconds": starts.map(|ms| *ms as f64 / 1e3).collect::<Vec<_>>(),
        "character_end_times_seconds": ends.collect::<Vec<_>>(),
    })
}

//! Recorded sessions, read to be replayed: what the client said step by step, and what upstream
//! sent after which step.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::player::Out;
use super::query::Query;
use crate::ids::Side;
use crate::protocol::{Crossed, Endpoint, RECORDING_VERSION, Recorded, RecordingHead};

/// What the name of a whole recording ends in.
const EXTENSION: &str = "jsonl";

/// Why recordings cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The directory or a file in it cannot be read.
    #[error("cannot read the recordings in {path}: {cause}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// There is none.
    #[error("{0} holds no recordings: `xi-relay --record DIR` makes some")]
    Empty(PathBuf),
    /// A file is something else.
    #[error("{path} is no recording that this version can read: line {line}: {cause}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there, without the line's content.
        cause: &'static str,
    },
}

/// All recordings of a directory, by endpoint and voice.
pub(super) struct Recordings(HashMap<(String, String), Vec<Arc<Recording>>>);

/// One recorded session.
#[derive(Debug, Default)]
pub(super) struct Recording {
    query: Vec<(String, String)>,
    /// What the client said.
    pub(super) said: Said,
    /// What upstream sent, in order.
    pub(super) cues: Vec<Cue>,
}

/// Something that upstream sent.
#[derive(Debug)]
pub(super) struct Cue {
    /// The client had said so many steps before.
    pub(super) after: usize,
    /// So long after the last of them.
    pub(super) delay: Duration,
    pub(super) out: Out,
}

/// What a client has said, step by step, however it was cut into messages. Contexts have numbers,
/// since their names are often made anew each time.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) steps: Vec<Step>,
    /// The names of the contexts, in the order in which they were first named.
    pub(super) contexts: Vec<Option<String>>,
    context: usize,
    voice: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// What follows is for another context.
    Context(usize),
    /// What follows is to be said by another voice of a dialogue.
    Voice(Box<str>),
    NewTurn,
    Char(char),
    /// An empty text.
    Empty,
    Flush,
    CloseContext,
    CloseSocket,
    /// A message with none of these.
    Other,
}

impl Recordings {
    /// Reads all recordings of a directory.
    pub(super) fn load(directory: &Path) -> Result<Self, ReplayError> {
        let unreadable = |cause| ReplayError::Unreadable {
            path: directory.to_owned(),
            cause,
        };
        let entries = fs::read_dir(directory).map_err(unreadable)?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        paths.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == EXTENSION)
        });
        // The same one is chosen each time.
        paths.sort();
        if paths.is_empty() {
            return Err(ReplayError::Empty(directory.to_owned()));
        }
        let mut by_place: HashMap<_, Vec<_>> = HashMap::new();
        for path in paths {
            let text = fs::read_to_string(&path).map_err(|cause| ReplayError::Unreadable {
                path: path.clone(),
                cause,
            })?;
            let (head, recording) = Recording::parse(&text)
                .map_err(|(line, cause)| ReplayError::Malformed { path, line, cause })?;
            by_place
                .entry((head.endpoint, head.voice))
                .or_default()
                .push(Arc::new(recording));
        }
        Ok(Self(by_place))
    }

    /// The recordings of an endpoint and voice, those with the closest query first.
    pub(super) fn of(&self, endpoint: Endpoint, voice: &str, query: &Query) -> Vec<Arc<Recording>> {
        let place = (endpoint.as_str().to_owned(), voice.to_owned());
        let mut found = self.0.get(&place).cloned().unwrap_or_default();
        found.sort_by_key(|recording| recording.distance(query));
        found
    }
}

impl Recording {
    /// Reads a file; an error names the line.
    pub(super) fn parse(text: &str) -> Result<(RecordingHead, Self), (usize, &'static str)> {
        let mut lines = text.lines().zip(1..);
        let head = lines
            .next()
            .and_then(|(line, _)| serde_json::from_str(line).ok());
        let head: RecordingHead = head.ok_or((1, "not the head of a recording"))?;
        if head.xi_relay_recording != RECORDING_VERSION {
            return Err((1, "of another version"));
        }
        let pairs = url::form_urlencoded::parse(head.query.as_bytes());
        let mut recording = Self {
            query: pairs.into_owned().collect(),
            ..Self::default()
        };
        let mut last_said_ms = 0;
        for (line, number) in lines {
            let recorded: Recorded<'_> =
                serde_json::from_str(line).map_err(|_| (number, "not a line of a recording"))?;
            let out = match (recorded.from, recorded.what) {
                (Side::Client, Crossed::Text { data }) => {
                    recording.said.hear(&data);
                    last_said_ms = recorded.at_ms;
                    continue;
                }
                // Who has closed hears no more.
                (Side::Client, _) => break,
                (Side::Upstream, Crossed::Text { data }) => Out::Text(data.into_owned()),
                (Side::Upstream, Crossed::Binary { data }) => {
                    let bytes = STANDARD.decode(&*data);
                    Out::Binary(bytes.map_err(|_| (number, "its data is not base64"))?)
                }
                (Side::Upstream, Crossed::Close { code, reason }) => {
                    // 1005 stands for a close frame without a code.
                    Out::Close {
                        code: code.unwrap_or(1005),
                        reason: reason.into_owned(),
                    }
                }
                (Side::Upstream, Crossed::Lost) => Out::Drop,
            };
            let delay = Duration::from_millis(recorded.at_ms.saturating_sub(last_said_ms));
            recording.cues.push(Cue {
                after: recording.said.steps.len(),
                delay,
                out,
            });
        }
        Ok((head, recording))
    }

    /// How far the query is from the recorded one; only the order counts.
    fn distance(&self, query: &Query) -> usize {
        let differs = |(name, value): &&(String, String)| query.get(name) != Some(value.as_str());
        let n_different = self.query.iter().filter(differs).count();
        let n_same = self.query.len() - n_different;
        // A parameter that is asked for and not recorded differs too.
        n_different + query.len().saturating_sub(n_same)
    }

    /// Whether the recorded client began by saying this.
    pub(super) fn begins_with(&self, said: &Said) -> bool {
        self.said.steps.starts_with(&said.steps)
    }
}

impl Said {
    /// Takes in one message.
    pub(super) fn hear(&mut self, message: &str) {
        let n_before = self.steps.len();
        if let Ok(message) = serde_json::from_str::<Value>(message) {
            self.hear_fields(&message);
        }
        if self.steps[n_before..]
            .iter()
            .all(|step| matches!(step, Step::Context(_)))
        {
            self.steps.push(Step::Other);
        }
    }

    fn hear_fields(&mut self, message: &Value) {
        let context = message
            .get("context_id")
            .or_else(|| message.get("contextId"));
        self.enter(context.and_then(Value::as_str));
        let flag = |name| message.get(name) == Some(&Value::Bool(true));
        match message.get("text").and_then(Value::as_str) {
            // A true `flush` makes an empty text a flush rather than the end.
            Some("") if !flag("flush") => self.steps.push(Step::Empty),
            Some(text) => self.steps.extend(text.chars().map(Step::Char)),
            None => {}
        }
        for input in message
            .get("inputs")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let field = |name| input.get(name).and_then(Value::as_str).unwrap_or_default();
            if *self.voice != *field("voice_id") {
                self.voice = field("voice_id").into();
                self.steps.push(Step::Voice(self.voice.clone()));
            }
            if input.get("new_turn") == Some(&Value::Bool(true)) {
                self.steps.push(Step::NewTurn);
            }
            self.steps.extend(field("text").chars().map(Step::Char));
        }
        for (name, step) in [
            ("flush", Step::Flush),
            ("close_context", Step::CloseContext),
            ("close_socket", Step::CloseSocket),
        ] {
            if flag(name) {
                self.steps.push(step);
            }
        }
    }

    fn enter(&mut self, name: Option<&str>) {
        let known = self
            .contexts
            .iter()
            .position(|known| known.as_deref() == name);
        let context = known.unwrap_or_else(|| {
            self.contexts.push(name.map(str::to_owned));
            self.contexts.len() - 1
        });
        if context != self.context {
            self.context = context;
            self.steps.push(Step::Context(context));
        }
    }
}

//! Server messages as the sockets write them, field order included.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use super::speech::Slice;
use super::utterance::Piece;

/// Which dialect a frame is written in, and for which context.
#[derive(Clone, Debug)]
pub(super) enum Wire {
    Single,
    /// The default context has no id.
    Multi(Option<Arc<str>>),
    /// Only the multi-context socket names contexts.
    Dialogue(Option<Arc<str>>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpeechFrame<'a> {
    audio: Option<String>,
    is_final: Option<bool>,
    normalized_alignment: Option<SpeechAlignment<'a>>,
    alignment: Option<SpeechAlignment<'a>>,
    /// Absent on the socket that has one stream alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    context_id: Option<Option<&'a str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpeechAlignment<'a> {
    chars: &'a [char],
    char_start_times_ms: &'a [u64],
    char_durations_ms: &'a [u64],
}

#[derive(Serialize)]
struct DialogueFrame<'a> {
    audio: String,
    alignment: Option<DialogueAlignment<'a>>,
    #[serde(serialize_with = "null")]
    normalized_alignment: (),
    #[serde(skip_serializing_if = "Option::is_none")]
    context_id: Option<&'a str>,
}

#[derive(Serialize)]
struct DialogueAlignment<'a> {
    chars: &'a [char],
    char_start_times_ms: &'a [u64],
    char_durations_ms: &'a [u64],
}

#[derive(Default, Serialize)]
struct DialogueMark<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    is_final_audio_for_turn: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_final: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_id: Option<&'a str>,
}

impl Wire {
    /// An audio frame.
    pub(super) fn audio(&self, piece: &Piece) -> String {
        let audio = STANDARD.encode(&piece.audio);
        match self {
            Self::Single | Self::Multi(_) => json(&SpeechFrame {
                audio: Some(audio),
                is_final: None,
                normalized_alignment: piece.spoken.as_ref().map(SpeechAlignment::from),
                alignment: piece.written.as_ref().map(SpeechAlignment::from),
                context_id: self.speech_context(),
            }),
            Self::Dialogue(context) => json(&DialogueFrame {
                audio,
                alignment: piece.written.as_ref().map(|slice| DialogueAlignment {
                    chars: &slice.chars,
                    char_start_times_ms: &slice.starts_ms,
                    char_durations_ms: &slice.durations_ms,
                }),
                normalized_alignment: (),
                context_id: context.as_deref(),
            }),
        }
    }

    /// The last frame of the socket or context.
    pub(super) fn last(&self) -> String {
        match self {
            Self::Single | Self::Multi(_) => json(&SpeechFrame {
                audio: None,
                is_final: Some(true),
                normalized_alignment: None,
                alignment: None,
                context_id: self.speech_context(),
            }),
            Self::Dialogue(context) => json(&DialogueMark {
                is_final: Some(true),
                context_id: context.as_deref(),
                ..DialogueMark::default()
            }),
        }
    }

    /// The mark behind a turn's audio; the text-to-speech sockets have none.
    pub(super) fn end_of_turn(&self) -> Option<String> {
        let Self::Dialogue(context) = self else {
            return None;
        };
        Some(json(&DialogueMark {
            is_final_audio_for_turn: Some(true),
            context_id: context.as_deref(),
            ..DialogueMark::default()
        }))
    }

    fn speech_context(&self) -> Option<Option<&str>> {
        match self {
            Self::Multi(context) => Some(context.as_deref()),
            Self::Single | Self::Dialogue(_) => None,
        }
    }
}

impl<'a> From<&'a Slice> for SpeechAlignment<'a> {
    fn from(slice: &'a Slice) -> Self {
        Self {
            chars: &slice.chars,
            char_start_times_ms: &slice.starts_ms,
            char_durations_ms: &slice.durations_ms,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn null<S: Serializer>((): &(), serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_none()
}

fn json(frame: &impl Serialize) -> String {
    serde_json::to_string(frame).expect("strings and numbers always serialize")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(slice: Option<Slice>) -> Piece {
        Piece {
            written: slice.clone(),
            spoken: slice,
            ..Piece::untimed(vec![0, 1, 2])
        }
    }

    fn slice() -> Slice {
        Slice {
            chars: vec!['O', 'k'],
            starts_ms: vec![0, 93],
            durations_ms: vec![93, 58],
        }
    }

    #[test]
    fn the_final_frame_is_the_recorded_one() {
        assert_eq!(
            Wire::Single.last(),
            r#"{"audio":null,"isFinal":true,"normalizedAlignment":null,"alignment":null}"#
        );
    }

    #[test]
    fn audio_frames_have_the_recorded_fields() {
        let alignment =
            r#"{"chars":["O","k"],"charStartTimesMs":[0,93],"charDurationsMs":[93,58]}"#;
        assert_eq!(
            Wire::Single.audio(&piece(Some(slice()))),
            format!(
                r#"{{"audio":"AAEC","isFinal":null,"normalizedAlignment":{alignment},"alignment":{alignment}}}"#
            )
        );
        assert_eq!(
            Wire::Multi(Some("a1".into())).audio(&piece(None)),
            r#"{"audio":"AAEC","isFinal":null,"normalizedAlignment":null,"alignment":null,"contextId":"a1"}"#
        );
        assert_eq!(
            Wire::Multi(None).last(),
            r#"{"audio":null,"isFinal":true,"normalizedAlignment":null,"alignment":null,"contextId":null}"#
        );
    }

    #[test]
    fn dialogue_frames_are_in_snake_case() {
        let wire = Wire::Dialogue(Some("t1".into()));
        assert_eq!(
            wire.audio(&piece(Some(slice()))),
            r#"{"audio":"AAEC","alignment":{"chars":["O","k"],"char_start_times_ms":[0,93],"char_durations_ms":[93,58]},"normalized_alignment":null,"context_id":"t1"}"#
        );
        assert_eq!(wire.last(), r#"{"is_final":true,"context_id":"t1"}"#);
        assert_eq!(
            Wire::Dialogue(None).end_of_turn().as_deref(),
            Some(r#"{"is_final_audio_for_turn":true}"#)
        );
    }
}

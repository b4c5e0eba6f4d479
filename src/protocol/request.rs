//! Which of ElevenLabs' endpoints a request is for. What is not listed here does not exist: a
//! general pass-through would lend the real key to every other endpoint of the account.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;
use secrecy::SecretString;

use super::Dialect;
use crate::ids::VoiceId;

/// The endpoints that the relay serves (ElevenLabs API reference).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    /// `GET /v1/text-to-speech/{voice_id}/stream-input`, a WebSocket.
    StreamInput,
    /// `GET /v1/text-to-speech/{voice_id}/multi-stream-input`, a WebSocket.
    MultiStreamInput,
    /// `GET /v1/text-to-dialogue/stream-input`, a WebSocket.
    DialogueStreamInput,
    /// `GET /v1/text-to-dialogue/multi-stream-input`, a WebSocket.
    DialogueMultiStreamInput,
    /// `POST /v1/text-to-speech/{voice_id}`.
    Convert,
    /// `POST /v1/text-to-speech/{voice_id}/stream`.
    Stream,
    /// `POST /v1/text-to-speech/{voice_id}/with-timestamps`.
    ConvertWithTimestamps,
    /// `POST /v1/text-to-speech/{voice_id}/stream/with-timestamps`.
    StreamWithTimestamps,
    /// `POST /v1/text-to-dialogue`.
    DialogueConvert,
    /// `POST /v1/text-to-dialogue/stream`.
    DialogueStream,
    /// `POST /v1/text-to-dialogue/with-timestamps`.
    DialogueConvertWithTimestamps,
    /// `POST /v1/text-to-dialogue/stream/with-timestamps`.
    DialogueStreamWithTimestamps,
    /// `GET /v1/voices`.
    Voices,
    /// `GET /v2/voices`.
    VoicesV2,
    /// `GET /v1/models`.
    Models,
    /// `GET /v1/user/subscription`.
    Subscription,
    /// `GET /v1/user`.
    User,
    /// `POST /v1/single-use-token/tts_websocket`.
    SingleUseToken,
}

impl Endpoint {
    /// Every endpoint, in the order of the list above.
    pub const ALL: [Self; 18] = [
        Self::StreamInput,
        Self::MultiStreamInput,
        Self::DialogueStreamInput,
        Self::DialogueMultiStreamInput,
        Self::Convert,
        Self::Stream,
        Self::ConvertWithTimestamps,
        Self::StreamWithTimestamps,
        Self::DialogueConvert,
        Self::DialogueStream,
        Self::DialogueConvertWithTimestamps,
        Self::DialogueStreamWithTimestamps,
        Self::Voices,
        Self::VoicesV2,
        Self::Models,
        Self::Subscription,
        Self::User,
        Self::SingleUseToken,
    ];

    /// The name in logs, metric labels and the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StreamInput => "stream-input",
            Self::MultiStreamInput => "multi-stream-input",
            Self::DialogueStreamInput => "dialogue-stream-input",
            Self::DialogueMultiStreamInput => "dialogue-multi-stream-input",
            Self::Convert => "convert",
            Self::Stream => "stream",
            Self::ConvertWithTimestamps => "convert-with-timestamps",
            Self::StreamWithTimestamps => "stream-with-timestamps",
            Self::DialogueConvert => "dialogue-convert",
            Self::DialogueStream => "dialogue-stream",
            Self::DialogueConvertWithTimestamps => "dialogue-convert-with-timestamps",
            Self::DialogueStreamWithTimestamps => "dialogue-stream-with-timestamps",
            Self::Voices => "voices",
            Self::VoicesV2 => "voices-v2",
            Self::Models => "models",
            Self::Subscription => "subscription",
            Self::User => "user",
            Self::SingleUseToken => "single-use-token",
        }
    }

    /// The one method the endpoint answers to.
    #[must_use]
    pub fn method(self) -> Method {
        match self {
            Self::StreamInput
            | Self::MultiStreamInput
            | Self::DialogueStreamInput
            | Self::DialogueMultiStreamInput
            | Self::Voices
            | Self::VoicesV2
            | Self::Models
            | Self::Subscription
            | Self::User => Method::GET,
            Self::Convert
            | Self::Stream
            | Self::ConvertWithTimestamps
            | Self::StreamWithTimestamps
            | Self::DialogueConvert
            | Self::DialogueStream
            | Self::DialogueConvertWithTimestamps
            | Self::DialogueStreamWithTimestamps
            | Self::SingleUseToken => Method::POST,
        }
    }

    /// The way text stands in its messages, or in its body over HTTP; none where no text is sent.
    #[must_use]
    pub fn dialect(self) -> Option<Dialect> {
        match self {
            Self::StreamInput
            | Self::Convert
            | Self::Stream
            | Self::ConvertWithTimestamps
            | Self::StreamWithTimestamps => Some(Dialect::Single),
            Self::MultiStreamInput => Some(Dialect::Multi),
            Self::DialogueStreamInput
            | Self::DialogueConvert
            | Self::DialogueStream
            | Self::DialogueConvertWithTimestamps
            | Self::DialogueStreamWithTimestamps => Some(Dialect::Dialogue),
            Self::DialogueMultiStreamInput => Some(Dialect::DialogueMulti),
            Self::Voices
            | Self::VoicesV2
            | Self::Models
            | Self::Subscription
            | Self::User
            | Self::SingleUseToken => None,
        }
    }

    /// Whether it is a WebSocket.
    #[must_use]
    pub fn is_socket(self) -> bool {
        matches!(
            self,
            Self::StreamInput
                | Self::MultiStreamInput
                | Self::DialogueStreamInput
                | Self::DialogueMultiStreamInput
        )
    }

    /// Whether it speaks text: a socket or HTTP synthesis.
    #[must_use]
    pub fn is_synthesis(self) -> bool {
        self.dialect().is_some()
    }

    /// Whether the voices stand in the messages and the text in `inputs`.
    #[must_use]
    pub fn is_dialogue(self) -> bool {
        self.dialect().is_some_and(Dialect::is_dialogue)
    }

    /// Whether the path names a voice.
    #[must_use]
    pub fn has_voice(self) -> bool {
        self.is_synthesis() && !self.is_dialogue()
    }

    /// The model upstream takes when a request names none (ElevenLabs API reference). It is not
    /// stated for the text-to-speech sockets; the HTTP default stands in, whose rate is no lower
    /// than that of any model those sockets offer.
    #[must_use]
    pub fn default_model(self) -> Option<&'static str> {
        Some(match self.dialect()? {
            Dialect::Single | Dialect::Multi => "eleven_multilingual_v2",
            Dialect::Dialogue | Dialect::DialogueMulti if self.is_socket() => {
                "eleven_v3_conversational"
            }
            Dialect::Dialogue | Dialect::DialogueMulti => "eleven_v3",
        })
    }

    /// The path upstream, below whatever prefix its base URL has. `voice` stands in the paths that
    /// name one and is ignored by the others.
    #[must_use]
    pub fn upstream_path(self, voice: Option<&VoiceId>) -> Cow<'static, str> {
        let (before, after) = self.path_parts();
        match voice {
            Some(voice) if self.has_voice() => format!("{before}/{voice}{after}").into(),
            _ if after.is_empty() => before.into(),
            _ => format!("{before}{after}").into(),
        }
    }

    /// The path with `{voice_id}` in the voice's place, for people and for metric labels.
    #[must_use]
    pub fn path_template(self) -> String {
        let (before, after) = self.path_parts();
        let voice = if self.has_voice() { "/{voice_id}" } else { "" };
        format!("{before}{voice}{after}")
    }

    /// What stands before and after the voice, or the whole path in two parts.
    fn path_parts(self) -> (&'static str, &'static str) {
        const SPEECH: &str = "/v1/text-to-speech";
        const DIALOGUE: &str = "/v1/text-to-dialogue";
        match self {
            Self::StreamInput => (SPEECH, "/stream-input"),
            Self::MultiStreamInput => (SPEECH, "/multi-stream-input"),
            Self::DialogueStreamInput => (DIALOGUE, "/stream-input"),
            Self::DialogueMultiStreamInput => (DIALOGUE, "/multi-stream-input"),
            Self::Convert => (SPEECH, ""),
            Self::Stream => (SPEECH, "/stream"),
            Self::ConvertWithTimestamps => (SPEECH, "/with-timestamps"),
            Self::StreamWithTimestamps => (SPEECH, "/stream/with-timestamps"),
            Self::DialogueConvert => (DIALOGUE, ""),
            Self::DialogueStream => (DIALOGUE, "/stream"),
            Self::DialogueConvertWithTimestamps => (DIALOGUE, "/with-timestamps"),
            Self::DialogueStreamWithTimestamps => (DIALOGUE, "/stream/with-timestamps"),
            Self::Voices => ("/v1/voices", ""),
            Self::VoicesV2 => ("/v2/voices", ""),
            Self::Models => ("/v1/models", ""),
            Self::Subscription => ("/v1/user/subscription", ""),
            Self::User => ("/v1/user", ""),
            Self::SingleUseToken => ("/v1/single-use-token/tts_websocket", ""),
        }
    }
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The voice (or its alias) that the path names; present exactly where
    /// [`Endpoint::has_voice`] says so.
    pub voice: Option<VoiceId>,
    /// The token of a path under `/t/{token}`.
    pub token: Option<SecretString>,
}

/// Finds the endpoint of a request, or none where the relay answers 404.
///
/// `path` is the path as it stood in the request line, without the query. Each segment is
/// percent-decoded once, after the path was split, so that an encoded slash cannot make a segment.
/// `prefix` is the configured path prefix, with or without slashes around it; paths are served
/// with and without it.
#[must_use]
pub fn route(prefix: &str, method: &Method, path: &str) -> Option<Route> {
    let route = route_of_path(prefix, path)?;
    (route.endpoint.method() == *method).then_some(route)
}

/// [`route`] for any method: what a CORS preflight (`OPTIONS`) of `path` asks about.
#[must_use]
pub fn route_of_path(prefix: &str, path: &str) -> Option<Route> {
    let segments = segments(path)?;
    // A prefix may be the start of a path as it is without one, such as `/v1`.
    let below = below_prefix(prefix, &segments);
    below
        .and_then(route_of_segments)
        .or_else(|| route_of_segments(&segments))
}

fn route_of_segments(segments: &[Cow<'_, str>]) -> Option<Route> {
    let mut rest = segments;
    let mut token = None;
    if let [first, path_token, below @ ..] = rest
        && first == "t"
    {
        token = Some(SecretString::from(path_token.as_ref()));
        rest = below;
    }
    let (endpoint, voice) = endpoint(rest)?;
    Some(Route {
        endpoint,
        voice,
        token,
    })
}

/// The path's decoded segments. None for a path that is not absolute, has an empty segment (a
/// trailing slash among them) or one that is not UTF-8 or could leave its place.
fn segments(path: &str) -> Option<Vec<Cow<'_, str>>> {
    path.strip_prefix('/')?
        .split('/')
        .map(|segment| {
            let segment = percent_decode_str(segment).decode_utf8().ok()?;
            let stays = !segment.is_empty()
                && segment != "."
                && segment != ".."
                && !segment.contains(['/', '\\'])
                && !segment.chars().any(char::is_control);
            stays.then_some(segment)
        })
        .collect()
}

fn below_prefix<'a, 's>(prefix: &str, segments: &'a [Cow<'s, str>]) -> Option<&'a [Cow<'s, str>]> {
    let mut rest = segments;
    for expected in prefix.split('/').filter(|segment| !segment.is_empty()) {
        rest = rest
            .split_first()
            .filter(|(first, _)| *first == expected)?
            .1;
    }
    Some(rest)
}

fn endpoint(segments: &[Cow<'_, str>]) -> Option<(Endpoint, Option<VoiceId>)> {
    // No path is longer than this one: /v1/text-to-speech/{voice_id}/stream/with-timestamps.
    let mut names = [""; 5];
    for (name, segment) in names.get_mut(..segments.len())?.iter_mut().zip(segments) {
        *name = segment;
    }
    let endpoint = match &names[..segments.len()] {
        ["v1", "text-to-speech", voice, below @ ..] => {
            let endpoint = match below {
                [] => Endpoint::Convert,
                ["stream-input"] => Endpoint::StreamInput,
                ["multi-stream-input"] => Endpoint::MultiStreamInput,
                ["stream"] => Endpoint::Stream,
                ["with-timestamps"] => Endpoint::ConvertWithTimestamps,
                ["stream", "with-timestamps"] => Endpoint::StreamWithTimestamps,
                _ => return None,
            };
            return Some((endpoint, Some(VoiceId::parse(voice).ok()?)));
        }
        ["v1", "text-to-dialogue"] => Endpoint::DialogueConvert,
        ["v1", "text-to-dialogue", "stream-input"] => Endpoint::DialogueStreamInput,
        ["v1", "text-to-dialogue", "multi-stream-input"] => Endpoint::DialogueMultiStreamInput,
        ["v1", "text-to-dialogue", "stream"] => Endpoint::DialogueStream,
        ["v1", "text-to-dialogue", "with-timestamps"] => Endpoint::DialogueConvertWithTimestamps,
        ["v1", "text-to-dialogue", "stream", "with-timestamps"] => {
            Endpoint::DialogueStreamWithTimestamps
        }
        ["v1", "voices"] => Endpoint::Voices,
        ["v2", "voices"] => Endpoint::VoicesV2,
        ["v1", "models"] => Endpoint::Models,
        ["v1", "user", "subscription"] => Endpoint::Subscription,
        ["v1", "user"] => Endpoint::User,
        ["v1", "single-use-token", "tts_websocket"] => Endpoint::SingleUseToken,
        _ => return None,
    };
    Some((endpoint, None))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    const VOICE: &str = "VoiceAlpha0000000001";

    #[track_caller]
    fn check(prefix: &str, path: &str, expected: Option<(Endpoint, Option<&str>, Option<&str>)>) {
        let found = route_of_path(prefix, path);
        let seen = found.as_ref().map(|route| {
            (
                route.endpoint,
                route.voice.as_ref().map(VoiceId::as_str),
                route.token.as_ref().map(|token| token.expose_secret()),
            )
        });
        assert_eq!(seen, expected, "{path}");
    }

    #[test]
    fn every_endpoint_is_found_at_the_path_it_has_upstream() {
        let voice = VoiceId::parse(VOICE).unwrap();
        for endpoint in Endpoint::ALL {
            let path = endpoint.upstream_path(Some(&voice));
            let named = endpoint.has_voice().then_some(VOICE);
            check("", &path, Some((endpoint, named, None)));
            check(
                "/relay/a/",
                &format!("/relay/a{path}"),
                Some((endpoint, named, None)),
            );
            // Also where the prefix is what the path begins with by itself.
            for prefix in ["/relay", "/v1", "/t"] {
                check(prefix, &path, Some((endpoint, named, None)));
                check(
                    prefix,
                    &format!("{prefix}{path}"),
                    Some((endpoint, named, None)),
                );
                check(
                    prefix,
                    &format!("/t/tok{path}"),
                    Some((endpoint, named, Some("tok"))),
                );
            }
            check(
                "",
                &format!("/t/tok-1_2{path}"),
                Some((endpoint, named, Some("tok-1_2"))),
            );
            check(
                "relay",
                &format!("/relay/t/a.b{path}"),
                Some((endpoint, named, Some("a.b"))),
            );

            check("", &format!("/relay{path}"), None);
            check("", &format!("{path}/"), None);
            check("", &format!("/{path}"), None);
            check("", &format!("{path}/x"), None);
            check("", &path[1..], None);
            check("", &format!("/v1{path}"), None);
            check("", &format!("/t{path}"), None);
            check("", &format!("/t/{path}"), None);
            check("", &format!("/t/..{path}"), None);
            check("", &format!("/t/a%2Fb{path}"), None);
            check("", &format!("/t/a%00b{path}"), None);
            check("", &path.to_uppercase(), None);
            assert_eq!(endpoint.path_template().replace("{voice_id}", VOICE), path);
            assert_eq!(endpoint.has_voice(), endpoint.path_template().contains('{'));
        }
    }

    #[test]
    fn a_method_other_than_the_endpoints_own_finds_nothing() {
        assert!(route("", &Method::GET, "/v1/voices").is_some());
        assert!(route("", &Method::DELETE, "/v1/voices").is_none());
        assert!(route("", &Method::HEAD, "/v1/voices").is_none());
        assert!(route("", &Method::GET, "/v1/text-to-dialogue").is_none());
        assert!(route("", &Method::POST, "/v1/text-to-dialogue").is_some());
    }

    #[test]
    fn what_is_not_listed_does_not_exist() {
        for path in [
            "",
            "/",
            "*",
            "/v1",
            "/v1/",
            "/v1/voices/abc",
            "/v1/history",
            "/v1/text-to-speech",
            "/v1/text-to-speech/",
            "/v1/text-to-speech//stream-input",
            "/v1/text-to-speech/../voices",
            "/v1/text-to-speech/%2e%2e/stream-input",
            "/v1/text-to-speech/a%2Fstream-input",
            "/v1/text-to-speech/a%252Fb/stream-input",
            "/v1/text-to-speech/a b/stream-input",
            "/v1/text-to-speech/%ff/stream-input",
            "/v1/text-to-speech/a;b/stream-input",
            "/v1/text-to-speech/a%3Fb/stream-input",
            "/v1/text-to-speech/a/stream-input/with-timestamps",
            "/v1/single-use-token/realtime_scribe",
            "/v2/models",
            "/v1/./voices",
            "/t/tok",
            "/t/tok/t/tok/v1/voices",
        ] {
            check("", path, None);
        }
        let long = "a".repeat(65);
        check("", &format!("/v1/text-to-speech/{long}/stream-input"), None);
    }

    #[test]
    fn segments_are_decoded_once() {
        check(
            "",
            "/v1/text%2Dto-speech/%41bc/stream-input",
            Some((Endpoint::StreamInput, Some("Abc"), None)),
        );
        check(
            "",
            "/t/a%2Eb/v1/user",
            Some((Endpoint::User, None, Some("a.b"))),
        );
    }

    #[test]
    fn the_model_that_upstream_takes_by_itself_is_known() {
        assert_eq!(
            Endpoint::StreamInput.default_model(),
            Some("eleven_multilingual_v2")
        );
        assert_eq!(Endpoint::DialogueConvert.default_model(), Some("eleven_v3"));
        assert_eq!(
            Endpoint::DialogueMultiStreamInput.default_model(),
            Some("eleven_v3_conversational")
        );
        assert_eq!(Endpoint::Voices.default_model(), None);
    }

    proptest! {
        #[test]
        fn any_path_leads_to_a_path_of_ours(path in "(/[a-z0-9%./;\\\\-]{0,12}){0,6}") {
            if let Some(route) = route_of_path("", &path) {
                let upstream = route.endpoint.upstream_path(route.voice.as_ref());
                prop_assert!(upstream.starts_with("/v1/") || upstream.starts_with("/v2/"));
                prop_assert!(!upstream.contains("..") && !upstream.contains('%'));
            }
        }

        #[test]
        fn a_voice_never_leaves_its_segment(voice in "\\PC{0,20}") {
            let encoded = percent_encoding::utf8_percent_encode(
                &voice, percent_encoding::NON_ALPHANUMERIC).to_string();
            let found = route_of_path("", &format!("/v1/text-to-speech/{encoded}/stream-input"));
            prop_assert_eq!(found.is_some(), VoiceId::parse(&voice).is_ok());
        }
    }
}

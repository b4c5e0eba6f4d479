//! HTTP synthesis: from a request to the one exchange with upstream that it pays for.
//!
//! A body is one message: it is read whole, counted and charged before any of it goes up. Over HTTP
//! all text is charged, white space too, since nothing here is a keepalive.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use secrecy::SecretString;

use super::exchange::{Exchange, Presence};
use super::gateway::{Ask, Gateway, expiry};
use super::refusal::{invalid_body, response};
use super::refused::{self, Refused, Wish};
use super::{body, identify};
use crate::auth::Identity;
use crate::ids::VoiceId;
use crate::protocol::{
    AudioMeter, ClientKind, ClientMessage, Endpoint, OutputFormat, Problem, Query, is_body_field,
    scan, with_body_field, with_voices_rewritten, without_credentials,
};
use crate::quota::{AdmissionRequest, Limits, Refusal};
use crate::session::{Facts, Tap, allows_voice, allows_voices_of};
use crate::upstream::HttpRequest;

/// What upstream reads a body as. What was counted was read as JSON, so nothing else may stand here.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The longest `Accept` or `Content-Type` that goes up.
const MAX_HEADER_BYTES: usize = 256;

/// Answers a request for speech.
pub(super) async fn answer(
    gateway: Arc<Gateway>,
    ask: Ask,
    path_token: Option<SecretString>,
    head: Parts,
    body: Body,
) -> Response {
    let identity = match identify::speaker(&gateway, &ask, &head.headers, path_token).await {
        Ok(identity) => identity,
        Err(problem) => {
            let wish = Wish::default();
            let status = problem.status;
            refused::note(&gateway, &ask, None, wish, &problem.error, status, None);
            return response(&problem, ask.id);
        }
    };
    let mut wish = Wish::default();
    match prepare(&gateway, &ask, &identity, &mut wish, &head.headers, body).await {
        Ok(exchange) => exchange.answer().await,
        Err(refused) => refuse(&gateway, &ask, &identity, wish, refused),
    }
}

/// Everything up to the leave to forward the request.
async fn prepare(
    gateway: &Arc<Gateway>,
    ask: &Ask,
    identity: &Identity,
    wish: &mut Wish,
    headers: &HeaderMap,
    body: Body,
) -> Result<Exchange, Refused> {
    let place = gateway.place(ask)?;
    if ask.query.repeated().is_some() {
        return Err(Problem::repeated_parameter().into());
    }
    let limits = gateway.limits(identity)?;
    identify::check_page(ask, identity, &limits)?;
    let mut query = Cow::Borrowed(&ask.query);
    for (name, value) in limits
        .forced_parameters
        .iter()
        .filter(|(name, _)| !is_body_field(name))
    {
        query.to_mut().set(name, value);
    }
    wish.format = Wish::format_of(&query);
    let voice = ask
        .voice
        .as_ref()
        .map(|asked| limits.resolve_voice(asked))
        .transpose()?;
    wish.voice = VoiceId::or_nothing(voice.as_ref());

    let config = &gateway.parts.config;
    let body = body::read(body, config.max_body_bytes, config.body_timeout);
    let original = gateway.unless_draining(body).await??;
    wish.bytes = original.len() as u64;
    let dialect = ask
        .endpoint
        .dialect()
        .expect("only endpoints that take text come here");
    let mut message = scan(dialect, &original).map_err(Refused::Body)?;
    message.characters = message.text_length;
    wish.characters = message.characters;
    let forced_model = limits
        .forced_parameters
        .iter()
        .find(|(name, _)| name == "model_id");
    wish.model = match (forced_model, &message.model) {
        (Some((_, forced)), _) => Arc::from(&**forced),
        (None, Some(model)) => Arc::from(&**model),
        (None, None) => ask.endpoint.default_model().unwrap_or_default().into(),
    };
    check_voices(&limits, identity, ask, &message)?;
    let body =
        rewritten(&limits, &message, &original).map_or_else(|| original.clone(), Bytes::from);

    let admission = gateway
        .parts
        .quota
        .admit(AdmissionRequest {
            client: identity.client.clone(),
            limits: Arc::clone(&limits),
            session: ask.id,
            endpoint: ask.endpoint.as_str(),
            voice: voice.clone(),
            model: wish.model.clone(),
            format: wish.format.clone(),
            cap: identity
                .narrowing
                .as_ref()
                .and_then(|narrowing| narrowing.max_characters),
            streaming: false,
        })
        .await?;
    let mut tap = Tap::new(
        ask.id,
        identity.client.as_str(),
        ask.started,
        OutputFormat::parse(&wish.format),
        gateway.parts.logs_text,
    );
    let now = tokio::time::Instant::now();
    tap.on_client_message(&message, ClientKind::Text, original.len(), now);
    let characters = message.characters;
    Ok(Exchange {
        presence: Presence {
            registration: gateway.enter(ask, identity.clone(), wish.voice.clone()),
            _place: place,
        },
        gateway: Arc::clone(gateway),
        admission,
        tap,
        facts: Facts {
            model: wish.model.clone(),
            format: wish.format.clone(),
            admit_time: ask.started.elapsed(),
            logs_text: gateway.parts.logs_text,
            ..Facts::default()
        },
        characters,
        connection: Arc::clone(&ask.connection),
        request: HttpRequest {
            method: ask.endpoint.method(),
            path_and_query: path_and_query(ask.endpoint, voice.as_ref(), &query),
            accept: header(headers, &ACCEPT),
            body: Some((content_type(headers), body)),
        },
        audio: audio_meter(ask.endpoint),
        started: ask.started,
        deadline: now + limits.max_session_duration,
        expiry: expiry(identity, now),
    })
}

/// The request target upstream, below the base URL.
pub(super) fn path_and_query(endpoint: Endpoint, voice: Option<&VoiceId>, query: &Query) -> String {
    let path = endpoint.upstream_path(voice);
    if query.is_empty() {
        path.into_owned()
    } else {
        format!("{path}?{query}")
    }
}

/// Holds the voices in the path and in the body against the plan's list and that of the token.
fn check_voices(
    limits: &Limits,
    identity: &Identity,
    ask: &Ask,
    message: &ClientMessage<'_>,
) -> Result<(), Refusal> {
    let narrowing = identity.narrowing.as_ref();
    let asked = ask.voice.as_ref().map(VoiceId::as_str);
    let allowed = asked.is_none_or(|asked| allows_voice(limits, narrowing, asked))
        && allows_voices_of(message, limits, narrowing);
    allowed.then_some(()).ok_or(Refusal::Voice)
}

/// The body to send instead, when it named a credential or a voice's alias, or the plan forces
/// something in it.
fn rewritten(limits: &Limits, message: &ClientMessage<'_>, original: &[u8]) -> Option<Vec<u8>> {
    let mut body = message
        .has_credentials
        .then(|| without_credentials(original));
    if message.voice_ids().next().is_some() {
        let voice_of = |voice: &str| limits.resolve_named(voice).ok().flatten();
        body = with_voices_rewritten(body.as_deref().unwrap_or(original), voice_of).or(body);
    }
    for (name, value) in &limits.forced_parameters {
        if is_body_field(name) {
            body = with_body_field(body.as_deref().unwrap_or(original), name, value).or(body);
        }
    }
    body
}

/// A header that stands once, and is short.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    (values.next().is_none() && value.len() <= MAX_HEADER_BYTES).then(|| value.clone())
}

/// The client's own way of saying that the body is JSON, if it says so.
fn content_type(headers: &HeaderMap) -> HeaderValue {
    header(headers, &CONTENT_TYPE)
        .filter(|value| {
            let essence = value
                .to_str()
                .unwrap_or_default()
                .split(';')
                .next()
                .unwrap_or_default();
            let essence = essence.trim().to_ascii_lowercase();
            essence == "application/json"
                || (essence.starts_with("application/") && essence.ends_with("+json"))
        })
        .unwrap_or(JSON)
}

fn audio_meter(endpoint: Endpoint) -> AudioMeter {
    match endpoint {
        Endpoint::ConvertWithTimestamps
        | Endpoint::StreamWithTimestamps
        | Endpoint::DialogueConvertWithTimestamps
        | Endpoint::DialogueStreamWithTimestamps => AudioMeter::json(),
        _ => AudioMeter::raw(),
    }
}

/// Enters a request of a known client that does not go up, and answers it.
fn refuse(
    gateway: &Gateway,
    ask: &Ask,
    identity: &Identity,
    wish: Wish,
    refused: Refused,
) -> Response {
    let problem = refused.problem();
    let response = match &refused {
        Refused::Body(invalid) => invalid_body(*invalid, ask.id),
        Refused::Rule(_) | Refused::Limit(_) => response(&problem, ask.id),
    };
    let (ending, status) = (&problem.error, response.status().as_u16());
    refused::note(
        gateway,
        ask,
        Some(identity),
        wish,
        ending,
        status,
        refused.limit(),
    );
    response
}

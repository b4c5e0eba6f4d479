//! One WebSocket from its upgrade to its session: identify, admit, connect, relay.
//!
//! A credential in a header means a server-side client: all but the relay happens before the 101,
//! so that it reads 401, 403, 429 or upstream's own status. Any other client may be a browser,
//! which can never read the status of a failed upgrade: it gets the 101 first, and a refusal as
//! error frame and close, as ElevenLabs itself does it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::client_stream::ClientStream;
use super::gateway::{Ask, Gateway, Place, expiry};
use super::refusal::response;
use super::upgrade::Upgrade;
use crate::auth::{self, Identity};
use crate::ids::SessionId;
use crate::protocol::{
    self, Credential, CredentialName, DEFAULT_INACTIVITY_TIMEOUT, DEFAULT_OUTPUT_FORMAT, Problem, scan, subprotocols,
};
use crate::quota::{Admission, AdmissionRequest, Limits};
use crate::session::{
    Facts, Opening, Peer, Registration, Session, SessionEnd, Terms, without_credential,
};
use crate::upstream::{ConnectError, Connected, HandshakeError, Refusal};

/// A client that has been let in, with its upstream open.
struct Ready {
    connected: Connected,
    terms: Terms,
    admission: Admission,
    registration: Registration,
    facts: Facts,
}

/// Why a client does not get its session.
enum Denied {
    /// By a rule of the relay.
    Problem(Problem),
    /// By upstream's HTTP answer, which a server-side client gets as it is.
    Upstream(Refusal),
    /// The session was ended while it was being set up.
    Ended(SessionEnd),
}

/// Answers an upgrade request. `path_token` is that of a path under `/t/`.
pub(super) async fn answer(
    gateway: Arc<Gateway>,
    ask: Ask,
    path_token: Option<secrecy::SecretString>,
    mut head: http::request::Parts,
) -> Response {
    let request = ask.id;
    let upgrade = match Upgrade::of(&head) {
        Ok(upgrade) => upgrade,
        Err(problem) => return response(&problem, request),
    };
    let Some(on_upgrade) = head.extensions.remove::<OnUpgrade>() else {
        return response(&Problem::invalid_request("This connection cannot be upgraded."), request);
    };
    if ask.query.repeated().is_some() {
        return response(&Problem::repeated_parameter(), request);
    }
    let place = match gateway.place() {
        Ok(place) => place,
        Err(problem) => return response(&problem, request),
    };
    let offered = subprotocols(&head.headers);
    if let Some(credential) = protocol::header_credential(&head.headers) {
        let identified = identify(&gateway, &ask, Some(&credential)).await;
        let ready = match identified {
            Ok(identity) => open(&gateway, &ask, identity).await,
            Err(problem) => Err(Denied::Problem(problem)),
        };
        return match ready {
            Ok(ready) => {
                let trace_id = ready.facts.trace_id.clone();
                tokio::spawn(relay_upgraded(gateway, on_upgrade, ready, ask.started, place));
                upgrade.accept(offered.has_ours, trace_id.as_deref())
            }
            Err(denied) => denied.to_response(&gateway, request),
        };
    }
    let credential = offered
        .credential
        .or_else(|| ask.query.credentials().first().cloned())
        .or_else(|| path_token.map(|token| Credential { name: CredentialName::ApiKey, token }));
    let unauthenticated = match credential {
        Some(_) => None,
        None if gateway.parts.directory.is_open() => None,
        None => match Arc::clone(&gateway.unauthenticated).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => return response(&Problem::system_busy(), request),
        },
    };
    tokio::spawn(async move {
        let Some(peer) = upgraded(on_upgrade).await else { return };
        // Nothing of the waiting is kept once frames flow.
        if let Some((peer, ready)) =
            set_up(&gateway, &ask, credential, unauthenticated, peer).await
        {
            tokio::spawn(relay(gateway, peer, ready, ask.started, place));
        }
    });
    upgrade.accept(offered.has_ours, None)
}

/// The way of a client that has had its 101: wait for its credential, let it in, open its upstream;
/// or refuse it in frames.
async fn set_up(
    gateway: &Arc<Gateway>,
    ask: &Ask,
    credential: Option<Credential>,
    unauthenticated: Option<tokio::sync::OwnedSemaphorePermit>,
    peer: Peer<ClientStream>,
) -> Option<(Peer<ClientStream>, Ready)> {
    let timing = &gateway.parts.timing;
    let max_message_bytes = gateway.parts.config.max_unauthenticated_message_bytes;
    let mut opening = Opening::new(peer.stream, peer.read_ahead, max_message_bytes);
    let result = async {
        let credential = match (credential, unauthenticated) {
            (None, Some(_permit)) => Some(first_credential(gateway, ask, &mut opening).await?),
            (credential, _) => credential,
        };
        let identity =
            identify(gateway, ask, credential.as_ref()).await.map_err(SessionEnd::Refused)?;
        if let Ok(limits) = gateway.limits(&identity) {
            opening.set_max_message_bytes(limits.max_message_bytes as u64);
        }
        tokio::select! {
            ready = open(gateway, ask, identity) => {
                ready.map_err(|denied| denied.into_end(gateway))
            }
            end = opening.gone() => Err(end),
        }
    }
    .await;
    match result {
        Ok(ready) => {
            let (stream, read_ahead) = opening.into_parts();
            Some((Peer { stream, read_ahead }, ready))
        }
        Err(end) => {
            log_refusal(ask, &end);
            opening.refuse(end, ask.id, timing.refusal_delay, timing).await;
            None
        }
    }
}

/// The credential in the client's first message, which may carry text already.
async fn first_credential(
    gateway: &Gateway,
    ask: &Ask,
    opening: &mut Opening<ClientStream>,
) -> Result<Credential, SessionEnd> {
    let wait = gateway.parts.timing.credential_timeout;
    let Ok(message) = tokio::time::timeout(wait, opening.first_message()).await else {
        return Err(without_credential());
    };
    let (payload, is_text) = message?;
    if !is_text {
        return Err(SessionEnd::Refused(Problem::binary_message()));
    }
    let dialect = ask.endpoint.dialect().expect("only sockets come here");
    let message =
        scan(dialect, payload).map_err(|invalid| SessionEnd::Refused(Problem::from(invalid)))?;
    message.credential.ok_or_else(without_credential)
}

pub(super) async fn identify(
    gateway: &Gateway,
    ask: &Ask,
    credential: Option<&Credential>,
) -> Result<Identity, Problem> {
    let credential = credential.map(|credential| match credential.name {
        CredentialName::SingleUseToken => auth::Credential::SingleUse(credential.token.clone()),
        CredentialName::ApiKey | CredentialName::Authorization => {
            auth::Credential::Key(credential.token.clone())
        }
    });
    let directory = &gateway.parts.directory;
    let identity = directory.identify(credential.as_ref(), ask.remote, SystemTime::now()).await?;
    Ok(identity)
}

/// Admits a known client and opens its upstream.
async fn open(gateway: &Arc<Gateway>, ask: &Ask, identity: Identity) -> Result<Ready, Denied> {
    let limits = gateway.limits(&identity)?;
    let narrowing = identity.narrowing.as_ref();
    let origin = ask.origin.as_ref();
    let origin_allowed = origin.is_none_or(|origin| limits.allows_origin(origin.as_str()))
        && narrowing.is_none_or(|narrowing| narrowing.allows_origin(origin));
    if !origin_allowed {
        return Err(Problem::origin_not_allowed().into());
    }
    let mut query = ask.query.clone();
    for (name, value) in &limits.forced_parameters {
        query.set(name, value);
    }
    let longest = limits.max_inactivity_timeout;
    let inactivity = match ask.endpoint.is_dialogue() {
        // The dialogue sockets have a fixed limit and no such parameter.
        true => DEFAULT_INACTIVITY_TIMEOUT.min(longest),
        false => query.clamp_inactivity_timeout(longest),
    };
    let voice = match &ask.voice {
        Some(asked) => Some(limits.resolve_voice(asked).map_err(|refusal| {
            gateway.parts.quota.note_refusal(&refusal);
            Problem::from(&refusal)
        })?),
        None => None,
    };
    if let Some(voice) = &voice
        && !narrowing.is_none_or(|narrowing| narrowing.allows_voice(voice))
    {
        return Err(Problem::voice_not_allowed().into());
    }
    let path = ask.endpoint.upstream_path(voice.as_ref());
    let model = match query.get("model_id") {
        Some(model) => model.into_owned(),
        None => ask.endpoint.default_model().unwrap_or_default().to_owned(),
    };
    let format = match query.get("output_format") {
        Some(format) => format.into_owned(),
        None => DEFAULT_OUTPUT_FORMAT.to_owned(),
    };
    let terms = terms(gateway, ask, &identity, Arc::clone(&limits), inactivity);
    let voice_name = voice.as_ref().map(ToString::to_string).unwrap_or_default();
    let path_and_query =
        if query.is_empty() { path.into_owned() } else { format!("{path}?{query}") };

    let admission = gateway
        .parts
        .quota
        .admit(AdmissionRequest {
            client: identity.client.clone(),
            limits,
            session: ask.id,
            endpoint: ask.endpoint.as_str(),
            voice,
            model: model.clone(),
            format: format.clone(),
            cap: narrowing.and_then(|narrowing| narrowing.max_characters),
            streaming: true,
        })
        .await
        .map_err(|refusal| Denied::Problem(Problem::from(&refusal)))?;
    let registration = gateway.parts.registry.enter(ask.id, identity, ask.endpoint, voice_name);
    let admit_time = ask.started.elapsed();
    let connected = tokio::select! {
        connected = gateway.parts.upstream.connect(&path_and_query) => connected,
        end = registration.live().ended() => return Err(Denied::Ended(end)),
    };
    let connected = match connected {
        Ok(connected) => connected,
        Err(ConnectError::Handshake(HandshakeError::Refused(refusal))) => {
            return Err(Denied::Upstream(refusal));
        }
        Err(error) => {
            tracing::warn!(session = %ask.id, cause = %error, "upstream is unavailable");
            return Err(Denied::Problem(Problem::upstream_unavailable()));
        }
    };
    let facts = Facts {
        model,
        format,
        trace_id: connected.trace_id.clone(),
        admit_time,
        connect_time: connected.took,
        logs_text: gateway.parts.logs_text,
        status: None,
    };
    Ok(Ready { connected, terms, admission, registration, facts })
}

fn terms(
    gateway: &Gateway,
    ask: &Ask,
    identity: &Identity,
    limits: Arc<Limits>,
    inactivity: Duration,
) -> Terms {
    Terms {
        dialect: ask.endpoint.dialect().expect("only sockets come here"),
        inactivity,
        limits,
        timing: gateway.parts.timing.clone(),
        expiry: expiry(identity, Instant::now()),
        max_upstream_message_bytes: gateway.parts.max_upstream_message_bytes,
        secrets: gateway.secrets(),
    }
}

async fn relay_upgraded(
    gateway: Arc<Gateway>,
    on_upgrade: OnUpgrade,
    ready: Ready,
    started: Instant,
    place: Place,
) {
    match upgraded(on_upgrade).await {
        Some(peer) => {
            tokio::spawn(relay(gateway, peer, ready, started, place));
        }
        None => drop(ready),
    }
}

async fn relay(
    gateway: Arc<Gateway>,
    client: Peer<ClientStream>,
    ready: Ready,
    started: Instant,
    place: Place,
) {
    let Ready { connected, terms, admission, registration, facts } = ready;
    let upstream = Peer { stream: connected.stream, read_ahead: connected.read_ahead };
    let metrics = Arc::clone(&gateway.parts.metrics);
    drop(gateway);
    let session =
        Session { client, upstream, terms, admission, registration, facts, metrics, started };
    session.run().await;
    drop(place);
}

/// The client's byte stream, once hyper has written the 101.
async fn upgraded(on_upgrade: OnUpgrade) -> Option<Peer<ClientStream>> {
    let upgraded: Upgraded = on_upgrade.await.ok()?;
    let parts = upgraded
        .downcast::<TokioIo<ClientStream>>()
        .expect("the listener serves nothing but client streams");
    Some(Peer { stream: parts.io.into_inner(), read_ahead: parts.read_buf.to_vec() })
}

fn log_refusal(ask: &Ask, end: &SessionEnd) {
    tracing::info!(
        session = %ask.id,
        endpoint = ask.endpoint.as_str(),
        ending = &*end.label(),
        close_code = end.client_code(),
        "session refused",
    );
}

impl Denied {
    /// For a client that has had its 101.
    fn into_end(self, gateway: &Gateway) -> SessionEnd {
        match self {
            Self::Problem(problem) => SessionEnd::Refused(problem),
            Self::Ended(end) => end,
            Self::Upstream(refusal) => SessionEnd::Refused(upstream_problem(gateway, &refusal)),
        }
    }

    /// For a client that still waits for an HTTP answer.
    fn to_response(&self, gateway: &Gateway, request: SessionId) -> Response {
        let refusal = match self {
            Self::Problem(problem) => return response(problem, request),
            Self::Ended(end) => {
                let problem = end.problem().unwrap_or_else(Problem::system_busy);
                return response(&problem, request);
            }
            Self::Upstream(refusal) => refusal,
        };
        let problem = upstream_problem(gateway, refusal);
        if problem.error.starts_with("upstream_") {
            return response(&problem, request);
        }
        let body = gateway.secrets().scrub(&refusal.body).into_owned();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            http::StatusCode::from_u16(refusal.status).unwrap_or(http::StatusCode::BAD_GATEWAY);
        let headers = response.headers_mut();
        for (name, value) in [
            (CONTENT_TYPE, &refusal.content_type),
            (RETRY_AFTER, &refusal.retry_after),
            (http::HeaderName::from_static("x-trace-id"), &refusal.trace_id),
        ] {
            if let Some(value) = value.as_deref().and_then(|value| HeaderValue::from_str(value).ok())
            {
                headers.insert(name, value);
            }
        }
        response
    }
}

impl From<Problem> for Denied {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Upstream's HTTP refusal in the relay's words where it is about the relay, else in its own.
fn upstream_problem(gateway: &Gateway, refusal: &Refusal) -> Problem {
    Problem::from_upstream(refusal.status, &refusal.body, &gateway.secrets())
}

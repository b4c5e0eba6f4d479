//! From a known client to an open upstream: what its plan allows, admission, the dial.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::answer::is_about_the_relay;
use super::gateway::{Ask, Gateway, expiry};
use super::refusal::response;
use super::refused::{self, Refused, Wish};
use super::synthesis::path_and_query;
use crate::auth::Identity;
use crate::ids::{SessionId, VoiceId};
use crate::protocol::{
    DEFAULT_INACTIVITY_TIMEOUT, Problem, Query, RECORDING_VERSION, RecordingHead,
};
use crate::quota::{self, Admission, AdmissionRequest, Limits};
use crate::session::{
    Facts, Recorder, Registration, SessionEnd, Terms, allows_voice, settle_unopened,
};
use crate::upstream::{ConnectError, Connected, HandshakeError, Refusal};

/// A client that has been let in, with its upstream open.
pub(super) struct Ready {
    pub(super) connected: Connected,
    pub(super) terms: Terms,
    pub(super) admission: Admission,
    pub(super) registration: Registration,
    pub(super) facts: Facts,
    /// One of the sessions that the account may have open on the dialogue sockets.
    pub(super) dialogue_slot: Option<OwnedSemaphorePermit>,
    /// Where the session is written down, if it is.
    pub(super) recorder: Option<Recorder>,
}

/// A dial that may begin before it is known whether it is wanted.
struct Dial {
    connecting: Pin<Box<dyn Future<Output = Result<Connected, ConnectError>> + Send>>,
    connected: Option<Result<Connected, ConnectError>>,
}

impl Dial {
    /// Nothing goes out before the first poll.
    fn new(gateway: &Arc<Gateway>, worker: usize, path_and_query: String) -> Self {
        let (upstream, secrets) = (Arc::clone(&gateway.parts.upstream), gateway.secrets());
        Self {
            connecting: Box::pin(async move {
                upstream.connect(worker, &path_and_query, &secrets).await
            }),
            connected: None,
        }
    }

    /// Dials until `other` is done.
    async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                biased;
                done = &mut other => return done,
                connected = &mut self.connecting, if self.connected.is_none() => {
                    self.connected = Some(connected);
                }
            }
        }
    }

    async fn finish(self) -> Result<Connected, ConnectError> {
        match self.connected {
            Some(connected) => connected,
            None => self.connecting.await,
        }
    }
}

/// Why a client does not get its session.
pub(super) enum Denied {
    /// By a rule of the relay.
    Problem(Problem),
    /// By upstream's HTTP answer, which a server-side client gets as it is.
    Upstream(Refusal),
    /// The session was ended while it was being set up, by the operator or by its client.
    Ended(SessionEnd),
}

/// What goes up, and under which rules.
struct Plan<'a> {
    limits: Arc<Limits>,
    query: Cow<'a, Query>,
    voice: Option<VoiceId>,
    inactivity: Duration,
}

/// Admits a known client and opens its upstream, unless the client has `gone` before. Whatever comes
/// of it stands in the ledger.
pub(super) async fn open(
    gateway: &Arc<Gateway>,
    ask: &Ask,
    identity: Identity,
    gone: impl Future<Output = SessionEnd>,
) -> Result<Ready, Denied> {
    let mut wish = Wish::default();
    let admitted = async {
        let plan = plan(gateway, ask, &identity, &mut wish)?;
        let dialogue_slot = dialogue_slot(gateway, ask)?;
        let path_and_query = path_and_query(ask.endpoint, plan.voice.as_ref(), &plan.query);
        let mut dial = Dial::new(gateway, ask.worker(), path_and_query);
        let admitting = admit(gateway, ask, &identity, &plan, &wish);
        // Who has plenty left is let in while upstream is dialed; for anybody else nothing goes up
        // before the leave is there.
        let admission = match gateway.parts.quota.expects_room(&identity.client) {
            true => dial.beside(admitting).await?,
            false => admitting.await?,
        };
        Ok::<_, Refused>((plan, dialogue_slot, dial, admission))
    };
    let (plan, dialogue_slot, dial, admission) = match admitted.await {
        Ok(admitted) => admitted,
        Err(refused) => {
            let problem = refused.problem();
            let (ending, code) = (&problem.error, problem.close_code);
            refused::note(
                gateway,
                ask,
                Some(&identity),
                wish,
                ending,
                code,
                refused.limit(),
            );
            return Err(Denied::Problem(problem));
        }
    };
    let Plan {
        limits,
        query,
        voice,
        inactivity,
    } = plan;
    let terms = Terms {
        dialect: ask.endpoint.dialect().expect("only sockets come here"),
        limits,
        timing: gateway.parts.timing.clone(),
        inactivity,
        expiry: expiry(&identity, Instant::now()),
        narrowing: identity.narrowing.clone(),
        max_upstream_message_bytes: gateway.parts.max_upstream_message_bytes,
        secrets: gateway.secrets(),
    };
    let registration = gateway.enter(ask, identity, wish.voice);
    let mut facts = Facts {
        model: wish.model,
        format: wish.format,
        admit_time: ask.started.elapsed(),
        logs_text: gateway.parts.logs_text,
        ..Facts::default()
    };
    let connected = tokio::select! {
        connected = dial.finish() => {
            connected.map_err(|error| denied(gateway, ask, error))
        }
        end = registration.live().ended() => Err(Denied::Ended(end)),
        end = gone => Err(Denied::Ended(end)),
    };
    match connected {
        Ok(connected) => {
            facts.trace_id.clone_from(&connected.trace_id);
            facts.connect_time = connected.took;
            // The configuration may have been read again meanwhile.
            let live = registration.live();
            if let Ok(limits) = gateway.limits(&live.identity)
                && !Arc::ptr_eq(&limits, &terms.limits)
            {
                live.set_limits(limits);
            }
            let recorder = recorder(gateway, ask, &terms.limits, voice.as_ref(), &query);
            Ok(Ready {
                connected,
                terms,
                admission,
                registration,
                facts,
                dialogue_slot,
                recorder,
            })
        }
        Err(denied) => {
            let end = denied.end(gateway);
            settle_unopened(registration, admission, &facts, &end, ask.started).await;
            Err(denied)
        }
    }
}

fn plan<'a>(
    gateway: &Gateway,
    ask: &'a Ask,
    identity: &Identity,
    wish: &mut Wish,
) -> Result<Plan<'a>, Refused> {
    let limits = gateway.limits(identity)?;
    let narrowing = identity.narrowing.as_ref();
    let mut query = Cow::Borrowed(&ask.query);
    for (name, value) in &limits.forced_parameters {
        query.to_mut().set(name, value);
    }
    wish.model = match query.get("model_id") {
        Some(model) => Arc::from(&*model),
        None => ask.endpoint.default_model().unwrap_or_default().into(),
    };
    wish.format = Wish::format_of(&query);
    let origin = ask.origin.as_ref();
    let origin_allowed = origin.is_none_or(|origin| limits.allows_origin(origin.as_str()))
        && narrowing.is_none_or(|narrowing| narrowing.allows_origin(origin));
    if !origin_allowed {
        return Err(Problem::origin_not_allowed().into());
    }
    let voice = match &ask.voice {
        Some(asked) => Some(limits.resolve_voice(asked)?),
        None => None,
    };
    wish.voice = VoiceId::or_nothing(voice.as_ref());
    let asked = ask.voice.as_ref().map(VoiceId::as_str);
    if asked.is_some_and(|asked| !allows_voice(&limits, narrowing, asked)) {
        return Err(quota::Refusal::Voice.into());
    }
    let longest = limits.max_inactivity_timeout;
    let inactivity = match ask.endpoint.is_dialogue() {
        // The dialogue sockets have a fixed limit and no such parameter.
        true => DEFAULT_INACTIVITY_TIMEOUT.min(longest),
        false => Query::clamp_inactivity_timeout(&mut query, longest),
    };
    Ok(Plan {
        limits,
        query,
        voice,
        inactivity,
    })
}

/// Begins to write the session down, if it is to be.
fn recorder(
    gateway: &Gateway,
    ask: &Ask,
    limits: &Limits,
    voice: Option<&VoiceId>,
    query: &Query,
) -> Option<Recorder> {
    let recordings = gateway.parts.recordings.as_ref()?;
    recordings.begin(limits.record, ask.id, ask.started, || {
        let started = SystemTime::now() - ask.started.elapsed();
        let started = started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        RecordingHead {
            xi_relay_recording: RECORDING_VERSION,
            session: ask.id.to_string(),
            endpoint: ask.endpoint.as_str().to_owned(),
            voice: voice.map(ToString::to_string).unwrap_or_default(),
            query: query.to_string(),
            started_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
        }
    })
}

/// A slot among upstream's dialogue sessions, which are held for their whole life.
fn dialogue_slot(gateway: &Gateway, ask: &Ask) -> Result<Option<OwnedSemaphorePermit>, Problem> {
    if !ask.endpoint.is_dialogue() {
        return Ok(None);
    }
    let slots = Arc::clone(&gateway.dialogue_slots);
    slots
        .try_acquire_owned()
        .map(Some)
        .map_err(|_| Problem::system_busy())
}

async fn admit(
    gateway: &Gateway,
    ask: &Ask,
    identity: &Identity,
    plan: &Plan<'_>,
    wish: &Wish,
) -> Result<Admission, quota::Refusal> {
    let request = AdmissionRequest {
        client: identity.client.clone(),
        limits: Arc::clone(&plan.limits),
        session: ask.id,
        endpoint: ask.endpoint.as_str(),
        voice: plan.voice.clone(),
        model: wish.model.clone(),
        format: wish.format.clone(),
        cap: identity
            .narrowing
            .as_ref()
            .and_then(|narrowing| narrowing.max_characters),
        streaming: true,
    };
    gateway.parts.quota.admit(request).await
}

fn denied(gateway: &Gateway, ask: &Ask, error: ConnectError) -> Denied {
    if let ConnectError::Handshake(HandshakeError::Refused(refusal)) = error {
        return Denied::Upstream(refusal);
    }
    // Upstream's own words may stand in it, such as the names in a certificate.
    let (secrets, error) = (gateway.secrets(), error.to_string());
    let cause = secrets.scrub_text(&error);
    tracing::warn!(session = %ask.id, cause = &*cause, "upstream is unavailable");
    Denied::Problem(Problem::upstream_unavailable())
}

impl Denied {
    /// For a client that has had its 101.
    pub(super) fn end(&self, gateway: &Gateway) -> SessionEnd {
        match self {
            Self::Problem(problem) => SessionEnd::Refused(problem.clone()),
            Self::Ended(end) => end.clone(),
            Self::Upstream(refusal) => SessionEnd::Refused(upstream_problem(gateway, refusal)),
        }
    }

    /// For a client that still waits for an HTTP answer.
    pub(super) fn to_response(&self, gateway: &Gateway, request: SessionId) -> Response {
        let refusal = match self {
            Self::Problem(problem) => return response(problem, request),
            Self::Ended(end) => {
                let problem = end.problem().unwrap_or_else(Problem::system_busy);
                return response(&problem, request);
            }
            Self::Upstream(refusal) => refusal,
        };
        let problem = upstream_problem(gateway, refusal);
        if is_about_the_relay(&problem) {
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
            (
                http::HeaderName::from_static("x-trace-id"),
                &refusal.trace_id,
            ),
        ] {
            let value = value
                .as_deref()
                .and_then(|value| HeaderValue::from_str(value).ok());
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// Upstream's HTTP refusal in the relay's words where it is about the relay, else in its own.
fn upstream_problem(gateway: &Gateway, refusal: &Refusal) -> Problem {
    Problem::from_upstream(refusal.status, &refusal.body, &gateway.secrets())
}

//! The listener, the routes, and the way from an upgrade to a conversation.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::{HeaderName, StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::account::{Account, random_hex};
use super::config::Config;
use super::conversation::{Agreement, Conversation};
use super::dialogue::{Dialogue, Kind};
use super::fault::Fault;
use super::format::Endpoint;
use super::model::Model;
use super::multi_stream::MultiStream;
use super::player::Player;
use super::query::{self, Query};
use super::recording::{Recordings, ReplayError};
use super::refusal::Refusal;
use super::replay::Replay;
use super::stream_input::StreamInput;
use super::{access, lookups, socket, synthesis, upgrade};
use crate::protocol;

/// How long a request head may take.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// How long connections may take to end once the sandbox stops.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// What all requests share.
#[derive(Clone)]
pub(super) struct Sandbox {
    pub(super) config: Arc<Config>,
    pub(super) account: Arc<Account>,
    /// What sockets answer with, if not with tones.
    recordings: Option<Arc<Recordings>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A sandbox that is ready to serve.
pub struct Server {
    config: Config,
    recordings: Option<Arc<Recordings>>,
}

impl Server {
    /// Reads the recordings that are to be replayed, if any are.
    ///
    /// # Errors
    /// When there are none, or one cannot be read.
    pub fn new(config: Config) -> Result<Self, ReplayError> {
        let recordings = config.replay.as_deref().map(Recordings::load).transpose()?;
        Ok(Self {
            config,
            recordings: recordings.map(Arc::new),
        })
    }

    /// Answers as ElevenLabs would until `shutdown` is cancelled; then sockets are closed with
    /// 1012.
    ///
    /// # Errors
    /// When the listener's own address cannot be read; a failure to accept is waited out.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let address = listener.local_addr()?;
        tracing::debug!(%address, "sandbox listens");
        let sandbox = Sandbox {
            account: Arc::new(Account::new(&self.config)),
            config: Arc::new(self.config),
            recordings: self.recordings,
            tasks: TaskTracker::new(),
            shutdown,
        };
        accept(listener, &sandbox).await;
        sandbox.tasks.close();
        // What has not ended by then ends with the process.
        let _ = tokio::time::timeout(STOP_DEADLINE, sandbox.tasks.wait()).await;
        Ok(())
    }
}

/// Takes connections until the sandbox stops.
async fn accept(listener: TcpListener, sandbox: &Sandbox) {
    let router = router(sandbox);
    loop {
        let accepted = tokio::select! {
            () = sandbox.shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                sandbox
                    .tasks
                    .spawn(connection(stream, router.clone(), sandbox.shutdown.clone()));
            }
            Err(error) => {
                // Out of file descriptors, most likely: some may be free in a moment.
                tracing::warn!(%error, "sandbox cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    // Audio must not wait for an acknowledgement; without the option it is only later.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(16 * 1024)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        // A broken connection is the client's own affair.
        _ = connection.as_mut() => {}
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

fn router(sandbox: &Sandbox) -> Router {
    Router::new()
        .route(
            "/v1/text-to-speech/{voice_id}/stream-input",
            get(stream_input),
        )
        .route(
            "/v1/text-to-speech/{voice_id}/multi-stream-input",
            get(multi_stream_input),
        )
        .route("/v1/text-to-dialogue/stream-input", get(dialogue))
        .route(
            "/v1/text-to-dialogue/multi-stream-input",
            get(multi_dialogue),
        )
        .route("/v1/text-to-speech/{voice_id}", post(synthesis::speech))
        .route(
            "/v1/text-to-speech/{voice_id}/{*form}",
            post(synthesis::speech_in_form),
        )
        .route("/v1/text-to-dialogue", post(synthesis::dialogue))
        .route(
            "/v1/text-to-dialogue/{*form}",
            post(synthesis::dialogue_in_form),
        )
        .route("/v1/voices", get(lookups::voices))
        .route("/v2/voices", get(lookups::voices_page))
        .route("/v1/models", get(lookups::models))
        .route("/v1/user", get(lookups::user))
        .route("/v1/user/subscription", get(lookups::subscription))
        .route(
            "/v1/single-use-token/tts_websocket",
            post(lookups::single_use_token),
        )
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(
            sandbox.config.clone(),
            access::guard,
        ))
        .with_state(sandbox.clone())
}

pub(super) async fn not_found() -> Response {
    json(
        StatusCode::NOT_FOUND,
        r#"{"detail":"Not Found"}"#.to_owned(),
    )
}

async fn method_not_allowed() -> Response {
    json(
        StatusCode::METHOD_NOT_ALLOWED,
        r#"{"detail":"Method Not Allowed"}"#.to_owned(),
    )
}

/// A JSON answer with the headers that errors have too.
pub(super) fn json(status: StatusCode, body: String) -> Response {
    let trace = format!("{}{}", random_hex(), random_hex());
    let head = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (HeaderName::from_static("x-trace-id"), trace),
        (HeaderName::from_static("x-region"), "sandbox".to_owned()),
    ];
    (status, head, body).into_response()
}

impl Refusal {
    /// The refusal of a request or an upgrade.
    pub(super) fn response(&self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, self.body(&random_hex()));
        if status == StatusCode::TOO_MANY_REQUESTS {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, http::HeaderValue::from_static("1"));
        }
        response
    }
}

impl Sandbox {
    fn agreement(
        &self,
        request: &Request,
        query: &Query,
        model: &'static Model,
    ) -> Result<Agreement, Refusal> {
        Ok(Agreement {
            config: self.config.clone(),
            account: self.account.clone(),
            credential: query::credential(request.headers(), query),
            model,
            format: query.format(Endpoint::Stream)?,
            seed: query.number("seed").unwrap_or_default(),
            sync_alignment: query.flag("sync_alignment"),
            spell_numbers: query.spell_numbers(),
        })
    }

    /// Upgrades the connection and gives it to the conversation that the query asks for.
    fn converse(
        &self,
        mut request: Request,
        endpoint: protocol::Endpoint,
        voice: &str,
        new: impl FnOnce(&Request, &Query) -> Result<Box<dyn Conversation>, Refusal>,
    ) -> Response {
        let query = Query::parse(request.uri().query());
        let (upgrade, response) = match upgrade::accept(&mut request) {
            Ok(accepted) => accepted,
            Err(refused) => return *refused,
        };
        let conversation = match &self.recordings {
            Some(recordings) => {
                let candidates = recordings.of(endpoint, voice, &query);
                let (pace, is_dialogue) = (self.config.replay_pace, endpoint.is_dialogue());
                let replay = Replay::new(candidates, pace, is_dialogue, Instant::now());
                Ok(Box::new(replay) as Box<dyn Conversation>)
            }
            None => new(&request, &query),
        };
        match conversation {
            Ok(conversation) => {
                let player = Player::new(&self.config);
                let shutdown = self.shutdown.clone();
                self.tasks
                    .spawn(socket::drive(upgrade, conversation, player, shutdown));
                response
            }
            Err(refusal) => refusal.response(),
        }
    }
}

fn refused_upgrade(voice: &str) -> Result<(), Refusal> {
    Fault::of_voice(voice)
        .and_then(Fault::before_upgrade)
        .map_or(Ok(()), Err)
}

async fn stream_input(
    State(sandbox): State<Sandbox>,
    Path(voice): Path<String>,
    request: Request,
) -> Response {
    let endpoint = protocol::Endpoint::StreamInput;
    sandbox.converse(request, endpoint, &voice, |request, query| {
        refused_upgrade(&voice)?;
        let agreement = sandbox.agreement(request, query, query.speech_model()?)?;
        let (auto_mode, limit) = (query.flag("auto_mode"), query.inactivity());
        Ok(Box::new(StreamInput::new(
            agreement,
            voice.clone(),
            auto_mode,
            limit,
            Instant::now(),
        )))
    })
}

async fn multi_stream_input(
    State(sandbox): State<Sandbox>,
    Path(voice): Path<String>,
    request: Request,
) -> Response {
    let endpoint = protocol::Endpoint::MultiStreamInput;
    sandbox.converse(request, endpoint, &voice, |request, query| {
        refused_upgrade(&voice)?;
        let agreement = sandbox.agreement(request, query, query.speech_model()?)?;
        let (auto_mode, limit) = (query.flag("auto_mode"), query.inactivity());
        Ok(Box::new(MultiStream::new(
            agreement,
            voice.clone(),
            auto_mode,
            limit,
            Instant::now(),
        )))
    })
}

async fn dialogue(state: State<Sandbox>, request: Request) -> Response {
    dialogue_of(Kind::Single, &state, request)
}

async fn multi_dialogue(state: State<Sandbox>, request: Request) -> Response {
    dialogue_of(Kind::Multi, &state, request)
}

fn dialogue_of(kind: Kind, sandbox: &Sandbox, request: Request) -> Response {
    let endpoint = match kind {
        Kind::Single => protocol::Endpoint::DialogueStreamInput,
        Kind::Multi => protocol::Endpoint::DialogueMultiStreamInput,
    };
    sandbox.converse(request, endpoint, "", |request, query| {
        let (model, max_voices) = query.dialogue_model()?;
        let agreement = sandbox.agreement(request, query, model)?;
        Ok(Box::new(Dialogue::new(
            agreement,
            kind,
            max_voices,
            Instant::now(),
        )))
    })
}

//! One WebSocket from its upgrade to its session: identify, admit, connect, relay.
//!
//! A credential in a header means a server-side client: all but the relay happens before the 101,
//! so that it reads 401, 403, 429 or upstream's own status. Any other client may be a browser,
//! which can never read the status of a failed upgrade: it gets the 101 first, and a refusal as
//! error frame and close, as ElevenLabs itself does it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use axum::response::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::client_stream::{ClientStream, Patient};
use super::gateway::{Ask, Gateway, Place};
use super::open::{Denied, Ready, open};
use super::refusal::response;
use super::refused::{self, Wish};
use super::upgrade::Upgrade;
use crate::auth::{self, Identity};
use crate::protocol::{self, Credential, CredentialName, Problem, scan, subprotocols};
use crate::session::{Opening, Peer, Session, SessionEnd, without_credential};

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
        return response(
            &Problem::invalid_request("This connection cannot be upgraded."),
            request,
        );
    };
    if ask.query.repeated().is_some() {
        return response(&Problem::repeated_parameter(), request);
    }
    let place = match gateway.place(&ask) {
        Ok(place) => place,
        Err(problem) => return response(&problem, request),
    };
    let offered = subprotocols(&head.headers);
    if let Some(credential) = protocol::header_credential(&head.headers) {
        let ready = match identify(&gateway, &ask, Some(&credential)).await {
            // hyper drops all of this when such a client goes.
            Ok(identity) => open(&gateway, &ask, identity, std::future::pending()).await,
            Err(problem) => {
                let code = problem.status;
                refused::note(
                    &gateway,
                    &ask,
                    None,
                    Wish::default(),
                    &problem.error,
                    code,
                    None,
                );
                Err(Denied::Problem(problem))
            }
        };
        return match ready {
            Ok(ready) => {
                let trace_id = ready.facts.trace_id.clone();
                tokio::spawn(relay(
                    gateway,
                    upgraded(on_upgrade),
                    // Boxed, so that the task keeps no room for it once the session has it.
                    Box::new(ready),
                    ask.started,
                    place,
                ));
                upgrade.accept(offered.has_ours, trace_id.as_deref())
            }
            Err(denied) => denied.to_response(&gateway, request),
        };
    }
    let credential = offered
        .credential
        .or_else(|| ask.query.credentials().first().cloned())
        .or_else(|| {
            path_token.map(|token| Credential {
                name: CredentialName::ApiKey,
                token,
            })
        });
    let unauthenticated = match credential {
        Some(_) => None,
        None if gateway.parts.directory.is_open() => None,
        None => match Arc::clone(&gateway.unauthenticated).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => return response(&Problem::system_busy(), request),
        },
    };
    tokio::spawn(async move {
        let Some(peer) = upgraded(on_upgrade).await else {
            return;
        };
        // On a task of its own, so that nothing of the waiting is kept once frames flow.
        if let Some((peer, ready)) = set_up(&gateway, &ask, credential, unauthenticated, peer).await
        {
            let client = std::future::ready(Some(peer));
            tokio::spawn(relay(gateway, client, Box::new(ready), ask.started, place));
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
    unauthenticated: Option<OwnedSemaphorePermit>,
    peer: Peer<ClientStream>,
) -> Option<(Peer<ClientStream>, Ready)> {
    let timing = &gateway.parts.timing;
    let max_message_bytes = gateway.parts.config.max_unauthenticated_message_bytes;
    let mut opening = Opening::new(peer.stream, peer.read_ahead, max_message_bytes);
    let result = async {
        let identified = async {
            let credential = match (credential, unauthenticated) {
                (None, Some(_permit)) => Some(first_credential(gateway, ask, &mut opening).await?),
                (credential, _) => credential,
            };
            identify(gateway, ask, credential.as_ref())
                .await
                .map_err(SessionEnd::Refused)
        };
        let identity = identified.await.inspect_err(|end| {
            let code = end.client_code();
            refused::note(
                gateway,
                ask,
                None,
                Wish::default(),
                &end.label(),
                code,
                None,
            );
        })?;
        if let Ok(limits) = gateway.limits(&identity) {
            opening.set_max_message_bytes(limits.max_message_bytes as u64);
        }
        open(gateway, ask, identity, opening.gone())
            .await
            .map_err(|denied| denied.end(gateway))
    }
    .await;
    match result {
        Ok(ready) => {
            let (stream, read_ahead) = opening.into_parts();
            Some((Peer { stream, read_ahead }, ready))
        }
        Err(end) => {
            opening
                .refuse(end, ask.id, timing.refusal_delay, timing)
                .await;
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
    let message = tokio::time::timeout(wait, opening.first_message());
    let message = gateway.unless_draining(message).await;
    let Ok(message) = message.map_err(SessionEnd::Refused)? else {
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
    let identity = directory
        .identify(credential.as_ref(), ask.remote, SystemTime::now())
        .await?;
    Ok(identity)
}

/// Relays what `client` says once it is there. Without its client the session is settled by being
/// dropped.
async fn relay(
    gateway: Arc<Gateway>,
    client: impl Future<Output = Option<Peer<ClientStream>>>,
    ready: Box<Ready>,
    started: Instant,
    place: Place,
) {
    if let Some(client) = client.await {
        // Made in a function of its own: what is moved on from here would still have its room in
        // this future.
        let (session, dialogue_slot) = session(gateway, client, ready, started);
        session.await;
        drop((place, dialogue_slot));
    }
}

fn session(
    gateway: Arc<Gateway>,
    client: Peer<ClientStream>,
    ready: Box<Ready>,
    started: Instant,
) -> (
    Pin<Box<impl Future<Output = ()> + Send>>,
    Option<OwnedSemaphorePermit>,
) {
    let Ready {
        connected,
        terms,
        admission,
        registration,
        facts,
        dialogue_slot,
        recorder,
    } = *ready;
    let upstream = Peer {
        stream: connected.stream,
        read_ahead: connected.read_ahead,
    };
    let session = Session {
        client,
        upstream,
        vacancy: connected.vacancy,
        terms,
        admission,
        registration,
        facts,
        metrics: Arc::clone(&gateway.parts.metrics),
        started,
        recorder,
    };
    (Box::pin(session.run()), dialogue_slot)
}

/// The client's byte stream, once hyper has written the 101.
async fn upgraded(on_upgrade: OnUpgrade) -> Option<Peer<ClientStream>> {
    let upgraded: Upgraded = on_upgrade.await.ok()?;
    let parts = upgraded
        .downcast::<TokioIo<Patient>>()
        .expect("the listener serves nothing but client streams");
    Some(Peer {
        stream: parts.io.into_inner().into_inner(),
        read_ahead: parts.read_buf.to_vec(),
    })
}

//! Who sends an HTTP request: the token in its header, its query or its path.

use std::sync::Arc;

use http::HeaderMap;
use secrecy::SecretString;

use super::gateway::{Ask, Gateway};
use super::socket;
use crate::auth::Identity;
use crate::protocol::{self, Credential, CredentialName, Problem};
use crate::quota::Limits;

/// Who asks for speech. `path_token` is that of a path under `/t/`.
pub(super) async fn speaker(
    gateway: &Gateway,
    ask: &Ask,
    headers: &HeaderMap,
    path_token: Option<SecretString>,
) -> Result<Identity, Problem> {
    let credential = credential(ask, headers, path_token);
    socket::identify(gateway, ask, credential.as_ref()).await
}

/// Who asks for anything else, and under which limits. A single-use token opens one session and
/// nothing besides; it is not spent on the attempt.
pub(super) async fn visitor(
    gateway: &Gateway,
    ask: &Ask,
    headers: &HeaderMap,
    path_token: Option<SecretString>,
) -> Result<(Identity, Arc<Limits>), Problem> {
    let credential = credential(ask, headers, path_token);
    if credential
        .as_ref()
        .is_some_and(|shown| shown.name == CredentialName::SingleUseToken)
    {
        return Err(Problem {
            error: "missing_permissions".into(),
            message: "A single-use token opens one session; use the client's own token here."
                .into(),
            ..Problem::voice_not_allowed()
        });
    }
    let identity = socket::identify(gateway, ask, credential.as_ref()).await?;
    let limits = gateway.limits(&identity)?;
    check_page(ask, &identity, &limits)?;
    Ok((identity, limits))
}

/// Whether the page that a request comes from, if any, may use this client's plan and token.
pub(super) fn check_page(ask: &Ask, identity: &Identity, limits: &Limits) -> Result<(), Problem> {
    let page = ask.origin.as_ref();
    let narrowing = identity.narrowing.as_ref();
    let is_allowed = page.is_none_or(|page| limits.allows_origin(page.as_str()))
        && narrowing.is_none_or(|narrowing| narrowing.allows_origin(page));
    if is_allowed {
        Ok(())
    } else {
        Err(Problem::origin_not_allowed())
    }
}

fn credential(
    ask: &Ask,
    headers: &HeaderMap,
    path_token: Option<SecretString>,
) -> Option<Credential> {
    protocol::header_credential(headers)
        .or_else(|| ask.query.credentials().first().cloned())
        .or_else(|| {
            path_token.map(|token| Credential {
                name: CredentialName::ApiKey,
                token,
            })
        })
}

//! A key set that is fetched from a URL in the background. No request ever waits for a fetch: it
//! is verified with the set that is there, and may ask for a newer one.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::KeySetUrl;
use super::keys::{VerifyingKey, read_key_set};

/// How long one fetch may take in all.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest key set, in bytes.
const MAX_SET_BYTES: usize = 256 * 1024;

/// The least time between fetches that tokens with unknown keys ask for, or after a failure.
const LEAST_PAUSE: Duration = Duration::from_secs(60);

/// The time after a failure while there is no key at all.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// The keys of one URL, as last fetched.
pub(super) struct RemoteKeys {
    pub url: KeySetUrl,
    pub refresh: Duration,
    keys: ArcSwapOption<Vec<VerifyingKey>>,
    schedule: Mutex<Schedule>,
    wake: Arc<Notify>,
}

/// When to fetch next.
#[derive(Default)]
struct Schedule {
    last: Option<Instant>,
    failed: bool,
    wanted: bool,
}

impl Schedule {
    /// `None` for at once.
    fn due(&self, refresh: Duration, has_keys: bool) -> Option<Instant> {
        let pause = match (self.failed, has_keys) {
            (true, false) => FIRST_PAUSE,
            (true, true) => LEAST_PAUSE,
            (false, _) if self.wanted => LEAST_PAUSE,
            (false, _) => refresh,
        };
        Some(self.last? + pause)
    }
}

impl RemoteKeys {
    /// No keys yet. `wake` is rung when a fetch is asked for.
    pub fn new(url: KeySetUrl, refresh: Duration, wake: Arc<Notify>) -> Self {
        let (keys, schedule) = (ArcSwapOption::empty(), Mutex::default());
        Self {
            url,
            refresh,
            keys,
            schedule,
            wake,
        }
    }

    /// The last set that could be read; `None` before the first.
    pub fn keys(&self) -> Option<Arc<Vec<VerifyingKey>>> {
        self.keys.load_full()
    }

    /// Asks for a fetch, because a token names a key that is not in the set. It comes no sooner
    /// than a minute after the last, however many ask.
    pub fn want(&self) {
        let first = !std::mem::replace(&mut self.schedule.lock().wanted, true);
        if first {
            self.wake.notify_one();
        }
    }

    /// When the next fetch is due; `None` for at once.
    pub fn due(&self) -> Option<Instant> {
        self.schedule
            .lock()
            .due(self.refresh, self.keys.load().is_some())
    }

    /// Fetches the set. Keeps the last one when that fails. Tells whether the keys changed.
    pub async fn fetch(&self) -> bool {
        let fetched = match tokio::time::timeout(FETCH_TIMEOUT, fetch(&self.url)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(FetchError::Slow),
        };
        let failed_before = {
            let mut schedule = self.schedule.lock();
            schedule.last = Some(Instant::now());
            schedule.wanted = false;
            std::mem::replace(&mut schedule.failed, fetched.is_err())
        };
        // A query may hold a key of the issuer's.
        let mut url = self.url.as_url().clone();
        url.set_query(None);
        match fetched {
            Ok(keys) => {
                if failed_before {
                    tracing::info!(%url, "fetched the JWT key set again");
                }
                let ids = |keys: &[VerifyingKey]| keys.iter().map(|key| key.id).collect::<Vec<_>>();
                let new_ids = ids(&keys);
                let old = self.keys.swap(Some(Arc::new(keys)));
                old.is_none_or(|old| ids(&old) != new_ids)
            }
            Err(error) => {
                // Once for each outage, not once a minute.
                if !failed_before {
                    let kept = self.keys.load().is_some();
                    tracing::warn!(%url, %error, kept, "cannot fetch the JWT key set");
                }
                false
            }
        }
    }
}

/// Why there is no newer set.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no complete answer within 5 s")]
    Slow,
    #[error("the answer's status was {0}")]
    Status(u16),
    #[error("the answer was larger than 256 KiB")]
    Large,
    #[error("the answer {0}")]
    Content(#[from] super::keys::KeyError),
    #[error("{}", innermost(.0))]
    Http(#[from] reqwest::Error),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    #[error("the fetch was given up")]
    GivenUp(#[from] tokio::task::JoinError),
}

/// The cause that says what happened; the outer ones repeat the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

async fn fetch(url: &KeySetUrl) -> Result<Vec<VerifyingKey>, FetchError> {
    let loopback = url.is_loopback();
    // Reading the system's roots takes a while, and each fetch sees those of its own time.
    let client = tokio::task::spawn_blocking(move || client(loopback)).await??;
    let mut answer = client.get(url.as_url().clone()).send().await?;
    if answer.status() != 200 {
        return Err(FetchError::Status(answer.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > MAX_SET_BYTES {
            return Err(FetchError::Large);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(read_key_set(&body)?)
}

fn client(loopback: bool) -> Result<reqwest::Client, FetchError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = rustls::ClientConfig::builder_with_provider(crate::crypto::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none());
    if loopback {
        client = client.no_proxy();
    }
    Ok(client.build()?)
}

#[cfg(test)]
mod tests;

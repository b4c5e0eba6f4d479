//! Single-use tokens kept in the usage store, where every replica finds them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::auth::{Directory, TokenHash, TokenStore, TokenStoreError};
use crate::usage::{Books, TokenKey, Unavailable};

/// How long a revocation stands in the store: longer than anybody will remember the token.
pub(super) const REVOKED_FOR: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How often revocations by other processes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The usage store as `auth` knows it.
pub(super) struct TokensInBooks(pub(super) Arc<Books>);

impl TokenStore for TokensInBooks {
    fn put(
        &self,
        token: TokenHash,
        record: String,
        expires_at: SystemTime,
    ) -> BoxFuture<'_, Result<(), TokenStoreError>> {
        async move {
            let life = expires_at
                .duration_since(SystemTime::now())
                .unwrap_or_default();
            self.0
                .put_token(key(token), &record, life)
                .await
                .map_err(unavailable)
        }
        .boxed()
    }

    fn take(
        &self,
        token: TokenHash,
        _now: SystemTime,
    ) -> BoxFuture<'_, Result<Option<String>, TokenStoreError>> {
        async move { self.0.take_token(key(token)).await.map_err(unavailable) }.boxed()
    }

    fn revoke(&self, token: TokenHash) -> BoxFuture<'_, Result<bool, TokenStoreError>> {
        async move {
            let found = self.0.take_token(key(token)).await.map_err(unavailable)?;
            self.0
                .revoke(key(token), REVOKED_FOR)
                .await
                .map_err(unavailable)?;
            Ok(found.is_some())
        }
        .boxed()
    }
}

/// Takes note of the tokens that other processes have revoked.
pub(super) async fn learn_revoked(books: &Books, directory: &Directory) {
    // A store that is down says so itself; what was known stays known.
    if let Ok(keys) = books.revoked().await {
        let hashes = keys.into_iter().map(|key| TokenHash::from_bytes(key.0));
        directory.learn_revoked(hashes, SystemTime::now());
    }
}

/// Goes on doing so until dropped.
pub(super) async fn keep_learning_revoked(books: Arc<Books>, directory: Arc<Directory>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        learn_revoked(&books, &directory).await;
    }
}

pub(super) fn key(token: TokenHash) -> TokenKey {
    TokenKey(token.to_bytes())
}

fn unavailable(_: Unavailable) -> TokenStoreError {
    TokenStoreError
}

//! Single-use tokens kept in the usage store, where every replica finds them.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::auth::{TokenHash, TokenStore, TokenStoreError};
use crate::usage::{Books, TokenKey, Unavailable};

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
            let life = expires_at.duration_since(SystemTime::now()).unwrap_or_default();
            self.0.put_token(key(token), &record, life).await.map_err(unavailable)
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
            Ok(found.is_some())
        }
        .boxed()
    }
}

fn key(token: TokenHash) -> TokenKey {
    TokenKey(token.to_bytes())
}

fn unavailable(_: Unavailable) -> TokenStoreError {
    TokenStoreError
}

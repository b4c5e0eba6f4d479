#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::auth::{JwtConfig, KeySetUrl};
use crate::ids::ClientId;

const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NOW: u64 = 1_800_000_000;
const SECRET: &str = "only for tests: 32 bytes or more";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn plans(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn config(secret: &str) -> Config {
    let secret = Some(SecretString::from(secret));
    let jwt = JwtConfig {
        secret,
        leeway: Duration::ZERO,
        ..JwtConfig::default()
    };
    Config {
        jwt: [("main".to_owned(), jwt)].into(),
        ..Config::default()
    }
}

fn directory(config: &Config) -> Directory {
    let tokens = Arc::new(MemoryTokens::default());
    Directory::new(config, &[], &plans(&["default", "gold"]), tokens).unwrap()
}

fn jwt(claims: &Value) -> Credential {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap();
    Credential::Key(SecretString::from(token))
}

async fn identify(directory: &Directory, credential: &Credential) -> Result<Identity, AuthError> {
    directory.identify(Some(credential), REMOTE, at(NOW)).await
}

#[tokio::test]
async fn a_jwt_names_client_and_plan_and_ends_the_session() {
    let directory = directory(&config(SECRET));
    assert!(!directory.is_open());
    let credential = jwt(&json!({ "sub": "ann", "exp": NOW + 60, "plan": "gold" }));
    let identity = identify(&directory, &credential).await.unwrap();
    assert_eq!((identity.client.as_str(), &*identity.plan), ("ann", "gold"));
    assert_eq!(identity.expires_at, Some(at(NOW + 60)));
    assert!(directory.still_valid(&identity, at(NOW + 59)));
    assert_eq!(
        directory.recheck(&identity, at(NOW + 60)),
        Err(AuthError::Expired)
    );

    let credential = jwt(&json!({ "sub": "ann", "exp": NOW + 60 }));
    assert_eq!(
        &*identify(&directory, &credential).await.unwrap().plan,
        "default"
    );
}

#[tokio::test]
async fn a_jwt_with_a_plan_that_does_not_exist_is_refused() {
    let directory = directory(&config(SECRET));
    let credential = jwt(&json!({ "sub": "ann", "exp": NOW + 60, "plan": "platinum" }));
    assert_eq!(
        identify(&directory, &credential).await.unwrap_err(),
        AuthError::PlanUnknown
    );
}

#[tokio::test]
async fn withdrawing_key_plan_or_client_ends_live_sessions() {
    let directory = directory(&config(SECRET));
    let credential = jwt(&json!({ "sub": "ann", "exp": NOW + 60, "plan": "gold" }));
    let identity = identify(&directory, &credential).await.unwrap();
    let both = plans(&["default", "gold"]);
    directory.reload(&config(SECRET), &[], &both).unwrap();
    assert!(directory.still_valid(&identity, at(NOW)));

    directory
        .reload(&config(SECRET), &[], &plans(&["default"]))
        .unwrap();
    assert_eq!(
        directory.recheck(&identity, at(NOW)),
        Err(AuthError::PlanUnknown)
    );
    directory
        .reload(&config(&SECRET.to_uppercase()), &[], &both)
        .unwrap();
    assert_eq!(
        directory.recheck(&identity, at(NOW)),
        Err(AuthError::Revoked)
    );
    let ann = ClientId::parse("ann").unwrap();
    let revoked = Config {
        revoked_clients: [ann].into(),
        ..config(SECRET)
    };
    directory.reload(&revoked, &[], &both).unwrap();
    assert_eq!(
        directory.recheck(&identity, at(NOW)),
        Err(AuthError::Revoked)
    );
    assert_eq!(
        identify(&directory, &credential).await.unwrap_err(),
        AuthError::Revoked
    );
}

#[tokio::test]
async fn a_revoked_jwt_is_revoked_under_any_signature() {
    let directory = directory(&config(SECRET));
    let credential = jwt(&json!({ "sub": "ann", "exp": NOW + 60 }));
    let identity = identify(&directory, &credential).await.unwrap();
    let Credential::Key(token) = &credential else {
        unreachable!()
    };
    let (signed, _) = token.expose_secret().rsplit_once('.').unwrap();
    let other = SecretString::from(format!("{signed}.another"));
    directory
        .revoke(TokenHash::to_revoke(&other), at(NOW))
        .await
        .unwrap();
    assert_eq!(
        directory.recheck(&identity, at(NOW)),
        Err(AuthError::Revoked)
    );
    assert_eq!(
        identify(&directory, &credential).await.unwrap_err(),
        AuthError::Revoked
    );
}

#[tokio::test]
async fn what_a_jwt_mints_ends_with_the_jwt() {
    let directory = directory(&config(SECRET));
    let credential = jwt(&json!({ "sub": "ann", "exp": NOW + 60, "plan": "gold" }));
    let identity = identify(&directory, &credential).await.unwrap();
    let minted = directory.mint(&identity, b"", at(NOW)).await.unwrap();
    let page = identify(&directory, &Credential::SingleUse(minted.token))
        .await
        .unwrap();
    assert_eq!((page.client.as_str(), &*page.plan), ("ann", "gold"));
    assert_eq!(page.expires_at, Some(at(NOW + 60)));
    directory
        .reload(&config(&SECRET.to_uppercase()), &[], &plans(&["default"]))
        .unwrap();
    assert_eq!(directory.recheck(&page, at(NOW)), Err(AuthError::Revoked));
}

/// Serves a key set for ever.
async fn serve(set: String) -> KeySetUrl {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{set}",
        set.len()
    );
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && socket.read_buf(&mut head).await.unwrap() > 0 {}
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    KeySetUrl::try_from(url).unwrap()
}

#[tokio::test]
async fn keys_of_a_url_come_in_the_background_and_stay_over_a_reload() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let x = URL_SAFE_NO_PAD.encode(key.der_bytes());
    let set = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x }] });
    let jwks_url = Some(serve(set.to_string()).await);
    let jwt = JwtConfig {
        jwks_url,
        ..JwtConfig::default()
    };
    let config = Config {
        jwt: [("main".to_owned(), jwt)].into(),
        ..Config::default()
    };
    let directory = Arc::new(directory(&config));
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("k".into());
    let claims = json!({ "sub": "ann", "exp": NOW + 60 });
    let signer = EncodingKey::from_ed_der(&key.serialize_der());
    let token = jsonwebtoken::encode(&header, &claims, &signer).unwrap();
    let credential = Credential::Key(SecretString::from(token));

    assert!(!directory.has_keys());
    assert_eq!(
        identify(&directory, &credential).await.unwrap_err(),
        AuthError::KeysMissing
    );

    let mut changes = directory.changes();
    let fetching = Arc::clone(&directory);
    let fetching = tokio::spawn(async move { fetching.keep_keys_fresh().await });
    changes.changed().await.unwrap();
    fetching.abort();
    assert!(directory.has_keys());
    let identity = identify(&directory, &credential).await.unwrap();
    assert_eq!(identity.client.as_str(), "ann");

    directory
        .reload(&config, &[], &plans(&["default"]))
        .unwrap();
    assert!(directory.has_keys());
    assert!(directory.still_valid(&identity, at(NOW)));
}

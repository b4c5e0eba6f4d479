#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use secrecy::ExposeSecret as _;

use super::*;
use crate::auth::TokenHashes;
use crate::ids::ClientId;
use std::net::IpAddr;

const REMOTE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn plans() -> BTreeSet<Arc<str>> {
    ["default", "gold"].into_iter().map(Arc::from).collect()
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn after(seconds: u64) -> SystemTime {
    now() + Duration::from_secs(seconds)
}

fn row(id: &str, tokens: &[&NewToken], plan: &str) -> ClientConfig {
    ClientConfig {
        id: ClientId::parse(id).unwrap(),
        token_sha256: TokenHashes::Several(tokens.iter().map(|new| new.hash).collect()),
        plan: plan.into(),
        expires_at: None,
    }
}

fn directory(clients: &[ClientConfig]) -> Directory {
    Directory::new(
        &Config::default(),
        clients,
        &plans(),
        Arc::new(MemoryTokens::default()),
    )
    .unwrap()
}

fn key(new: &NewToken) -> Credential {
    Credential::Key(new.token.clone())
}

async fn identify(directory: &Directory, credential: &Credential) -> Result<Identity, AuthError> {
    directory.identify(Some(credential), REMOTE, now()).await
}

#[track_caller]
fn refused(config: &Config, clients: &[ClientConfig], words: &str) {
    let tokens = Arc::new(MemoryTokens::default());
    let error = Directory::new(config, clients, &plans(), tokens)
        .err()
        .expect(words)
        .to_string();
    assert!(error.contains(words), "{error}");
}

#[tokio::test]
async fn a_configured_token_names_its_client_and_plan() {
    let (web, bot) = (NewToken::for_client(), NewToken::for_client());
    let directory = directory(&[row("web", &[&web], "default"), row("bot", &[&bot], "gold")]);
    let identity = identify(&directory, &key(&bot)).await.unwrap();
    assert_eq!((identity.client.as_str(), &*identity.plan), ("bot", "gold"));
    assert_eq!(
        identify(&directory, &key(&web))
            .await
            .unwrap()
            .client
            .as_str(),
        "web"
    );
    assert!(!directory.is_open());
}

#[tokio::test]
async fn nothing_an_unknown_token_and_an_empty_one_are_told_apart() {
    let directory = directory(&[row("web", &[&NewToken::for_client()], "default")]);
    let nothing = directory.identify(None, REMOTE, now()).await;
    assert_eq!(nothing.unwrap_err(), AuthError::Missing);
    let empty = Credential::Key(SecretString::from(""));
    assert_eq!(
        identify(&directory, &empty).await.unwrap_err(),
        AuthError::Missing
    );
    for text in [
        "x".to_owned(),
        "x".repeat(9000),
        "é\u{0}".into(),
        "..".into(),
        "a.b.c".into(),
    ] {
        let unknown = Credential::Key(SecretString::from(text));
        assert_eq!(
            identify(&directory, &unknown).await.unwrap_err(),
            AuthError::Unknown
        );
    }
    let unknown = Credential::SingleUse(SecretString::from("x"));
    assert_eq!(
        identify(&directory, &unknown).await.unwrap_err(),
        AuthError::Unknown
    );
}

#[tokio::test]
async fn both_tokens_work_while_one_replaces_the_other() {
    let (old, new) = (NewToken::for_client(), NewToken::for_client());
    let directory = directory(&[row("web", &[&old, &new], "default")]);
    assert!(identify(&directory, &key(&old)).await.is_ok());
    assert!(identify(&directory, &key(&new)).await.is_ok());
}

#[tokio::test]
async fn with_open_access_the_client_is_its_address() {
    let directory = Directory::open();
    assert!(directory.is_open());
    for (address, client) in [
        ("127.0.0.1", "ip:127.0.0.1"),
        ("::ffff:127.0.0.1", "ip:127.0.0.1"),
        ("::1", "ip:::1"),
        ("2001:db8:0:1:a::1", "ip:2001:db8:0:1::/64"),
    ] {
        let identity = directory
            .identify(None, address.parse().unwrap(), now())
            .await
            .unwrap();
        assert_eq!(identity.client.as_str(), client);
        assert_eq!(identity.token, TokenRef::Open);
        assert!(directory.still_valid(&identity, now()));
    }
    let any = Credential::Key(SecretString::from("any"));
    assert!(identify(&directory, &any).await.is_ok());
}

#[tokio::test]
async fn a_removed_client_loses_its_live_sessions() {
    let (web, bot) = (NewToken::for_client(), NewToken::for_client());
    let both = [
        row("web", &[&web], "default"),
        row("bot", &[&bot], "default"),
    ];
    let directory = directory(&both);
    let identity = identify(&directory, &key(&web)).await.unwrap();
    let page = directory.mint(&identity, b"", now()).await.unwrap();
    let page = identify(&directory, &Credential::SingleUse(page.token))
        .await
        .unwrap();
    let mut changes = directory.changes();

    directory
        .reload(&Config::default(), &both[1..], &plans())
        .unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(directory.recheck(&identity, now()), Err(AuthError::Revoked));
    assert_eq!(directory.recheck(&page, now()), Err(AuthError::Revoked));
    assert_eq!(
        identify(&directory, &key(&web)).await.unwrap_err(),
        AuthError::Unknown
    );
    assert!(identify(&directory, &key(&bot)).await.is_ok());
}

#[tokio::test]
async fn a_reload_moves_live_sessions_to_the_clients_new_plan() {
    let web = NewToken::for_client();
    let directory = directory(&[row("web", &[&web], "default")]);
    let identity = identify(&directory, &key(&web)).await.unwrap();
    directory
        .reload(&Config::default(), &[row("web", &[&web], "gold")], &plans())
        .unwrap();
    assert_eq!(&*directory.recheck(&identity, now()).unwrap(), "gold");
}

#[tokio::test]
async fn a_bad_reload_changes_nothing() {
    let web = NewToken::for_client();
    let directory = directory(&[row("web", &[&web], "default")]);
    let error = directory.reload(&Config::default(), &[row("web", &[&web], "none")], &plans());
    assert_eq!(
        error.unwrap_err().to_string(),
        "clients.web.plan: there is no plan \"none\": add [plans.none]"
    );
    assert!(identify(&directory, &key(&web)).await.is_ok());
}

#[tokio::test]
async fn closing_open_access_ends_its_sessions() {
    let directory = Directory::open();
    let identity = directory.identify(None, REMOTE, now()).await.unwrap();
    let web = NewToken::for_client();
    directory
        .reload(
            &Config::default(),
            &[row("web", &[&web], "default")],
            &plans(),
        )
        .unwrap();
    assert_eq!(directory.recheck(&identity, now()), Err(AuthError::Revoked));
    assert!(!directory.is_open());
}

#[tokio::test]
async fn a_configured_token_ends_at_its_time() {
    let web = NewToken::for_client();
    let mut row = row("web", &[&web], "default");
    row.expires_at = Some(after(10));
    let directory = directory(&[row]);
    let identity = identify(&directory, &key(&web)).await.unwrap();
    assert_eq!(
        directory.recheck(&identity, after(10)),
        Err(AuthError::Expired)
    );
    let late = directory
        .identify(Some(&key(&web)), REMOTE, after(10))
        .await;
    assert_eq!(late.unwrap_err(), AuthError::Expired);
}

#[tokio::test]
async fn a_revoked_client_is_refused_and_cut() {
    let web = NewToken::for_client();
    let rows = [row("web", &[&web], "default")];
    let directory = directory(&rows);
    let identity = identify(&directory, &key(&web)).await.unwrap();
    let revoked_clients = BTreeSet::from([identity.client.clone()]);
    let config = Config {
        revoked_clients,
        ..Config::default()
    };
    directory.reload(&config, &rows, &plans()).unwrap();
    assert_eq!(directory.recheck(&identity, now()), Err(AuthError::Revoked));
    assert_eq!(
        identify(&directory, &key(&web)).await.unwrap_err(),
        AuthError::Revoked
    );
}

#[tokio::test]
async fn a_single_use_token_opens_one_session_as_its_minter() {
    let web = NewToken::for_client();
    let directory = directory(&[row("web", &[&web], "gold")]);
    let identity = identify(&directory, &key(&web)).await.unwrap();
    let minted = directory
        .mint(&identity, br#"{"max_characters":7}"#, now())
        .await
        .unwrap();
    assert_eq!(minted.expires_at, after(15 * 60));
    assert!(minted.to_body().starts_with(r#"{"token":"xit_"#));

    let as_key = Credential::Key(minted.token.clone());
    assert_eq!(
        identify(&directory, &as_key).await.unwrap_err(),
        AuthError::Unknown
    );

    let credential = Credential::SingleUse(minted.token);
    let page = identify(&directory, &credential).await.unwrap();
    assert_eq!((page.client.as_str(), &*page.plan), ("web", "gold"));
    assert_eq!(page.narrowing.as_ref().unwrap().max_characters, Some(7));
    assert!(directory.still_valid(&page, now()));

    assert_eq!(
        identify(&directory, &credential).await.unwrap_err(),
        AuthError::Unknown
    );
    let again = directory.mint(&page, b"", now()).await;
    assert_eq!(again.unwrap_err(), MintError::SingleUse);
}

#[tokio::test]
async fn what_changed_since_it_was_made_counts_for_a_single_use_token() {
    let web = NewToken::for_client();
    let directory = directory(&[row("web", &[&web], "default")]);
    let identity = identify(&directory, &key(&web)).await.unwrap();
    let one = directory.mint(&identity, b"", now()).await.unwrap();
    let two = directory.mint(&identity, b"", now()).await.unwrap();

    directory
        .reload(&Config::default(), &[row("web", &[&web], "gold")], &plans())
        .unwrap();
    let page = identify(&directory, &Credential::SingleUse(one.token))
        .await
        .unwrap();
    assert_eq!(&*page.plan, "gold");

    let bot = row("bot", &[&NewToken::for_client()], "gold");
    directory
        .reload(&Config::default(), &[bot], &plans())
        .unwrap();
    let late = identify(&directory, &Credential::SingleUse(two.token)).await;
    assert_eq!(late.unwrap_err(), AuthError::Revoked);
}

#[tokio::test]
async fn a_single_use_token_waits_no_longer_than_its_lifetime() {
    let directory = Directory::open();
    let identity = directory.identify(None, REMOTE, now()).await.unwrap();
    let minted = directory.mint(&identity, b"", now()).await.unwrap();
    let credential = Credential::SingleUse(minted.token);
    let late = directory
        .identify(Some(&credential), REMOTE, after(15 * 60))
        .await;
    assert_eq!(late.unwrap_err(), AuthError::Unknown);
}

#[tokio::test]
async fn a_single_use_token_lives_no_longer_than_its_minters() {
    let web = NewToken::for_client();
    let mut row = row("web", &[&web], "default");
    row.expires_at = Some(after(60));
    let directory = directory(&[row]);
    let identity = identify(&directory, &key(&web)).await.unwrap();
    let minted = directory.mint(&identity, b"", now()).await.unwrap();
    assert_eq!(minted.expires_at, after(60));
    let page = identify(&directory, &Credential::SingleUse(minted.token))
        .await
        .unwrap();
    assert_eq!(page.expires_at, Some(after(60)));
    assert_eq!(directory.recheck(&page, after(60)), Err(AuthError::Expired));
}

#[tokio::test]
async fn a_revoked_single_use_token_opens_nothing_and_ends_its_session() {
    let directory = Directory::open();
    let identity = directory.identify(None, REMOTE, now()).await.unwrap();
    let waiting = directory.mint(&identity, b"", now()).await.unwrap();
    let spent = directory.mint(&identity, b"", now()).await.unwrap();
    let page = identify(&directory, &Credential::SingleUse(spent.token))
        .await
        .unwrap();

    assert_eq!(directory.revoke(waiting.hash, now()).await, Ok(true));
    let credential = Credential::SingleUse(waiting.token);
    assert_eq!(
        identify(&directory, &credential).await.unwrap_err(),
        AuthError::Revoked
    );

    assert_eq!(directory.revoke(spent.hash, now()).await, Ok(false));
    assert_eq!(directory.recheck(&page, now()), Err(AuthError::Revoked));
}

#[tokio::test]
async fn revoking_a_clients_token_ends_what_it_minted() {
    let web = NewToken::for_client();
    let directory = directory(&[row("web", &[&web], "default")]);
    let identity = identify(&directory, &key(&web)).await.unwrap();
    let minted = directory.mint(&identity, b"", now()).await.unwrap();
    let page = identify(&directory, &Credential::SingleUse(minted.token))
        .await
        .unwrap();
    directory.revoke(web.hash, now()).await.unwrap();
    assert_eq!(directory.recheck(&page, now()), Err(AuthError::Revoked));
    assert_eq!(
        identify(&directory, &key(&web)).await.unwrap_err(),
        AuthError::Revoked
    );
}

#[tokio::test]
async fn a_token_that_was_revoked_elsewhere_is_refused_and_cut() {
    let web = NewToken::for_client();
    let directory = directory(&[row("web", &[&web], "default")]);
    let identity = identify(&directory, &key(&web)).await.unwrap();
    let mut changes = directory.changes();
    directory.learn_revoked([web.hash], now());
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(directory.recheck(&identity, now()), Err(AuthError::Revoked));
    assert_eq!(
        identify(&directory, &key(&web)).await.unwrap_err(),
        AuthError::Revoked
    );
    directory.learn_revoked([web.hash], now());
    assert!(!changes.has_changed().unwrap(), "nothing new");
}

#[tokio::test]
async fn of_many_that_spend_one_token_at_once_one_gets_in() {
    let directory = Arc::new(Directory::open());
    let identity = directory.identify(None, REMOTE, now()).await.unwrap();
    let minted = directory.mint(&identity, b"", now()).await.unwrap();
    let mut takers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let directory = Arc::clone(&directory);
        let credential = Credential::SingleUse(minted.token.clone());
        takers.spawn(async move { identify(&directory, &credential).await.is_ok() });
    }
    let n_in = takers
        .join_all()
        .await
        .into_iter()
        .filter(|got_in| *got_in)
        .count();
    assert_eq!(n_in, 1);
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let (web, bot) = (NewToken::for_client(), NewToken::for_client());
    let config = Config::default();
    refused(&config, &[row("web", &[&web], "none")], "clients.web.plan");
    refused(
        &config,
        &[row("web", &[], "default")],
        "clients.web.token_sha256",
    );
    refused(
        &config,
        &[
            row("web", &[&web], "default"),
            row("web", &[&bot], "default"),
        ],
        "clients.web.id",
    );
    refused(
        &config,
        &[
            row("web", &[&web], "default"),
            row("bot", &[&web], "default"),
        ],
        "clients.bot.token_sha256",
    );
    let mut empty = row("web", &[&web], "default");
    empty.token_sha256 = TokenHashes::One(TokenHash::of_bytes(b""));
    refused(&config, &[empty], "clients.web.token_sha256");
    let config = Config {
        default_plan: "none".into(),
        ..Config::default()
    };
    refused(&config, &[], "auth.default_plan");
    let config = Config {
        single_use_lifetime: Duration::ZERO,
        ..Config::default()
    };
    refused(&config, &[], "auth.single_use_lifetime");
}

#[tokio::test]
async fn debug_of_a_credential_and_an_identity_shows_no_token() {
    let web = NewToken::for_client();
    let directory = directory(&[row("web", &[&web], "default")]);
    let credential = key(&web);
    let identity = identify(&directory, &credential).await.unwrap();
    let debug = format!("{credential:?} {identity:?}");
    assert!(!debug.contains(web.token.expose_secret()), "{debug}");
    assert!(!debug.contains(&web.hash.to_string()), "{debug}");
}

//! Tokens are withdrawn by the operator, and sessions that rest on them end, on every replica.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::support::http::Response;
use crate::support::relay::{OTHER_TOKEN, TOKEN, command, sha256_hex};
use crate::support::{PATH, Request, TestRelay, Upstream, session};

/// A relay whose books others may share.
fn relay_at(upstream: &Upstream, books: &Path) -> TestRelay {
    let store = format!("[usage]\nstore = \"sqlite:{}\"\n", books.display());
    TestRelay::start(upstream.address, &store)
}

#[track_caller]
fn revoke(operator: SocketAddr, named: &str) -> Response {
    let mut request =
        Request::plain("POST", "/tokens/revoke").with("Content-Length", &named.len().to_string());
    request.body = named.as_bytes().to_vec();
    request.send(operator)
}

fn upgrade_with(relay: &TestRelay, token: &str) -> u16 {
    Request::upgrade(PATH)
        .with("xi-api-key", token)
        .send(relay.address)
        .status
}

/// `xi-relay token revoke ARGUMENT`, with something to read.
fn command_line(store: &str, argument: &str, input: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command(&dir)
        .args(["token", "revoke", argument])
        .env("XI_RELAY__USAGE__STORE", store)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_revoked_token_ends_its_sessions_on_every_replica() {
    let (dir, upstream) = (tempfile::tempdir().unwrap(), Upstream::start());
    let books = dir.path().join("books.db");
    let (here, there) = (relay_at(&upstream, &books), relay_at(&upstream, &books));
    let (mut client_here, _conn_here) = session(&here, &upstream);
    let (mut client_there, _conn_there) = session(&there, &upstream);

    assert_eq!(revoke(here.operator, &format!("{TOKEN}\n")).status, 204);
    client_here.expect_refusal("token_revoked", 1008);
    client_there.expect_refusal("token_revoked", 1008);
    for relay in [&here, &there] {
        assert_eq!(upgrade_with(relay, TOKEN), 401);
        assert!(!relay.log_text().contains(TOKEN));
    }
    // Neither do relays forget that start afterwards.
    drop((here, there));
    assert_eq!(upgrade_with(&relay_at(&upstream, &books), TOKEN), 401);
}

#[test]
fn the_command_reaches_running_relays_through_the_store() {
    let (dir, upstream) = (tempfile::tempdir().unwrap(), Upstream::start());
    let books = dir.path().join("books.db");
    let relay = relay_at(&upstream, &books);
    let (mut client, _conn) = session(&relay, &upstream);
    let store = format!("sqlite:{}", books.display());
    let output = command_line(&store, "-", &format!("{TOKEN}\n"));
    assert!(output.status.success(), "{output:?}");
    client.expect_refusal("token_revoked", 1008);

    let mut other = crate::support::Peer::dial(relay.address);
    other.write(
        &Request::upgrade(PATH)
            .with("xi-api-key", OTHER_TOKEN)
            .encode(),
    );
    let mut conn = upstream.next();
    conn.accept();
    other.expect_upgraded();
    let output = command_line(&store, &sha256_hex(OTHER_TOKEN), "");
    assert!(output.status.success(), "{output:?}");
    other.expect_refusal("token_revoked", 1008);
}

#[test]
fn a_revoked_single_use_token_opens_nothing() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mint = || {
        let minted = Request::plain("POST", "/v1/single-use-token/tts_websocket")
            .with("xi-api-key", TOKEN)
            .with("Content-Length", "0")
            .send(relay.address);
        minted.json()["token"].as_str().unwrap().to_owned()
    };
    let (token, by_hash) = (mint(), mint());
    assert_eq!(revoke(relay.operator, &token).status, 204);
    assert_eq!(revoke(relay.operator, &sha256_hex(&by_hash)).status, 204);
    for token in [token, by_hash] {
        let mut client = crate::support::Peer::dial(relay.address);
        let target = format!("{PATH}?single_use_token={token}");
        client.write(&Request::upgrade(&target).encode());
        client.expect_upgraded();
        client.say(r#"{"text":" "}"#);
        client.expect_refusal("token_revoked", 1008);
        assert!(!relay.log_text().contains(&token));
    }
}

#[test]
fn what_names_no_token_is_refused() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    assert_eq!(revoke(relay.operator, " \n").status, 400);
    assert_eq!(revoke(relay.operator, &"x".repeat(65 * 1024)).status, 413);
    assert_eq!(relay.operator("GET", "/tokens/revoke").status, 405);
    let output = command_line("memory", TOKEN, "");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("/tokens/revoke") && !said.contains(TOKEN),
        "{said}"
    );
}

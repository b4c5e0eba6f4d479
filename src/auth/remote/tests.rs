#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Gives one scripted answer to each connection, and none to further ones.
async fn server(answers: impl IntoIterator<Item = String>) -> KeySetUrl {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let mut answers: VecDeque<_> = answers.into_iter().collect();
    tokio::spawn(async move {
        while let Some(answer) = answers.pop_front() {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && socket.read_buf(&mut head).await.unwrap() > 0 {}
            // The fetch may end before it has read an answer that is too large.
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    KeySetUrl::try_from(url).unwrap()
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn key_set(kid: &str) -> String {
    use base64::Engine as _;
    use rcgen::PublicKeyData as _;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key.der_bytes());
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{x}"}}]}}"#)
}

fn remote(url: KeySetUrl) -> RemoteKeys {
    RemoteKeys::new(url, Duration::from_secs(600), Arc::default())
}

fn kid(remote: &RemoteKeys) -> Option<String> {
    remote.keys()?.first()?.kid.clone()
}

#[tokio::test]
async fn the_last_good_set_is_kept_whatever_comes_after() {
    let good = key_set("good");
    let url = server([
        answer("200 OK", &good),
        answer("500 Internal Server Error", &key_set("error")),
        answer("200 OK", "<html>"),
        answer("200 OK", r#"{"keys":[]}"#),
        answer("200 OK", &(key_set("large") + &" ".repeat(MAX_SET_BYTES))),
        answer("302 Found\r\nlocation: /elsewhere", ""),
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(),
        answer("200 OK", &good),
        answer("200 OK", &key_set("next")),
    ])
    .await;
    let remote = remote(url);
    assert_eq!(kid(&remote), None);
    assert!(remote.fetch().await);
    for _ in 0..6 {
        assert!(!remote.fetch().await);
        assert!(remote.schedule.lock().failed);
        assert_eq!(kid(&remote).as_deref(), Some("good"));
    }
    assert!(!remote.fetch().await, "the same keys are no change");
    assert!(!remote.schedule.lock().failed);
    assert!(remote.fetch().await);
    assert_eq!(kid(&remote).as_deref(), Some("next"));
}

#[tokio::test]
async fn a_server_that_is_not_there_leaves_no_keys() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    drop(listener);
    let remote = remote(KeySetUrl::try_from(url).unwrap());
    assert!(!remote.fetch().await);
    assert_eq!(kid(&remote), None);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_is_due_at_once_then_by_what_came_of_it() {
    let refresh = Duration::from_secs(600);
    let now = Instant::now();
    let due = |schedule: &Schedule, has_keys| {
        schedule
            .due(refresh, has_keys)
            .map(|due| (due - now).as_secs())
    };
    let mut schedule = Schedule::default();
    assert_eq!(due(&schedule, false), None);
    schedule.last = Some(now);
    assert_eq!(due(&schedule, true), Some(600));
    schedule.wanted = true;
    assert_eq!(due(&schedule, true), Some(60));
    schedule.failed = true;
    assert_eq!(due(&schedule, true), Some(60));
    assert_eq!(due(&schedule, false), Some(5));
}

#[tokio::test]
async fn many_unknown_keys_ring_once() {
    let remote = remote(KeySetUrl::try_from("http://127.0.0.1:9/jwks".to_owned()).unwrap());
    for _ in 0..100 {
        remote.want();
    }
    remote.wake.notified().await;
    let again = tokio::time::timeout(Duration::from_millis(1), remote.wake.notified()).await;
    assert!(again.is_err());
}

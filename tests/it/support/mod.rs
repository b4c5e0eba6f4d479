//! What the behavior tests speak with: frames and heads written by hand, a client and an upstream
//! that can misbehave at will, and the relay's own binary in a process of its own.

pub mod frame;
pub mod http;
pub mod peer;
pub mod relay;
pub mod upstream;
pub mod wire;

use std::time::{Duration, Instant};

pub use frame::Frame;
pub use http::Request;
pub use peer::Peer;
pub use relay::TestRelay;
pub use upstream::Upstream;
pub use wire::{Event, PATIENCE, Wire};

/// A session that nobody ends is ended by the relay's idle timer after 20 s. An ending within this
/// time is one that was noticed, on however slow a machine.
pub const PROMPTLY: Duration = Duration::from_secs(15);

/// The path that most tests speak on.
pub const PATH: &str = "/v1/text-to-speech/VoiceAlpha0000000001/stream-input";

/// Asks again until there is an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A client and an upstream with a session between them, opened with the token in a header.
#[track_caller]
pub fn session(relay: &TestRelay, upstream: &Upstream) -> (Peer, Peer) {
    session_at(relay, upstream, PATH)
}

/// The same for another path or query.
#[track_caller]
pub fn session_at(relay: &TestRelay, upstream: &Upstream, target: &str) -> (Peer, Peer) {
    let mut client = Peer::dial(relay.address);
    client.write(&relay.authorized(target).encode());
    let mut conn = upstream.next();
    conn.accept();
    client.expect_upgraded();
    (client, conn)
}

/// Without a relay between them, so that a fault of the tools is not taken for one of the relay.
#[test]
fn the_tools_understand_each_other() {
    let upstream = Upstream::start();
    let mut client = Peer::dial(upstream.address);
    client.write(&Request::upgrade(PATH).with("xi-api-key", "token").encode());
    let mut conn = upstream.next();
    assert_eq!(conn.head.as_ref().unwrap().all("XI-API-KEY"), ["token"]);
    conn.accept();
    client.expect_upgraded();
    for n in [0, 1, 125, 126, 65_535, 65_536, 200_000] {
        let text = "x".repeat(n);
        client.say(&text);
        assert_eq!(conn.hear(), text);
        conn.say(&text);
        assert_eq!(client.hear(), text);
    }
    conn.send(Frame::close(1000, "done"));
    assert_eq!(client.frame().close_parts(), (1000, "done".to_owned()));
    conn.reset();
    client.expect_gone();
}

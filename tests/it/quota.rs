//! No client gets more characters through than its quota allows, and none is refused what is left.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{Event, Frame, PATH, Peer, TestRelay, Upstream, eventually, session};

/// Seven characters to each message.
const SEVEN: &str = r#"{"text":"seven c"}"#;

fn window(limit: usize) -> String {
    format!(
        "[plans.default]\nwindows = [{{ unit = \"characters\", limit = {limit}, per = \"month\" }}]\n"
    )
}

fn store(url: &str) -> String {
    format!("[usage]\nstore = \"{url}\"\n")
}

/// An upstream that counts the messages it gets, over all connections.
fn counting_upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let n_forwarded = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&n_forwarded);
    let address = Upstream::scripted(move |mut conn: Peer| {
        conn.accept();
        while let Some(event) = conn.wire().event_within(Duration::from_secs(60)) {
            match event {
                Event::Frame(frame) if frame.payload == SEVEN.as_bytes() => {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
                Event::Frame(frame) if frame.opcode == crate::support::frame::CLOSE => return,
                Event::Frame(_) => {}
                Event::Eof | Event::Reset => return,
            }
        }
    });
    (address, n_forwarded)
}

/// Sends `n` messages of seven characters, and reads to the end of the session if it is refused.
fn spend(address: SocketAddr, request: &[u8], n: usize) -> Option<String> {
    let mut client = Peer::dial(address);
    client.write(request);
    let response = client.expect_response();
    if response.status != 101 {
        return Some(response.text());
    }
    let message = client.dress(Frame::text(SEVEN)).encode();
    for _ in 0..n {
        if client.wire().try_write(&message).is_err() {
            break;
        }
    }
    // The answer to a ping says that all before it has been dealt with.
    let ping = client
        .dress(Frame::new(crate::support::frame::PING, b"done"))
        .encode();
    let _ = client.wire().try_write(&ping);
    match client.event() {
        Event::Frame(frame) if frame.opcode == crate::support::frame::PONG => None,
        Event::Frame(frame) => Some(String::from_utf8_lossy(&frame.payload).into_owned()),
        Event::Eof | Event::Reset => Some(String::new()),
    }
}

/// Sessions of 3,500 characters each were refused, but for the first that fit the window.
#[track_caller]
fn expect_refusals(ends: impl IntoIterator<Item = Option<String>>, limit: usize) {
    let (refused, whole): (Vec<_>, Vec<_>) = ends.into_iter().partition(Option::is_some);
    assert!(
        whole.len() <= limit / 3_500,
        "{} were refused nothing",
        whole.len()
    );
    for refusal in refused.into_iter().flatten() {
        assert!(refusal.contains("quota_exceeded"), "{refusal}");
    }
}

fn check_exact(store_toml: &str) {
    let (upstream, n_forwarded) = counting_upstream();
    let relay = TestRelay::start(upstream, &[window(10_000).as_str(), store_toml].concat());
    let request = relay.authorized(PATH).encode();
    let address = relay.address;
    let sessions: Vec<_> = (0..16)
        .map(|_| {
            let request = request.clone();
            thread::spawn(move || spend(address, &request, 500))
        })
        .collect();
    let ends: Vec<Option<String>> = sessions.into_iter().map(|it| it.join().unwrap()).collect();
    expect_refusals(ends, 10_000);
    relay.wait_until_idle();
    eventually("all that was forwarded", || {
        (n_forwarded.load(Ordering::SeqCst) == 1_428).then_some(())
    });
}

#[test]
fn sixteen_sessions_share_a_window_exactly_in_memory() {
    check_exact(&store("memory"));
}

#[test]
fn sixteen_sessions_share_a_window_exactly_in_sqlite() {
    check_exact(&store("sqlite:usage.db"));
}

#[test]
fn sixteen_sessions_share_a_window_exactly_in_redis() {
    let redis = Redis::start();
    check_exact(&store(&redis.url));
}

#[test]
fn two_relays_share_a_window_in_redis() {
    let redis = Redis::start();
    let (upstream, n_forwarded) = counting_upstream();
    let toml = [window(7_000), store(&redis.url)].concat();
    let relays = [
        TestRelay::start(upstream, &toml),
        TestRelay::start(upstream, &toml),
    ];
    let sessions: Vec<_> = (0..8)
        .map(|n| {
            let relay = &relays[n % 2];
            let (address, request) = (relay.address, relay.authorized(PATH).encode());
            thread::spawn(move || spend(address, &request, 500))
        })
        .collect();
    expect_refusals(sessions.into_iter().map(|it| it.join().unwrap()), 7_000);
    relays.iter().for_each(TestRelay::wait_until_idle);
    eventually("all that was forwarded", || {
        (n_forwarded.load(Ordering::SeqCst) == 1_000).then_some(())
    });
}

#[test]
fn a_refusal_says_what_was_used_and_when_it_resets() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, &window(20));
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":" "}"#);
    assert_eq!(conn.hear(), r#"{"text":" "}"#);
    client.say(r#"{"text":"fifteen \ud83c\udf0a chars"}"#);
    conn.hear();
    client.say(r#"{"text":"too much"}"#);
    let refusal = client.expect_refusal("quota_exceeded", 1008);
    let message = refusal["message"].as_str().unwrap();
    assert!(
        message.contains("15") && message.contains("20"),
        "{message}"
    );
    assert!(
        refusal["retry_after"]
            .as_u64()
            .is_some_and(|seconds| seconds > 0),
        "{refusal}"
    );
    let (heard, _) = conn.hear_out();
    assert_eq!(heard, [""; 0], "a refused text does not go up");

    // What is left is still there for a message that fits.
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":"five."}"#);
    assert_eq!(conn.hear(), r#"{"text":"five."}"#);
    client.say(r#"{"text":"."}"#);
    client.expect_refusal("quota_exceeded", 1008);
}

#[test]
fn a_spent_window_reads_429_in_http() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, &window(5));
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":"five."}"#);
    conn.hear();
    drop(client);
    conn.hear_out();
    relay.wait_until_idle();
    let refused = relay.authorized(PATH).send(relay.address);
    assert_eq!(refused.status, 429, "{}", refused.head.raw);
    assert_eq!(refused.json()["detail"]["code"], "quota_exceeded");
    assert!(
        refused.head.get("retry-after").is_some(),
        "{}",
        refused.head.raw
    );
}

#[test]
fn nothing_passes_the_limit_across_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("usage.db");
    let (upstream, n_forwarded) = counting_upstream();
    let toml = [
        window(7_000),
        store(&format!("sqlite:{}", database.display())),
    ]
    .concat();
    for _ in 0..3 {
        let relay = TestRelay::start(upstream, &toml);
        let (address, request) = (relay.address, relay.authorized(PATH).encode());
        let sessions: Vec<_> = (0..4)
            .map(|_| {
                let request = request.clone();
                thread::spawn(move || spend_until_cut(address, &request))
            })
            .collect();
        let before = n_forwarded.load(Ordering::SeqCst);
        eventually("some text went up", || {
            (n_forwarded.load(Ordering::SeqCst) > before + 20).then_some(())
        });
        relay.signal("KILL");
        sessions
            .into_iter()
            .for_each(|session| session.join().unwrap());
    }
    let relay = TestRelay::start(upstream, &toml);
    let end = spend(relay.address, &relay.authorized(PATH).encode(), 20_000);
    assert!(end.expect("refused").contains("quota_exceeded"));
    relay.wait_until_idle();
    assert!(n_forwarded.load(Ordering::SeqCst) * 7 <= 70_000);
}

/// Speaks until the relay is gone or refuses.
fn spend_until_cut(address: SocketAddr, request: &[u8]) {
    let mut client = Peer::dial(address);
    if client.wire().try_write(request).is_err() {
        return;
    }
    let message = client.dress(Frame::text(SEVEN)).encode();
    while client.wire().try_write(&message).is_ok() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// A real Redis on a port of its own, gone with the test.
struct Redis {
    url: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Redis cannot choose a port by itself: take one that is free, and give it back.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        eventually("Redis accepts connections", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self {
            url: format!("redis://127.0.0.1:{port}/0"),
            child,
            _dir: dir,
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

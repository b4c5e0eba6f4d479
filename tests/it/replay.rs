//! Sessions are written down, and the sandbox answers from what was written.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::frame::{CLOSE, Frame, TEXT};
use crate::support::relay::{TOKEN, command};
use crate::support::{PATH, Peer, Request, TestRelay, Upstream, eventually, session};

const MULTI: &str = "/v1/text-to-speech/VoiceAlpha0000000001/multi-stream-input";

/// A relay in front of its own sandbox.
fn sandboxed(toml: &str) -> TestRelay {
    let sandbox = "[upstream]\nbase_url = \"sandbox\"\n[sandbox]\npace = 0\n\
                   first_audio_delay = \"0s\"\nclose_delay = \"0s\"\n";
    TestRelay::launch(&[sandbox, toml], &[])
}

/// What upstream answers to these messages, to the close frame.
#[track_caller]
fn converse(address: SocketAddr, target: &str, messages: &[&str]) -> Vec<String> {
    let mut client = Peer::dial(address);
    client.write(&Request::upgrade(target).with("xi-api-key", TOKEN).encode());
    // The sandbox's own answer has its own headers.
    assert_eq!(client.expect_response().status, 101);
    for message in messages {
        client.say(message);
    }
    let mut heard = Vec::new();
    loop {
        let frame = client.frame();
        match frame.opcode {
            TEXT => heard.push(String::from_utf8(frame.payload).unwrap()),
            CLOSE => {
                let (code, reason) = frame.close_parts();
                heard.push(format!("close {code} {reason}"));
                return heard;
            }
            _ => {}
        }
    }
}

/// The recordings in a directory, once there are so many.
fn recordings(dir: &Path, n: usize) -> Vec<String> {
    eventually("the recordings are written", || {
        let entries = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let whole = entries.filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
        let texts: Vec<_> = whole
            .map(|path| {
                assert_eq!(
                    fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                    0o600
                );
                fs::read_to_string(path).unwrap()
            })
            .collect();
        (texts.len() == n).then_some(texts)
    })
}

/// `xi-relay sandbox --replay` in a process of its own.
struct Replaying {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Replaying {
    fn start(recordings: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = command(&dir)
            .args(["sandbox", "--replay-speed", "fast", "--replay"])
            .arg(recordings)
            .env("XI_RELAY__SERVER__BIND", "127.0.0.1:0")
            .env("XI_RELAY__LOG__FORMAT", "json")
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        let listening = lines.find(|line| line["message"] == "listening").unwrap();
        let address = listening["address"].as_str().unwrap().parse().unwrap();
        Self {
            child,
            address,
            _dir: dir,
        }
    }
}

impl Drop for Replaying {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_recorded_session_replays_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let tapes = dir.path().join("tapes");
    let recording = format!("[recording]\ndirectory = {tapes:?}\nsessions = \"all\"\n");
    let relay = sandboxed(&recording);
    let said = relay.expect_log("recording is said", |line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("ALL SESSIONS ARE RECORDED"))
    });
    assert_eq!(said["level"], "WARN", "{said}");

    let first = format!(r#"{{"text":" ","xi_api_key":"{TOKEN}"}}"#);
    let single: &[&str] = &[
        &first,
        r#"{"text":"Hello there. ","flush":true}"#,
        r#"{"text":"Bye. "}"#,
        r#"{"text":""}"#,
    ];
    let multi: &[&str] = &[
        r#"{"text":"One. ","context_id":"a","flush":true}"#,
        r#"{"text":"Two. ","context_id":"b"}"#,
        r#"{"close_socket":true}"#,
    ];
    let heard = [
        converse(relay.address, PATH, single),
        converse(relay.address, MULTI, multi),
    ];
    for text in recordings(&tapes, 2) {
        assert!(!text.contains(TOKEN), "{text}");
        assert!(text.contains(r#""from":"client""#) && text.contains(r#""from":"upstream""#));
    }
    drop(relay);

    // Behind a relay, and called by itself.
    let replay = format!("[sandbox]\nreplay = {tapes:?}\nreplay_pace = \"fast\"\n");
    let (relay, alone) = (sandboxed(&replay), Replaying::start(&tapes));
    for address in [relay.address, alone.address] {
        assert_eq!(converse(address, PATH, single), heard[0]);
        assert_eq!(converse(address, MULTI, multi), heard[1]);
        let other = converse(address, PATH, &[r#"{"text":"Something else. "}"#]);
        assert!(other[0].contains(r#""error":"no_recording""#), "{other:?}");
        assert!(other[1].starts_with("close 1008 "), "{other:?}");
    }
}

#[test]
fn a_plan_that_records_records_its_own_sessions_alone() {
    let dir = tempfile::tempdir().unwrap();
    let tapes = dir.path().join("tapes");
    let upstream = Upstream::start();
    let relay = TestRelay::start(
        upstream.address,
        &format!(
            "[recording]\ndirectory = {tapes:?}\n[plans.default]\nrecord = true\n[plans.quiet]\n"
        ),
    );
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":"Hi "}"#);
    conn.hear();
    // In pieces, as upstream may send it.
    let (start, end) = (Frame::text("{\"audio\":"), Frame::new(0, b"null}"));
    conn.send(start.unfinished());
    conn.send(end);
    client.hear();
    conn.send(Frame::close(1000, "done"));
    client.expect_close(1000);
    let lines = recordings(&tapes, 1).remove(0);
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["endpoint"], "stream-input");
    assert_eq!(lines[0]["voice"], "VoiceAlpha0000000001");
    let rows: Vec<_> = lines[1..]
        .iter()
        .map(|line| {
            (
                line["from"].as_str().unwrap(),
                line["kind"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("client", "text"),
            ("upstream", "text"),
            ("upstream", "close")
        ]
    );
    assert_eq!(lines[2]["data"], "{\"audio\":null}");

    let quiet = TestRelay::start(
        upstream.address,
        &format!("[recording]\ndirectory = {tapes:?}\n[plans.loud]\nrecord = true\n"),
    );
    let (mut client, mut conn) = session(&quiet, &upstream);
    conn.send(Frame::close(1000, "done"));
    client.expect_close(1000);
    quiet.wait_until_idle();
    // Whatever was begun is there, whole or not.
    assert_eq!(fs::read_dir(&tapes).unwrap().count(), 1);
}

/// A session that a signal ends is written down to its end before the process is gone.
#[test]
fn recordings_are_whole_when_the_relay_has_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let tapes = dir.path().join("tapes");
    let upstream = Upstream::start();
    let mut relay = TestRelay::start(
        upstream.address,
        &format!(
            "[server]\ndrain_timeout = \"1ms\"\n[recording]\ndirectory = {tapes:?}\nsessions = \"all\"\n"
        ),
    );
    let (mut client, mut conn) = session(&relay, &upstream);
    client.say(r#"{"text":"Hi "}"#);
    conn.hear();
    relay.signal("TERM");
    client.expect_refusal("service_restart", 1012);
    drop(conn);
    assert!(relay.wait(crate::support::PATIENCE).success());
    let text = recordings(&tapes, 1).remove(0);
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn what_cannot_be_replayed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let check = |names: &[&str]| {
        let output = command(&dir)
            .args(["sandbox", "--replay", "tapes"])
            .env("XI_RELAY__SERVER__BIND", "127.0.0.1:0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(names.iter().all(|name| said.contains(name)), "{said}");
    };
    check(&["cannot read the recordings in tapes"]);
    fs::create_dir(dir.path().join("tapes")).unwrap();
    check(&["tapes holds no recordings"]);
    let mut file = fs::File::create(dir.path().join("tapes/x.jsonl")).unwrap();
    file.write_all(b"{}\n").unwrap();
    check(&["tapes/x.jsonl", "line 1"]);
}

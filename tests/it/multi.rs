//! The sockets with several contexts, and those of dialogue: the same care, in their own words.

use serde_json::{Value, json};

use crate::support::http::Request;
use crate::support::relay::{OTHER_TOKEN, TOKEN};
use crate::support::{Frame, Peer, TestRelay, Upstream, session_at};

const MULTI: &str = "/v1/text-to-speech/VoiceAlpha0000000001/multi-stream-input";
const DIALOGUE: &str = "/v1/text-to-dialogue/stream-input";
const DIALOGUE_MULTI: &str = "/v1/text-to-dialogue/multi-stream-input";

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn what_livekit_says_goes_up_as_it_is() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let target = format!(
        "{MULTI}?model_id=eleven_flash_v2_5&output_format=pcm_24000&inactivity_timeout=180\
         &sync_alignment=true&auto_mode=true"
    );
    let (mut client, mut conn) = session_at(&relay, &upstream, &target);
    assert_eq!(conn.target(), target);
    for message in [
        r#"{"text": " ", "voice_settings": {"stability": 0.5}, "context_id": "a1"}"#,
        r#"{"text": "A sentence. ", "context_id": "a1", "flush": true}"#,
        r#"{"text": "", "context_id": "a1", "flush": true}"#,
        r#"{"context_id": "a1", "close_context": true}"#,
        r#"{"text": ""}"#,
        r#"{"text": "Again. ", "contextId": "b2"}"#,
        r#"{"text": null, "context_id": "b2", "flush": true}"#,
        r#"{"close_socket": true}"#,
    ] {
        client.say(message);
        assert_eq!(conn.hear(), message);
    }
    for message in [
        r#"{"audio":"AAEC","isFinal":null,"alignment":null,"contextId":"a1"}"#,
        r#"{"audio":null,"isFinal":true,"contextId":"a1"}"#,
        r#"{"audio":"AwQF","contextId":"a1"}"#,
    ] {
        conn.say(message);
        assert_eq!(client.hear(), message);
    }
    conn.send(Frame::close(1000, ""));
    client.expect_close(1000);
}

#[test]
fn the_credential_of_every_context_is_removed() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let mut client = Peer::dial(relay.address);
    client.write(&Request::upgrade(MULTI).encode());
    client.say(&format!(
        r#"{{"text":" ","context_id":"a1","xi_api_key":"{TOKEN}"}}"#
    ));
    client.expect_upgraded();
    let mut conn = upstream.next();
    conn.accept();
    assert_eq!(
        parsed(&conn.hear()),
        json!({"text": " ", "context_id": "a1"})
    );
    client.say(&format!(
        r#"{{"text":"two ","context_id":"b2","xi-api-key":"{TOKEN}"}}"#
    ));
    assert_eq!(
        parsed(&conn.hear()),
        json!({"text": "two ", "context_id": "b2"})
    );
    client.say(&format!(
        r#"{{"context_id":"c3","authorization":"{OTHER_TOKEN}"}}"#
    ));
    assert_eq!(parsed(&conn.hear()), json!({"context_id": "c3"}));
    assert!(!conn.transcript().contains(TOKEN) && !conn.transcript().contains(OTHER_TOKEN));
}

#[test]
fn an_empty_text_keeps_a_multi_socket_open() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session_at(&relay, &upstream, MULTI);
    client.say(r#"{"text":""}"#);
    assert_eq!(conn.hear(), r#"{"text":""}"#);
    client.say(r#"{"text":"more ","context_id":"a1"}"#);
    assert_eq!(conn.hear(), r#"{"text":"more ","context_id":"a1"}"#);
}

#[test]
fn the_log_names_the_context() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session_at(&relay, &upstream, MULTI);
    client.say(r#"{"text":"for a1 ","context_id":"a1"}"#);
    conn.hear();
    conn.say(r#"{"audio":"AAEC","contextId":"a1"}"#);
    client.hear();
    for side in ["client", "upstream"] {
        relay.expect_log("a line with the context", |line| {
            line["from"] == side && line["context"] == "a1"
        });
    }
}

#[test]
fn a_final_without_audio_is_noticed() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (mut client, mut conn) = session_at(&relay, &upstream, MULTI);
    client.say(r#"{"text":"words ","context_id":"a1","flush":true}"#);
    conn.hear();
    let silent = r#"{"audio":null,"isFinal":true,"contextId":"a1"}"#;
    conn.say(silent);
    assert_eq!(client.hear(), silent);
    relay.expect_log("a warning", |line| {
        line["level"] == "WARN" && line["context"] == "a1"
    });
}

#[test]
fn dialogue_goes_up_as_it_is_without_its_credentials() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for path in [DIALOGUE, DIALOGUE_MULTI] {
        let mut client = Peer::dial(relay.address);
        client.write(&Request::upgrade(path).encode());
        let voices = r#""voices":["VoiceAlpha0000000001"]"#;
        client.say(&format!(
            r#"{{{voices},"context_id":"t1","xi_api_key":"{TOKEN}"}}"#
        ));
        client.expect_upgraded();
        let mut conn = upstream.next();
        assert_eq!(conn.target(), path);
        conn.accept();
        let first = parsed(&conn.hear());
        assert_eq!(
            first,
            json!({"voices": ["VoiceAlpha0000000001"], "context_id": "t1"})
        );
        for message in [
            r#"{"context_id":"t1","inputs":[{"text":"One. ","voice_id":"VoiceAlpha0000000001"}]}"#,
            r#"{"context_id":"t1","keep_alive":true}"#,
            r#"{"context_id":"t1","close_context":true}"#,
            r#"{"close_socket":true}"#,
        ] {
            client.say(message);
            assert_eq!(conn.hear(), message);
        }
        client.say(&format!(
            r#"{{"keep_alive":true,"single_use_token":"{OTHER_TOKEN}"}}"#
        ));
        assert_eq!(parsed(&conn.hear()), json!({"keep_alive": true}));
        conn.say(r#"{"is_final":true,"context_id":"t1"}"#);
        assert_eq!(client.hear(), r#"{"is_final":true,"context_id":"t1"}"#);
    }
}

#[test]
fn dialogue_inputs_that_cannot_be_counted_are_refused() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    for message in [
        r#"{"inputs":"text"}"#,
        r#"{"inputs":{"text":"x"}}"#,
        r#"{"inputs":[{"text":7}]}"#,
        r#"{"inputs":[{"text":"a","text":"b"}]}"#,
        r#"{"inputs":[],"inputs":[{"text":"b"}]}"#,
    ] {
        let (mut client, mut conn) = session_at(&relay, &upstream, DIALOGUE);
        client.say(message);
        client.expect_refusal("invalid_input_message", 1008);
        assert_eq!(conn.hear_out().0, [""; 0], "{message}");
    }
}

#[test]
fn a_dialogue_client_that_vanishes_is_not_closed_by_message() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let (client, mut conn) = session_at(&relay, &upstream, DIALOGUE_MULTI);
    client.reset();
    assert_eq!(conn.hear_out().0, [""; 0]);
}

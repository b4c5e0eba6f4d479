#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::borrow::Cow;

use proptest::prelude::*;
use secrecy::ExposeSecret;
use serde_json::Value as Json;

use super::super::sample::{Node, message, node, style};
use super::*;

const DIALECTS: [Dialect; 4] = [
    Dialect::Single,
    Dialect::Multi,
    Dialect::Dialogue,
    Dialect::DialogueMulti,
];

#[track_caller]
fn counts(dialect: Dialect, payload: &str, characters: u64, text_length: u64) {
    let message = scan(dialect, payload.as_bytes()).unwrap();
    assert_eq!(
        (message.characters, message.text_length),
        (characters, text_length)
    );
}

#[test]
fn scalar_values_of_the_parsed_text_are_counted() {
    for dialect in [Dialect::Single, Dialect::Multi] {
        counts(dialect, r#"{"text":"Hello. "}"#, 7, 7);
        counts(dialect, r#"{"text":"h\u00e9\ud83d\ude00\n"}"#, 4, 4);
        counts(dialect, r#"{"text":"hé😀"}"#, 3, 3);
        counts(dialect, r#"{"te\u0078t":"abc"}"#, 3, 3);
        counts(dialect, r#"{"text":"e\u0301"}"#, 2, 2);
        counts(dialect, r#"{"Text":"abc","x":{"text":"abc"}}"#, 0, 0);
        counts(dialect, r#"{"text":"ab","inputs":[{"text":"cd"}]}"#, 2, 2);
        counts(dialect, r#"{"text":"ab","inputs":7}"#, 2, 2);
        counts(dialect, r#"{"text":null}"#, 0, 0);
        counts(dialect, "\r\n\t {} \n", 0, 0);
    }
}

#[test]
fn messages_as_clients_write_them_need_no_parser() {
    for payload in [
        r#"{"text":"Hé, 😀 "}"#,
        r#"{"text": "Hé, 😀 "}"#,
        r#"{"text": "Hé, 😀 ", "try_trigger_generation": true}"#,
        r#"{"text":"Hé, 😀 ","try_trigger_generation":true}"#,
    ] {
        assert_eq!(plain::text_alone(payload), Some("Hé, 😀 "), "{payload}");
        counts(Dialect::Single, payload, 6, 6);
    }
    for payload in [
        r#"{"text":"a\nb"}"#,
        "{\"text\":\"a\nb\"}",
        r#"{"text":"a","text":"b"}"#,
        r#"{"text":"a","xi_api_key":"b"}"#,
        r#"{"text":"a"}x"#,
        r#"{"text":"a"#,
    ] {
        assert_eq!(plain::text_alone(payload), None, "{payload}");
    }
}

#[test]
fn white_space_alone_is_free_where_it_is_the_keepalive() {
    for text in [" ", "", "  \\n\\t", "\\u3000\u{a0}"] {
        let payload = format!(r#"{{"text":"{text}"}}"#);
        let message = scan(Dialect::Single, payload.as_bytes()).unwrap();
        assert_eq!(message.characters, 0);
        let length = message.text_length;
        counts(Dialect::Multi, &payload, 0, length);
        counts(Dialect::Dialogue, &payload, length, length);
    }
    counts(Dialect::Single, r#"{"text":" \u200b"}"#, 2, 2);
}

#[test]
fn a_dialogue_is_charged_for_all_of_its_inputs() {
    for dialect in [Dialect::Dialogue, Dialect::DialogueMulti] {
        counts(
            dialect,
            r#"{"inputs":[{"text":"abc"},{"text":" "},{"text":"\u00e9"}]}"#,
            5,
            5,
        );
        counts(dialect, r#"{"inputs":[{"text":"abc"}],"text":"de"}"#, 5, 5);
        counts(
            dialect,
            r#"{"inputs":[{"text":null,"voice_id":"v"},{}]}"#,
            0,
            0,
        );
        counts(dialect, r#"{"inputs":[],"text":null}"#, 0, 0);
        counts(dialect, r#"{"inputs":null}"#, 0, 0);
        counts(dialect, r#"{"inputs":[{"x":{"text":"abc"}}]}"#, 0, 0);
    }
}

#[track_caller]
fn refuses(dialect: Dialect, payload: impl AsRef<[u8]>, expected: InvalidMessage) {
    assert_eq!(scan(dialect, payload.as_ref()).err(), Some(expected));
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    for dialect in DIALECTS {
        for payload in [
            r#"{"text":"a","text":"b"}"#,
            r#"{"text":"a","te\u0078t":"b"}"#,
            r#"{"\u0074ext":"a","\u0074\u0065xt":"b"}"#,
            r#"{"a":1,"text":"a","a":2}"#,
            r#"{"x":{"a":1,"a":1}}"#,
            r#"{"x":[[{"a":{"b":1,"\u0062":1}}]]}"#,
            r#"{"voices":{"a":1,"a":1}}"#,
            r#"{"voices":["v",{"a":1,"a":1}]}"#,
            r#"{"text":{"a":1,"a":1}}"#,
            r#"{"":1,"":2}"#,
        ] {
            refuses(dialect, payload, InvalidMessage::KeyTwice);
        }
        for payload in [
            "",
            " ",
            "{",
            r#"{"text":"a"}x"#,
            r#"{"text":"a"}{"text":"b"}"#,
            r#"{"text":"a",}"#,
            r"{'text':'a'}",
            r#"{"text":NaN}"#,
            r#"{"x":Infinity}"#,
            r#"{"x":1e999}"#,
            r#"{"x":01}"#,
            "{\"text\":\"a\nb\"}",
            r#"{"text":"\ud83d"}"#,
            r#"{"text":"\ude00"}"#,
            r#"{"text":"\ud83dx"}"#,
            r#"{"x":["\ud83d"]}"#,
            r#"{"\ud83d":1}"#,
            r#"{"text":"\x41"}"#,
            "\u{feff}{}",
            "{}\0",
            "// {}\n{}",
        ] {
            refuses(dialect, payload, InvalidMessage::NotJson);
        }
        for payload in ["[]", "null", "1", "\"text\"", "true", r#"[{"text":"a"}]"#] {
            refuses(dialect, payload, InvalidMessage::NotAnObject);
        }
        for value in ["1", "true", "[]", "[\"a\"]", "{}", "1.5", "-1"] {
            refuses(
                dialect,
                format!(r#"{{"text":{value}}}"#),
                InvalidMessage::Text,
            );
        }
        refuses(dialect, b"{\"text\":\"\xff\"}", InvalidMessage::NotUtf8);
        refuses(
            dialect,
            b"{\"text\":\"\xed\xa0\xbd\"}",
            InvalidMessage::NotUtf8,
        );
    }
    refuses(
        Dialect::Dialogue,
        r#"{"inputs":[{"text":"a","text":"b"}]}"#,
        InvalidMessage::KeyTwice,
    );
    refuses(
        Dialect::Dialogue,
        r#"{"inputs":[{"x":{"a":1,"a":1}}]}"#,
        InvalidMessage::KeyTwice,
    );
    refuses(
        Dialect::Dialogue,
        r#"{"inputs":[{"text":7}]}"#,
        InvalidMessage::Text,
    );
    for inputs in [
        "{}", "\"a\"", "7", "true", "[7]", "[null]", "[[]]", "[\"a\"]", "1.5", "-1",
    ] {
        let payload = format!(r#"{{"inputs":{inputs}}}"#);
        refuses(Dialect::DialogueMulti, payload, InvalidMessage::Inputs);
    }
    refuses(
        Dialect::Dialogue,
        r#"{"inputs":[}"#,
        InvalidMessage::NotJson,
    );
}

#[test]
fn nesting_is_limited_and_cannot_exhaust_the_stack() {
    let nested = |n: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    assert!(scan(Dialect::Single, nested(99).as_bytes()).is_ok());
    refuses(Dialect::Single, nested(100), InvalidMessage::TooDeep);
    refuses(Dialect::Single, nested(30_000), InvalidMessage::TooDeep);
    refuses(
        Dialect::Dialogue,
        r#"{"voices":["#.to_owned() + &"[".repeat(9000),
        InvalidMessage::TooDeep,
    );
    refuses(
        Dialect::Dialogue,
        r#"{"inputs":[{"x":"#.to_owned() + &"[".repeat(9000),
        InvalidMessage::TooDeep,
    );
}

#[test]
fn many_keys_are_told_apart() {
    let keys: Vec<_> = (0..20_000).map(|n| format!("\"k{n}\":0")).collect();
    let payload = format!("{{{},\"text\":\"abc\"}}", keys.join(","));
    counts(Dialect::Single, &payload, 3, 3);
    for twice in ["k0", "k7", "k8", "k19999", "text"] {
        let payload = format!("{{{},\"text\":\"abc\",\"{twice}\":0}}", keys.join(","));
        refuses(Dialect::Single, payload, InvalidMessage::KeyTwice);
    }
}

#[track_caller]
fn shows(payload: &str, expected: Option<(CredentialName, &str)>) {
    for dialect in DIALECTS {
        let message = scan(dialect, payload.as_bytes()).unwrap();
        let seen = message
            .credential
            .as_ref()
            .map(|c| (c.name, c.token.expose_secret()));
        assert_eq!(seen, expected);
        assert!(message.has_credentials);
    }
}

#[test]
fn credentials_are_found_in_any_spelling() {
    use CredentialName::{ApiKey, Authorization, SingleUseToken};
    shows(r#"{"text":" ","xi_api_key":"tok"}"#, Some((ApiKey, "tok")));
    shows(r#"{"\u0078i-api-key":"t\u006fk"}"#, Some((ApiKey, "tok")));
    shows(r#"{"XI_API_KEY":"tok"}"#, Some((ApiKey, "tok")));
    shows(
        r#"{"authorization":"Bearer tok"}"#,
        Some((Authorization, "tok")),
    );
    shows(
        r#"{"single_use_token":"tok"}"#,
        Some((SingleUseToken, "tok")),
    );
    shows(
        r#"{"single_use_token":"c","authorization":"b","xi-api-key":"a"}"#,
        Some((ApiKey, "a")),
    );
    shows(
        r#"{"xi_api_key":"","authorization":"b"}"#,
        Some((Authorization, "b")),
    );
    shows(r#"{"xi_api_key":null}"#, None);
    shows(r#"{"xi_api_key":{"a":"tok"}}"#, None);
    let message = scan(Dialect::Single, br#"{"x":{"xi_api_key":"tok"}}"#).unwrap();
    assert!(!message.has_credentials);
}

#[test]
fn contexts_models_and_voices_are_read() {
    let context = |payload: &str| {
        let message = scan(Dialect::Multi, payload.as_bytes()).unwrap();
        message.context.map(Cow::into_owned)
    };
    assert_eq!(context(r#"{"context_id":"a"}"#).as_deref(), Some("a"));
    assert_eq!(context(r#"{"contextId":"a"}"#).as_deref(), Some("a"));
    assert_eq!(
        context(r#"{"contextId":"b","context_id":"a"}"#).as_deref(),
        Some("a")
    );
    assert_eq!(
        context(r#"{"context_id":"a","contextId":"b"}"#).as_deref(),
        Some("a")
    );
    assert_eq!(
        context(r#"{"context_id":null,"contextId":"b"}"#).as_deref(),
        Some("b")
    );
    assert_eq!(
        context(r#"{"contextId":"b","context_id":null}"#).as_deref(),
        Some("b")
    );
    assert_eq!(context(r#"{"context_id":7}"#), None);

    let message = scan(Dialect::Single, br#"{"model_id":"m","text":"a"}"#).unwrap();
    assert_eq!(message.model.as_deref(), Some("m"));

    let voices = |payload: &str| {
        let message = scan(Dialect::Dialogue, payload.as_bytes()).unwrap();
        let ids = message.voice_ids().collect::<Vec<_>>().join(" ");
        (ids, message.has_unreadable_voices)
    };
    let seen = voices(r#"{"inputs":[{"voice_id":"c"},{"voice_id":null}],"voices":["a","\u0062"]}"#);
    assert_eq!(seen, ("a b c".to_owned(), false));
    assert_eq!(voices(r#"{"voices":null}"#), (String::new(), false));
    for odd in [
        "7",
        "-7",
        "1.5",
        "true",
        "\"a\"",
        "\"\\u0061\"",
        "{}",
        "{\"a\":1}",
        "[7]",
        "[[\"a\"]]",
    ] {
        assert_eq!(
            voices(&format!(r#"{{"voices":{odd}}}"#)),
            (String::new(), true),
            "{odd}"
        );
    }
    assert_eq!(
        voices(r#"{"inputs":[{"voice_id":7}]}"#),
        (String::new(), true)
    );
}

/// What a message should be found to be, from the way it was made.
fn expected_length(dialect: Dialect, node: &Node) -> Option<u64> {
    let Node::Object(members) = node else {
        return None;
    };
    if node.has_key_twice() {
        return None;
    }
    let text_of = |value: &Node| match value {
        Node::Text(text) => Some(text.chars().count() as u64),
        Node::Plain("null") => Some(0),
        _ => None,
    };
    let mut length = 0;
    for (key, value) in members {
        match (key.as_str(), value) {
            ("text", value) => length += text_of(value)?,
            ("inputs", Node::Plain("null")) => {}
            ("inputs", value) if dialect.is_dialogue() => {
                let Node::Array(list) = value else {
                    return None;
                };
                for input in list {
                    let Node::Object(fields) = input else {
                        return None;
                    };
                    for (_, value) in fields.iter().filter(|(key, _)| key == "text") {
                        length += text_of(value)?;
                    }
                }
            }
            _ => {}
        }
    }
    Some(length)
}

fn length_by_another_parser(dialect: Dialect, json: &Json) -> u64 {
    let length = |text: &Json| text.as_str().map_or(0, |text| text.chars().count() as u64);
    let inputs = json["inputs"].as_array().filter(|_| dialect.is_dialogue());
    let inputs = inputs
        .into_iter()
        .flatten()
        .map(|input| length(&input["text"]));
    length(&json["text"]) + inputs.sum::<u64>()
}

proptest! {
    #[test]
    fn what_is_charged_is_what_another_parser_counts(
        node in message(), style in style(), dialect in prop::sample::select(&DIALECTS[..]),
    ) {
        let payload = node.write(&style);
        let expected = expected_length(dialect, &node);
        match scan(dialect, payload.as_bytes()) {
            Ok(message) => {
                prop_assert_eq!(Some(message.text_length), expected);
                let json: Json = serde_json::from_str(&payload).unwrap();
                prop_assert_eq!(message.text_length, length_by_another_parser(dialect, &json));
                prop_assert_eq!(message.text().chars().count() as u64, message.text_length);
                let is_free = !dialect.is_dialogue() && message.text().trim().is_empty();
                prop_assert_eq!(message.characters, if is_free { 0 } else { message.text_length });
            }
            Err(_) => prop_assert_eq!(expected, None),
        }
    }

    #[test]
    fn the_short_way_finds_what_the_parser_finds(
        head in prop::sample::select(&["{\"text\": \"", "{\"text\":\"", "{\"text\" :\""][..]),
        text in "([ -~é😀\u{1}\n\u{7f}]|\\\\|\"|\\\\n){0,12}",
        tail in prop::sample::select(&[
            "\"}",
            "\"} ",
            "\"",
            "\",\"try_trigger_generation\":true}",
            "\", \"try_trigger_generation\": true}",
            "\",\"text\":\"b\"}",
        ][..]),
    ) {
        let payload = format!("{head}{text}{tail}");
        if let Some(found) = plain::text_alone(&payload) {
            let mut message = ClientMessage::new(Dialect::Single);
            read(&payload, &mut message).unwrap();
            prop_assert_eq!(message.text.as_deref(), Some(found));
            prop_assert!(!message.flushes && !message.has_settings && !message.has_credentials);
        }
    }

    #[test]
    fn any_value_is_judged_alike(node in node(), style in style()) {
        let payload = node.write(&style);
        for dialect in DIALECTS {
            let is_accepted = scan(dialect, payload.as_bytes()).is_ok();
            prop_assert_eq!(is_accepted, expected_length(dialect, &node).is_some());
        }
    }

    #[test]
    fn broken_bytes_never_panic_and_are_counted_alike(
        node in message(), style in style(),
        breaks in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut payload = node.write(&style).into_bytes();
        for (index, byte) in breaks {
            if byte % 3 == 0 {
                payload.truncate(index.index(payload.len() + 1));
            } else if !payload.is_empty() {
                let at = index.index(payload.len());
                payload[at] = byte;
            }
        }
        for dialect in DIALECTS {
            if let Ok(message) = scan(dialect, &payload) {
                let json: Json = serde_json::from_slice(&payload).unwrap();
                prop_assert_eq!(message.text_length, length_by_another_parser(dialect, &json));
            }
        }
    }
}

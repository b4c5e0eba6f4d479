//! The two changes the relay makes to a client's message: credentials are taken out, aliases of
//! voices are replaced. Every other byte stays as the client sent it.

use std::ops::Range;

use super::credential::CredentialName;
use super::spans::{Member, decode, elements, members};

/// `payload` without its top-level members of a credential's name, in any spelling.
///
/// `payload` must be a message that [`scan`](super::scan) has accepted. Of anything else nothing is
/// left, since nothing could be said about what it holds.
#[must_use]
pub fn without_credentials(payload: &[u8]) -> Vec<u8> {
    kept(payload).unwrap_or_default()
}

fn kept(payload: &[u8]) -> Option<Vec<u8>> {
    let members = members(payload, 0..payload.len())?;
    let (Some(first), Some(last)) = (members.first(), members.last()) else {
        return Some(payload.to_vec());
    };
    let mut kept = Vec::with_capacity(payload.len());
    kept.extend_from_slice(&payload[..first.key.start]);
    let n_before = kept.len();
    let mut end_of_previous = first.key.start;
    for member in &members {
        let Member { key, value } = member;
        if CredentialName::of(&decode(payload, key.clone())?).is_none() {
            // Between two members stands one comma, which goes with the later one.
            let start = if kept.len() == n_before {
                key.start
            } else {
                end_of_previous
            };
            kept.extend_from_slice(&payload[start..value.end]);
        }
        end_of_previous = value.end;
    }
    kept.extend_from_slice(&payload[last.value.end..]);
    Some(kept)
}

/// A dialogue's `payload` with every voice in `voices` and `inputs[].voice_id` replaced for which
/// `voice_of` knows another one; none when there is nothing to replace.
///
/// `payload` must be a message that [`scan`](super::scan) has accepted.
#[must_use]
pub fn with_voices_rewritten<'v>(
    payload: &[u8],
    voice_of: impl Fn(&str) -> Option<&'v str>,
) -> Option<Vec<u8>> {
    let mut changed = Vec::new();
    let mut copied = 0;
    for place in voice_places(payload)? {
        let Some(voice) = decode(payload, place.clone()).and_then(|alias| voice_of(&alias)) else {
            continue;
        };
        changed.extend_from_slice(&payload[copied..place.start]);
        changed.extend_from_slice(serde_json::Value::from(voice).to_string().as_bytes());
        copied = place.end;
    }
    if copied == 0 {
        return None;
    }
    changed.extend_from_slice(&payload[copied..]);
    Some(changed)
}

/// Where voices stand in a dialogue's message, in order.
fn voice_places(payload: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut places = Vec::new();
    for member in members(payload, 0..payload.len())? {
        if payload[member.value.start] != b'[' {
            continue;
        }
        let key = decode(payload, member.key)?;
        if key == "voices" {
            places.extend(elements(payload, member.value)?);
        } else if key == "inputs" {
            for input in elements(payload, member.value)? {
                for field in members(payload, input)? {
                    if decode(payload, field.key)? == "voice_id" {
                        places.push(field.value);
                    }
                }
            }
        }
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::super::sample::{message, style};
    use super::super::{Dialect, scan};
    use super::*;

    #[track_caller]
    fn strips(payload: &str, expected: &str) {
        let stripped = without_credentials(payload.as_bytes());
        assert_eq!(str::from_utf8(&stripped).unwrap(), expected);
    }

    #[test]
    fn credentials_go_and_every_other_byte_stays() {
        strips(r#"{"text":" ","xi_api_key":"k"}"#, r#"{"text":" "}"#);
        strips(r#"{"xi_api_key":"k","text":" "}"#, r#"{"text":" "}"#);
        strips(r#"{"a":1,"xi-api-key":"k","b":2}"#, r#"{"a":1,"b":2}"#);
        strips(r#"{"authorization":"k","single_use_token":"k"}"#, "{}");
        strips(
            r#"{"xi_api_key":"k","a":1,"authorization":"k","b":2,"single_use_token":"k"}"#,
            r#"{"a":1,"b":2}"#,
        );
        strips(
            "\n{ \"a\" : [1, 2] ,\t\"xi_api_key\" : \"k\" , \"b\" : {} }\r\n",
            "\n{ \"a\" : [1, 2] , \"b\" : {} }\r\n",
        );
        strips("{ \"xi_api_key\" : \"k\" }\n", "{  }\n");
        strips(r#"{"a":1}"#, r#"{"a":1}"#);
        strips(" { } ", " { } ");
        strips("{}", "{}");
    }

    #[test]
    fn credentials_go_in_any_spelling_and_whatever_they_hold() {
        for member in [
            r#""\u0078i_api_key":"k""#,
            r#""\u0058I-API-\u004bEY":"k""#,
            r#""Authorization":"Bearer k""#,
            r#""SINGLE_USE_TOKEN":"k""#,
            r#""xi_api_key":"k\"},{\\""#,
            r#""xi_api_key":{"a":["}",{"b":"]"}]}"#,
            r#""xi_api_key":null"#,
            r#""xi_api_key":-1.5e3"#,
        ] {
            strips(&format!(r#"{{"a":"x",{member}}}"#), r#"{"a":"x"}"#);
            strips(&format!(r#"{{{member} , "a":"x"}}"#), r#"{"a":"x"}"#);
        }
        strips(r#"{"x":{"xi_api_key":"k"}}"#, r#"{"x":{"xi_api_key":"k"}}"#);
        strips(
            r#"{"text":"\"xi_api_key\":\"k\""}"#,
            r#"{"text":"\"xi_api_key\":\"k\""}"#,
        );
    }

    #[test]
    fn nothing_is_left_of_what_is_no_object() {
        for payload in [
            "",
            "[]",
            "x",
            "{\"xi_api_key\":\"k\"",
            "{\"xi_api_key\"}",
            "{\"a\":}",
            "{\"\\",
        ] {
            strips(payload, "");
        }
    }

    fn voice_of(alias: &str) -> Option<&'static str> {
        match alias {
            "alias" => Some("VoiceAlpha"),
            "quote" => Some("\"\\"),
            _ => None,
        }
    }

    #[track_caller]
    fn rewrites(payload: &str, expected: Option<&str>) {
        let rewritten = with_voices_rewritten(payload.as_bytes(), voice_of);
        assert_eq!(
            rewritten
                .as_deref()
                .map(|bytes| str::from_utf8(bytes).unwrap()),
            expected
        );
    }

    #[test]
    fn aliases_are_replaced_and_every_other_byte_stays() {
        rewrites(
            r#"{"voices":["alias"]}"#,
            Some(r#"{"voices":["VoiceAlpha"]}"#),
        );
        rewrites(
            "{ \"voices\" : [ \"a\", \"\\u0061lias\" ] ,\
             \"inputs\":[{\"text\":\"alias\",\"voice_id\" : \"alias\"}, {}]}\n",
            Some(
                "{ \"voices\" : [ \"a\", \"VoiceAlpha\" ] ,\
                 \"inputs\":[{\"text\":\"alias\",\"voice_id\" : \"VoiceAlpha\"}, {}]}\n",
            ),
        );
        rewrites(
            r#"{"\u0076oices":["alias"]}"#,
            Some(r#"{"\u0076oices":["VoiceAlpha"]}"#),
        );
        rewrites(r#"{"voices":["quote"]}"#, Some(r#"{"voices":["\"\\"]}"#));
        for payload in [
            "{}",
            r#"{"voices":["a"]}"#,
            r#"{"voices":[]}"#,
            r#"{"voices":"alias"}"#,
            r#"{"voices":null,"inputs":null}"#,
            r#"{"voices":[7,["alias"]]}"#,
            r#"{"x":["alias"],"context_id":"alias"}"#,
            "x",
            "",
        ] {
            rewrites(payload, None);
        }
    }

    /// The raw text of each member, in order.
    fn raw_members(payload: &[u8]) -> Vec<(String, &[u8], &[u8])> {
        let members = members(payload, 0..payload.len()).unwrap();
        let raw = members.into_iter().map(|member| {
            let key = decode(payload, member.key.clone()).unwrap().into_owned();
            (key, &payload[member.key], &payload[member.value])
        });
        raw.collect()
    }

    proptest! {
        #[test]
        fn the_rest_of_a_message_is_the_same(node in message(), style in style()) {
            let payload = node.write(&style).into_bytes();
            let Ok(message) = scan(Dialect::Single, &payload) else { return Ok(()) };
            let stripped = without_credentials(&payload);
            prop_assert_eq!(stripped == payload, !message.has_credentials);

            let mut expected: Json = serde_json::from_slice(&payload).unwrap();
            expected.as_object_mut().unwrap().retain(|key, _| CredentialName::of(key).is_none());
            prop_assert_eq!(serde_json::from_slice::<Json>(&stripped).unwrap(), expected);

            let mut expected = raw_members(&payload);
            expected.retain(|(key, ..)| CredentialName::of(key).is_none());
            prop_assert_eq!(raw_members(&stripped), expected);

            let again = scan(Dialect::Single, &stripped).unwrap();
            prop_assert!(!again.has_credentials);
            prop_assert_eq!(again.characters, message.characters);

            let n_space =
                |bytes: &[u8]| bytes.iter().take_while(|b| b.is_ascii_whitespace()).count();
            prop_assert_eq!(n_space(&stripped), n_space(&payload));
            let tail = |bytes: &[u8]| {
                let brace = bytes.iter().rposition(|&byte| byte == b'}').unwrap();
                bytes[brace..].to_vec()
            };
            prop_assert_eq!(tail(&stripped), tail(&payload));
        }

        #[test]
        fn aliases_alone_are_changed(node in message(), style in style()) {
            let payload = node.write(&style).into_bytes();
            let Ok(message) = scan(Dialect::Dialogue, &payload) else { return Ok(()) };
            let rewritten = with_voices_rewritten(&payload, voice_of);
            let names_alias = message.voice_ids().any(|voice| voice == "alias");
            prop_assert_eq!(rewritten.is_some(), names_alias);
            let Some(rewritten) = rewritten else { return Ok(()) };

            let mut expected: Json = serde_json::from_slice(&payload).unwrap();
            let rename = |voice: &mut Json| {
                if voice == "alias" {
                    *voice = "VoiceAlpha".into();
                }
            };
            if let Some(voices) = expected.get_mut("voices").and_then(Json::as_array_mut) {
                voices.iter_mut().for_each(rename);
            }
            if let Some(inputs) = expected.get_mut("inputs").and_then(Json::as_array_mut) {
                inputs.iter_mut().filter_map(|input| input.get_mut("voice_id")).for_each(rename);
            }
            prop_assert_eq!(serde_json::from_slice::<Json>(&rewritten).unwrap(), expected);

            let others = |payload| {
                let mut members = raw_members(payload);
                members.retain(|(key, ..)| key != "voices" && key != "inputs");
                let raw = members.into_iter().map(|(_, key, value)| [key, value].concat());
                raw.collect::<Vec<_>>()
            };
            prop_assert_eq!(others(&rewritten), others(&payload));
            let after = scan(Dialect::Dialogue, &rewritten).unwrap();
            prop_assert_eq!(after.characters, message.characters);
            prop_assert!(after.voice_ids().all(|voice| voice != "alias"));
        }

        #[test]
        fn broken_bytes_never_panic(
            bytes in "(\\{\"(voices|inputs|xi_api_key)\")?[\\[\\]{}\",:\\\\ a]{0,16}",
        ) {
            let bytes = bytes.as_bytes();
            let stripped = without_credentials(bytes);
            let left = memchr::memmem::find(&stripped, b"\"xi_api_key\":");
            prop_assert!(left.is_none_or(|at| at > 1));
            let rewritten = with_voices_rewritten(bytes, voice_of);
            prop_assert!(rewritten.is_none_or(|rewritten| rewritten != bytes));
        }
    }
}

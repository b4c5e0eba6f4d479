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

//! Lists that upstream answers with, cut down to what a client may see. What stays, stays byte for
//! byte.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::IgnoredAny;

use super::spans::{decode, elements, members};

/// What a client is shown of one entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown<'a> {
    /// The entry as it is.
    pub as_is: bool,
    /// One copy under each of these ids.
    pub under: Vec<&'a str>,
}

/// `body` of `GET /v1/models` (an array) with only those entries whose `model_id` is allowed. None
/// when it is not such a list.
#[must_use]
pub fn with_models_shown(body: &[u8], is_allowed: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    serde_json::from_slice::<IgnoredAny>(body).ok()?;
    let shown = |id: &str| Shown {
        as_is: is_allowed(id),
        under: Vec::new(),
    };
    let list = filter(body, 0..body.len(), "model_id", shown)?;
    Some(list.bytes)
}

/// `body` of `GET /v1/voices` or `/v2/voices` with only those entries of its `voices` that are
/// `shown`, under the ids it says. A `total_count` follows by as much. None when it is not such a
/// list.
#[must_use]
pub fn with_voices_shown<'a>(body: &[u8], shown: impl Fn(&str) -> Shown<'a>) -> Option<Vec<u8>> {
    serde_json::from_slice::<IgnoredAny>(body).ok()?;
    let mut list = None;
    let mut total = None;
    for member in members(body, 0..body.len())? {
        match &*decode(body, member.key)? {
            // Of two lists only one would be cut down.
            "voices" if list.is_some() => return None,
            "voices" => list = Some(member.value),
            "total_count" => total = Some(member.value),
            _ => {}
        }
    }
    let place = list?;
    let list = filter(body, place.clone(), "voice_id", shown)?;
    let total = total.and_then(|place| {
        let total: u64 = std::str::from_utf8(&body[place.clone()])
            .ok()?
            .parse()
            .ok()?;
        let total = total.saturating_sub(list.n_before) + list.n_after;
        Some((place, total.to_string().into_bytes()))
    });
    let mut changes = vec![(place, list.bytes)];
    changes.extend(total);
    changes.sort_by_key(|(place, _)| place.start);
    Some(with_changes(body, changes))
}

struct Filtered {
    bytes: Vec<u8>,
    n_before: u64,
    n_after: u64,
}

/// The array at `list` with each entry as `shown` says of its `id`; entries without one are
/// hidden.
fn filter<'a>(
    body: &[u8],
    list: Range<usize>,
    id: &str,
    shown: impl Fn(&str) -> Shown<'a>,
) -> Option<Filtered> {
    let mut entries: Vec<Cow<'_, [u8]>> = Vec::new();
    let mut n_before = 0;
    for entry in elements(body, list)? {
        n_before += 1;
        let Some((place, name)) = id_of(body, entry.clone(), id) else {
            continue;
        };
        let Shown { as_is, under } = shown(&name);
        if as_is {
            entries.push(Cow::Borrowed(&body[entry.clone()]));
        }
        entries.extend(under.into_iter().map(|name| {
            let name = serde_json::Value::from(name).to_string().into_bytes();
            let place = place.start - entry.start..place.end - entry.start;
            Cow::Owned(with_changes(&body[entry.clone()], vec![(place, name)]))
        }));
    }
    let mut bytes = vec![b'['];
    bytes.extend(entries.join(&b','));
    bytes.push(b']');
    Some(Filtered {
        bytes,
        n_before,
        n_after: entries.len() as u64,
    })
}

/// Where the entry's id stands, and what it is.
fn id_of<'b>(
    body: &'b [u8],
    entry: Range<usize>,
    id: &str,
) -> Option<(Range<usize>, Cow<'b, str>)> {
    let mut found = None;
    for member in members(body, entry)? {
        if decode(body, member.key)? == id {
            // Two ids in one entry: a reader takes the one that the other does not.
            if found.is_some() {
                return None;
            }
            found = Some((member.value.clone(), decode(body, member.value)?));
        }
    }
    found
}

/// `bytes` with each range, in order, replaced.
fn with_changes(bytes: &[u8], changes: Vec<(Range<usize>, Vec<u8>)>) -> Vec<u8> {
    let mut changed = Vec::with_capacity(bytes.len());
    let mut copied = 0;
    for (place, new) in changes {
        changed.extend_from_slice(&bytes[copied..place.start]);
        changed.extend_from_slice(&new);
        copied = place.end;
    }
    changed.extend_from_slice(&bytes[copied..]);
    changed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use super::*;

    fn shown(id: &str) -> Shown<'static> {
        Shown {
            as_is: matches!(id, "open" | "both"),
            under: match id {
                "real" => vec!["assistant", "narrator"],
                "both" => vec!["alias"],
                _ => Vec::new(),
            },
        }
    }

    #[track_caller]
    fn check(body: &str, expected: Option<&str>) {
        let seen = with_voices_shown(body.as_bytes(), shown);
        let seen = seen.map(|seen| String::from_utf8(seen).unwrap());
        assert_eq!(seen.as_deref(), expected, "{body}");
    }

    #[test]
    fn voices_are_kept_renamed_or_hidden() {
        check(
            r#"{ "voices": [ {"voice_id":"open", "x":1.0e2}, {"name":"R","voice_id":"real"}, {"voice_id":"no"} ], "more":null }"#,
            Some(
                r#"{ "voices": [{"voice_id":"open", "x":1.0e2},{"name":"R","voice_id":"assistant"},{"name":"R","voice_id":"narrator"}], "more":null }"#,
            ),
        );
        check(
            r#"{"voices":[{"voice_id":"both"}]}"#,
            Some(r#"{"voices":[{"voice_id":"both"},{"voice_id":"alias"}]}"#),
        );
        check(r#"{"voices":[]}"#, Some(r#"{"voices":[]}"#));
        check(
            r#"{"voices":[{"voice_id":"\u006fpen"}]}"#,
            Some(r#"{"voices":[{"voice_id":"\u006fpen"}]}"#),
        );
    }

    #[test]
    fn the_count_of_all_follows() {
        check(
            r#"{"total_count":3,"voices":[{"voice_id":"no"},{"voice_id":"open"}],"has_more":true}"#,
            Some(r#"{"total_count":2,"voices":[{"voice_id":"open"}],"has_more":true}"#),
        );
        check(
            r#"{"voices":[{"voice_id":"real"}],"total_count":1}"#,
            Some(
                r#"{"voices":[{"voice_id":"assistant"},{"voice_id":"narrator"}],"total_count":2}"#,
            ),
        );
        check(
            r#"{"voices":[{"voice_id":"no"}],"total_count":null}"#,
            Some(r#"{"voices":[],"total_count":null}"#),
        );
    }

    #[test]
    fn an_entry_that_cannot_be_judged_is_hidden() {
        check(
            r#"{"voices":[1,null,[],{},{"voice_id":null},{"voice_id":7},{"voice_id":"open","voice_id":"no"}]}"#,
            Some(r#"{"voices":[]}"#),
        );
    }

    #[test]
    fn what_is_no_list_is_not_shown() {
        for body in [
            "",
            "{",
            "[]",
            "null",
            "{}",
            r#"{"voices":null}"#,
            r#"{"voices":{}}"#,
        ] {
            check(body, None);
        }
    }

    #[test]
    fn models_are_kept_or_hidden() {
        let body = br#"[{"model_id":"a","name":"A"}, {"model_id":"b"}]"#;
        let seen = with_models_shown(body, |id| id == "a").unwrap();
        assert_eq!(seen, br#"[{"model_id":"a","name":"A"}]"#);
        assert_eq!(with_models_shown(b"{}", |_| true), None);
        assert_eq!(with_models_shown(b"[] x", |_| true), None);
    }
}

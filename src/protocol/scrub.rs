//! Keeping the secrets that the process knows out of what upstream says.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};

/// What stands where a secret stood.
const REDACTED: &[u8] = b"***";

/// What is shorter is no secret, and would be found everywhere.
const MIN_SECRET_BYTES: usize = 4;

/// How an ElevenLabs key starts; lower-case hexadecimal digits follow, usually 48.
const KEY_PREFIX: &str = "sk_";

static KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(KEY_PREFIX));

/// From how many digits on such a text is taken for a key.
const MIN_KEY_DIGITS: usize = 16;

/// The secrets that the process knows, in the spellings in which a text may quote them: plain,
/// inside of a JSON string, percent-encoded.
#[derive(Clone, Default)]
pub struct Secrets {
    spellings: Vec<Finder<'static>>,
}

impl Secrets {
    /// Takes the secrets to look for; those of less than four bytes are left out.
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s SecretString>) -> Self {
        let mut spellings: Vec<Vec<u8>> = secrets
            .into_iter()
            .map(ExposeSecret::expose_secret)
            .filter(|secret| secret.len() >= MIN_SECRET_BYTES)
            .flat_map(spellings)
            .collect();
        spellings.sort_unstable();
        spellings.dedup();
        Self {
            spellings: spellings
                .iter()
                .map(|s| Finder::new(s).into_owned())
                .collect(),
        }
    }

    /// Whether `text` holds a secret, or something that looks like an ElevenLabs key.
    #[must_use]
    pub fn contains(&self, text: &[u8]) -> bool {
        self.spellings
            .iter()
            .any(|spelling| spelling.find(text).is_some())
            || keys(text).next().is_some()
    }

    /// `text` with `***` in the place of every secret and of everything that looks like an
    /// ElevenLabs key. JSON stays JSON when the secrets stand in its strings; UTF-8 stays UTF-8.
    #[must_use]
    pub fn scrub<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let mut found: Vec<Range<usize>> = keys(text).collect();
        for spelling in &self.spellings {
            // One by one, since occurrences of a secret may overlap.
            let mut from = 0;
            while let Some(at) = spelling.find(&text[from..]) {
                let start = from + at;
                found.push(start..start + spelling.needle().len());
                from = start + 1;
            }
        }
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_unstable_by_key(|range| range.start);
        let mut scrubbed = Vec::with_capacity(text.len());
        let mut copied = 0;
        for range in found {
            if copied <= range.start {
                scrubbed.extend_from_slice(&text[copied..range.start]);
                scrubbed.extend_from_slice(REDACTED);
            }
            copied = copied.max(range.end);
        }
        scrubbed.extend_from_slice(&text[copied..]);
        Cow::Owned(scrubbed)
    }

    /// [`Secrets::scrub`] for text.
    #[must_use]
    pub fn scrub_text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.scrub(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

fn spellings(secret: &str) -> [Vec<u8>; 3] {
    let json = serde_json::Value::from(secret).to_string();
    let in_json = json[1..json.len() - 1].to_owned();
    let in_url = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    // A secret with a quote in it stands in JSON only in its escaped spelling.
    let plain = if secret.contains(['"', '\\']) {
        in_json.clone()
    } else {
        secret.to_owned()
    };
    [plain, in_json, in_url].map(String::into_bytes)
}

/// Where something stands that looks like an ElevenLabs key.
fn keys(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    KEY.find_iter(text).filter_map(|start| {
        let first_digit = start + KEY_PREFIX.len();
        let n_digits = text[first_digit..]
            .iter()
            .take_while(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            .count();
        (n_digits >= MIN_KEY_DIGITS).then(|| start..first_digit + n_digits)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use proptest::prelude::*;

    use super::*;

    fn secrets(list: &[&str]) -> Secrets {
        let list: Vec<SecretString> = list.iter().map(|&secret| secret.into()).collect();
        Secrets::new(&list)
    }

    #[track_caller]
    fn check(list: &[&str], text: &str, expected: &str) {
        let secrets = secrets(list);
        assert_eq!(secrets.scrub_text(text), expected);
        assert_eq!(secrets.contains(text.as_bytes()), text != expected);
    }

    #[test]
    fn every_spelling_of_a_secret_is_replaced() {
        check(
            &["hush-hush"],
            "key hush-hush, again hush-hush.",
            "key ***, again ***.",
        );
        check(&["a b/c+d"], "?key=a%20b%2Fc%2Bd&x", "?key=***&x");
        check(
            &["tab\tbed"],
            r#"{"message":"tab\tbed"}"#,
            r#"{"message":"***"}"#,
        );
        check(
            &["say \"so\""],
            r#"{"message":"say \"so\""}"#,
            r#"{"message":"***"}"#,
        );
        check(&["one-one", "two-two"], "one-onetwo-two", "******");
        check(&["abab"], "xababab", "x***");
        check(&["abcdef", "cdefgh"], "abcdefgh", "***");
        check(&["hush"], "nothing to see", "nothing to see");
        check(&[], "", "");
    }

    #[test]
    fn what_is_too_short_to_be_a_secret_is_left() {
        check(&["", "a", "key"], "a key", "a key");
    }

    #[test]
    fn what_looks_like_a_key_is_replaced() {
        let digits = "0123456789abcdef";
        check(&[], &format!("bad sk_{digits}{digits}!"), "bad ***!");
        check(&[], &format!("sk_{digits}"), "***");
        check(&[], &format!("sk_sk_{digits}"), "sk_***");
        check(&[], "sk_0123456789abcde", "sk_0123456789abcde");
        check(&[], "desk_lamp and risk_free", "desk_lamp and risk_free");
    }

    #[test]
    fn debug_shows_nothing() {
        assert!(!format!("{:?}", secrets(&["hush-hush"])).contains("hush"));
    }

    proptest! {
        #[test]
        fn no_secret_is_left_and_json_stays_json(
            secret in "[a-zA-Z0-9 \"\\\\/\u{e9}\u{1}-]{4,12}",
            before in "\\PC{0,12}",
            after in "\\PC{0,12}",
        ) {
            let secrets = secrets(&[&secret]);
            let message = format!("{before}{secret}{after}");
            let frame = serde_json::json!({ "message": message }).to_string();
            prop_assert!(secrets.contains(frame.as_bytes()));
            let scrubbed = secrets.scrub(frame.as_bytes());
            let value: serde_json::Value = serde_json::from_slice(&scrubbed).unwrap();
            // The stars themselves may form what was looked for only if it consists of them.
            prop_assert!(!value["message"].as_str().unwrap().contains(&secret));
        }

        #[test]
        fn what_holds_no_secret_is_not_copied(text in "[a-z ]{0,64}") {
            let secrets = secrets(&["0123456789"]);
            prop_assert!(matches!(secrets.scrub(text.as_bytes()), Cow::Borrowed(_)));
        }
    }
}

//! A request's query: every parameter is kept byte for byte and in order, save for credentials,
//! which are taken out and never go upstream.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use memchr::memchr;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use super::credential::{Credential, CredentialName};

/// How long upstream waits for a client's next text when the client does not say
/// (ElevenLabs API reference, `inactivity_timeout`).
pub const DEFAULT_INACTIVITY_TIMEOUT: Duration = Duration::from_secs(20);

/// The parameters that the relay decides by: each may stand once, since two readers may take
/// different ones of two.
pub const DECIDING_PARAMETERS: [&str; 3] = ["model_id", "output_format", "inactivity_timeout"];

/// Unreserved characters (RFC 3986 section 2.3) stay as they are in a value that the relay writes.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A query without its credentials. `Display` writes it for upstream, without the `?`; `Debug`
/// shows names only.
#[derive(Clone, Default)]
pub struct Query {
    pairs: Vec<Pair>,
    credentials: Vec<Credential>,
}

/// What stands between two `&`: `name=value`, `name`, or nothing at all.
#[derive(Clone)]
struct Pair {
    raw: Box<str>,
    /// Where in it the name ends.
    name_len: usize,
}

impl Query {
    /// Reads what follows the `?` of a request target. Only `&` separates parameters, as in the
    /// URL standard's form parser, which upstream's framework follows.
    #[must_use]
    pub fn parse(raw: &str) -> Self {
        let mut query = Self::default();
        if raw.is_empty() {
            return query;
        }
        for piece in raw.split('&') {
            let pair = Pair::new(piece);
            // White space around a name could only serve to slip by this comparison.
            match CredentialName::of(pair.name().trim()) {
                Some(name) => query
                    .credentials
                    .extend(Credential::new(name, &pair.value())),
                None => query.pairs.push(pair),
            }
        }
        query
    }

    /// The credentials that stood in the query, in the order in which they stood there.
    #[must_use]
    pub fn credentials(&self) -> &[Credential] {
        &self.credentials
    }

    /// The decoded value of the first parameter called `name`; empty when it has none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.pairs
            .iter()
            .find(|pair| pair.is_called(name))
            .map(Pair::value)
    }

    /// Whether `name` stands more than once, so that upstream could take another one than
    /// [`Query::get`] does.
    #[must_use]
    pub fn is_repeated(&self, name: &str) -> bool {
        self.pairs
            .iter()
            .filter(|pair| pair.is_called(name))
            .nth(1)
            .is_some()
    }

    /// The first of [`DECIDING_PARAMETERS`] that is repeated: such a request is refused.
    #[must_use]
    pub fn repeated(&self) -> Option<&'static str> {
        DECIDING_PARAMETERS
            .into_iter()
            .find(|name| self.is_repeated(name))
    }

    /// Makes `value` the only value of `name`: in the place of the first one, or at the end.
    pub fn set(&mut self, name: &str, value: &str) {
        let mut new = Some(Pair::new(&format!(
            "{}={}",
            utf8_percent_encode(name, VALUE),
            utf8_percent_encode(value, VALUE)
        )));
        self.pairs.retain_mut(|pair| {
            !pair.is_called(name) || new.take().map(|new| *pair = new).is_some()
        });
        self.pairs.extend(new);
    }

    /// Takes every `name` out.
    pub fn remove(&mut self, name: &str) {
        self.pairs.retain(|pair| !pair.is_called(name));
    }

    /// Whether upstream would see no query at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The client's `inactivity_timeout` in seconds; none when it is absent or no whole number, in
    /// which case upstream judges it.
    #[must_use]
    pub fn inactivity_timeout(&self) -> Option<u64> {
        let value = self.get("inactivity_timeout")?;
        let digits = value.trim();
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit are still a number, and one above any limit.
        is_number.then(|| digits.parse().unwrap_or(u64::MAX))
    }

    /// The inactivity limit of a session: the client's own, else [`DEFAULT_INACTIVITY_TIMEOUT`], but
    /// at least a second and at most `max`. The query changes, and is copied where it is borrowed, only
    /// when `max` was exceeded; it then asks for `max`, rounded up to whole seconds.
    pub fn clamp_inactivity_timeout(query: &mut Cow<'_, Self>, max: Duration) -> Duration {
        let asked = query.inactivity_timeout();
        let limit = asked.map_or(DEFAULT_INACTIVITY_TIMEOUT, |seconds| {
            Duration::from_secs(seconds.max(1))
        });
        if limit <= max {
            return limit;
        }
        let seconds = max.as_secs() + u64::from(max.subsec_nanos() > 0);
        query.to_mut().set(
            "inactivity_timeout",
            itoa::Buffer::new().format(seconds.max(1)),
        );
        max
    }
}

impl Pair {
    fn new(raw: &str) -> Self {
        Self {
            raw: raw.into(),
            name_len: memchr(b'=', raw.as_bytes()).unwrap_or(raw.len()),
        }
    }

    fn name(&self) -> Cow<'_, str> {
        decode(&self.raw[..self.name_len])
    }

    fn is_called(&self, name: &str) -> bool {
        // Nothing becomes longer when it is decoded.
        self.name_len >= name.len() && self.name() == name
    }

    fn value(&self) -> Cow<'_, str> {
        decode(self.raw.get(self.name_len + 1..).unwrap_or_default())
    }
}

fn has_escapes(raw: &str) -> bool {
    raw.bytes().any(|byte| matches!(byte, b'+' | b'%'))
}

/// Undoes `application/x-www-form-urlencoded` (URL standard section 5.1): `+` is a space, bytes
/// that are no UTF-8 become U+FFFD.
fn decode(raw: &str) -> Cow<'_, str> {
    if !has_escapes(raw) {
        return raw.into();
    }
    if !raw.contains('+') {
        return percent_decode(raw.as_bytes()).decode_utf8_lossy();
    }
    let spaced = raw.replace('+', " ");
    percent_decode(spaced.as_bytes())
        .decode_utf8_lossy()
        .into_owned()
        .into()
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, pair) in self.pairs.iter().enumerate() {
            if n > 0 {
                f.write_str("&")?;
            }
            f.write_str(&pair.raw)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.pairs.iter().map(Pair::name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

    use proptest::collection::vec;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    #[track_caller]
    fn check(raw: &str, upstream: &str, tokens: &[&str]) {
        let query = Query::parse(raw);
        assert_eq!(query.to_string(), upstream);
        let seen: Vec<_> = query
            .credentials()
            .iter()
            .map(|c| c.token.expose_secret())
            .collect();
        assert_eq!(seen, tokens, "{raw}");
    }

    #[test]
    fn credentials_are_taken_out_in_any_spelling() {
        check("xi-api-key=tok", "", &["tok"]);
        check("a=1&xi_api_key=tok&b=2", "a=1&b=2", &["tok"]);
        check("%78i-api-key=tok&a=1", "a=1", &["tok"]);
        check("%58%49%2dAPI%2DKEY=t%6Fk", "", &["tok"]);
        check("Authorization=Bearer+tok", "", &["tok"]);
        check(
            "authorization=Bearer%20tok&single_use_token=once",
            "",
            &["tok", "once"],
        );
        check("+xi-api-key+=tok&%09authorization=tok", "", &["tok", "tok"]);
        check("single_use_token=a&single_use_token=b", "", &["a", "b"]);
        check("xi-api-key&a=1", "a=1", &[]);
        check("xi-api-key=", "", &[]);
        check("xi-api-key=a=b", "", &["a=b"]);
        let query = Query::parse("single_use_token=once");
        assert_eq!(query.credentials()[0].name, CredentialName::SingleUseToken);
    }

    #[test]
    fn everything_else_stays_byte_for_byte() {
        for raw in [
            "",
            "a",
            "a=",
            "=",
            "=b",
            "&",
            "a=1&&b=2&",
            "a=1;xi-api-key=x",
            "model_id=m;b&x=%zz%",
            "a=%C3%28&%ff=1",
            "enable_logging=True&optimize_streaming_latency=4",
            "voice_settings=%7B%22speed%22%3A1%7D",
            "%2578i-api-key=x",
            "xi%2Bapi%2Bkey=x&xi+api+key=x",
            "a=1&a=2&A=3",
            "a=b=c",
        ] {
            check(raw, raw, &[]);
        }
    }

    #[test]
    fn values_are_decoded() {
        let query = Query::parse("model_id=a%5fb&%6f=x+y&o=second&flag&e=%ff");
        assert_eq!(query.get("model_id").as_deref(), Some("a_b"));
        assert_eq!(query.get("o").as_deref(), Some("x y"));
        assert_eq!(query.get("flag").as_deref(), Some(""));
        assert_eq!(query.get("e").as_deref(), Some("\u{fffd}"));
        assert_eq!(query.get("Model_id"), None);
        assert!(query.is_repeated("o") && !query.is_repeated("model_id"));
    }

    #[test]
    fn a_deciding_parameter_may_stand_once() {
        assert_eq!(Query::parse("model_id=a&x=1&x=2").repeated(), None);
        assert_eq!(
            Query::parse("model_id=a&model%5Fid=b").repeated(),
            Some("model_id")
        );
        assert_eq!(
            Query::parse("output_format&output_format").repeated(),
            Some("output_format")
        );
    }

    #[test]
    fn setting_replaces_every_occurrence_in_place() {
        let mut query = Query::parse("a=1&%62=2&c=3&b=4");
        query.set("b", "x y&z=ü");
        assert_eq!(query.to_string(), "a=1&b=x%20y%26z%3D%C3%BC&c=3");
        query.set("d", "true");
        assert_eq!(query.to_string(), "a=1&b=x%20y%26z%3D%C3%BC&c=3&d=true");
        query.remove("b");
        query.remove("a");
        assert_eq!(query.to_string(), "c=3&d=true");
        let mut query = Query::parse("");
        query.set("a", "eleven_v3-1.~");
        assert_eq!(query.to_string(), "a=eleven_v3-1.~");
    }

    #[track_caller]
    fn clamps(raw: &str, max: Duration, limit: Duration, upstream: &str) {
        let given = Query::parse(raw);
        let mut query = Cow::Borrowed(&given);
        let clamped = Query::clamp_inactivity_timeout(&mut query, max);
        assert_eq!(clamped, limit, "{raw}");
        assert_eq!(query.to_string(), upstream);
        assert_eq!(matches!(query, Cow::Borrowed(_)), raw == upstream);
    }

    #[test]
    fn the_inactivity_timeout_changes_only_when_it_is_clamped() {
        let seconds = Duration::from_secs;
        clamps("", seconds(180), seconds(20), "");
        clamps("a=1", seconds(20), seconds(20), "a=1");
        clamps("a=1", seconds(10), seconds(10), "a=1&inactivity_timeout=10");
        clamps(
            "inactivity_timeout=180",
            seconds(180),
            seconds(180),
            "inactivity_timeout=180",
        );
        clamps(
            "inactivity_timeout=0180",
            seconds(180),
            seconds(180),
            "inactivity_timeout=0180",
        );
        clamps(
            "x&inactivity_timeout=181&y",
            seconds(180),
            seconds(180),
            "x&inactivity_timeout=180&y",
        );
        clamps(
            "inactivity%5ftimeout=9",
            seconds(5),
            seconds(5),
            "inactivity_timeout=5",
        );
        clamps(
            "inactivity_timeout=0",
            seconds(180),
            seconds(1),
            "inactivity_timeout=0",
        );
        let huge = "inactivity_timeout=99999999999999999999999";
        clamps(huge, seconds(180), seconds(180), "inactivity_timeout=180");
        for odd in ["-5", "1e9", "abc", "", "20.5", "%FF", "٣"] {
            let raw = format!("inactivity_timeout={odd}");
            clamps(&raw, seconds(180), seconds(20), &raw);
        }
        let short = Duration::from_millis(1500);
        clamps("", short, short, "inactivity_timeout=2");
        clamps(
            "",
            Duration::from_millis(50),
            Duration::from_millis(50),
            "inactivity_timeout=1",
        );
    }

    #[test]
    fn debug_shows_names_only() {
        let shown = format!("{:?}", Query::parse("a=spoken&xi-api-key=hush-hush"));
        assert_eq!(shown, r#"["a"]"#);
    }

    /// A credential's name with each character written in one of the ways it can be.
    fn spelled_credential() -> impl Strategy<Value = String> {
        let names = vec![
            "xi-api-key",
            "xi_api_key",
            "authorization",
            "single_use_token",
        ];
        (prop::sample::select(names), vec(0..6u8, 16)).prop_map(|(name, ways)| {
            let spell = |(c, way): (char, u8)| match way {
                0 => format!("%{:02x}", c as u8),
                1 => format!("%{:02X}", c as u8),
                2 => format!("%{:02X}", c.to_ascii_uppercase() as u8),
                3 => c.to_ascii_uppercase().to_string(),
                _ => c.to_string(),
            };
            name.chars().zip(ways).map(spell).collect()
        })
    }

    proptest! {
        #[test]
        fn no_credential_survives_and_nothing_else_is_lost(
            pieces in vec(prop_oneof![
                spelled_credential().prop_map(|name| (true, format!("{name}=hush"))),
                "[a-w=%;+0-9.]{0,10}".prop_map(|piece| (false, piece)),
            ], 1..8),
        ) {
            let join = |pieces: Vec<&str>| pieces.join("&");
            let raw = join(pieces.iter().map(|(_, piece)| piece.as_str()).collect());
            let kept = pieces.iter().filter(|(is_credential, _)| !is_credential);
            let kept = join(kept.map(|(_, piece)| piece.as_str()).collect());
            let query = Query::parse(&raw);
            prop_assert_eq!(query.to_string(), kept);
            let n_credentials = pieces.iter().filter(|(is_credential, _)| *is_credential).count();
            prop_assert_eq!(query.credentials().len(), n_credentials);
            prop_assert!(!query.to_string().contains("hush"));
        }

        #[test]
        fn what_is_set_is_what_is_got(
            raw in "[a-c=&%0-9+]{0,20}", name in "[a-c]{1}", value in "\\PC{0,8}",
        ) {
            let mut query = Query::parse(&raw);
            query.set(&name, &value);
            let again = Query::parse(&query.to_string());
            prop_assert_eq!(again.get(&name).unwrap(), value.as_str());
            prop_assert!(!again.is_repeated(&name));
        }

        #[test]
        fn no_query_panics(raw in "\\PC{0,40}") {
            let mut query = Cow::Owned(Query::parse(&raw));
            Query::clamp_inactivity_timeout(&mut query, Duration::from_secs(5));
            prop_assert!(query.get("x").is_none_or(|x| x.len() <= 3 * raw.len()));
        }
    }
}

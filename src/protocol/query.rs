//! A request's query: every parameter is kept byte for byte and in order, save for credentials,
//! which are taken out and never go upstream.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

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
            let pair = Pair { raw: piece.into() };
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
            .find(|pair| pair.name() == name)
            .map(Pair::value)
    }

    /// Whether `name` stands more than once, so that upstream could take another one than
    /// [`Query::get`] does.
    #[must_use]
    pub fn is_repeated(&self, name: &str) -> bool {
        self.pairs
            .iter()
            .filter(|pair| pair.name() == name)
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
        let raw = format!(
            "{}={}",
            utf8_percent_encode(name, VALUE),
            utf8_percent_encode(value, VALUE)
        );
        let mut new = Some(Pair { raw: raw.into() });
        self.pairs
            .retain_mut(|pair| pair.name() != name || new.take().map(|new| *pair = new).is_some());
        self.pairs.extend(new);
    }

    /// Takes every `name` out.
    pub fn remove(&mut self, name: &str) {
        self.pairs.retain(|pair| pair.name() != name);
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

    /// The inactivity limit of a session: the client's own, else
    /// [`DEFAULT_INACTIVITY_TIMEOUT`], but at least a second and at most `max`. The query changes
    /// only when `max` was exceeded; it then asks for `max`, rounded up to whole seconds.
    pub fn clamp_inactivity_timeout(&mut self, max: Duration) -> Duration {
        let asked = self.inactivity_timeout();
        let limit = asked.map_or(DEFAULT_INACTIVITY_TIMEOUT, |seconds| {
            Duration::from_secs(seconds.max(1))
        });
        if limit <= max {
            return limit;
        }
        let seconds = max.as_secs() + u64::from(max.subsec_nanos() > 0);
        self.set(
            "inactivity_timeout",
            itoa::Buffer::new().format(seconds.max(1)),
        );
        max
    }
}

impl Pair {
    fn parts(&self) -> (&str, &str) {
        self.raw.split_once('=').unwrap_or((&self.raw, ""))
    }

    fn name(&self) -> Cow<'_, str> {
        decode(self.parts().0)
    }

    fn value(&self) -> Cow<'_, str> {
        decode(self.parts().1)
    }
}

/// Undoes `application/x-www-form-urlencoded` (URL standard section 5.1): `+` is a space, bytes
/// that are no UTF-8 become U+FFFD.
fn decode(raw: &str) -> Cow<'_, str> {
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

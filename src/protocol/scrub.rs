//! placeholder
use std::borrow::Cow;
#[derive(Debug, Default)]
pub struct Secrets;
impl Secrets {
    pub fn contains(&self, _b: &[u8]) -> bool { false }
    pub fn scrub<'a>(&self, b: &'a [u8]) -> Cow<'a, [u8]> { Cow::Borrowed(b) }
    pub fn scrub_text<'a>(&self, b: &'a str) -> Cow<'a, str> { Cow::Borrowed(b) }
}

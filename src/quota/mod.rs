//! What clients may do (placeholder until the real one lands).
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::Problem;

#[derive(Debug, Clone)]
pub struct Limits {
    pub max_messages_per_second: u32,
    pub max_message_bytes: u64,
    pub max_inactivity_timeout: Duration,
    pub max_session_duration: Duration,
    pub aliases: HashMap<String, String>,
}
impl Default for Limits {
    fn default() -> Self {
        Self {
            max_messages_per_second: 50,
            max_message_bytes: 65536,
            max_inactivity_timeout: Duration::from_secs(180),
            max_session_duration: Duration::from_secs(3600),
            aliases: HashMap::new(),
        }
    }
}
impl Limits {
    pub fn allows_voice(&self, _voice: &str) -> bool {
        true
    }
    pub fn voice_alias<'a>(&'a self, voice: &str) -> Option<&'a str> {
        self.aliases.get(voice).map(String::as_str)
    }
}
#[derive(Debug)]
pub enum Refusal {}
impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        match *refusal {}
    }
}
pub struct Reserved;
pub struct Admission;
impl Admission {
    pub fn try_charge(&mut self, _n: u64) -> Option<Result<(), Refusal>> {
        Some(Ok(()))
    }
    pub fn reserve(&mut self, _n: u64) -> Pin<Box<dyn Future<Output = Reserved> + Send>> {
        Box::pin(std::future::ready(Reserved))
    }
    pub fn apply(&mut self, _r: Reserved) -> Result<(), Refusal> {
        Ok(())
    }
    pub fn set_limits(&mut self, _l: Arc<Limits>) {}
    pub async fn settle(self, _row: crate::usage::LedgerRow) {}
}
pub struct AdmissionRequest {
    pub client: crate::ids::ClientId,
    pub plan: Arc<str>,
    pub limits: Arc<Limits>,
    pub session: crate::ids::SessionId,
    pub endpoint: &'static str,
    pub voice: String,
    pub model: String,
    pub format: String,
    pub cap: Option<u64>,
}
#[derive(Default)]
pub struct Quota;
impl Quota {
    pub async fn admit(&self, _r: AdmissionRequest) -> Result<Admission, Refusal> {
        Ok(Admission)
    }
}

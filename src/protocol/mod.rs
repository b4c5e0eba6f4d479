//! ElevenLabs' words: requests, client messages, server messages, errors. Pure, no I/O.

mod audio_meter;
mod client_message;
mod credential;
mod dialect;
mod edit;
mod force;
mod headers;
mod http_error;
mod invalid_message;
mod json;
mod listing;
mod output_format;
mod problem;
mod query;
mod recording;
mod refusals;
mod request;
#[cfg(test)]
mod sample;
mod scan;
mod scrub;
mod server_message;
mod spans;

pub use audio_meter::AudioMeter;
pub use client_message::{ClientKind, ClientMessage, Input};
pub use credential::{Credential, CredentialName};
pub use dialect::Dialect;
pub use edit::{with_voices_rewritten, without_credentials};
pub use force::{is_body_field, with_body_field};
pub use headers::{SUBPROTOCOL, Subprotocols, header_credential, subprotocols};
pub use http_error::HttpError;
pub use invalid_message::InvalidMessage;
pub use listing::{Shown, with_models_shown, with_voices_shown};
pub use output_format::{DEFAULT_OUTPUT_FORMAT, OutputFormat};
pub use problem::Problem;
pub use query::{DECIDING_PARAMETERS, DEFAULT_INACTIVITY_TIMEOUT, Query};
pub use recording::{Crossed, RECORDING_VERSION, Recorded, RecordingHead};
pub use request::{Endpoint, Route, route, route_of_path};
pub use scan::{scan, scan_text};
pub use scrub::Secrets;
pub use server_message::{ServerError, ServerKind, ServerMessage, look};

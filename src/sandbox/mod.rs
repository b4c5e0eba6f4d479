//! The offline ElevenLabs: an ordinary HTTP and WebSocket server on a listener of its own, which
//! the relay takes for any other upstream.
//!
//! It speaks in tones. Each character has its own pitch and length ([`voice`]), so that the same
//! text, voice, seed and format give the same bytes, and both ear and test can tell what was said.
//! Where ElevenLabs' behavior is known it is followed; the rest is decided here:
//!
//! * Every voice exists whose id is 1 to 64 of `A-Z a-z 0-9 _ -`, except those that begin with
//!   `nope` or `unknown`. Voices that begin with `fault-` make something go wrong ([`faults`]).
//! * Every key is good that is not empty and does not begin with `invalid`, unless keys are
//!   configured.
//! * A missing key is `needs_authorization`, broken JSON and a `text` that is no string are
//!   `invalid_message`, both with 1008. An unknown model is HTTP 404 before the upgrade, an unknown
//!   format 403.
//! * Segments are cut at the last white space and are at most 1,000 characters long; a flush does
//!   not reset the schedule. `try_trigger_generation` wants 50 characters.
//! * `inactivity_timeout` is held to 1 to 180 s. An account out of credits is `quota_exceeded`
//!   with 1008, on the multi-context socket a final frame without audio.
//! * Over HTTP times count from the start of the answer. A streamed answer is paced as a
//!   socket is, a whole one waits for its first audio alone.
//! * `close_socket` finishes all contexts; the frames of the default context carry
//!   `"contextId":null`; a message for any context restarts the one inactivity clock of a
//!   multi-context socket.
//!
//! While recordings are replayed, sockets answer as upstream did in them ([`replay`]), and nothing
//! of the above holds for them; requests without a socket are answered with tones as ever.
//!
//! A conversation ([`conversation`]) is a value without a socket; the player says when its replies
//! are due; [`socket`] sends them.

mod access;
mod account;
mod buffer;
mod config;
mod conversation;
mod dialogue;
mod encoder;
mod fault;
mod format;
mod lookups;
mod message;
mod model;
mod multi_stream;
mod player;
mod query;
mod recording;
mod refusal;
mod replay;
#[cfg(test)]
mod script;
mod server;
mod socket;
mod speech;
mod spoken;
mod stream_input;
mod synthesis;
#[cfg(test)]
mod tests;
mod upgrade;
mod utterance;
mod voice;
mod wire;

pub use config::{AlignmentOrigin, Config, ReplayPace};
pub use fault::faults;
pub use recording::ReplayError;
pub use server::Server;

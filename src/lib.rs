//! xi-relay stands where ElevenLabs' text-to-speech API stood: same paths, same messages, same
//! errors. It holds the key, charges every text to the client that sent it before the text goes
//! up, and passes frames on both ways.
//!
//! Modules import downwards only, in the order of the list below; `tests/it/tidy.rs` checks it.
//! `ARCHITECTURE.md` tells the way of a frame through them.
//!
//! Deliberately absent: a general pass-through, which would lend the key to every other endpoint;
//! compression of messages and WebSocket over HTTP/2, on either leg; transcoding and caching.

pub mod ids;

pub mod crypto;

pub mod timer;

pub mod frame;

pub mod metrics;

pub mod log;

pub mod protocol;

pub mod usage;

pub mod quota;

pub mod auth;

pub mod upstream;

pub mod sandbox;

pub mod session;

pub mod http;

pub mod config;

pub mod app;

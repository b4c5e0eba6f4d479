//! What the measuring tools share: a WebSocket just complete enough to speak to any proxy and
//! cheap enough not to be what is measured, the wire shapes of ElevenLabs' `stream-input`, and
//! readings of other processes' CPU time and memory.
//!
//! The tools are `load` (clients), `upstream` (what the proxies stand in front of), `tunnel` (a
//! blind TCP copy, with an optional delay that stands in for distance) and `report` (tables).
//! `run.sh` ties them together.

pub mod precise;
pub mod process;
pub mod speech;
pub mod tls;
pub mod ws;

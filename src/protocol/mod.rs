//! ElevenLabs' words: requests, client messages, server messages, errors. Pure, no I/O.

mod problem;

pub use problem::Problem;

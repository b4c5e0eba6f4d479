//! http

pub mod address;
pub mod origin;
pub mod tls;

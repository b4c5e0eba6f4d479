//! One byte stream from a client, plain or encrypted.

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::upstream::MaybeTls;

/// A connection from a client.
pub type ClientStream = MaybeTls<TlsStream<TcpStream>>;

//! What a session asks of a connection beyond its bytes.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::upstream::{MaybeTls, OverTcp};

/// One side's byte stream.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The end is near: what is written from here on may wait for the shutdown and leave with it.
    fn gather(&self);
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static + OverTcp> Transport for MaybeTls<T> {
    /// A close frame, TLS' `close_notify` and TCP's FIN then are one segment instead of three.
    fn gather(&self) {
        #[cfg(target_os = "linux")]
        {
            // Without it they are three.
            let _ = socket2::SockRef::from(self.tcp()).set_tcp_cork(true);
        }
    }
}

#[cfg(test)]
impl Transport for tokio::io::DuplexStream {
    fn gather(&self) {}
}

//! The opening handshake towards upstream (RFC 6455 section 4.1).

use std::io;

use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::BaseUrl;
use crate::protocol::Secrets;

/// The longest response head accepted from upstream.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// How much of a refusal's body is read; the rest of a longer one is dropped.
const MAX_BODY_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;

/// The request that asks for one socket. Holds nothing that a client sent but path and query.
pub(super) struct Request {
    head: SecretString,
    accept_key: String,
}

/// What upstream's 101 brought.
#[derive(Debug)]
pub struct Handshake {
    /// Bytes behind the head.
    pub read_ahead: Vec<u8>,
    /// Its `x-trace-id`, unless it holds a secret.
    pub trace_id: Option<String>,
}

/// An HTTP answer other than 101. Of its headers those that hold a secret are left out.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// `Content-Type`, where given.
    pub content_type: Option<String>,
    /// `Retry-After`, where given.
    pub retry_after: Option<String>,
    /// `x-trace-id`, where given.
    pub trace_id: Option<String>,
    /// The body, at most 64 KiB of it.
    pub body: Vec<u8>,
}

/// Why there was no 101.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection ended before a whole answer had come.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// What came is not the answer of a WebSocket server.
    #[error("{0}")]
    NotWebSocket(&'static str),
    /// An HTTP answer other than 101.
    #[error("HTTP {}", .0.status)]
    Refused(Refusal),
}

impl Request {
    pub(super) fn new(
        base_url: &BaseUrl,
        path_and_query: &str,
        api_key: Option<&SecretString>,
    ) -> Self {
        let key = generate_key();
        let mut head = format!(
            "GET {prefix}{path_and_query} HTTP/1.1\r\n\
             Host: {host}\r\n\
             Connection: Upgrade\r\n\
             Upgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\n\
             User-Agent: xi-relay/{version}\r\n",
            prefix = base_url.path_prefix(),
            host = base_url.authority(),
            version = env!("CARGO_PKG_VERSION"),
        );
        if let Some(api_key) = api_key {
            head.push_str("xi-api-key: ");
            head.push_str(api_key.expose_secret());
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        Self {
            head: head.into(),
            accept_key: derive_accept_key(key.as_bytes()),
        }
    }

    /// Sends the request and reads the answer, and with a refusal its body. No header that is passed
    /// on holds one of `secrets`.
    pub(super) async fn upgrade<S>(
        &self,
        stream: &mut S,
        secrets: &Secrets,
    ) -> Result<Handshake, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        stream
            .write_all(self.head.expose_secret().as_bytes())
            .await
            .map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let mut read = Vec::with_capacity(1024);
        loop {
            if read.len() >= MAX_HEAD_BYTES {
                return Err(HandshakeError::NotWebSocket(
                    "its response head was too long",
                ));
            }
            if stream.read_buf(&mut read).await.map_err(broken)? == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            let head_len = match response.parse(&read) {
                Ok(httparse::Status::Complete(head_len)) => head_len,
                Ok(httparse::Status::Partial) => continue,
                Err(_) => return Err(HandshakeError::NotWebSocket("it does not speak HTTP")),
            };
            let head = Head {
                headers: response.headers,
                status: response.code.unwrap_or(0),
            };
            if head.status == 101 {
                let trace_id = head.text("x-trace-id", secrets);
                self.judge(&head)?;
                return Ok(Handshake {
                    read_ahead: read.split_off(head_len),
                    trace_id,
                });
            }
            let (mut refusal, framing) = (head.refusal(secrets), head.framing());
            refusal.body = read_body(stream, read.split_off(head_len), framing).await;
            return Err(HandshakeError::Refused(refusal));
        }
    }

    /// Holds the 101 against RFC 6455 section 4.1, second list.
    fn judge(&self, head: &Head<'_, '_>) -> Result<(), HandshakeError> {
        let names = |header, token: &str| {
            head.all(header).any(|value: &str| {
                value
                    .split(',')
                    .any(|part| part.trim().eq_ignore_ascii_case(token))
            })
        };
        let reason = if !names("upgrade", "websocket") || !names("connection", "upgrade") {
            "its 101 does not upgrade to websocket"
        } else if !head
            .all("sec-websocket-accept")
            .eq([self.accept_key.as_str()])
        {
            "its Sec-WebSocket-Accept does not fit the key"
        } else if head.all("sec-websocket-extensions").next().is_some() {
            "it turned on an extension that was not offered"
        } else if head.all("sec-websocket-protocol").next().is_some() {
            "it chose a subprotocol that was not offered"
        } else {
            return Ok(());
        };
        Err(HandshakeError::NotWebSocket(reason))
    }
}

/// A parsed response head.
struct Head<'h, 'b> {
    status: u16,
    headers: &'h [httparse::Header<'b>],
}

/// How a body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Head<'_, '_> {
    fn all<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .filter_map(|header| std::str::from_utf8(header.value).ok())
            .map(str::trim)
    }

    /// The value of a header, unless it holds one of `secrets`.
    fn text(&self, name: &'static str, secrets: &Secrets) -> Option<String> {
        let value = self.all(name).next()?;
        (!secrets.contains(value.as_bytes())).then(|| value.to_owned())
    }

    fn refusal(&self, secrets: &Secrets) -> Refusal {
        Refusal {
            status: self.status,
            content_type: self.text("content-type", secrets),
            retry_after: self.text("retry-after", secrets),
            trace_id: self.text("x-trace-id", secrets),
            body: Vec::new(),
        }
    }

    fn framing(&self) -> Framing {
        if self
            .all("transfer-encoding")
            .any(|value| value.eq_ignore_ascii_case("chunked"))
        {
            return Framing::Chunked;
        }
        match self
            .all("content-length")
            .next()
            .and_then(|length| length.parse().ok())
        {
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        }
    }
}

/// Reads a refusal's body as far as it comes; a body that breaks off is worth what came of it.
async fn read_body<S>(stream: &mut S, mut read: Vec<u8>, framing: Framing) -> Vec<u8>
where
    S: AsyncRead + Unpin,
{
    loop {
        let whole = match framing {
            Framing::Length(length) if read.len() >= length => {
                read.truncate(length);
                Some(read.clone())
            }
            Framing::Chunked => decode_chunks(&read),
            _ => None,
        };
        if let Some(mut body) = whole {
            body.truncate(MAX_BODY_BYTES);
            return body;
        }
        let ended = read.len() >= MAX_BODY_BYTES
            || !matches!(stream.read_buf(&mut read).await, Ok(n) if n > 0);
        if ended {
            read.truncate(MAX_BODY_BYTES);
            return match framing {
                Framing::Chunked => Vec::new(),
                _ => read,
            };
        }
    }
}

/// The body in `read` if its last chunk has come.
fn decode_chunks(mut read: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((head_len, chunk_len))) =
            httparse::parse_chunk_size(read)
        else {
            return None;
        };
        if chunk_len == 0 {
            return Some(body);
        }
        let chunk_len = usize::try_from(chunk_len).ok()?;
        let end = head_len.checked_add(chunk_len)?;
        body.extend_from_slice(read.get(head_len..end)?);
        read = read.get(end + 2..)?;
    }
}

fn broken(error: io::Error) -> HandshakeError {
    HandshakeError::Broken(error)
}

//! HTTP/1.1 heads and bodies as text, so that they can be malformed.

use std::net::SocketAddr;

use super::wire::Wire;

/// The key of RFC 6455 section 1.3, and the accept value that belongs to it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request head; an upgrade as a browser would send it, until a test spoils it.
#[derive(Clone)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// A WebSocket upgrade of `target`, which is path and query.
    pub fn upgrade(target: &str) -> Self {
        Self::bare(&format!("GET {target} HTTP/1.1"))
            .with("Host", "localhost")
            .with("Upgrade", "websocket")
            .with("Connection", "Upgrade")
            .with("Sec-WebSocket-Key", KEY)
            .with("Sec-WebSocket-Version", "13")
    }

    /// One plain request; the server closes the connection afterwards.
    pub fn plain(method: &str, target: &str) -> Self {
        Self::bare(&format!("{method} {target} HTTP/1.1"))
            .with("Host", "localhost")
            .with("Connection", "close")
    }

    pub fn bare(line: &str) -> Self {
        Self {
            line: line.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header, also if there is one of that name.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// Replaces a header.
    pub fn set(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    pub fn json(mut self, body: &str) -> Self {
        self.body = body.as_bytes().to_vec();
        self.with("Content-Type", "application/json")
            .with("Content-Length", &body.len().to_string())
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut head = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }

    /// Sends it on a connection of its own and reads the whole answer.
    #[track_caller]
    pub fn send(&self, to: SocketAddr) -> Response {
        let mut wire = Wire::connect(to);
        // A server may answer a hopeless request before it has taken all of it.
        let _ = wire.try_write(&self.encode());
        Response::read(&mut wire).expect("an answer")
    }
}

/// The first line and headers of a request or response.
#[derive(Clone, Debug)]
pub struct Head {
    /// As it stood on the wire.
    pub raw: String,
    pub line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads one off the wire; `None` if the peer left before it was complete.
    pub fn read(wire: &mut Wire) -> Option<Self> {
        let raw = String::from_utf8(wire.take_until(b"\r\n\r\n")?).expect("a head of text");
        let mut lines = raw.trim_end().lines();
        let line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Some(Self { line, headers, raw })
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(named)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Path and query of a request.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
}

impl Response {
    /// Reads head and body; a 101 has no body. `None` if the peer left without an answer.
    pub fn read(wire: &mut Wire) -> Option<Self> {
        let head = Head::read(wire)?;
        let status: u16 = head.line.split(' ').nth(1)?.parse().ok()?;
        let body = if status == 101 {
            Vec::new()
        } else if head.get("transfer-encoding") == Some("chunked") {
            read_chunks(wire)
        } else if let Some(n) = head.get("content-length") {
            wire.take(n.parse().expect("a numeric content-length"))
        } else {
            wire.take_rest()
        };
        Some(Self { status, head, body })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }
}

fn read_chunks(wire: &mut Wire) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(size) = wire.take_until(b"\r\n") {
        let size = String::from_utf8_lossy(&size);
        let size = size.trim().split(';').next().unwrap_or_default();
        let n = usize::from_str_radix(size, 16).expect("a chunk size in hex");
        let chunk = wire.take(n + 2);
        if n == 0 {
            break;
        }
        body.extend(&chunk[..n]);
    }
    body
}

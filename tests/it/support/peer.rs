//! One end of a WebSocket without a library: it can break every rule, and it checks that the relay
//! breaks none.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::frame::{BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, TEXT};
use super::http::{self, Head, Response};
use super::wire::{Event, PATIENCE, Wire};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Client,
    Upstream,
}

pub struct Peer {
    wire: Wire,
    role: Role,
    /// The request that this upstream got; for a client, the answer to its own.
    pub head: Option<Head>,
}

impl Peer {
    /// A client that has connected and said nothing yet.
    pub fn dial(address: SocketAddr) -> Self {
        Self {
            wire: Wire::connect(address),
            role: Role::Client,
            head: None,
        }
    }

    /// An upstream that has read one request head; `None` if the relay left before it was whole.
    pub fn serve(stream: TcpStream) -> Option<Self> {
        // The relay may keep connections ready for which it has no request yet.
        stream.set_read_timeout(None).ok()?;
        if !matches!(stream.peek(&mut [0]), Ok(1)) {
            return None;
        }
        let mut wire = Wire::new(stream);
        let head = Head::read(&mut wire)?;
        Some(Self {
            wire,
            role: Role::Upstream,
            head: Some(head),
        })
    }

    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Path and query of the request that this upstream got.
    pub fn target(&self) -> &str {
        self.head.as_ref().expect("a head was read").target()
    }

    /// Everything received so far as text, heads included; for searching.
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.wire.received()).into_owned()
    }

    // The upgrade.

    /// The 101 that RFC 6455 section 4.2.2 asks for.
    pub fn acceptance(&self) -> String {
        let key = self
            .head
            .as_ref()
            .and_then(|head| head.get("sec-websocket-key"));
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nx-trace-id: trace-of-the-test\r\n\r\n",
            accept_value(key.expect("an upgrade has a key")),
        )
    }

    pub fn accept(&mut self) {
        let head = self.acceptance();
        self.write(head.as_bytes());
    }

    #[track_caller]
    pub fn expect_response(&mut self) -> Response {
        Response::read(&mut self.wire).expect("an answer to the upgrade")
    }

    #[track_caller]
    pub fn expect_upgraded(&mut self) {
        let response = self.expect_response();
        assert_eq!(
            response.status,
            101,
            "{} {}",
            response.head.raw,
            response.text()
        );
        assert_eq!(
            response.head.get("sec-websocket-accept"),
            Some(http::ACCEPT)
        );
        assert_eq!(response.head.get("sec-websocket-extensions"), None);
        self.head = Some(response.head);
    }

    // Sending.

    /// Bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.wire.write(bytes);
    }

    /// A frame, masked if this end is a client.
    pub fn send(&mut self, frame: Frame) {
        let bytes = self.dress(frame).encode();
        self.write(&bytes);
    }

    /// A frame as this end sends it when it keeps the rules.
    pub fn dress(&self, frame: Frame) -> Frame {
        match self.role {
            Role::Client => frame.masked(),
            Role::Upstream => frame,
        }
    }

    /// A text message in one frame.
    pub fn say(&mut self, text: &str) {
        self.send(Frame::text(text));
    }

    // Receiving.

    #[track_caller]
    pub fn event(&mut self) -> Event {
        let event = self.wire.event_within(PATIENCE);
        event.unwrap_or_else(|| panic!("nothing came within {PATIENCE:?}"))
    }

    /// The next frame, which keeps the rules that bind every frame of the relay.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        match self.event() {
            Event::Frame(frame) => {
                let is_masked = frame.mask.is_some();
                assert_eq!(is_masked, self.role == Role::Upstream, "masked? {frame:?}");
                assert_eq!(frame.rsv, 0, "{frame:?}");
                assert!(
                    matches!(
                        frame.opcode,
                        CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG
                    ),
                    "{frame:?}"
                );
                frame
            }
            other => panic!("a frame was due, but came {other:?}"),
        }
    }

    /// The next text message; answers no pings, and wants none.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        let mut payload = Vec::new();
        loop {
            let frame = self.frame();
            let opcode = if payload.is_empty() {
                TEXT
            } else {
                CONTINUATION
            };
            assert_eq!(
                frame.opcode,
                opcode,
                "{}",
                String::from_utf8_lossy(&frame.payload)
            );
            payload.extend(&frame.payload);
            if frame.fin {
                return String::from_utf8(payload).expect("text is UTF-8");
            }
        }
    }

    /// The next text message as JSON.
    #[track_caller]
    pub fn hear_json(&mut self) -> serde_json::Value {
        let text = self.hear();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
    }

    /// The next thing is a close frame with this code; it is echoed, and then the relay hangs up.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) -> String {
        let frame = self.frame();
        assert_eq!(
            frame.opcode,
            CLOSE,
            "{}",
            String::from_utf8_lossy(&frame.payload)
        );
        let (got, reason) = frame.close_parts();
        assert_eq!(got, code, "close reason: {reason}");
        let echo = self.dress(Frame::new(CLOSE, &frame.payload)).encode();
        // The relay may hang up without waiting for the echo when it has failed this leg.
        let _ = self.wire.try_write(&echo);
        self.expect_gone();
        reason
    }

    /// The relay's own ending: an error frame, then a close with the same code and message.
    #[track_caller]
    pub fn expect_refusal(&mut self, error: &str, code: u16) -> serde_json::Value {
        let refusal = self.hear_json();
        assert_eq!(refusal["error"], error, "{refusal}");
        assert_eq!(refusal["code"], code, "{refusal}");
        assert_eq!(refusal["source"], "relay", "{refusal}");
        assert!(refusal["retryable"].is_boolean(), "{refusal}");
        assert!(refusal["request_id"].is_string(), "{refusal}");
        let reason = self.expect_close(code);
        let message = refusal["message"].as_str().expect("a message");
        assert!(
            reason.len() <= 123 && message.starts_with(&reason),
            "{reason:?} of {message:?}"
        );
        assert!(!reason.is_empty(), "a reason that people can read");
        refusal
    }

    /// The relay has left: FIN or RST, with nothing before it.
    #[track_caller]
    pub fn expect_gone(&mut self) {
        match self.event() {
            Event::Eof | Event::Reset => {}
            Event::Frame(frame) => panic!("the end was due, but came {frame:?}"),
        }
    }

    /// Nothing comes for this long.
    #[track_caller]
    pub fn expect_silence(&mut self, duration: Duration) {
        let event = self.wire.event_within(duration);
        assert!(event.is_none(), "silence was due, but came {event:?}");
    }

    /// Everything up to the end: the text messages, and the close frame's code and reason if any.
    #[track_caller]
    pub fn hear_out(&mut self) -> (Vec<String>, Option<(u16, String)>) {
        let (mut texts, mut partial) = (Vec::new(), Vec::new());
        loop {
            match self.event() {
                Event::Frame(frame) if frame.opcode == CLOSE => {
                    let echo = self.dress(Frame::new(CLOSE, &frame.payload)).encode();
                    // As in `expect_close`.
                    let _ = self.wire.try_write(&echo);
                    return (texts, Some(frame.close_parts()));
                }
                Event::Frame(frame) if matches!(frame.opcode, TEXT | CONTINUATION) => {
                    partial.extend(frame.payload);
                    if frame.fin {
                        let text = std::mem::take(&mut partial);
                        texts.push(String::from_utf8(text).expect("text is UTF-8"));
                    }
                }
                Event::Frame(_) => {}
                Event::Eof | Event::Reset => return (texts, None),
            }
        }
    }

    // Leaving.

    pub fn reset(self) {
        self.wire.reset();
    }
}

/// RFC 6455 section 1.3: base64 of the SHA-1 of the key and a fixed GUID.
fn accept_value(key: &str) -> String {
    tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes())
}

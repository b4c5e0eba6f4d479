//! The TLS of one connection, without I/O: records in, plain bytes out, and the other way.

use std::io;
use std::sync::Arc;
use std::task::Poll;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, InvalidMessage};
use tokio::io::ReadBuf;

/// What is left free in a buffer before the encrypted bytes: what is decrypted goes to the front, and
/// the content of a record of the longest kind (RFC 8446 section 5.1) must never reach what has not
/// been decrypted.
pub(super) const HEADROOM_BYTES: usize = 17 * 1024;
/// The most that is kept of what is not whole: the longest handshake message that rustls takes, and a
/// record of the longest kind.
pub(super) const MAX_KEPT_BYTES: usize = (64 + 17) * 1024;
/// The largest `close_notify` under any cipher suite, with room to spare.
const MAX_ALERT_BYTES: usize = 256;

pub(super) struct Records {
    tls: UnbufferedClientConnection,
    /// What came of a record, or of a handshake message of several, whose rest has not come. It never
    /// holds a whole record of the application's data.
    kept: Vec<u8>,
    /// Decrypted bytes that the caller had no room for.
    plain: Vec<u8>,
    plain_taken: usize,
    /// Records of TLS' own that are due to the peer.
    due: Vec<u8>,
    incoming: Incoming,
}

/// How far the work on a buffer has come.
#[derive(Default)]
struct Progress {
    /// What stands before this is done with.
    n_used: usize,
    /// Plain bytes at the front.
    n_plain: usize,
}

/// What is still to come from the peer.
enum Incoming {
    Open,
    /// Its `close_notify` has come.
    Closed,
    Truncated,
    Failed(rustls::Error),
}

impl Records {
    /// Begins a handshake; its first message is due.
    pub(super) fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let mut records = Self {
            tls: UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?,
            kept: Vec::new(),
            plain: Vec::new(),
            plain_taken: 0,
            due: Vec::new(),
            incoming: Incoming::Open,
        };
        records.speak(|_| ())?;
        Ok(records)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    pub(super) fn alpn_protocol(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.incoming, Incoming::Failed(_))
    }

    /// What the next bytes continue.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Takes in what was read into `buffer` behind [`HEADROOM_BYTES`] and as much room as what was kept
    /// needs, and decrypts the records that are whole. Says how many plain bytes stand at the front of
    /// `buffer` then. Failures are told by [`Self::poll_end`].
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> usize {
        debug_assert!(self.plain.is_empty(), "what is left over is taken first");
        buffer[HEADROOM_BYTES..][..self.kept.len()].copy_from_slice(&self.kept);
        let mut progress = Progress {
            n_used: HEADROOM_BYTES,
            n_plain: 0,
        };
        if let Err(error) = self.drive(buffer, &mut progress, |_| ()) {
            self.incoming = Incoming::Failed(error);
        }
        let rest = &buffer[progress.n_used..];
        if rest.len() > MAX_KEPT_BYTES && matches!(self.incoming, Incoming::Open) {
            self.incoming = Incoming::Failed(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        if rest.is_empty() || !matches!(self.incoming, Incoming::Open) {
            self.kept = Vec::new();
        } else {
            self.kept.clear();
            self.kept.reserve_exact(rest.len());
            self.kept.extend_from_slice(rest);
        }
        progress.n_plain
    }

    /// Takes in that no more bytes will come.
    pub(super) fn end(&mut self) {
        if matches!(self.incoming, Incoming::Open) {
            self.incoming = Incoming::Truncated;
        }
    }

    /// Hands out decrypted bytes as far as there is room, and keeps the rest.
    pub(super) fn hand_out(&mut self, plain: &[u8], buf: &mut ReadBuf<'_>) {
        let (now, later) = plain.split_at(plain.len().min(buf.remaining()));
        buf.put_slice(now);
        self.plain.extend_from_slice(later);
    }

    /// Hands out decrypted bytes that were left over; says whether there were any.
    pub(super) fn take_plain(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.plain.is_empty() {
            return false;
        }
        let rest = &self.plain[self.plain_taken..];
        let now = &rest[..rest.len().min(buf.remaining())];
        buf.put_slice(now);
        self.plain_taken += now.len();
        if self.plain_taken == self.plain.len() {
            self.plain = Vec::new();
            self.plain_taken = 0;
        }
        true
    }

    /// Ready when the peer will send no more, and with an error when that is not how it should be.
    pub(super) fn poll_end(&self) -> io::Result<Poll<()>> {
        match &self.incoming {
            Incoming::Open => Ok(Poll::Pending),
            Incoming::Closed => Ok(Poll::Ready(())),
            Incoming::Truncated => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer closed the connection without a TLS close_notify",
            )),
            Incoming::Failed(error) => Err(failed(error.clone())),
        }
    }

    /// Moves the records that are due onto the end of `out`.
    pub(super) fn take_due(&mut self, out: &mut Vec<u8>) {
        if !self.due.is_empty() {
            out.extend_from_slice(&std::mem::take(&mut self.due));
        }
    }

    /// Encrypts all of `plain` into `out`, which has room for it and what TLS adds.
    pub(super) fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> io::Result<usize> {
        let encrypted = self.speak(|traffic| traffic.encrypt(plain, out))?;
        match encrypted {
            Some(Ok(n_encrypted)) => Ok(n_encrypted),
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Appends a `close_notify` to `out`, behind all that is due; nothing where TLS has failed, since
    /// then the peer has been told by an alert.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        let mut alert = [0; MAX_ALERT_BYTES];
        let closed = self.speak(|traffic| traffic.queue_close_notify(&mut alert));
        self.take_due(out);
        if let Ok(Some(Ok(n_bytes))) = closed {
            out.extend_from_slice(&alert[..n_bytes]);
        }
    }

    /// How much memory it owns beside rustls' own.
    #[cfg(test)]
    pub(super) fn n_held(&self) -> usize {
        self.kept.capacity() + self.plain.capacity() + self.due.capacity()
    }

    /// Lets `say` write, unless the connection is closed.
    fn speak<R>(
        &mut self,
        say: impl FnOnce(&mut WriteTraffic<'_, ClientConnectionData>) -> R,
    ) -> io::Result<Option<R>> {
        if let Incoming::Failed(error) = &self.incoming {
            return Err(failed(error.clone()));
        }
        let mut kept = std::mem::take(&mut self.kept);
        let mut progress = Progress::default();
        match self.drive(&mut kept, &mut progress, say) {
            Ok(said) => {
                debug_assert_eq!(progress.n_plain, 0, "no whole record is kept");
                kept.drain(..progress.n_used);
                self.kept = kept;
                Ok(said)
            }
            Err(error) => {
                self.incoming = Incoming::Failed(error.clone());
                Err(failed(error))
            }
        }
    }

    /// Has rustls work through `buffer` until it needs more, and then `say` something if it may.
    fn drive<R>(
        &mut self,
        buffer: &mut [u8],
        progress: &mut Progress,
        say: impl FnOnce(&mut WriteTraffic<'_, ClientConnectionData>) -> R,
    ) -> Result<Option<R>, rustls::Error> {
        loop {
            let (used, rest) = buffer.split_at_mut(progress.n_used);
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(rest);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        let end = progress.n_plain + record.payload.len();
                        match used.get_mut(progress.n_plain..end) {
                            // There is no room only where nothing is received, but said.
                            Some(room) if self.plain.is_empty() => {
                                room.copy_from_slice(record.payload);
                                progress.n_plain = end;
                            }
                            _ => self.plain.extend_from_slice(record.payload),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(encoding)) => encode(encoding, &mut self.due)?,
                Ok(ConnectionState::TransmitTlsData(transmission)) => transmission.done(),
                Ok(ConnectionState::PeerClosed) => self.incoming = Incoming::Closed,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    progress.n_used += discard;
                    return Ok(Some(say(&mut traffic)));
                }
                // Nothing more to do, or nothing more to do before more bytes come.
                Ok(_) => {
                    progress.n_used += discard;
                    return Ok(None);
                }
                Err(error) => {
                    self.collect_alert(&mut rest[discard..]);
                    return Err(error);
                }
            }
            progress.n_used += discard;
        }
    }

    /// Takes the alert that tells the peer of a failure from rustls, which must not look at `bytes`
    /// again: it has seen what is wrong with them.
    fn collect_alert(&mut self, bytes: &mut [u8]) {
        while self.tls.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(encoding)) =
                self.tls.process_tls_records(bytes).state
            else {
                break;
            };
            if encode(encoding, &mut self.due).is_err() {
                break;
            }
        }
    }
}

/// Appends a record of TLS' own to `due`.
fn encode(
    mut encoding: EncodeTlsData<'_, ClientConnectionData>,
    due: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    let start = due.len();
    // The first attempt only asks for the size.
    match encoding.encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => due.resize(start + size.required_size, 0),
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    }
    let encoded = encoding.encode(&mut due[start..]);
    encoded.map_or_else(
        |error| Err(rustls::Error::General(error.to_string())),
        |_| Ok(()),
    )
}

fn failed(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

//! One client session, as the scenarios see it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use xi_relay_benches::ws::{self, Opcode, Reader};

/// Whatever carries a session.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Not random: nobody who could profit from guessing it takes part.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// How long the closing of one session may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Where sessions are opened, and with which credential.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// An open session.
pub(crate) struct Session {
    stream: Box<dyn Io>,
    reader: Reader,
}

/// A message of the client's, framed and masked once for all sessions.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    ws::client_frame(ws::TEXT, message, MASK)
}

impl Session {
    /// Connects and upgrades at `path`, for example what an [`Order`](xi_relay_benches::speech::Order) is written as. `capacity` is
    /// the size of the read buffer.
    pub(crate) async fn open(
        target: &Target,
        path: &(impl Display + ?Sized),
        capacity: usize,
    ) -> Result<Self> {
        let stream = TcpStream::connect(target.address)
            .await
            .context("cannot connect")?;
        stream.set_nodelay(true)?;
        let mut stream: Box<dyn Io> = match &target.tls {
            None => Box::new(stream),
            Some(config) => {
                let name = ServerName::from(target.address.ip());
                Box::new(
                    TlsConnector::from(Arc::clone(config))
                        .connect(name, stream)
                        .await?,
                )
            }
        };
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nxi-api-key: {}\r\n\r\n",
            target.address, target.token
        );
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
        let mut reader = Reader::new(capacity);
        let answer = reader
            .head(&mut stream)
            .await
            .context("no answer to the upgrade")?;
        ensure!(
            answer.starts_with("HTTP/1.1 101"),
            "refused: {}",
            answer.lines().next().unwrap_or_default()
        );
        Ok(Self { stream, reader })
    }

    pub(crate) async fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.stream.write_all(frame).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// The size of the next audio message; `None` once upstream has closed, and has been answered.
    pub(crate) async fn audio(&mut self) -> Result<Option<usize>> {
        loop {
            let Some(frame) = self.reader.frame(&mut self.stream).await? else {
                bail!("ended without a close frame")
            };
            match frame.opcode {
                Opcode::Data => return Ok(Some(frame.len)),
                Opcode::Ping => {
                    self.send(&ws::client_frame(ws::PONG, frame.control(), MASK))
                        .await?
                }
                Opcode::Pong => {}
                Opcode::Close => {
                    let code = frame
                        .control()
                        .get(..2)
                        .map(|code| u16::from_be_bytes([code[0], code[1]]));
                    ensure!(
                        code == Some(1000),
                        "closed with {code:?}: {}",
                        String::from_utf8_lossy(frame.control().get(2..).unwrap_or_default())
                    );
                    self.send(&ws::client_frame(ws::CLOSE, frame.control(), MASK))
                        .await?;
                    return Ok(None);
                }
            }
        }
    }

    /// The next audio message, which must come.
    pub(crate) async fn expect_audio(&mut self) -> Result<usize> {
        self.audio().await?.context("closed where audio was due")
    }

    /// Closes from this side and waits for the peer's last byte.
    pub(crate) async fn close(mut self) -> Result<()> {
        self.send(&ws::client_frame(ws::CLOSE, &1000_u16.to_be_bytes(), MASK))
            .await?;
        self.drained().await
    }

    /// Waits until the peer has closed the connection.
    pub(crate) async fn drained(mut self) -> Result<()> {
        let rest = async { while let Ok(Some(_)) = self.reader.frame(&mut self.stream).await {} };
        timeout(CLOSE_WITHIN, rest)
            .await
            .context("the peer does not close")
    }

    /// Parts the session into its listening half and its speaking half.
    pub(crate) fn split(self) -> (Listener, Speaker) {
        let (from, to) = split(self.stream);
        let speaker = Speaker(Arc::new(Mutex::new(to)));
        (
            Listener {
                from,
                reader: self.reader,
                speaker: speaker.clone(),
            },
            speaker,
        )
    }
}

/// The half of a session that reads, and answers pings.
pub(crate) struct Listener {
    from: ReadHalf<Box<dyn Io>>,
    reader: Reader,
    speaker: Speaker,
}

impl Listener {
    /// The size of the next audio message; an error when there is none to come.
    pub(crate) async fn audio(&mut self) -> Result<usize> {
        loop {
            let frame = self
                .reader
                .frame(&mut self.from)
                .await?
                .context("ended without a close frame")?;
            match frame.opcode {
                Opcode::Data => return Ok(frame.len),
                Opcode::Ping => {
                    self.speaker
                        .send(&ws::client_frame(ws::PONG, frame.control(), MASK))
                        .await?
                }
                Opcode::Pong => {}
                Opcode::Close => bail!(
                    "closed: {}",
                    String::from_utf8_lossy(frame.control().get(2..).unwrap_or_default())
                ),
            }
        }
    }
}

/// The half of a session that writes.
#[derive(Clone)]
pub(crate) struct Speaker(Arc<Mutex<WriteHalf<Box<dyn Io>>>>);

impl Speaker {
    pub(crate) async fn send(&self, frame: &[u8]) -> Result<()> {
        let mut to = self.0.lock().await;
        to.write_all(frame).await?;
        to.flush().await?;
        Ok(())
    }
}

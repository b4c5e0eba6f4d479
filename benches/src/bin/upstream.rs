//! The fake upstream: ElevenLabs' `stream-input` on the wire, without any speech. What a session
//! gets is ordered in its own query string (see `xi_relay_benches::speech::Order`).

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::Parser;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use xi_relay_benches::speech::{Order, Script, audio_message};
use xi_relay_benches::ws::{self, Frame, Opcode, Reader};
use xi_relay_benches::{precise, tls};

/// Plays ElevenLabs for the proxies under measurement.
#[derive(Parser)]
struct Args {
    /// Where plain connections are taken.
    #[arg(long)]
    plain: SocketAddr,
    /// Where TLS connections are taken.
    #[arg(long)]
    tls: SocketAddr,
    /// Where the certificate to trust is written (PEM).
    #[arg(long)]
    ca: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let acceptor = TlsAcceptor::from(tls::server(&args.ca)?);
    let plain = listen(args.plain)?;
    let encrypted = listen(args.tls)?;
    let frames = Arc::new(Frames::default());
    writeln!(std::io::stdout(), "ready")?;
    loop {
        tokio::select! {
            accepted = plain.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let frames = Arc::clone(&frames);
                // How a session ends is seen, and counted, by the load generator at its other end.
                tokio::spawn(async move { let _ = serve(stream, &frames).await; });
            }
            accepted = encrypted.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let (acceptor, frames) = (acceptor.clone(), Arc::clone(&frames));
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await?;
                    serve(stream, &frames).await
                });
            }
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket
        .bind(address)
        .with_context(|| format!("cannot bind {address}"))?;
    Ok(socket.listen(4096)?)
}

/// Audio frames by size, built once.
#[derive(Default)]
struct Frames(Mutex<HashMap<usize, Bytes>>);

impl Frames {
    fn of(&self, size: usize) -> Result<Bytes> {
        let Ok(mut frames) = self.0.lock() else {
            bail!("another session panicked")
        };
        Ok(frames
            .entry(size)
            .or_insert_with(|| ws::server_frame(ws::TEXT, &audio_message(size)))
            .clone())
    }
}

/// One session from its upgrade to its end. A connection that never sends a head is left alone:
/// it may be one that a relay keeps warm.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, frames: &Frames) -> Result<()> {
    let mut reader = Reader::new(16 * 1024);
    let head = reader.head(&mut stream).await?;
    let header = |wanted: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim())
    };
    let order = head.split(' ').nth(1).and_then(Order::parse);
    let (Some(order), Some(key)) = (order, header("sec-websocket-key")) else {
        stream
            .write_all(
                b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            )
            .await?;
        return Ok(());
    };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {}\r\n\r\n",
        ws::accept_key(key)
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await?;
    play(&mut stream, &mut reader, order, &frames.of(order.size)?).await
}

async fn play<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    reader: &mut Reader,
    order: Order,
    audio: &Bytes,
) -> Result<()> {
    let mut n_messages = 0_u64;
    while let Some(frame) = reader.frame(stream).await? {
        if frame.opcode != Opcode::Data {
            if control(stream, &frame).await? {
                return Ok(());
            }
            continue;
        }
        n_messages += 1;
        match order.script {
            Script::Echo => send(stream, audio).await?,
            Script::Idle if n_messages == 1 => {}
            Script::Idle => send(stream, audio).await?,
            Script::FirstAudio => {
                if order.delay_us > 0 {
                    precise::sleep_until(Instant::now() + Duration::from_micros(order.delay_us))
                        .await;
                }
                send(stream, audio).await?;
            }
            Script::Bulk if n_messages == 1 => {
                for _ in 0..order.count {
                    stream.write_all(audio).await?;
                }
                send(
                    stream,
                    &ws::server_frame(ws::CLOSE, &1000_u16.to_be_bytes()),
                )
                .await?;
            }
            Script::Bulk => {}
            Script::Paced => return paced(stream, reader, order, audio).await,
        }
    }
    Ok(())
}

/// Sends on the clock and answers what comes in, until either side ends it.
async fn paced<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    reader: &mut Reader,
    order: Order,
    audio: &Bytes,
) -> Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut ticks = interval(Duration::from_millis(order.interval_ms.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let ticked = tokio::select! {
            _ = ticks.tick() => true,
            // Nothing is lost when a tick comes first: until its whole header is buffered, a frame is
            // read again from its start, and only control frames come in here, which fit one read.
            frame = reader.frame(&mut from) => {
                let Some(frame) = frame? else { return Ok(()) };
                if control(&mut to, &frame).await? {
                    return Ok(());
                }
                false
            }
        };
        if ticked {
            send(&mut to, audio).await?;
        }
    }
}

/// Answers a control frame; true when the session is over.
async fn control<S: AsyncWrite + Unpin>(stream: &mut S, frame: &Frame) -> Result<bool> {
    match frame.opcode {
        Opcode::Ping => send(stream, &ws::server_frame(ws::PONG, frame.control())).await?,
        Opcode::Close => {
            // The peer may be gone already; either way this was the last word.
            let _ = send(stream, &ws::server_frame(ws::CLOSE, frame.control())).await;
            let _ = stream.shutdown().await;
            return Ok(true);
        }
        Opcode::Data | Opcode::Pong => {}
    }
    Ok(false)
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, frame: &[u8]) -> Result<()> {
    stream.write_all(frame).await?;
    stream.flush().await?;
    Ok(())
}

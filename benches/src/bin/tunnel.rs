//! A blind TCP copy in front of one address. Without a delay it is the least any proxy can do;
//! with one it stands for distance: every byte, each way, arrives half a round trip later.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use xi_relay_benches::precise;

/// Copies TCP connections, at once or as from afar.
#[derive(Parser)]
struct Args {
    /// Where connections are taken.
    #[arg(long)]
    listen: SocketAddr,
    /// Where they go.
    #[arg(long)]
    to: SocketAddr,
    /// Round-trip time to imitate, in milliseconds.
    #[arg(long, default_value_t = 0)]
    rtt_ms: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot bind {}", args.listen))?;
    writeln!(std::io::stdout(), "ready")?;
    loop {
        let (near, _) = listener.accept().await?;
        let (to, rtt) = (args.to, Duration::from_millis(args.rtt_ms));
        // A connection that breaks is noticed at its ends.
        tokio::spawn(async move {
            if rtt.is_zero() {
                copy(near, to).await
            } else {
                copy_late(near, to, rtt).await
            }
        });
    }
}

async fn copy(mut near: TcpStream, to: SocketAddr) -> Result<()> {
    let mut far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}

/// The kernel of this machine has already completed the near side's TCP handshake, which from
/// afar would have taken one round trip; so the first bytes up are held back by that much more.
async fn copy_late(near: TcpStream, to: SocketAddr, rtt: Duration) -> Result<()> {
    let opened = Instant::now();
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (from_near, to_near) = near.into_split();
    let (from_far, to_far) = far.into_split();
    tokio::spawn(late(from_far, to_near, opened, rtt / 2));
    late(from_near, to_far, opened + rtt, rtt / 2).await
}

/// Copies one way, each chunk `delay` after it came in and none before `earliest + delay`.
async fn late(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    earliest: Instant,
    delay: Duration,
) -> Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            // An error ends the copy as an end of stream does; an empty chunk carries it across.
            let n = from.read(&mut buffer).await.unwrap_or(0);
            let due = Instant::now().max(earliest) + delay;
            if sender.send((due, buffer[..n].to_vec())).await.is_err() || n == 0 {
                return;
            }
        }
    });
    while let Some((due, chunk)) = receiver.recv().await {
        precise::sleep_until(due).await;
        if chunk.is_empty() {
            to.shutdown().await?;
        } else {
            to.write_all(&chunk).await?;
        }
    }
    Ok(())
}

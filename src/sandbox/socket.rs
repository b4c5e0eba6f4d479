//! One conversation on one socket: reads messages, sends replies when they are due.

use std::future::pending;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::conversation::Conversation;
use super::player::{Out, Player};
use super::refusal::Refusal;

/// The largest message that is taken, in bytes.
const MAX_MESSAGE: usize = 256 * 1024;
/// A peer that takes nothing for so long is dropped.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the peer's own close frame is waited for.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

type Socket = WebSocketStream<TcpStream>;

/// Why a socket is done.
enum Done {
    /// Close it with that frame, if with any.
    Close(Option<(u16, String)>),
    /// Reset TCP.
    Cut,
    /// The peer is gone, or is to be left without a close frame.
    Gone,
}

/// Takes over an upgraded connection until it ends.
pub(super) async fn drive(
    upgrade: OnUpgrade,
    mut conversation: Box<dyn Conversation>,
    mut player: Player,
    shutdown: CancellationToken,
) {
    // A client that left before it got its 101 leaves nothing to do.
    let Ok(upgraded) = upgrade.await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        return;
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let (tcp, read) = (parts.io.into_inner(), parts.read_buf.to_vec());
    let mut socket =
        WebSocketStream::from_partially_read(tcp, read, Role::Server, Some(config)).await;
    match converse(&mut socket, conversation.as_mut(), &mut player, &shutdown).await {
        Done::Close(frame) => close(socket, frame).await,
        Done::Cut => {
            // Lingering for no time turns the close into a reset. If the socket is already dead,
            // there is nothing left to reset.
            let _ = socket2::SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO));
        }
        Done::Gone => {}
    }
}

async fn converse(
    socket: &mut Socket,
    conversation: &mut dyn Conversation,
    player: &mut Player,
    shutdown: &CancellationToken,
) -> Done {
    loop {
        let now = now();
        while let Some(out) = player.pop(now) {
            if let Err(done) = send(socket, conversation, out).await {
                return done;
            }
        }
        // A client whose messages are not being read is not silent.
        let has_room = player.has_room();
        let deadline = conversation
            .deadline()
            .filter(|_| has_room && !player.is_stalled());
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                return Done::Close(Some((1012, "The sandbox stops.".to_owned())));
            }
            message = socket.next(), if has_room => match message {
                Some(Ok(message)) => on_message(message, conversation, player),
                Some(Err(error)) => return on_error(&error),
                None => return Done::Gone,
            },
            () = until(player.next_due(now)) => {}
            () = until(deadline) => {
                let now = self::now();
                player.push(now, conversation.on_deadline(now));
            }
        }
    }
}

fn on_message(message: Message, conversation: &mut dyn Conversation, player: &mut Player) {
    let now = now();
    match message {
        Message::Text(text) => player.push(now, conversation.on_message(now, &text)),
        Message::Binary(_) => {
            let refusal = Refusal::invalid_message("Messages must be text.");
            player.push(now, vec![refusal.fail()]);
        }
        // tungstenite answers pings and closes by itself.
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
    }
}

/// The close that the peer has earned by its fault (RFC 6455 section 7.4.1).
fn on_error(error: &Error) -> Done {
    let code = match error {
        Error::Protocol(_) => 1002,
        Error::Utf8(_) => 1007,
        Error::Capacity(_) => 1009,
        _ => return Done::Gone,
    };
    Done::Close(Some((code, String::new())))
}

async fn send(
    socket: &mut Socket,
    conversation: &mut dyn Conversation,
    out: Out,
) -> Result<(), Done> {
    let (message, last) = match out {
        Out::Text(text) => (Message::text(text), None),
        Out::Last(lane, text) => (Message::text(text), Some(lane)),
        Out::Binary(bytes) => (Message::binary(bytes), None),
        // Stands for a close frame without a code, and must not be sent (RFC 6455 section 7.4.1).
        Out::Close { code: 1005, .. } => return Err(Done::Close(None)),
        Out::Close { code, reason } => return Err(Done::Close(Some((code, reason)))),
        Out::Cut => return Err(Done::Cut),
        Out::Drop => return Err(Done::Gone),
    };
    match timeout(WRITE_DEADLINE, socket.send(message)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => return Err(Done::Gone),
    }
    if let Some(lane) = last {
        conversation.on_last_sent(lane);
    }
    Ok(())
}

async fn close(mut socket: Socket, frame: Option<(u16, String)>) {
    let frame = frame.map(|(code, reason)| CloseFrame {
        code: code.into(),
        reason: reason.into(),
    });
    let handshake = async {
        if socket.close(frame).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    // Past the deadline the connection is dropped, close frame answered or not.
    let _ = timeout(CLOSE_DEADLINE, handshake).await;
}

/// The runtime's clock, which tests may pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

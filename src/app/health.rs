//! `xi-relay health`: asks a running relay whether it is ready, for images without a shell.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The whole question may take so long.
pub(super) const LIMIT: Duration = Duration::from_secs(3);

/// Asks `/readyz` of the operator's side.
///
/// # Errors
/// Why the relay is not ready, or why it cannot be asked.
pub(super) fn ask(operator: SocketAddr, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut stream = TcpStream::connect_timeout(&operator, limit)
        .with_context(|| format!("nothing answers at {operator}"))?;
    stream.set_write_timeout(Some(limit))?;
    // In one piece: a server may answer and close after the first.
    let question = format!("GET /readyz HTTP/1.1\r\nHost: {operator}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes())?;

    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    let (status, head_length) = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() > 16 * 1024 {
            bail!("{operator} did not answer within {} s", limit.as_secs_f32());
        }
        stream.set_read_timeout(Some(left))?;
        let length = match stream.read(&mut chunk) {
            Ok(0) => bail!("{operator} closed without an answer"),
            Ok(length) => length,
            // The deadline above says it better.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).context(format!("{operator} does not answer")),
        };
        answer.extend_from_slice(&chunk[..length]);
        if let Some(found) = head(&answer).with_context(|| format!("{operator} speaks no HTTP"))? {
            break found;
        }
    };
    if status == 200 {
        return Ok(());
    }
    // One short line of the relay's own, when it came along.
    let body = String::from_utf8_lossy(&answer[head_length..]);
    bail!(
        "status {status} {}",
        body.lines().next().unwrap_or_default()
    );
}

/// The status and the length of the head, once the head is whole.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    Ok(match response.parse(bytes)? {
        httparse::Status::Complete(length) => response.code.map(|code| (code, length)),
        httparse::Status::Partial => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test is the point")]

    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Asks a server that says `pieces`, one write each, and then closes.
    fn asked(pieces: &'static [&'static str]) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 1024];
            let length = stream.read(&mut question).unwrap();
            for piece in pieces {
                stream.write_all(piece.as_bytes()).unwrap();
            }
            String::from_utf8_lossy(&question[..length]).into_owned()
        });
        let answer = ask(address, Duration::from_secs(10));
        let question = server.join().unwrap();
        answer
            .map(|()| question)
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_ready_relay_is_healthy() {
        let question = asked(&["HTTP/1.1 200 OK\r\ncontent-", "length: 6\r\n\r\nready\n"]).unwrap();
        assert!(
            question.starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"),
            "{question}"
        );
    }

    #[test]
    fn anything_else_is_not() {
        let draining = asked(&["HTTP/1.1 503 Busy\r\n\r\nnot ready: draining\n"]).unwrap_err();
        assert_eq!(draining, "status 503 not ready: draining");
        assert!(
            asked(&["SSH-2.0-x\r\n"])
                .unwrap_err()
                .contains("speaks no HTTP")
        );
        assert!(asked(&[]).unwrap_err().contains("closed without an answer"));
    }

    #[test]
    fn a_silent_or_absent_server_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let error = ask(address, Duration::from_millis(50)).unwrap_err();
        assert!(
            error.to_string().contains("did not answer within"),
            "{error:#}"
        );
        drop(listener);
        let error = ask(address, Duration::from_secs(10)).unwrap_err();
        assert!(
            error.to_string().contains("nothing answers at"),
            "{error:#}"
        );
    }
}

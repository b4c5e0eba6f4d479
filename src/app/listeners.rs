//! The listening sockets, bound before anything else is started.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;

use anyhow::{Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Bind;

/// How many connections may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 1024;

/// Listens on an address that the settings name with `key`.
///
/// # Errors
/// One line that names the cause and the cure.
pub(super) fn listen(key: &str, bind: Bind) -> Result<TcpListener> {
    first(bind.0)
        .and_then(listening)
        .map_err(|error| explained(key, bind, &error))
}

/// Listens on an address with a socket for each worker, among which the kernel spreads the
/// connections; with a single one where it does not.
///
/// # Errors
/// As those of [`listen`].
pub(super) fn listen_for_workers(
    key: &str,
    bind: Bind,
    n_workers: NonZeroUsize,
) -> Result<Vec<TcpListener>> {
    // The first is bound as if it were the only one, so that an address that is in use already, be
    // it by another relay, is refused. Whoever binds it later with SO_REUSEPORT shares it.
    let sockets = first(bind.0).and_then(|first| {
        let others = others(&first, n_workers.get() - 1).unwrap_or_default();
        std::iter::once(first)
            .chain(others)
            .map(listening)
            .collect()
    });
    sockets.map_err(|error| explained(key, bind, &error))
}

fn first(address: SocketAddr) -> io::Result<Socket> {
    let socket = unbound(address)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sockets that share the address of `first`, of which some port may have been asked for.
fn others(first: &Socket, n_others: usize) -> io::Result<Vec<Socket>> {
    // Elsewhere the option exists as well, but does not spread connections.
    if !cfg!(target_os = "linux") || n_others == 0 {
        return Ok(Vec::new());
    }
    let address = first.local_addr()?;
    let address = address.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    first.set_reuse_port(true)?;
    let other = || {
        let socket = unbound(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    (0..n_others).map(|_| other()).collect()
}

fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM;
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    // A relay that is started again may listen although connections of the last one linger.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listening(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn explained(key: &str, bind: Bind, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "{bind} is in use already: stop what listens there, or set `{key}` to another address"
        ),
        _ => anyhow!("cannot listen on {bind}: {error}; set `{key}` to an address of this machine"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    const TWO: NonZeroUsize = NonZeroUsize::new(2).expect("2 is not 0");

    fn bind(address: &str) -> Bind {
        Bind(address.parse().unwrap())
    }

    #[test]
    fn the_listeners_of_all_workers_share_a_port() {
        for any_port in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listeners) = listen_for_workers("key", bind(any_port), TWO) else {
                // Not every machine has IPv6.
                assert_eq!(any_port, "[::1]:0");
                continue;
            };
            let addresses = listeners.iter().map(|socket| socket.local_addr().unwrap());
            let mut addresses: Vec<SocketAddr> = addresses.collect();
            assert_eq!(
                addresses.len(),
                if cfg!(target_os = "linux") { 2 } else { 1 }
            );
            addresses.dedup();
            assert_eq!(addresses.len(), 1, "{addresses:?}");
        }
    }

    #[test]
    fn an_address_in_use_is_refused_whoever_uses_it() {
        let listeners = listen_for_workers("key", bind("127.0.0.1:0"), TWO).unwrap();
        let alone = listen("key", bind("127.0.0.1:0")).unwrap();
        for taken in [&listeners[0], &alone] {
            let taken = taken.local_addr().unwrap().to_string();
            let refused = [
                listen_for_workers("the.key", bind(&taken), TWO).map(drop),
                listen("the.key", bind(&taken)).map(drop),
            ];
            for refused in refused {
                let said = refused.unwrap_err().to_string();
                assert!(said.starts_with(&format!("{taken} is in use")), "{said}");
                assert!(said.contains("`the.key`"), "{said}");
            }
        }
    }
}

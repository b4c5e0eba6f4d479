//! Options of the relay's sockets, read off the sockets themselves.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::support::{TestRelay, Upstream, session};

/// Nagle's algorithm against delayed acknowledgements costs 40 ms a message.
#[test]
fn both_legs_send_small_frames_at_once() {
    let upstream = Upstream::start();
    // A connection that is just being warmed may not have its options yet.
    let relay = TestRelay::start(upstream.address, "[upstream.warm]\nmax = 0\n");
    let (mut client, _conn) = session(&relay, &upstream);
    let client_port = client.wire().stream().local_addr().unwrap().port();
    let mut legs = HashSet::new();
    for (_, socket) in tcp_sockets(&relay) {
        let Some(peer) = socket
            .peer_addr()
            .ok()
            .and_then(|address| address.as_socket())
        else {
            continue; // A listener has no peer.
        };
        for (leg, port) in [
            ("client", client_port),
            ("upstream", upstream.address.port()),
        ] {
            if peer.port() == port {
                assert!(
                    socket.tcp_nodelay().unwrap(),
                    "Nagle is on towards the {leg}"
                );
                if leg == "client" {
                    // Nothing is paced on the way to a client on the same machine.
                    let congestion = socket.tcp_congestion().unwrap();
                    assert!(congestion.starts_with(b"reno"), "{congestion:?}");
                }
                legs.insert(leg);
            }
        }
    }
    assert_eq!(legs, HashSet::from(["client", "upstream"]));
}

/// A socket wakes the thread whose runtime waits for it, so the two of a session must wait together:
/// no frame may wake a second thread. Some of these sessions use a warm connection.
#[test]
fn a_session_belongs_to_one_worker() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let sessions: Vec<_> = (0..12).map(|_| session(&relay, &upstream)).collect();
    let (mut to_clients, mut to_upstream) = (HashMap::new(), HashMap::new());
    for (fd, socket) in tcp_sockets(&relay) {
        let port = |address: std::io::Result<socket2::SockAddr>| {
            address.ok()?.as_socket().map(|address| address.port())
        };
        if let (Some(own), Some(peer)) = (port(socket.local_addr()), port(socket.peer_addr())) {
            to_clients.insert(peer, fd);
            to_upstream.insert(own, fd);
        }
    }
    let waits_in = waits_in(&relay);
    for (mut client, mut conn) in sessions {
        let port_of_client = client.wire().stream().local_addr().unwrap().port();
        let port_to_upstream = conn.wire().stream().peer_addr().unwrap().port();
        let worker = waits_in[&to_clients[&port_of_client]];
        assert_eq!(waits_in[&to_upstream[&port_to_upstream]], worker);
    }
}

/// For each descriptor of the relay's process, the `epoll` in which it is waited for.
fn waits_in(relay: &TestRelay) -> HashMap<i32, i32> {
    let dir = format!("/proc/{}/fdinfo", relay.pid());
    let mut waits_in = HashMap::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let epoll: i32 = entry.file_name().to_string_lossy().parse().unwrap();
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let waiting = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
        for line in waiting {
            let fd = line.split_whitespace().next().unwrap();
            waits_in.insert(fd.parse().unwrap(), epoll);
        }
    }
    waits_in
}

/// Copies of all TCP sockets of the relay's process, with their descriptors there.
fn tcp_sockets(relay: &TestRelay) -> Vec<(i32, socket2::Socket)> {
    let dir = format!("/proc/{}/fd", relay.pid());
    let fds = fs::read_dir(dir).unwrap().flatten().filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        let is_socket = target.to_string_lossy().starts_with("socket:");
        is_socket.then(|| entry.file_name().to_string_lossy().parse::<i32>().ok())?
    });
    let pidfd = pidfd_open(relay.pid());
    fds.map(|fd| (fd, socket2::Socket::from(pidfd_getfd(&pidfd, fd))))
        .filter(|(_, socket)| {
            socket
                .r#type()
                .is_ok_and(|kind| kind == socket2::Type::STREAM)
        })
        .collect()
}

#[expect(unsafe_code, reason = "libc has no safe wrapper for pidfd_open(2)")]
fn pidfd_open(pid: u32) -> OwnedFd {
    // SAFETY: the call takes plain numbers, and the descriptor it gives is ours alone.
    unsafe { owned(libc::syscall(libc::SYS_pidfd_open, pid, 0)) }
}

#[expect(unsafe_code, reason = "libc has no safe wrapper for pidfd_getfd(2)")]
fn pidfd_getfd(process: &OwnedFd, fd: i32) -> OwnedFd {
    use std::os::fd::AsRawFd;
    // SAFETY: as above; `process` lives through the call.
    unsafe {
        owned(libc::syscall(
            libc::SYS_pidfd_getfd,
            process.as_raw_fd(),
            fd,
            0,
        ))
    }
}

#[expect(
    unsafe_code,
    reason = "takes ownership of a descriptor that a system call returned"
)]
unsafe fn owned(returned: libc::c_long) -> OwnedFd {
    assert!(returned >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the caller passes a descriptor that the kernel has just made.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(returned).expect("a descriptor is an int")) }
}

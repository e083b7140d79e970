//! Listening sockets: one per worker and address, which share the port by `SO_REUSEPORT`.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
};

use socket2::{Domain, Protocol, Socket, Type};
#[cfg(target_os = "linux")]
use socket2::{SockFilter, SockRef};

/// The number of connections per listener that the kernel completes before a worker accepts them.
pub const BACKLOG: i32 = 1024;

/// The reason that an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {source}{}", advice(source))]
pub struct ListenError {
    pub address: SocketAddr,
    /// The key of `routes.yaml` that has the address.
    pub key: &'static str,
    #[source]
    pub source: io::Error,
}

/// Binds `address` once per worker, and returns the bound address. With port 0 the first socket picks the port and the
/// others join it.
///
/// # Errors
/// The address is taken, does not belong to this machine, or needs a privilege.
pub fn bind_shared(
    address: SocketAddr,
    key: &'static str,
    workers: usize,
) -> Result<(SocketAddr, Vec<TcpListener>), ListenError> {
    let failed = |source| ListenError { address, key, source };
    // SO_REUSEPORT would let a second gateway of the same user join silently and take half of the connections. A plain bind
    // first shows whether another process listens there.
    drop(bind(address, false).map_err(failed)?);
    let first = bind(address, true).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let mut listeners = vec![first];
    while listeners.len() < workers {
        listeners.push(bind(bound, true).map_err(failed)?);
    }
    Ok((bound, listeners))
}

/// Binds a further socket beside the ones that share this address.
///
/// # Errors
/// The other sockets do not share it, or belong to another user.
pub fn bind_beside(bound: SocketAddr) -> io::Result<TcpListener> {
    bind(bound, true)
}

/// Binds an address for a single listener, such as the admin listener.
///
/// # Errors
/// As [`bind_shared`].
pub fn bind_single(address: SocketAddr, key: &'static str) -> Result<TcpListener, ListenError> {
    bind(address, false).map_err(|source| ListenError { address, key, source })
}

/// Stops new handshakes on a listener, while those that have begun may end and be accepted.
///
/// Closing a listener resets every connection that the kernel has completed and the worker has not accepted, although the
/// client sees it as accepted. So a drain first drops SYN segments with a socket filter (classic BPF on the TCP header),
/// then takes what is in the queue, and closes last. A client whose SYN was dropped sends it again, and is refused then.
///
/// # Errors
/// The kernel does not take the filter. The drain may then reset a connection that arrives within a few microseconds.
#[cfg(target_os = "linux")]
pub fn refuse_handshakes(listener: &impl AsFd) -> io::Result<()> {
    SockRef::from(listener).attach_filter(&SYN_DROPPED)
}

/// # Errors
/// Always: there is no such filter on this system.
#[cfg(not(target_os = "linux"))]
pub fn refuse_handshakes(_listener: &impl AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The filter reads the segment from its TCP header on. RFC 9293 §3.1: the flags are byte 13, SYN 0x02, ACK 0x10.
#[cfg(target_os = "linux")]
const SYN_DROPPED: [SockFilter; 5] = [
    SockFilter::new(LOAD_BYTE, 0, 0, 13),
    SockFilter::new(AND, 0, 0, 0x12),
    SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0x02),
    SockFilter::new(RETURN, 0, 0, 0),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
];
// linux/bpf_common.h: LD|B|ABS, ALU|AND|K, JMP|JEQ|K, RET|K.
#[cfg(target_os = "linux")]
const LOAD_BYTE: u16 = 0x30;
#[cfg(target_os = "linux")]
const AND: u16 = 0x54;
#[cfg(target_os = "linux")]
const JUMP_IF_EQUAL: u16 = 0x15;
#[cfg(target_os = "linux")]
const RETURN: u16 = 0x06;

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the TIME_WAIT of earlier connections.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
        for_clients(&socket)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets the options of client connections. On Linux, an accepted socket takes them from its listener, which saves two system calls for
/// each.
fn for_clients(listener: &Socket) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    listener.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
}

/// The unsent bytes that the kernel may buffer for a client, beyond those that are on their way to it. By default the kernel
/// would keep up to 4 MiB, and take no more before a third of that is gone: a client that reads 20 KB per second would look
/// for a minute like a client that reads nothing. With 512 KiB, twice the largest read for it, the kernel takes more bytes for
/// such a client after thirteen seconds. Measured over loopback, the median of nine rounds on a busy machine: a client that
/// stops reading leaves 539 KiB here instead of 4,049; a response of 1 GiB takes as long as without a limit (factor 0.93)
/// and 6 % more CPU time of the gateway; with 128 KiB it would be 37 % more.
const UNSENT_BYTES_MAX: u32 = 512 * 1024;

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process listens there: stop it, or choose another port in the configuration"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_one_port() {
        let (bound, listeners) = bind_shared("127.0.0.1:0".parse().unwrap(), "listen.http", 3).unwrap();
        assert_eq!(listeners.len(), 3);
        assert!(listeners.iter().all(|l| l.local_addr().unwrap() == bound));
    }

    #[test]
    fn an_accepted_connection_has_the_options_of_its_listener() {
        let (bound, listeners) = bind_shared("127.0.0.1:0".parse().unwrap(), "listen.http", 1).unwrap();
        let _client = std::net::TcpStream::connect(bound).unwrap();
        listeners[0].set_nonblocking(false).unwrap();
        let (accepted, _) = listeners[0].accept().unwrap();
        let accepted = socket2::SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), UNSENT_BYTES_MAX);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_connected_is_accepted_and_nobody_new_connects() {
        let (bound, listeners) = bind_shared("127.0.0.1:0".parse().unwrap(), "listen.http", 1).unwrap();
        let before = std::net::TcpStream::connect(bound).unwrap();
        refuse_handshakes(&listeners[0]).unwrap();
        let late = std::net::TcpStream::connect_timeout(&bound, std::time::Duration::from_millis(100));
        assert!(late.is_err(), "the SYN is dropped");
        let (_, peer) = listeners[0].accept().unwrap();
        assert_eq!(peer, before.local_addr().unwrap());
    }

    #[test]
    fn a_port_that_another_gateway_shares_is_refused_with_advice() {
        let (bound, _kept) = bind_shared("127.0.0.1:0".parse().unwrap(), "listen.http", 1).unwrap();
        let error = bind_shared(bound, "listen.http", 1).unwrap_err().to_string();
        assert!(error.contains("listen.http") && error.contains("another process listens there"), "{error}");
    }
}

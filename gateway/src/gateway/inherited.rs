//! Listening sockets that this process has not bound itself: those of its predecessor ([`super::handover`]), or of systemd
//! (socket activation, `sd_listen_fds(3)`).
//!
//! A listener of the configuration takes the sockets of its address. Each worker's socket has a queue of its own in the kernel, so
//! all sockets of an address are used, whatever the number of workers is now: none of the clients in the queues is lost.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use listenfd::ListenFd;
use socket2::SockRef;

/// Sockets by address.
#[derive(Debug, Default)]
pub struct Inherited {
    groups: Vec<Group>,
}

/// The sockets of one address.
#[derive(Debug)]
pub(super) struct Group {
    /// The address as it was written; with port 0 it is not the one that was bound.
    pub(super) written: SocketAddr,
    pub(super) bound: SocketAddr,
    pub(super) sockets: Vec<TcpListener>,
    /// The service manager keeps the sockets open when this process ends.
    pub(super) is_lent: bool,
}

impl Inherited {
    /// The sockets that systemd has opened for this process; none without socket activation.
    ///
    /// # Errors
    /// One of them is not a listening socket of TCP.
    pub fn from_systemd() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut inherited = Self::default();
        for at in 0..passed.len() {
            if let Some(socket) = passed.take_tcp_listener(at)? {
                let bound = socket.local_addr()?;
                inherited.add(bound, socket, true)?;
            }
        }
        Ok(inherited)
    }

    /// Adds a socket to those of its address.
    pub(super) fn add(&mut self, written: SocketAddr, socket: TcpListener, is_lent: bool) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        match self.groups.iter_mut().find(|group| group.bound == bound) {
            Some(group) => group.sockets.push(socket),
            None => self.groups.push(Group { written, bound, sockets: vec![socket], is_lent }),
        }
        Ok(())
    }

    /// Takes the sockets for a listener of the configuration.
    pub(super) fn take(&mut self, address: SocketAddr) -> Option<Group> {
        let is_it = |group: &Group| group.bound == address || group.written == address;
        let at = self.groups.iter().position(is_it)?;
        Some(self.groups.remove(at))
    }

    /// The addresses that no listener has taken, of sockets that the service manager has opened.
    pub(super) fn not_taken(&self) -> Vec<SocketAddr> {
        self.groups.iter().filter(|group| group.is_lent).map(|group| group.bound).collect()
    }
}

impl Group {
    /// At least one socket for each worker. Workers without one of their own get a socket beside the others, where that is possible,
    /// and otherwise a duplicate of one, so that they accept from the same queue.
    pub(super) fn for_workers(
        self,
        workers: usize,
        bind_beside: impl Fn(SocketAddr) -> io::Result<TcpListener>,
    ) -> io::Result<Vec<TcpListener>> {
        let Self { bound, mut sockets, .. } = self;
        let has_own_queues = sockets.iter().all(|socket| SockRef::from(socket).reuse_port().unwrap_or(false));
        let mut next = 0;
        while sockets.len() < workers {
            let beside = if has_own_queues { bind_beside(bound).ok() } else { None };
            let more = match beside {
                Some(socket) => socket,
                None => sockets.get(next).map_or_else(|| bind_beside(bound), TcpListener::try_clone)?,
            };
            next += 1;
            sockets.push(more);
        }
        Ok(sockets)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::worker_thread::listen::{bind_beside, bind_shared};

    fn inherited(written: &str, sockets: usize) -> (SocketAddr, Inherited) {
        let (bound, sockets) = bind_shared("127.0.0.1:0".parse().unwrap(), "listen.http", sockets).unwrap();
        let mut inherited = Inherited::default();
        for socket in sockets {
            inherited.add(written.parse().unwrap(), socket, false).unwrap();
        }
        (bound, inherited)
    }

    #[test]
    fn a_listener_takes_the_sockets_of_its_address_as_written_or_as_bound() {
        for as_bound in [false, true] {
            let (bound, mut inherited) = inherited("127.0.0.1:0", 2);
            assert!(inherited.take("127.0.0.1:1".parse().unwrap()).is_none());
            let address = if as_bound { bound } else { "127.0.0.1:0".parse().unwrap() };
            assert_eq!(inherited.take(address).unwrap().sockets.len(), 2);
            assert!(inherited.take(address).is_none());
        }
    }

    #[test]
    fn every_socket_is_used_and_every_worker_has_one() {
        for (sockets, workers) in [(2, 2), (4, 2), (2, 4), (1, 3)] {
            let (bound, mut inherited) = inherited("127.0.0.1:0", sockets);
            let group = inherited.take(bound).unwrap();
            let all = group.for_workers(workers, bind_beside).unwrap();
            assert_eq!(all.len(), sockets.max(workers));
            assert!(all.iter().all(|socket| socket.local_addr().unwrap() == bound));
        }
    }

    #[test]
    fn workers_share_the_queue_of_a_socket_that_no_other_can_be_bound_beside() {
        let alone = TcpListener::bind("127.0.0.1:0").unwrap();
        let bound = alone.local_addr().unwrap();
        let mut inherited = Inherited::default();
        inherited.add(bound, alone, true).unwrap();
        assert_eq!(inherited.not_taken(), [bound]);
        let all = inherited.take(bound).unwrap().for_workers(2, bind_beside).unwrap();
        let _client = TcpStream::connect(bound).unwrap();
        let accepted = loop {
            if let Ok(accepted) = all[1].accept() {
                break accepted;
            }
            std::thread::yield_now();
        };
        assert_eq!(accepted.1.ip(), bound.ip());
        assert_eq!(all[0].accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

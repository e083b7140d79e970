//! The old process's half of a binary upgrade ([`super::handover`]): it collects its sockets and starts the new process.

use std::{io, net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use socket2::SockRef;
use tokio::sync::oneshot;

use super::{
    Gateway,
    handover::{Handed, HandoverError, Successor},
};
use crate::worker::Command;

/// A new process that is ready to serve. Dropping it ends the process.
pub struct ReadySuccessor {
    process: Successor,
    has: Arc<[SocketAddr]>,
}

impl ReadySuccessor {
    /// The number of the process.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Lets the new process accept connections. Returns the addresses whose sockets it has: [`Gateway::give_way`] is next.
    ///
    /// # Errors
    /// The new process has ended.
    pub fn take_over(self) -> Result<Arc<[SocketAddr]>, HandoverError> {
        self.process.take_over()?;
        Ok(self.has)
    }
}

impl Gateway {
    /// Starts the program anew, and hands it the listening sockets. Returns when the new process is ready. Dropping the future ends
    /// the new process.
    ///
    /// # Errors
    /// The program cannot be started, or does not get ready. This process serves as before.
    pub async fn start_successor(&self) -> Result<ReadySuccessor, HandoverError> {
        let process = Successor::start(&self.duplicates().await?)?;
        let guard = EndsUnlessReady(process.pid().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)));
        let waiting = tokio::task::spawn_blocking(move || process.ready());
        let ready = waiting.await.map_err(io::Error::other);
        guard.disarm();
        let (process, has) = ready??;
        Ok(ReadySuccessor { process, has })
    }

    /// Duplicates of all listening sockets.
    async fn duplicates(&self) -> Result<Vec<Handed>, HandoverError> {
        let mut sockets: Vec<OwnedFd> = Vec::new();
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            let asked = async {
                worker.send(Command::Duplicate(reply)).await.ok()?;
                answer.await.ok()
            };
            let answered = tokio::time::timeout(ANSWER_MAX, asked).await.ok().flatten();
            sockets.extend(answered.ok_or_else(|| io::Error::other("a worker does not answer"))??);
        }
        if let Some(admin) = &self.admin_socket {
            sockets.push(admin.try_clone()?.into());
        }
        let named = sockets.into_iter().filter_map(|socket| {
            let bound = SockRef::from(&socket).local_addr().ok()?.as_socket()?;
            let open = self.addresses.iter().find(|open| open.bound == bound)?;
            Some(Handed { written: open.written, is_lent: open.is_lent, socket })
        });
        Ok(named.collect())
    }

    /// The addresses whose sockets came from another process.
    pub fn inherited(&self) -> Vec<SocketAddr> {
        self.addresses.iter().filter(|open| open.is_inherited).map(|open| open.bound).collect()
    }
}

/// Ends the new process if nobody waits for it any more.
struct EndsUnlessReady(Option<Pid>);

impl EndsUnlessReady {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for EndsUnlessReady {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// The longest time that a worker may take to answer. It is behind what it does at the moment, which is never long.
const ANSWER_MAX: Duration = Duration::from_secs(5);

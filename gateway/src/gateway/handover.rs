//! The binary upgrade: a running gateway starts a new program and hands it its listening sockets, and drains when the new one is
//! ready.
//!
//! The two talk over a Unix socket pair, which is the standard input of the new process. So there is no path that someone else could
//! connect to, and each learns at once when the other one ends. Each message is one JSON value ([`Message`]):
//!
//! 1. the old process sends its sockets, with `SCM_RIGHTS` (`unix(7)`), and says that these are all;
//! 2. the new one makes itself ready without accepting a connection, and says so, with the addresses that it has taken;
//! 3. the old one says that the new one serves from now on, and drains.
//!
//! Both have the same sockets, so a client that connects meanwhile waits in the kernel's queue until one of them accepts it. If the
//! new process ends, or is not ready within [`READY_MAX`], the old one goes on as if nothing had happened. If the old one ends before
//! its last word, the new one ends, too: someone has stopped the gateway.

use std::{
    ffi::OsString,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::{
    cmsg_space,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
        socketpair, sockopt,
    },
};
use serde::{Deserialize, Serialize};

use super::inherited::Inherited;

/// The variable that tells a process that its standard input is the way to its predecessor.
pub const VARIABLE: &str = "MILLGATE_HANDOVER";
/// The new process may take so long until it is ready. It includes its wait for the registry and for keys.
pub const READY_MAX: Duration = Duration::from_mins(1);
/// The new process waits so long for the registry and for keys. A gateway that knows nothing must not take over.
pub const SYNCED_MAX: Duration = Duration::from_secs(45);
/// Sockets of one message: the kernel allows 253 (`SCM_MAX_FD`).
const SOCKETS_MAX: usize = 64;
/// The largest message; one with [`SOCKETS_MAX`] addresses has 8 KiB.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// What the two processes tell each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// The sockets that come with the message, in this order.
    Sockets(Vec<Named>),
    AllSent,
    /// The new process is ready, and has taken the sockets of these addresses.
    Ready {
        taken: Vec<SocketAddr>,
    },
    /// The new process serves from now on.
    TakeOver,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Named {
    written: SocketAddr,
    is_lent: bool,
}

/// A listening socket that is handed over.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) written: SocketAddr,
    pub(super) is_lent: bool,
    pub(super) socket: OwnedFd,
}

/// Why an upgrade did not take place. The old process goes on.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("`{}` cannot be started: {source}", program.display())]
    Start { program: std::path::PathBuf, source: io::Error },
    #[error("the new process has ended ({0}) before it was ready; its messages say why")]
    Ended(ExitStatus),
    #[error("the new process was not ready after {}", humantime::format_duration(READY_MAX))]
    Late,
    #[error("the sockets cannot be handed over: {0}")]
    Channel(#[from] io::Error),
}

/// The new process, as the old one sees it. Dropping it before it has taken over ends it.
#[derive(Debug)]
pub struct Successor {
    child: Option<Child>,
    channel: OwnedFd,
}

impl Successor {
    /// Starts the program of this process anew, with its arguments, and sends it the sockets.
    pub(super) fn start(sockets: &[Handed]) -> Result<Self, HandoverError> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            // Messages have borders, so that each socket stays with its message.
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(io::Error::from)?;
        let mut arguments = std::env::args_os();
        // As it was called: a link leads to the new version then, and `current_exe` to the old one.
        let program = arguments.next().unwrap_or_else(|| OsString::from("millgate"));
        let child = Command::new(&program)
            .args(arguments)
            .env(VARIABLE, "1")
            // Those are for this process: its number is in them, or its files.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(theirs))
            .spawn()
            .map_err(|source| HandoverError::Start { program: program.into(), source })?;
        let successor = Self { child: Some(child), channel: ours };
        match successor.send(sockets) {
            Err(error) if is_end(&error) => Err(successor.ended()),
            sent => Ok(sent.map(|()| successor)?),
        }
    }

    fn send(&self, sockets: &[Handed]) -> io::Result<()> {
        for some in sockets.chunks(SOCKETS_MAX) {
            let named = some
                .iter()
                .map(|Handed { written, is_lent, .. }| Named { written: *written, is_lent: *is_lent });
            let files: Vec<BorrowedFd<'_>> = some.iter().map(|handed| handed.socket.as_fd()).collect();
            send(&self.channel, &Message::Sockets(named.collect()), &files)?;
        }
        send(&self.channel, &Message::AllSent, &[])
    }

    /// The new process has closed its end of the channel, which it does by ending.
    fn ended(mut self) -> HandoverError {
        match self.child.take().map(|mut child| child.wait()) {
            Some(Ok(status)) => HandoverError::Ended(status),
            Some(Err(error)) => error.into(),
            None => HandoverError::Late,
        }
    }

    /// The number of the new process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Waits until the new process is ready, and returns the addresses that it has taken. It blocks.
    pub(super) fn ready(self) -> Result<(Self, Arc<[SocketAddr]>), HandoverError> {
        sockopt::set_socket_timeout(&self.channel, sockopt::Timeout::Recv, Some(READY_MAX))
            .map_err(io::Error::from)?;
        match receive(&self.channel) {
            Ok(Some((Message::Ready { taken }, _))) => Ok((self, taken.into())),
            Ok(Some(_)) => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            Ok(None) => Err(self.ended()),
            Err(error) if is_end(&error) => Err(self.ended()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(HandoverError::Late),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the new process that it serves from now on.
    pub(super) fn take_over(mut self) -> Result<(), HandoverError> {
        send(&self.channel, &Message::TakeOver, &[])?;
        // It lives on without this process.
        self.child = None;
        Ok(())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The old process, as the new one sees it.
#[derive(Debug)]
pub struct Predecessor {
    channel: OwnedFd,
}

impl Predecessor {
    /// The process that has started this one for an upgrade. `None`: it was started in any other way.
    ///
    /// # Errors
    /// The variable is set, and standard input is no way to a predecessor.
    pub fn of_this_process() -> io::Result<Option<Self>> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let channel = io::stdin().as_fd().try_clone_to_owned()?;
        if sockopt::socket_type(&channel) != Ok(SocketType::SEQPACKET) {
            return Err(io::Error::other(format!(
                "{VARIABLE} is set, which a gateway sets for the process that it hands its sockets to; unset it"
            )));
        }
        Ok(Some(Self { channel }))
    }

    /// The sockets of the old process. It blocks until they have come.
    ///
    /// # Errors
    /// The old process has ended, or is of a version that says something else.
    pub fn sockets(&self) -> io::Result<Inherited> {
        let mut inherited = Inherited::default();
        loop {
            match receive(&self.channel)? {
                Some((Message::Sockets(named), files)) if named.len() == files.len() => {
                    for (Named { written, is_lent }, file) in named.into_iter().zip(files) {
                        inherited.add(written, TcpListener::from(file), is_lent)?;
                    }
                }
                Some((Message::AllSent, _)) => return Ok(inherited),
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Tells the old process that this one is ready, and waits for its last word. It blocks.
    ///
    /// # Errors
    /// The old process has ended before, or has given up waiting.
    pub fn replace(self, taken: Vec<SocketAddr>) -> io::Result<()> {
        send(&self.channel, &Message::Ready { taken }, &[])?;
        match receive(&self.channel)? {
            Some((Message::TakeOver, _)) => Ok(()),
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Whether the other process has ended. What it has not read becomes a reset.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn send(channel: &OwnedFd, message: &Message, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(channel, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message. `None`: the other process has ended.
fn receive(channel: &OwnedFd) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        match recvmsg(channel, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            files.extend(more);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message is too long, or this process may open no more files",
        ));
    }
    let message = serde_json::from_slice(bytes.get(..received.bytes).unwrap_or_default())?;
    Ok(Some((message, files)))
}

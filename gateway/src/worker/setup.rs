//! What a worker needs to start, and the commands that it receives.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::Hints;
use crate::{
    access_log::LogSink, downstream::Refusal, file_account::FileAccount, listen::Listener,
    metrics::WorkerSample, snapshot::Publisher,
};

/// The largest number of commands that wait for a worker. The control plane sends one at a time.
pub const COMMANDS_MAX: usize = 16;

/// A command from the control plane to a worker.
pub enum Command {
    Sample(oneshot::Sender<WorkerSample>),
    /// Send the last refusals below admission, which no access log contains.
    Refusals(oneshot::Sender<Vec<Refusal>>),
    /// Accept connections from these sockets.
    Accept(Vec<(TcpListener, Listener)>),
    /// Send duplicates of the listening sockets, for another process.
    Duplicate(oneshot::Sender<io::Result<Vec<OwnedFd>>>),
    /// Answer at once: the worker's loop goes round.
    Ping(oneshot::Sender<()>),
    /// Let all connections know in the course of this time that they are closing, and go on serving.
    Retire(Duration),
    /// Begin no new connection at sockets that no other process goes on with, and send their ports.
    RefuseHandshakes {
        kept: Arc<[SocketAddr]>,
        done: oneshot::Sender<Vec<u16>>,
    },
    /// Stop accepting, finish what is in flight, and answer when nothing is left or when `timeout` is over.
    Drain {
        timeout: Duration,
        /// Addresses whose sockets another process goes on with.
        kept: Arc<[SocketAddr]>,
        done: oneshot::Sender<Drained>,
    },
}

/// What was left when a drain ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Drained {
    /// The number of connections closed because the time was over.
    pub cut: usize,
}

/// What a worker thread needs to start.
pub struct WorkerSetup {
    pub index: usize,
    pub publisher: Arc<Publisher>,
    pub commands: mpsc::Receiver<Command>,
    pub hints: Hints,
    pub log: Option<LogSink>,
    /// The account of the whole process.
    pub files: Arc<FileAccount>,
}

//! What a worker is started with, and the commands that it gets.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::Hints;
use crate::{
    access_log::LogSink, admission::Scheme, downstream::Refusal, file_account::FileAccount,
    metrics::WorkerSample, snapshot::Publisher,
};

/// Commands waiting for a worker; the control plane sends one at a time.
pub const COMMANDS_MAX: usize = 16;

/// What the control plane asks of a worker.
pub enum Command {
    Sample(oneshot::Sender<WorkerSample>),
    /// The last refusals that no access log has.
    Refusals(oneshot::Sender<Vec<Refusal>>),
    /// Stop accepting, finish what is in flight, answer when done or when the time is over.
    Drain {
        timeout: Duration,
        done: oneshot::Sender<Drained>,
    },
}

/// What was left when a drain ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Drained {
    /// Connections closed because the time was over.
    pub cut: usize,
}

/// What a worker thread is started with.
pub struct WorkerSetup {
    pub index: usize,
    pub publisher: Arc<Publisher>,
    pub listeners: Vec<(std::net::TcpListener, Scheme)>,
    pub commands: mpsc::Receiver<Command>,
    pub hints: Hints,
    pub log: Option<LogSink>,
    /// Of the process.
    pub files: Arc<FileAccount>,
}

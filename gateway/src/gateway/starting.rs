//! The parts that a gateway binds and starts: its sockets, the access log, the workers, and the thread of the
//! control plane.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
};

use tokio::sync::mpsc;

use super::StartError;
use crate::{
    access_log::LogSink,
    admission::Scheme,
    config::settings::{AccessLogFormat, Settings},
    control::{
        Controller,
        admin::{self, Admin},
        event::Event,
    },
    file_account::FileAccount,
    snapshot::Publisher,
    worker::{COMMANDS_MAX, Command, Hints, WorkerSetup},
    worker_thread::{
        self,
        listen::{bind_shared, bind_single},
    },
};

/// The sockets of a gateway by protocol, bound before any thread is started.
pub(super) struct Bound {
    pub(super) http: Vec<SocketAddr>,
    pub(super) https: Option<SocketAddr>,
    pub(super) admin: Option<(SocketAddr, TcpListener)>,
    /// Listening sockets by worker.
    pub(super) listeners: Vec<Vec<(TcpListener, Scheme)>>,
}

pub(super) fn bind(settings: &Settings) -> Result<Bound, StartError> {
    let workers = settings.workers;
    let mut bound = Bound {
        http: Vec::new(),
        https: None,
        admin: None,
        listeners: (0..workers).map(|_| Vec::new()).collect(),
    };
    for address in &settings.listen.http {
        let (real, sockets) = bind_shared(*address, "listen.http", workers)?;
        bound.http.push(real);
        spread(&mut bound.listeners, sockets, Scheme::Http);
    }
    if let Some(https) = &settings.listen.https {
        let (real, sockets) = bind_shared(https.bind, "listen.https", workers)?;
        bound.https = Some(real);
        spread(&mut bound.listeners, sockets, Scheme::Https);
    }
    if let Some(address) = settings.listen.admin {
        let listener = bind_single(address, "listen.admin")?;
        let real =
            listener.local_addr().map_err(|source| StartError::System { what: "listen.admin", source })?;
        bound.admin = Some((real, listener));
    }
    Ok(bound)
}

fn spread(workers: &mut [Vec<(TcpListener, Scheme)>], sockets: Vec<TcpListener>, scheme: Scheme) {
    for (worker, socket) in workers.iter_mut().zip(sockets) {
        worker.push((socket, scheme));
    }
}

pub(super) fn start_log(
    settings: &Settings,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<Option<LogSink>, StartError> {
    if settings.access_log.format == AccessLogFormat::Off {
        return Ok(None);
    }
    let (sink, thread) = LogSink::start(settings.access_log.file.clone())
        .map_err(|source| StartError::System { what: "the access log cannot be opened", source })?;
    threads.push(thread);
    Ok(Some(sink))
}

/// The values with which all workers are started.
pub(super) struct DataPlane<'a> {
    pub(super) publisher: &'a Arc<Publisher>,
    pub(super) log: Option<&'a LogSink>,
    pub(super) hints: Hints,
    pub(super) files: &'a Arc<FileAccount>,
}

pub(super) fn start_workers(
    listeners: Vec<Vec<(TcpListener, Scheme)>>,
    data: &DataPlane<'_>,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<Vec<mpsc::Sender<Command>>, StartError> {
    let mut commands = Vec::new();
    for (index, listeners) in listeners.into_iter().enumerate() {
        let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
        let setup = WorkerSetup {
            index,
            publisher: Arc::clone(data.publisher),
            listeners,
            commands: receiver,
            hints: data.hints.clone(),
            log: data.log.cloned(),
            files: Arc::clone(data.files),
        };
        let thread = worker_thread::start(setup)
            .map_err(|source| StartError::System { what: "a worker cannot start", source })?;
        threads.push(thread);
        commands.push(sender);
    }
    Ok(commands)
}

pub(super) fn start_control(
    controller: Controller,
    events: mpsc::Receiver<Event>,
    admin: Admin,
    listener: Option<TcpListener>,
) -> Result<JoinHandle<()>, StartError> {
    let failed = |source| StartError::System { what: "the control plane cannot start", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            runtime.block_on(async move {
                if let Some(listener) = listener {
                    tokio::spawn(async move {
                        if let Err(error) = admin::serve(listener, admin).await {
                            tracing::error!(%error, "the admin listener ended");
                        }
                    });
                }
                Box::pin(controller.run(events)).await;
            });
            // A name look-up may hang for a long time in the resolver, and its result is not needed any more.
            runtime.shutdown_background();
        })
        .map_err(failed)
}

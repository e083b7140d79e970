//! The parts that a gateway binds and starts: its sockets, the access log, the workers, and the thread of the
//! control plane.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{StartError, inherited::Inherited};
use crate::{
    access_log::LogSink,
    admission::Scheme,
    config::settings::{AccessLogFormat, Settings},
    control::{
        Controller,
        admin::{self, Admin},
        event::Event,
        metrics::{Exporter, Sources},
        status::Status,
    },
    file_account::FileAccount,
    listen::{HttpSettings, Listener},
    policy::rate_limit::KeyBudget,
    proxy_protocol::ProxyProtocol,
    snapshot::Publisher,
    worker::{COMMANDS_MAX, Command, Hints, WorkerSetup},
    worker_thread::{
        self,
        listen::{ListenError, bind_beside, bind_shared, bind_single},
    },
};

/// One address on which a gateway accepts clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// Several addresses may belong to the same one.
    pub listener: Listener,
    /// With the port that was bound.
    pub address: SocketAddr,
}

impl Listening {
    /// What the admin listener shows of it.
    pub(super) fn json(&self) -> Value {
        json!({ "name": *self.listener.name, "url": self.url(), "proxy_protocol": self.listener.proxy_protocol.as_str() })
    }

    /// The URL of the address.
    pub fn url(&self) -> String {
        format!("{}://{}", self.listener.scheme.as_str(), self.address)
    }
}

/// The sockets of a gateway, bound or inherited before any thread is started.
pub(super) struct Bound {
    pub(super) clients: Vec<Listening>,
    pub(super) admin: Option<(SocketAddr, TcpListener)>,
    /// Listening sockets by worker.
    pub(super) listeners: Vec<Vec<(TcpListener, Listener)>>,
    pub(super) addresses: Vec<OpenAddress>,
}

/// An address that is listened on.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenAddress {
    pub(super) written: SocketAddr,
    pub(super) bound: SocketAddr,
    /// The socket is not this process's own but the service manager's.
    pub(super) is_lent: bool,
    pub(super) is_inherited: bool,
}

pub(super) fn bind(settings: &Settings, mut inherited: Inherited) -> Result<Bound, StartError> {
    let workers = settings.workers;
    let mut bound = Bound {
        clients: Vec::new(),
        admin: None,
        listeners: (0..workers).map(|_| Vec::new()).collect(),
        addresses: Vec::new(),
    };
    let listen = &settings.listen;
    let http = listen.http.iter().map(|http| {
        let HttpSettings { name, bind, proxy_protocol } = http;
        ("listen.http", bind, listener(name, Scheme::Http, *proxy_protocol))
    });
    let https = listen.https.iter().map(|https| {
        ("listen.https", &https.bind, listener(&https.name, Scheme::Https, https.proxy_protocol))
    });
    for (key, bind, listener) in http.chain(https) {
        let (place, sockets) = open(*bind, key, workers, &mut inherited)?;
        bound.addresses.push(place);
        spread(&mut bound.listeners, sockets, &listener);
        bound.clients.push(Listening { listener, address: place.bound });
    }
    if let Some(address) = settings.listen.admin {
        let (place, listener) = open_single(address, "listen.admin", &mut inherited)?;
        bound.addresses.push(place);
        bound.admin = Some((place.bound, listener));
    }
    match inherited.not_taken()[..] {
        [] => Ok(bound),
        [address, ..] => Err(StartError::SocketNotTaken(address)),
    }
}

/// The sockets for a listener of all workers: inherited ones, or new ones.
fn open(
    written: SocketAddr,
    key: &'static str,
    workers: usize,
    inherited: &mut Inherited,
) -> Result<(OpenAddress, Vec<TcpListener>), ListenError> {
    let Some(group) = inherited.take(written) else {
        let (bound, sockets) = bind_shared(written, key, workers)?;
        return Ok((OpenAddress { written, bound, is_lent: false, is_inherited: false }, sockets));
    };
    let place = OpenAddress { written, bound: group.bound, is_lent: group.is_lent, is_inherited: true };
    let sockets = group.for_workers(workers, bind_beside);
    Ok((place, sockets.map_err(|source| ListenError { address: written, key, source })?))
}

/// The socket for a listener that is not of the workers.
fn open_single(
    written: SocketAddr,
    key: &'static str,
    inherited: &mut Inherited,
) -> Result<(OpenAddress, TcpListener), ListenError> {
    let failed = |source| ListenError { address: written, key, source };
    let group = inherited.take(written);
    let (is_lent, is_inherited) = (group.as_ref().is_some_and(|group| group.is_lent), group.is_some());
    let listener = match group.and_then(|mut group| group.sockets.pop()) {
        Some(listener) => listener,
        None => bind_single(written, key)?,
    };
    let bound = listener.local_addr().map_err(failed)?;
    Ok((OpenAddress { written, bound, is_lent, is_inherited }, listener))
}

/// Every socket gets a worker, and every worker at least one socket.
fn spread(workers: &mut [Vec<(TcpListener, Listener)>], sockets: Vec<TcpListener>, listener: &Listener) {
    let number = workers.len().max(1);
    for (at, socket) in sockets.into_iter().enumerate() {
        if let Some(worker) = workers.get_mut(at % number) {
            worker.push((socket, listener.clone()));
        }
    }
}

fn listener(name: &Arc<str>, scheme: Scheme, proxy_protocol: ProxyProtocol) -> Listener {
    Listener { name: Arc::clone(name), scheme, proxy_protocol }
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
    number: usize,
    data: &DataPlane<'_>,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<Vec<mpsc::Sender<Command>>, StartError> {
    let mut commands = Vec::new();
    for index in 0..number {
        let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
        let setup = WorkerSetup {
            index,
            publisher: Arc::clone(data.publisher),
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

/// What the admin listener shows.
pub(super) fn admin_views(
    (publisher, status): &(Arc<Publisher>, Arc<Status>),
    clients: &[Listening],
    (workers, budget, files): (&[mpsc::Sender<Command>], &Arc<KeyBudget>, Arc<FileAccount>),
    config: String,
) -> Result<Admin, StartError> {
    let (publisher, status) = (Arc::clone(publisher), Arc::clone(status));
    let exporter = Exporter::new(Sources {
        workers: workers.to_vec(),
        publisher: Arc::clone(&publisher),
        status: Arc::clone(&status),
        budget: Arc::clone(budget),
        files,
        admin: Arc::default(),
    })?;
    let listeners = clients.iter().map(Listening::json).collect();
    Ok(Admin { publisher, status, exporter, config, listeners })
}

/// The admin listener, the ways to begin and to end its accepting, and its socket for a successor.
pub(super) struct AdminDoor {
    pub(super) listener: Option<AdminListener>,
    pub(super) opens: oneshot::Sender<()>,
    pub(super) ends: oneshot::Sender<()>,
    pub(super) socket: Option<TcpListener>,
}

impl AdminDoor {
    pub(super) fn of(bound: Option<(SocketAddr, TcpListener)>) -> (Option<SocketAddr>, Self) {
        let (address, socket) = bound.unzip();
        let (opens, is_open) = oneshot::channel();
        let (ends, is_over) = oneshot::channel();
        let duplicate = socket.as_ref().and_then(|socket| socket.try_clone().ok());
        let listener = socket.map(|socket| AdminListener { socket, opens: is_open, ends: is_over });
        (address, Self { listener, opens, ends, socket: duplicate })
    }
}

/// The socket of the admin listener, and the signals to begin and to end accepting.
pub(super) struct AdminListener {
    pub(super) socket: TcpListener,
    pub(super) opens: oneshot::Receiver<()>,
    pub(super) ends: oneshot::Receiver<()>,
}

pub(super) fn start_control(
    controller: Controller,
    events: mpsc::Receiver<Event>,
    admin: Admin,
    listener: Option<AdminListener>,
) -> Result<JoinHandle<()>, StartError> {
    let failed = |source| StartError::System { what: "the control plane cannot start", source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            runtime.block_on(async move {
                if let Some(AdminListener { socket, opens, ends }) = listener {
                    tokio::spawn(async move {
                        if opens.await.is_err() {
                            return;
                        }
                        let until = async {
                            if ends.await.is_err() {
                                std::future::pending::<()>().await;
                            }
                        };
                        if let Err(error) = admin::serve((socket, until), admin).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_gets_a_worker_and_no_worker_is_left_out() {
        for (workers, sockets, expected) in [(1, 3, &[3][..]), (2, 3, &[2, 1]), (3, 3, &[1, 1, 1])] {
            let sockets = (0..sockets).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let mut listeners: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
            spread(&mut listeners, sockets, &Listener::cleartext());
            assert_eq!(listeners.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        }
    }
}

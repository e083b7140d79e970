//! One worker without sockets, on which tests and benches measure the cost of a request. Not a part of the interface.
//!
//! Client, gateway and service are tasks of one thread, and the bytes between them stay in memory. Client and service
//! use the same buffers again and again, so after the first requests only the gateway and the libraries that it calls
//! allocate.

use std::{io, path::Path, rc::Rc, sync::Arc, thread::JoinHandle};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::{LocalOptions, LocalRuntime},
    sync::mpsc,
};

use crate::{
    access_log::LogSink,
    auth::jwt,
    clock,
    config::{
        load,
        settings::{AccessLogFormat, Settings},
    },
    connection,
    control::{declared::DeclaredRoutes, keys::kept::KeptKeys},
    file_account::FileAccount,
    gateway::first::{Known, first_snapshot},
    policy::rate_limit::KeyBudget,
    snapshot::{Publisher, Snapshot},
    upstream::connect,
    worker::{COMMANDS_MAX, Command, Hint, WorkerSetup, WorkerState},
};

/// The service's answer to every request.
pub const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 120\r\n\
    date: Tue, 24 Nov 2026 17:19:55 GMT\r\n\r\n\
    {\"id\":7,\"name\":\"An item with a name of any length\",\"price\":\"12.50\",\"currency\":\"EUR\",\
    \"tags\":[\"one\",\"two\",\"three\",\"four\"]}";

/// Compiles a configuration as the gateway does when it starts. Relative file names in it are relative to `dir`.
///
/// # Errors
/// The configuration is wrong; the text is the report of all findings.
pub fn compile(routes_yaml: &str, dir: &Path) -> Result<(Settings, Snapshot), String> {
    jwt::install_crypto_provider();
    let loaded =
        load::parse("routes.yaml", routes_yaml, dir, &|_| None).map_err(|report| report.to_string())?;
    let budget = Arc::new(KeyBudget::new(loaded.settings.rate_keys_max, clock::now()));
    let mut declared = DeclaredRoutes::default();
    let nothing = Known { instances: None, keys: &KeptKeys::default() };
    let (_, snapshot, _) =
        first_snapshot(&loaded, &mut declared, &nothing, &budget).map_err(|error| error.to_string())?;
    Ok((loaded.settings, snapshot))
}

/// A worker, one client connection to it, and one idle connection to each endpoint. All endpoints answer with
/// [`ANSWER`].
pub struct Harness {
    client: DuplexStream,
    answer: Box<[u8]>,
    runtime: LocalRuntime,
    /// Kept, because a worker whose control plane is gone is not what is measured.
    _control: mpsc::Sender<Command>,
    _log: Option<JoinHandle<()>>,
}

impl Harness {
    /// # Errors
    /// The configuration is wrong, or the system does not give a runtime or the log's thread.
    pub fn new(routes_yaml: &str, dir: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| error.to_string();
        let Prepared { setup, control, log } = Prepared::new(routes_yaml, dir)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .map_err(failed)?;
        let client = runtime.block_on(async { connect_all(&setup) });
        let answer = vec![0; MESSAGE_BYTES_MAX].into_boxed_slice();
        Ok(Self { client, answer, runtime, _control: control, _log: log })
    }

    /// Sends one request and returns the whole response: its head, and its content, which must have a
    /// `Content-Length`.
    ///
    /// # Errors
    /// The gateway has closed the connection, or the response is larger than 64 KiB.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        let Self { client, answer, runtime, .. } = self;
        let bytes = runtime.block_on(async {
            client.write_all(request).await?;
            read_message(client, answer).await
        })?;
        Ok(answer.get(..bytes).unwrap_or_default())
    }
}

/// The setup of a worker, and what must live as long as the worker.
pub(crate) struct Prepared {
    pub(crate) setup: WorkerSetup,
    control: mpsc::Sender<Command>,
    log: Option<JoinHandle<()>>,
}

impl Prepared {
    /// Compiles the configuration and makes the setup of a worker for it.
    pub(crate) fn new(routes_yaml: &str, dir: &Path) -> Result<Self, String> {
        let (settings, snapshot) = compile(routes_yaml, dir)?;
        let (sink, log) = match settings.access_log.format {
            AccessLogFormat::Off => (None, None),
            _ => LogSink::start(settings.access_log.file.clone())
                .map(|(sink, thread)| (Some(sink), Some(thread)))
                .map_err(|error| error.to_string())?,
        };
        let (control, commands) = mpsc::channel(COMMANDS_MAX);
        let setup = WorkerSetup {
            index: 0,
            publisher: Arc::new(Publisher::new(snapshot)),
            commands,
            hints: Arc::new(|_: Hint| ()),
            log: sink,
            files: FileAccount::new(crate::compile::file_budget(1024, &settings), 1),
        };
        Ok(Self { setup, control, log })
    }
}

/// A worker with an idle connection to each endpoint. It runs on the runtime that calls this. All endpoints answer with [`ANSWER`].
pub(crate) fn worker_with_endpoints(setup: &WorkerSetup) -> Rc<WorkerState> {
    worker_with(setup, answer_all)
}

/// A worker with an idle connection to each endpoint. `serve` is the service's side of such a connection.
pub(crate) fn worker_with<F: Future<Output = ()> + 'static>(
    setup: &WorkerSetup,
    serve: impl Fn(DuplexStream) -> F,
) -> Rc<WorkerState> {
    let worker = WorkerState::new(setup);
    let now = worker.clock.now();
    for cluster in &worker.snapshot().clusters {
        for endpoint in &cluster.endpoints {
            let (ours, services) = duplex(MESSAGE_BYTES_MAX);
            tokio::task::spawn_local(serve(services));
            connect::over(ours, &endpoint.pool, now).release(true);
        }
    }
    worker
}

/// A connection of a client at 127.0.0.1, for tests of code that needs one.
#[cfg(test)]
pub(crate) fn connection_of(worker: &Rc<WorkerState>) -> Rc<crate::request::ConnectionContext> {
    Rc::new(crate::request::ConnectionContext {
        peer: ([127, 0, 0, 1], 40_000).into(),
        local: None,
        peer_text: http::HeaderValue::from_static("127.0.0.1"),
        handshake: std::cell::OnceCell::new(),
        authority: std::cell::RefCell::default(),
        state: Rc::new(crate::downstream::ConnectionState::new(
            crate::listen::Listener::cleartext(),
            &worker.clock,
        )),
        held: Rc::default(),
        tunnel: std::cell::RefCell::default(),
        worker: Rc::clone(worker),
    })
}

/// A GET of a client at 127.0.0.1.
#[cfg(test)]
pub(crate) fn exchange_of(
    worker: &Rc<WorkerState>,
    started: std::time::Instant,
) -> Box<crate::request::exchange::Exchange> {
    let facts = crate::request::facts::RequestFacts {
        id: crate::request::id::RequestId(http::HeaderValue::from_static("id")),
        started,
        client: [127, 0, 0, 1].into(),
        peer_is_trusted: false,
        method: http::Method::GET,
        version: http::Version::HTTP_11,
        body: crate::request::facts::DeclaredBody::None,
        grpc: None,
    };
    crate::request::exchange::Exchange::new(connection_of(worker), facts, None)
}

/// Connects the worker with every endpoint, and a client with the worker.
fn connect_all(setup: &WorkerSetup) -> DuplexStream {
    let worker = worker_with_endpoints(setup);
    let (client, ours) = duplex(MESSAGE_BYTES_MAX);
    connection::spawn_cleartext(ours, ([127, 0, 0, 1], 40_000).into(), worker);
    client
}

/// The service's side of one connection.
async fn answer_all(mut stream: DuplexStream) {
    let mut request = vec![0; MESSAGE_BYTES_MAX];
    while read_message(&mut stream, &mut request).await.is_ok() {
        if stream.write_all(ANSWER.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads one message into `buffer`, and returns its length in bytes.
async fn read_message(stream: &mut DuplexStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    loop {
        let free = buffer.get_mut(filled..).filter(|free| !free.is_empty());
        match stream.read(free.ok_or(io::ErrorKind::FileTooLarge)?).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
        if buffer.get(..filled).is_some_and(is_complete) {
            return Ok(filled);
        }
    }
}

/// Whether the message is complete. Header names are in lower case, as hyper writes them.
fn is_complete(message: &[u8]) -> bool {
    let Some(head) = memchr::memmem::find(message, b"\r\n\r\n") else { return false };
    let (head, content) = message.split_at(head + 4);
    let length = memchr::memmem::find(head, b"\r\ncontent-length: ").map_or(0, |at| {
        let digits = head.iter().skip(at + 18).take_while(|byte| byte.is_ascii_digit());
        digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
    });
    content.len() >= length
}

/// More than the bytes of any message here.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_through_the_worker_to_the_service_and_back() {
        let routes = "version: 1\nroutes:\n  - {path: GET /items/*, service: items}\n\
            services: {items: {hosts: [\"192.0.2.1:80\", \"192.0.2.2:80\"]}}\naccess_log: {format: off}\n";
        let mut harness = Harness::new(routes, Path::new("")).unwrap();
        for _ in 0..3 {
            let response = harness.exchange(b"GET /items/7 HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
            let response = String::from_utf8_lossy(response);
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            assert!(response.contains("\r\nx-request-id: "), "{response}");
            assert_eq!(response.split("\r\n\r\n").nth(1), ANSWER.split("\r\n\r\n").nth(1));
        }
        let response = harness.exchange(b"GET /nothing HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
        assert!(response.starts_with(b"HTTP/1.1 404 "));
    }
}

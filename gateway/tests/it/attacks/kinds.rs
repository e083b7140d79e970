//! The attackers: floods that come back as often as they are ended, and connections that keep what they have.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use super::{
    protocols::{names, stranger, tunnel},
    rig::Target,
};
use crate::support::frames::{
    CANCEL, CONTINUATION, Cut, END_HEADERS, END_STREAM, Frame, FrameClient, GOAWAY, HEADERS,
    INITIAL_WINDOW_SIZE, PRIORITY, RST_STREAM, Stream, block, data, frame, ping, request, reset, settings,
    window_update,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No attack: what is measured beside it is the noise of the machine.
    Nothing,
    RapidReset,
    PacedReset,
    Ping,
    Settings,
    Priority,
    WindowUpdate,
    EmptyData,
    Continuation,
    HeaderBomb,
    ClosedWindow,
    ByteWindow,
    SlowHead,
    StoppedBody,
    SlowBody,
    Silent,
    Returning,
    Admin,
    IdleTunnel,
    StalledTunnel,
    Stranger,
    Names,
}

impl Kind {
    pub(crate) const ALL: [Self; 22] = [
        Self::Nothing,
        Self::RapidReset,
        Self::PacedReset,
        Self::Ping,
        Self::Settings,
        Self::Priority,
        Self::WindowUpdate,
        Self::EmptyData,
        Self::Continuation,
        Self::HeaderBomb,
        Self::ClosedWindow,
        Self::ByteWindow,
        Self::SlowHead,
        Self::StoppedBody,
        Self::SlowBody,
        Self::Silent,
        Self::Returning,
        Self::Admin,
        Self::IdleTunnel,
        Self::StalledTunnel,
        Self::Stranger,
        Self::Names,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::RapidReset => "rapid reset",
            Self::PacedReset => "paced rapid reset",
            Self::Ping => "PING",
            Self::Settings => "SETTINGS",
            Self::Priority => "PRIORITY",
            Self::WindowUpdate => "WINDOW_UPDATE",
            Self::EmptyData => "empty DATA",
            Self::Continuation => "CONTINUATION",
            Self::HeaderBomb => "header bombs",
            Self::ClosedWindow => "closed windows",
            Self::ByteWindow => "windows of a byte",
            Self::SlowHead => "slow heads",
            Self::StoppedBody => "bodies that stop",
            Self::SlowBody => "slow bodies",
            Self::Silent => "silent connections",
            Self::Returning => "idle ones that return",
            Self::Admin => "admin connections",
            Self::IdleTunnel => "tunnels left idle",
            Self::StalledTunnel => "tunnels unread",
            Self::Stranger => "PROXY of strangers",
            Self::Names => "unknown names",
        }
    }

    /// Of frames, so that it matters how these are cut.
    pub(crate) fn is_http2(self) -> bool {
        self as usize >= Self::RapidReset as usize && self as usize <= Self::ByteWindow as usize
    }

    /// Has to do with one listener only.
    pub(crate) fn is_cleartext(self) -> bool {
        matches!(self, Self::Nothing | Self::Admin | Self::Stranger)
    }

    /// How long an attacker may be there from its first byte on; `None`: for as long as there is room.
    pub(crate) fn bound(self) -> Option<Duration> {
        match self {
            Self::Nothing | Self::Silent | Self::Returning | Self::Admin => None,
            // `listen.header_timeout` of the rig, `timeout.tunnel`, or `timeout.idle` and the second after which the kernel sends a SYN to a
            // service again (it loses one in a thousand here); then the second in which all are gone.
            Self::SlowHead
            | Self::ClosedWindow
            | Self::StoppedBody
            | Self::IdleTunnel
            | Self::StalledTunnel => Some(Duration::from_secs(3)),
            // `timeout.min_rate` looks at ten seconds; then the same second.
            Self::ByteWindow | Self::SlowBody => Some(Duration::from_secs(12)),
            _ => Some(Duration::from_secs(1)),
        }
    }

    /// Connections at a time.
    fn attackers(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Silent | Self::Returning => 1100,
            Self::ClosedWindow | Self::ByteWindow | Self::StalledTunnel => 16,
            Self::SlowHead
            | Self::StoppedBody
            | Self::SlowBody
            | Self::Admin
            | Self::IdleTunnel
            | Self::Stranger => 200,
            _ => 4,
        }
    }

    /// From one attacker to the next: a thousand handshakes in a second, and hundreds of requests at once, are attacks of
    /// another kind.
    fn ramp(self) -> Duration {
        Duration::from_millis(if self.attackers() > 100 { 1 } else { 10 })
    }

    /// Until all attackers are there.
    pub(crate) fn gathers_for(self) -> Duration {
        self.ramp() * u32::try_from(self.attackers()).unwrap()
    }

    /// Comes back when it was ended, as often as this at most; all of them fit into it.
    fn pause(self) -> Duration {
        match self {
            Self::Silent | Self::Admin => Duration::from_hours(1),
            Self::Returning => self.gathers_for(),
            _ => Duration::from_millis(250),
        }
    }
}

/// How it went for the attackers.
#[derive(Debug, Default)]
pub(crate) struct Attacked {
    pub(crate) lives: usize,
    /// The longest from an attacker's first byte to its end.
    pub(crate) longest: Duration,
}

impl Attacked {
    pub(crate) fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.longest = self.longest.max(other.longest);
    }
}

/// Attacks until `over`, and waits until the last attacker is gone.
pub(crate) async fn attack(
    kind: Kind,
    target: Arc<Target>,
    over_tls: bool,
    cut: Cut,
    over: watch::Receiver<bool>,
) -> Attacked {
    let mut attackers = JoinSet::new();
    let began = tokio::time::Instant::now();
    for number in 0..kind.attackers() {
        let (target, mut over) = (Arc::clone(&target), over.clone());
        attackers.spawn_local(async move {
            let mut lives = Vec::new();
            let mut comes = began + kind.ramp() * u32::try_from(number).unwrap();
            let _ = tokio::time::timeout_at(comes, over.wait_for(|over| *over)).await;
            while !*over.borrow() {
                lives.push(life(kind, &target, over_tls, cut, &mut over).await);
                // In its own turn: connections that one sweep has ended must not come back at once, either.
                while comes <= tokio::time::Instant::now() {
                    comes += kind.pause();
                }
                let _ = tokio::time::timeout_at(comes, over.wait_for(|over| *over)).await;
            }
            lives
        });
    }
    let lives = attackers.join_all().await.concat();
    Attacked { lives: lives.len(), longest: lives.into_iter().max().unwrap_or_default() }
}

/// One connection of an attacker; how long it lived.
async fn life(
    kind: Kind,
    target: &Target,
    over_tls: bool,
    cut: Cut,
    over: &mut watch::Receiver<bool>,
) -> Duration {
    let living = async {
        match kind {
            _ if kind.is_http2() => http2(kind, target, over_tls, cut).await,
            Kind::IdleTunnel | Kind::StalledTunnel => tunnel(kind, target, over_tls).await,
            Kind::Stranger => stranger(target).await,
            Kind::Names => names(target).await,
            _ => http1(kind, target, over_tls).await,
        }
    };
    let Some(bound) = kind.bound() else {
        return tokio::select! {
            lived = living => lived,
            _ = over.wait_for(|over| *over) => Duration::ZERO,
        };
    };
    // What is not ended by then is there for ever.
    tokio::time::timeout(bound + PATIENCE, living).await.unwrap_or(NEVER)
}

const PATIENCE: Duration = Duration::from_secs(5);
const NEVER: Duration = Duration::from_secs(999);

async fn http2(kind: Kind, target: &Target, over_tls: bool, cut: Cut) -> Duration {
    let windows = matches!(kind, Kind::ClosedWindow | Kind::ByteWindow).then_some((INITIAL_WINDOW_SIZE, 0));
    let addr = target.listener(over_tls);
    let mut client = if over_tls {
        FrameClient::open_tls(addr, &target.authority, windows.as_slice()).await
    } else {
        FrameClient::open_with(addr, windows.as_slice()).await
    };
    let began = Instant::now();
    match kind {
        Kind::PacedReset => paced_reset(&mut client, cut).await,
        Kind::HeaderBomb => header_bomb(&mut client, cut).await,
        Kind::ClosedWindow => {
            // Few at a time: a burst of requests is a load of its own.
            let requests: Vec<u8> = ids(1, 12).flat_map(|id| client.get(id, "/large")).collect();
            if client.try_send(&requests, cut).await {
                ended(&mut client, 12, |frame| frame.kind == RST_STREAM).await;
            }
        }
        Kind::ByteWindow => {
            let requests: Vec<u8> = ids(1, 12).flat_map(|id| client.get(id, "/large")).collect();
            let grant: Vec<u8> = ids(1, 12).flat_map(|id| window_update(id, 1)).collect();
            let mut left = 12;
            let mut more = client.try_send(&requests, cut).await;
            let mut pace = tokio::time::interval(Duration::from_millis(100));
            while more && left > 0 {
                pace.tick().await;
                more = client.try_send(&grant, cut).await;
                while let Some(frame) = client.next_within(Duration::ZERO).await {
                    more &= frame.as_ref().is_some_and(|frame| frame.kind != GOAWAY);
                    left -= usize::from(frame.is_some_and(|frame| frame.kind == RST_STREAM));
                    if !more {
                        break;
                    }
                }
            }
        }
        _ => {
            let (first, again) = flood(kind, &client);
            return client.flood(&first, cut, again).await.1;
        }
    }
    began.elapsed()
}

/// Twice the budget, and what follows for those that have more.
fn flood(kind: Kind, client: &FrameClient) -> (Vec<u8>, Vec<u8>) {
    let taken_back = |id: u32| [client.get(id, "/silent/x"), reset(id, CANCEL)].concat();
    if kind == Kind::RapidReset {
        return (
            ids(1, 1000).flat_map(taken_back).collect(),
            ids(1001, 10_000).flat_map(taken_back).collect(),
        );
    }
    let one = match kind {
        Kind::Settings => settings(&[]),
        Kind::Priority => frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16]),
        Kind::WindowUpdate => window_update(0, 1),
        Kind::EmptyData => data(1, 0, b""),
        Kind::Continuation => frame(CONTINUATION, 0, 1, b""),
        _ => ping(),
    };
    let head = match kind {
        Kind::Continuation => frame(HEADERS, END_STREAM, 1, b""),
        _ => client.head(1, "POST", "/silent/x", &[]),
    };
    ([head, one.repeat(2000)].concat(), one.repeat(16 * 1024 / one.len()))
}

/// Streams of a client, from the one with this place on.
fn ids(from: u32, count: u32) -> impl Iterator<Item = u32> {
    (from..from + count).map(|place| 2 * place - 1)
}

/// 20 requests, 12 ms, 20 resets, for ever.
async fn paced_reset(client: &mut FrameClient, cut: Cut) {
    let mut pace = tokio::time::interval(Duration::from_millis(12));
    for from in (1..).step_by(20) {
        let requests: Vec<u8> = ids(from, 20).flat_map(|id| client.get(id, "/silent/x")).collect();
        let resets: Vec<u8> = ids(from, 20).flat_map(|id| reset(id, CANCEL)).collect();
        for part in [requests, resets] {
            pace.tick().await;
            if !client.try_send(&part, cut).await {
                return;
            }
        }
    }
}

/// One field that goes to the table of the connection, and 2,800 references to it, a byte each; in 100 streams.
async fn header_bomb(client: &mut FrameClient, cut: Cut) {
    let pseudo = block(&request(client.scheme, "GET", "/silent/x"));
    let entry = [&[0x40, 1, b'a', 16][..], &[b'v'; 16]].concat();
    let bomb = [&pseudo[..], &entry, &[0xbe; 2800]].concat();
    let bombs: Vec<u8> =
        ids(1, 100).flat_map(|id| frame(HEADERS, END_STREAM | END_HEADERS, id, &bomb)).collect();
    if client.try_send(&bombs, cut).await {
        ended(client, 100, |frame| frame.kind == RST_STREAM || frame.flags & END_STREAM != 0).await;
    }
}

/// Reads until so many streams have ended, or the connection.
async fn ended(client: &mut FrameClient, mut streams: usize, is_end: impl Fn(&Frame) -> bool) {
    while streams > 0 {
        match client.next().await {
            Some(frame) if frame.kind == GOAWAY => return,
            Some(frame) => streams -= usize::from(is_end(&frame)),
            None => return,
        }
    }
}

async fn http1(kind: Kind, target: &Target, over_tls: bool) -> Duration {
    let addr = if kind == Kind::Admin { target.admin } else { target.listener(over_tls) };
    // Also without a handshake.
    if kind == Kind::Silent {
        let Ok(mut stream) = TcpStream::connect(addr).await else { return Duration::ZERO };
        let _ = stream.read(&mut [0]).await;
        return Duration::ZERO;
    }
    let Ok(mut stream) = open(addr, over_tls.then_some(&target.tls)).await else { return Duration::ZERO };
    let began = Instant::now();
    let first: &[u8] = match kind {
        Kind::Returning => b"GET /others HTTP/1.1\r\nhost: gw\r\n\r\n",
        Kind::StoppedBody | Kind::SlowBody => {
            b"POST /silent/x HTTP/1.1\r\nhost: gw\r\ncontent-length: 100000\r\n\r\n0123456789"
        }
        _ => b"GET /silent/x HTTP/1.1\r\nhost: gw\r\nx-slow: ",
    };
    let _ = stream.write_all(first).await;
    let is_slow = matches!(kind, Kind::SlowHead | Kind::SlowBody);
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let mut space = [0; 1024];
    loop {
        tokio::select! {
            read = stream.read(&mut space) => if !read.is_ok_and(|read| read > 0) { break },
            _ = pace.tick(), if is_slow => if stream.write_all(b"a").await.is_err() { break },
        }
    }
    began.elapsed()
}

/// An attacker takes what it gets.
pub(super) async fn open(addr: SocketAddr, tls: Option<&TlsConnector>) -> std::io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(addr).await?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    Ok(Box::new(tls.connect(ServerName::try_from("gw").unwrap(), stream).await?))
}

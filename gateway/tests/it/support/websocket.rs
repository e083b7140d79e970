//! A real WebSocket service, and real clients.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async, client_async,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        handshake::server::{ErrorResponse, Request, Response},
        protocol::CloseFrame,
    },
};

use super::{DEADLINE, frames::Stream};

/// How a connection has ended: with the code of a Close frame, with one without a code, or with an error.
type End = Result<Option<u16>, String>;

/// A service that sends back each message, and remembers what it has seen.
pub(crate) struct EchoService {
    pub(crate) addr: SocketAddr,
    handshakes: Arc<Mutex<Vec<(String, HeaderMap)>>>,
    ends: Arc<Mutex<Vec<End>>>,
    task: JoinHandle<()>,
}

impl EchoService {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (handshakes, ends) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (seen, ended) = (Arc::clone(&handshakes), Arc::clone(&ends));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, ended) = (Arc::clone(&seen), Arc::clone(&ended));
                open.spawn(async move {
                    let Some(socket) = accept(stream, &seen).await else { return };
                    let end = echo(socket).await;
                    ended.lock().unwrap().push(end);
                });
            }
        });
        Self { addr, handshakes, ends, task }
    }

    /// Target and fields of the only handshake since the last call.
    pub(crate) fn only_handshake(&self) -> (String, HeaderMap) {
        let mut all = std::mem::take(&mut *self.handshakes.lock().unwrap());
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes.lock().unwrap().len()
    }

    /// How connections have ended.
    pub(crate) fn ends(&self) -> Vec<End> {
        self.ends.lock().unwrap().clone()
    }
}

impl Drop for EchoService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers the handshake: chooses the subprotocol `chat`, if the client offers it.
async fn accept(
    stream: TcpStream,
    seen: &Mutex<Vec<(String, HeaderMap)>>,
) -> Option<WebSocketStream<TcpStream>> {
    let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        seen.lock().unwrap().push((request.uri().to_string(), request.headers().clone()));
        let offered = request.headers().get("sec-websocket-protocol").and_then(|line| line.to_str().ok());
        if offered.is_some_and(|line| line.split(',').any(|name| name.trim() == "chat")) {
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
        }
        Ok(response)
    };
    accept_hdr_async(stream, answer).await.ok()
}

async fn echo(mut socket: WebSocketStream<TcpStream>) -> End {
    loop {
        match socket.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                socket.send(message).await.map_err(|error| error.to_string())?;
            }
            Some(Ok(Message::Close(frame))) => {
                // The answer to the Close frame goes out with the next poll.
                while let Some(Ok(_)) = socket.next().await {}
                return Ok(frame.map(|frame| frame.code.into()));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("end".to_owned()),
        }
    }
}

/// One client.
pub(crate) struct WebSocketClient(WebSocketStream<Box<dyn Stream>>);

impl WebSocketClient {
    /// Opens a WebSocket to this path over a connection. Returns the fields of the answer, too.
    pub(crate) async fn open(
        stream: Box<dyn Stream>,
        path: &str,
        fields: &[(&'static str, &str)],
    ) -> (Self, HeaderMap) {
        Self::try_open(stream, path, fields).await.unwrap()
    }

    /// As [`Self::open`]; the error has the answer to a handshake that was refused.
    pub(crate) async fn try_open(
        stream: Box<dyn Stream>,
        path: &str,
        fields: &[(&'static str, &str)],
    ) -> Result<(Self, HeaderMap), tungstenite::Error> {
        let mut request = format!("ws://gw{path}").into_client_request().unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let (socket, response) =
            tokio::time::timeout(DEADLINE, client_async(request, stream)).await.unwrap()?;
        Ok((Self(socket), response.headers().clone()))
    }

    /// Opens a WebSocket in cleartext.
    pub(crate) async fn open_at(gateway: SocketAddr, path: &str) -> Self {
        Self::open(Box::new(TcpStream::connect(gateway).await.unwrap()), path, &[]).await.0
    }

    /// A client on a stream on which the handshake is over already.
    pub(crate) async fn on(stream: Box<dyn Stream>) -> Self {
        let role = tungstenite::protocol::Role::Client;
        Self(WebSocketStream::from_raw_socket(stream, role, None).await)
    }

    pub(crate) async fn send(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    /// The next message; pings and their answers are left out.
    pub(crate) async fn next(&mut self) -> Result<Message, String> {
        loop {
            let next =
                tokio::time::timeout(DEADLINE, self.0.next()).await.expect("a message comes, or the end");
            match next {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Ok(message),
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("end".to_owned()),
            }
        }
    }

    /// Sends a text, and checks that it comes back.
    pub(crate) async fn echoes(&mut self, text: &str) {
        self.send(Message::text(text)).await;
        assert_eq!(self.next().await, Ok(Message::text(text)));
    }

    /// Closes by the handshake of Close frames, and reads to the end of the connection.
    pub(crate) async fn close(mut self, code: u16) {
        self.0.close(Some(CloseFrame { code: code.into(), reason: "".into() })).await.unwrap();
        assert!(matches!(self.next().await, Ok(Message::Close(_))));
        assert!(self.next().await.is_err());
    }

    /// The code of the Close frame that comes next, and then the connection ends.
    pub(crate) async fn closed_with(mut self) -> u16 {
        let Ok(Message::Close(Some(frame))) = self.next().await else { panic!("no Close frame comes next") };
        assert!(self.next().await.is_err());
        frame.code.into()
    }
}

//! Moves the bytes of one tunnel, in both directions side by side.
//!
//! What is read is written at once, from a buffer that all tunnels of a worker use in turn; only what the other end does not take
//! stays with its tunnel, and then nothing more is read in that direction. So an idle tunnel has no buffer, and one with an end that
//! takes nothing has [`BUFFER_BYTES`] for each direction at most. An end that closes its direction closes it for the other end,
//! which may go on with its own.

use std::{
    cell::RefCell,
    io,
    task::{Context, Poll, ready},
};

use tokio::io::ReadBuf;

use super::{
    TunnelEnd,
    websocket::{Frames, GOING_AWAY, GOING_AWAY_MASKED},
};

/// The bytes under way between two ends.
#[derive(Debug)]
pub(crate) struct Pump {
    to_service: Direction,
    to_client: Direction,
}

/// One direction of a tunnel.
#[derive(Debug)]
struct Direction {
    stage: Stage,
    /// Bytes that the end has not taken yet.
    held: Vec<u8>,
    /// Bytes of these that it has taken.
    taken: usize,
    is_flushed: bool,
    /// Bytes that came.
    bytes: u64,
    /// Bytes that the end has taken.
    delivered: u64,
    /// Where frames end. `None`: the protocol is not WebSocket.
    frames: Option<Frames>,
    /// The Close frame with which the gateway ends the direction.
    farewell: &'static [u8],
    has_farewell: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The gateway has closed the direction with a frame; what still comes is dropped.
    Farewell,
    /// The end that sends has closed; what is held goes out before the other end learns that.
    Ending,
    Over,
}

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PumpEnd {
    /// Both directions were closed.
    Closed,
    /// Reading from the client or writing to it failed.
    ClientGone,
    /// Reading from the service or writing to it failed.
    ServiceGone,
}

/// The end that failed.
enum Fault {
    Sender,
    Receiver,
}

impl Pump {
    /// `is_websocket`: the gateway can close the tunnel by frames. `ahead` are bytes that the service sent behind the head of its
    /// response.
    pub(crate) fn new(is_websocket: bool, ahead: &[u8]) -> Self {
        let direction = |farewell| Direction {
            stage: Stage::Open,
            held: Vec::new(),
            taken: 0,
            is_flushed: true,
            bytes: 0,
            delivered: 0,
            frames: is_websocket.then(Frames::default),
            farewell,
            has_farewell: false,
        };
        let mut to_client = direction(&GOING_AWAY);
        to_client.came(ahead);
        to_client.held = ahead.to_vec();
        Self { to_service: direction(&GOING_AWAY_MASKED), to_client }
    }

    /// Moves as many bytes as the ends give and take. With `is_closing`, WebSocket ends at the next end of a frame; another
    /// protocol goes on.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (client, service): (&mut impl TunnelEnd, &mut impl TunnelEnd),
        is_closing: bool,
    ) -> Poll<PumpEnd> {
        let to_client = self.to_client.poll(cx, service, client, is_closing);
        let to_service = self.to_service.poll(cx, client, service, is_closing);
        let gone = match (&to_client, &to_service) {
            (Poll::Ready(Err(Fault::Receiver)), _) | (_, Poll::Ready(Err(Fault::Sender))) => {
                PumpEnd::ClientGone
            }
            (Poll::Ready(Err(Fault::Sender)), _) | (_, Poll::Ready(Err(Fault::Receiver))) => {
                PumpEnd::ServiceGone
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(PumpEnd::Closed),
            _ => return Poll::Pending,
        };
        // An end that has got all of the other one's bytes may leave in any way.
        Poll::Ready(if self.is_half_closed() { PumpEnd::Closed } else { gone })
    }

    /// Bytes that came from the client.
    pub(crate) fn client_bytes(&self) -> u64 {
        self.to_service.bytes
    }

    /// Bytes that came from the service.
    pub(crate) fn service_bytes(&self) -> u64 {
        self.to_client.bytes
    }

    /// Grows as long as bytes move, in any direction.
    pub(crate) fn moved(&self) -> u64 {
        [&self.to_service, &self.to_client].into_iter().map(|to| to.bytes + to.delivered).sum()
    }

    /// For each direction whose end does not take what is there for it, how much it has taken so far.
    pub(crate) fn blocked(&self) -> [Option<u64>; 2] {
        [&self.to_service, &self.to_client].map(|to| to.is_blocked().then_some(to.delivered))
    }

    /// The gateway has closed a direction by a frame.
    pub(crate) fn says_farewell(&self) -> bool {
        self.to_service.has_farewell || self.to_client.has_farewell
    }

    /// One direction is over, and the other one is not.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.to_service.stage == Stage::Over || self.to_client.stage == Stage::Over
    }
}

impl Direction {
    /// Ready when the direction is over.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl TunnelEnd,
        to: &mut impl TunnelEnd,
        is_closing: bool,
    ) -> Poll<Result<(), Fault>> {
        let mut moved = 0;
        while self.stage != Stage::Over {
            ready!(self.poll_deliver(cx, to)).map_err(|_| Fault::Receiver)?;
            if self.stage == Stage::Ending {
                ready!(to.poll_finish(cx)).map_err(|_| Fault::Receiver)?;
                self.stage = Stage::Over;
                break;
            }
            if is_closing && self.stage == Stage::Open && self.is_between_frames() {
                self.say_farewell();
                continue;
            }
            if moved >= TURN_BYTES_MAX {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            moved += ready!(self.poll_move(cx, from, to, is_closing))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is held, and flushes.
    fn poll_deliver(&mut self, cx: &mut Context<'_>, to: &mut impl TunnelEnd) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.taken..).filter(|rest| !rest.is_empty()) {
            let written = ready!(to.poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken += written;
            self.delivered += written as u64;
            self.is_flushed = false;
        }
        if self.taken > 0 {
            // Its memory is given back: an idle tunnel has none.
            (self.held, self.taken) = (Vec::new(), 0);
        }
        if !self.is_flushed {
            ready!(to.poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// One read, and the write of what came. Returns how many bytes came.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl TunnelEnd,
        to: &mut impl TunnelEnd,
        is_closing: bool,
    ) -> Poll<Result<usize, Fault>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(from.poll_read(cx, &mut buffer)).map_err(|_| Fault::Sender)?;
            let came = buffer.filled();
            if came.is_empty() {
                self.stage = Stage::Ending;
                return Poll::Ready(Ok(0));
            }
            if self.stage == Stage::Farewell {
                self.came(came);
                if self.frames.as_ref().is_some_and(Frames::is_closed) {
                    self.stage = Stage::Ending;
                }
                return Poll::Ready(Ok(came.len()));
            }
            let mut goes = came;
            if is_closing && let Some(end) = self.frames.as_mut().and_then(|frames| frames.pass_to_end(came))
            {
                // What is behind the end of this frame is dropped: a Close frame comes instead.
                goes = came.get(..end).unwrap_or(came);
                self.bytes += goes.len() as u64;
            } else if !is_closing {
                self.came(came);
            } else {
                self.bytes += came.len() as u64;
            }
            let written = match to.poll_write(cx, goes) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Receiver)),
                Poll::Pending => 0,
            };
            self.delivered += written as u64;
            self.is_flushed &= written == 0;
            self.held = goes.get(written..).unwrap_or_default().to_vec();
            Poll::Ready(Ok(came.len()))
        })
    }

    fn came(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(frames) = &mut self.frames {
            frames.pass(bytes);
        }
    }

    /// The gateway may put a frame here.
    fn is_between_frames(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| frames.is_between() && !frames.is_closed())
    }

    fn say_farewell(&mut self) {
        self.held = self.farewell.to_vec();
        self.has_farewell = true;
        self.stage = Stage::Farewell;
    }

    fn is_blocked(&self) -> bool {
        !self.held.is_empty() || !self.is_flushed
    }
}

thread_local! {
    /// What one read brings. Nothing stays in it between two polls.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into_boxed_slice());
}

/// The largest read, and so the most that a direction holds while its end takes nothing: a tunnel that is used for a download
/// reaches a gigabyte per second with it.
const BUFFER_BYTES: usize = 32 * 1024;
/// What one direction moves before other tasks of the worker have a turn.
const TURN_BYTES_MAX: usize = 512 * 1024;

#[cfg(test)]
mod tests;

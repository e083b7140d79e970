//! The client's request body: read once, sent as often as attempts need it.
//!
//! An upload has one end, which is recorded: the client's own, or a failure. Otherwise a service would take what
//! came so far for the whole request. Only END_STREAM ends an HTTP/2 request (RFC 9113 §8.1), and only as many bytes as
//! `Content-Length` promises end one that has it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::SizeHint;

use super::{
    Activity, BodyError, Cause, ClientBody, client::Trailers, held::Share, kept::Kept, request::RequestBody,
};
use crate::{
    clock::Clock,
    headers::RequestTrailers,
    metrics::{Metrics, Rare},
    policy::concurrency::{ConcurrencyLimit, Overloaded},
};

/// The state of a request's body for the sending side; shared with the body while it streams.
pub struct Upload {
    client: RefCell<Client>,
    pub(crate) activity: Rc<Activity>,
    clock: Rc<Clock>,
    metrics: Rc<Metrics>,
    share: Share,
    /// Length in bytes as the client declared it.
    length: Option<u64>,
    /// Longest body that the route accepts.
    max: u64,
    version: Version,
    /// `None`: trailers are dropped.
    trailers: Option<Rc<RequestTrailers>>,
    /// The client waits with its body until it is invited to send it, and no byte of it is read (RFC 9110 §10.1.1).
    is_held: Cell<bool>,
    /// The task that would send the body.
    held_task: RefCell<Option<Waker>>,
    /// Number of the [`RequestBody`] that may read. An older one belongs to an attempt that was given up.
    generation: Cell<u32>,
    /// Bytes that came from the client.
    pub bytes: Cell<u64>,
    /// The time at which the whole body had come from the client.
    pub received: Cell<Option<Instant>>,
    /// Whether the whole body was handed to the upstream connection of the newest attempt.
    pub complete: Cell<bool>,
    /// The reason for which the upload failed.
    pub failure: Cell<Option<BodyError>>,
}

#[derive(Debug)]
struct Client {
    /// `None`: the body has ended.
    body: Option<ClientBody>,
    kept: Kept,
    /// They stay for a retry.
    trailers: Trailers,
}

/// The limits of an upload.
#[derive(Debug, Clone)]
pub struct UploadLimits {
    /// Longest body in bytes that the route accepts. `None`: any length is accepted.
    pub bytes_max: Option<u64>,
    /// Length in bytes up to which the body is held for a retry.
    pub keep_max: u64,
    /// Decides about trailers. `None`: they are dropped.
    pub trailers: Option<Rc<RequestTrailers>>,
}

/// The parts of the worker and the connection that an upload uses.
pub(crate) struct Surroundings {
    pub(crate) clock: Rc<Clock>,
    pub(crate) metrics: Rc<Metrics>,
    /// Bytes of request bodies that are held by the worker, and by the connection.
    pub(crate) held: [Rc<Cell<u64>>; 2],
}

impl Upload {
    /// Begins an upload of `body`.
    pub(crate) fn new(
        body: ClientBody,
        version: Version,
        limits: UploadLimits,
        surroundings: Surroundings,
        activity: Rc<Activity>,
    ) -> Rc<Self> {
        if version == Version::HTTP_2 {
            activity.upload_began();
        }
        let Surroundings { clock, metrics, held } = surroundings;
        Rc::new(Self {
            length: body.length(),
            client: RefCell::new(Client {
                body: Some(body),
                kept: Kept::new(limits.keep_max),
                trailers: None,
            }),
            share: Share::of(held),
            activity,
            clock,
            metrics,
            max: limits.bytes_max.unwrap_or(u64::MAX),
            version,
            trailers: limits.trailers,
            is_held: Cell::new(false),
            held_task: RefCell::default(),
            generation: Cell::new(0),
            bytes: Cell::new(0),
            received: Cell::new(None),
            complete: Cell::new(false),
            failure: Cell::new(None),
        })
    }

    /// Leaves the body with the client, which waits for a 100 (Continue), until [`Upload::invite`].
    pub(crate) fn hold(&self) {
        self.is_held.set(true);
    }

    /// Whether the client has not been invited to send its body.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held.get()
    }

    /// Invites the client to send its body. On HTTP/1.1, hyper sends the 100 when the body is read.
    pub(crate) fn invite(&self) {
        if !self.is_held.replace(false) {
            return;
        }
        if self.version == Version::HTTP_2 {
            self.activity.invite_body();
        }
        if let Some(task) = self.held_task.take() {
            task.wake();
        }
    }

    /// The body again, from its first byte, for another attempt. From now on the body of the attempt before gets no more
    /// bytes. `None`: some of the bytes that were read are no longer held, or the upload has failed.
    pub fn replay(self: &Rc<Self>) -> Option<RequestBody> {
        if !self.can_replay() {
            return None;
        }
        self.generation.set(self.generation.get().wrapping_add(1));
        self.complete.set(false);
        self.activity.request_rests();
        Some(RequestBody::of(Rc::clone(self)))
    }

    /// Whether [`Upload::replay`] would return a body.
    pub fn can_replay(&self) -> bool {
        self.failure.get().is_none() && (self.is_held() || self.client.borrow().kept.is_whole())
    }

    /// No retry will follow: drops the bytes that were held for one.
    pub fn release(&self) {
        let mut client = self.client.borrow_mut();
        client.kept.release();
        if self.complete.get() {
            client.kept.forget_before(u64::MAX);
        }
        self.share.set(client.kept.len());
    }

    /// Reads the body's first bytes, up to its end or [`GATHERED_BYTES`], and holds them for the attempts. If too many
    /// bytes are held already, the request goes on without them.
    ///
    /// # Errors
    /// The body ended early.
    pub async fn gather(&self) -> Result<(), BodyError> {
        let result = std::future::poll_fn(|cx| self.poll_gather(cx)).await;
        self.activity.request_rests();
        result
    }

    fn poll_gather(&self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let mut client = self.client.borrow_mut();
        while self.received.get().is_none() && client.kept.end() < GATHERED_BYTES {
            if let Err(full) = self.share.has_room() {
                self.metrics.count(Rare::NotGathered, full, "");
                break;
            }
            let Poll::Ready(read) = self.poll_client(&mut client, cx) else {
                self.share.set(client.kept.len() + WAITING_BYTES);
                return Poll::Pending;
            };
            match read {
                Some(Ok(data)) => client.kept.hold(&data),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => break,
            }
            self.share.set(client.kept.len());
        }
        self.share.set(client.kept.len());
        Poll::Ready(Ok(()))
    }

    /// Takes a place for uploads, after a slot, if the client is still waited for.
    ///
    /// # Errors
    /// All places for uploads are taken.
    pub fn take_place(&self, limit: &ConcurrencyLimit) -> Result<(), Overloaded> {
        if self.received.get().is_none() {
            self.activity.hold(limit.check_upload()?);
        }
        Ok(())
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.get()
    }

    /// Whether the whole body was read, and `at` is behind it.
    pub(super) fn is_over(&self, at: u64) -> bool {
        self.received.get().is_some() && at >= self.bytes.get()
    }

    /// Whether trailers follow the body, as far as it was read.
    pub(super) fn has_trailers(&self) -> bool {
        self.client.borrow().trailers.is_some()
    }

    /// The trailers of a body that is over.
    pub(super) fn trailers(&self) -> Option<HeaderMap> {
        self.client.borrow().trailers.as_deref().cloned()
    }

    /// The size of the rest behind `at`.
    pub(super) fn size_hint(&self, at: u64) -> SizeHint {
        let length = if self.received.get().is_some() { Some(self.bytes.get()) } else { self.length };
        length.map_or_else(SizeHint::default, |length| SizeHint::with_exact(length.saturating_sub(at)))
    }

    /// The next bytes behind `at`, for the newest attempt. `None`: the body ends there.
    pub(super) fn poll_from(&self, at: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut client = self.client.borrow_mut();
        if let Some(failure) = self.failure.get() {
            return Poll::Ready(Some(Err(failure)));
        }
        if self.is_held() {
            *self.held_task.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(data) = client.kept.from(at) {
            self.handed_over(at + data.len() as u64, data.len(), &mut client);
            return Poll::Ready(Some(Ok(data)));
        }
        let polled = ready!(self.poll_client(&mut client, cx));
        let mut bytes = 0;
        if let Some(Ok(data)) = &polled {
            bytes = data.len();
            if self.share.has_room().is_err() {
                client.kept.release();
            }
            client.kept.pass(data);
        }
        self.handed_over(self.bytes.get(), bytes, &mut client);
        Poll::Ready(polled)
    }

    fn handed_over(&self, at: u64, bytes: usize, client: &mut Client) {
        if self.received.get().is_none() {
            self.activity.request_goes(bytes);
        }
        let is_over = self.is_over(at);
        self.complete.set(is_over);
        if is_over && !client.kept.is_whole() {
            client.kept.forget_before(at);
        }
        self.share.set(client.kept.len());
    }

    /// The next bytes that the client sends. `None`: the client has ended the body.
    fn poll_client(
        &self,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(body) = &mut client.body else { return Poll::Ready(None) };
        let result = match body.poll_until_trailers(cx, &mut client.trailers) {
            Poll::Pending => {
                self.activity.waits_for_request(cx);
                match self.activity.ended() {
                    Some(Cause::ClientSilent(silence)) => Err(BodyError::Silent(silence)),
                    Some(Cause::ClientSlow(rate)) => Err(BodyError::Slow(rate)),
                    _ => return Poll::Pending,
                }
            }
            Poll::Ready(Some(Ok(data))) => {
                let bytes = self.bytes.get() + data.len() as u64;
                self.bytes.set(bytes);
                self.activity.request_came(data.len());
                if bytes > self.max { Err(BodyError::TooLarge) } else { Ok(Some(data)) }
            }
            Poll::Ready(Some(Err(error))) => Err(error),
            Poll::Ready(None) if self.is_true_end(body) => {
                if client.trailers.is_some() {
                    self.check_trailers(&mut client.trailers)
                } else {
                    Ok(None)
                }
            }
            Poll::Ready(None) => Err(BodyError::Gone),
        };
        if !matches!(result, Ok(Some(_))) || body.is_end_stream() {
            // After a failure on HTTP/2, the stream's task gets the rest.
            if result.is_ok() || self.version != Version::HTTP_2 {
                client.body = None;
            }
            if result.is_ok() {
                self.received.set(Some(self.clock.now()));
            }
            self.activity.request_is_over();
        }
        Poll::Ready(result.map_err(|error| self.fail(error)).transpose())
    }

    /// Leaves the trailers that may pass. Too many are as wrong as they are in a header section.
    fn check_trailers(&self, trailers: &mut Trailers) -> Result<Option<Bytes>, BodyError> {
        if let (Some(rules), Some(came)) = (&self.trailers, trailers.as_deref_mut()) {
            rules.apply(came).map_err(|_| BodyError::Broken)?;
        }
        *trailers = trailers.take().filter(|left| self.trailers.is_some() && !left.is_empty());
        Ok(None)
    }

    /// Whether the end that the library reports is the client's. Chunks of HTTP/1.1 have an end of their own, which the
    /// library does not report before it has come.
    fn is_true_end(&self, body: &ClientBody) -> bool {
        let has_own_end = self.version != Version::HTTP_2 && self.length.is_none();
        has_own_end || body.is_end_stream()
    }

    fn fail(&self, error: BodyError) -> BodyError {
        self.failure.set(Some(error));
        error
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.version == Version::HTTP_2 {
            self.activity.leave(self.client.get_mut().body.take());
        } else {
            self.activity.request_is_over();
        }
    }
}

/// What a request that waits for its client costs in bytes besides its body: its head, and the state of its stream. It
/// takes no slot meanwhile, so only these bytes bound the number of such requests.
const WAITING_BYTES: u64 = 16 * 1024;

/// The bytes of a body that are read before an endpoint is chosen. Most bodies are not longer.
const GATHERED_BYTES: u64 = 64 * 1024;

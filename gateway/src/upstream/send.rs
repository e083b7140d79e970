//! One attempt at one endpoint: a connection, one send, and what its failure means.

use std::{error::Error as _, pin::pin, rc::Rc, time::Instant};

use http::{Request, Response};
use hyper::body::Incoming;

use super::{
    connect::{ConnectError, connect, is_alert},
    endpoint::InFlight,
    pool::{Connection, Lease},
    search::BreakerPermit,
};
use crate::{
    body::{BodyError, RequestBody, Upload},
    error::Error,
    exchange::Exchange,
    headers::{self, ResponseFraming},
    policy::{
        circuit_breaker::{Outcome, Transition},
        retry::Phase,
        timeout::Deadline,
    },
    snapshot::{LocalCluster, LocalEndpoint, StateHandle},
};

/// The upstream's answer, and what must live as long as its body.
pub struct Answered {
    pub response: Response<Incoming>,
    pub lease: Lease,
    pub framing: ResponseFraming,
}

/// Why an attempt gave no response.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) phase: Phase,
}

/// A request that waits to be sent. Empty once bytes of it may have left; a failure before that leaves it here, so that
/// nothing needs to be handed back through the layers that it went down.
pub(super) type Unsent = Option<Request<RequestBody>>;

/// One attempt at one endpoint.
pub(super) struct Attempt<'a> {
    pub(super) cluster: &'a LocalCluster,
    pub(super) endpoint: &'a LocalEndpoint,
    pub(super) deadline: Deadline,
    pub(super) now: Instant,
    pub(super) upload: Option<&'a Rc<Upload>>,
}

impl Attempt<'_> {
    pub(super) async fn run(
        &self,
        unsent: &mut Unsent,
        permit: Option<BreakerPermit>,
        exchange: &mut Exchange,
    ) -> Result<Answered, Failed> {
        let guard = InFlight::begin(self.endpoint.state.clone());
        // Read again, though `now` is a few microseconds old: the difference is the gateway's own share, which
        // `millgate_overhead_seconds` shows.
        let began = exchange.worker().clock.now();
        exchange.upstream_began = Some(began);
        let result = self.exchange(unsent, guard).await;
        let ended = exchange.worker().clock.now();
        exchange.upstream_ended = Some(ended);
        let status = result.as_ref().map_or(0, |answered| answered.response.status().as_u16());
        {
            let mut metrics = self.cluster.metrics.borrow_mut();
            metrics.count(status, 1);
            metrics.duration.record(ended.saturating_duration_since(began));
        }
        if let (Some(permit), Some(outcome)) = (permit, outcome(&result)) {
            self.tell(permit.record(outcome, ended));
        }
        result
    }

    fn tell(&self, transition: Option<Transition>) {
        let (service, endpoint) = (&self.cluster.shared.name, &self.endpoint.instance);
        match transition {
            None => {}
            Some(Transition::Opened) => tracing::warn!(%service, %endpoint, "circuit breaker opened"),
            Some(Transition::Closed) => tracing::info!(%service, %endpoint, "circuit breaker closed"),
        }
    }

    async fn exchange(&self, unsent: &mut Unsent, guard: InFlight<StateHandle>) -> Result<Answered, Failed> {
        let mut connection = self.connection().await?;
        let response = loop {
            let Some(request) = unsent.take() else {
                return Err(Failed { error: Error::Internal, phase: Phase::AfterSent });
            };
            let sending = pin!(connection.sender.try_send_request(request));
            let Some(sent) = connection.timer.bound(self.deadline.attempt(self.now), sending).await else {
                return Err(Failed { error: self.late(), phase: Phase::AfterSent });
            };
            let mut error = match sent {
                Ok(response) => break response,
                Err(error) => error,
            };
            *unsent = error.take_message();
            // The service had closed this connection while it was idle, and hyper gives the request back when
            // no byte of it was written: what else is idle is as stale, so take a new one.
            if !connection.reused || unsent.is_none() {
                return Err(self.send_failed(&error.into_error(), unsent, connection.reused));
            }
            self.endpoint.pool.clear();
            connection = self.connection().await?;
        };
        let framing = headers::check_response(&response).map_err(|fault| {
            if self.endpoint.pool.may_tell(self.now) {
                tracing::warn!(endpoint = %self.endpoint.pool.address, reason = fault.detail(), "upstream answer refused");
            }
            Failed { error: Error::UpstreamProtocolError, phase: Phase::AfterSent }
        })?;
        let lease = Lease {
            connection,
            pool: Rc::clone(&self.endpoint.pool),
            upload: self.upload.cloned(),
            reusable: framing.reusable,
            endpoint: guard,
            cluster: None,
        };
        Ok(Answered { response, lease, framing })
    }

    /// Whoever is waited for has caused it.
    fn late(&self) -> Error {
        let client_is_late = self.upload.is_some_and(|upload| upload.waiting.get());
        if client_is_late { Error::RequestTimeout } else { Error::ResponseTimeout }
    }

    /// An idle connection, or a new one.
    async fn connection(&self) -> Result<Connection, Failed> {
        if let Some(connection) = self.endpoint.pool.checkout() {
            self.cluster.metrics.borrow_mut().connections_reused += 1;
            return Ok(connection);
        }
        let deadline = self.deadline.connect(self.now);
        // Boxed: a new connection is rare, and its state would lie in every request's future.
        let connecting = Box::pin(connect(&self.endpoint.pool, deadline, self.now));
        let connection = connecting.await.map_err(|error| {
            if let ConnectError::Tls(error) = &error {
                self.tell_no_tls(error);
            }
            connect_failed(&error)
        })?;
        self.cluster.metrics.borrow_mut().connections_opened += 1;
        Ok(connection)
    }

    fn tell_no_tls(&self, error: &dyn std::error::Error) {
        if self.endpoint.pool.may_tell(self.now) {
            let (service, endpoint) = (&self.cluster.shared.name, &self.endpoint.instance);
            tracing::warn!(%service, %endpoint, %error, "no TLS connection");
        }
    }

    /// What a send error means. hyper has given the request back if no byte of it was written.
    fn send_failed(&self, error: &hyper::Error, unsent: &Unsent, reused: bool) -> Failed {
        if let Some(failure) = self.upload.and_then(|upload| upload.failure.get()) {
            return Failed { error: body_failed(failure), phase: Phase::AfterSent };
        }
        let (error, phase) = if is_alert(error) && !reused {
            self.tell_no_tls(error.source().unwrap_or(error));
            (Error::UpstreamTls { certificate: false }, Phase::AfterSent)
        } else if unsent.is_some() {
            (Error::UpstreamReset, Phase::Refused)
        } else if error.is_parse() {
            (Error::UpstreamProtocolError, Phase::AfterSent)
        } else if reused {
            (Error::UpstreamReset, Phase::ReusedConnectionClosed)
        } else {
            (Error::UpstreamReset, Phase::AfterSent)
        };
        Failed { error, phase }
    }
}

fn connect_failed(error: &ConnectError) -> Failed {
    let error = match error {
        ConnectError::Timeout => Error::ConnectTimeout,
        ConnectError::Exhausted(_) => Error::OutOfSockets,
        ConnectError::Tls(_) => Error::UpstreamTls { certificate: error.is_about_the_certificate() },
        ConnectError::Io(_) | ConnectError::Handshake(_) => Error::ConnectFailed,
    };
    Failed { error, phase: Phase::Connect }
}

fn body_failed(failure: BodyError) -> Error {
    match failure {
        BodyError::TooLarge => Error::BodyTooLarge,
        BodyError::Idle => Error::RequestTimeout,
        BodyError::Broken => Error::RequestBodyInvalid,
    }
}

/// What the breaker learns; `None`: the client's fault says nothing about the endpoint.
fn outcome(result: &Result<Answered, Failed>) -> Option<Outcome> {
    match result {
        Ok(answered) if answered.response.status().is_server_error() => Some(Outcome::Failure),
        Ok(_) => Some(Outcome::Success),
        // The endpoint may close an idle connection whenever it likes.
        Err(failed) if failed.phase == Phase::ReusedConnectionClosed => None,
        Err(failed) => {
            (failed.error.row().blame == crate::error::Blame::Upstream).then_some(Outcome::Failure)
        }
    }
}

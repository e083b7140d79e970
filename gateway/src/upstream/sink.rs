//! The destination of a service's informational responses (1xx): on HTTP/1.1 the queue of the client's connection, on HTTP/2
//! the task of the stream.

use std::rc::Rc;

use http::{HeaderMap, Response, StatusCode};

use crate::{
    body::{Activity, Upload},
    downstream::ConnectionState,
    headers::{self, HeaderRules},
    metrics::{Metrics, Rare},
};

/// The part of a client's request that forwarding informational responses needs.
#[derive(Clone)]
pub struct ResponseSink {
    pub connection: Rc<ConnectionState>,
    /// The stream of HTTP/2. `None` on HTTP/1.1.
    pub stream: Option<Rc<Activity>>,
    /// The body with which the client waits for a 100 (Continue). `None`: it does not wait.
    pub held: Option<Rc<Upload>>,
    /// The route's rules for responses, which decide the fields that clients may see.
    pub rules: Rc<HeaderRules>,
    pub metrics: Rc<Metrics>,
}

impl ResponseSink {
    /// Forwards a service's informational response. It is dropped if too many wait because the client reads slowly. A 100 goes on as an
    /// invitation, and only to a client that waits for one.
    pub(super) fn send(&self, status: StatusCode, mut fields: HeaderMap) {
        if headers::is_invitation(status) {
            if let Some(held) = &self.held {
                held.invite();
            }
            return;
        }
        headers::apply_informational(&mut fields, &self.rules);
        let is_sent = match &self.stream {
            Some(stream) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = fields;
                stream.inform(response)
            }
            None => self.connection.inform(status, &fields),
        };
        let result = if is_sent { "forwarded" } else { "dropped" };
        self.metrics.count(Rare::Informational, result, "");
    }
}

/// A sink for tests, and where what went into it can be taken from.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn recorded() -> (ResponseSink, Recorded) {
    let clock = Rc::new(crate::clock::Clock::new());
    let stream = Activity::new(None);
    let sink = ResponseSink {
        connection: Rc::new(ConnectionState::new(crate::listen::Listener::cleartext(), &clock)),
        stream: Some(Rc::clone(&stream)),
        held: None,
        rules: Rc::default(),
        metrics: Rc::default(),
    };
    (sink, Recorded(stream))
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) struct Recorded(Rc<Activity>);

#[cfg(any(test, feature = "fuzzing"))]
impl Recorded {
    pub(crate) fn take(&self) -> Vec<(StatusCode, HeaderMap)> {
        let taken = std::iter::from_fn(|| self.0.take_informational());
        taken.map(|response| (response.status(), response.headers().clone())).collect()
    }
}

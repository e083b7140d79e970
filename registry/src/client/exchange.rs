//! One exchange with an agent: its turn on a connection, the token, and what later calls learn from its end.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;

use crate::client::agents::SHARED_MAX;
use crate::client::token::{LOOK_EVERY_REFUSED, Token};
use crate::client::{Client, ClientError, READ_DEADLINE};
use crate::http::{HttpResponse, LOOK_EVERY};
use crate::types::shown;

impl Client {
    /// Makes one exchange; any status that is not 2xx is an error.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: String,
        body: Bytes,
        deadline: Duration,
    ) -> Result<HttpResponse, ClientError> {
        let response = self.send(&method, &path, body, deadline).await?;
        if response.status.is_success() {
            Ok(response)
        } else {
            Err(refusal(describe(&method, &path), &response))
        }
    }

    /// Makes one exchange, and a second one if the answer is 403 and the token file holds another token by now.
    pub(super) async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<HttpResponse, ClientError> {
        let sent_with = self.token();
        let first = self.exchange(method, path, body.clone(), sent_with.clone(), deadline).await?;
        if first.status != StatusCode::FORBIDDEN {
            return Ok(first);
        }
        match self.reread_token() {
            Some(token) if sent_with.as_ref() != Some(&token) => {
                self.exchange(method, path, body, Some(token), deadline).await
            }
            _ => Ok(first),
        }
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
        token: Option<HeaderValue>,
        deadline: Duration,
    ) -> Result<HttpResponse, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let Some(token) = token {
            headers.insert("x-consul-token", token);
        }
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let number = self.agent();
        let agent = self.shared.agents.get(number);
        let connection = self.connection.load(Ordering::Relaxed) % SHARED_MAX;
        let call = describe(method, path);
        let url = format!("{}{path}", agent.url);
        let sent_at = Instant::now();
        // A query that blocks would keep the others out for its whole wait.
        let opening = match agent.to_open(connection) {
            Some(shared) if deadline <= READ_DEADLINE => {
                let Ok(turn) = tokio::time::timeout(deadline, shared.opening.lock()).await else {
                    let what = "another call is still waiting for it";
                    let error = ClientError::no_answer(&agent.url, &call, what);
                    self.learn_from_error(number, connection, &error, deadline);
                    return Err(error);
                };
                // A call that had to wait finds the connection open, and needs no turn.
                Some(turn).filter(|_| agent.to_open(connection).is_some())
            }
            _ => None,
        };
        // The wait for the turn counts as well.
        let left = deadline.saturating_sub(sent_at.elapsed());
        let sent_at = Instant::now();
        let http = &self.shared.http[connection];
        let sent = http.send(method.clone(), &url, headers, body, left, BODY_BYTES_MAX).await;
        let result = sent.map_err(|error| ClientError::from_http(&agent.url, &call, &error));
        drop(opening);
        match &result {
            Ok(response) => {
                agent.answered(connection, response.version);
                self.learn_from_status(number, response.status, method == Method::GET);
            }
            Err(error) => self.learn_from_error(number, connection, error, sent_at.elapsed()),
        }
        result
    }

    /// Later calls avoid an agent that failed.
    fn learn_from_status(&self, number: usize, status: StatusCode, read: bool) {
        let too_many = status == StatusCode::TOO_MANY_REQUESTS;
        if too_many {
            self.shared.agents.get(number).refused();
        }
        // Only this agent knows its own services, so writes go to another one only if it is gone.
        if read && (too_many || status.is_server_error()) {
            self.go_on_from(number);
        }
    }

    /// As [`Client::learn_from_status`], for an exchange that failed `after` this time.
    fn learn_from_error(&self, number: usize, connection: usize, error: &ClientError, after: Duration) {
        if !error.is_transport() {
            return;
        }
        self.shared.agents.get(number).broke(connection, error, after);
        self.go_on_from(number);
    }

    fn go_on_from(&self, number: usize) {
        let next = number.wrapping_add(1) % self.shared.agents.count();
        // Of several calls that failed together only the first moves on; for the others the exchange of the number fails.
        let _moved = self.agent.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn token(&self) -> Option<HeaderValue> {
        self.token_source().current(Instant::now())
    }

    fn reread_token(&self) -> Option<HeaderValue> {
        self.token_source().reread()
    }

    /// Returns when the token file holds another token than now, so that a refused call may be made again. Without such a
    /// file it never returns.
    pub(crate) async fn another_token_soon(&self) {
        self.another_token_within(LOOK_EVERY_REFUSED).await;
    }

    /// As [`Client::another_token_soon`], for calls that were not refused; it looks at the file less often.
    pub(crate) async fn another_token(&self) {
        self.another_token_within(LOOK_EVERY).await;
    }

    async fn another_token_within(&self, every: Duration) {
        if !self.token_source().is_in_file() {
            return std::future::pending().await;
        }
        let before = self.token();
        loop {
            tokio::time::sleep(every).await;
            if self.token_source().awaited(Instant::now(), every) != before {
                return;
            }
        }
    }

    // A poisoned lock still holds a whole token: it is assigned in one step.
    fn token_source(&self) -> MutexGuard<'_, Token> {
        self.shared.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn refusal(call: String, response: &HttpResponse) -> ClientError {
    let text = String::from_utf8_lossy(&response.body);
    let text = text.trim();
    let detail = match text {
        "" => "no explanation".to_owned(),
        // Consul answers with a sentence; the error page of a proxy is cut.
        text => shown(text),
    };
    if response.status == StatusCode::FORBIDDEN {
        return ClientError::Denied { call, detail };
    }
    let retry_after = response
        .headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    ClientError::Status { call, status: response.status, detail, retry_after }
}

/// The name of a call in messages, without its query, which may be long and does not help the reader.
pub(super) fn describe(method: &Method, path: &str) -> String {
    format!("{method} {}", path.split('?').next().unwrap_or(path))
}

const USER_AGENT: &str = concat!("millgate/", env!("CARGO_PKG_VERSION"));

/// Enough for about twenty thousand instances of one service.
const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

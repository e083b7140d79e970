//! Why a call to Consul failed, in words that say what to do next.

use std::time::Duration;

use http::StatusCode;

use crate::http::HttpError;

/// A failed call. Nothing in it ever contains the ACL token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The configuration of the client cannot be used.
    #[error("registry configuration: {0}")]
    Config(String),
    /// No connection to the agent.
    #[error(
        "cannot reach Consul at {address}: {detail}; is an agent running there? \
         (set CONSUL_HTTP_ADDR, or start one with `millgate registry`)"
    )]
    Unreachable { address: String, detail: String },
    /// A connection, but no trust in whom it leads to.
    #[error(
        "TLS with Consul at {address} failed: {detail}; name its certificate authority (CONSUL_CACERT), and where it \
         asks for one, our certificate (CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY)"
    )]
    Untrusted { address: String, detail: String },
    /// A connection, but no complete answer.
    #[error("Consul at {address} did not answer {call}: {detail}")]
    NoAnswer {
        address: String,
        call: String,
        detail: String,
        /// The other side ended the connection; otherwise it said nothing until the deadline.
        cut: bool,
    },
    /// 403: the ACL token is unknown, expired or lacks a right.
    #[error(
        "Consul refused {call}: {detail}; check the ACL token (CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE): \
         a gateway needs `service:read` and `node:read`, a service needs `service:write` on its own name"
    )]
    Denied { call: String, detail: String },
    /// Any other status that is not 2xx.
    #[error("Consul answered {call} with {status}: {detail}")]
    Status { call: String, status: StatusCode, detail: String, retry_after: Option<Duration> },
    /// A 2xx whose body is not what this endpoint answers; a proxy in between, or not Consul at all.
    #[error("the answer to {call} is not Consul's: {detail}; does the address lead to a Consul agent?")]
    Malformed { call: String, detail: String },
}

impl ClientError {
    /// True if the connection failed, so that the agent behind the address may be another one by now and
    /// nothing that was learnt from it (an index, a registration) may be relied upon.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Untrusted { .. } | Self::NoAnswer { .. })
    }

    /// True if the same call may succeed a little later.
    pub fn may_pass(&self) -> bool {
        let by_status =
            |status: StatusCode| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        self.is_transport() || self.status().is_some_and(by_status)
    }

    /// True if the agent says that it does not know the check or service that was named: it was restarted
    /// or it removed the service, and only a new registration helps. Consul up to 1.11 answers a heartbeat
    /// of an unknown check with 500 and this text, later releases with 404.
    pub fn is_forgotten(&self) -> bool {
        match self {
            Self::Status { status, detail, .. } => {
                *status == StatusCode::NOT_FOUND
                    || (*status == StatusCode::INTERNAL_SERVER_ERROR
                        && detail.contains("does not have associated TTL"))
            }
            _ => false,
        }
    }

    /// The status that was answered, if there was an answer that is not 2xx.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Denied { .. } => Some(StatusCode::FORBIDDEN),
            _ => None,
        }
    }

    /// `Retry-After`, where the server sent one in seconds.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// True if the other side ended the connection in the middle of an exchange.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(self, Self::NoAnswer { cut: true, .. })
    }

    pub(crate) fn no_answer(address: &str, call: &str, detail: &str) -> Self {
        let (address, call, detail) = (address.to_owned(), call.to_owned(), detail.to_owned());
        Self::NoAnswer { address, call, detail, cut: false }
    }

    pub(crate) fn from_http(address: &str, call: &str, error: &HttpError) -> Self {
        let address = address.to_owned();
        let detail = error.to_string();
        match error {
            HttpError::InvalidUrl { .. } | HttpError::Tls(_) => Self::Config(detail),
            // rustls' word for everything that is wrong with the peer's identity.
            HttpError::Connect(_) if detail.contains("certificate") => Self::Untrusted { address, detail },
            // … and for what the peer thinks of ours, which with TLS 1.3 it says after the handshake.
            HttpError::Connect(_) | HttpError::Broken(_) if detail.contains("fatal alert") => {
                Self::Untrusted { address, detail }
            }
            HttpError::Connect(_) => Self::Unreachable { address, detail },
            HttpError::Timeout(_) => Self::no_answer(&address, call, &detail),
            HttpError::Broken(_) => Self::NoAnswer { address, call: call.to_owned(), detail, cut: true },
            HttpError::BodyTooLarge { .. } => Self::Malformed { call: call.to_owned(), detail },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_not_trusted_leads_to_the_ca_setting() {
        let http = HttpError::Connect("invalid peer certificate: UnknownIssuer".to_owned());
        let error = ClientError::from_http("https://consul:8501", "GET /v1/x", &http);
        assert!(error.is_transport());
        assert!(error.to_string().contains("CONSUL_CACERT"), "{error}");
    }

    #[test]
    fn a_certificate_of_ours_that_is_refused_leads_to_its_setting() {
        let http = HttpError::Broken("received fatal alert: BadCertificate".to_owned());
        let error = ClientError::from_http("https://consul:8501", "GET /v1/x", &http);
        assert!(error.to_string().contains("CONSUL_CLIENT_CERT"), "{error}");
    }

    #[test]
    fn both_answers_for_a_forgotten_check_are_recognised() {
        for (status, detail, forgotten) in [
            (404, "Unknown check ID", true),
            (500, "CheckID \"x\" does not have associated TTL", true),
            (500, "No cluster leader", false),
            (429, "", false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let (call, detail) = ("PUT /v1/x".to_owned(), detail.to_owned());
            let error = ClientError::Status { call, status, detail, retry_after: None };
            assert_eq!(error.is_forgotten(), forgotten, "{error}");
        }
    }
}

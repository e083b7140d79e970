//! Why a call to Consul failed, with the next step for the operator in the message.

use std::time::Duration;

use http::StatusCode;

use crate::http::HttpError;

/// Why a call to Consul failed. The message names the next step for the operator, and never contains the ACL token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The configuration of the client cannot be used.
    #[error("registry configuration: {0}")]
    Config(String),
    /// The agent could not be reached.
    #[error(
        "cannot reach Consul at {address}: {detail}; is an agent running there? \
         (set CONSUL_HTTP_ADDR, or start one with `millgate registry`)"
    )]
    Unreachable {
        /// The URL of the agent.
        address: String,
        /// The cause.
        detail: String,
    },
    /// The agent was reached, and TLS failed: its certificate is not trusted, or it refused the client's.
    #[error(
        "TLS with Consul at {address} failed: {detail}; name its certificate authority (CONSUL_CACERT), and a \
         client certificate if it requires one (CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY)"
    )]
    Untrusted {
        /// The URL of the agent.
        address: String,
        /// The cause.
        detail: String,
    },
    /// The agent was reached, and a complete answer did not come.
    #[error("Consul at {address} did not answer {call}: {detail}")]
    NoAnswer {
        /// The URL of the agent.
        address: String,
        /// The method and path of the call.
        call: String,
        /// The cause.
        detail: String,
        /// `true` if the agent ended the connection; `false` if it was silent until the deadline.
        cut: bool,
    },
    /// Consul answered 403: the ACL token is unknown, has expired, or lacks a right.
    #[error(
        "Consul refused {call}: {detail}; check the ACL token (CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE): \
         a gateway needs `service:read` and `node:read`, a service needs `service:write` on its own name"
    )]
    Denied {
        /// The method and path of the call.
        call: String,
        /// Consul's explanation.
        detail: String,
    },
    /// Consul answered with another status that is not 2xx.
    #[error("Consul answered {call} with {status}: {detail}")]
    Status {
        /// The method and path of the call.
        call: String,
        /// The status.
        status: StatusCode,
        /// Consul's explanation.
        detail: String,
        /// `Retry-After`, if Consul sent it in seconds.
        retry_after: Option<Duration>,
    },
    /// The answer is 2xx and its body is not what this call returns: a proxy answered, or the server is not Consul.
    #[error("the answer to {call} is not Consul's: {detail}; does the address lead to a Consul agent?")]
    Malformed {
        /// The method and path of the call.
        call: String,
        /// What is wrong with the body.
        detail: String,
    },
}

impl ClientError {
    /// `true` if the connection failed. Another agent may then answer at this address, so an index or a registration from before
    /// is not to be relied upon.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Untrusted { .. } | Self::NoAnswer { .. })
    }

    /// `true` if the same call may succeed a little later.
    pub fn may_pass(&self) -> bool {
        let by_status =
            |status: StatusCode| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        self.is_transport() || self.status().is_some_and(by_status)
    }

    /// `true` if the agent does not know the check or service that the call names: the agent was restarted or removed the
    /// service, and only a new registration helps. Consul up to 1.11 answers a heartbeat
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

    /// The status of the answer, if there was one that is not 2xx.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Denied { .. } => Some(StatusCode::FORBIDDEN),
            _ => None,
        }
    }

    /// The value of `Retry-After`, if Consul sent it in seconds.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// `true` if the agent ended the connection in the middle of an exchange.
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
            // rustls uses this word whenever the peer's identity is not proved.
            HttpError::Connect(_) if detail.contains("certificate") => Self::Untrusted { address, detail },
            // The peer refused the client's certificate; with TLS 1.3 it reports this after the handshake.
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

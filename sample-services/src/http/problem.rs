//! Errors as problem documents (RFC 9457): `application/problem+json` with a stable `code` for programs.
//!
//! The type is `about:blank`, so `title` is the status phrase (RFC 9457 §4.2.1) and `code` is the exact
//! failure. Internal details go to the log, never to the client.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Why a request failed. Boxed, because it travels in every `Result`.
#[derive(Debug)]
pub struct Problem(Box<Inner>);

#[derive(Debug)]
struct Inner {
    status: StatusCode,
    body: ProblemBody,
    header: Option<(HeaderName, HeaderValue)>,
}

/// The problem document as it is sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "about:blank",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "the document has invalid fields",
    "code": "validation_failed",
    "errors": [{"field": "name", "message": "must be 1 to 200 characters"}],
}))]
pub struct ProblemBody {
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status phrase.
    title: String,
    status: u16,
    /// What happened, for people.
    detail: String,
    /// What happened, for programs: one stable word.
    code: &'static str,
    /// Members that belong to one code, such as `errors` or `allowed`.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    members: Map<String, Value>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let body = ProblemBody {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            members: Map::new(),
        };
        Self(Box::new(Inner { status, body, header: None }))
    }

    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} {id}"))
    }

    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub fn unprocessable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// Logs the cause; the client only learns that the fault is not its own.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed inside the service");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the service failed; see its log")
    }

    /// Adds a member that belongs to this code.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.0.body.members.insert(member.to_owned(), value.into());
        self
    }

    /// Adds the header that the status requires, such as `WWW-Authenticate` with 401.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.0.header = Some((name, HeaderValue::from_static(value)));
        self
    }

    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub fn code(&self) -> &'static str {
        self.0.body.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Inner { status, body, header } = *self.0;
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = header {
            headers.insert(name, value);
        }
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::internal(&error)
    }
}

/// Collects the errors of a document's fields, so that the client gets all of them at once.
#[derive(Debug, Default)]
pub struct FieldErrors(Vec<Value>);

impl FieldErrors {
    /// Notes that `field` is wrong unless `holds`.
    pub fn check(&mut self, holds: bool, field: &str, message: impl Into<String>) {
        if !holds {
            self.0.push(serde_json::json!({"field": field, "message": message.into()}));
        }
    }

    /// Notes that `field` is wrong unless its text has `min` to `max` characters, and not only spaces where it must
    /// have any. Characters are counted as JSON Schema does.
    pub fn check_text(&mut self, field: &str, text: &str, min: usize, max: usize) {
        let fits = (min..=max).contains(&text.chars().count()) && (min == 0 || !text.trim().is_empty());
        let message = match min {
            0 => format!("must be at most {max} characters"),
            _ => format!("must be {min} to {max} characters, and not only spaces"),
        };
        self.check(fits, field, message);
    }

    /// 422 with every error, if there is one.
    pub fn into_result(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Problem::unprocessable("validation_failed", "the document has invalid fields")
            .with("errors", self.0))
    }
}

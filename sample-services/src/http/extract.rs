//! Arguments of handlers, with refusals as problem documents: JSON bodies, merge patches, queries, ids.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::{Problem, Result, apply_merge_patch};

/// A body of `application/json`.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        if media_type(request.headers()) != "application/json" {
            return Err(unsupported("the body must be application/json"));
        }
        parse(&body(request, state).await?).map(Self)
    }
}

/// A body of `application/merge-patch+json` (RFC 7396), or of `application/json`, which most clients call it.
#[derive(Debug)]
pub struct MergePatch(pub Value);

impl MergePatch {
    /// The document that results from changing `document`. 422 if it is not one of its kind any more.
    pub fn apply<T: DeserializeOwned>(self, mut document: Value) -> Result<T> {
        apply_merge_patch(&mut document, self.0);
        serde_json::from_value(document).map_err(|error| invalid(&error))
    }
}

impl<S: Send + Sync> FromRequest<S> for MergePatch {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        if !matches!(media_type(request.headers()).as_str(), MERGE_PATCH | "application/json") {
            // RFC 5789 §2.2: 415 names the formats that would do.
            return Err(unsupported("a patch must be application/merge-patch+json or application/json")
                .with_header(header::HeaderName::from_static("accept-patch"), ACCEPT_PATCH));
        }
        parse(&body(request, state).await?).map(Self)
    }
}

/// The query string. 400 if it does not fit.
#[derive(Debug)]
pub struct QueryParams<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(Problem::bad_request("invalid_parameter", rejection.body_text())),
        }
    }
}

/// The `{id}` of a path, in the one spelling that the database knows. 404 if it cannot be an id.
#[derive(Debug)]
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| no_such())?;
        canonical(&text).map(Self)
    }
}

/// The two ids of a path such as `/products/{id}/reservations/{reservation_id}`.
#[derive(Debug)]
pub struct IdPair(pub String, pub String);

impl<S: Send + Sync> FromRequestParts<S> for IdPair {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((first, second)) = path.map_err(|_| no_such())?;
        Ok(Self(canonical(&first)?, canonical(&second)?))
    }
}

fn canonical(id: &str) -> Result<String> {
    Uuid::try_parse(id).map(|id| id.to_string()).map_err(|_| no_such())
}

fn no_such() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is no such record")
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes> {
    Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body is larger than allowed")
        }
        _ => Problem::bad_request("body_unreadable", "the body could not be read to its end"),
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        if error.is_data() {
            invalid(&error)
        } else {
            Problem::bad_request("malformed_json", format!("the body is not JSON: {error}"))
        }
    })
}

fn invalid(error: &serde_json::Error) -> Problem {
    Problem::unprocessable("validation_failed", format!("the document does not fit: {error}"))
}

fn unsupported(detail: &str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

/// The media type without parameters, in lower case; empty if there is none.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

const MERGE_PATCH: &str = "application/merge-patch+json";
const ACCEPT_PATCH: &str = "application/merge-patch+json, application/json";

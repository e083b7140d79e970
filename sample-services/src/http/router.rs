//! The router around a service's own routes: health, `/openapi.json`, limits, and problems for what does not
//! exist.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    routing::get,
};
use serde_json::json;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Problem, ProblemBody, Result, document, freshness, query, query::QueryNames, request_context};
use crate::database::Database;

/// What `/readyz` reports: the database answers, and the service is not about to stop.
#[derive(Debug, Clone)]
pub struct Readiness {
    database: Database,
    draining: Arc<AtomicBool>,
}

impl Readiness {
    pub fn new(database: Database) -> Self {
        Self { database, draining: Arc::default() }
    }

    /// From now on `/readyz` answers 503, so that balancers send no new requests.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

/// The whole application: `api` with everything that each service has.
pub fn assemble(api: OpenApiRouter, name: &'static str, readiness: Readiness) -> anyhow::Result<Router> {
    let health = OpenApiRouter::new().routes(routes!(livez)).routes(routes!(readyz)).with_state(readiness);
    let (router, document) = api.merge(health).split_for_parts();
    let document = document::complete(&document, name)?;
    let names = Arc::new(QueryNames::of(&document));
    let document = Bytes::from(serde_json::to_vec(&document)?);
    let open_api = move || async move { ([(header::CONTENT_TYPE, "application/json")], document) };
    Ok(router
        .route("/openapi.json", get(open_api))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let names = names.clone();
            async move { query::refuse_unknown(&names, request, next).await }
        }))
        .layer(middleware::from_fn(freshness::revalidate))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            request_context::track(name, request, next)
        })))
}

/// The process runs.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = OK, description = "The process turns")))]
async fn livez() -> Json<serde_json::Value> {
    Json(json!({"status": "ok"}))
}

/// The service can do its work.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = OK, description = "Ready"),
    (status = SERVICE_UNAVAILABLE, description = "Draining, or the database is away", body = ProblemBody),
))]
async fn readyz(State(readiness): State<Readiness>) -> Result<Json<serde_json::Value>> {
    let not_ready = |why: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why);
    if readiness.draining.load(Ordering::Relaxed) {
        return Err(not_ready("the service is stopping".to_owned()));
    }
    readiness.database.check().await.map_err(|error| {
        tracing::warn!(%error, "the database does not answer");
        not_ready("the database does not answer".to_owned())
    })?;
    Ok(Json(json!({"status": "ready"})))
}

async fn no_such_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}

async fn no_such_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path has other methods; see Allow",
    )
}

/// The largest document is an order of 50 items, about 10 KB.
const BODY_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;
    use crate::{database::DatabaseLocation, products};

    async fn readyz_of(readiness: &Readiness) -> StatusCode {
        let application = assemble(OpenApiRouter::new(), "test", readiness.clone()).unwrap();
        let request = Request::get("/readyz").body(Body::empty()).unwrap();
        application.oneshot(request).await.unwrap().status()
    }

    async fn readiness() -> Readiness {
        Readiness::new(Database::open(&DatabaseLocation::Memory, &products::SCHEMA).await.unwrap())
    }

    #[tokio::test]
    async fn a_service_that_drains_is_not_ready() {
        let readiness = readiness().await;
        assert_eq!(readyz_of(&readiness).await, StatusCode::OK);
        readiness.begin_drain();
        assert_eq!(readyz_of(&readiness).await, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_service_without_its_database_is_not_ready() {
        let readiness = readiness().await;
        readiness.database.close().await;
        assert_eq!(readyz_of(&readiness).await, StatusCode::SERVICE_UNAVAILABLE);
    }
}

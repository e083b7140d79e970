//! Unknown query parameters are refused, like unknown fields of a body: a misspelt filter must not return the whole list.
//!
//! The known parameters are those of the OpenAPI document, so that the two cannot differ.

use std::collections::HashMap;

use axum::{
    extract::{MatchedPath, Query, Request},
    http::{Method, Uri},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{Problem, Result};

/// The names of the query parameters of each operation.
#[derive(Debug)]
pub(super) struct QueryNames(HashMap<(Method, String), Vec<String>>);

impl QueryNames {
    pub(super) fn of(document: &Value) -> Self {
        let mut names = HashMap::new();
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else { continue };
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let of_query = parameters.filter(|parameter| parameter["in"] == "query");
                let of_query = of_query.filter_map(|parameter| parameter["name"].as_str());
                names.insert((method, path.clone()), of_query.map(str::to_owned).collect());
            }
        }
        Self(names)
    }

    fn check(&self, method: &Method, path: &str, uri: &Uri) -> Result<()> {
        // HEAD is answered by the handler of GET.
        let method = if *method == Method::HEAD { Method::GET } else { method.clone() };
        let Some(known) = self.0.get(&(method, path.to_owned())) else { return Ok(()) };
        let sent = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|rejection| Problem::bad_request("invalid_parameter", rejection.body_text()))?;
        match sent.iter().find(|(name, _)| !known.contains(name)) {
            None => Ok(()),
            Some((name, _)) => {
                let detail = match known.as_slice() {
                    [] => format!("there is no query parameter `{name}`; this has none"),
                    known => format!("there is no query parameter `{name}`; there are {}", known.join(", ")),
                };
                Err(Problem::bad_request("unknown_parameter", detail).with("parameters", known.clone()))
            }
        }
    }
}

/// Middleware around the routes.
pub(super) async fn refuse_unknown(names: &QueryNames, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let checked = path.map_or(Ok(()), |path| names.check(request.method(), path, request.uri()));
    match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

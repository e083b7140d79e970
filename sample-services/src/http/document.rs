//! What every operation's description has in common, added to the OpenAPI document in one place: the statuses that
//! follow from its parts (a body can be malformed, an id can be unknown), the security schemes, and the contact.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

/// The document of the service `title`, whole.
pub(super) fn complete(document: &OpenApi, title: &str) -> serde_json::Result<Value> {
    let mut document = serde_json::to_value(document)?;
    document["info"] = json!({
        "title": title,
        "version": env!("CARGO_PKG_VERSION"),
        "description": format!(
            "The {title} service, a sample behind Millgate. The gateway adds answers of its own (401, 403, 404, \
             429, 502, 503, 504), which are problem documents, too."
        ),
    });
    document["components"]["securitySchemes"] = security_schemes();
    for item in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            complete_operation(method, operation);
        }
    }
    Ok(document)
}

fn security_schemes() -> Value {
    json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "From POST /login; the gateway verifies it.",
        },
        "identity": {
            "type": "apiKey",
            "in": "header",
            "name": "X-User-Id",
            "description": "Set by the gateway from a verified token, with X-User-Role beside it. \
                            The gateway removes both from what clients send.",
        },
    })
}

fn complete_operation(method: &str, operation: &mut Value) {
    let (mut implied, has_tag) = (implied_statuses(operation), has_tag(method, operation));
    if has_tag {
        implied.push((StatusCode::NOT_MODIFIED, "The client has this version already"));
        let if_none_match = json!({
            "name": "If-None-Match",
            "in": "header",
            "description": "The `ETag` of the copy that the client has.",
            "schema": {"type": "string", "pattern": TAGS_PATTERN},
            "example": "\"7\"",
        });
        match &mut operation["parameters"] {
            Value::Array(parameters) => parameters.push(if_none_match),
            none => *none = json!([if_none_match]),
        }
    }
    // `operation["parameters"]` would write a null where there are none.
    let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        if parameter["name"] == "If-Match" {
            parameter["description"] = json!("The `ETag` of the version that is to be changed.");
            parameter["schema"] = json!({"type": "string", "pattern": TAGS_PATTERN});
            parameter["example"] = json!("\"7\"");
        } else if parameter["in"] == "path" {
            parameter["schema"] = json!({"type": "string", "format": "uuid"});
            parameter["example"] = json!("0198f2c4-7b1e-7000-8000-000000000001");
        }
    }
    if asks_for_identity(operation) {
        // OpenAPI 3.1 §4.8.30: one of the list is enough.
        if let Some(schemes) = operation["security"].as_array_mut() {
            schemes.push(json!({"identity": []}));
        }
    }
    for (status, description) in implied {
        let entry = &mut operation["responses"][status.as_str()];
        if entry.is_null() {
            *entry = json!({"description": description});
        }
    }
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        complete_response(status, response, has_tag);
    }
    if let Some(responses) = operation["responses"].as_object_mut() {
        responses.sort_keys();
    }
}

/// Statuses that follow from what an operation takes.
fn implied_statuses(operation: &Value) -> Vec<(StatusCode, &'static str)> {
    let mut implied = vec![
        (StatusCode::BAD_REQUEST, "A parameter, a header or the body is malformed, or not known here"),
        (StatusCode::INTERNAL_SERVER_ERROR, "The service failed"),
    ];
    let parameters = || operation["parameters"].as_array().into_iter().flatten();
    if parameters().any(|parameter| parameter["in"] == "path" || parameter["name"] == "cursor") {
        implied.push((StatusCode::NOT_FOUND, "There is no such record, or no such page"));
    }
    if let Some(if_match) = parameters().find(|parameter| parameter["name"] == "If-Match") {
        implied.push((StatusCode::PRECONDITION_FAILED, "If-Match does not name the current version"));
        implied.push((StatusCode::CONFLICT, "The record was changed meanwhile"));
        if if_match["required"] == true {
            implied.push((StatusCode::PRECONDITION_REQUIRED, "If-Match is missing"));
        }
    }
    if !operation["requestBody"].is_null() {
        implied.push((StatusCode::PAYLOAD_TOO_LARGE, "The body is larger than 64 KiB"));
        implied.push((StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body has another media type"));
        implied.push((StatusCode::UNPROCESSABLE_ENTITY, "The body is JSON, and does not fit"));
    }
    if asks_for_identity(operation) {
        implied.push((StatusCode::UNAUTHORIZED, "No user is known"));
    }
    implied
}

/// Whether the service itself refuses requests without a user.
fn asks_for_identity(operation: &Value) -> bool {
    let schemes = operation["security"].as_array();
    schemes.is_some_and(|schemes| {
        !schemes.is_empty() && schemes.iter().all(|scheme| scheme.as_object().is_some_and(|s| !s.is_empty()))
    })
}

fn has_tag(method: &str, operation: &Value) -> bool {
    method == "get" && !operation["responses"]["200"]["headers"]["ETag"].is_null()
}

fn complete_response(status: &str, response: &mut Value, has_tag: bool) {
    let code = status.parse::<StatusCode>().unwrap_or_default();
    let described = response["description"].as_str().is_some_and(|text| !text.is_empty());
    if !described {
        response["description"] = json!(code.canonical_reason().unwrap_or("Response"));
    }
    if code.is_client_error() || code.is_server_error() {
        let schema = json!({"$ref": "#/components/schemas/ProblemBody"});
        response["content"] = json!({"application/problem+json": {"schema": schema}});
    }
    if has_tag && matches!(code, StatusCode::OK | StatusCode::NOT_MODIFIED) {
        for name in ["ETag", "Cache-Control"] {
            response["headers"][name] = json!({"schema": {"type": "string"}});
        }
    }
}

/// RFC 9110 §13.1.1.
const TAGS_PATTERN: &str = r#"^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$"#;

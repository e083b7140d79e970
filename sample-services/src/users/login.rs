//! `POST /login`: e-mail and password in, access token out.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Users, token::scope_of};
use crate::http::{JsonBody, Problem, Result};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ada@example.org", "password": "correct horse"}))]
pub struct Credentials {
    pub email: String,
    #[schema(format = Password)]
    pub password: String,
}

/// An access token, in the shape of RFC 6749 §5.1.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "access_token": "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl",
    "token_type": "Bearer",
    "expires_in": 3600,
    "scope": "catalog:read orders:write",
}))]
pub struct Token {
    pub access_token: String,
    #[schema(example = "Bearer")]
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: u64,
    pub scope: &'static str,
}

/// Gives a token for an account's e-mail and password.
#[utoipa::path(post, path = "/login", tag = "users", request_body = Credentials, responses(
    (status = OK, body = Token),
    (status = UNAUTHORIZED, description = "E-mail or password is wrong"),
    (status = SERVICE_UNAVAILABLE, description = "No signing key is configured"),
))]
pub(super) async fn login(
    State(users): State<Users>,
    JsonBody(credentials): JsonBody<Credentials>,
) -> Result<Response> {
    let Some(signer) = &users.signer else {
        let detail = "this service has no signing key; start it with --token-key-file";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "login_not_configured", detail));
    };
    let (user, hash) = users.store.find_for_login(&credentials.email).await?.unzip();
    let matches = users.passwords.verify(credentials.password, hash).await?;
    let Some(user) = user.filter(|_| matches) else {
        // Both cases have one answer, so that it does not show which addresses have accounts.
        let detail = "e-mail or password is wrong";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "wrong_credentials", detail)
            .with_header(header::WWW_AUTHENTICATE, "Bearer realm=\"api\""));
    };
    let access_token = signer.sign(&user.id, user.role).map_err(|error| Problem::internal(&error))?;
    let token = Token {
        access_token,
        token_type: "Bearer",
        expires_in: signer.ttl.as_secs(),
        scope: scope_of(user.role),
    };
    // RFC 6749 §5.1: caches must not store a token.
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(token)).into_response())
}

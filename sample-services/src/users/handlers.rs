//! `/users`: sign up, read, list, replace, change, remove.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Users,
    model::{NewUser, SORT_KEYS, User, UserInput, UserPatch},
};
use crate::{
    database::is_unique_violation,
    http::{
        Caller, Id, IfMatch, JsonBody, MergePatch, Page, PageParams, PageQuery, Problem, QueryParams, Result,
        etag,
    },
};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UserFilter {
    /// Only the account with this address.
    email: Option<String>,
}

/// Signs up. Open to everybody.
#[utoipa::path(post, path = "/users", tag = "users", request_body = NewUser, responses(
    (status = CREATED, body = User, headers(("Location" = String), ("ETag" = String))),
    (status = CONFLICT, description = "The address has an account"),
))]
pub(super) async fn create(State(users): State<Users>, JsonBody(new): JsonBody<NewUser>) -> Result<Response> {
    new.check()?;
    let hash = users.passwords.hash(new.password.clone()).await?;
    let user = users.store.insert(&new, &hash).await.map_err(taken_or_internal)?;
    let location = format!("/users/{}", user.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tagged(user)).into_response())
}

/// Lists accounts. Staff only.
#[utoipa::path(get, path = "/users", tag = "users", security(("bearer" = [])),
    params(UserFilter, PageParams), responses(
    (status = OK, body = Page<User>, headers(("Link" = String))),
    (status = FORBIDDEN, description = "The account of another user, or an action that only staff may take"),
))]
pub(super) async fn list(
    State(users): State<Users>,
    caller: Caller,
    uri: Uri,
    QueryParams(filter): QueryParams<UserFilter>,
    QueryParams(page): QueryParams<PageParams>,
) -> Result<Response> {
    caller.require_staff()?;
    let page = PageQuery::parse(&page, SORT_KEYS, "created_at")?;
    Ok(users.store.list(filter.email.as_deref(), &page).await?.into_response(&uri))
}

/// Reads an account.
#[utoipa::path(get, path = "/users/{id}", tag = "users", security(("bearer" = [])),
    params(("id" = String, Path)), responses(
    (status = OK, body = User, headers(("ETag" = String))),
    (status = FORBIDDEN, description = "The account of another user, or an action that only staff may take"),
))]
pub(super) async fn fetch(State(users): State<Users>, caller: Caller, Id(id): Id) -> Result<Response> {
    Ok(tagged(find(&users, &caller, &id).await?))
}

/// Replaces an account's data. Without `password`, the old one stays.
#[utoipa::path(put, path = "/users/{id}", tag = "users", security(("bearer" = [])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = UserInput, responses(
    (status = OK, body = User, headers(("ETag" = String))),
    (status = FORBIDDEN, description = "The account of another user, or an action that only staff may take"),
    (status = CONFLICT, description = "The address has an account, or the account was changed meanwhile"),
))]
pub(super) async fn replace(
    State(users): State<Users>,
    caller: Caller,
    Id(id): Id,
    if_match: Option<IfMatch>,
    JsonBody(input): JsonBody<UserInput>,
) -> Result<Response> {
    let current = find(&users, &caller, &id).await?;
    save(&users, &caller, &current, if_match, input).await
}

/// Changes the fields that a merge patch (RFC 7396) names.
#[utoipa::path(patch, path = "/users/{id}", tag = "users", security(("bearer" = [])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body(content((UserPatch = "application/merge-patch+json"), (UserPatch = "application/json"))),
    responses(
    (status = OK, body = User, headers(("ETag" = String))),
    (status = FORBIDDEN, description = "The account of another user, or an action that only staff may take"),
    (status = CONFLICT, description = "The address has an account, or the account was changed meanwhile"),
))]
pub(super) async fn patch(
    State(users): State<Users>,
    caller: Caller,
    Id(id): Id,
    if_match: Option<IfMatch>,
    patch: MergePatch,
) -> Result<Response> {
    let current = find(&users, &caller, &id).await?;
    let before = serde_json::to_value(UserInput::from(current.clone()));
    let input = patch.apply(before.map_err(|error| Problem::internal(&error))?)?;
    save(&users, &caller, &current, if_match, input).await
}

/// Removes an account.
#[utoipa::path(delete, path = "/users/{id}", tag = "users", security(("bearer" = [])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), responses(
    (status = NO_CONTENT),
    (status = FORBIDDEN, description = "The account of another user, or an action that only staff may take"),
))]
pub(super) async fn remove(
    State(users): State<Users>,
    caller: Caller,
    Id(id): Id,
    if_match: Option<IfMatch>,
) -> Result<StatusCode> {
    let current = find(&users, &caller, &id).await?;
    let if_match = if_match.unwrap_or(IfMatch::ANY);
    if_match.check(current.version)?;
    let removed = users.store.remove(&id, current.version).await?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(if_match.lost_race()) }
}

/// The account, if the caller may see it. The check comes before the look-up, so a refusal does not show whether the
/// account exists.
async fn find(users: &Users, caller: &Caller, id: &str) -> Result<User> {
    caller.require_owner_or_staff(id)?;
    users.store.find(id).await?.ok_or_else(|| Problem::not_found("user", id))
}

async fn save(
    users: &Users,
    caller: &Caller,
    current: &User,
    if_match: Option<IfMatch>,
    input: UserInput,
) -> Result<Response> {
    let if_match = if_match.unwrap_or(IfMatch::ANY);
    if_match.check(current.version)?;
    input.check()?;
    if input.role != current.role {
        caller.require_staff()?;
    }
    let hash = match input.password.clone() {
        Some(password) => Some(users.passwords.hash(password).await?),
        None => None,
    };
    let saved = users.store.replace(&current.id, current.version, &input, hash.as_deref()).await;
    saved.map_err(taken_or_internal)?.map(tagged).ok_or_else(|| if_match.lost_race())
}

fn taken_or_internal(error: sqlx::Error) -> Problem {
    if is_unique_violation(&error) {
        Problem::conflict("email_taken", "there is an account with this e-mail address")
    } else {
        error.into()
    }
}

fn tagged(user: User) -> Response {
    ([(header::ETAG, etag(user.version))], Json(user)).into_response()
}

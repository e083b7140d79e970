//! `/orders`: place, read, list, edit, delete, and move along.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tracing::Instrument;

use super::{
    Orders,
    model::{NewOrder, Order, OrderFilter, OrderInput, SORT_KEYS, StatusChange},
    status::OrderStatus,
};
use crate::http::{
    Caller, Id, IfMatch, JsonBody, MergePatch, Page, PageParams, PageQuery, Problem, ProblemBody,
    QueryParams, RequestContext, Result, etag,
};

/// Places an order for the caller.
#[utoipa::path(post, path = "/orders", tag = "orders", request_body = NewOrder, responses(
    (status = CREATED, body = Order, headers(("Location" = String), ("ETag" = String))),
    (status = UNAUTHORIZED, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, description = "Not enough stock", body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, description = "Invalid, or a product does not exist", body = ProblemBody,
     content_type = "application/problem+json"),
    (status = BAD_GATEWAY, body = ProblemBody, content_type = "application/problem+json"),
    (status = SERVICE_UNAVAILABLE, description = "Products cannot be reached", body = ProblemBody,
     content_type = "application/problem+json"),
))]
pub(super) async fn create(
    State(orders): State<Orders>,
    caller: Caller,
    context: RequestContext,
    JsonBody(new): JsonBody<NewOrder>,
) -> Result<Response> {
    // A task of its own: a client that goes away drops this future, and reserved stock must not be lost with it.
    let place = async move { orders.place(&context, caller.user_id, new).await };
    let placed = tokio::spawn(place.in_current_span()).await;
    let order = placed.map_err(|error| Problem::internal(&error))??;
    let location = format!("/orders/{}", order.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tagged(order)).into_response())
}

/// Lists the caller's orders; for staff, all orders.
#[utoipa::path(get, path = "/orders", tag = "orders", params(OrderFilter, PageParams), responses(
    (status = OK, body = Page<Order>, headers(("Link" = String))),
    (status = BAD_REQUEST, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNAUTHORIZED, body = ProblemBody, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(orders): State<Orders>,
    caller: Caller,
    uri: Uri,
    QueryParams(filter): QueryParams<OrderFilter>,
    QueryParams(page): QueryParams<PageParams>,
) -> Result<Response> {
    let page = PageQuery::parse(&page, SORT_KEYS, "-created_at")?;
    let customer_id = (!caller.is_staff()).then_some(caller.user_id.as_str());
    Ok(orders.store.list(customer_id, filter.status, &page).await?.into_response(&uri))
}

/// Reads one order.
#[utoipa::path(get, path = "/orders/{id}", tag = "orders", params(("id" = String, Path)), responses(
    (status = OK, body = Order, headers(("ETag" = String))),
    (status = UNAUTHORIZED, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub(super) async fn fetch(State(orders): State<Orders>, caller: Caller, Id(id): Id) -> Result<Response> {
    Ok(tagged(find(&orders, &caller, &id).await?))
}

/// Replaces the note and the address of a pending order.
#[utoipa::path(put, path = "/orders/{id}", tag = "orders",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = OrderInput, responses(
    (status = OK, body = Order, headers(("ETag" = String))),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, description = "Not pending any more", body = ProblemBody,
     content_type = "application/problem+json"),
    (status = PRECONDITION_FAILED, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub(super) async fn replace(
    State(orders): State<Orders>,
    caller: Caller,
    Id(id): Id,
    if_match: Option<IfMatch>,
    JsonBody(input): JsonBody<OrderInput>,
) -> Result<Response> {
    let current = find(&orders, &caller, &id).await?;
    save(&orders, &current, if_match, &input).await
}

/// Changes the note or the address of a pending order by merge patch (RFC 7396).
#[utoipa::path(patch, path = "/orders/{id}", tag = "orders",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body(content = OrderInput, content_type = "application/merge-patch+json"), responses(
    (status = OK, body = Order, headers(("ETag" = String))),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, description = "Not pending any more", body = ProblemBody,
     content_type = "application/problem+json"),
    (status = PRECONDITION_FAILED, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNSUPPORTED_MEDIA_TYPE, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub(super) async fn patch(
    State(orders): State<Orders>,
    caller: Caller,
    Id(id): Id,
    if_match: Option<IfMatch>,
    patch: MergePatch,
) -> Result<Response> {
    let current = find(&orders, &caller, &id).await?;
    let before = serde_json::to_value(OrderInput::from(current.clone()));
    let input = patch.apply(before.map_err(|error| Problem::internal(&error))?)?;
    save(&orders, &current, if_match, &input).await
}

/// Deletes a pending order and gives its stock back.
#[utoipa::path(delete, path = "/orders/{id}", tag = "orders",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), responses(
    (status = NO_CONTENT),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, description = "Not pending any more", body = ProblemBody,
     content_type = "application/problem+json"),
    (status = PRECONDITION_FAILED, body = ProblemBody, content_type = "application/problem+json"),
))]
pub(super) async fn remove(
    State(orders): State<Orders>,
    caller: Caller,
    context: RequestContext,
    Id(id): Id,
    if_match: Option<IfMatch>,
) -> Result<StatusCode> {
    let current = find(&orders, &caller, &id).await?;
    let if_match = check_editable(&current, if_match)?;
    if !orders.store.remove(&current).await? {
        return Err(if_match.lost_race());
    }
    release_later(orders, context, current).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes an order's next step. Staff only.
#[utoipa::path(patch, path = "/orders/{id}/status", tag = "orders",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body(content = StatusChange, content_type = "application/merge-patch+json"), responses(
    (status = OK, body = Order, headers(("ETag" = String))),
    (status = FORBIDDEN, body = ProblemBody, content_type = "application/problem+json"),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, description = "Not a step from here; `allowed` lists those that are", body = ProblemBody,
     content_type = "application/problem+json"),
    (status = PRECONDITION_FAILED, body = ProblemBody, content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub(super) async fn change_status(
    State(orders): State<Orders>,
    caller: Caller,
    context: RequestContext,
    Id(id): Id,
    if_match: Option<IfMatch>,
    patch: MergePatch,
) -> Result<Response> {
    caller.require_staff()?;
    let current = find(&orders, &caller, &id).await?;
    let if_match = if_match.unwrap_or(IfMatch::Any);
    if_match.check(current.version)?;
    let StatusChange { status } = patch.apply(serde_json::json!({}))?;
    current.status.check_step(status)?;
    if !orders.store.set_status(&current, status).await? {
        return Err(if_match.lost_race());
    }
    let changed = find(&orders, &caller, &id).await?;
    if status == OrderStatus::Cancelled {
        release_later(orders, context, current).await;
    }
    Ok(tagged(changed))
}

/// The order, if there is one that the caller may see: somebody else's does not exist for them.
async fn find(orders: &Orders, caller: &Caller, id: &str) -> Result<Order> {
    let order = orders.store.find(id).await?;
    order
        .filter(|order| caller.is_staff() || order.customer_id == caller.user_id)
        .ok_or_else(|| Problem::not_found("order", id))
}

async fn save(
    orders: &Orders,
    current: &Order,
    if_match: Option<IfMatch>,
    input: &OrderInput,
) -> Result<Response> {
    let if_match = check_editable(current, if_match)?;
    input.check()?;
    if !orders.store.replace(current, input).await? {
        return Err(if_match.lost_race());
    }
    let saved = orders.store.find(&current.id).await?;
    saved.map(tagged).ok_or_else(|| if_match.lost_race())
}

fn check_editable(order: &Order, if_match: Option<IfMatch>) -> Result<IfMatch> {
    let if_match = if_match.unwrap_or(IfMatch::Any);
    if_match.check(order.version)?;
    if order.status == OrderStatus::Pending {
        return Ok(if_match);
    }
    let detail = format!("the order is {} already; only a pending one can be changed", order.status.name());
    Err(Problem::conflict("order_not_pending", detail))
}

/// Gives an order's stock back in a task of its own, so that it happens even if the client goes away.
async fn release_later(orders: Orders, context: RequestContext, order: Order) {
    let release = async move { orders.release(&context, &order.items).await };
    if let Err(error) = tokio::spawn(release.in_current_span()).await {
        tracing::error!(%error, "reserved stock was not given back");
    }
}

fn tagged(order: Order) -> Response {
    ([(header::ETAG, etag(order.version))], Json(order)).into_response()
}

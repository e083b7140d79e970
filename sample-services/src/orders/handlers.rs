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
    model::{NewOrder, Order, OrderFilter, OrderInput, OrderPatch, SORT_KEYS, StatusChange},
    placing::Placed,
    status::OrderStatus,
};
use crate::http::{
    Caller, Id, IdempotencyKey, IfMatch, JsonBody, MergePatch, Page, PageParams, PageQuery, Problem,
    QueryParams, RequestContext, Result, etag,
};

/// Places an order for the caller. A repeat with the same `Idempotency-Key` gets the same answer and places no other
/// order.
#[utoipa::path(post, path = "/orders", tag = "orders", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header,
        pattern = r#"^([!#-~]{1,128}|"([ !#-\[\]-~]|\\["\\]){1,128}")$"#,
        example = "8e03978e-40d5-43e8-bc93-6894a57f9324",
        description = "A new one for each order, the same one for a repeat; kept for a day.")),
    request_body = NewOrder, responses(
    (status = CREATED, body = Order, headers(("Location" = String), ("ETag" = String))),
    (status = CONFLICT, description = "Not enough stock, or the first request with this Idempotency-Key is not \
     answered yet"),
    (status = UNPROCESSABLE_ENTITY, description = "Invalid, or a product does not exist, or the Idempotency-Key \
     came with another request before"),
    (status = BAD_GATEWAY, description = "Products gave an answer that makes no sense"),
    (status = SERVICE_UNAVAILABLE, description = "Products cannot be reached"),
))]
pub(super) async fn create(
    State(orders): State<Orders>,
    caller: Caller,
    context: RequestContext,
    key: Option<IdempotencyKey>,
    JsonBody(new): JsonBody<NewOrder>,
) -> Result<Response> {
    // A task of its own: a client that goes away drops this future, and an order is placed or not, but not half.
    let place = async move { orders.place(&context, caller.user_id, key, new).await };
    let placed = tokio::spawn(place.in_current_span()).await;
    let Placed { id, json } = placed.map_err(|error| Problem::internal(&error))??;
    let json = ([(header::CONTENT_TYPE, "application/json")], json);
    let location = [(header::LOCATION, format!("/orders/{id}"))];
    // A placed order is version 1, also for a later repeat.
    Ok((StatusCode::CREATED, location, [(header::ETAG, etag(1))], json).into_response())
}

/// Lists the caller's orders; for staff, those of all customers or of one.
#[utoipa::path(get, path = "/orders", tag = "orders", security(("bearer" = [])),
    params(OrderFilter, PageParams), responses(
    (status = OK, body = Page<Order>, headers(("Link" = String))),
    (status = FORBIDDEN, description = "The orders belong to another user, and the caller is not staff"),
))]
pub(super) async fn list(
    State(orders): State<Orders>,
    caller: Caller,
    uri: Uri,
    QueryParams(mut filter): QueryParams<OrderFilter>,
    QueryParams(page): QueryParams<PageParams>,
) -> Result<Response> {
    let page = PageQuery::parse(&page, SORT_KEYS, "-created_at")?;
    if !caller.is_staff() {
        let own = filter.customer_id.get_or_insert_with(|| caller.user_id.clone());
        caller.require_owner_or_staff(own)?;
    }
    Ok(orders.store.list(&filter, &page).await?.into_response(&uri))
}

/// Reads one order.
#[utoipa::path(get, path = "/orders/{id}", tag = "orders", security(("bearer" = [])),
    params(("id" = String, Path)), responses(
    (status = OK, body = Order, headers(("ETag" = String))),
))]
pub(super) async fn fetch(State(orders): State<Orders>, caller: Caller, Id(id): Id) -> Result<Response> {
    Ok(tagged(find(&orders, &caller, &id).await?))
}

/// Replaces the note and the address of a pending order.
#[utoipa::path(put, path = "/orders/{id}", tag = "orders", security(("bearer" = [])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), request_body = OrderInput, responses(
    (status = OK, body = Order, headers(("ETag" = String))),
    (status = CONFLICT, description = "Not pending any more, or changed meanwhile"),
))]
pub(super) async fn replace(
    State(orders): State<Orders>,
    caller: Caller,
    context: RequestContext,
    Id(id): Id,
    if_match: Option<IfMatch>,
    JsonBody(input): JsonBody<OrderInput>,
) -> Result<Response> {
    let current = find(&orders, &caller, &id).await?;
    let if_match = check_editable(&current, if_match)?;
    let status = current.status;
    save(&orders, &context, current, &if_match, &input, status).await
}

/// Changes the note or the address of a pending order, or takes its next step (staff only), by merge patch (RFC 7396).
#[utoipa::path(patch, path = "/orders/{id}", tag = "orders", security(("bearer" = [])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body(content((OrderPatch = "application/merge-patch+json"), (OrderPatch = "application/json"))),
    responses(
    (status = OK, body = Order, headers(("ETag" = String))),
    (status = FORBIDDEN, description = "Another status, and the user is not staff"),
    (status = CONFLICT, description = "Not pending any more, changed meanwhile, or not a step from here; `allowed` \
     lists those that are"),
))]
pub(super) async fn patch(
    State(orders): State<Orders>,
    caller: Caller,
    context: RequestContext,
    Id(id): Id,
    if_match: Option<IfMatch>,
    patch: MergePatch,
) -> Result<Response> {
    let current = find(&orders, &caller, &id).await?;
    let before = serde_json::to_value(OrderPatch::from(&current));
    let after: OrderPatch = patch.apply(before.map_err(|error| Problem::internal(&error))?)?;
    let (input, status) = after.into_parts();
    let (edits, steps) = (input != OrderInput::from(&current), status != current.status);
    if steps {
        caller.require_staff()?;
    }
    let if_match =
        if edits { check_editable(&current, if_match)? } else { check_version(&current, if_match)? };
    if steps {
        current.status.check_step(status)?;
    }
    if !edits && !steps {
        return Ok(tagged(current));
    }
    save(&orders, &context, current, &if_match, &input, status).await
}

/// Deletes a pending order and gives its stock back.
#[utoipa::path(delete, path = "/orders/{id}", tag = "orders", security(("bearer" = [])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)), responses(
    (status = NO_CONTENT, description = "It is gone"),
    (status = CONFLICT, description = "Not pending any more, or changed meanwhile"),
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
    let owed = orders.store.remove(&current).await?.ok_or_else(|| if_match.lost_race())?;
    orders.carry_out(&context, &owed).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes an order's next step. Staff only.
#[utoipa::path(patch, path = "/orders/{id}/status", tag = "orders", security(("bearer" = [])),
    params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body(content((StatusChange = "application/merge-patch+json"), (StatusChange = "application/json"))),
    responses(
    (status = OK, body = Order, headers(("ETag" = String))),
    (status = FORBIDDEN, description = "The user is not staff"),
    (status = CONFLICT, description = "Changed meanwhile, or not a step from here; `allowed` lists those that are"),
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
    let if_match = check_version(&current, if_match)?;
    let StatusChange { status } = patch.apply(serde_json::json!({}))?;
    current.status.check_step(status)?;
    let input = OrderInput::from(&current);
    save(&orders, &context, current, &if_match, &input, status).await
}

/// The order, if the caller may see it; another customer's order is 404.
async fn find(orders: &Orders, caller: &Caller, id: &str) -> Result<Order> {
    let order = orders.store.find(id).await?;
    order
        .filter(|order| caller.is_staff() || order.customer_id == caller.user_id)
        .ok_or_else(|| Problem::not_found("order", id))
}

async fn save(
    orders: &Orders,
    context: &RequestContext,
    current: Order,
    if_match: &IfMatch,
    input: &OrderInput,
    status: OrderStatus,
) -> Result<Response> {
    input.check()?;
    let owed = orders.store.update(&current, input, status).await?.ok_or_else(|| if_match.lost_race())?;
    orders.carry_out(context, &owed).await;
    let saved = orders.store.find(&current.id).await?;
    saved.map(tagged).ok_or_else(|| if_match.lost_race())
}

fn check_version(order: &Order, if_match: Option<IfMatch>) -> Result<IfMatch> {
    let if_match = if_match.unwrap_or(IfMatch::ANY);
    if_match.check(order.version)?;
    Ok(if_match)
}

fn check_editable(order: &Order, if_match: Option<IfMatch>) -> Result<IfMatch> {
    let if_match = check_version(order, if_match)?;
    if order.status == OrderStatus::Pending {
        return Ok(if_match);
    }
    let detail = format!("the order is {} already; only a pending one can be changed", order.status.name());
    Err(Problem::conflict("order_not_pending", detail))
}

fn tagged(order: Order) -> Response {
    ([(header::ETAG, etag(order.version))], Json(order)).into_response()
}

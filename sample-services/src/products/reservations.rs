//! `/products/{id}/reservations`: how the orders service takes stock and gives it back.

use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    model::{Reservation, ReservationRequest},
    store::{ProductStore, Reserved},
};
use crate::http::{Id, JsonBody, Problem, ProblemBody, Result};

/// Takes stock out of a product, if there is enough.
#[utoipa::path(post, path = "/products/{id}/reservations", tag = "reservations", params(("id" = String, Path)),
    request_body = ReservationRequest, responses(
    (status = CREATED, body = Reservation, headers(("Location" = String))),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
    (status = CONFLICT, description = "Not enough stock; `available` says how much there is", body = ProblemBody,
     content_type = "application/problem+json"),
    (status = UNPROCESSABLE_ENTITY, body = ProblemBody, content_type = "application/problem+json"),
))]
pub(super) async fn reserve(
    State(store): State<ProductStore>,
    Id(id): Id,
    JsonBody(request): JsonBody<ReservationRequest>,
) -> Result<Response> {
    request.check()?;
    match store.reserve(&id, request.quantity).await? {
        Reserved::Done(reservation) => {
            let location = format!("/products/{id}/reservations/{}", reservation.id);
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(reservation)).into_response())
        }
        Reserved::OutOfStock { available } => {
            Err(Problem::conflict("insufficient_stock", format!("product {id} has only {available} left"))
                .with("available", available))
        }
        Reserved::NoSuchProduct => Err(Problem::not_found("product", &id)),
    }
}

/// Gives reserved stock back.
#[utoipa::path(delete, path = "/products/{id}/reservations/{reservation_id}", tag = "reservations",
    params(("id" = String, Path), ("reservation_id" = String, Path)), responses(
    (status = NO_CONTENT),
    (status = NOT_FOUND, body = ProblemBody, content_type = "application/problem+json"),
))]
pub(super) async fn release(
    State(store): State<ProductStore>,
    Path((product_id, id)): Path<(String, String)>,
) -> Result<StatusCode> {
    if store.release(&product_id, &id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("reservation", &id))
    }
}

//! `/products/{id}/reservations/{reservation_id}`: how the orders service takes stock and gives it back.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    model::{Reservation, ReservationRequest},
    reservation_store::{Released, ReservationStore, Reserved},
};
use crate::http::{IdPair, JsonBody, Problem, Result};

/// Takes stock out of a product, if there is enough, and confirms a reservation. The caller chooses its id (a
/// UUID); a repeat is the same reservation. An unconfirmed reservation expires.
#[utoipa::path(put, path = "/products/{id}/reservations/{reservation_id}", tag = "reservations",
    security((), ("bearer" = ["catalog:write"])),
    params(("id" = String, Path), ("reservation_id" = String, Path)), request_body = ReservationRequest, responses(
    (status = OK, description = "It was there already", body = Reservation),
    (status = CREATED, description = "The stock was taken", body = Reservation),
    (status = CONFLICT, description = "Not enough stock (`available` is the present number), another reservation \
     has this id, or it was released"),
))]
pub(super) async fn reserve(
    State(store): State<ReservationStore>,
    IdPair(product_id, id): IdPair,
    JsonBody(request): JsonBody<ReservationRequest>,
) -> Result<Response> {
    request.check()?;
    match store.reserve(&product_id, &id, &request).await? {
        Reserved::Taken(reservation) => Ok((StatusCode::CREATED, Json(reservation)).into_response()),
        Reserved::Same(reservation) => Ok(Json(reservation).into_response()),
        Reserved::Differs => Err(differs(&id)),
        Reserved::Released => {
            let detail = format!("the reservation {id} was released; take another id");
            Err(Problem::conflict("reservation_released", detail))
        }
        Reserved::OutOfStock { available } => {
            let detail = format!("product {product_id} has only {available} left");
            Err(Problem::conflict("insufficient_stock", detail).with("available", available))
        }
        Reserved::NoSuchProduct => Err(Problem::not_found("product", &product_id)),
    }
}

/// Gives reserved stock back. A repeat has no effect, and a later reservation under this id takes no
/// stock.
#[utoipa::path(delete, path = "/products/{id}/reservations/{reservation_id}", tag = "reservations",
    security((), ("bearer" = ["catalog:write"])),
    params(("id" = String, Path), ("reservation_id" = String, Path)), responses(
    (status = NO_CONTENT, description = "Nothing is reserved under this id"),
    (status = CONFLICT, description = "A reservation of another product has this id"),
))]
pub(super) async fn release(
    State(store): State<ReservationStore>,
    IdPair(product_id, id): IdPair,
) -> Result<StatusCode> {
    match store.release(&product_id, &id).await? {
        Released::Done => Ok(StatusCode::NO_CONTENT),
        Released::Differs => Err(differs(&id)),
        Released::NoSuchProduct => Err(Problem::not_found("product", &product_id)),
    }
}

fn differs(id: &str) -> Problem {
    let detail = format!("there is a reservation {id} already, for another product or quantity");
    Problem::conflict("reservation_differs", detail)
}

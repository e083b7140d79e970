//! The products service as orders sees it: prices, stock and reservations over HTTP.
//!
//! Every request has a timeout of [`REQUEST_TIMEOUT`] and carries the ids of the request that caused it. A
//! connection that cannot be made is tried once more at another instance, because nothing was sent. A request
//! that may have reached products is not repeated here, although that would be safe: a reservation has the name that orders gave it.

use std::time::Duration;

use axum::http::StatusCode;
use reqwest::{Method, RequestBuilder, Response};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::discovery::ProductsLocation;
use crate::http::{Problem, RequestContext};

/// A client of the products service. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Catalog {
    http: reqwest::Client,
    products: ProductsLocation,
}

/// What an order needs to know about a product.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Offer {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) price_cents: i64,
    pub(super) currency: String,
    pub(super) stock: i64,
}

/// Why a call to products failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CatalogError {
    #[error("there is no product {product_id}")]
    UnknownProduct { product_id: String },
    #[error("product {product_id} does not have that many in stock")]
    InsufficientStock { product_id: String, available: Option<i64> },
    /// The reservation was released before this request arrived.
    #[error("the reservation was released")]
    Released,
    /// No instance, no connection, or no answer in time.
    #[error("products cannot be reached: {0}")]
    Unavailable(String),
    /// An unexpected answer.
    #[error("products answered {0}")]
    Broken(String),
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        let detail = error.to_string();
        match error {
            CatalogError::UnknownProduct { product_id } => {
                Self::unprocessable("unknown_product", detail).with("product_id", product_id)
            }
            CatalogError::InsufficientStock { product_id, available } => {
                Self::conflict("insufficient_stock", detail)
                    .with("product_id", product_id)
                    .with("available", available)
            }
            CatalogError::Unavailable(cause) => {
                tracing::warn!(cause, "products cannot be reached");
                let detail = "the products service cannot be reached; try again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "products_unavailable", detail)
            }
            CatalogError::Broken(_) | CatalogError::Released => {
                tracing::error!(cause = detail, "products answered something unexpected");
                let detail = "the products service gave an answer that makes no sense";
                Self::new(StatusCode::BAD_GATEWAY, "products_failed", detail)
            }
        }
    }
}

impl Catalog {
    pub fn new(products: ProductsLocation) -> anyhow::Result<Self> {
        // A redirect of an internal service would be a mistake; following it would hide it.
        let no_redirects = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .redirect(no_redirects)
            // Proxies of the environment are for the outside world.
            .no_proxy()
            .build()?;
        Ok(Self { http, products })
    }

    pub(super) async fn offer(&self, context: &RequestContext, id: &str) -> Result<Offer, CatalogError> {
        let response = self.send(context, Method::GET, &format!("/products/{id}"), |request| request).await?;
        match response.status() {
            StatusCode::OK => read(response).await,
            StatusCode::NOT_FOUND => Err(CatalogError::UnknownProduct { product_id: id.to_owned() }),
            status => Err(unexpected(status)),
        }
    }

    /// Sets stock aside for some minutes, under a name.
    pub(super) async fn reserve(
        &self,
        context: &RequestContext,
        product_id: &str,
        reservation_id: &str,
        quantity: i64,
    ) -> Result<(), CatalogError> {
        self.put_reservation(context, product_id, reservation_id, &json!({"quantity": quantity})).await
    }

    /// Keeps a reservation, or makes it anew if it has expired.
    pub(super) async fn confirm(
        &self,
        context: &RequestContext,
        product_id: &str,
        reservation_id: &str,
        quantity: i64,
    ) -> Result<(), CatalogError> {
        let body = json!({"quantity": quantity, "confirmed": true});
        self.put_reservation(context, product_id, reservation_id, &body).await
    }

    async fn put_reservation(
        &self,
        context: &RequestContext,
        product_id: &str,
        reservation_id: &str,
        body: &Value,
    ) -> Result<(), CatalogError> {
        #[derive(Deserialize)]
        struct Refusal {
            code: String,
            available: Option<i64>,
        }
        let path = format!("/products/{product_id}/reservations/{reservation_id}");
        let response = self.send(context, Method::PUT, &path, |request| request.json(body)).await?;
        let product_id = product_id.to_owned();
        match response.status() {
            StatusCode::CREATED | StatusCode::OK => Ok(()),
            StatusCode::NOT_FOUND => Err(CatalogError::UnknownProduct { product_id }),
            StatusCode::CONFLICT => match read::<Refusal>(response).await? {
                Refusal { code, available } if code == "insufficient_stock" => {
                    Err(CatalogError::InsufficientStock { product_id, available })
                }
                Refusal { code, .. } if code == "reservation_released" => Err(CatalogError::Released),
                Refusal { code, .. } => Err(CatalogError::Broken(code)),
            },
            status => Err(unexpected(status)),
        }
    }

    /// Gives reserved stock back; fine if it was given back before.
    pub(super) async fn release(
        &self,
        context: &RequestContext,
        product_id: &str,
        reservation_id: &str,
    ) -> Result<(), CatalogError> {
        let path = format!("/products/{product_id}/reservations/{reservation_id}");
        let response = self.send(context, Method::DELETE, &path, |request| request).await?;
        match response.status() {
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(()),
            status => Err(unexpected(status)),
        }
    }

    async fn send(
        &self,
        context: &RequestContext,
        method: Method,
        path: &str,
        finish: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, CatalogError> {
        let mut cause = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let base =
                self.products.pick().await.map_err(|error| CatalogError::Unavailable(error.to_string()))?;
            let request =
                self.http.request(method.clone(), format!("{base}{path}")).headers(context.headers());
            match finish(request).send().await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_connect() => cause = format!("{base}: {error}"),
                Err(error) => return Err(CatalogError::Unavailable(format!("{base}: {error}"))),
            }
        }
        Err(CatalogError::Unavailable(cause))
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> Result<T, CatalogError> {
    response.json().await.map_err(|error| {
        if error.is_decode() {
            CatalogError::Broken(error.to_string())
        } else {
            CatalogError::Unavailable(error.to_string())
        }
    })
}

fn unexpected(status: StatusCode) -> CatalogError {
    if status == StatusCode::SERVICE_UNAVAILABLE {
        CatalogError::Unavailable(status.to_string())
    } else {
        CatalogError::Broken(status.to_string())
    }
}

/// Connection, request and answer together. A client of orders waits for it, so it is short.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// The first attempt, and one at another instance if no connection could be made.
const ATTEMPTS_MAX: usize = 2;

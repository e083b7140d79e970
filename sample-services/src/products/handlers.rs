//! `/products`: create, read, list, replace, change, remove.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use super::{
    model::{Product, ProductFilter, ProductInput, ProductPatch, SORT_KEYS},
    store::ProductStore,
};
use crate::http::{
    Id, IfMatch, JsonBody, MergePatch, Page, PageParams, PageQuery, Problem, QueryParams, Result, etag,
};

/// Adds a product.
#[utoipa::path(post, path = "/products", tag = "products",
    security((), ("bearer" = ["catalog:write"])), request_body = ProductInput, responses(
    (status = CREATED, body = Product, headers(("Location" = String), ("ETag" = String))),
))]
pub(super) async fn create(
    State(store): State<ProductStore>,
    JsonBody(input): JsonBody<ProductInput>,
) -> Result<Response> {
    input.check()?;
    let product = store.insert(&input).await?;
    let location = format!("/products/{}", product.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tagged(product)).into_response())
}

/// Lists products by filter and order, a page at a time.
#[utoipa::path(get, path = "/products", tag = "products",
    security((), ("bearer" = [])), params(ProductFilter, PageParams), responses(
    (status = OK, body = Page<Product>, headers(("Link" = String))),
))]
pub(super) async fn list(
    State(store): State<ProductStore>,
    uri: Uri,
    QueryParams(filter): QueryParams<ProductFilter>,
    QueryParams(page): QueryParams<PageParams>,
) -> Result<Response> {
    filter.check()?;
    let page = PageQuery::parse(&page, SORT_KEYS, "created_at")?;
    Ok(store.list(&filter, &page).await?.into_response(&uri))
}

/// Reads one product.
#[utoipa::path(get, path = "/products/{id}", tag = "products",
    security((), ("bearer" = [])), params(("id" = String, Path)), responses(
    (status = OK, body = Product, headers(("ETag" = String))),
))]
pub(super) async fn fetch(State(store): State<ProductStore>, Id(id): Id) -> Result<Response> {
    Ok(tagged(find(&store, &id).await?))
}

/// Replaces a product. Needs `If-Match`.
#[utoipa::path(put, path = "/products/{id}", tag = "products",
    security((), ("bearer" = ["catalog:write"])),
    params(("id" = String, Path), ("If-Match" = String, Header)), request_body = ProductInput, responses(
    (status = OK, body = Product, headers(("ETag" = String))),
))]
pub(super) async fn replace(
    State(store): State<ProductStore>,
    Id(id): Id,
    if_match: IfMatch,
    JsonBody(input): JsonBody<ProductInput>,
) -> Result<Response> {
    let current = find(&store, &id).await?;
    if_match.check(current.version)?;
    save(&store, &current, &if_match, &input).await
}

/// Changes the fields that a merge patch (RFC 7396) names. Needs `If-Match`.
#[utoipa::path(patch, path = "/products/{id}", tag = "products",
    security((), ("bearer" = ["catalog:write"])),
    params(("id" = String, Path), ("If-Match" = String, Header)),
    request_body(content((ProductPatch = "application/merge-patch+json"), (ProductPatch = "application/json"))),
    responses(
    (status = OK, body = Product, headers(("ETag" = String))),
))]
pub(super) async fn patch(
    State(store): State<ProductStore>,
    Id(id): Id,
    if_match: IfMatch,
    patch: MergePatch,
) -> Result<Response> {
    let current = find(&store, &id).await?;
    if_match.check(current.version)?;
    let before = serde_json::to_value(ProductInput::from(current.clone()));
    let input = patch.apply(before.map_err(|error| Problem::internal(&error))?)?;
    save(&store, &current, &if_match, &input).await
}

/// Removes a product. Needs `If-Match`.
#[utoipa::path(delete, path = "/products/{id}", tag = "products",
    security((), ("bearer" = ["catalog:write"])),
    params(("id" = String, Path), ("If-Match" = String, Header)), responses(
    (status = NO_CONTENT),
))]
pub(super) async fn remove(
    State(store): State<ProductStore>,
    Id(id): Id,
    if_match: IfMatch,
) -> Result<StatusCode> {
    let current = find(&store, &id).await?;
    if_match.check(current.version)?;
    if store.remove(&id, current.version).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(if_match.lost_race())
    }
}

async fn find(store: &ProductStore, id: &str) -> Result<Product> {
    store.find(id).await?.ok_or_else(|| Problem::not_found("product", id))
}

async fn save(
    store: &ProductStore,
    current: &Product,
    if_match: &IfMatch,
    input: &ProductInput,
) -> Result<Response> {
    input.check()?;
    let saved = store.replace(&current.id, current.version, input).await?;
    saved.map(tagged).ok_or_else(|| if_match.lost_race())
}

fn tagged(product: Product) -> Response {
    ([(header::ETAG, etag(product.version))], Json(product)).into_response()
}

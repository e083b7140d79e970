//! Placing an order: look up every product, set stock aside, write the order, confirm.
//!
//! Stock is set aside under a new name, and for a while only. After a failure it is released by that name,
//! whether products has answered or not. If it cannot be released, because products or this process is gone, it expires.
//! The order and the confirmations that it owes are written in one transaction ([`super::stock_changes`]).

use std::{collections::BTreeSet, time::Duration};

use axum::http::StatusCode;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    Orders,
    catalog::{CatalogError, Offer},
    keys::{Claim, Claimed},
    model::{NewItem, NewOrder, OrderInput, OrderItem},
    store::{Draft, Inserted},
};
use crate::http::{IdempotencyKey, Problem, RequestContext, Result};

/// An order as it was placed.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) id: String,
    /// The order.
    pub(super) json: String,
}

impl Orders {
    /// Places an order. With a key that has an answer already, it returns that answer.
    pub(super) async fn place(
        &self,
        context: &RequestContext,
        customer_id: String,
        key: Option<IdempotencyKey>,
        new: NewOrder,
    ) -> Result<Placed> {
        new.check()?;
        let claim = match key {
            None => None,
            Some(key) => match self.keys.claim(&customer_id, &key, &new).await? {
                Claimed::Answered(placed) => return Ok(placed),
                Claimed::First(claim) => Some(claim),
            },
        };
        let placed = self.place_once(context, customer_id, new, claim.as_ref()).await;
        if let (Err(_), Some(claim)) = (&placed, &claim)
            && let Err(error) = self.keys.free(claim).await
        {
            tracing::warn!(%error, "an idempotency key stays taken until its claim lapses");
        }
        placed
    }

    async fn place_once(
        &self,
        context: &RequestContext,
        customer_id: String,
        new: NewOrder,
        claim: Option<&Claim>,
    ) -> Result<Placed> {
        let prepared = tokio::time::timeout(PREPARING_TIMEOUT, self.prepare(context, &new.items)).await;
        let (currency, items) = prepared.map_err(|_| {
            let detail = "the products service is too slow; try again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "products_unavailable", detail)
        })??;
        let draft = Draft {
            customer_id,
            currency,
            // Bounded by the limits on items, quantity and price: at most 5 × 10¹².
            total_cents: items.iter().map(|item| item.unit_price_cents * item.quantity).sum(),
            input: OrderInput { note: new.note, shipping_address: new.shipping_address },
            items,
        };
        match self.store.insert(&draft, claim).await {
            Ok(Inserted { placed, owed }) => {
                // The client need not wait for this.
                let (orders, context) = (self.clone(), context.clone());
                let confirm = async move { orders.carry_out(&context, &owed).await };
                tokio::spawn(confirm.in_current_span());
                Ok(placed)
            }
            Err(problem) => {
                self.release(context, &draft.items).await;
                Err(problem)
            }
        }
    }

    /// Gives back the stock of an order that is not written. A failed release leaves a reservation that expires.
    async fn release(&self, context: &RequestContext, items: &[OrderItem]) {
        for OrderItem { product_id, reservation_id, .. } in items {
            if let Err(error) = self.catalog.release(context, product_id, reservation_id).await {
                tracing::warn!(%error, product_id, reservation_id, "reserved stock is not released, it will expire");
                if matches!(error, CatalogError::Unavailable(_)) {
                    return;
                }
            }
        }
    }

    async fn prepare(&self, context: &RequestContext, items: &[NewItem]) -> Result<(String, Vec<OrderItem>)> {
        let offers = self.look_up(context, items).await?;
        let currency = common_currency(&offers)?;
        Ok((currency, self.reserve(context, items, &offers).await?))
    }

    /// Makes all refusals, before any stock is touched.
    async fn look_up(&self, context: &RequestContext, items: &[NewItem]) -> Result<Vec<Offer>> {
        let mut offers = Vec::with_capacity(items.len());
        for item in items {
            // Only an id may become a part of a path.
            if Uuid::try_parse(&item.product_id).is_err() {
                return Err(CatalogError::UnknownProduct { product_id: item.product_id.clone() }.into());
            }
            let offer = self.catalog.offer(context, &item.product_id).await?;
            if offer.stock < item.quantity {
                let available = Some(offer.stock);
                return Err(CatalogError::InsufficientStock { product_id: offer.id, available }.into());
            }
            offers.push(offer);
        }
        Ok(offers)
    }

    async fn reserve(
        &self,
        context: &RequestContext,
        items: &[NewItem],
        offers: &[Offer],
    ) -> Result<Vec<OrderItem>> {
        let mut reserved = Vec::with_capacity(items.len());
        for (item, offer) in items.iter().zip(offers) {
            let wanted = OrderItem {
                product_id: offer.id.clone(),
                product_name: offer.name.clone(),
                unit_price_cents: offer.price_cents,
                quantity: item.quantity,
                reservation_id: Uuid::now_v7().to_string(),
            };
            let done = self.catalog.reserve(context, &offer.id, &wanted.reservation_id, item.quantity).await;
            // Without an answer, the reservation may exist or may still arrive.
            let refused = matches!(
                done,
                Err(CatalogError::UnknownProduct { .. } | CatalogError::InsufficientStock { .. })
            );
            if !refused {
                reserved.push(wanted);
            }
            if let Err(error) = done {
                self.release(context, &reserved).await;
                return Err(error.into());
            }
        }
        Ok(reserved)
    }
}

/// A total exists only in one currency.
fn common_currency(offers: &[Offer]) -> Result<String> {
    let currencies: BTreeSet<&str> = offers.iter().map(|offer| offer.currency.as_str()).collect();
    match currencies.first() {
        Some(currency) if currencies.len() == 1 => Ok((*currency).to_owned()),
        _ => {
            let list: Vec<_> = currencies.into_iter().collect();
            let detail = format!("the items have different currencies: {}", list.join(", "));
            Err(Problem::unprocessable("mixed_currencies", detail))
        }
    }
}

/// An order of many items at a slow products service. Below the time for which an idempotency key is claimed.
const PREPARING_TIMEOUT: Duration = Duration::from_secs(20);

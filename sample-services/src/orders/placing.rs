//! Placing an order: look up every product, set stock aside, write the order; on failure give the stock back.
//!
//! This is not a saga: if the process dies between reserving and writing, the stock stays reserved.

use std::collections::BTreeSet;

use super::{
    Orders,
    catalog::{CatalogError, Offer},
    model::{NewItem, NewOrder, Order, OrderInput, OrderItem},
    store::Draft,
};
use crate::http::{Problem, RequestContext, Result};

impl Orders {
    pub(super) async fn place(
        &self,
        context: &RequestContext,
        customer_id: String,
        new: NewOrder,
    ) -> Result<Order> {
        new.check()?;
        let offers = self.look_up(context, &new.items).await?;
        let currency = common_currency(&offers)?;
        let items = self.reserve(context, &new.items, &offers).await?;
        let draft = Draft {
            customer_id,
            currency,
            // Bounded by the limits on items, quantity and price: at most 5 × 10¹².
            total_cents: items.iter().map(|item| item.unit_price_cents * item.quantity).sum(),
            input: OrderInput { note: new.note, shipping_address: new.shipping_address },
            items,
        };
        match self.store.insert(&draft).await {
            Ok(order) => Ok(order),
            Err(error) => {
                self.release(context, &draft.items).await;
                Err(error.into())
            }
        }
    }

    /// Gives the stock of these items back. What cannot be given back is logged for people to put right.
    pub(super) async fn release(&self, context: &RequestContext, items: &[OrderItem]) {
        for OrderItem { product_id, reservation_id, .. } in items {
            if let Err(error) = self.catalog.release(context, product_id, reservation_id).await {
                tracing::error!(%error, product_id, reservation_id, "reserved stock was not given back");
            }
        }
    }

    /// Everything that can be refused is refused here, before any stock is touched.
    async fn look_up(&self, context: &RequestContext, items: &[NewItem]) -> Result<Vec<Offer>> {
        let mut offers = Vec::with_capacity(items.len());
        for item in items {
            // What is not an id must not become part of a path.
            if uuid::Uuid::try_parse(&item.product_id).is_err() {
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
            match self.catalog.reserve(context, &offer.id, item.quantity).await {
                Ok(reservation) => reserved.push(OrderItem {
                    product_id: offer.id.clone(),
                    product_name: offer.name.clone(),
                    unit_price_cents: offer.price_cents,
                    quantity: item.quantity,
                    reservation_id: reservation.id,
                }),
                Err(error) => {
                    self.release(context, &reserved).await;
                    return Err(error.into());
                }
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

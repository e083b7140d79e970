//! The life of an order:
//!
//! ```text
//! pending ──▶ confirmed ──▶ paid ──▶ shipped ──▶ delivered
//!    └────────────┴──────────┴──▶ cancelled
//! ```

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{http::Problem, rows::stored_by_name};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OrderStatus {
    Pending,
    Confirmed,
    Paid,
    Shipped,
    Delivered,
    Cancelled,
}

stored_by_name!(OrderStatus {
    Pending = "pending",
    Confirmed = "confirmed",
    Paid = "paid",
    Shipped = "shipped",
    Delivered = "delivered",
    Cancelled = "cancelled",
});

impl OrderStatus {
    /// The steps that may follow; none after the end.
    pub fn next_steps(self) -> &'static [Self] {
        match self {
            Self::Pending => &[Self::Confirmed, Self::Cancelled],
            Self::Confirmed => &[Self::Paid, Self::Cancelled],
            Self::Paid => &[Self::Shipped, Self::Cancelled],
            Self::Shipped => &[Self::Delivered],
            Self::Delivered | Self::Cancelled => &[],
        }
    }

    /// 409 with the allowed steps unless `to` may follow.
    pub fn check_step(self, to: Self) -> Result<(), Problem> {
        if self.next_steps().contains(&to) {
            return Ok(());
        }
        let detail = format!("a {} order cannot become {}", self.name(), to.name());
        let allowed: Vec<_> = self.next_steps().iter().map(|step| step.name()).collect();
        Err(Problem::conflict("illegal_step", detail).with("allowed", allowed))
    }

    /// As in JSON and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Paid => "paid",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::OrderStatus::{Cancelled, Confirmed, Delivered, Paid, Pending, Shipped};

    #[test]
    fn of_all_pairs_of_states_only_the_drawn_steps_are_legal() {
        let all = [Pending, Confirmed, Paid, Shipped, Delivered, Cancelled];
        let legal = [
            (Pending, Confirmed),
            (Confirmed, Paid),
            (Paid, Shipped),
            (Shipped, Delivered),
            (Pending, Cancelled),
            (Confirmed, Cancelled),
            (Paid, Cancelled),
        ];
        for from in all {
            for to in all {
                assert_eq!(from.check_step(to).is_ok(), legal.contains(&(from, to)), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn a_status_has_one_name_everywhere() {
        for status in [Pending, Confirmed, Paid, Shipped, Delivered, Cancelled] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
    }
}

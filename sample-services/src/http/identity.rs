//! The identity of the caller: the headers that the gateway sets from a verified token.
//!
//! The gateway removes these headers from what clients send, so inside the private network they can be
//! believed. A service that is reachable without the gateway must not be run like this.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Problem, Result};
use crate::rows::stored_by_name;

/// The verified user behind a request: `X-User-Id` and `X-User-Role`. 401 without the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub user_id: String,
    pub role: Role,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Customer,
    Staff,
}

stored_by_name!(Role { Customer = "customer", Staff = "staff" });

impl Caller {
    pub fn is_staff(&self) -> bool {
        self.role == Role::Staff
    }

    /// 403 for all users except staff.
    pub fn require_staff(&self) -> Result<()> {
        if self.is_staff() { Ok(()) } else { Err(Problem::forbidden("only staff may do this")) }
    }

    /// 403 for all users except the owner and staff.
    pub fn require_owner_or_staff(&self, owner_id: &str) -> Result<()> {
        if self.is_staff() || self.user_id == owner_id {
            Ok(())
        } else {
            Err(Problem::forbidden("this belongs to another user"))
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let Some(user_id) = text(USER_ID).filter(|id| !id.is_empty()) else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "identity_missing",
                "no user is known for this request; send it through the gateway, with a token",
            )
            .with_header(header::WWW_AUTHENTICATE, "Bearer realm=\"api\""));
        };
        // The header may hold a list when the token does; one staff role is enough.
        let staff = text(USER_ROLE)
            .is_some_and(|roles| roles.split([' ', ',']).any(|role| role.eq_ignore_ascii_case("staff")));
        Ok(Self { user_id: user_id.to_owned(), role: if staff { Role::Staff } else { Role::Customer } })
    }
}

/// The `sub` claim.
const USER_ID: &str = "x-user-id";
/// The `role` claim.
const USER_ROLE: &str = "x-user-role";

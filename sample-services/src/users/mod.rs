//! The users service: accounts, and tokens for their passwords.
//!
//! Signing up and logging in are open; an account is read and changed by its owner and by staff, and only staff
//! list accounts or give roles. `If-Match` is honoured where a client sends it and not required: an account
//! has one owner, and the write is refused with 409 in the rare case of two at once.

mod handlers;
mod login;
mod model;
mod password;
mod store;
mod token;

use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::token::scope_of;
pub use self::{
    login::{Credentials, Token},
    model::{NewUser, User, UserInput, UserPatch},
    token::{TokenKey, TokenSigner},
};
use self::{model::SORT_KEYS, password::Passwords, store::UserStore};
use crate::{database::Database, http::describe_sort, rows::migrator};

/// The tables of this service.
pub static SCHEMA: LazyLock<Migrator> =
    LazyLock::new(|| migrator(&[(1, "users", include_str!("../../migrations/users/0001_users.sql"))]));

/// `signer` is `None` where no signing key is configured; then every login fails.
pub fn router(database: Database, signer: Option<TokenSigner>) -> OpenApiRouter {
    let users = Users { store: UserStore::new(database), passwords: Passwords::default(), signer };
    let mut router = OpenApiRouter::new()
        .routes(routes!(handlers::create, handlers::list))
        .routes(routes!(handlers::fetch, handlers::replace, handlers::patch, handlers::remove))
        .routes(routes!(login::login))
        .with_state(users);
    describe_sort(router.get_openapi_mut(), "/users", SORT_KEYS);
    router
}

/// The state that the handlers share.
#[derive(Debug, Clone)]
struct Users {
    store: UserStore,
    passwords: Passwords,
    signer: Option<TokenSigner>,
}

//! An account. The password hash stays in `store`; no type that is serialized has a place for it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    http::{ColumnKind, FieldErrors, Result, Role, SortKey},
    rows::read_from_row,
    timestamp::Timestamp,
};

#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0198f2c4-7b1e-7000-8000-000000000001",
    "email": "ada@example.org",
    "name": "Ada",
    "role": "customer",
    "version": 1,
    "created_at": "2026-01-31T12:00:00.000000Z",
    "updated_at": "2026-01-31T12:00:00.000000Z",
}))]
pub struct User {
    pub id: String,
    pub email: String,
    pub name: String,
    pub role: Role,
    /// Counts changes; the number in `ETag`.
    pub version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

read_from_row!(User { id, email, name, role, version, created_at, updated_at });

/// A sign-up. The role is always `customer`; only staff give another one, later.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ada@example.org", "name": "Ada", "password": "correct horse"}))]
pub struct NewUser {
    #[schema(format = Email, max_length = 254)]
    pub email: String,
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub name: String,
    #[schema(format = Password, min_length = 8, max_length = 200)]
    pub password: String,
}

/// The fields of an existing account in PUT.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"email": "ada@example.org", "name": "Ada Lovelace", "role": "customer"}))]
pub struct UserInput {
    #[schema(format = Email, max_length = 254)]
    pub email: String,
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub name: String,
    #[serde(default)]
    pub role: Role,
    /// A new password; without it, the old one stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = Password, min_length = 8, max_length = 200)]
    pub password: Option<String>,
}

/// The fields to change, as a merge patch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Ada Lovelace"}))]
pub struct UserPatch {
    #[serde(default)]
    #[schema(format = Email, max_length = 254)]
    pub email: String,
    #[serde(default)]
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub name: String,
    /// Staff only. `null`: customer.
    #[serde(default)]
    pub role: Option<Role>,
    /// With `null`, or without the field, the old one stays.
    #[serde(default)]
    #[schema(format = Password, min_length = 8, max_length = 200)]
    pub password: Option<String>,
}

impl NewUser {
    pub fn check(&self) -> Result<()> {
        check_fields(&self.email, &self.name, Some(&self.password))
    }
}

impl UserInput {
    pub fn check(&self) -> Result<()> {
        check_fields(&self.email, &self.name, self.password.as_deref())
    }
}

impl From<User> for UserInput {
    fn from(user: User) -> Self {
        Self { email: user.email, name: user.name, role: user.role, password: None }
    }
}

/// One spelling per address, so that an address is unique in any spelling.
pub(super) fn canonical_email(email: &str) -> String {
    email.trim().to_lowercase()
}

fn check_fields(email: &str, name: &str, password: Option<&str>) -> Result<()> {
    let mut errors = FieldErrors::default();
    errors.check(is_email(&canonical_email(email)), "email", "must be an e-mail address");
    errors.check_text("name", name, 1, 200);
    let fits = password.is_none_or(|password| (8..=200).contains(&password.chars().count()));
    errors.check(fits, "password", "must be 8 to 200 characters");
    errors.into_result()
}

/// Something on both sides of one `@`. Only a mail that arrives proves more.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    // RFC 5321 §4.5.3.1.
    (1..=64).contains(&local.len())
        && text.len() <= 254
        && !domain.contains('@')
        && domain.split('.').all(|label| !label.is_empty())
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

pub(super) const SORT_KEYS: &[SortKey] = &[
    SortKey { name: "email", column: "email", kind: ColumnKind::Text },
    SortKey { name: "name", column: "name", kind: ColumnKind::Text },
    SortKey { name: "created_at", column: "created_at", kind: ColumnKind::Integer },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_both_sides_of_one_at_sign() {
        for (text, valid) in [
            ("ada@example.org", true),
            ("a@localhost", true),
            ("", false),
            ("ada", false),
            ("@example.org", false),
            ("ada@", false),
            ("ada@@example.org", false),
            ("ada@example..org", false),
            ("a da@example.org", false),
        ] {
            assert_eq!(is_email(text), valid, "{text:?}");
        }
        assert!(is_email(&format!("{}@example.org", "a".repeat(64))));
        assert!(!is_email(&format!("{}@example.org", "a".repeat(65))));
    }
}

//! Password hashes: argon2id (RFC 9106) with 19 MiB, two passes and a random salt, OWASP's first choice.
//!
//! A hash takes tens of milliseconds of one core by design, so it runs off the request threads, at most
//! [`HASHES_AT_ONCE`] at a time; the others wait, and memory stays bounded under a flood of logins.

use std::sync::Arc;

use argon2::{Argon2, PasswordHasher, PasswordVerifier, password_hash::phc::PasswordHash};
use tokio::sync::Semaphore;

use crate::http::{Problem, Result};

/// Hashes and verifies passwords. Cloning shares the limit.
#[derive(Debug, Clone)]
pub(super) struct Passwords {
    permits: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(HASHES_AT_ONCE)) }
    }
}

impl Passwords {
    /// The hash in PHC string format, salt and parameters included.
    pub(super) async fn hash(&self, password: String) -> Result<String> {
        let hash = self.off_thread(move || Argon2::default().hash_password(password.as_bytes())).await?;
        let hash: PasswordHash = hash.map_err(|error| Problem::internal(&error))?;
        Ok(hash.to_string())
    }

    /// Whether `password` matches `hash`. Without a hash the answer is no, after the same work: the time must
    /// not show whether an account exists.
    pub(super) async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        let Some(hash) = hash else {
            return self.hash(password).await.map(|_| false);
        };
        self.off_thread(move || {
            PasswordHash::new(&hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
        })
        .await
    }

    async fn off_thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|error| Problem::internal(&error))?;
        let work = move || {
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(&error))
    }
}

/// Two times 19 MiB.
const HASHES_AT_ONCE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_password_that_was_hashed_matches_and_no_two_hashes_are_equal() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert_ne!(hash, passwords.hash("correct horse".to_owned()).await.unwrap());
        for (password, hash, matches) in [
            ("correct horse", Some(hash.clone()), true),
            ("correct horsf", Some(hash.clone()), false),
            ("", Some(hash), false),
            ("correct horse", Some("not a hash".to_owned()), false),
            ("correct horse", None, false),
        ] {
            assert_eq!(passwords.verify(password.to_owned(), hash).await.unwrap(), matches, "{password:?}");
        }
    }
}

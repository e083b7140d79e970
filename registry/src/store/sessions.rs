//! Sessions, which own the locks of keys. A session ends when it is destroyed, when it is not renewed in time, or when a check
//! that it depends on turns critical or is removed. Then its keys are released or deleted, and cannot be locked for the lock
//! delay.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::store::table::{Rows, Table};
use crate::store::{Store, StoreError};
use crate::types::CheckStatus;

/// What happens to the keys of a session that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Behavior {
    Release,
    Delete,
}

impl Behavior {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Delete => "delete",
        }
    }
}

/// A session as a client requests it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NewSession {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The node; empty means the registry's own.
    pub(crate) node: String,
    pub(crate) lock_delay: Duration,
    pub(crate) behavior: Behavior,
    /// The TTL as it was sent, and its meaning.
    pub(crate) ttl: (String, Option<Duration>),
    pub(crate) node_checks: Vec<String>,
    pub(crate) service_checks: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) wanted: NewSession,
    pub(crate) index: u64,
    #[serde(skip)]
    expires_at: Option<Instant>,
}

impl Session {
    /// Starts or restarts the session's time.
    fn start(&mut self, now: Instant) {
        self.expires_at = self.wanted.ttl.1.map(|ttl| now + ttl * EXPIRES_AFTER_TTLS);
    }

    /// The checks that it depends on, at its node.
    fn checks(&self) -> impl Iterator<Item = &String> {
        self.wanted.node_checks.iter().chain(&self.wanted.service_checks)
    }

    fn is_at(&self, node: &str) -> bool {
        self.wanted.node.to_lowercase() == node.to_lowercase()
    }
}

/// All sessions, by id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    by_id: Table<String, Session>,
    pub(super) index: u64,
}

impl Sessions {
    pub(crate) fn get(&self, id: &str) -> Option<&Session> {
        self.by_id.get(id)
    }

    pub(crate) fn list(&self) -> impl Iterator<Item = &Session> {
        self.by_id.values()
    }

    /// The index of every query about sessions.
    pub(crate) fn index(&self) -> u64 {
        self.index.max(1)
    }

    /// The table for the journal.
    pub(super) fn rows(&mut self) -> &mut dyn Rows {
        &mut self.by_id
    }

    /// Starts the time of every session again.
    pub(super) fn resume(&mut self, now: Instant) {
        self.by_id.values_mut_quietly().for_each(|session| session.start(now));
    }

    pub(super) fn overdue(&self, now: Instant) -> Vec<String> {
        let late = |session: &&Session| session.expires_at.is_some_and(|expires_at| expires_at <= now);
        self.by_id.values().filter(late).map(|session| session.wanted.id.clone()).collect()
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.by_id.values().filter_map(|session| session.expires_at).min()
    }
}

impl Store {
    /// Begins a session. Its node and its checks must exist, and none of the checks may be critical.
    pub(crate) fn create_session(&mut self, mut wanted: NewSession, now: Instant) -> Result<(), StoreError> {
        Self::within("sessions", self.sessions.by_id.len() + 1, self.limits.sessions)?;
        if wanted.node.is_empty() {
            wanted.node.clone_from(&self.own);
        }
        let Some(node) = self.node(&wanted.node) else {
            return Err(StoreError::Refused("Missing node registration".to_owned()));
        };
        wanted.node.clone_from(&node.definition.name);
        for id in wanted.node_checks.iter().chain(&wanted.service_checks) {
            match self.check_at(&wanted.node, id).map(|check| check.status) {
                None => return Err(StoreError::Refused(format!("Missing check '{id}' registration"))),
                Some(CheckStatus::Critical) => {
                    return Err(StoreError::Refused(format!("Check '{id}' is in critical state")));
                }
                Some(_) => {}
            }
        }
        self.index += 1;
        self.sessions.index = self.index;
        let mut session = Session { index: self.index, expires_at: None, wanted };
        session.start(now);
        self.sessions.by_id.insert(session.wanted.id.clone(), session);
        Ok(())
    }

    /// Restarts the session's time; `None` if the session does not exist.
    pub(crate) fn renew_session(&mut self, id: &str, now: Instant) -> Option<&Session> {
        let session = self.sessions.by_id.get_mut_quietly(id)?;
        session.start(now);
        Some(session)
    }

    /// Ends a session, if it exists.
    pub(crate) fn destroy_session(&mut self, id: &str, now: Instant) {
        if self.sessions.by_id.contains_key(id) {
            self.index += 1;
            self.end_session(id, self.index, now);
        }
    }

    pub(super) fn end_sessions_of_node(&mut self, node: &str, index: u64, now: Instant) {
        self.end_sessions(|_, session| session.is_at(node), index, now);
    }

    pub(super) fn end_sessions_of_check(&mut self, node: &str, check: &str, index: u64, now: Instant) {
        let depends = |session: &Session| session.is_at(node) && session.checks().any(|id| id == check);
        self.end_sessions(|_, session| depends(session), index, now);
    }

    /// Ends the sessions of critical checks, after a registration that may have turned any number of checks critical.
    pub(super) fn end_sessions_of_critical_checks(&mut self, index: u64, now: Instant) {
        let critical = |store: &Self, session: &Session, id: &str| {
            let check = store.check_at(&session.wanted.node, id);
            check.is_none_or(|check| check.status == CheckStatus::Critical)
        };
        let doomed =
            |store: &Self, session: &Session| session.checks().any(|id| critical(store, session, id));
        self.end_sessions(doomed, index, now);
    }

    fn end_sessions(&mut self, doomed: impl Fn(&Self, &Session) -> bool, index: u64, now: Instant) {
        let ids = self.sessions.list().filter(|session| doomed(self, session));
        let ids: Vec<String> = ids.map(|session| session.wanted.id.clone()).collect();
        for id in ids {
            self.end_session(&id, index, now);
        }
    }

    fn end_session(&mut self, id: &str, index: u64, now: Instant) {
        let Some(session) = self.sessions.by_id.remove(id) else { return };
        self.sessions.index = index;
        let delay = session.wanted.lock_delay.min(LOCK_DELAY_MAX);
        self.kv.end_session(id, session.wanted.behavior == Behavior::Delete, now + delay, index);
    }
}

/// Consul gives a session twice its TTL before it ends it.
const EXPIRES_AFTER_TTLS: u32 = 2;
/// Consul's maximum.
const LOCK_DELAY_MAX: Duration = Duration::from_mins(1);

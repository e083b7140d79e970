//! The changes of the agent's half of the API: services and checks of the registry's own node.

use std::time::Instant;

use crate::store::{
    CheckDefinition, CheckKind, CheckRecord, DEREGISTER_AFTER_MIN, Key, ServiceDefinition, Store, StoreError,
    TTL_EXPIRED,
};
use crate::types::CheckStatus;

impl Store {
    /// Adds a service or replaces the one with the same id, together with its checks. A check that exists
    /// already keeps its status and starts its TTL again. With `replace_checks` the service's other checks are removed.
    pub(crate) fn register_service(
        &mut self,
        definition: ServiceDefinition,
        checks: Vec<CheckDefinition>,
        replace_checks: bool,
        now: Instant,
    ) -> Result<(), StoreError> {
        let own = self.own.clone();
        let new = usize::from(self.service_at(&own, &definition.id).is_none());
        Self::within("services", self.services.len() + new, self.limits.services)?;
        let new = checks.iter().filter(|check| self.check_at(&own, &check.id).is_none()).count();
        Self::within("checks", self.checks.len() + new, self.limits.checks)?;
        let id = definition.id.clone();
        let index = self.index + 1;
        let mut changed = self.put_service(&own, definition, index);
        if replace_checks {
            let unwanted = |check: &CheckRecord| !checks.iter().any(|keep| keep.id == check.definition.id);
            changed |= self.drop_checks(&own, &id, unwanted, index, now);
        }
        for check in checks {
            changed |= self.put_check(&own, check, index, now);
        }
        if changed {
            self.index = index;
        }
        Ok(())
    }

    /// Removes a service; returns whether it existed.
    pub(crate) fn deregister_service(&mut self, id: &str, now: Instant) -> bool {
        let own = self.own.clone();
        self.service(id).is_some() && self.remove_service(&own, id, now)
    }

    /// Adds a check, or replaces the one with the same id.
    pub(crate) fn register_check(&mut self, check: CheckDefinition, now: Instant) -> Result<(), StoreError> {
        if !check.service_id.is_empty() && self.service(&check.service_id).is_none() {
            return Err(StoreError::UnknownService(check.service_id));
        }
        let own = self.own.clone();
        let new = usize::from(self.check_at(&own, &check.id).is_none());
        Self::within("checks", self.checks.len() + new, self.limits.checks)?;
        let index = self.index + 1;
        if self.put_check(&own, check, index, now) {
            self.index = index;
        }
        Ok(())
    }

    /// Removes a check; returns whether it existed.
    pub(crate) fn deregister_check(&mut self, id: &str, now: Instant) -> bool {
        let own = self.own.clone();
        self.own_check(id).is_some() && self.remove_check(&own, id, now)
    }

    /// A heartbeat: sets the status of a TTL check and starts its TTL again.
    pub(crate) fn heartbeat(
        &mut self,
        id: &str,
        status: CheckStatus,
        output: String,
        now: Instant,
    ) -> Result<(), StoreError> {
        let key = Key::new(&self.own, id);
        let check = self.checks.get_mut_quietly(&key).filter(|check| check.definition.id == id);
        let check = check.ok_or_else(|| StoreError::UnknownCheck(id.to_owned()))?;
        let CheckKind::Ttl(ttl) = check.definition.kind else {
            return Err(StoreError::NotTtl(id.to_owned()));
        };
        check.expires_at = Some(now + ttl);
        if check.output != output {
            // The heartbeat was acknowledged, so its output is journaled; the output of a probe is not, since it soon comes again.
            self.checks.mark(&key);
        }
        self.set_status(id, status, output, now);
        Ok(())
    }

    /// Records the result of a probe. It is ignored if the check does not exist any more.
    pub(crate) fn set_status(&mut self, id: &str, status: CheckStatus, output: String, now: Instant) {
        let own = self.own.clone();
        let key = Key::new(&own, id);
        let Some(check) = self.checks.get_mut_quietly(&key) else { return };
        // A new output alone wakes no query: a heartbeat every second would wake all of them every second.
        check.output = output;
        check.critical_since = match status {
            CheckStatus::Critical => check.critical_since.or(Some(now)),
            _ => None,
        };
        if check.status == status {
            return;
        }
        let Some(check) = self.checks.get_mut(&key) else { return };
        self.index += 1;
        check.status = status;
        check.modify_index = self.index;
        self.checks_index = self.index;
        let service_id = check.definition.service_id.clone();
        self.touch(&own, &service_id, self.index);
        if status == CheckStatus::Critical {
            self.end_sessions_of_check(&own, id, self.index, now);
        }
    }

    /// Turns every TTL check whose time is over critical, and ends every session that was not renewed.
    pub(crate) fn expire(&mut self, now: Instant) {
        let due = |check: &&mut CheckRecord| check.expires_at.is_some_and(|expires_at| expires_at <= now);
        let mut expired = Vec::new();
        for check in self.checks.values_mut_quietly().filter(due) {
            check.expires_at = None;
            let output = match check.output.as_str() {
                "" => TTL_EXPIRED.to_owned(),
                // The service was registered again and sent no heartbeat since, so the output already has the last one.
                before if before.starts_with(TTL_EXPIRED) => before.to_owned(),
                before => format!("{TTL_EXPIRED} (last output before timeout follows): {before}"),
            };
            expired.push((check.definition.id.clone(), output));
        }
        for (id, output) in expired {
            self.checks.mark(&Key::new(&self.own, &id));
            self.set_status(&id, CheckStatus::Critical, output, now);
        }
        for id in self.sessions.overdue(now) {
            self.destroy_session(&id, now);
        }
    }

    /// When [`Store::expire`] has something to do next.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let checks = self.checks.values().filter_map(|check| check.expires_at);
        checks.chain(self.sessions.next_expiry()).min()
    }

    /// Removes the services with a check that was critical for longer than it allows; returns their ids.
    pub(crate) fn reap(&mut self, now: Instant) -> Vec<String> {
        let overdue = |check: &&CheckRecord| {
            let (Some(since), Some(after)) = (check.critical_since, check.definition.deregister_after) else {
                return false;
            };
            now.saturating_duration_since(since) >= after.max(DEREGISTER_AFTER_MIN)
        };
        let mut ids: Vec<String> =
            self.own_checks().filter(overdue).map(|check| check.definition.service_id.clone()).collect();
        ids.dedup();
        ids.retain(|id| self.deregister_service(id, now));
        ids
    }
}

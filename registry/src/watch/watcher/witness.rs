//! A second look at empty answers: instances that the ACL token may not see still exist.

use std::time::Duration;

use tokio::time::Instant;

use crate::client::HealthAnswer;
use crate::watch::rights::Sight;
use crate::watch::watcher::{Purpose, Query, Watcher, logged};

impl Watcher {
    /// Reads, when an empty answer would be believed, what other answers of the registry show about the service.
    pub(super) async fn check_witness(&mut self, answer: &HealthAnswer, sent: &Query) -> Option<Sight> {
        let is_empty = answer.entries.is_empty() && answer.skipped.is_empty();
        if !is_empty {
            self.report_rights(None);
            return None;
        }
        let would_be_believed = match sent.purpose {
            Purpose::Confirm => true,
            // No instance can be lost, but missing rights should be reported: at the start, and now and then.
            Purpose::Follow => self.settle.has_none() && self.look_after <= Instant::now(),
            Purpose::Refresh => false,
        };
        if !would_be_believed || sent.blocking.is_some() || answer.filtered_by_acls {
            return None;
        }
        self.look_after = Instant::now() + HIDDEN_PAUSE / 2;
        let (client, target) = (self.client.clone(), self.target.clone());
        let sight = match client.sight(&target).await {
            Ok(sight) => {
                self.witness_failures = 0;
                sight
            }
            // The look is repeated, because the known instances are worth more than half a proof. If it is impossible (a proxy in
            // between admits only one path), the confirming read decides alone.
            Err(error)
                if error.may_pass()
                    && !self.settle.has_none()
                    && self.witness_failures < WITNESS_FAILURES_MAX =>
            {
                self.witness_failures += 1;
                self.report_error(&error);
                Sight::Shown
            }
            Err(_) => return None,
        };
        self.report_rights(sight.missing_rights(&self.target.service));
        Some(sight)
    }

    /// Waits for the answer to a query, and meanwhile releases instances that are held. A blocking query is given up when the token
    /// changes, because the token that it was sent with decides what it may see.
    pub(super) async fn wait_for<T>(
        &mut self,
        call: impl Future<Output = T>,
        is_blocking: bool,
    ) -> Option<Waited<T>> {
        let mut call = std::pin::pin!(call);
        let client = self.client.clone();
        let mut another_token = std::pin::pin!(client.another_token());
        loop {
            tokio::select! {
                outcome = &mut call => return Some(Waited::Answered(outcome)),
                () = &mut another_token, if is_blocking => return Some(Waited::OtherToken),
                () = super::until(self.settle.next(Instant::now())) => self.release().await?,
            }
        }
    }

    /// Reports a lost right that the answer itself shows, by its mark or by its index.
    pub(super) fn report_lost_right(&mut self, filtered: bool) {
        let sentence = if filtered { logged::filtered } else { logged::lost_right };
        self.report_rights(Some(sentence(&self.target.service)));
    }

    fn report_rights(&mut self, missing: Option<String>) {
        if self.logged.has_logged(missing.as_deref()) {
            return;
        }
        self.logged.rights(&self.target.service, missing.as_deref(), !self.settle.has_none());
        self.report.record(|stats| stats.missing_rights = missing);
    }
}

/// The pause before a hidden service is read again: Consul does not answer a pending query when a right is given back.
pub(super) fn until_rights_change() -> Duration {
    super::jittered(HIDDEN_PAUSE)
}

/// How the wait for an answer ended.
pub(super) enum Waited<T> {
    /// The query was answered, or failed.
    Answered(T),
    /// The token changed.
    OtherToken,
}

/// After so many failures in a row the second look is given up: a proxy in between admits only reads of instances.
const WITNESS_FAILURES_MAX: u32 = 5;
/// Two or three reads of each hidden service in this time; its known instances stay in use meanwhile.
const HIDDEN_PAUSE: Duration = Duration::from_secs(15);

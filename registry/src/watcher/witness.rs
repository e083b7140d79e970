//! A second witness for empty answers: what the ACL token may not see is not gone.

use std::time::Duration;

use tokio::time::Instant;

use crate::client::HealthAnswer;
use crate::rights::Sight;
use crate::watcher::{Asked, Purpose, Watcher, said};

impl Watcher {
    /// Asks, where an empty answer would be believed, what else the registry says of the service.
    pub(super) async fn ask_witness(&mut self, answer: &HealthAnswer, asked: &Asked) -> Option<Sight> {
        let is_empty = answer.entries.is_empty() && answer.skipped.is_empty();
        if !is_empty {
            self.tell_rights(None);
            return None;
        }
        let would_be_believed = match asked.purpose {
            Purpose::Confirm => true,
            // Nothing to lose, but perhaps something to say: at the start, and now and then.
            Purpose::Follow => self.settle.has_none() && self.look_after <= Instant::now(),
            Purpose::Refresh => false,
        };
        if !would_be_believed || asked.blocking.is_some() || answer.filtered_by_acls {
            return None;
        }
        self.look_after = Instant::now() + HIDDEN_PAUSE / 2;
        let (client, target) = (self.client.clone(), self.target.clone());
        let sight = match client.sight(&target).await {
            Ok(sight) => {
                self.witness_failures = 0;
                sight
            }
            // It is asked again: what is known is worth more than half a testimony. Where the witness may not be asked at all
            // (a proxy in between that admits one path), the confirming read counts alone.
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
        self.tell_rights(sight.missing_rights(&self.target.service));
        Some(sight)
    }

    /// Waits for the answer to a query, and lets instances in meanwhile. A query that waits for news is given up for another
    /// token: what it may see is decided by the one that it was asked with.
    pub(super) async fn wait_for<T>(
        &mut self,
        call: impl Future<Output = T>,
        is_blocking: bool,
    ) -> Option<Outcome<T>> {
        let mut call = std::pin::pin!(call);
        let client = self.client.clone();
        let mut another_token = std::pin::pin!(client.another_token());
        loop {
            tokio::select! {
                outcome = &mut call => return Some(Outcome::Answered(outcome)),
                () = &mut another_token, if is_blocking => return Some(Outcome::OtherToken),
                () = super::until(self.settle.next(Instant::now())) => self.release().await?,
            }
        }
    }

    /// An answer with a word, or at an index, that says it itself.
    pub(super) fn tell_lost_right(&mut self, filtered: bool) {
        let say = if filtered { said::filtered } else { said::lost_right };
        self.tell_rights(Some(say(&self.target.service)));
    }

    fn tell_rights(&mut self, missing: Option<String>) {
        if self.said.has_said(missing.as_deref()) {
            return;
        }
        self.said.rights(&self.target.service, missing.as_deref(), !self.settle.has_none());
        self.report.record(|stats| stats.missing_rights = missing);
    }
}

/// After this a hidden service is looked for again: a right that is given back wakes no query.
pub(super) fn until_rights_change() -> Duration {
    super::jittered(HIDDEN_PAUSE)
}

/// How the wait for an answer ended.
pub(super) enum Outcome<T> {
    Answered(T),
    OtherToken,
}

/// A witness that cannot be asked so often in a row is none: something in between admits only the reads of instances.
const WITNESS_FAILURES_MAX: u32 = 5;
/// Two or three reads of each hidden service in this time; what it had stays in use meanwhile.
const HIDDEN_PAUSE: Duration = Duration::from_secs(15);

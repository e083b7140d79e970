//! The desk of a provider: requests whose token no known key verifies wait here for a fetch of the provider's keys.
//!
//! The known keys may be older than the token's key. So the token is neither valid nor invalid until a fetch has ended that
//! began after the request arrived. [`KeyDesk::ask`] returns a [`Question`], which receives the end of each fetch: the
//! control loop reports the end when the snapshot with the fetched keys is published. If a fetch is running, its result may
//! be sufficient; if none is running, or if the result was not sufficient ([`Question::insist`]), the question requests
//! another one. The control plane decides when a fetch may begin (`control/keys/pace.rs`), so that requests cannot make the
//! gateway flood an issuer, however many they are.
//!
//! There is one desk for each provider and source, shared by the workers and the control thread. A request with a known
//! token does not use it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::sync::{Notify, watch};

/// The kind of client that sent the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A client that has sent a valid token lately.
    Regular,
    /// Any other client.
    Stranger,
}

/// The requests for fetches of one provider's keys, and the progress of these fetches.
#[derive(Debug, Default)]
pub struct KeyDesk {
    /// Set by requests, and cleared when a fetch begins.
    regular: AtomicBool,
    stranger: AtomicBool,
    asked: Notify,
    progress: watch::Sender<Progress>,
    report: watch::Sender<FetchReport>,
}

/// The progress of fetches, which are numbered from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    begun: u64,
    /// The number of the last fetch that has ended, with its keys in the published snapshot.
    ended: u64,
    /// The last fetch brought no keys.
    failed: bool,
}

/// The state of a provider's fetches, for status pages. Times are wall time since the Unix epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// The time when the keys in use were fetched last.
    pub fetched: Option<Duration>,
    /// The keys in use were saved by an earlier process.
    pub is_kept: bool,
    pub good: u64,
    pub failed: u64,
    /// The error of the last fetch.
    pub error: Option<String>,
    /// The time when the next fetch begins, if no token causes one before.
    pub next: Option<Duration>,
}

/// The result of a fetch, as a question sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The fetch began before the question, so its keys may be older than the token's.
    Older,
    /// The fetch began after the question. The issuer does not vouch for a key that is not among its keys.
    Newer,
    Failed,
}

impl KeyDesk {
    /// Requests a fetch unless one is running. `None`: the last one has failed and none is running, so waiting is pointless
    /// now.
    pub fn ask(&self, asker: Asker) -> Option<Question<'_>> {
        let mut progress = self.progress.subscribe();
        // Read before the flag is set: a fetch that begins in between counts as newer, and one more does no harm.
        let now = *progress.borrow_and_update();
        let is_under_way = now.begun > now.ended;
        if !is_under_way {
            self.raise(asker);
        }
        let question = Question { desk: self, asker, progress, begun: now.begun, ended: now.ended };
        (is_under_way || !now.failed).then_some(question)
    }

    fn raise(&self, asker: Asker) {
        let flag = match asker {
            Asker::Regular => &self.regular,
            Asker::Stranger => &self.stranger,
        };
        if !flag.swap(true, Ordering::AcqRel) {
            self.asked.notify_one();
        }
    }

    /// The kind of client that has requested a fetch since the last one began.
    pub(crate) fn asker(&self) -> Option<Asker> {
        match (self.regular.load(Ordering::Acquire), self.stranger.load(Ordering::Acquire)) {
            (true, _) => Some(Asker::Regular),
            (false, true) => Some(Asker::Stranger),
            (false, false) => None,
        }
    }

    /// Waits for the first request for a fetch since the last one began.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Marks the beginning of a fetch, for all requests that wait. Returns its number.
    pub(crate) fn begin(&self) -> u64 {
        // The flags are cleared before the number is raised. So a request that reads the new number and then sets a flag
        // requests the next fetch.
        for flag in [&self.regular, &self.stranger] {
            flag.swap(false, Ordering::AcqRel);
        }
        let mut number = 0;
        self.progress.send_modify(|progress| {
            progress.begun += 1;
            number = progress.begun;
        });
        number
    }

    /// Marks the end of a fetch whose keys, if any, are published.
    pub fn end(&self, number: u64, failed: bool) {
        self.progress.send_modify(|progress| {
            progress.ended = progress.ended.max(number);
            progress.failed = failed;
        });
    }

    /// Ends all waiting: there will be no other fetch, because the provider has another source or is gone.
    pub fn close(&self) {
        self.end(u64::MAX, true);
    }

    /// The state of the provider's fetches.
    pub fn report(&self) -> FetchReport {
        self.report.borrow().clone()
    }

    /// Changes the state that [`KeyDesk::report`] returns.
    pub fn record(&self, change: impl FnOnce(&mut FetchReport)) {
        self.report.send_modify(change);
    }
}

/// A request that waits for a fetch.
#[derive(Debug)]
pub struct Question<'a> {
    desk: &'a KeyDesk,
    asker: Asker,
    progress: watch::Receiver<Progress>,
    /// The number of the last fetch that had begun when the question was made.
    begun: u64,
    /// The number of the last fetch whose end was received.
    ended: u64,
}

impl Question<'_> {
    /// Requests another fetch, because the keys of the last one were not sufficient.
    pub fn insist(&self) {
        self.desk.raise(self.asker);
    }

    /// Waits for the next end of a fetch.
    pub async fn end(&mut self) -> End {
        let known = self.ended;
        // The desk owns the sender, so the error never occurs.
        let Ok(progress) = self.progress.wait_for(|progress| progress.ended > known).await.map(|now| *now)
        else {
            return End::Failed;
        };
        self.ended = progress.ended;
        match progress {
            Progress { failed: true, .. } => End::Failed,
            Progress { ended, .. } if ended > self.begun => End::Newer,
            Progress { .. } => End::Older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_fetch_that_began_after_the_question_answers_it() {
        let desk = KeyDesk::default();
        assert_eq!(desk.begin(), 1);
        let mut question = desk.ask(Asker::Stranger).unwrap();
        assert_eq!(desk.asker(), None, "the one under way may bring the answer");
        desk.end(1, false);
        assert_eq!(question.end().await, End::Older);
        question.insist();
        assert_eq!(desk.asker(), Some(Asker::Stranger));
        assert_eq!(desk.begin(), 2);
        desk.end(2, false);
        assert_eq!(question.end().await, End::Newer);
    }

    #[tokio::test]
    async fn a_question_hears_of_the_last_of_several_ends() {
        let desk = KeyDesk::default();
        let mut question = desk.ask(Asker::Regular).unwrap();
        for number in 1..=3 {
            assert_eq!(desk.begin(), number);
            desk.end(number, number == 2);
        }
        assert_eq!(question.end().await, End::Newer);
        let mut late = desk.ask(Asker::Regular).unwrap();
        desk.close();
        assert_eq!(late.end().await, End::Failed);
    }

    #[test]
    fn after_a_failure_there_is_nothing_to_wait_for_until_a_fetch_is_under_way() {
        let desk = KeyDesk::default();
        assert!(desk.ask(Asker::Stranger).is_some(), "the first one is about to begin");
        let number = desk.begin();
        desk.end(number, true);
        assert!(desk.ask(Asker::Stranger).is_none());
        assert_eq!(desk.asker(), Some(Asker::Stranger), "it has asked all the same");
        desk.begin();
        assert!(desk.ask(Asker::Stranger).is_some());
    }

    #[test]
    fn a_fetch_that_begins_is_for_all_who_have_asked() {
        let desk = KeyDesk::default();
        assert_eq!(desk.asker(), None);
        desk.ask(Asker::Stranger);
        desk.ask(Asker::Regular);
        assert_eq!(desk.asker(), Some(Asker::Regular));
        desk.begin();
        assert_eq!(desk.asker(), None);
    }
}

//! The meeting place of requests whose token no known key verifies, and the fetches of their provider's keys.
//!
//! The known set may be older than the token's key, so the token is neither valid nor invalid until a fetch is over that began
//! after the request had come. [`KeyDesk::ask`] gives a [`Question`], which learns of each fetch that ends: the control loop
//! reports the end when the snapshot with the fetched keys is published. If a fetch is running, its end may be answer enough;
//! otherwise, or if it was not ([`Question::insist`]), another one is asked for. The control plane decides when a fetch may
//! begin (`control/keys/pace.rs`), so requests cannot make the gateway hammer an issuer, however many there are.
//!
//! There is one desk for each provider and source, shared by the workers and the control thread. A request with a known token
//! never comes here.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::sync::{Notify, watch};

/// Whose token it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A client that has shown a good token lately.
    Regular,
    Stranger,
}

#[derive(Debug, Default)]
pub struct KeyDesk {
    /// Set by requests, cleared by the fetch that begins.
    regular: AtomicBool,
    stranger: AtomicBool,
    asked: Notify,
    progress: watch::Sender<Progress>,
    report: watch::Sender<FetchReport>,
}

/// Numbers of fetches, from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    begun: u64,
    /// The last one that is over, with its keys in the published snapshot.
    ended: u64,
    /// It brought no keys.
    failed: bool,
}

/// What is known of a provider's fetches, for people. Times are wall time since the Unix epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// When the keys in use were fetched last.
    pub fetched: Option<Duration>,
    /// The keys in use are those that an earlier process has kept.
    pub is_kept: bool,
    pub good: u64,
    pub failed: u64,
    /// Of the last fetch.
    pub error: Option<String>,
    /// When the next one begins, if no token asks for one before.
    pub next: Option<Duration>,
}

/// How a fetch has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It began before the question: its answer may be older than the token.
    Older,
    /// It began after the question: what it does not know, the issuer does not vouch for.
    Newer,
    Failed,
}

impl KeyDesk {
    /// Asks for a fetch unless one is under way. `None`: the last one has failed and none is under way, so there is nothing to
    /// wait for now.
    pub fn ask(&self, asker: Asker) -> Option<Question<'_>> {
        let mut progress = self.progress.subscribe();
        // Read before the flag is set: a fetch that begins in between is a newer one, and one more is no harm.
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

    /// The kind of request that has asked since the last fetch began.
    pub(crate) fn asker(&self) -> Option<Asker> {
        match (self.regular.load(Ordering::Acquire), self.stranger.load(Ordering::Acquire)) {
            (true, _) => Some(Asker::Regular),
            (false, true) => Some(Asker::Stranger),
            (false, false) => None,
        }
    }

    /// Waits for a first question since the last fetch began.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// A fetch begins, for all requests that have asked. Returns its number.
    pub(crate) fn begin(&self) -> u64 {
        // Cleared before the number is raised: a request that reads the new number and asks then, asks for the next one.
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

    /// A fetch is over, and what it brought is published.
    pub fn end(&self, number: u64, failed: bool) {
        self.progress.send_modify(|progress| {
            progress.ended = progress.ended.max(number);
            progress.failed = failed;
        });
    }

    /// There will be no other fetch: the provider has another source, or is gone.
    pub fn close(&self) {
        self.end(u64::MAX, true);
    }

    pub fn report(&self) -> FetchReport {
        self.report.borrow().clone()
    }

    pub fn record(&self, change: impl FnOnce(&mut FetchReport)) {
        self.report.send_modify(change);
    }
}

/// A request that waits.
#[derive(Debug)]
pub struct Question<'a> {
    desk: &'a KeyDesk,
    asker: Asker,
    progress: watch::Receiver<Progress>,
    /// The last fetch that had begun when it asked.
    begun: u64,
    /// The last one of whose end it knows.
    ended: u64,
}

impl Question<'_> {
    /// What the last fetch brought was no answer: asks for another one.
    pub fn insist(&self) {
        self.desk.raise(self.asker);
    }

    /// Waits for the next fetch that ends.
    pub async fn end(&mut self) -> End {
        let known = self.ended;
        // The sender is the desk's, so it is there.
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

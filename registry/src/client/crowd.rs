//! The watches of one client that found no place for a blocking query: they read their service every now and then, together
//! at most [`READS_PER_SECOND`] times a second.
//!
//! One task, which the caller brings along, follows the list of services for all of them and calls [`Crowd::wake`]. A member
//! whose service appeared, disappeared or got other tags then reads at once. The list does not show health, or a further
//! instance with the same tags; the member's next read does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Names of services in lower case, as Consul's catalog compares them, with their tags.
pub(crate) type Services = BTreeMap<String, Vec<String>>;

/// The watches of one client that poll.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By number: the service in lower case, and what wakes the member.
    members: HashMap<u64, (String, Arc<Notify>)>,
    follower: Option<JoinHandle<()>>,
}

/// A watch that polls, until it is dropped.
pub(crate) struct Member {
    crowd: Arc<Crowd>,
    number: u64,
    wake: Arc<Notify>,
}

impl Crowd {
    /// Adds a watch. `follow` starts the task that calls [`Crowd::wake`]; it is called if no such task is running.
    pub(crate) fn join(self: &Arc<Self>, service: &str, follow: impl FnOnce() -> JoinHandle<()>) -> Member {
        let wake = Arc::new(Notify::new());
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.members.insert(number, (service.to_lowercase(), Arc::clone(&wake)));
        if state.follower.is_none() {
            state.follower = Some(follow());
        }
        drop(state);
        Member { crowd: Arc::clone(self), number, wake }
    }

    /// Wakes the members whose service differs between the two lists.
    pub(crate) fn wake(&self, old: &Services, new: &Services) {
        for (service, wake) in self.lock().members.values() {
            if old.get(service) != new.get(service) {
                wake.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// How long to wait between two reads, so that all members together keep to the rate.
    pub(crate) fn interval(&self) -> Duration {
        let members = u32::try_from(self.crowd.lock().members.len()).unwrap_or(u32::MAX);
        INTERVAL_MIN.max(Duration::from_secs(1).saturating_mul(members) / READS_PER_SECOND)
    }

    /// Returns when the list of services shows a change of this service.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.crowd.lock();
        state.members.remove(&self.number);
        // The task holds a client, and the client holds this crowd: without members the task must end.
        if state.members.is_empty()
            && let Some(follower) = state.follower.take()
        {
            follower.abort();
        }
    }
}

/// Reads are small and quick; an agent answers thousands a second.
const READS_PER_SECOND: u32 = 20;
const INTERVAL_MIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn join(crowd: &Arc<Crowd>, service: &str) -> Member {
        crowd.join(service, || tokio::spawn(std::future::pending()))
    }

    /// Services with one tag each.
    fn list(services: &[(&str, &str)]) -> Services {
        services.iter().map(|(name, tag)| ((*name).to_owned(), vec![(*tag).to_owned()])).collect()
    }

    #[tokio::test]
    async fn all_members_together_read_at_most_twenty_times_a_second() {
        let crowd = Arc::<Crowd>::default();
        let one = join(&crowd, "web");
        assert_eq!(one.interval(), INTERVAL_MIN);
        let many: Vec<_> = (0..399).map(|n| join(&crowd, &format!("s{n}"))).collect();
        assert_eq!(one.interval(), Duration::from_secs(20));
        drop(many);
        assert_eq!(one.interval(), INTERVAL_MIN);
        drop(one);
        assert!(crowd.lock().follower.is_none(), "without members the list is not followed");
    }

    #[tokio::test]
    async fn a_member_is_woken_when_its_service_changes_in_the_list() {
        let crowd = Arc::<Crowd>::default();
        let (web, other) = (join(&crowd, "Web"), join(&crowd, "other"));
        let before = list(&[("web", "a"), ("other", ""), ("consul", "")]);
        let same = list(&[("web", "a"), ("other", ""), ("new", "")]);
        let after = list(&[("web", "b"), ("other", "")]);
        crowd.wake(&before, &same);
        crowd.wake(&same, &after);
        web.woken().await;
        let not_woken = tokio::time::timeout(Duration::from_millis(1), other.woken()).await;
        assert!(not_woken.is_err());
    }
}

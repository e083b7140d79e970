//! What watches do that found no place for a blocking query: they read their service every now and then, together
//! at most [`READS_PER_SECOND`] times a second.
//!
//! One blocking query on `catalog/services` serves all of them: when a service of theirs appears, disappears or gets
//! other tags, its watch reads at once. That list says nothing of health or of a further instance with the same
//! tags; those are seen with the next read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::catalog::{Catalog, follow_catalog};
use crate::client::Client;
use crate::follow::FollowOptions;

/// The watches of one client that poll.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By number: the service in lower case, as the catalog compares names, and whom to wake.
    members: HashMap<u64, (String, Arc<Notify>)>,
    follower: Option<JoinHandle<()>>,
}

/// One of them, until it is dropped.
pub(crate) struct Member {
    client: Client,
    number: u64,
    wake: Arc<Notify>,
}

impl Member {
    pub(crate) fn join(client: &Client, service: &str) -> Self {
        let wake = Arc::new(Notify::new());
        let mut state = client.crowd().lock();
        let number = state.next;
        state.next += 1;
        state.members.insert(number, (service.to_lowercase(), Arc::clone(&wake)));
        if state.follower.is_none() {
            state.follower = Some(tokio::spawn(follow(client.clone())));
        }
        drop(state);
        Self { client: client.clone(), number, wake }
    }

    /// How long to wait between two reads, so that all members together keep to the rate.
    pub(crate) fn interval(&self) -> Duration {
        let members = u32::try_from(self.client.crowd().lock().members.len()).unwrap_or(u32::MAX);
        INTERVAL_MIN.max(Duration::from_secs(1).saturating_mul(members) / READS_PER_SECOND)
    }

    /// Until the catalog's list says that something of this service changed.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.client.crowd().lock();
        state.members.remove(&self.number);
        // The follower holds a client, which holds this crowd: without members it must end.
        if state.members.is_empty()
            && let Some(follower) = state.follower.take()
        {
            follower.abort();
        }
    }
}

impl Crowd {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, old: &Services, new: &Services) {
        for (service, wake) in self.lock().members.values() {
            if old.get(service) != new.get(service) {
                wake.notify_one();
            }
        }
    }
}

/// Lower-case names with their tags.
type Services = BTreeMap<String, Vec<String>>;

async fn follow(client: Client) {
    let options = FollowOptions { pause_min: PAUSE, ..FollowOptions::default() };
    let (sender, mut lists) = mpsc::channel(1);
    let _following = follow_catalog(client.clone(), options, in_lower_case, sender);
    let mut known: Option<Services> = None;
    while let Some(services) = lists.recv().await {
        if let Some(known) = &known {
            client.crowd().wake(known, &services);
        }
        known = Some(services);
    }
}

fn in_lower_case(catalog: Catalog) -> Services {
    catalog.services.into_iter().map(|(name, tags)| (name.to_lowercase(), tags)).collect()
}

/// Reads are small and quick; an agent answers thousands a second.
const READS_PER_SECOND: u32 = 20;
const INTERVAL_MIN: Duration = Duration::from_secs(2);
/// In a busy datacenter this list changes all the time.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_config::ClientConfig;

    /// Services with one tag each.
    fn list(services: &[(&str, &str)]) -> Services {
        let one = |(name, tag): &(&str, &str)| ((*name).to_owned(), vec![(*tag).to_owned()]);
        in_lower_case(Catalog { services: services.iter().map(one).collect(), ..Catalog::default() })
    }

    #[tokio::test]
    async fn all_members_together_read_at_most_twenty_times_a_second() {
        let client = Client::new(ClientConfig::new("127.0.0.1:1")).unwrap();
        let one = Member::join(&client, "web");
        assert_eq!(one.interval(), INTERVAL_MIN);
        let many: Vec<_> = (0..399).map(|n| Member::join(&client, &format!("s{n}"))).collect();
        assert_eq!(one.interval(), Duration::from_secs(20));
        drop(many);
        assert_eq!(one.interval(), INTERVAL_MIN);
        drop(one);
        assert!(client.crowd().lock().follower.is_none(), "nobody is left to follow for");
    }

    #[tokio::test]
    async fn a_member_is_woken_when_its_service_changes_in_the_list() {
        let client = Client::new(ClientConfig::new("127.0.0.1:1")).unwrap();
        let (web, other) = (Member::join(&client, "Web"), Member::join(&client, "other"));
        let before = list(&[("web", "a"), ("other", ""), ("consul", "")]);
        let same = list(&[("WEB", "a"), ("other", ""), ("new", "")]);
        let after = list(&[("web", "b"), ("other", "")]);
        client.crowd().wake(&before, &same);
        client.crowd().wake(&same, &after);
        web.woken().await;
        let not_woken = tokio::time::timeout(Duration::from_millis(1), other.woken()).await;
        assert!(not_woken.is_err());
    }
}

//! Everything that can change the gateway's world, as one enum, and the order in which the control loop handles it.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use millgate_registry::ServiceUpdate;
use tokio::sync::{mpsc, oneshot};

use crate::{
    auth::{Keys, desk::KeyDesk, settings::KeySource},
    auto_routes::merge::Declared,
    worker::{Hint, Hints},
};

/// One event of the control loop, which handles them one at a time.
pub enum Event {
    /// SIGHUP, or the program that embeds the gateway, requests a reload. The error of the answer is the report of a refused
    /// configuration.
    Reload { asked: Instant, reply: oneshot::Sender<Result<(), String>> },
    /// A file of the configuration may have changed; the time is when the change was seen.
    FilesChanged(Instant),
    /// The Consul key with the configuration has another value; `None`: the key was deleted.
    ConfigKey(Option<Bytes>),
    /// The list of services or their tags changed. `registry`: see
    /// [`Discovery::registry`](super::discovery::Discovery::registry).
    Catalog { news: CatalogNews, registry: u64 },
    /// The name of the registry's cluster.
    Cluster { name: String, registry: u64 },
    /// The instances of a service, each with its id and its tags.
    Seen { service: String, instances: Vec<(String, Vec<String>)> },
    /// The registry's answer about one service changed.
    Service { update: ServiceUpdate, registry: u64 },
    /// The addresses of a host name changed. The list is empty if the first look-up failed.
    Resolved { name: String, addresses: Vec<SocketAddr> },
    /// A fetch of a provider's keys is over; `None`: it failed. The provider may have another source by now.
    Keys { provider: Arc<str>, source: KeySource, keys: Option<Arc<Keys>>, fetched: Fetched },
    /// A worker's hint.
    Hint(Hint),
    /// Stop serving. The answer, when everything is drained, is the number of connections that were cut.
    Drain { by: DrainBy, reply: oneshot::Sender<usize> },
    /// Answer at once: the loop goes round.
    Ping(oneshot::Sender<()>),
}

/// What a drain is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainBy {
    /// The process ends. Sockets at these addresses belong to the system's service manager, which keeps what is in their queues.
    Stop { kept: Arc<[SocketAddr]> },
    /// Another process has the sockets at these addresses, and serves from now on.
    Successor { has: Arc<[SocketAddr]> },
}

/// The list of services, as far as routes are declared in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogNews {
    /// Every service of the registry, also one without such tags.
    pub services: Declared,
    /// The registry left services out because of the token's rights.
    pub filtered: bool,
    /// The agent's datacenter, or the configured one; `None` while it is not known.
    pub datacenter: Option<String>,
}

/// A fetch of a provider's keys that is over. Requests may wait for it until [`Fetched::publish`].
pub struct Fetched {
    desk: Arc<KeyDesk>,
    number: u64,
    failed: bool,
}

impl Fetched {
    /// `number`: what [`KeyDesk::begin`] returned for this fetch.
    pub fn new(desk: Arc<KeyDesk>, number: u64, failed: bool) -> Self {
        Self { desk, number, failed }
    }

    /// Releases the requests that wait for this fetch: what it brought is in the published snapshot.
    pub fn publish(&self) {
        self.desk.end(self.number, self.failed);
    }
}

impl Event {
    /// Whether it is a change of files. One that was seen at `later` replaces both.
    fn sees_by(&mut self, later: Instant) -> bool {
        let Self::FilesChanged(seen) = self else { return false };
        *seen = later.max(*seen);
        true
    }
}

/// The most events in the loop's channel, and the most that are set aside. Senders wait while the channel is full; hints of
/// workers are dropped.
pub const EVENTS_MAX: usize = 1024;

/// The function that workers call with hints. A hint becomes an event, unless the channel is full.
pub fn hints(events: mpsc::Sender<Event>) -> Hints {
    Arc::new(move |hint: Hint| _ = events.try_send(Event::Hint(hint)))
}

/// The loop's events: first those that were set aside while the loop waited for another one, then the channel's.
pub struct Inbox {
    channel: mpsc::Receiver<Event>,
    /// At most [`EVENTS_MAX`].
    aside: VecDeque<Event>,
}

impl Inbox {
    pub fn new(channel: mpsc::Receiver<Event>) -> Self {
        Self { channel, aside: VecDeque::new() }
    }

    /// Waits for the next event. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        match self.aside.pop_front() {
            Some(event) => Some(event),
            None => self.channel.recv().await,
        }
    }

    /// The next event, if one is there; it does not wait.
    pub fn try_next(&mut self) -> Option<Event> {
        self.aside.pop_front().or_else(|| self.channel.try_recv().ok())
    }

    /// Waits for an event that the loop has not seen yet; those set aside stay there. `None`: there is no room to set more aside,
    /// or every sender is gone.
    pub async fn arrival(&mut self) -> Option<Event> {
        if self.aside.len() < EVENTS_MAX { self.channel.recv().await } else { None }
    }

    /// Sets an event aside, behind the earlier ones. A drain goes first, because nothing after it matters. Returns whether the
    /// event is a drain, which ends every other wait.
    pub fn set_aside(&mut self, event: Event) -> bool {
        let is_drain = matches!(event, Event::Drain { .. });
        match event {
            Event::Drain { .. } => self.aside.push_front(event),
            // One look at the files answers all of them.
            Event::FilesChanged(seen) if self.aside.iter_mut().any(|known| known.sees_by(seen)) => {}
            _ => self.aside.push_back(event),
        }
        is_drain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn name(event: Option<&Event>) -> &'static str {
        match event {
            Some(Event::Reload { .. }) => "reload",
            Some(Event::FilesChanged(_)) => "files",
            Some(Event::Drain { .. }) => "drain",
            Some(_) => "other",
            None => "none",
        }
    }

    fn reload() -> Event {
        Event::Reload { asked: clock::now(), reply: oneshot::channel().0 }
    }

    #[tokio::test]
    async fn what_was_set_aside_comes_before_what_came_later_and_a_drain_before_all() {
        let (sender, channel) = mpsc::channel(4);
        let mut inbox = Inbox::new(channel);
        sender.try_send(Event::FilesChanged(clock::now())).unwrap();
        inbox.set_aside(reload());
        inbox.set_aside(Event::FilesChanged(clock::now()));
        inbox.set_aside(Event::FilesChanged(clock::now()));
        inbox.set_aside(Event::Drain { by: DrainBy::Stop { kept: [].into() }, reply: oneshot::channel().0 });
        assert_eq!(name(inbox.next().await.as_ref()), "drain");
        assert_eq!(name(inbox.try_next().as_ref()), "reload");
        assert_eq!(name(inbox.next().await.as_ref()), "files");
        assert_eq!(name(inbox.try_next().as_ref()), "files", "the channel's");
        assert_eq!(name(inbox.try_next().as_ref()), "none");
    }

    #[tokio::test]
    async fn no_more_is_taken_from_the_channel_than_can_be_kept() {
        let (sender, channel) = mpsc::channel(1);
        let mut inbox = Inbox::new(channel);
        for _ in 0..EVENTS_MAX {
            inbox.set_aside(reload());
        }
        sender.try_send(Event::FilesChanged(clock::now())).unwrap();
        assert_eq!(name(inbox.arrival().await.as_ref()), "none");
        assert_eq!(name(inbox.next().await.as_ref()), "reload");
        assert_eq!(name(inbox.arrival().await.as_ref()), "files");
    }
}

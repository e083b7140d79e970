//! The account of files: every client connection and every upstream connection of any worker takes a place here before it
//! opens a file, and returns it when it is closed.
//!
//! The operating system gives a process a limited number of files, and refuses the next file to the part of the process
//! that happens to need it: the admin listener, a reload, a log. So the two parts that can grow, clients and upstream
//! connections, share what is left after [`Budget::reserve`], and each leaves an eighth of it to the other. A part that
//! finds no place makes the workers close what is idle ([`FileAccount::next_call`]): first idle upstream connections, then
//! the clients that have been idle for longest (`worker_thread::accepting`). Whatever finds no place even then waits in
//! order of arrival.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The largest number of name look-ups at the same time.
pub const LOOKUPS_MAX: usize = 32;
/// The largest number of connections of the admin listener at the same time.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Files for the standard streams, the configuration, certificates, state, logs, file events, the registry's long polls of
/// a small configuration, and sockets that the kernel is still closing.
const RESERVE_BASE: usize = 64;
/// A runtime has an epoll, an event, and a pair of sockets for signals.
const RESERVE_PER_WORKER: usize = 4;
/// A listener, and the accepted client that waits for its place.
const RESERVE_PER_LISTENER: usize = 2;
/// A fetch of a key set, with at most one redirect.
const RESERVE_PER_PROVIDER: usize = 2;
/// A name look-up reads a file or queries a server.
const RESERVE_PER_LOOKUP: usize = 1;
/// Clients leave one part in so many to upstream connections, and upstream connections leave the same to clients.
const OTHERS_PART: usize = 8;
/// More files than any machine gives to a process.
const FILES_MAX: usize = 100_000_000;
/// The limit that is assumed where the system does not report one.
const FILES_DEFAULT: usize = 1024;

/// Raises the soft limit of open files to the hard limit, and returns the limit in force. A process that was started with
/// `ulimit -n 1024` but may have a million files has no reason to refuse clients.
pub fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
    let current = getrlimit(Resource::Nofile).current.unwrap_or(FILES_DEFAULT as u64);
    usize::try_from(current).map_or(FILES_MAX, |files| files.min(FILES_MAX))
}

/// How many files each part of the process may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The process's limit, or `limits.files` if that is less.
    pub limit: usize,
    /// Files kept for the admin listener, registry, keys, logs, configuration and runtimes.
    pub reserve: usize,
    pub clients: usize,
    pub upstreams: usize,
}

/// The numbers of a configuration that determine how many files it needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs {
    /// `limits.files`.
    pub files_max: Option<usize>,
    pub workers: usize,
    pub listeners: usize,
    /// The largest number of the registry's long polls at the same time.
    pub watches: usize,
    /// The number of providers, whose keys may be fetched.
    pub providers: usize,
    /// The number of names that are looked up for services without a registry.
    pub names: usize,
    /// `listen.max_connections`.
    pub clients_max: Option<usize>,
}

impl Budget {
    /// Divides the files of a process. `limit` is how many files the process may have.
    pub fn new(limit: usize, needs: &Needs) -> Self {
        let limit = needs.files_max.map_or(limit, |files| files.min(limit));
        let reserve = RESERVE_BASE
            + ADMIN_CONNECTIONS_MAX
            + needs.workers * (RESERVE_PER_WORKER + RESERVE_PER_LISTENER * needs.listeners)
            + needs.watches
            + RESERVE_PER_PROVIDER * needs.providers
            + RESERVE_PER_LOOKUP * needs.names.min(LOOKUPS_MAX);
        // With very few files other parts fail, but requests are served.
        let reserve = reserve.min(limit / 2);
        let shared = limit - reserve;
        let most = (shared - shared / OTHERS_PART).max(1);
        let clients = needs.clients_max.map_or(most, |clients| clients.min(most));
        Self { limit, reserve, clients, upstreams: most }
    }

    /// The number of files that clients and upstream connections share.
    pub(crate) fn shared(&self) -> usize {
        (self.limit - self.reserve).max(1)
    }
}

/// The kinds of places that can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Scarce {
    /// Places of client connections: `listen.max_connections`.
    Clients,
    /// Places of upstream connections.
    Upstreams,
    /// Files, which clients and upstream connections share.
    Files,
}

/// The account of one process, shared by all workers.
#[derive(Debug)]
pub struct FileAccount {
    budget: Budget,
    /// Indexed by [`Scarce`]. A semaphore is one word while places are free, and a queue in order of arrival otherwise.
    places: [Arc<Semaphore>; 3],
    /// Indexed by [`Scarce`]: how many connections wait for such a place.
    waiting: [AtomicUsize; 3],
    calls: Box<[Calls]>,
}

/// Signals to a worker that it should make room.
#[derive(Debug, Default)]
struct Calls {
    /// A connection of the worker itself waits.
    own: Notify,
    /// A connection of another worker waits, and that worker could not make room.
    others: Notify,
}

/// A place in the account; dropping it returns the place.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct Place {
    _of_kind: OwnedSemaphorePermit,
    _file: OwnedSemaphorePermit,
}

impl FileAccount {
    pub fn new(budget: Budget, workers: usize) -> Arc<Self> {
        let places = [budget.clients, budget.upstreams, budget.shared()];
        Arc::new(Self {
            budget,
            places: places.map(|number| Arc::new(Semaphore::new(number))),
            waiting: Default::default(),
            calls: (0..workers).map(|_| Calls::default()).collect(),
        })
    }

    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The number of places of this kind, free or taken.
    pub fn places(&self, what: Scarce) -> usize {
        [self.budget.clients, self.budget.upstreams, self.budget.shared()][what as usize]
    }

    /// The number of places taken. For [`Scarce::Files`], clients and upstream connections together.
    pub fn used(&self, what: Scarce) -> usize {
        self.places(what).saturating_sub(self.places[what as usize].available_permits())
    }

    /// The number of connections that wait for such a place.
    pub fn waiting(&self, what: Scarce) -> usize {
        self.waiting[what as usize].load(Ordering::Relaxed)
    }

    /// Whether a connection waits for a place that an idle upstream connection takes up.
    pub fn is_upstream_waiting(&self) -> bool {
        self.waiting(Scarce::Upstreams) + self.waiting(Scarce::Files) > 0
    }

    /// Whether another client would have to wait.
    pub fn is_full(&self) -> bool {
        [Scarce::Clients, Scarce::Files]
            .iter()
            .any(|what| self.places[*what as usize].available_permits() == 0)
    }

    /// Whether a connection waits for a place of any kind.
    pub fn is_anything_waiting(&self) -> bool {
        [Scarce::Clients, Scarce::Upstreams, Scarce::Files].into_iter().any(|what| self.waiting(what) > 0)
    }

    /// Waits until `worker` should make room. `true`: the worker needs the room itself. `false`: another worker does.
    pub async fn next_call(&self, worker: usize) -> bool {
        let Some(calls) = self.calls.get(worker) else { return std::future::pending().await };
        tokio::select! {
            () = calls.own.notified() => true,
            () = calls.others.notified() => false,
        }
    }

    /// Signals to all other workers that they should make room.
    pub fn call_others(&self, worker: usize) {
        for (_, calls) in self.calls.iter().enumerate().filter(|(index, _)| *index != worker) {
            calls.others.notify_one();
        }
    }

    async fn place(&self, kind: Scarce, worker: usize) -> Option<Place> {
        let of_kind = self.take(kind, worker).await?;
        let file = self.take(Scarce::Files, worker).await?;
        Some(Place { _of_kind: of_kind, _file: file })
    }

    fn place_now(&self, kind: Scarce) -> Option<Place> {
        let take = |what: Scarce| Arc::clone(&self.places[what as usize]).try_acquire_owned().ok();
        Some(Place { _of_kind: take(kind)?, _file: take(Scarce::Files)? })
    }

    /// Waits for a place. It never returns `None`, because nothing closes the semaphores.
    async fn take(&self, what: Scarce, worker: usize) -> Option<OwnedSemaphorePermit> {
        let places = &self.places[what as usize];
        if let Ok(permit) = Arc::clone(places).try_acquire_owned() {
            return Some(permit);
        }
        let _waiting = Waiting::begin(&self.waiting[what as usize]);
        if let Some(calls) = self.calls.get(worker) {
            calls.own.notify_one();
        }
        Arc::clone(places).acquire_owned().await.ok()
    }
}

/// Counts a waiting connection until this is dropped: then it has its place, or has given up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One worker's access to the account.
#[derive(Debug)]
pub struct Desk {
    pub account: Arc<FileAccount>,
    pub worker: usize,
}

impl Desk {
    /// Waits for a place for an accepted client.
    pub async fn client(&self) -> Option<Place> {
        self.account.place(Scarce::Clients, self.worker).await
    }

    /// Takes a place for a connection to an endpoint, if one is free.
    pub fn upstream_now(&self) -> Option<Place> {
        self.account.place_now(Scarce::Upstreams)
    }

    /// Waits for a place for a connection to an endpoint.
    pub async fn upstream(&self) -> Option<Place> {
        self.account.place(Scarce::Upstreams, self.worker).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_part_leaves_some_files_to_the_others() {
        let needs = Needs { workers: 2, listeners: 1, ..Needs::default() };
        let budget = |limit, needs| Budget::new(limit, &needs);
        let made = budget(1024, needs);
        assert_eq!(made, Budget { limit: 1024, reserve: 140, clients: 774, upstreams: 774 });
        assert_eq!(budget(1024, Needs { clients_max: Some(20), ..needs }).clients, 20);
        let more = Needs { clients_max: Some(2000), ..needs };
        assert_eq!(budget(1024, more).clients, 774, "not more than there are");
        assert_eq!(budget(1024, Needs { files_max: Some(500), ..needs }).limit, 500);
        assert_eq!(budget(1024, Needs { files_max: Some(5000), ..needs }).limit, 1024);
        assert_eq!(budget(1024, Needs { names: 1000, ..needs }).reserve, 140 + LOOKUPS_MAX);
        assert_eq!(budget(64, needs), Budget { limit: 64, reserve: 32, clients: 28, upstreams: 28 });
    }

    #[tokio::test]
    async fn a_total_is_a_total_and_a_place_that_is_given_back_goes_to_the_one_that_waits() {
        let account = FileAccount::new(Budget { limit: 4, reserve: 0, clients: 2, upstreams: 4 }, 2);
        let desks = [0, 1].map(|worker| Desk { account: Arc::clone(&account), worker });
        let (first, _second) = (desks[0].client().await, desks[1].client().await);
        let third = desks[1].client();
        tokio::pin!(third);
        let at_once = Duration::ZERO;
        assert!(tokio::time::timeout(at_once, &mut third).await.is_err(), "two is the total");
        assert_eq!((account.waiting(Scarce::Clients), account.waiting(Scarce::Files)), (1, 0));
        assert!(account.next_call(1).await, "its own worker is asked for room");
        drop(first);
        assert!(third.await.is_some());
        assert!(!account.is_anything_waiting());
        assert_eq!((account.used(Scarce::Clients), account.used(Scarce::Files)), (1, 1));
    }

    #[tokio::test]
    async fn what_gives_up_waiting_leaves_nothing_behind() {
        let account = FileAccount::new(Budget { limit: 1, reserve: 0, clients: 1, upstreams: 1 }, 1);
        let desk = Desk { account: Arc::clone(&account), worker: 0 };
        let client = desk.client().await;
        assert!(tokio::time::timeout(Duration::ZERO, desk.upstream()).await.is_err());
        assert_eq!((account.used(Scarce::Upstreams), account.waiting(Scarce::Files)), (0, 0));
        drop(client);
        assert!(desk.upstream().await.is_some());
    }
}

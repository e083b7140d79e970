//! Concurrency limit: at most `max_inflight` requests in flight to one cluster, over all workers, and of these not more
//! than a share for one connection or one client while others need the rest.
//!
//! The limit is one atomic count; past it the gateway refuses (503 `overloaded`) and never queues, so a slow service costs
//! a bounded number of requests. It is compiled from `max_inflight` of the service and the shares ([`ShareSettings`]). The
//! counts are carried into the next snapshot, where the limits themselves may differ.
//!
//! A connection (or a client) that has its share gets more only while at least half of the slots are free. So one client
//! alone may have half of a service, however small the service is, and the other half is always left to clients that have
//! less than their share.
//!
//! A request whose body is still on its way keeps its slot for as long as its client takes to send the body. So such
//! requests have only a part of the slots ([`ShareSettings::uploads`]), and while they have half of that part, a client
//! must be faster ([`UploadPlace::is_short`]).
//!
//! Where the process has fewer places for connections than a service has slots, shares are shares of those places
//! ([`Places`]). Uploads to all services together have three eighths of the places that clients and services share, each
//! with two connections.

use std::{
    cell::RefCell,
    hash::BuildHasher,
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use foldhash::quality::RandomState;

use crate::file_account::Budget;

/// The parts of a service's slots that one connection and one client may have while others need slots, and that all uploads
/// may have together. Unit: thousandths of `max_inflight`; `None` = off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShareSettings {
    pub per_connection: Option<u16>,
    pub per_client: Option<u16>,
    /// The most that requests whose body is still on its way may have together, at any time.
    pub uploads: Option<u16>,
}

/// The limits that the process's files set for all services together.
#[derive(Debug)]
pub struct Places {
    /// Places for connections to services.
    connections: u32,
    /// Most uploads at a time. `uploads` counts them.
    uploads_max: u32,
    uploads: Arc<AtomicU32>,
}

impl Places {
    /// The places of a process with these files.
    pub fn of(files: &Budget) -> Arc<Self> {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).max(1);
        // An upload takes two places: a client's connection, and one to its service.
        let uploads_max = part(number(files.shared() / 2), UPLOADS_OF_FILES);
        Arc::new(Self { connections: number(files.upstreams), uploads_max, uploads: Arc::default() })
    }

    #[cfg(test)]
    pub(crate) fn any() -> Arc<Self> {
        Arc::new(Self { connections: u32::MAX, uploads_max: u32::MAX, uploads: Arc::default() })
    }
}

/// Thousandths, the same as the default of [`ShareSettings::uploads`].
const UPLOADS_OF_FILES: u16 = 750;

/// The limit of one cluster.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimit {
    max: u32,
    /// Past this number of slots, a connection or a client that has its share gets no more.
    half: u32,
    places: Arc<Places>,
    /// Slots that one connection may have at any time.
    connection_share: u32,
    /// Slots that one client may have at any time, and the counts of all clients. `None`: clients are not limited.
    client_share: Option<(u32, Arc<ClientCounts>)>,
    /// Slots for uploads, and the count of uploads. `None`: uploads are not limited.
    uploads: Option<(u32, Arc<AtomicU32>)>,
    in_flight: Arc<AtomicU32>,
}

/// Which slots are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overloaded {
    /// All slots of the service.
    Service,
    /// The share of the connection, while others need the rest.
    Connection,
    /// The share of the client, while others need the rest.
    Client,
    /// The service's slots for uploads.
    Uploads,
    /// The places that the process's files leave to uploads to all services together.
    UploadFiles,
}

/// The connection and the client that a slot is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Holder<'a> {
    /// `None`: the connection has one request at a time, or carries the requests of many clients.
    pub connection: Option<&'a Rc<Held>>,
    /// `None`: the client is not known.
    pub client: Option<IpAddr>,
}

impl ConcurrencyLimit {
    /// Compiles the limit of a cluster. `carried` is the limit of the same cluster in the previous snapshot: its counts go
    /// on.
    pub fn compile(
        max_inflight: u32,
        shares: ShareSettings,
        places: &Arc<Places>,
        carried: Option<&Self>,
    ) -> Self {
        let base = max_inflight.min(places.connections);
        let counts = || carried?.client_share.as_ref().map(|(_, counts)| Arc::clone(counts));
        let uploads = || carried?.uploads.as_ref().map(|(_, count)| Arc::clone(count));
        Self {
            max: max_inflight,
            half: base.div_ceil(2),
            places: Arc::clone(places),
            connection_share: shares.per_connection.map_or(u32::MAX, |share| part(base, share)),
            client_share: shares.per_client.map(|share| (part(base, share), counts().unwrap_or_default())),
            uploads: shares.uploads.map(|share| (part(max_inflight, share), uploads().unwrap_or_default())),
            in_flight: carried.map_or_else(Arc::default, |before| Arc::clone(&before.in_flight)),
        }
    }

    /// Gives a slot to one more request, which has it until the slot is dropped.
    ///
    /// The slot owns a reference to the count. The reference count lies on the cache line that the count's
    /// own update has just taken, so this shares nothing more between cores.
    ///
    /// # Errors
    /// The slots of the service, or the share of the connection or of the client, are used up.
    pub fn check(&self, holder: &Holder<'_>) -> Result<Slot, Overloaded> {
        let (client, of_client) = match (&self.client_share, holder.client) {
            (Some((share, counts)), Some(client)) => {
                let (place, held) = ClientCounts::enter(counts, client);
                (Some(place), held >= *share)
            }
            _ => (None, false),
        };
        let of_connection =
            holder.connection.is_some_and(|held| held.number(&self.in_flight) >= self.connection_share);
        let max = if of_connection || of_client { self.half } else { self.max };
        let taken = self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |in_flight| {
            (in_flight < max).then_some(in_flight + 1)
        });
        match taken {
            Ok(_) => {
                let connection = holder.connection.map(|held| held.add(&self.in_flight));
                Ok(Slot { in_flight: Arc::clone(&self.in_flight), connection, _client: client })
            }
            Err(in_flight) if in_flight >= self.max => Err(Overloaded::Service),
            Err(_) if of_connection => Err(Overloaded::Connection),
            Err(_) => Err(Overloaded::Client),
        }
    }

    /// Gives a place to a request whose body is still on its way. `None`: uploads are not limited.
    ///
    /// # Errors
    /// The places for uploads, of the service or of the process, are used up.
    pub fn check_upload(&self) -> Result<Option<UploadPlace>, Overloaded> {
        let Some((max, count)) = &self.uploads else { return Ok(None) };
        let of_service = UploadCount::take(count, *max).ok_or(Overloaded::Uploads)?;
        let places = &self.places;
        let of_process = UploadCount::take(&places.uploads, places.uploads_max);
        let of_process = of_process.ok_or(Overloaded::UploadFiles)?;
        Ok(Some(UploadPlace([of_service, of_process])))
    }

    /// The process's places, which stay the same over a reload.
    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Requests in flight, for metrics.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Most requests in flight (`max_inflight`).
    pub fn max(&self) -> u32 {
        self.max
    }
}

/// This share of the slots, at least one slot.
fn part(max: u32, per_mille: u16) -> u32 {
    let part = (u64::from(max) * u64::from(per_mille)).div_ceil(1000);
    u32::try_from(part).unwrap_or(max).max(1)
}

/// The place of one request among those in flight, given back when it is dropped.
#[derive(Debug)]
#[must_use = "dropping the slot gives the place back"]
pub struct Slot {
    in_flight: Arc<AtomicU32>,
    connection: Option<Rc<Held>>,
    _client: Option<ClientPlace>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        if let Some(held) = &self.connection {
            held.remove(&self.in_flight);
        }
    }
}

/// The place of a request among those whose body is on its way, in its service and in the process.
#[derive(Debug)]
#[must_use = "dropping the place gives it back"]
pub struct UploadPlace([UploadCount; 2]);

impl UploadPlace {
    /// Whether half of the places are taken, so that other requests may need this one.
    pub fn is_short(&self) -> bool {
        self.0.iter().any(|UploadCount { count, max }| count.load(Ordering::Relaxed) >= max.div_ceil(2))
    }
}

/// One of a counted number of uploads, given back when it is dropped.
#[derive(Debug)]
struct UploadCount {
    count: Arc<AtomicU32>,
    max: u32,
}

impl UploadCount {
    fn take(count: &Arc<AtomicU32>, max: u32) -> Option<Self> {
        let taken = count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |uploads| {
            (uploads < max).then_some(uploads + 1)
        });
        taken.ok().map(|_| Self { count: Arc::clone(count), max })
    }
}

impl Drop for UploadCount {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The numbers of slots that one connection has, by service. A connection has requests to few services at a time, and at
/// most `listen.max_streams` requests, so a list is enough.
#[derive(Debug, Default)]
pub struct Held(RefCell<Vec<(usize, u32)>>);

impl Held {
    fn number(&self, of: &Arc<AtomicU32>) -> u32 {
        let key = key_of(of);
        self.0.borrow().iter().find(|(known, _)| *known == key).map_or(0, |(_, number)| *number)
    }

    fn add(self: &Rc<Self>, of: &Arc<AtomicU32>) -> Rc<Self> {
        let key = key_of(of);
        let mut all = self.0.borrow_mut();
        match all.iter_mut().find(|(known, _)| *known == key) {
            Some((_, number)) => *number += 1,
            None => all.push((key, 1)),
        }
        Rc::clone(self)
    }

    fn remove(&self, of: &Arc<AtomicU32>) {
        let key = key_of(of);
        let mut all = self.0.borrow_mut();
        if let Some(at) = all.iter().position(|(known, _)| *known == key)
            && let Some((_, number)) = all.get_mut(at)
        {
            *number -= 1;
            if *number == 0 {
                all.swap_remove(at);
            }
        }
    }
}

/// The key of a service is the address of its count, which lives at least as long as the counted slots.
fn key_of(count: &Arc<AtomicU32>) -> usize {
    Arc::as_ptr(count).addr()
}

/// Requests in flight by client, in a fixed number of cells which clients share by chance. A client has one cell in each of
/// two rows, and the smaller count is its number: other clients must share both cells to take away its share.
#[derive(Debug)]
pub struct ClientCounts {
    rows: [Box<[AtomicU32]>; 2],
    hash: [RandomState; 2],
}

/// Cells of a row. A service takes 16 KiB, and of 2048 clients at a time hardly two share the cells of both rows.
const CELLS: usize = 2048;

impl Default for ClientCounts {
    fn default() -> Self {
        let row = || (0..CELLS).map(|_| AtomicU32::new(0)).collect();
        Self { rows: [row(), row()], hash: [RandomState::default(), RandomState::default()] }
    }
}

impl ClientCounts {
    /// Counts one more request of a client, and returns their number before it.
    fn enter(counts: &Arc<Self>, client: IpAddr) -> (ClientPlace, u32) {
        // IPv6 counts by /64, as for rate limits: one customer has at least a /64.
        let client = match client.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 64).unwrap_or_default() | 1 << 63,
        };
        let cells = [0, 1].map(|row: usize| {
            let hash = counts.hash.get(row).map_or(0, |hash| hash.hash_one(client));
            usize::try_from(hash % CELLS as u64).unwrap_or_default()
        });
        let place = ClientPlace { counts: Arc::clone(counts), cells };
        let before = place.each().map(|cell| cell.fetch_add(1, Ordering::Relaxed)).min().unwrap_or_default();
        (place, before)
    }
}

/// One counted request of a client.
#[derive(Debug)]
struct ClientPlace {
    counts: Arc<ClientCounts>,
    cells: [usize; 2],
}

impl ClientPlace {
    fn each(&self) -> impl Iterator<Item = &AtomicU32> {
        self.counts.rows.iter().zip(self.cells).filter_map(|(row, cell)| row.get(cell))
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        for cell in self.each() {
            cell.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const OFF: ShareSettings = ShareSettings { per_connection: None, per_client: None, uploads: None };
    const ANY: Holder<'static> = Holder { connection: None, client: None };

    fn shares(per_connection: Option<u16>, per_client: Option<u16>) -> ShareSettings {
        ShareSettings { per_connection, per_client, uploads: None }
    }

    #[test]
    fn the_limit_is_exact_and_a_dropped_slot_is_free_again() {
        let limit = ConcurrencyLimit::compile(2, OFF, &Places::any(), None);
        let first = limit.check(&ANY).unwrap();
        let _second = limit.check(&ANY).unwrap();
        assert_eq!(limit.check(&ANY).unwrap_err(), Overloaded::Service);
        assert_eq!(limit.in_flight(), 2);
        drop(first);
        assert!(limit.check(&ANY).is_ok());
    }

    #[test]
    fn requests_of_the_snapshot_before_still_count() {
        let before = ConcurrencyLimit::compile(2, OFF, &Places::any(), None);
        let _old = before.check(&ANY).unwrap();
        let after = ConcurrencyLimit::compile(1, OFF, &Places::any(), Some(&before));
        assert!(after.check(&ANY).is_err());
    }

    #[test]
    fn one_connection_alone_gets_half_and_beside_others_its_share() {
        let limit = ConcurrencyLimit::compile(16, shares(Some(125), None), &Places::any(), None);
        let (hog, other) = (Rc::new(Held::default()), Rc::new(Held::default()));
        let (hog, other) = [&hog, &other].map(|held| Holder { connection: Some(held), client: None }).into();
        let mut slots: Vec<_> = (0..8).map(|_| limit.check(&hog).unwrap()).collect();
        assert_eq!(limit.check(&hog).unwrap_err(), Overloaded::Connection);
        // Another connection gets its share of two, and no more either.
        slots.extend([limit.check(&other).unwrap(), limit.check(&other).unwrap()]);
        assert_eq!(limit.check(&other).unwrap_err(), Overloaded::Connection);
        // Connections with one request at a time get the rest.
        slots.extend((0..6).map(|_| limit.check(&ANY).unwrap()));
        assert_eq!(limit.check(&ANY).unwrap_err(), Overloaded::Service);
        drop(slots);
        assert_eq!(limit.in_flight(), 0);
        assert!(
            (0..8).map(|_| limit.check(&hog)).collect::<Result<Vec<_>, _>>().is_ok(),
            "all were given back"
        );
    }

    #[test]
    fn the_smallest_services_serve_one_connection_and_leave_something_to_the_next() {
        for (max, alone) in [(1, 1), (2, 1), (3, 2), (4, 2), (8, 4), (1024, 512)] {
            let limit = ConcurrencyLimit::compile(max, shares(Some(125), None), &Places::any(), None);
            let held = Rc::new(Held::default());
            let hog = Holder { connection: Some(&held), client: None };
            let slots: Vec<_> = (0..max).map_while(|_| limit.check(&hog).ok()).collect();
            assert_eq!(slots.len(), alone, "{max}");
        }
    }

    #[test]
    fn slots_of_one_service_count_nothing_at_another() {
        let limits =
            [(); 2].map(|()| ConcurrencyLimit::compile(8, shares(Some(125), None), &Places::any(), None));
        let held = Rc::new(Held::default());
        let hog = Holder { connection: Some(&held), client: None };
        let _of_first: Vec<_> = (0..4).map(|_| limits[0].check(&hog).unwrap()).collect();
        let _others: Vec<_> = (0..6).map(|_| limits[1].check(&ANY).unwrap()).collect();
        assert!(limits[1].check(&hog).is_ok());
    }

    #[test]
    fn a_client_is_an_address_or_a_64_and_has_its_share_over_all_its_connections() {
        let limit = ConcurrencyLimit::compile(16, shares(None, Some(125)), &Places::any(), None);
        let at = |client: &str| Holder { connection: None, client: Some(client.parse().unwrap()) };
        let slots: Vec<_> =
            (1..=8).map(|host| limit.check(&at(&format!("2001:db8::{host}"))).unwrap()).collect();
        assert_eq!(limit.check(&at("2001:db8::9")).unwrap_err(), Overloaded::Client);
        let _other = limit.check(&at("2001:db8:0:1::9")).unwrap();
        let _v4 = limit.check(&at("192.0.2.1")).unwrap();
        // A reload carries the counts over.
        let after = ConcurrencyLimit::compile(16, shares(None, Some(200)), &Places::any(), Some(&limit));
        assert_eq!(after.check(&at("2001:db8::9")).unwrap_err(), Overloaded::Client);
        drop(slots);
        assert!(after.check(&at("2001:db8::9")).is_ok());
    }

    #[test]
    fn uploads_leave_a_quarter_to_requests_that_are_there() {
        for (max, uploads, short_at) in
            [(1, 1, 1), (2, 2, 1), (3, 3, 2), (4, 3, 2), (20, 15, 8), (1024, 768, 384)]
        {
            let shares = ShareSettings { uploads: Some(750), ..OFF };
            let limit = ConcurrencyLimit::compile(max, shares, &Places::any(), None);
            let mut places = Vec::new();
            for number in 1..=uploads {
                places.extend(limit.check_upload().unwrap());
                assert_eq!(places[0].is_short(), number >= short_at, "{number} of {max}");
            }
            assert_eq!(limit.check_upload().unwrap_err(), Overloaded::Uploads);
            // A reload carries the count over, also to another limit.
            let after = ConcurrencyLimit::compile(max, shares, &Places::any(), Some(&limit));
            assert_eq!(after.check_upload().unwrap_err(), Overloaded::Uploads);
            places.pop();
            assert!(after.check_upload().is_ok());
        }
        assert!(ConcurrencyLimit::compile(1, OFF, &Places::any(), None).check_upload().unwrap().is_none());
    }

    #[test]
    fn uploads_to_all_services_have_the_files_of_one_process() {
        let shares = ShareSettings { uploads: Some(750), ..OFF };
        let places = Arc::new(Places { connections: 100, uploads_max: 3, uploads: Arc::default() });
        let [one, other] = [(); 2].map(|()| ConcurrencyLimit::compile(4, shares, &places, None));
        let mut held =
            vec![one.check_upload().unwrap(), other.check_upload().unwrap(), one.check_upload().unwrap()];
        assert_eq!(other.check_upload().unwrap_err(), Overloaded::UploadFiles);
        held.pop();
        held.push(other.check_upload().unwrap());
        held.push(None);
        assert_eq!(one.check_upload().unwrap_err(), Overloaded::UploadFiles, "a refusal has kept no place");
    }

    #[test]
    fn where_files_are_short_shares_are_of_the_places_that_there_are() {
        let places =
            |connections, uploads_max| Arc::new(Places { connections, uploads_max, uploads: Arc::default() });
        let limit = ConcurrencyLimit::compile(1024, shares(Some(125), None), &places(80, 30), None);
        let (hog, other) = (Rc::new(Held::default()), Rc::new(Held::default()));
        let [hog, other] = [&hog, &other].map(|held| Holder { connection: Some(held), client: None });
        let alone: Vec<_> = (0..80).map_while(|_| limit.check(&hog).ok()).collect();
        assert_eq!(alone.len(), 40);
        let beside: Vec<_> = (0..80).map_while(|_| limit.check(&other).ok()).collect();
        assert_eq!(beside.len(), 10);
        // Two services share the process's number of uploads.
        let (files, settings) = (places(80, 30), ShareSettings { uploads: Some(750), ..OFF });
        let limits = [(); 2].map(|()| ConcurrencyLimit::compile(1024, settings, &files, None));
        let mut uploads: Vec<_> = (0..30).map(|at| limits[at % 2].check_upload().unwrap()).collect();
        assert!(limits.iter().all(|limit| limit.check_upload().is_err()));
        assert!(uploads[0].as_ref().is_some_and(UploadPlace::is_short));
        uploads.pop();
        let again = limits[0].check_upload();
        assert!(again.is_ok() && limits[1].check_upload().is_err());
    }

    #[test]
    fn racing_workers_never_exceed_the_limit() {
        const MAX: u32 = 3;
        let limit = ConcurrencyLimit::compile(MAX, OFF, &Places::any(), None);
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..2_000 {
                        if let Ok(_slot) = limit.check(&ANY) {
                            assert!(limit.in_flight() <= MAX);
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        assert_eq!(limit.in_flight(), 0);
    }
}

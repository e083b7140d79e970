//! The loop of one watch: query, judge the answer, report a change, rest.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;
use tracing::debug;

use crate::client::{Backoff, Client, Consistency, HealthAnswer, Member, Place, QueryOptions};
use crate::watch::gate::{Gate, Held, NextQuery};
use crate::watch::mass_drop::Circumstances;
use crate::watch::options::{Seed, WatchOptions, WatchTarget};
use crate::watch::pace::{Ended, Pace};
use crate::watch::patience::Patience;
use crate::watch::polling;
use crate::watch::report::{Report, WatchState};
use crate::watch::rights::Sight;
use crate::watch::settle::Settle;
use crate::watch::watcher::digest::{Digest, digest};
use crate::watch::watcher::logged::Logged;
use crate::watch::watcher::publish::routable;
use crate::watch::watcher::witness::Waited;

mod continuity;
mod digest;
mod failures;
mod logged;
mod publish;
mod witness;

/// The state of one watch.
pub(crate) struct Watcher {
    client: Client,
    target: WatchTarget,
    options: WatchOptions,
    report: Report,
    gate: Gate,
    settle: Settle,
    pace: Pace,
    backoff: Backoff,
    /// For the refusals 403 and 429, against which a quick retry does not help.
    slow_backoff: Backoff,
    /// The latest query was denied; another token may be accepted.
    denied: bool,
    /// The token may not see the service.
    hidden: bool,
    witness_failures: u32,
    /// The earliest time of the next check whether an empty answer hides something.
    look_after: Instant,
    /// The purpose of the next query.
    purpose: Purpose,
    /// The place for blocking queries; without one the watch polls as a member.
    place: Option<Place>,
    member: Option<Member>,
    /// The agent of the latest query.
    agent: usize,
    resync_at: Instant,
    patience: Patience,
    /// The watch reads from the leader until then, because the server that it queries hears nothing from the leader.
    leader_until: Option<Instant>,
    /// The earliest time of the next try to read from the leader.
    refresh_after: Option<Instant>,
    /// An answer that was too stale, to be used if the leader cannot be read.
    set_aside: Option<HealthAnswer>,
    circumstances: Circumstances,
    /// The highest index of the server that answers; 0 when another one may answer next.
    highest_index: u64,
    /// Nodes that Consul can no longer reach.
    lost_nodes: BTreeSet<String>,
    backend: Option<String>,
    only_side_kinds: bool,
    /// The number of published instances that can take requests.
    routable: usize,
    logged: Logged,
}

/// Why a query is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To learn of the next change.
    Follow,
    /// To confirm an empty answer.
    Confirm,
    /// To read from the leader, because the server that the watch queries has not heard from it for too long.
    Refresh,
}

/// One query, as it was sent.
struct Query {
    at: Instant,
    purpose: Purpose,
    /// For how long the server may hold it; `None` if it does not block.
    blocking: Option<Duration>,
}

impl Watcher {
    pub(crate) fn new(
        client: Client,
        target: WatchTarget,
        options: WatchOptions,
        seed: Option<Seed>,
        report: Report,
    ) -> Self {
        let now = Instant::now();
        // The changes since then are unknown.
        let other_history = seed.as_ref().is_some_and(|seed| seed.of_this_registry);
        let seed = seed.map(|seed| seed.instances);
        Self {
            agent: client.agent(),
            client,
            target,
            report,
            gate: Gate::new(seed.clone()),
            routable: seed.as_deref().map_or(0, routable),
            circumstances: Circumstances { other_history, ..Circumstances::default() },
            highest_index: 0,
            settle: Settle::new(seed, options.flap_damping, options.doubt),
            pace: Pace::new(now),
            backoff: Backoff::new(options.backoff_base, options.backoff_cap),
            slow_backoff: Backoff::new(REFUSED_BASE, REFUSED_CAP),
            denied: false,
            hidden: false,
            witness_failures: 0,
            look_after: now,
            purpose: Purpose::Follow,
            place: None,
            member: None,
            resync_at: now + jittered(options.resync_every),
            patience: Patience::new(options.wait),
            leader_until: None,
            refresh_after: None,
            set_aside: None,
            lost_nodes: BTreeSet::new(),
            backend: None,
            only_side_kinds: false,
            logged: Logged::default(),
            options,
        }
    }

    /// Runs until the receiver of the updates is gone.
    pub(crate) async fn run(mut self) {
        let mut pause = self.options.start_within.mul_f64(rand::rng().random::<f64>());
        loop {
            if self.rest(pause).await.is_none() {
                return;
            }
            self.find_place();
            let (query, sent) = self.query();
            // A clone, so that instances can be released while the query is pending.
            let (client, service) = (self.client.clone(), self.target.service.clone());
            let call = client.health_service(&service, &query);
            let Some(ended) = self.wait_for(call, sent.blocking.is_some()).await else { return };
            let next = match ended {
                Waited::Answered(Ok(answer)) => self.answered(answer, &sent).await,
                Waited::Answered(Err(error)) => self.failed(&error, &sent).await,
                Waited::OtherToken => {
                    self.gate.resync();
                    Some(Duration::ZERO)
                }
            };
            let Some(next) = next else { return };
            pause = next;
        }
    }

    /// Waits, and meanwhile releases instances that are held. News of the service ends the wait of a watch that polls, and another
    /// token that of a watch that was denied.
    async fn rest(&mut self, pause: Duration) -> Option<()> {
        let end = Instant::now() + pause;
        let client = self.client.clone();
        let mut another_token = std::pin::pin!(client.another_token_soon());
        loop {
            let woken = async {
                match &self.member {
                    Some(member) => member.woken().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(end) => return Some(()),
                () = woken => return Some(()),
                () = &mut another_token, if self.denied || self.hidden => {
                    self.slow_backoff.reset();
                    return Some(());
                }
                () = until(self.settle.next(Instant::now())) => self.release().await?,
            }
        }
    }

    /// Finds a place for a blocking query at the next agent, or joins the watches that poll.
    fn find_place(&mut self) {
        let agent = self.client.agent();
        if agent != self.agent {
            self.agent = agent;
            self.highest_index = 0;
            self.gate.forget_index();
            self.circumstances.other_history = true;
        }
        if self.place.as_ref().is_some_and(|place| !place.is_good_for(agent)) {
            self.place = None;
        }
        if self.place.is_none() {
            self.place = self.client.take_place();
        }
        match (&self.place, &self.member) {
            (Some(_), _) => self.member = None,
            (None, None) => {
                let service = &self.target.service;
                debug!(service, "the agent has enough blocking queries; this service is polled");
                self.member = Some(polling::join(&self.client, service));
            }
            (None, Some(_)) => {}
        }
    }

    fn query(&mut self) -> (QueryOptions, Query) {
        let now = Instant::now();
        if now >= self.resync_at {
            self.gate.resync();
            self.resync_at = now + jittered(self.options.resync_every);
        }
        if self.leader_until.is_some_and(|until| until <= now) {
            // An index of the leader may be ahead of the server that is queried next.
            self.leader_until = None;
            self.gate.resync();
        }
        if self.member.is_some() {
            self.gate.resync();
        }
        let (index, consistency) = match self.purpose {
            Purpose::Confirm | Purpose::Refresh => (None, Consistency::Leader),
            Purpose::Follow if self.leader_until.is_some() => (Some(self.gate.index()), Consistency::Leader),
            Purpose::Follow => (Some(self.gate.index()), self.options.consistency),
        };
        let place_max = self.place.as_ref().and_then(Place::wait_max);
        let wait = self.patience.wait().min(place_max.unwrap_or(Duration::MAX));
        let blocking = index.filter(|index| *index > 0).map(|_| wait);
        let query = QueryOptions {
            index,
            wait: Some(wait),
            consistency,
            passing: self.target.only_passing,
            tags: Vec::new(),
            datacenter: self.target.datacenter.clone(),
            namespace: self.target.namespace.clone(),
            partition: self.target.partition.clone(),
        };
        (query, Query { at: now, purpose: self.purpose, blocking })
    }

    /// Returns the pause before the next query, or `None` if the receiver of the updates is gone.
    async fn answered(&mut self, answer: HealthAnswer, sent: &Query) -> Option<Duration> {
        let now = Instant::now();
        self.slow_backoff.reset();
        self.denied = false;
        self.logged.answered(&self.target.service);
        match sent.purpose {
            Purpose::Refresh => {
                self.set_aside = None;
                self.leader_until = Some(now + LEADER_FOR);
            }
            Purpose::Follow if self.is_too_stale(&answer) => {
                self.report.record(|stats| stats.too_stale += 1);
                if self.refresh_after.is_none_or(|after| after <= now) {
                    self.refresh_after = Some(now + LEADER_FOR);
                    return self.refresh(answer, sent).await;
                }
            }
            Purpose::Follow | Purpose::Confirm => {}
        }
        self.believe(answer, sent).await
    }

    /// Makes the next query go to the leader. Until the leader answers, the old answer is used only if nothing was published yet.
    async fn refresh(&mut self, answer: HealthAnswer, sent: &Query) -> Option<Duration> {
        let pause = if self.settle.is_new() {
            self.believe(answer, sent).await?
        } else {
            self.set_aside = Some(answer);
            self.pace.after(Ended::Idle, Instant::now())
        };
        if self.purpose == Purpose::Follow {
            self.purpose = Purpose::Refresh;
        }
        Some(pause)
    }

    fn is_too_stale(&self, answer: &HealthAnswer) -> bool {
        self.options.consistency == Consistency::Stale
            && self.leader_until.is_none()
            && answer.last_contact > self.options.max_stale
    }

    async fn believe(&mut self, answer: HealthAnswer, sent: &Query) -> Option<Duration> {
        let sight = self.check_witness(&answer, sent).await;
        let now = Instant::now();
        // Early: the server could have held the query for longer, so the answer should have news.
        let early = sent.blocking.is_none_or(|wait| now - sent.at < wait);
        let other_backend =
            self.backend.is_some() && answer.backend.is_some() && self.backend != answer.backend;
        if other_backend {
            self.highest_index = 0;
            self.gate.forget_index();
        }
        self.compare_index(answer.index, sent.purpose);
        self.backend = answer.backend.clone().or_else(|| self.backend.take());
        let Digest { mut answer, skipped, only_side_kinds, lost_nodes, checks } = digest(answer);
        answer.sight = sight;
        let (unusable, filtered) = (answer.unusable, answer.filtered_by_acls && answer.instances.is_empty());
        let moved = answer.index > Some(self.gate.index());
        let verdict = self.gate.judge(answer, sent.purpose == Purpose::Confirm);
        if other_backend {
            self.gate.resync();
        }
        self.circumstances.other_history |= verdict.backwards;
        self.hidden = matches!(sight, Some(Sight::NodesHidden | Sight::ServiceHidden))
            || (filtered && self.settle.is_new());
        if self.hidden {
            // A change of rights does not end a blocking query, so the service is read again.
            self.gate.resync();
        }
        self.purpose = if verdict.next == NextQuery::Confirm { Purpose::Confirm } else { Purpose::Follow };
        self.logged.skipped(&self.target.service, skipped);
        self.logged.held(&self.target.service, verdict.held);
        if filtered || matches!(verdict.held, Some(Held::SameIndex | Held::FilteredByAcls)) {
            self.report_lost_right(filtered);
        }
        let polled = self.member.is_some() || verdict.next == NextQuery::Poll;
        if verdict.publish.is_some() || sent.blocking.is_some() || polled {
            // A read from scratch proves little: it may succeed between two blocking queries that fail.
            self.backoff.reset();
        }
        self.report.record(|stats| {
            stats.queries += 1;
            stats.index = self.gate.index();
            stats.state = WatchState::Fresh;
            stats.last_success = Some(now);
            stats.last_error = None;
            stats.polling = polled;
            stats.skipped_instances = unusable as u64;
            stats.empty_held += u64::from(verdict.held.is_some());
            stats.wakeups += u64::from(early && sent.blocking.is_some());
        });
        let outcome = match &verdict.publish {
            None if early && moved && verdict.held.is_none() && self.settle.believed().is_empty() => {
                Ended::StillEmpty
            }
            None if early => Ended::Idle,
            _ => Ended::News,
        };
        if verdict.held.is_none() {
            self.circumstances.lost_nodes = lost_nodes.difference(&self.lost_nodes).cloned().collect();
            self.lost_nodes = lost_nodes;
            self.take_over(verdict.publish, only_side_kinds, &checks, now).await?;
        }
        let pace = self.pace.after(outcome, now);
        let polling = self.member.as_ref().map_or(Duration::ZERO, |member| jittered(member.interval()));
        Some(match verdict.next {
            _ if self.hidden => witness::until_rights_change().max(pace),
            NextQuery::Query => pace.max(polling),
            NextQuery::Poll => POLL_INTERVAL.max(pace).max(polling),
            NextQuery::Confirm => self.options.confirm_after.max(pace),
        })
    }
}

/// Waits until this moment, or for ever if there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// ± 20 %, so that the watches of one gateway do not all read at the same moment.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.8..1.2))
}

/// The interval of reads when an answer has no index, so that a query cannot block; seven reads in ten seconds.
const POLL_INTERVAL: Duration = Duration::from_millis(1500);
/// A quick retry does not help against a refused token or a rate limit.
const REFUSED_BASE: Duration = Duration::from_secs(5);
const REFUSED_CAP: Duration = Duration::from_mins(1);
/// A server that was cut off from the leader is queried again after this time.
const LEADER_FOR: Duration = Duration::from_mins(1);

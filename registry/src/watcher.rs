//! The loop of one watch: ask, judge the answer, report a change, rest.

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;
use rand::RngExt;
use tokio::time::Instant;
use tracing::debug;

use crate::agents::Place;
use crate::backoff::Backoff;
use crate::client::{Client, HealthAnswer};
use crate::crowd::Member;
use crate::error::ClientError;
use crate::gate::{Gate, Held, Next};
use crate::mass_drop::Circumstances;
use crate::pace::{Outcome, Pace};
use crate::patience::Patience;
use crate::rights::Sight;
use crate::settle::Settle;
use crate::types::{Consistency, QueryOptions};
use crate::watch::{Report, Seed, WatchOptions, WatchState, WatchTarget};
use crate::watcher::digest::{Digest, digest};
use crate::watcher::publish::routable;
use crate::watcher::said::Said;
use crate::watcher::witness::Outcome as Ended;

mod continuity;
mod digest;
mod publish;
mod said;
mod witness;

pub(crate) struct Watcher {
    client: Client,
    target: WatchTarget,
    options: WatchOptions,
    report: Report,
    gate: Gate,
    settle: Settle,
    pace: Pace,
    backoff: Backoff,
    /// For refusals, which a quick retry does not heal: 403 and 429.
    slow_backoff: Backoff,
    /// The latest query was denied: another token may heal that.
    denied: bool,
    /// The service is not shown, or was denied to be.
    hidden: bool,
    witness_failures: u32,
    /// Whether an empty answer hides something is not looked at again before.
    look_after: Instant,
    /// What the next query is for.
    purpose: Purpose,
    /// A place for blocking queries, or else a membership among those that poll.
    place: Option<Place>,
    member: Option<Member>,
    /// Whom the latest query was sent to.
    agent: usize,
    resync_at: Instant,
    patience: Patience,
    /// The leader is followed until then, because the server that we ask hears nothing from it.
    leader_until: Option<Instant>,
    /// Whether the leader can be read is not tried again before.
    refresh_after: Option<Instant>,
    /// An answer that was too stale, to be used if the leader cannot be read.
    set_aside: Option<HealthAnswer>,
    circumstances: Circumstances,
    /// The highest index of the server that is followed; 0 when another one may answer.
    highest_index: u64,
    /// Nodes that Consul has lost sight of.
    lost_nodes: BTreeSet<String>,
    backend: Option<String>,
    only_side_kinds: bool,
    /// How many instances that were published last can take requests.
    routable: usize,
    said: Said,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Follow,
    /// Was the empty answer true?
    Confirm,
    /// What does the leader say? The server that we ask has not heard from it for long.
    Refresh,
}

/// One query, as it was asked.
struct Asked {
    at: Instant,
    purpose: Purpose,
    /// For how long the server may keep it.
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
        // What happened since then is not known.
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
            said: Said::default(),
            options,
        }
    }

    /// Ends when nobody receives updates any more.
    pub(crate) async fn run(mut self) {
        let mut pause = self.options.start_within.mul_f64(rand::rng().random::<f64>());
        loop {
            if self.rest(pause).await.is_none() {
                return;
            }
            self.find_place();
            let (query, asked) = self.query();
            // Of its own, so that instances can be let in while the query is pending.
            let (client, service) = (self.client.clone(), self.target.service.clone());
            let call = client.health_service(&service, &query);
            let Some(ended) = self.wait_for(call, asked.blocking.is_some()).await else { return };
            let next = match ended {
                Ended::Answered(Ok(answer)) => self.answered(answer, &asked).await,
                Ended::Answered(Err(error)) => self.failed(&error, &asked).await,
                Ended::OtherToken => {
                    self.gate.resync();
                    Some(Duration::ZERO)
                }
            };
            let Some(next) = next else { return };
            pause = next;
        }
    }

    /// Waits, and goes on with what time alone changes. Who polls is woken by news, who was denied by another token.
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

    /// A place for a blocking query at the agent that is asked next, or a membership among those that poll.
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
                self.member = Some(Member::join(&self.client, service));
            }
            (None, Some(_)) => {}
        }
    }

    fn query(&mut self) -> (QueryOptions, Asked) {
        let now = Instant::now();
        if now >= self.resync_at {
            self.gate.resync();
            self.resync_at = now + jittered(self.options.resync_every);
        }
        if self.leader_until.is_some_and(|until| until <= now) {
            // An index of the leader may be ahead of what the server that we ask has.
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
        (query, Asked { at: now, purpose: self.purpose, blocking })
    }

    /// Returns the pause before the next query, or `None` if nobody receives updates any more.
    async fn answered(&mut self, answer: HealthAnswer, asked: &Asked) -> Option<Duration> {
        let now = Instant::now();
        self.slow_backoff.reset();
        self.denied = false;
        self.said.answered(&self.target.service);
        match asked.purpose {
            Purpose::Refresh => {
                self.set_aside = None;
                self.leader_until = Some(now + LEADER_FOR);
            }
            Purpose::Follow if self.is_too_stale(&answer) => {
                self.report.record(|stats| stats.too_stale += 1);
                if self.refresh_after.is_none_or(|after| after <= now) {
                    self.refresh_after = Some(now + LEADER_FOR);
                    return self.refresh(answer, asked).await;
                }
            }
            Purpose::Follow | Purpose::Confirm => {}
        }
        self.believe(answer, asked).await
    }

    /// Asks the leader next. Until it answers the old answer is better than nothing, but not than what is known.
    async fn refresh(&mut self, answer: HealthAnswer, asked: &Asked) -> Option<Duration> {
        let pause = if self.settle.is_new() {
            self.believe(answer, asked).await?
        } else {
            self.set_aside = Some(answer);
            self.pace.after(Outcome::Idle, Instant::now())
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

    async fn believe(&mut self, answer: HealthAnswer, asked: &Asked) -> Option<Duration> {
        let sight = self.ask_witness(&answer, asked).await;
        let now = Instant::now();
        // Early: the server could have kept the query for longer, so there should be news.
        let early = asked.blocking.is_none_or(|wait| now - asked.at < wait);
        let other_backend =
            self.backend.is_some() && answer.backend.is_some() && self.backend != answer.backend;
        if other_backend {
            self.highest_index = 0;
            self.gate.forget_index();
        }
        self.compare_index(answer.index, asked.purpose);
        self.backend = answer.backend.clone().or_else(|| self.backend.take());
        let Digest { mut answer, skipped, only_side_kinds, lost_nodes, checks } = digest(answer);
        answer.sight = sight;
        let (unusable, filtered) = (answer.unusable, answer.filtered_by_acls && answer.instances.is_empty());
        let moved = answer.index > Some(self.gate.index());
        let verdict = self.gate.judge(answer, asked.purpose == Purpose::Confirm);
        if other_backend {
            self.gate.resync();
        }
        self.circumstances.other_history |= verdict.backwards;
        self.hidden = matches!(sight, Some(Sight::NodesHidden | Sight::ServiceHidden))
            || (filtered && self.settle.is_new());
        if self.hidden {
            // It is looked for again, and not waited for.
            self.gate.resync();
        }
        self.purpose = if verdict.next == Next::Confirm { Purpose::Confirm } else { Purpose::Follow };
        self.said.skipped(&self.target.service, skipped);
        self.said.held(&self.target.service, verdict.held);
        if filtered || matches!(verdict.held, Some(Held::SameIndex | Held::FilteredByAcls)) {
            self.tell_lost_right(filtered);
        }
        let polled = self.member.is_some() || verdict.next == Next::Poll;
        if verdict.publish.is_some() || asked.blocking.is_some() || polled {
            // A read from scratch proves little: it succeeds between two blocking queries that fail.
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
            stats.wakeups += u64::from(early && asked.blocking.is_some());
        });
        let outcome = match &verdict.publish {
            None if early && moved && verdict.held.is_none() && self.settle.believed().is_empty() => {
                Outcome::StillEmpty
            }
            None if early => Outcome::Idle,
            _ => Outcome::News,
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
            Next::Query => pace.max(polling),
            Next::Poll => POLL_INTERVAL.max(pace).max(polling),
            Next::Confirm => self.options.confirm_after.max(pace),
        })
    }

    /// Returns the pause before the next try.
    async fn failed(&mut self, error: &ClientError, asked: &Asked) -> Option<Duration> {
        let status = error.status();
        self.denied = status == Some(StatusCode::FORBIDDEN);
        if error.is_transport() {
            self.circumstances.other_history = true;
        }
        if error.is_transport() || matches!(status, Some(StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST)) {
            self.gate.forget_index();
        }
        let said_so = matches!(status, Some(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT));
        if asked.blocking.is_some() && (said_so || error.is_cut()) {
            // A proxy in between gives up earlier than Consul answers: ask for less.
            self.patience.cut(asked.at.elapsed(), said_so);
        }
        self.report_error(error);
        let backoff = match status {
            Some(StatusCode::BAD_REQUEST) => BAD_REQUEST_PAUSE,
            Some(StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) => {
                let pause = self.slow_backoff.next(&mut rand::rng());
                pause.max(error.retry_after().unwrap_or_default().min(REFUSED_CAP))
            }
            _ => self.backoff.next(&mut rand::rng()),
        };
        // Jitter may choose short pauses several times in a row; the pace does not.
        let pause = backoff.max(self.pace.after(Outcome::Idle, Instant::now()));
        if asked.purpose == Purpose::Refresh {
            self.purpose = Purpose::Follow;
            self.gate.resync();
        }
        // The leader cannot be read: an old answer is better than none.
        if let Some(answer) = self.set_aside.take() {
            let pace = self.believe(answer, asked).await?;
            return Some(pause.max(pace));
        }
        if asked.purpose == Purpose::Follow && self.leader_until.take().is_some() {
            self.gate.resync();
        }
        Some(pause)
    }

    fn report_error(&mut self, error: &ClientError) {
        let text = self.said.error(&self.target.service, error, !self.settle.is_new());
        self.report.record(|stats| {
            stats.queries += 1;
            stats.errors += 1;
            stats.index = self.gate.index();
            stats.last_error = Some(text);
            if stats.state == WatchState::Fresh {
                stats.state = WatchState::Stale;
            }
        });
    }
}

/// For ever if there is no such moment.
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

/// Without an index there is nothing to wait for; seven reads in ten seconds.
const POLL_INTERVAL: Duration = Duration::from_millis(1500);
/// A refused token or a rate limit is not healed by haste.
const REFUSED_BASE: Duration = Duration::from_secs(5);
const REFUSED_CAP: Duration = Duration::from_mins(1);
/// 400 means that the query itself is wrong; only a change of configuration heals it.
const BAD_REQUEST_PAUSE: Duration = Duration::from_mins(1);
/// A server that was cut off from the leader is tried again after this.
const LEADER_FOR: Duration = Duration::from_mins(1);

//! Open loop: requests at a constant rate over kept connections, whatever the answers take.
//!
//! Latency counts from the moment at which the request is due by the rate. A request that finds every connection busy
//! waits for the first free one, and its wait counts: there is no coordinated omission. A separate thread gives the pace,
//! because tokio's timer counts in milliseconds. The kernel wakes it up to 0.1 ms late, which counts too.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::LocalSet,
};

use crate::{
    client::{Client, Connection, Target},
    generator::{Load, Seen},
};

#[derive(Debug, Args)]
pub(crate) struct Paced {
    #[command(flatten)]
    target: Target,
    #[arg(long)]
    connections: usize,
    /// Requests per second
    #[arg(long)]
    rate: f64,
    #[arg(long)]
    seconds: u64,
}

impl Paced {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let load = LocalSet::new().block_on(&runtime, self.load())?;
        println!("{}", serde_json::to_string(&load)?);
        Ok(())
    }

    async fn load(&self) -> anyhow::Result<Load> {
        let client = Rc::new(self.target.client()?);
        let queue = Rc::new(RefCell::new(Queue::default()));
        let (mut due, mut connections) = (Vec::new(), Vec::new());
        for number in 0..self.connections {
            let connection = client.connect().await?;
            let (sender, receiver) = unbounded_channel();
            due.push(sender);
            queue.borrow_mut().free.push_back(number);
            let user = User { number, client: Rc::clone(&client), connection, queue: Rc::clone(&queue) };
            connections.push(tokio::task::spawn_local(user.serve(receiver)));
        }
        let began = Instant::now();
        let pace = Pace { interval: Duration::from_secs_f64(1.0 / self.rate), began };
        let end = began + Duration::from_secs(self.seconds);
        let (sender, mut ticks) = unbounded_channel();
        let ticking = thread::spawn(move || pace.tick(end, &sender));
        while let Some(at) = ticks.recv().await {
            let free = queue.borrow_mut().hand_out(at);
            if let Some(sender) = free.and_then(|number| due.get(number)) {
                sender.send(at).context("a connection was cut")?;
            }
        }
        ticking.join().map_err(|_| anyhow!("the pace was lost"))?;
        drop(due);
        let mut seen = Seen::default();
        for connection in connections {
            // Leaving out a connection whose request was never answered would make the result better than it was.
            let answers = tokio::time::timeout(ANSWER_TIMEOUT, connection).await;
            seen.add(answers.context("an answer did not come")???);
        }
        let asked = queue.borrow().asked;
        ensure!(seen.len() == asked, "{} of {asked} requests were answered", seen.len());
        Ok(seen.load(began.elapsed()))
    }
}

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

struct Pace {
    interval: Duration,
    began: Instant,
}

impl Pace {
    /// The time when a request is due.
    fn at(&self, number: u32) -> Instant {
        self.began + self.interval * number
    }

    /// Sends the time of each request when it is due.
    fn tick(&self, end: Instant, due: &UnboundedSender<Instant>) {
        for at in (0..).map(|number| self.at(number)).take_while(|at| *at < end) {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if due.send(at).is_err() {
                return;
            }
        }
    }
}

/// The free connections, and the requests that had to wait for one.
#[derive(Debug, Default)]
struct Queue {
    free: VecDeque<usize>,
    late: VecDeque<Instant>,
    asked: usize,
}

impl Queue {
    /// The connection for a request that is due. Without a free one, the request waits.
    fn hand_out(&mut self, due: Instant) -> Option<usize> {
        self.asked += 1;
        let free = self.free.pop_front();
        if free.is_none() {
            self.late.push_back(due);
        }
        free
    }

    /// The next request for a connection that has its answer. Without one the connection is free.
    fn next(&mut self, number: usize) -> Option<Instant> {
        let due = self.late.pop_front();
        if due.is_none() {
            self.free.push_back(number);
        }
        due
    }
}

struct User {
    number: usize,
    client: Rc<Client>,
    connection: Connection,
    queue: Rc<RefCell<Queue>>,
}

impl User {
    async fn serve(mut self, mut requests: UnboundedReceiver<Instant>) -> anyhow::Result<Seen> {
        let mut seen = Seen::default();
        while let Some(first) = requests.recv().await {
            let mut next = Some(first);
            while let Some(due) = next {
                let answer = self.client.ask(&mut self.connection).await?;
                seen.record(due.elapsed(), answer);
                next = self.queue.borrow_mut().next(self.number);
            }
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_finds_all_connections_busy_waits_and_keeps_its_time() {
        let began = Instant::now();
        let pace = Pace { interval: Duration::from_millis(10), began };
        let mut queue = Queue { free: VecDeque::from([0]), ..Queue::default() };
        assert_eq!(queue.hand_out(pace.at(0)), Some(0));
        assert_eq!(queue.hand_out(pace.at(1)), None);
        assert_eq!(queue.next(0), Some(began + Duration::from_millis(10)), "it was due then, not now");
        assert_eq!(queue.next(0), None);
        assert_eq!((queue.asked, queue.free.len()), (2, 1));
    }
}

//! Whether the threads of a gateway go on.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::{control::event::Event, worker::Command};

/// The ways to the control loop and to the workers.
#[derive(Clone)]
pub struct Pulse {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) workers: Vec<mpsc::Sender<Command>>,
}

impl Pulse {
    /// Whether the control loop and all workers answer within `time`. A control loop that waits for the registry during a reload
    /// answers afterwards.
    pub async fn is_there(&self, time: Duration) -> bool {
        tokio::time::timeout(time, self.all_answer()).await.unwrap_or(false)
    }

    async fn all_answer(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let mut answers = vec![answer];
        let mut are_asked = self.events.send(Event::Ping(reply)).await.is_ok();
        for worker in &self.workers {
            let (reply, answer) = oneshot::channel();
            are_asked &= worker.send(Command::Ping(reply)).await.is_ok();
            answers.push(answer);
        }
        for answer in answers {
            are_asked &= answer.await.is_ok();
        }
        are_asked
    }
}

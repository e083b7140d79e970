//! The thread of a worker: its single-threaded runtime, its `SO_REUSEPORT` listeners, and the loop for its commands and
//! ticks. It drives a [`WorkerState`].

mod accepting;
mod drain;
pub mod listen;
mod sweep;

use std::{rc::Rc, thread::JoinHandle, time::Duration};

use tokio::runtime::LocalOptions;

use self::{
    accepting::Accepting,
    drain::{Drain, Retirement, finish, refuse, stop_accepting},
};
use crate::{
    metrics::Rare,
    request::probe,
    worker::{Command, WorkerSetup, WorkerState},
};

/// Starts the thread of a worker, and returns when its runtime is there.
///
/// # Errors
/// The thread or its runtime cannot be made.
pub fn start(setup: WorkerSetup) -> std::io::Result<JoinHandle<()>> {
    let (built, outcome) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("worker-{}", setup.index)).spawn(move || {
        // A local runtime belongs to its thread, so it is made there. Its tasks go straight onto its queue; a `LocalSet` on
        // another runtime would be a second queue, with a second wake-up for every event.
        match tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
        {
            Ok(runtime) => {
                let _ = built.send(Ok(()));
                runtime.block_on(run(setup));
            }
            Err(error) => _ = built.send(Err(error)),
        }
    })?;
    // A thread that ends without a result has panicked while building the runtime; joining it reports that.
    outcome.recv().unwrap_or(Ok(()))?;
    Ok(thread)
}

async fn run(mut setup: WorkerSetup) {
    let worker = WorkerState::new(&setup);
    let mut accepting: Vec<Accepting> = Vec::new();
    tokio::task::spawn_local(accepting::make_room(Rc::clone(&worker)));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0;
    let mut drain: Option<Drain> = None;
    let mut retirement: Option<Retirement> = None;
    loop {
        tokio::select! {
            command = setup.commands.recv() => match command {
                Some(Command::Sample(reply)) => {
                    let _ = reply.send(worker.metrics.sample());
                }
                Some(Command::Refusals(reply)) => {
                    let _ = reply.send(worker.connections.refusals.copy());
                }
                Some(Command::Accept(listeners)) => {
                    for (socket, listener) in listeners {
                        match Accepting::begin(socket, listener, &worker) {
                            Ok(begun) => accepting.push(begun),
                            Err(error) => {
                                tracing::error!(%error, worker = setup.index, "listener cannot be used");
                            }
                        }
                    }
                }
                Some(Command::Duplicate(reply)) => {
                    let _ = reply.send(accepting.iter().map(Accepting::duplicate).collect());
                }
                Some(Command::Ping(reply)) => _ = reply.send(()),
                Some(Command::Retire(time)) => retirement = Some(Retirement::begin(&worker, time)),
                Some(Command::RefuseHandshakes { kept, done }) => {
                    retirement = None;
                    let _ = done.send(refuse(&worker, &accepting, &kept));
                }
                Some(Command::Drain { timeout, kept, done }) => {
                    stop_accepting(&worker, std::mem::take(&mut accepting), &kept).await;
                    drain = Some(Drain::begin(&worker, timeout, done));
                }
                None => return,
            },
            () = worker.connection_closed.notified(), if drain.is_some() => {}
            _ = tick.tick() => {
                ticks += 1;
                worker.end_what_stands_still();
                if let Some(retirement) = &retirement {
                    retirement.step(&worker);
                }
                worker.access_log.hand_over();
                let left_out = worker.access_log.take_left_out();
                if left_out > 0 {
                    worker.metrics.count_many(Rare::RefusalNotLogged, "", "", left_out);
                }
                for (reason, lines) in worker.access_log.take_dropped().into_iter().filter(|(_, n)| *n > 0) {
                    worker.metrics.count_many(Rare::LogDropped, reason, "", lines);
                }
                if ticks % TICKS_PER_SWEEP == 0 {
                    worker.sweep();
                    probe::unasked(&worker);
                }
            }
        }
        if let Some(drained) = drain.as_mut().and_then(|drain| drain.step(&worker)) {
            finish(&worker, drain.take(), drained).await;
            return;
        }
    }
}

/// The interval at which log buffers are handed over and stalled bodies are found.
const TICK: Duration = Duration::from_millis(100);
/// The worker sweeps pools, timeouts and the wall clock once in so many ticks.
const TICKS_PER_SWEEP: u32 = 10;

//! Follows the list of services.

use tokio::sync::mpsc;

use crate::client::{Catalog, Client, Consistency};
use crate::watch::follow::{Follow, FollowHandle, FollowOptions};

/// Follows the list of services: sends what `keep` makes of it, once at the beginning and after each change of that.
///
/// Consul answers such a query at every change of any service. `keep` leaves out what the receiver does not need, so that most
/// of these answers send nothing. The loop ends with the handle, or when the receiver is gone.
pub fn follow_catalog<T: PartialEq + Clone + Send + 'static>(
    client: Client,
    options: FollowOptions,
    keep: impl Fn(Catalog) -> T + Send + 'static,
    updates: mpsc::Sender<T>,
) -> FollowHandle {
    let client = client.independent();
    FollowHandle::spawn("list of services".to_owned(), Consistency::Stale, options, move |follow| {
        run(client, keep, follow, updates)
    })
}

async fn run<T: PartialEq + Clone>(
    client: Client,
    keep: impl Fn(Catalog) -> T,
    mut follow: Follow,
    updates: mpsc::Sender<T>,
) {
    let mut known: Option<T> = None;
    loop {
        let query = follow.query(client.agent());
        let Some(answer) = follow.answer(&client, client.catalog_read(&query)).await else { continue };
        let pause = match answer {
            Ok(catalog) => {
                let index = catalog.index;
                let kept = keep(catalog);
                let news = known.as_ref() != Some(&kept);
                if news {
                    known = Some(kept.clone());
                    if updates.send(kept).await.is_err() {
                        return;
                    }
                }
                // A busy catalog answers mostly for changes of other services; those answers slow the loop down.
                follow.answered(index, news)
            }
            Err(error) => follow.failed(&error),
        };
        follow.rest(pause, &client).await;
    }
}

//! Follows one key.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::client::{Client, Consistency, KeyValue};
use crate::watch::follow::{Follow, FollowHandle, FollowOptions};

/// Follows one key: sends its value, or `None` while the key does not exist, if that is not `known`, and then after each
/// change. The loop ends with the handle, or when the receiver is gone.
///
/// Reads go to the leader: a server that is behind would bring back an old value.
pub fn follow_key(
    client: Client,
    key: String,
    known: Option<Bytes>,
    options: FollowOptions,
    updates: mpsc::Sender<Option<Bytes>>,
) -> FollowHandle {
    let (client, what) = (client.independent(), format!("key `{key}`"));
    FollowHandle::spawn(what, Consistency::Leader, options, move |follow| {
        run(client, key, known, follow, updates)
    })
}

async fn run(
    client: Client,
    key: String,
    mut known: Option<Bytes>,
    mut follow: Follow,
    updates: mpsc::Sender<Option<Bytes>>,
) {
    loop {
        let query = follow.query(client.agent());
        let Some(answer) = follow.answer(&client, client.kv_read(&key, &query)).await else { continue };
        let pause = match answer {
            Ok(KeyValue { value, index }) => {
                let news = value != known;
                if news {
                    known.clone_from(&value);
                    if updates.send(value).await.is_err() {
                        return;
                    }
                }
                follow.answered(index, news)
            }
            Err(error) => follow.failed(&error),
        };
        follow.rest(pause, &client).await;
    }
}

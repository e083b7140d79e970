//! The ACL token, from the configuration or from a file that may change at any time.
//!
//! A file is looked at every [`LOOK_EVERY`] and read again when its time or size changed (Vault's agent and
//! Kubernetes replace it), and at once when Consul refused the token; from then on every [`LOOK_EVERY_REFUSED`]. While a file
//! cannot be read, or is empty for a moment, the token from before stays in use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::client::ClientError;
use crate::http::{LOOK_EVERY, Stamp, stamp};

/// The present token and its source.
#[derive(Debug)]
pub(crate) struct Token {
    file: Option<PathBuf>,
    /// `None` is the anonymous token.
    value: Option<HeaderValue>,
    stamp: Stamp,
    looked_at: Instant,
}

impl Token {
    /// Fails if the file cannot be read, or the token is not a valid header value.
    pub(crate) fn new(file: Option<&Path>, fixed: Option<&str>, now: Instant) -> Result<Self, ClientError> {
        let value = match file {
            Some(path) => read(path)?,
            None => fixed.map(parse).transpose()?,
        };
        Ok(Self { file: file.map(Path::to_owned), value, stamp: file.and_then(stamp), looked_at: now })
    }

    /// The token to send now.
    pub(crate) fn current(&mut self, now: Instant) -> Option<HeaderValue> {
        self.look(now, LOOK_EVERY);
        self.value.clone()
    }

    /// The token for a call that waits for a new one and looks at the file this often.
    pub(crate) fn awaited(&mut self, now: Instant, every: Duration) -> Option<HeaderValue> {
        self.look(now, every);
        self.value.clone()
    }

    /// Whether the token can change.
    pub(crate) fn is_in_file(&self) -> bool {
        self.file.is_some()
    }

    fn look(&mut self, now: Instant, every: Duration) {
        let Some(file) = self.file.as_deref().filter(|_| now >= self.looked_at + every) else { return };
        self.looked_at = now;
        let seen = stamp(file);
        if seen != self.stamp {
            self.stamp = seen;
            self.reread();
        }
    }

    /// Reads the file now, after a refusal; returns the token if the file contains one.
    pub(crate) fn reread(&mut self) -> Option<HeaderValue> {
        let file = self.file.as_deref()?;
        self.stamp = stamp(file);
        match read(file) {
            Ok(Some(token)) => {
                if self.value.as_ref() != Some(&token) {
                    info!(file = %file.display(), "the ACL token changed");
                }
                self.value = Some(token.clone());
                Some(token)
            }
            // Between truncate and write.
            Ok(None) => None,
            Err(error) => {
                warn!("{error}; the token from before stays in use");
                None
            }
        }
    }
}

fn read(path: &Path) -> Result<Option<HeaderValue>, ClientError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ClientError::Config(format!("token file `{}`: {error}", path.display())))?;
    let token = text.trim();
    if token.is_empty() { Ok(None) } else { parse(token).map(Some) }
}

fn parse(token: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(token).map_err(|_| {
        ClientError::Config("the ACL token contains characters that a header value may not".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Used while no call succeeds without a new token. All callers that wait share one look. It is as slow as the pace of queries
/// without news (module `pace` of the watches), so that a series of bad tokens does not cost more than that.
pub(crate) const LOOK_EVERY_REFUSED: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use super::*;

    fn text(token: Option<HeaderValue>) -> String {
        token.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    #[test]
    fn a_changed_file_is_seen_within_ten_seconds_and_at_once_after_a_refusal() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "first\n").unwrap();
        let now = Instant::now();
        let mut token = Token::new(Some(&file), Some("ignored"), now).unwrap();
        std::fs::write(&file, "second one\n").unwrap();
        assert_eq!(text(token.current(now + Duration::from_secs(9))), "first");
        assert_eq!(text(token.current(now + Duration::from_secs(10))), "second one");
        std::fs::write(&file, "third\n").unwrap();
        assert_eq!(text(token.reread()), "third");
    }

    #[test]
    fn after_a_refusal_a_changed_file_is_seen_sooner() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "first\n").unwrap();
        let now = Instant::now();
        let mut token = Token::new(Some(&file), None, now).unwrap();
        std::fs::write(&file, "second one\n").unwrap();
        let awaited = |at| text(token.awaited(now + Duration::from_millis(at), LOOK_EVERY_REFUSED));
        assert_eq!([1499, 1500].map(awaited), ["first", "second one"]);
    }

    #[test]
    fn a_file_that_is_empty_or_gone_takes_no_token_away() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "first\n").unwrap();
        let mut now = Instant::now();
        let mut token = Token::new(Some(&file), None, now).unwrap();
        for broken in [Some(""), Some("\u{7f}"), None] {
            match broken {
                Some(content) => std::fs::write(&file, content).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            now += LOOK_EVERY;
            assert_eq!(text(token.current(now)), "first");
            assert_eq!(token.reread(), None);
        }
    }

    #[test]
    fn the_token_is_not_shown() {
        let token = Token::new(None, Some("s3cret"), Instant::now()).unwrap();
        assert!(!format!("{token:?}").contains("s3cret"));
    }
}

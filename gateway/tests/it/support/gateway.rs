//! A gateway in this process, from a configuration text.

use std::{
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
};

use millgate::{ConfigSource, Gateway, RunOptions};
use tempfile::TempDir;

use super::client::{get, send, text};

/// A running gateway and its folder.
pub(crate) struct TestGateway {
    gateway: Option<Gateway>,
    pub(crate) dir: TempDir,
    pub(crate) http: SocketAddr,
}

impl TestGateway {
    /// `config` has neither `version` nor `listen`; these are added, with free ports.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config).await
    }

    /// As [`Self::start`], in a folder that already has the files to which the configuration refers.
    pub(crate) async fn start_in(dir: TempDir, config: &str) -> Self {
        write_config(dir.path(), config);
        let gateway = start(dir.path()).await;
        let http = gateway.http_addr().unwrap();
        Self { gateway: Some(gateway), dir, http }
    }

    /// Stops and starts again, with the same folder.
    pub(crate) async fn restart(&mut self) {
        self.gateway.take().unwrap().shutdown().await;
        let gateway = start(self.dir.path()).await;
        self.http = gateway.http_addr().unwrap();
        self.gateway = Some(gateway);
    }

    /// Replaces the configuration file; the caller reloads or waits for the watcher.
    pub(crate) fn rewrite(&self, config: &str) {
        write_config(self.dir.path(), config);
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin_addr().unwrap()
    }

    /// Whether this is a line of its metrics.
    pub(crate) async fn shows(&self, line: &str) -> bool {
        text(&send(self.admin(), get("/metrics")).await).lines().any(|shown| shown == line)
    }

    /// Drains and stops it. Returns the number of connections that were cut.
    pub(crate) async fn stop(mut self) -> usize {
        self.gateway.take().unwrap().shutdown().await
    }
}

impl Deref for TestGateway {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }
}

async fn start(dir: &Path) -> Gateway {
    let options =
        RunOptions { config: ConfigSource::File(config_path(dir)), state_dir: Some(dir.join("state")) };
    Gateway::start(options).await.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn config_path(dir: &Path) -> PathBuf {
    dir.join("routes.yaml")
}

/// The file is written under another name and renamed, so that a watcher never reads half a file.
pub(crate) fn write_config(dir: &Path, config: &str) {
    let log = if config.contains("access_log:") { "" } else { "access_log: {format: off}\n" };
    let listen = if config.contains("listen:") {
        ""
    } else {
        "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}\n"
    };
    let workers = if config.contains("workers:") { "" } else { "workers: 2\n" };
    // Every request of the tests is for `gw`, including those to the admin listener.
    let text = format!("version: 1\n{workers}{listen}{log}{config}")
        .replace("admin: \"127.0.0.1:0\"", "admin: \"127.0.0.1:0\", admin_hosts: [gw]");
    let aside = dir.join("routes.yaml.new");
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, config_path(dir)).unwrap();
}

//! The programs that are compared: where each one is, its version, and how it is started.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Program {
    Millgate,
    Nginx,
    Haproxy,
    Envoy,
    Relay,
    /// Not a proxy: it only checks signatures (`verification.rs`).
    Verification,
}

impl Program {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "millgate" => Self::Millgate,
            "nginx" => Self::Nginx,
            "haproxy" => Self::Haproxy,
            "envoy" => Self::Envoy,
            "relay" => Self::Relay,
            "verification" => Self::Verification,
            _ => return None,
        })
    }

    /// The path of the program. `None`: this machine does not have it.
    pub(crate) fn find(self, millgate: &Path) -> Option<PathBuf> {
        match self {
            Self::Millgate => millgate.is_file().then(|| millgate.to_owned()),
            Self::Nginx => on_path("nginx"),
            Self::Haproxy => on_path("haproxy"),
            Self::Envoy => on_path("envoy"),
            Self::Relay | Self::Verification => env::current_exe().ok(),
        }
    }

    /// The first line of its own report of its version.
    pub(crate) fn version(self, path: &Path) -> String {
        let flag = match self {
            Self::Nginx | Self::Haproxy => "-v",
            Self::Millgate | Self::Envoy => "--version",
            Self::Relay | Self::Verification => return "of this commit".to_owned(),
        };
        let Ok(output) = Command::new(path).arg(flag).output() else { return "unknown".to_owned() };
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let line = said.trim().lines().next().unwrap_or("unknown").trim();
        // Envoy reports its path, too, which does not belong into a result.
        line.replace(&path.display().to_string(), &path.file_name().unwrap_or_default().to_string_lossy())
    }

    pub(crate) fn args(self, invocation: &Invocation<'_>) -> Vec<String> {
        let config = invocation.config.display().to_string();
        let dir = invocation.dir.display().to_string();
        match self {
            Self::Millgate => vec!["run".into(), "-c".into(), config, "--state-dir".into(), dir],
            Self::Nginx => vec!["-p".into(), dir, "-c".into(), config, "-g".into(), "daemon off;".into()],
            Self::Haproxy => vec!["-db".into(), "-f".into(), config],
            Self::Envoy => {
                let workers = invocation.workers.to_string();
                ["--concurrency", &workers, "--log-level", "warn", "--disable-hot-restart", "-c", &config]
                    .map(str::to_owned)
                    .to_vec()
            }
            Self::Relay => {
                let mut args = vec!["relay".into(), "--port".into(), invocation.port.to_string()];
                args.extend(invocation.endpoint_ports.iter().map(|port| format!("127.0.0.1:{port}")));
                args
            }
            Self::Verification => vec!["verification".into()],
        }
    }
}

/// The parameters of a program's arguments.
pub(crate) struct Invocation<'a> {
    /// The configuration, with its placeholders filled in.
    pub(crate) config: &'a Path,
    pub(crate) dir: &'a Path,
    pub(crate) port: u16,
    pub(crate) workers: usize,
    pub(crate) endpoint_ports: &'a [u16],
}

/// Folders in addition to `PATH`, where Debian has daemons.
const DAEMON_DIRS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(DAEMON_DIRS.map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A command that stays on these cores (in the form of `taskset`) and may open as many files as the machine allows.
pub(crate) fn pinned(cores: &str, program: &Path) -> Command {
    const RAISED: &str = r#"ulimit -S -n "$(ulimit -H -n)"; exec taskset --cpu-list "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", RAISED, "sh", cores]).arg(program).stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_does_not_have_is_not_found() {
        assert_eq!(on_path("no-such-proxy"), None);
        assert_eq!(Program::Millgate.find(Path::new("/no/such/millgate")), None);
        assert!(on_path("sh").is_some());
    }

    #[test]
    fn a_pinned_command_may_open_as_many_files_as_the_limit_allows() {
        let soft =
            pinned("0", Path::new("/bin/sh")).args(["-c", "ulimit -S -n; ulimit -H -n"]).output().unwrap();
        let said = String::from_utf8(soft.stdout).unwrap();
        let limits: Vec<_> = said.lines().collect();
        assert_eq!(limits.len(), 2, "{said}");
        assert_eq!(limits[0], limits[1]);
    }
}

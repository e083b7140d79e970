//! The programs that are compared: where each one is, its version, and how it is started.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::Options;

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

    /// The program. `None`: this machine does not have it.
    pub(crate) fn find(self, build: &Build, options: &Options) -> anyhow::Result<Option<Executable>> {
        Ok(match self {
            Self::Millgate => build.path.is_file().then(|| build.path.clone().into()),
            Self::Nginx => self.given_or_on_path(options.nginx.as_ref(), "nginx", (1, 30))?,
            Self::Haproxy => self.given_or_on_path(options.haproxy.as_ref(), "haproxy", (3, 2))?,
            Self::Envoy => on_path("envoy").map(Executable::from),
            Self::Relay | Self::Verification => env::current_exe().ok().map(Executable::from),
        })
    }

    /// A program that was given is taken as it is. One that only happens to be there must be new enough.
    fn given_or_on_path(
        self,
        given: Option<&Executable>,
        name: &str,
        least: (u32, u32),
    ) -> anyhow::Result<Option<Executable>> {
        if let Some(given) = given {
            return Ok(Some(given.clone()));
        }
        let Some(found) = on_path(name).map(Executable::from) else { return Ok(None) };
        new_enough(&self.version(&found), name, least)?;
        Ok(Some(found))
    }

    /// The first line of its own report of its version.
    pub(crate) fn version(self, executable: &Executable) -> String {
        let flag = match self {
            Self::Nginx | Self::Haproxy => "-v",
            Self::Millgate | Self::Envoy => "--version",
            Self::Relay | Self::Verification => return "of this commit".to_owned(),
        };
        let path = &executable.path;
        let Ok(output) = executable.command().arg(flag).output() else { return "unknown".to_owned() };
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

/// An error if a peer is older than what Millgate is compared with: it costs more, and would flatter Millgate.
fn new_enough(version: &str, name: &str, least: (u32, u32)) -> anyhow::Result<()> {
    let (major, minor) = least;
    ensure!(
        major_minor(version).is_some_and(|version| version >= least),
        "{version} is older than {major}.{minor}; fetch a newer one and give it, or leave it out with --peers:
  --{name} \"$(.ci/debian forky {name} usr/sbin/{name} {major}.{minor}+)\""
    );
    Ok(())
}

/// The first two numbers of a version, wherever it stands in a line.
fn major_minor(line: &str) -> Option<(u32, u32)> {
    line.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
        let mut numbers = word.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

/// A program, and the words before it if it does not start by itself: another dynamic loader with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Executable {
    before: Vec<String>,
    pub(crate) path: PathBuf,
}

impl Executable {
    pub(crate) fn command(&self) -> Command {
        let mut words = self.words();
        let mut command = Command::new(words.next().unwrap_or(&self.path));
        command.args(words);
        command
    }

    /// Its command on these cores, as [`pinned`] makes it.
    pub(crate) fn pinned(&self, cores: &str) -> Command {
        let mut words = self.words();
        let mut command = pinned(cores, words.next().unwrap_or(&self.path));
        command.args(words);
        command
    }

    fn words(&self) -> impl Iterator<Item = &Path> {
        self.before.iter().map(Path::new).chain([self.path.as_path()])
    }
}

impl From<PathBuf> for Executable {
    fn from(path: PathBuf) -> Self {
        Self { before: Vec::new(), path }
    }
}

impl FromStr for Executable {
    type Err = anyhow::Error;

    fn from_str(command: &str) -> anyhow::Result<Self> {
        let mut before: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let path = PathBuf::from(before.pop().context("an empty command")?);
        ensure!(path.is_file(), "{}: not found", path.display());
        Ok(Self { before, path })
    }
}

/// A build of Millgate, and its name in the tables.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl FromStr for Build {
    type Err = anyhow::Error;

    fn from_str(given: &str) -> anyhow::Result<Self> {
        let (name, path) = given.split_once('=').context("NAME=PATH is expected")?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(!name.is_empty() && name.chars().all(fits), "a name has letters, digits, `-`, `_` and `.`");
        if Program::named(name).is_some_and(|program| program != Program::Millgate) {
            bail!("{name} is another program's name");
        }
        Ok(Self { name: name.to_owned(), path: path.into() })
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
        assert!("/lib/ld.so /no/such/nginx".parse::<Executable>().is_err());
        assert!(on_path("sh").is_some());
    }

    #[test]
    fn a_build_has_a_name_that_no_other_program_has() {
        let build: Build = "new=/a=b".parse().unwrap();
        assert_eq!((build.name.as_str(), build.path.as_path()), ("new", Path::new("/a=b")));
        for wrong in ["nginx=/bin/sh", "/bin/sh", "a b=/bin/sh", "=/bin/sh"] {
            assert!(wrong.parse::<Build>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_command_of_several_words_is_a_program_and_what_starts_it() {
        let env: Executable = "/usr/bin/env WHERE=here /bin/sh".parse().unwrap();
        assert_eq!(env.path, Path::new("/bin/sh"));
        let said = env.command().args(["-c", "echo $WHERE"]).output().unwrap();
        assert_eq!(said.stdout, b"here\n");
        let said = env.pinned("0").args(["-c", "echo $WHERE"]).output().unwrap();
        assert_eq!(said.stdout, b"here\n");
    }

    #[test]
    fn a_peer_on_the_path_must_not_be_older_than_what_millgate_is_compared_with() {
        let refused = |version: &str, least| new_enough(version, "nginx", least).is_err();
        assert!(
            !refused("nginx version: nginx/1.30.0", (1, 30))
                && !refused("HAProxy version 3.10.1-1 2026/10/17", (3, 2))
        );
        assert!(refused("nginx version: nginx/1.29.9", (1, 30)) && refused("unknown", (1, 30)));
        assert!(refused("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", (3, 2)));
        let error = new_enough("nginx/1.22.1", "nginx", (1, 30)).unwrap_err().to_string();
        assert!(error.contains("--nginx \"$(.ci/debian forky nginx usr/sbin/nginx 1.30+)\""), "{error}");
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

//! The placeholders in a proxy's configuration, and their values.

use std::path::Path;

use anyhow::bail;

/// The values of a configuration's placeholders.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
    /// This proxy's folder for logs and temporary files.
    pub(crate) dir: &'a Path,
    /// The folder with the keys of the tokens and of TLS.
    pub(crate) keys: &'a Path,
    pub(crate) endpoint_ports: &'a [u16],
    pub(crate) routes: usize,
    pub(crate) workers: usize,
}

impl Places<'_> {
    /// Fills in a configuration. A line with `@ENDPOINT…@` or `@ROUTE@` is repeated for each endpoint or
    /// route.
    pub(crate) fn fill(&self, template: &str) -> anyhow::Result<String> {
        let mut text = String::new();
        for line in template.lines() {
            let line = line
                .replace("@PORT@", &self.port.to_string())
                .replace("@ADMIN_PORT@", &self.admin_port.to_string())
                .replace("@WORKERS@", &self.workers.to_string())
                .replace("@DIR@", &self.dir.display().to_string())
                .replace("@KEYS@", &self.keys.display().to_string());
            if line.contains("@ENDPOINT") {
                for (i, port) in self.endpoint_ports.iter().enumerate() {
                    let line = line.replace("@ENDPOINT_PORT@", &port.to_string());
                    text += &line.replace("@ENDPOINT@", &(i + 1).to_string());
                    text.push('\n');
                }
            } else if line.contains("@ROUTE@") {
                for route in 1..=self.routes {
                    text += &line.replace("@ROUTE@", &route.to_string());
                    text.push('\n');
                }
            } else {
                text += &line;
                text.push('\n');
            }
        }
        match text.lines().find(|line| line.matches('@').nth(1).is_some()) {
            Some(line) => bail!("a placeholder is not known: {line}"),
            None => Ok(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places<'_> {
        Places { port: 1, admin_port: 2, dir, keys: dir, endpoint_ports: &[3, 4], routes: 2, workers: 5 }
    }

    #[test]
    fn a_line_is_repeated_for_each_endpoint_and_each_route() {
        let filled = places(Path::new("/d"))
            .fill(
                "listen @PORT@ @ADMIN_PORT@ @DIR@ @WORKERS@\nserver s@ENDPOINT@ :@ENDPOINT_PORT@;\n/r@ROUTE@",
            )
            .unwrap();
        assert_eq!(filled, "listen 1 2 /d 5\nserver s1 :3;\nserver s2 :4;\n/r1\n/r2\n");
    }

    #[test]
    fn an_unknown_placeholder_is_an_error() {
        assert!(places(Path::new("/d")).fill("listen @PROT@").is_err());
    }
}

//! What the commands for Consul have in common: its address, bounded queries, and the layout of tables.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use clap::Args;
use millgate_registry::{Client, ClientConfig, ClientError, QueryOptions, types::ServiceEntry};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{fail, say, variable};
use crate::printable::printable;

/// The address of Consul.
#[derive(Debug, Args)]
pub struct ConsulArg {
    /// Consul's address [default: $CONSUL_HTTP_ADDR, else http://127.0.0.1:8500]. The token and the rest of the
    /// connection come from the variables that Consul's own command reads.
    #[arg(long, value_name = "URL")]
    consul: Option<String>,
}

impl ConsulArg {
    /// Runs `work` with a client; an error that it returns is printed, with exit code 1.
    pub fn run<F: Future<Output = Result<ExitCode, String>>>(
        &self,
        work: impl FnOnce(Client) -> F,
    ) -> ExitCode {
        if is_verification_refused() {
            say(format_args!("warning: {VERIFIED_ANYWAY}"));
        }
        let mut config = ClientConfig::from_env();
        if let Some(address) = &self.consul {
            config.address.clone_from(address);
        }
        let client = match Client::new(config) {
            Ok(client) => client,
            Err(error) => return fail(error),
        };
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(error),
        };
        let done = runtime.block_on(work(client));
        // A look-up of a name may hang; the process does not wait for it.
        runtime.shutdown_background();
        done.unwrap_or_else(fail)
    }
}

/// Whether the environment switches off the check of Consul's certificate, in the spellings of Consul's own tools.
pub fn is_verification_refused() -> bool {
    variable("CONSUL_HTTP_SSL_VERIFY")
        .and_then(|text| text.to_str().map(str::to_ascii_lowercase))
        .is_some_and(|text| ["0", "f", "false"].contains(&text.as_str()))
}

/// The warning for that case.
pub const VERIFIED_ANYWAY: &str = "CONSUL_HTTP_SSL_VERIFY=false has no effect: Consul's certificate is always verified; \
     name the authority that signed it with CONSUL_CACERT";

/// Reads all instances of `services`, with a bounded number of queries at once.
///
/// # Errors
/// The first query that failed.
pub async fn all_instances(
    client: &Client,
    services: impl Iterator<Item = String>,
) -> Result<BTreeMap<String, Vec<ServiceEntry>>, ClientError> {
    let permits = Arc::new(Semaphore::new(QUERIES_MAX));
    let mut queries = JoinSet::new();
    for service in services {
        let (client, permits) = (client.clone(), Arc::clone(&permits));
        queries.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let answer = client.health_service(&service, &QueryOptions::default()).await;
            answer.map(|answer| (service, answer.entries))
        });
    }
    let mut all = BTreeMap::new();
    while let Some(answer) = queries.join_next().await {
        // A query that panicked has logged it.
        let Ok(answer) = answer else { continue };
        let (service, mut entries) = answer?;
        entries.sort_by(|a, b| (&a.node.node, &a.service.id).cmp(&(&b.node.node, &b.service.id)));
        all.insert(service, entries);
    }
    Ok(all)
}

/// Lays rows out in columns that are as wide as their widest cell, up to [`CELL_CHARS_MAX`]. The text of cells is foreign.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| std::array::from_fn(|at| shortened(&printable(&row[at])))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(CELL_CHARS_MAX) {
        None => text.to_owned(),
        // The last character that fits becomes a mark that the text goes on.
        Some(_) => text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect(),
    }
}

/// A line or two of a terminal; the JSON form has the whole text. A width in a format string ends at 65535.
const CELL_CHARS_MAX: usize = 160;
/// By default, an agent serves 200 connections of one address; other programs need some of them.
const QUERIES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells_and_no_cell_is_endless() {
        let rows = [["A", "B"], ["a\nb", "x"], [&"y".repeat(100_000), "z"]].map(|row| row.map(str::to_owned));
        let text = columns(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "a cell is on one line");
        assert!(lines[1].starts_with("a\\nb ") && lines[2].ends_with("yy…  z"), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() == CELL_CHARS_MAX + 3));
    }
}

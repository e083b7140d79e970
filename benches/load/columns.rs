//! The columns of the table for one subject, by what was measured.

use serde::Serialize;
use serde_json::Value;

use crate::{launch::Started, memory::Held, statistics::Spread, turns::Turn};

/// One subject in one table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cells: Vec<String>,
    /// The figures that are compared, round after round.
    pub(crate) figures: Vec<f64>,
    /// The requests per second, if there are any.
    pub(crate) rates: Vec<f64>,
    /// The medians of user and system time, in the unit of the figures.
    pub(crate) split: Option<(f64, f64)>,
    pub(crate) notes: Vec<String>,
    pub(crate) summary: Value,
}

/// The unit of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Per {
    Request,
    /// The bodies in both directions.
    Gib {
        upload_bytes: usize,
    },
}

impl Per {
    pub(crate) fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Request => &[
                "requests/s",
                "p50 ms",
                "p99 ms",
                "p99.9 ms",
                "user + system = µs/request (min..max)",
                "busy",
                "MiB",
            ],
            Self::Gib { .. } => {
                &["MiB/s", "user + system = ms/GiB (min..max)", "busy", "MiB", "peak resident MiB"]
            }
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Request => "µs/request",
            Self::Gib { .. } => "ms/GiB",
        }
    }

    /// The cost of one unit, in microseconds or milliseconds.
    fn of(self, us: f64, turn: &Turn) -> f64 {
        match self {
            Self::Request => us / turn.load.requests as f64,
            Self::Gib { upload_bytes } => us / 1e3 / gib(turn, upload_bytes),
        }
    }
}

fn gib(turn: &Turn, upload_bytes: usize) -> f64 {
    (turn.load.bytes as f64 + turn.load.requests as f64 * upload_bytes as f64) / GIB
}

const GIB: f64 = (1 << 30) as f64;
const MIB_PER_GIB: f64 = 1024.0;
const KIB_PER_MIB: f64 = 1024.0;

/// Medians and spreads of one subject.
#[derive(Debug, Serialize)]
struct Turns {
    requests_per_s: Spread,
    mib_per_s: Spread,
    p50_us: Spread,
    p99_us: Spread,
    p999_us: Spread,
    /// The cost of a request in microseconds, or of a GiB in milliseconds.
    user: Spread,
    system: Spread,
    cpu: Spread,
    /// The share of its core that the proxy used. Below 0.9 or so, the load generator was the limit.
    busy: Spread,
    /// The share of the turn for which it was ready to run while something else had its core.
    waited: Spread,
    memory_mib: Spread,
    peak_mib: Spread,
    socket_errors: u64,
}

/// `None`: the subject had no turns.
pub(crate) fn turns(name: &str, turns: &[Turn], per: Per) -> Option<Row> {
    let spread = |value: &dyn Fn(&Turn) -> f64| Spread::of(turns.iter().map(value));
    let upload_bytes = if let Per::Gib { upload_bytes } = per { upload_bytes } else { 0 };
    let summary = Turns {
        requests_per_s: spread(&|turn| turn.load.requests_per_s())?,
        mib_per_s: spread(&|turn| gib(turn, upload_bytes) * MIB_PER_GIB / (turn.load.duration_us / 1e6))?,
        p50_us: spread(&|turn| turn.load.p50_us)?,
        p99_us: spread(&|turn| turn.load.p99_us)?,
        p999_us: spread(&|turn| turn.load.p999_us)?,
        user: spread(&|turn| per.of(turn.user_us, turn))?,
        system: spread(&|turn| per.of(turn.system_us, turn))?,
        cpu: spread(&|turn| per.of(turn.cpu_us(), turn))?,
        busy: spread(&|turn| turn.cpu_us() / turn.load.duration_us)?,
        waited: spread(&|turn| turn.waited_us / turn.load.duration_us)?,
        memory_mib: spread(&|turn| turn.memory_kib as f64 / KIB_PER_MIB)?,
        peak_mib: spread(&|turn| turn.peak_kib as f64 / KIB_PER_MIB)?,
        socket_errors: turns.iter().map(|turn| turn.load.socket_errors).sum(),
    };
    // A subject without a load generator has no latency.
    let ms = |us: Spread| if us.max > 0.0 { format!("{:.2}", us.median / 1e3) } else { "–".to_owned() };
    let Turns { user, system, cpu, .. } = &summary;
    let cost = format!(
        "{:.1} + {:.1} = **{:.1}** ({:.1}..{:.1})",
        user.median, system.median, cpu.median, cpu.min, cpu.max
    );
    let busy = format!("{:.0} %", summary.busy.median * 100.0);
    let memory = format!("{:.1}", summary.memory_mib.median);
    let cells = match per {
        Per::Request => {
            let rate = format!("{:.0}", summary.requests_per_s.median);
            vec![rate, ms(summary.p50_us), ms(summary.p99_us), ms(summary.p999_us), cost, busy, memory]
        }
        Per::Gib { .. } => {
            let rate = format!("{:.0}", summary.mib_per_s.median);
            vec![rate, cost, busy, memory, format!("{:.1}", summary.peak_mib.max)]
        }
    };
    let mut notes = Vec::new();
    if summary.waited.max > WAITED_MAX {
        let percent = summary.waited.max * 100.0;
        notes.push(format!("waited {percent:.0} % of a turn for its core: something else ran there."));
    }
    if summary.socket_errors > 0 {
        notes.push(format!("{} socket errors: not to be trusted.", summary.socket_errors));
    }
    Some(Row {
        name: name.to_owned(),
        cells,
        figures: turns.iter().map(|turn| per.of(turn.cpu_us(), turn)).collect(),
        rates: turns.iter().map(|turn| turn.load.requests_per_s()).collect(),
        split: Some((summary.user.median, summary.system.median)),
        notes,
        summary: serde_json::to_value(summary).ok()?,
    })
}

/// A proxy that shares its core has colder caches. Above this share, the table has a note.
const WAITED_MAX: f64 = 0.1;

pub(crate) const HELD: &[&str] = &[
    "clients",
    "MiB before",
    "MiB with them",
    "MiB 5 s later",
    "peak resident MiB",
    "KiB/client at once",
    "KiB/client (min..max)",
    "KiB/client in the kernel, all sides",
];

pub(crate) fn held(name: &str, held: &[Held]) -> Option<Row> {
    let spread = |value: &dyn Fn(&Held) -> f64| Spread::of(held.iter().map(value));
    let mib = |kib: u64| kib as f64 / KIB_PER_MIB;
    let at_once = spread(&|turn| turn.kib_per_client(turn.at_once_kib))?;
    let rested = spread(&|turn| turn.kib_per_client(turn.rested_kib))?;
    let sockets =
        Spread::of(held.iter().filter_map(|turn| Some(turn.sockets_kib? as f64 / turn.clients as f64)));
    let cells = vec![
        held.first()?.clients.to_string(),
        format!("{:.1}", spread(&|turn| mib(turn.before_kib))?.median),
        format!("{:.1}", spread(&|turn| mib(turn.at_once_kib))?.median),
        format!("{:.1}", spread(&|turn| mib(turn.rested_kib))?.median),
        format!("{:.1}", spread(&|turn| mib(turn.peak_kib))?.max),
        format!("{:.1}", at_once.median),
        format!("**{:.1}** ({:.1}..{:.1})", rested.median, rested.min, rested.max),
        sockets.map_or("not readable".to_owned(), |sockets| format!("{:.1}", sockets.median)),
    ];
    Some(Row {
        name: name.to_owned(),
        cells,
        figures: held.iter().map(|turn| turn.kib_per_client(turn.rested_kib)).collect(),
        rates: Vec::new(),
        split: None,
        notes: Vec::new(),
        summary: serde_json::json!({"kib_per_client": rested, "kib_per_client_at_once": at_once, "socket_kib_per_client": sockets}),
    })
}

pub(crate) const STARTS: &[&str] = &["starts", "ms to the first 200 (min..max)", "CPU ms until then", "MiB"];

pub(crate) fn starts(name: &str, starts: &[Started]) -> Option<Row> {
    let ms = Spread::of(starts.iter().map(|start| start.ms))?;
    let cpu = Spread::of(starts.iter().map(|start| start.cpu_ms))?;
    let memory = Spread::of(starts.iter().map(|start| start.memory_kib as f64 / KIB_PER_MIB))?;
    let cells = vec![
        starts.len().to_string(),
        format!("**{:.1}** ({:.1}..{:.1})", ms.median, ms.min, ms.max),
        format!("{:.1}", cpu.median),
        format!("{:.1}", memory.median),
    ];
    Some(Row {
        name: name.to_owned(),
        cells,
        figures: starts.iter().map(|start| start.ms).collect(),
        rates: Vec::new(),
        split: None,
        notes: Vec::new(),
        summary: serde_json::json!({"ms": ms, "cpu_ms": cpu, "memory_mib": memory}),
    })
}

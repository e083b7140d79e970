//! Floors: every room of a crate stands on one, and imports only from floors below its own. So rooms cannot import each other
//! in a circle, and a room can be read without the rooms above it. The files of a room cannot import each other in a circle
//! either; a room's `mod.rs`, which is its face, is not counted.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{imports, module_of};
use super::{Source, sources};

/// The floors of a crate, from the highest to the lowest.
struct House {
    package: &'static str,
    /// Rooms of one floor do not import each other.
    floors: &'static [&'static [&'static str]],
    /// Imports upwards that still exist: the room, and the room that it imports. The list only shrinks.
    upwards: &'static [(&'static str, &'static str)],
}

const REGISTRY: House = House {
    package: "registry",
    floors: &[
        &["fuzzing", "testing"],
        &["state"],
        &["watch"],
        &["client", "server"],
        &["http", "store"],
        &["types"],
    ],
    upwards: &[],
};

const GATEWAY: House = House {
    package: "gateway",
    floors: &[
        &["cli", "fuzzing"],
        &["testing"],
        &["gateway"],
        &["control"],
        &["auto_routes"],
        &["compile"],
        &["world"],
        &["config"],
        &["acme"],
        &["tls", "token", "worker_thread"],
        &["connection"],
        &["request"],
        &["worker"],
        &["declaration", "snapshot"],
        &["access_log"],
        &["upstream"],
        &["body"],
        &["downstream"],
        &["policy"],
        &["listen", "router"],
        &["admission"],
        &["auth"],
        &["headers"],
        &["message"],
        &["tunnel"],
        &["certificate", "file_account"],
        &[
            "bounded_file",
            "clock",
            "freed_memory",
            "interner",
            "metrics",
            "printable",
            "proxy_protocol",
            "seldom",
            "small_writes",
            "syntax",
        ],
    ],
    upwards: &[],
};

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for house in [&REGISTRY, &GATEWAY] {
        let mut needed: BTreeSet<&(&str, &str)> = BTreeSet::new();
        for source in house.sources() {
            let Some(room) = module_of(&source).first().cloned() else { continue };
            for import in imports(&source) {
                let Some(other) = import.path.first().filter(|other| **other != room) else { continue };
                let (floor, below) = (house.floor(&room), house.floor(other));
                if below > floor || floor.is_none() {
                    continue;
                }
                let excepted = house.upwards.iter().find(|(from, to)| *from == room && to == other);
                needed.extend(excepted);
                if excepted.is_none() {
                    let what = import.path.join("::");
                    wrong.push(format!("{}:{}: `{room}` imports {what}", source.name, import.line));
                }
            }
        }
        let all = house.upwards.iter();
        wrong.extend(all.filter(|row| !needed.contains(row)).map(|(from, to)| {
            format!("{}: `{from}` no longer imports `{to}` upwards: take the row off the list", house.package)
        }));
    }
    assert!(wrong.is_empty(), "rooms import from floors below their own only:\n{}", wrong.join("\n"));
}

#[test]
fn every_room_has_a_floor() {
    for house in [&REGISTRY, &GATEWAY] {
        let listed: Vec<&str> = house.floors.concat();
        let rooms: BTreeSet<String> =
            house.sources().iter().filter_map(|source| module_of(source).first().cloned()).collect();
        let floors: BTreeSet<String> = listed.iter().map(|room| (*room).to_owned()).collect();
        assert_eq!(rooms, floors, "the rooms of `{}` and those with a floor", house.package);
        assert_eq!(floors.len(), listed.len(), "each room has one floor");
    }
}

#[test]
fn files_of_a_room_do_not_import_each_other_in_a_circle() {
    let mut wrong = Vec::new();
    for house in [&REGISTRY, &GATEWAY] {
        for (folder, edges) in house.neighbours() {
            let circles = circles_of(&edges);
            wrong.extend(circles.iter().map(|files| format!("{}: {folder}: {files:?}", house.package)));
        }
    }
    assert!(wrong.is_empty(), "circles of files:\n{}", wrong.join("\n"));
}

/// Which neighbours each file or folder of a folder imports.
type Edges = BTreeMap<String, BTreeSet<String>>;

impl House {
    fn sources(&self) -> Vec<Source> {
        let prefix = format!("{}/src/", self.package);
        sources().into_iter().filter(|source| source.name.starts_with(&prefix)).collect()
    }

    /// Counted from above; `None` for a name that is not a room, such as a re-export of `lib.rs`.
    fn floor(&self, room: &str) -> Option<usize> {
        self.floors.iter().position(|rooms| rooms.contains(&room))
    }

    /// By folder, as a path of modules.
    fn neighbours(&self) -> BTreeMap<String, Edges> {
        let mut folders: BTreeMap<String, Edges> = BTreeMap::new();
        for source in self.sources() {
            let own = module_of(&source);
            for import in imports(&source) {
                let shared = own.iter().zip(&import.path).take_while(|(a, b)| a == b).count();
                if let (1.., Some(from), Some(to)) = (shared, own.get(shared), import.path.get(shared)) {
                    let edges = folders.entry(own[..shared].join("::")).or_default();
                    edges.entry(from.clone()).or_default().insert(to.clone());
                }
            }
        }
        folders
    }
}

/// The sets of nodes that reach each other.
fn circles_of(edges: &Edges) -> BTreeSet<BTreeSet<String>> {
    let reach = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(node) = next.pop() {
            next.extend(edges.get(node).into_iter().flatten().filter(|to| seen.insert((*to).clone())));
        }
        seen
    };
    let all: BTreeMap<&String, BTreeSet<String>> = edges.keys().map(|node| (node, reach(node))).collect();
    let in_a_circle = all.iter().filter(|(node, reached)| reached.contains(**node));
    in_a_circle
        .map(|(node, reached)| {
            let returns = |other: &&String| all.get(*other).is_some_and(|reached| reached.contains(*node));
            reached.iter().filter(returns).cloned().collect()
        })
        .collect()
}

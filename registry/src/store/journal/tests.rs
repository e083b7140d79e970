//! What a directory reads back as, whatever happened to its files.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::directory::Log;
use super::*;

const SMALL: JournalLimits = JournalLimits {
    log_bytes: 400,
    log_per_snapshot: 1,
    pending_bytes: 1 << 20,
    fold_retry: Duration::from_millis(5),
};

/// Rows as a map from `table/key` to the row's text.
type State = std::collections::BTreeMap<String, String>;

fn open(directory: &Path, limits: JournalLimits) -> Result<(Journal, State), JournalError> {
    let mut state = State::new();
    let mut take = |row: Row<'_>| {
        let key = format!("{}/{}", row.table, row.key);
        match row.value {
            Some(value) => state.insert(key, value.get().to_owned()),
            None => state.remove(&key),
        };
        Ok(())
    };
    let journal = Journal::open(Directory::open(directory)?, limits, &mut take)?;
    Ok((journal, state))
}

fn state(rows: &[(&str, &str)]) -> State {
    rows.iter().map(|(key, row)| (format!("t/\"{key}\""), (*row).to_owned())).collect()
}

/// Appends each line as one frame.
async fn write(directory: &Path, lines: &[&str]) {
    let (journal, _) = open(directory, JournalLimits::default()).unwrap();
    for line in lines {
        journal.append(line.as_bytes());
        journal.settle().await.unwrap();
    }
}

fn log(directory: &TempDir) -> PathBuf {
    directory.path().join("log.1")
}

#[tokio::test]
async fn what_was_written_is_there_and_the_latest_row_wins() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &["[\"t\",\"a\",1]\n[\"t\",\"b\",1]\n", "[\"t\",\"a\",2]\n"]).await;
    write(directory.path(), &["[\"t\",\"b\"]\n", "[\"t\",\"c\",3]\n"]).await;
    let (_, read_back) = open(directory.path(), SMALL).unwrap();
    assert_eq!(read_back, state(&[("a", "2"), ("c", "3")]));
}

#[tokio::test]
async fn only_its_owner_can_read_the_files_even_in_a_directory_that_existed() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (journal, _) = open(directory.path(), SMALL).unwrap();
    for number in 0..100 {
        journal.append(format!("[\"t\",\"a\",{number}]\n").as_bytes());
        journal.settle().await.unwrap();
    }
    drop(journal);
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for kind in ["lock", "log.", "snapshot."] {
        assert!(names.iter().any(|path| path.display().to_string().contains(kind)), "{kind}: {names:?}");
    }
    for path in names {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn a_last_record_cut_at_any_byte_is_cut_off_and_writing_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &["[\"t\",\"a\",1]\n"]).await;
    let before = fs::read(log(&directory)).unwrap().len();
    write(directory.path(), &["[\"t\",\"b\",1]\n"]).await;
    let whole = fs::read(log(&directory)).unwrap();
    for cut in before..whole.len() {
        fs::write(log(&directory), &whole[..cut]).unwrap();
        let (journal, read_back) = open(directory.path(), SMALL).unwrap();
        assert_eq!(read_back, state(&[("a", "1")]), "cut at {cut}");
        drop(journal);
        assert_eq!(fs::read(log(&directory)).unwrap().len(), before, "cut at {cut}");
        write(directory.path(), &["[\"t\",\"c\",1]\n"]).await;
        let (_, read_back) = open(directory.path(), SMALL).unwrap();
        assert_eq!(read_back, state(&[("a", "1"), ("c", "1")]), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_header_cut_at_any_byte_is_an_empty_log() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &[]).await;
    let whole = fs::read(log(&directory)).unwrap();
    for cut in 0..whole.len() {
        fs::write(log(&directory), &whole[..cut]).unwrap();
        assert_eq!(open(directory.path(), SMALL).unwrap().1, State::new(), "cut at {cut}");
        assert_eq!(fs::read(log(&directory)).unwrap(), whole, "cut at {cut}");
    }
}

#[tokio::test]
async fn damage_before_good_records_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &["[\"t\",\"a\",1]\n", "[\"t\",\"b\",1]\n", "[\"t\",\"c\",1]\n"]).await;
    let whole = fs::read(log(&directory)).unwrap();
    let frame = 12 + "[\"t\",\"a\",1]\n".len();
    let second = whole.len() - 2 * frame;
    for at in second..second + frame {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(log(&directory), damaged).unwrap();
        let error = open(directory.path(), SMALL).unwrap_err();
        let advice = format!("`truncate -s {second} {}`", log(&directory).display());
        assert!(error.to_string().contains(&advice), "byte {at}: {error}");
    }
    // The advice works.
    fs::write(log(&directory), &whole[..second]).unwrap();
    assert_eq!(open(directory.path(), SMALL).unwrap().1, state(&[("a", "1")]));
}

#[tokio::test]
async fn two_processes_do_not_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path(), SMALL).unwrap();
    let error = open(directory.path(), SMALL).unwrap_err();
    assert!(matches!(error, JournalError::InUse { .. }), "{error}");
    drop(first);
    open(directory.path(), SMALL).unwrap();
}

#[test]
fn the_directory_is_made_for_its_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b");
    open(&path, SMALL).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_format_of_the_future_is_refused_by_its_number() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    frame::write(&mut bytes, br#"{"format":"millgate-registry","version":2}"#);
    fs::write(log(&directory), bytes).unwrap();
    let error = open(directory.path(), SMALL).unwrap_err().to_string();
    assert!(error.ends_with("was written in format 2; this release reads format 1"), "{error}");
}

#[tokio::test]
async fn a_long_log_is_folded_and_reads_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(directory.path(), SMALL).unwrap();
    for round in 0..200 {
        journal.append(format!("[\"t\",\"{}\",{round}]\n[\"t\",\"gone\",{round}]\n", round % 7).as_bytes());
        journal.append(b"[\"t\",\"gone\"]\n");
        journal.settle().await.unwrap();
    }
    drop(journal);
    let bytes: u64 =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    // 200 rounds are 20 kB of log. A fold may still be under way at the end, so a few logs may be left.
    assert!(bytes < 10_000, "{bytes}");
    let (_, read_back) = open(directory.path(), SMALL).unwrap();
    let expected: State =
        (193..200).map(|round| (format!("t/\"{}\"", round % 7), round.to_string())).collect();
    assert_eq!(read_back, expected);
}

/// Each step of a fold leaves files that read the same.
#[tokio::test]
async fn a_crash_between_any_two_steps_of_a_fold_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write(directory.path(), &["[\"t\",\"a\",1]\n", "[\"t\",\"b\",1]\n"]).await;
    let expected = state(&[("a", "1"), ("b", "1"), ("c", "1")]);
    let old_log = fs::read(log(&directory)).unwrap();

    // The new log is begun.
    let opened = Directory::open(directory.path()).unwrap();
    let mut next = opened.begin_log(2).unwrap();
    let mut record = Vec::new();
    frame::write(&mut record, b"[\"t\",\"c\",1]\n");
    next.file.write_all(&record).unwrap();
    drop((opened, next));
    assert_eq!(open(directory.path(), SMALL).unwrap().1, expected);

    // The snapshot is half written.
    fs::write(path("snapshot.2.new"), b"half").unwrap();
    assert_eq!(open(directory.path(), SMALL).unwrap().1, expected);
    assert!(!path("snapshot.2.new").exists());

    // The snapshot is there, and the old log still is.
    let opened = Directory::open(directory.path()).unwrap();
    opened.fold().unwrap();
    drop(opened);
    fs::write(path("log.1"), old_log).unwrap();
    assert_eq!(open(directory.path(), SMALL).unwrap().1, expected);
    assert!(!path("log.1").exists());

    // The old log is gone already, and the fold is made again.
    let opened = Directory::open(directory.path()).unwrap();
    opened.fold().unwrap();
    drop(opened);
    assert_eq!(open(directory.path(), SMALL).unwrap().1, expected);

    // A log in the middle is gone: that is no crash.
    fs::rename(path("log.2"), path("log.3")).unwrap();
    let error = open(directory.path(), SMALL).unwrap_err();
    assert!(matches!(&error, JournalError::Missing { path } if path.ends_with("log.2")), "{error}");
}

#[tokio::test]
async fn a_snapshot_that_is_cut_or_damaged_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &["[\"t\",\"a\",1]\n"]).await;
    let opened = Directory::open(directory.path()).unwrap();
    opened.begin_log(2).unwrap();
    opened.fold().unwrap();
    drop(opened);
    let snapshot = directory.path().join("snapshot.2");
    let whole = fs::read(&snapshot).unwrap();
    for cut in 0..whole.len() {
        fs::write(&snapshot, &whole[..cut]).unwrap();
        let error = open(directory.path(), SMALL).unwrap_err();
        assert!(matches!(error, JournalError::DamagedSnapshot { .. }), "cut at {cut}: {error}");
    }
    fs::write(&snapshot, &whole).unwrap();
    assert_eq!(open(directory.path(), SMALL).unwrap().1, state(&[("a", "1")]));
}

#[tokio::test]
async fn a_disk_that_fails_ends_the_journal_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    // `/dev/full` takes nothing.
    std::os::unix::fs::symlink("/dev/full", directory.path().join("log.1")).unwrap();
    let opened = Directory::open(directory.path()).unwrap();
    let file = fs::OpenOptions::new().append(true).open("/dev/full").unwrap();
    let shared = Arc::new(Shared::default());
    let (done, progress) = watch::channel(Progress::default());
    let log = Log { file, path: log(&directory), number: 1, bytes: 0 };
    let writer = Writer::new(opened, log, SMALL, Arc::clone(&shared), done).unwrap();
    let writer = Mutex::new(Some(std::thread::spawn(move || writer.run())));
    let journal = Journal { shared, progress, pending_bytes_max: 1 << 20, writer };
    journal.append(b"[\"t\",\"a\",1]\n");
    let reason = journal.settle().await.unwrap_err();
    assert!(reason.contains("No space left on device"), "{reason}");
    assert_eq!(journal.admit(), Err(NotAdmitted::Failed(reason)));
}

/// Waits until the writer says so.
async fn sizes(journal: &Journal, wanted: impl Fn(&JournalSizes) -> bool) -> JournalSizes {
    let mut progress = journal.progress.clone();
    let seen = progress.wait_for(|progress| wanted(&progress.sizes));
    tokio::time::timeout(Duration::from_secs(20), seen).await.expect("in time").unwrap().sizes
}

/// What is in the way of a fold, as a full disk would be: of its next log, of its snapshot.
#[tokio::test]
async fn a_fold_that_fails_is_tried_again_while_writing_goes_on() {
    for obstacle in ["log.2", "log.2.new", "snapshot.2.new"] {
        let directory = tempfile::tempdir().unwrap();
        let (journal, _) = open(directory.path(), SMALL).unwrap();
        let in_the_way = directory.path().join(obstacle);
        fs::create_dir_all(in_the_way.join("x")).unwrap();
        let append = async |number: usize| {
            journal.append(format!("[\"t\",\"a\",{number}]\n").as_bytes());
            journal.settle().await.unwrap();
        };
        for number in 0..50 {
            append(number).await;
        }
        // More than once, though nothing is written meanwhile.
        let seen = sizes(&journal, |sizes| sizes.fold_failures >= 3).await;
        assert!(seen.folds == 0 && seen.log_bytes > SMALL.log_bytes, "{obstacle}: {seen:?}");
        append(50).await;
        fs::remove_dir_all(&in_the_way).unwrap();
        let seen = sizes(&journal, |sizes| sizes.folds > 0).await;
        assert!(seen.log_bytes < SMALL.log_bytes && seen.snapshot_bytes > 0, "{obstacle}: {seen:?}");
        append(51).await;
        drop(journal);
        assert!(!log(&directory).exists(), "{obstacle}");
        assert_eq!(open(directory.path(), SMALL).unwrap().1, state(&[("a", "51")]), "{obstacle}");
    }
}

//! The disk that fails is honest: it loses what may be lost, keeps what must be kept, and repeats itself.

use std::collections::BTreeSet;
use std::io;

use dsv2_store::testing::{Call, Fault, FaultyDisk};
use dsv2_store::{Disk, OpenMode};

const SEEDS: u64 = 400;

/// What a crash left of a file with a synced start and two writes after it, for many seeds.
fn outcomes(prepare: impl Fn(&FaultyDisk) -> io::Result<()>) -> BTreeSet<Option<Vec<u8>>> {
    let crash = |seed| {
        let disk = FaultyDisk::new(seed);
        prepare(&disk).expect("no failure was asked for");
        disk.crash();
        disk.content("f")
    };
    assert_eq!(crash(3), crash(3), "one seed, one outcome");
    (0..SEEDS).map(crash).collect()
}

#[test]
fn a_crash_loses_any_part_of_what_was_not_synced_and_nothing_else() {
    let found = outcomes(|disk| {
        let file = disk.open("f", OpenMode::Append)?;
        file.append(b"SYNCED")?;
        file.sync()?;
        disk.sync_dir("")?;
        file.append(b"abcdefgh")?;
        file.append(b"ijklmnop")
    });
    let found: Vec<Vec<u8>> = found.into_iter().map(|content| content.expect("its name was synced")).collect();
    assert!(found.iter().all(|content| content.starts_with(b"SYNCED")));
    let has = |wanted: &[u8]| found.iter().any(|content| content == wanted);
    assert!(has(b"SYNCED") && has(b"SYNCEDabcdefghijklmnop") && has(b"SYNCEDabcdefgh"), "nothing, all, a part");
    assert!(found.iter().any(|content| content.starts_with(b"SYNCEDabc") && content.len() < 14), "a torn write");
    assert!(found.iter().any(|content| content[6..].contains(&0) && content.ends_with(b"p")), "a hole before the end");
}

#[test]
fn a_truncation_may_be_lost_until_it_is_synced() {
    let prepare = |disk: &FaultyDisk, sync: bool| {
        let file = disk.open("f", OpenMode::Append)?;
        file.append(b"0123456789")?;
        file.sync()?;
        disk.sync_dir("")?;
        file.truncate(4)?;
        if sync { file.sync() } else { Ok(()) }
    };
    let both = [Some(b"0123".to_vec()), Some(b"0123456789".to_vec())];
    assert_eq!(outcomes(|disk| prepare(disk, false)), both.iter().cloned().collect());
    assert_eq!(outcomes(|disk| prepare(disk, true)), both[..1].iter().cloned().collect());
}

#[test]
fn names_may_be_lost_until_their_directory_is_synced() {
    let prepare = |disk: &FaultyDisk, sync: bool| {
        let file = disk.open("g", OpenMode::Append)?;
        file.append(b"new")?;
        file.sync()?;
        disk.put("f", b"old");
        disk.rename("g", "f")?;
        if sync { disk.sync_dir("") } else { Ok(()) }
    };
    let either = [Some(b"new".to_vec()), Some(b"old".to_vec())];
    assert_eq!(outcomes(|disk| prepare(disk, false)), either.iter().cloned().collect());
    assert_eq!(outcomes(|disk| prepare(disk, true)), either[..1].iter().cloned().collect());
    let created = outcomes(|disk| disk.open("f", OpenMode::Append)?.sync());
    assert_eq!(created, [None, Some(Vec::new())].into_iter().collect(), "a synced file may still have no name");
}

#[test]
fn what_a_failed_sync_gave_up_is_not_brought_back_by_the_next() {
    let found = outcomes(|disk| {
        let file = disk.open("f", OpenMode::Append)?;
        disk.sync_dir("")?;
        file.append(b"given up ")?;
        disk.fail_nth(Call::Sync, 1, Fault::Broken);
        assert!(file.sync().is_err());
        file.append(b"kept")?;
        file.sync()
    });
    assert!(found.iter().flatten().all(|content| content.ends_with(b"kept")));
    assert!(
        found.contains(&Some(b"\0\0\0\0\0\0\0\0\0kept".to_vec())) && found.contains(&Some(b"given up kept".to_vec()))
    );
}

#[test]
fn a_full_disk_takes_what_fits_and_a_dead_one_nothing() -> io::Result<()> {
    let disk = FaultyDisk::new(1);
    let file = disk.open("f", OpenMode::Append)?;
    disk.set_capacity(Some(5));
    let error = file.append(b"0123456789").expect_err("it does not fit");
    assert_eq!((error.kind(), disk.content("f")), (io::ErrorKind::StorageFull, Some(b"01234".to_vec())));
    file.truncate(2)?;
    file.append(b"abc")?;
    disk.set_capacity(None);
    disk.power_off_after(1);
    file.append(b"x")?;
    assert!(file.append(b"y").is_err() && disk.is_off());
    assert!(file.sync().is_err() && disk.list("").is_err() && disk.open("f", OpenMode::Read).is_err());
    disk.crash();
    assert!(file.append(b"z").is_err(), "it was open when the power failed");
    assert!(!disk.is_off() && disk.lock().is_ok());
    Ok(())
}

//! Live: checkpoints that build upon others.

use criu_testkit::{Criu, Outcome, Sandbox, Target, fixtures};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Bytes of pages that a checkpoint takes on disk.
fn stored(sandbox: &Sandbox, images: &str) -> u64 {
    let files = fs::read_dir(sandbox.path(images)).unwrap().map(Result::unwrap);
    let pages = files.filter(|file| file.file_name().to_string_lossy().starts_with("pages-"));
    pages.map(|file| file.metadata().unwrap().blocks() * 512).sum()
}

#[track_caller]
fn succeeds(outcome: &Outcome, criu: &Criu<'_>, images: &str) {
    let log = ["pre-dump.log", "dump.log", "restore.log"].map(|name| criu.log(images, name));
    assert!(outcome.status.success(), "{outcome}{}", log.join("\n"));
}

fn pre_dump_command(criu: &Criu<'_>, pid: i32, images: &str, options: &[&str]) -> Vec<OsString> {
    let images = criu.sandbox.folder(images).unwrap();
    let mut command: Vec<OsString> = vec![criu.binary.clone().into(), "pre-dump".into()];
    command.extend(["-t".into(), pid.to_string().into(), "-D".into(), images.into()]);
    command.extend(["-v4", "-o", "pre-dump.log"].iter().chain(options).map(Into::into));
    command
}

fn pre_dump(criu: &Criu<'_>, pid: i32, images: &str, options: &[&str]) -> Outcome {
    criu.sandbox.run(pre_dump_command(criu, pid, images, options)).unwrap()
}

#[test]
fn every_round_builds_upon_the_last() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    for round in 0..6 {
        let (images, before) = (format!("{round}"), format!("../{}", round - 1));
        let mut options = vec!["--track-mem"];
        if round > 0 {
            options.extend(["--prev-images-dir", &before]);
        }
        // A restore gives shared memory another id, under which the parent does not know it.
        let restores = round % 2 == 1;
        if !restores {
            options.push("--leave-running");
        }
        succeeds(&criu.dump(target.pid, &images, &options).unwrap(), &criu, &images);
        if restores {
            succeeds(&criu.restore(&images, &[]).unwrap(), &criu, &images);
        }
        target.check().and_then(|()| target.ready()).unwrap();
    }
    let (first, last) = (stored(&sandbox, "0"), stored(&sandbox, "5"));
    assert!(first > 8 << 20 && last < 2 << 20, "first {first}, last {last} bytes");
}

#[test]
fn a_dump_builds_upon_pre_dumps() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    let before = sandbox.traces().unwrap();
    succeeds(&pre_dump(&criu, target.pid, "0", &[]), &criu, "0");
    sandbox.settles_to(&before).unwrap();
    target.check().and_then(|()| target.ready()).unwrap();
    let options = ["--prev-images-dir", "../0", "--pre-dump-mode", "read"];
    succeeds(&pre_dump(&criu, target.pid, "1", &options), &criu, "1");
    target.check().and_then(|()| target.ready()).unwrap();
    let refused = criu.restore("1", &[]).unwrap();
    assert!(!refused.status.success());
    assert!(criu.log("1", "restore.log").contains("pre-dump, which holds memory alone"), "{refused}");

    succeeds(&criu.dump(target.pid, "2", &["--prev-images-dir", "../1"]).unwrap(), &criu, "2");
    assert!(!target.alive().unwrap());
    succeeds(&criu.restore("2", &[]).unwrap(), &criu, "2");
    target.check().unwrap();
    let sizes = ["0", "1", "2"].map(|images| stored(&sandbox, images));
    assert!(sizes[0] > 8 << 20 && sizes[1] < 2 << 20 && sizes[2] < 2 << 20, "{sizes:?}");
}

#[test]
fn nothing_of_another_task_is_taken_over() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let other = Target::start(&sandbox, &["changing_memory"]).unwrap();
    succeeds(&criu.dump(other.pid, "0", &[]).unwrap(), &criu, "0");
    let mut target = Target::start(&sandbox, &["copy_on_write"]).unwrap();
    // The pagemap of the other task under the name of this one's.
    let name = |pid| sandbox.path("0").join(format!("pagemap-{pid}.img"));
    fs::rename(name(other.pid), name(target.pid)).unwrap();
    succeeds(&criu.dump(target.pid, "1", &["--prev-images-dir", "../0"]).unwrap(), &criu, "1");
    succeeds(&criu.restore("1", &[]).unwrap(), &criu, "1");
    target.check().unwrap();
}

#[test]
fn a_parent_that_is_not_there_is_refused_at_once() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    let outcome = criu.dump(target.pid, "0", &["--prev-images-dir", "../gone"]).unwrap();
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("--prev-images-dir ../gone"), "{outcome}");
    assert!(target.alive().unwrap());
    assert!(fs::symlink_metadata(sandbox.path("0/parent")).is_err());
}

#[test]
fn killed_pre_dumps_leave_the_target_alone_and_are_no_parents() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["stress"]).unwrap();
    let before = sandbox.traces().unwrap();
    for microseconds in (0..40_000).step_by(1_000) {
        let mut running = sandbox.spawn(pre_dump_command(&criu, target.pid, "0", &[])).unwrap();
        std::thread::sleep(std::time::Duration::from_micros(microseconds));
        running.kill().unwrap();
        if let Err(error) = target.check().and_then(|()| target.ready()) {
            panic!("killed after {microseconds} µs: {error:#}\n{}", criu.log("0", "pre-dump.log"));
        }
    }
    sandbox.settles_to(&before).unwrap();
    let _ = fs::remove_file(sandbox.path("0/inventory.img")); // the last ones may have been complete
    let outcome = criu.dump(target.pid, "1", &["--prev-images-dir", "../0"]).unwrap();
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("no complete checkpoint is there"), "{outcome}");
    target.check().unwrap();
}

#[test]
fn images_without_their_parent_are_refused_before_anything_is_created() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    succeeds(&criu.dump(target.pid, "0", &["--leave-running"]).unwrap(), &criu, "0");
    succeeds(&criu.dump(target.pid, "1", &["--prev-images-dir", "../0"]).unwrap(), &criu, "1");
    fs::rename(sandbox.path("0"), sandbox.path("elsewhere")).unwrap();
    let outcome = criu.restore("1", &[]).unwrap();
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("parent checkpoint"), "{outcome}");

    fs::create_dir(sandbox.path("0")).unwrap();
    let outcome = criu.restore("1", &[]).unwrap();
    assert!(!outcome.status.success());
    assert!(outcome.stderr.contains("should be in a parent checkpoint"), "{outcome}");
    fs::remove_dir(sandbox.path("0")).unwrap();
    fs::rename(sandbox.path("elsewhere"), sandbox.path("0")).unwrap();
    succeeds(&criu.restore("1", &[]).unwrap(), &criu, "1");
}

#[test]
fn dedup_takes_from_parents_what_is_stored_anew() {
    let sandbox = Sandbox::new().unwrap();
    let criu = Criu::new(&sandbox);
    let mut target = Target::start(&sandbox, &["changing_memory"]).unwrap();
    succeeds(&criu.dump(target.pid, "0", &["--leave-running"]).unwrap(), &criu, "0");
    target.check().and_then(|()| target.ready()).unwrap();
    let upon = ["--leave-running", "--prev-images-dir", "../0"];
    succeeds(&criu.dump(target.pid, "1", &upon).unwrap(), &criu, "1");
    let before = stored(&sandbox, "0");

    let binary = criu.binary.to_str().unwrap();
    let images = |name| sandbox.path(name).to_str().unwrap().to_owned();
    let outcome = sandbox.run([binary, "dedup", "-D", &images("1")]).unwrap();
    assert!(outcome.status.success(), "{outcome}");
    let deduplicated = stored(&sandbox, "0");
    assert!(deduplicated < before && deduplicated > 8 << 20, "{before} {deduplicated}");
    let outcome = sandbox.run([binary, "dedup", "-D", &images("0")]).unwrap();
    assert!(!outcome.status.success() && outcome.stderr.contains("no parent checkpoint"), "{outcome}");

    target.check().and_then(|()| target.ready()).unwrap();
    let options = ["--prev-images-dir", "../1", "--auto-dedup"];
    succeeds(&criu.dump(target.pid, "2", &options).unwrap(), &criu, "2");
    assert!(stored(&sandbox, "0") < deduplicated);
    succeeds(&criu.restore("2", &[]).unwrap(), &criu, "2");
    target.check().unwrap();
}

/// Kinds of memory beside the plain ones, in a dump upon a pre-dump.
#[test]
fn other_memory_builds_upon_a_pre_dump() {
    let huge = fixtures::reserve_huge_pages(16).then_some("huge_pages");
    let kinds = ["segments", "packet_rings", "sealed_areas", "locks", "deleted_mapped_files"];
    for fixture in kinds.into_iter().chain(huge) {
        let sandbox = Sandbox::new().unwrap();
        let criu = Criu::new(&sandbox);
        let mut target = Target::start(&sandbox, &[fixture]).unwrap();
        succeeds(&pre_dump(&criu, target.pid, "first", &["--track-mem"]), &criu, "first");
        let options = ["--track-mem", "--prev-images-dir", "../first"];
        succeeds(&criu.dump(target.pid, "last", &options).unwrap(), &criu, "last");
        succeeds(&criu.restore("last", &[]).unwrap(), &criu, "last");
        target.check().unwrap();
    }
}

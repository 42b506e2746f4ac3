//! What bad input gets: a failure that names task, thing and remedy; the target runs on; nothing is left behind.

use criu_testkit::{Criu, Outcome, Sandbox, Target};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A sandbox with a fixture in it, and what was there before anything went wrong.
struct Case<'a> {
    criu: Criu<'a>,
    target: Target<'a>,
    before: BTreeSet<String>,
}

fn with(fixture: &[&str], test: impl FnOnce(&mut Case)) {
    let sandbox = Sandbox::new().unwrap();
    let target = Target::start(&sandbox, fixture).unwrap();
    let before = sandbox.traces().unwrap();
    test(&mut Case { criu: Criu::new(&sandbox), target, before });
}

/// A failure with one `Error` line on stderr that has all these words.
#[track_caller]
fn fails(outcome: &Outcome, words: &[&str]) {
    let code = outcome.status.code().unwrap_or_else(|| panic!("it was killed: {outcome}"));
    assert_ne!(code, 0, "it did not fail: {outcome}");
    let errors = outcome.errors();
    assert_eq!(errors.len(), 1, "one Error line, please: {outcome}");
    for word in words {
        assert!(errors[0].contains(word), "no word of {word:?} in: {outcome}");
    }
}

impl Case<'_> {
    /// Runs an action with its errors on stderr.
    fn run(&self, words: &[&str]) -> Outcome {
        let binary = self.criu.binary.to_str().unwrap();
        self.criu.sandbox.run([&[binary], words].concat()).unwrap()
    }

    fn pid(&self) -> String {
        self.target.pid.to_string()
    }

    /// Dumps into the folder `images` of the sandbox.
    fn dump(&self, options: &[&str]) -> Outcome {
        let images = self.criu.sandbox.folder("images").unwrap();
        self.run(&[&["dump", "-t", &self.pid(), "-D", images.to_str().unwrap()], options].concat())
    }

    fn restore(&self) -> Outcome {
        self.run(&["restore", "-d", "-D", self.image("").to_str().unwrap()])
    }

    fn image(&self, name: &str) -> PathBuf {
        self.criu.sandbox.path("images").join(name)
    }

    /// The target compares its state and finds nothing wrong; no process, mount or rule is new.
    #[track_caller]
    fn is_as_before(&mut self) {
        self.criu.sandbox.settles_to(&self.before).unwrap();
        self.target.check().unwrap();
    }

    /// Nothing in the folder that restore would accept.
    #[track_caller]
    fn has_no_images(&self) {
        assert!(!self.image("inventory.img").exists(), "an inventory after a failed dump");
        fails(&self.restore(), &["inventory"]);
    }
}

/// A fixture without a word to say before the restore, dumped for good.
fn dumped(test: impl FnOnce(&Case)) {
    with(&["pipes"], |case| {
        let outcome = case.dump(&[]);
        assert!(outcome.status.success(), "{outcome}");
        test(case);
    });
}

/// After a failed restore: no task of it is left, and the images, once whole again, are good.
#[track_caller]
fn is_undone(case: &Case) {
    let left: Vec<_> = case.criu.sandbox.traces().unwrap().difference(&case.before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(!case.target.alive().unwrap(), "a half restored task is alive");
}

mod target {
    use super::*;

    #[test]
    fn is_not_there() {
        with(&["pipes"], |case| {
            let images = case.criu.sandbox.folder("images").unwrap();
            let outcome = case.run(&["dump", "-t", "31999", "-D", images.to_str().unwrap()]);
            fails(&outcome, &["31999"]);
            case.has_no_images();
            case.is_as_before();
        });
    }

    /// Only the first pid namespace shows kernel threads, so that this one runs outside of a sandbox.
    #[test]
    fn is_a_kernel_thread() {
        let threads = fs::read_to_string("/proc/2/comm").unwrap_or_default();
        if threads.trim() != "kthreadd" {
            eprintln!("not run: no kernel threads in this pid namespace");
            return;
        }
        let sandbox = Sandbox::new().unwrap(); // for its folder only
        let images = sandbox.folder("images").unwrap();
        let output = std::process::Command::new(criu_testkit::criu())
            .args(["dump", "--no-default-config", "-t", "2", "-D"])
            .arg(&images)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(error.contains("2") && error.contains("kernel thread"), "{error}");
        assert!(!images.join("inventory.img").exists());
    }

    #[test]
    fn is_criu_itself() {
        with(&["pipes"], |case| {
            case.criu.sandbox.folder("images").unwrap();
            let script =
                format!("exec {} dump -t $$ -D {}", case.criu.binary.display(), case.image("").display());
            fails(&case.criu.sandbox.run(["sh", "-c", &script]).unwrap(), &["itself"]);
            let script =
                format!("{} dump -t $$ -D {}; exit $?", case.criu.binary.display(), case.image("").display());
            fails(
                &case.criu.sandbox.run(["sh", "-c", &script]).unwrap(),
                &["The criu itself is within dumped tree"],
            );
            case.has_no_images();
            case.is_as_before();
        });
    }

    /// In vfork(2), from which no signal calls it.
    #[test]
    fn does_not_stop() {
        with(&["pipes"], |case| {
            let [end, over] = ["end", "over"].map(|name| case.criu.sandbox.path(name));
            let words = [criu_testkit::fixture(), Path::new("vfork"), &end, &over].map(ToOwned::to_owned);
            case.criu.sandbox.start("vfork", words).unwrap();
            let sleeper = || {
                let found = case.criu.sandbox.run(["pgrep", "-o", "-f", "criu-fixture vfork"]).unwrap();
                found.stdout.trim().to_owned()
            };
            let deep = |pid: &str| {
                let status = case.criu.sandbox.run(["grep", "^State:.D", &format!("/proc/{pid}/status")]);
                status.unwrap().status.success()
            };
            while !deep(&sleeper()) {
                std::thread::yield_now();
            }
            let (pid, images) = (sleeper(), case.criu.sandbox.folder("images").unwrap());
            let words = ["dump", "-t", &pid, "-D", images.to_str().unwrap(), "--timeout"];
            let start = std::time::Instant::now();
            fails(&case.run(&[&words[..], &["1"]].concat()), &[&pid, "did not stop within 1 s", "--timeout"]);
            assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
            // Who loses patience before that is heard.
            let script = format!(
                "{} {} 60 & sleep 0.5; kill -INT $!; wait $!",
                case.criu.binary.display(),
                words.join(" ")
            );
            fails(&case.criu.sandbox.run(["sh", "-c", &script]).unwrap(), &["interrupted"]);
            case.has_no_images();
            fs::write(end, "").unwrap();
            while !over.exists() {
                std::thread::yield_now();
            }
            case.is_as_before();
        });
    }

    #[test]
    fn is_traced() {
        with(&["pipes"], |case| {
            let said = case.criu.sandbox.path("tracing");
            let tracer = [criu_testkit::fixture(), Path::new("trace"), Path::new(&case.pid()), &said]
                .map(Path::as_os_str)
                .map(ToOwned::to_owned);
            let mut tracer = case.criu.sandbox.spawn(tracer).unwrap();
            while !said.exists() {
                std::thread::yield_now();
            }
            fails(&case.dump(&[]), &[&case.pid(), "traced"]);
            tracer.kill().unwrap();
            case.has_no_images();
            case.is_as_before();
        });
    }
}

mod images {
    use super::*;

    #[test]
    fn folder_is_missing() {
        with(&["pipes"], |case| {
            let outcome = case.run(&["dump", "-t", &case.pid(), "-D", "/nowhere/at all"]);
            fails(&outcome, &["/nowhere/at all"]);
            case.is_as_before();
        });
    }

    #[test]
    fn folder_is_read_only() {
        with(&["pipes"], |case| {
            let images = case.criu.sandbox.folder("images").unwrap();
            let mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", images.to_str().unwrap()];
            assert!(case.criu.sandbox.run(mount).unwrap().status.success());
            case.before = case.criu.sandbox.traces().unwrap();
            fails(&case.dump(&[]), &["images"]);
            case.is_as_before();
        });
    }

    #[test]
    fn disk_is_full_half_way() {
        with(&["private_memory"], |case| {
            let images = case.criu.sandbox.folder("images").unwrap();
            let mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", images.to_str().unwrap()];
            assert!(case.criu.sandbox.run(mount).unwrap().status.success());
            case.before = case.criu.sandbox.traces().unwrap();
            fails(&case.dump(&[]), &["space"]);
            fails(&case.restore(), &["inventory"]);
            case.is_as_before();
        });
    }

    #[test]
    fn of_an_incomplete_dump() {
        dumped(|case| {
            fs::remove_file(case.image("inventory.img")).unwrap();
            fails(&case.restore(), &["inventory"]);
            is_undone(case);
        });
    }

    #[test]
    fn of_another_version() {
        dumped(|case| {
            let path = case.image("inventory.img");
            let good = fs::read(&path).unwrap();
            // After a magic and a size comes field 1, the version, as a small number: 0x08 and its value.
            let mut other = good.clone();
            assert_eq!(other[8], 0x08);
            other[9] = 99;
            fs::write(&path, other).unwrap();
            fails(&case.restore(), &["99", "version"]);
            is_undone(case);
            fs::write(&path, good).unwrap();
            assert!(case.restore().status.success(), "the images themselves are good");
        });
    }

    /// Each image in turn, cut in the middle.
    #[test]
    fn that_are_truncated() {
        each_damaged(|bytes| bytes.truncate(bytes.len() / 2));
    }

    /// Each image in turn, without its magic.
    #[test]
    fn that_are_corrupt() {
        each_damaged(|bytes| bytes.iter_mut().take(8).for_each(|byte| *byte ^= 0x55));
    }

    /// Damages one image after the other; restore refuses each and names it; whole again they are good.
    fn each_damaged(damage: impl Fn(&mut Vec<u8>)) {
        dumped(|case| {
            let mut names: Vec<_> =
                fs::read_dir(case.image("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            for name in names {
                let name = name.to_str().unwrap();
                // Statistics, logs and raw pages have no magic.
                let Some(stem) = name.strip_suffix(".img").filter(|stem| !stem.starts_with("pages-")) else {
                    continue;
                };
                let good = fs::read(case.image(name)).unwrap();
                if good.len() <= 8 {
                    continue; // nothing but magics
                }
                let mut bad = good.clone();
                damage(&mut bad);
                fs::write(case.image(name), bad).unwrap();
                fails(&case.restore(), &[stem]);
                is_undone(case);
                fs::write(case.image(name), good).unwrap();
            }
            assert!(case.restore().status.success(), "the images themselves are good");
        });
    }

    #[test]
    fn whose_pages_are_missing() {
        dumped(|case| {
            let pages = case.image("pages-1.img");
            let good = fs::read(&pages).unwrap();
            fs::write(&pages, &good[..good.len() / 2]).unwrap();
            fails(&case.restore(), &["pages-1"]);
            is_undone(case);
        });
    }
}

mod surroundings {
    use super::*;

    #[test]
    fn pid_is_taken() {
        dumped(|case| {
            // The next process gets the number after the one written there.
            let number = case.target.pid - 1;
            let sandbox = case.criu.sandbox;
            // It is dead, but who reaps it may be slow.
            let entry = format!("/proc/{}", case.pid());
            while sandbox.run(["test", "-e", &entry]).unwrap().status.success() {}
            let told = sandbox.path("squatter");
            let script = format!(
                "echo {number} > /proc/sys/kernel/ns_last_pid; sleep 60 & echo $! > {0}.new; mv {0}.new {0}; wait",
                told.display()
            );
            sandbox.start("shell", ["sh", "-c", &script]).unwrap();
            while !told.exists() {
                std::thread::yield_now();
            }
            assert_eq!(fs::read_to_string(told).unwrap().trim(), case.pid());
            fails(&case.restore(), &[&case.pid(), "sleep"]);
            assert!(case.target.alive().unwrap(), "the squatter was harmed");
        });
    }

    #[test]
    fn open_file_has_changed() {
        with(&["files"], |case| {
            assert!(case.dump(&[]).status.success());
            let path = case.target.folder().join("file");
            fs::write(&path, "another length, another content").unwrap();
            fails(&case.restore(), &[path.to_str().unwrap(), "changed"]);
            is_undone(case);
        });
    }

    #[test]
    fn open_file_has_vanished() {
        with(&["files"], |case| {
            assert!(case.dump(&[]).status.success());
            let path = case.target.folder().join("file");
            fs::remove_file(&path).unwrap();
            fails(&case.restore(), &[path.to_str().unwrap()]);
            is_undone(case);
        });
    }
}

mod resources {
    use super::*;

    #[test]
    fn not_supported_yet() {
        with(&["unsupported"], |case| {
            fails(&case.dump(&[]), &[&case.pid(), "fd"]);
            case.has_no_images();
            case.is_as_before();
        });
    }

    #[test]
    fn segments_of_32_bit_code() {
        for (fixture, word) in [("own_segment", "set_thread_area"), ("local_segment", "modify_ldt")] {
            with(&[fixture], |case| {
                fails(&case.dump(&[]), &[&case.pid(), word]);
                case.has_no_images();
                case.is_as_before();
            });
        }
    }

    #[test]
    fn requests_that_complete_meanwhile() {
        with(&["requests_in_flight"], |case| {
            fails(&case.dump(&[]), &[&case.pid(), "io_submit"]);
            case.has_no_images();
            case.is_as_before();
        });
    }

    #[test]
    fn established_connections_need_an_option() {
        with(&["tcp4"], |case| {
            fails(&case.dump(&[]), &[&case.pid(), "tcp-established"]);
            case.has_no_images();
            case.is_as_before();
        });
    }

    /// The connection was locked already when the dump fails: it is open again.
    #[test]
    fn a_failed_dump_unlocks_connections() {
        with(&["tcp4"], |case| {
            let images = case.criu.sandbox.folder("images").unwrap();
            let mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", images.to_str().unwrap()];
            assert!(case.criu.sandbox.run(mount).unwrap().status.success());
            case.before = case.criu.sandbox.traces().unwrap();
            fails(&case.dump(&["--tcp-established"]), &["space"]);
            case.is_as_before();
        });
    }

    #[test]
    fn jobs_of_a_shell_need_an_option() {
        let sandbox = Sandbox::new().unwrap();
        let target = Target::on_terminal(&sandbox, &["shell_job"]).unwrap();
        let before = sandbox.traces().unwrap();
        let mut case = Case { criu: Criu::new(&sandbox), target, before };
        fails(&case.dump(&[]), &[&case.pid(), "shell-job"]);
        case.has_no_images();
        case.is_as_before();
    }
}

//! Where the binaries are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary under test: `$LIVE_CRIU`, or criu-rs of this build.
pub fn criu() -> PathBuf {
    match std::env::var_os("LIVE_CRIU") {
        Some(path) => path.into(),
        None => beside_this_test("criu-rs"),
    }
}

/// The binary `criu-fixture`: `$LIVE_FIXTURE`, or a fresh build.
///
/// Cargo builds no binaries of a development dependency, so that this calls it once.
pub fn fixture() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("LIVE_FIXTURE") {
        Some(path) => path.into(),
        None => {
            let path = beside_this_test("criu-fixture");
            let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--package", "criu-testkit", "--bin", "criu-fixture"]);
            build.arg("--target-dir").arg(path.ancestors().nth(2).expect("target/debug/criu-fixture"));
            if path.parent().is_some_and(|profile| profile.ends_with("release")) {
                build.arg("--release");
            }
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
            build.arg("--manifest-path").arg(manifest);
            assert!(build.status().expect("cargo runs").success(), "criu-fixture cannot be built");
            path
        }
    })
}

/// `target/debug/NAME` as seen from `target/debug/deps/test-1234` or from `target/debug/xtask`.
fn beside_this_test(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("/proc/self/exe is readable");
    let mut folder = this.parent().expect("a binary lies in a folder");
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().expect("target/debug/deps has a parent");
    }
    folder.join(name)
}

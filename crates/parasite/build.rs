//! Builds the blob: a small no_std program, compiled with the toolchain at hand as a static PIE.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("blob");
    for input in ["blob/main.rs", "../script/src/wire.rs", "build.rs"] {
        println!("cargo::rerun-if-changed={input}");
    }
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args(["--crate-name", "criu_blob", "--crate-type", "bin", "--edition", "2024"])
        .args(["--target", &target])
        .args(["-Copt-level=2", "-Cpanic=abort", "-Crelocation-model=pie", "-Cdebuginfo=0"])
        // No vector registers: the target's are not saved while the blob runs.
        .args(["-Cno-vectorize-loops", "-Cno-vectorize-slp", "-Coverflow-checks=off"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static-pie"])
        .args(["-Clink-arg=-Wl,--gc-sections,--build-id=none,-z,norelro,-z,noexecstack"])
        .args(["-Cstrip=symbols", "-Ctarget-feature=+crt-static", "-o"])
        .arg(&out)
        .arg("blob/main.rs")
        .status()
        .expect("rustc runs");
    assert!(status.success(), "the blob does not build");
}

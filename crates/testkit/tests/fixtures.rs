//! Every fixture is content with its own state when nothing happens to it: what a live test then notes is the dump's.

use criu_testkit::{Sandbox, Target, fixtures};

/// Those that need a peer or arguments, or that leave the connection alone only when it is closed for them.
const APART: [&str; 6] = ["heir", "load", "tcp_client", "tcp_server", "tcp_closed", "shell_job"];

#[test]
fn fixtures_are_sound() {
    let mut failures = Vec::new();
    for fixture in fixtures::ALL.iter().filter(|fixture| !APART.contains(&fixture.name)) {
        let sandbox = Sandbox::new().unwrap();
        let result = Target::start(&sandbox, &[fixture.name]).and_then(|mut target| target.check());
        failures.extend(result.err().map(|error| format!("{error:#}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn peers_are_sound() {
    let sandbox = Sandbox::new().unwrap();
    let mut server = Target::start(&sandbox, &["tcp_server", "127.0.0.1:0"]).unwrap();
    let mut client = Target::start(&sandbox, &["tcp_client"]).unwrap();
    client.check().unwrap();
    server.check().unwrap();
}

#[test]
fn a_job_has_its_terminal() {
    let sandbox = Sandbox::new().unwrap();
    Target::on_terminal(&sandbox, &["shell_job"]).unwrap().check().unwrap();
}

/// A fixture can fail: a closed connection is what `tcp_closed` wants, and nobody closes it here.
#[test]
fn fixtures_can_fail() {
    let sandbox = Sandbox::new().unwrap();
    let error = Target::start(&sandbox, &["tcp_closed"]).and_then(|mut target| target.check()).unwrap_err();
    assert!(error.to_string().contains("the client is not connected"), "{error:#}");
}

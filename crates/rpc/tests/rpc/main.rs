//! The service, driven over real sockets, with a backend that only plays one.
//!
//! Servers are this very program, started again: they fork, which a test harness with threads cannot.

mod client;
mod fake;
mod notify;
mod requests;
mod service;

/// What a program started again is to be, in its environment.
const ROLE: &str = "SERVER_ROLE";
/// The directory that it works in.
const DIR: &str = "SERVER_DIR";

/// Not a test: the way in for the programs started again.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let code = match role.as_str() {
        "swrk" => fake::swrk(),
        "service" => fake::service(),
        "dump" => service::dump_as_somebody_else(),
        _ => 9,
    };
    std::process::exit(code);
}

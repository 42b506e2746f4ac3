//! Live: TCP connections, with both ends in the dumped tree or one.

use criu_testkit::Live;

const ESTABLISHED: &[&str] = &["--tcp-established"];

#[test]
fn both_ends_over_ipv4() {
    Live::of("tcp4").options(ESTABLISHED).survives();
}

#[test]
fn both_ends_over_ipv6() {
    Live::of("tcp6").options(ESTABLISHED).survives();
}

#[test]
fn a_client_whose_server_is_elsewhere() {
    Live::of("tcp_client").beside(&["tcp_server", "127.0.0.1:0"]).options(ESTABLISHED).survives();
}

#[test]
fn a_client_over_ipv6() {
    Live::of("tcp_client").beside(&["tcp_server", "[::1]:0"]).options(ESTABLISHED).survives();
}

#[test]
fn a_server_whose_client_is_elsewhere() {
    Live::of("tcp_server").with("127.0.0.1:0").followed_by(&["tcp_client"]).options(ESTABLISHED).survives();
}

#[test]
fn the_lock_by_iptables() {
    let options = ["--tcp-established", "--network-lock", "iptables"];
    Live::of("tcp_client").beside(&["tcp_server", "127.0.0.1:0"]).options(&options).survives();
}

#[test]
fn a_connection_that_is_to_be_closed() {
    Live::of("tcp_closed").options(&["--tcp-close"]).survives();
}

//! Live: sockets other than TCP.

use criu_testkit::Live;

#[test]
fn packet_rings() {
    Live::of("packet_rings").survives();
}

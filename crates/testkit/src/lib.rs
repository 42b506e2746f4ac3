//! Fixture processes and the live-test harness

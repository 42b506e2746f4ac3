//! Typed wrappers for Linux system calls that nix lacks, /proc readers and feature probes

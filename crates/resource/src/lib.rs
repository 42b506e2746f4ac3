//! Dump and Restore traits and the ids that kernel resources share

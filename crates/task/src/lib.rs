//! Process tree, ids, registers, signals, timers, credentials, limits and scheduling

//! Sockets, TCP repair and the network lock

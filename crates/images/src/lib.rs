//! CRIU image format: messages, magics, framing, readers, writers, JSON form

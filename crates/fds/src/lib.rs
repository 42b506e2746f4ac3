//! The descriptor table: regular files, pipes and anonymous descriptors

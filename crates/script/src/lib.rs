//! Instruction set of the script machine and its encoding, shared by host and blob

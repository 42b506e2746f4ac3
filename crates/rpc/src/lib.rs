//! The protobuf service: what container runtimes, libcriu and pycriu speak to.
//!
//! | module | what |
//! |---|---|
//! | [`swrk`] | one client, on an inherited socket |
//! | [`service()`] | many clients, on a listening socket |
//! | [`Backend`] | who does the work: the command line implements it |
//! | [`Job`] | one request, as the backend sees it |
//! | [`Client`] | the connection: notifications and their replies |
//! | [`ScriptHooks`], [`ClientHooks`], [`HookChain`] | who is told at every stage |
//!
//! A message is one packet of a SOCK_SEQPACKET socket. Every field of a request's options goes through the
//! registry of `criu-config`, so the layers, and what overrides what, are the same as everywhere else.
//!
//! # Who runs where
//!
//! Each request that touches other processes runs in a worker process of its own (see
//! [`criu_engine::guard`]): a crash there is an error reply, and the log, the threads and the work directory of
//! one request are none of the next one's business. The worker talks to the client itself, the process that
//! serves the connection only waits. A restore and a page server run in the serving process, because what they
//! create must become its child (or, with `rst_sibling`, its sibling).
#![deny(clippy::undocumented_unsafe_blocks)]

mod backend;
mod client;
mod error;
mod failure;
mod hooks;
mod job;
mod message;
mod peer;
mod ready;
mod requests;
mod scripts;
mod serve;
mod service;

pub use backend::{Backend, Features, PageServer};
pub use client::Client;
pub use error::Error;
pub use failure::Failure;
pub use hooks::{ClientHooks, HookChain, SignalHooks};
pub use job::Job;
pub use peer::Peer;
pub use ready::tell_ready;
pub use scripts::ScriptHooks;
pub use serve::swrk;
pub use service::service;

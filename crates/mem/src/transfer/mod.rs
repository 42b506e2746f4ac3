//! Pages that go to another machine: the protocol of the reference's page server (CRIU 4.2).
//!
//! One stream socket, one session. The client opens a pagemap, adds ranges with their pages, and so on for every
//! task and shared memory object; at last it asks whether everything has arrived. Requests have a head of 32
//! bytes ([`wire`]), which the content of the pages follows.
//!
//! | module | what |
//! |---|---|
//! | [`wire`] | the heads |
//! | [`client`] | a dump's end |
//! | [`server`] | the end that stores the pages |

pub mod client;
pub mod server;
pub mod wire;

pub use client::Client;
pub use server::serve;

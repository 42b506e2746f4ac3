//! The options of criu-rs: one registry, four doors (files, environment, arguments, RPC), and for every value
//! the place it came from.
//!
//! ```
//! use criu_config::{Setting, Sources, load};
//!
//! let mut sources = Sources::default(); // `Sources::system()` reads /etc, $HOME and the environment
//! sources.environment = vec![("CRIU_VERBOSITY".into(), "4".into())];
//! sources.arguments = vec![Setting::bare("tcp-established").unwrap()];
//! let config = load(&sources).unwrap();
//! assert_eq!(config.options.verbosity, 4);
//! assert!(config.options.tcp_established);
//! assert_eq!(config.provenance.get("verbosity").unwrap().origin.to_string(), "environment");
//! ```
//!
//! The layers, weakest first: built-in defaults, /etc/criu/default.conf, $HOME/.criu/default.conf, the file in
//! `$CRIU_CONFIG_FILE`, the file of `--config`, `CRIU_<OPTION>` variables, arguments, RPC options, the RPC
//! client's `config_file`. A stronger layer replaces the value of a weaker one; lists grow, `verbosity` without
//! a number adds one, `cpu-cap` adds and takes away, as in the reference.
#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
pub mod args;
mod command;
mod error;
pub mod file;
mod layers;
mod load;
mod options;
mod provenance;
pub mod registry;
pub mod rpc;
mod typed;
mod value;

pub use command::Command;
pub use error::{Error, Problem};
pub use layers::{Layer, LayerKind, Origin, environment_layer, file_layer};
pub use load::{Config, Sources, check_file, load};
pub use options::{FinalState, Options};
pub use provenance::{Entry, Past, Provenance};
pub use rpc::{RpcLayer, RpcValue};
pub use typed::{
    CgroupMode, CpuCap, EmptyNs, FileValidation, InheritFd, LogFormat, NetworkLock, PreDumpMode,
};
pub use value::{Raw, Setting, Value};

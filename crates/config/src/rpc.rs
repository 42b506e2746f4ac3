//! The fields of an RPC request's options as a layer, independent of any protobuf library.

use std::path::PathBuf;

use crate::Problem;
use crate::layers::{LayerKind, Origin};
use crate::registry::{self, Kind};
use crate::typed::CpuCap;
use crate::value::{Raw, Setting};

/// The value of a message's field.
#[derive(Clone, Debug, PartialEq)]
pub enum RpcValue {
    /// A bool.
    Bool(bool),
    /// A number or an enum's number.
    Int(i64),
    /// A string.
    Text(String),
    /// A repeated field.
    List(Vec<RpcValue>),
    /// A message: the fields that are present.
    Message(Vec<(String, RpcValue)>),
}

/// What a request's `criu_opts` sets.
#[derive(Clone, Debug, Default)]
pub struct RpcLayer {
    /// The settings.
    pub settings: Vec<Setting>,
    /// `config_file`, the strongest layer of all.
    pub config_file: Option<PathBuf>,
    /// `exec_cmd`, the command to run after a restore.
    pub exec_cmd: Vec<String>,
    /// Fields whose value makes no sense; [`load`](crate::load()) reports them.
    pub problems: Vec<Problem>,
    /// Fields that are neither options nor known parts of the protocol.
    pub unknown: Vec<String>,
}

/// Fields that concern the session between client and service rather than an option.
pub const SESSION_FIELDS: &[&str] = &[
    "images_dir_fd",
    "work_dir_fd",
    "notify_scripts",
    "orphan_pts_master",
    "pidfd_store_sk",
    "log_to_stderr",
    "config_file",
];

/// Flags that the reference only ever switches on: false is the same as absent.
const ONLY_TRUE: &[&str] =
    &["leave_running", "leave_stopped", "mntns_compat_mode", "tls", "tls_no_cn_verify", "auto_ext_mnt"];

impl RpcLayer {
    /// The layer of the fields that are present in a request's options, by their names in rpc.proto.
    pub fn from_fields(fields: impl IntoIterator<Item = (String, RpcValue)>) -> Self {
        let mut layer = RpcLayer::default();
        let mut fields: Vec<_> = fields.into_iter().collect();
        // What says more than a flag comes after it.
        fields.sort_by_key(|(name, _)| matches!(name.as_str(), "manage_cgroups_mode" | "unix_sk_ino" | "ps"));
        for (name, value) in &fields {
            if let Err(reason) = layer.field(name, value) {
                let origin = Origin::of(LayerKind::Rpc);
                layer.problems.push(Problem::Value { origin, option: name.clone(), reason });
            }
        }
        layer
    }

    fn field(&mut self, name: &str, value: &RpcValue) -> Result<(), String> {
        match (name, value) {
            ("config_file", RpcValue::Text(path)) => self.config_file = Some(path.into()),
            ("exec_cmd", RpcValue::List(words)) => {
                self.exec_cmd = words.iter().map(text).collect::<Result<_, _>>()?;
                if !self.exec_cmd.is_empty() {
                    self.set("exec-cmd", Raw::Bare);
                }
            }
            ("ps", RpcValue::Message(parts)) => {
                // A lazy dump listens itself: only the port counts, as in the reference.
                let lazy =
                    self.settings.iter().any(|set| set.option.name == "lazy-pages" && set.raw == Raw::Bare);
                if !lazy {
                    self.set("page-server", Raw::Bare);
                }
                for (part, value) in parts {
                    match part.as_str() {
                        "address" | "fd" if lazy => {}
                        "address" => self.set("address", Raw::Text(text(value)?)),
                        "port" => self.set("port", Raw::Text(text(value)?)),
                        "fd" => self.set("ps-socket", Raw::Text(text(value)?)),
                        "pid" => {}
                        _ => self.unknown.push(format!("ps.{part}")),
                    }
                }
            }
            ("unix_sk_ino", RpcValue::List(sockets)) => {
                for socket in sockets {
                    self.set("ext-unix-sk", Raw::Text(part(socket, "inode")?));
                }
            }
            ("ext_unix_sk", RpcValue::Bool(on)) => {
                self.set("ext-unix-sk", if *on { Raw::Bare } else { Raw::Off });
            }
            ("manage_cgroups", RpcValue::Bool(on)) => {
                let mode = if *on { "soft" } else { "ignore" };
                self.set("manage-cgroups", Raw::Text(mode.into()));
            }
            ("manage_cgroups_mode", RpcValue::Int(6)) => self.set("manage-cgroups", Raw::Bare),
            ("auto_ext_mnt", RpcValue::Bool(true)) => self.set("ext-mount-map", Raw::Text("auto".into())),
            ("cpu_cap", RpcValue::Int(bits)) => {
                let bits = u32::try_from(*bits & 0xffff_ffff).unwrap_or(u32::MAX);
                self.set("cpu-cap", Raw::Text(format!("none,{}", CpuCap::from_bits(bits))));
            }
            ("empty_ns", RpcValue::Int(0)) => {}
            _ if SESSION_FIELDS.contains(&name) => {}
            (_, RpcValue::Bool(false)) if ONLY_TRUE.contains(&name) => {}
            _ => return self.plain(name, value),
        }
        Ok(())
    }

    /// A field that maps to one option, by the kind of that option.
    fn plain(&mut self, name: &str, value: &RpcValue) -> Result<(), String> {
        let Some(option) = registry::OPTIONS.iter().find(|option| option.rpc.contains(&name)) else {
            self.unknown.push(name.into());
            return Ok(());
        };
        match (&option.kind, value) {
            (Kind::Flag, RpcValue::Bool(on)) => self.set(option.name, if *on { Raw::Bare } else { Raw::Off }),
            (Kind::Choice(choices), RpcValue::Int(number)) => {
                let choice = choices.iter().find(|choice| choice.rpc == Some(*number));
                let choice = choice.ok_or_else(|| format!("{number} is not a known value"))?;
                self.set(option.name, Raw::Text(choice.name.into()));
            }
            (Kind::List(_), RpcValue::List(items)) => {
                for item in items {
                    self.set(option.name, Raw::Text(list_item(name, item)?));
                }
            }
            (Kind::Flag | Kind::Choice(_) | Kind::List(_), _) => return Err("has an unexpected type".into()),
            // A pid of 0 asks the service to dump its client; that is the service's business.
            (_, RpcValue::Int(0)) if name == "pid" => {}
            (_, value) => self.set(option.name, Raw::Text(text(value)?)),
        }
        Ok(())
    }

    fn set(&mut self, name: &str, raw: Raw) {
        if let Some(option) = registry::find(name) {
            self.settings.push(Setting { option, raw, line: None });
        }
    }
}

/// One entry of a repeated field in the words of the command line.
fn list_item(field: &str, item: &RpcValue) -> Result<String, String> {
    Ok(match field {
        "veths" => format!("{}={}", part(item, "if_in")?, part(item, "if_out")?),
        "ext_mnt" => format!("{}:{}", part(item, "key")?, part(item, "val")?),
        "inherit_fd" => format!("fd[{}]:{}", part(item, "fd")?, part(item, "key")?),
        "cg_root" => match part(item, "ctrl") {
            Ok(controller) => format!("{controller}:{}", part(item, "path")?),
            Err(_) => part(item, "path")?,
        },
        "join_ns" => match part(item, "extra_opt") {
            Ok(extra) => format!("{}:{},{extra}", part(item, "ns")?, part(item, "ns_file")?),
            Err(_) => format!("{}:{}", part(item, "ns")?, part(item, "ns_file")?),
        },
        _ => text(item)?,
    })
}

fn part(message: &RpcValue, name: &str) -> Result<String, String> {
    let RpcValue::Message(fields) = message else { return Err("is not a message".into()) };
    let field = fields.iter().find(|(field, _)| field == name);
    text(&field.ok_or_else(|| format!("lacks {name}"))?.1)
}

fn text(value: &RpcValue) -> Result<String, String> {
    match value {
        RpcValue::Text(text) => Ok(text.clone()),
        RpcValue::Int(number) => Ok(number.to_string()),
        _ => Err("has an unexpected type".into()),
    }
}

//! The layers, weakest first: defaults, files, environment, arguments or RPC options, the RPC client's file.

mod stack;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::value::{Raw, Setting};
use crate::{Error, Problem, file, registry};

pub(crate) use stack::Stack;

/// The kind of a layer, in order of strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerKind {
    /// Built in.
    Default,
    /// /etc/criu/default.conf
    SystemFile,
    /// $HOME/.criu/default.conf
    UserFile,
    /// The file that `$CRIU_CONFIG_FILE` names.
    EnvFile,
    /// The file of `--config`.
    ConfigFile,
    /// `CRIU_<OPTION>` variables.
    Environment,
    /// The command line.
    Argument,
    /// Fields of an RPC request.
    Rpc,
    /// The file that an RPC request names.
    RpcFile,
}

impl LayerKind {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            LayerKind::Default => "default",
            LayerKind::SystemFile => "system-file",
            LayerKind::UserFile => "user-file",
            LayerKind::EnvFile => "env-file",
            LayerKind::ConfigFile => "config-file",
            LayerKind::Environment => "environment",
            LayerKind::Argument => "argument",
            LayerKind::Rpc => "rpc",
            LayerKind::RpcFile => "rpc-file",
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The layer.
    pub layer: LayerKind,
    /// The file, for a layer that is one.
    pub path: Option<PathBuf>,
    /// The line of the file, counted from 1.
    pub line: Option<usize>,
}

impl Origin {
    /// A place in a layer that is no file.
    pub const fn of(layer: LayerKind) -> Self {
        Origin { layer, path: None, line: None }
    }

    /// An option set here, in the words of the layer: `--name`, `CRIU_NAME`, `FILE:LINE: name`.
    pub fn place(&self, option: &str) -> String {
        match self.layer {
            LayerKind::Argument => format!("--{option}"),
            LayerKind::Environment => format!("CRIU_{}", option.to_ascii_uppercase().replace('-', "_")),
            LayerKind::Rpc => format!("RPC option {option}"),
            _ => format!("{self}: {option}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, self.line) {
            (Some(path), Some(line)) => write!(f, "{}:{line}", path.display()),
            (Some(path), None) => write!(f, "{}", path.display()),
            (None, _) => f.write_str(self.layer.name()),
        }
    }
}

/// The settings of one layer, in the order in which they were written.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Which.
    pub kind: LayerKind,
    /// The file, for a layer that is one.
    pub path: Option<PathBuf>,
    /// What it sets.
    pub settings: Vec<Setting>,
}

impl Layer {
    /// A layer that is no file.
    pub fn new(kind: LayerKind, settings: Vec<Setting>) -> Self {
        Layer { kind, path: None, settings }
    }

    pub(crate) fn origin(&self, line: Option<usize>) -> Origin {
        Origin { layer: self.kind, path: self.path.clone(), line }
    }
}

/// The layer of a configuration file's text. All its errors are reported at once: syntax, keys and values.
///
/// # Errors
/// Every line that is wrong, in order.
pub fn file_layer(kind: LayerKind, path: &Path, bytes: &[u8]) -> Result<Layer, Error> {
    let origin = |line| Origin { layer: kind, path: Some(path.into()), line: Some(line) };
    let (settings, errors) = file::parse(bytes);
    let mut problems: Vec<(usize, Problem)> = errors
        .into_iter()
        .map(|error| {
            let problem = match error.what {
                file::Wrong::Syntax(reason) => Problem::Syntax { origin: origin(error.line), reason },
                file::Wrong::UnknownKey { key, nearest } => {
                    Problem::UnknownKey { origin: origin(error.line), key, nearest }
                }
                file::Wrong::Value { option, reason } => {
                    Problem::Value { origin: origin(error.line), option, reason }
                }
            };
            (error.line, problem)
        })
        .collect();
    if problems.is_empty() {
        return Ok(Layer { kind, path: Some(path.into()), settings });
    }
    problems.sort_by_key(|(line, _)| *line);
    Err(Error { problems: problems.into_iter().map(|(_, problem)| problem).collect() })
}

/// The layer of the environment, the variables that are neither on nor off, and warnings about variables that name
/// no option.
///
/// A flag is on for an empty value, `1`, `on`, `yes` and `true`, and off for `0`, `off`, `no` and `false`.
/// An empty value means the bare name of an option whose argument may be left out. Lists have one entry a line.
pub fn environment_layer(variables: &[(String, String)]) -> (Layer, Vec<Problem>, Vec<String>) {
    let (mut settings, mut problems, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for (variable, text) in variables {
        let Some((option, negated)) = registry::find_variable(variable) else {
            warnings.extend(unknown(variable));
            continue;
        };
        match env_values(option, negated, text) {
            Ok(raws) => settings.extend(raws.into_iter().map(|raw| Setting { option, raw, line: None })),
            Err(reason) => {
                let option = if negated { format!("no-{}", option.name) } else { option.name.into() };
                problems.push(Problem::Value { origin: Origin::of(LayerKind::Environment), option, reason });
            }
        }
    }
    (Layer::new(LayerKind::Environment, settings), problems, warnings)
}

fn env_values(option: &registry::Opt, negated: bool, text: &str) -> Result<Vec<Raw>, String> {
    use registry::{Arity, Kind};
    match option.kind {
        Kind::Flag => {
            let on = match text.to_ascii_lowercase().as_str() {
                "" | "1" | "on" | "yes" | "true" => true,
                "0" | "off" | "no" | "false" => false,
                _ => return Err(format!("«{text}» is neither on nor off")),
            };
            Ok(vec![if on != negated { Raw::Bare } else { Raw::Off }])
        }
        Kind::List(_) => {
            Ok(text.lines().filter(|line| !line.is_empty()).map(|line| Raw::Text(line.into())).collect())
        }
        _ if text.is_empty() && option.arity() == Arity::Optional => Ok(vec![Raw::Bare]),
        _ => Ok(vec![Raw::Text(text.into())]),
    }
}

/// Variables that name no option and yet mean something: to us, to the reference, to `cargo xtask bench`.
const OTHERS: &[&str] = &[
    "CRIU_CONFIG_FILE",
    "CRIU_FAULT",
    "CRIU_LIBS_DIR",
    "CRIU_PMC_OFF",
    "CRIU_REFERENCE",
    "CRIU_TRACK_SHMEM",
];

/// A warning for a variable that looks like an option's.
fn unknown(variable: &str) -> Option<String> {
    let key = variable.strip_prefix("CRIU_").filter(|_| !OTHERS.contains(&variable))?;
    let nearest = registry::nearest(key).map(|nearest| Origin::of(LayerKind::Environment).place(&nearest));
    let hint = nearest.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
    Some(format!("the variable {variable} names no option{hint}"))
}

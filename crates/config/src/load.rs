//! Reading all layers into one configuration.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::layers::{Layer, LayerKind, Stack, environment_layer, file_layer};
use crate::registry::{self, Group, Support};
use crate::rpc::RpcLayer;
use crate::value::{Raw, Setting};
use crate::{CgroupMode, Command, Entry, Error, Options, Problem, Provenance, file};

/// The places that settings come from. [`Sources::default`] has none; [`Sources::system`] has those of this process.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The command to run. Options that it needs and that are not built are an error; none: they are not.
    pub command: Option<Command>,
    /// The system's file, /etc/criu/default.conf.
    pub system_file: Option<PathBuf>,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// Environment variables, of which those called `CRIU_…` are looked at.
    pub environment: Vec<(String, String)>,
    /// The command line's options.
    pub arguments: Vec<Setting>,
    /// The fields of an RPC request.
    pub rpc: Option<RpcLayer>,
}

impl Sources {
    /// The places of this process: /etc, its environment and its home.
    pub fn system() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("CRIU_"))
            .map(|(name, value): (String, OsString)| (name, value.to_string_lossy().into_owned()))
            .collect();
        Sources {
            system_file: Some(PathBuf::from("/etc/criu/default.conf")),
            home: std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
            environment,
            ..Sources::default()
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A configuration in effect.
#[derive(Clone, Debug)]
pub struct Config {
    /// Every option's value.
    pub options: Options,
    /// Where each value comes from.
    pub provenance: Provenance,
    /// What somebody should know and nothing fails of, one line each.
    pub warnings: Vec<String>,
    /// The layers that were there, weakest first, with the file's path where it is one.
    pub layers_read: Vec<(LayerKind, Option<PathBuf>)>,
}

impl Config {
    /// Lines for the log: the layers read, then each set value that a stronger layer overrode.
    pub fn log_lines(&self) -> Vec<String> {
        let layers: Vec<_> = self
            .layers_read
            .iter()
            .map(|(kind, path)| match path {
                Some(path) => format!("{} {}", kind.name(), path.display()),
                None => kind.name().to_owned(),
            })
            .collect();
        let mut lines = vec![format!("options read from: {}", layers.join(" < "))];
        lines.extend(self.provenance.overridden().into_iter().map(|line| format!("option {line}")));
        lines
    }
}

/// Reads all layers.
///
/// # Errors
/// Everything that is wrong in any layer, all at once.
pub fn load(sources: &Sources) -> Result<Config, Error> {
    let mut loader = Loader::default();
    let (environment, problems, warnings) = environment_layer(&sources.environment);
    let config = last(&sources.arguments, "config").or_else(|| last(&environment.settings, "config"));
    let skip_defaults = config.is_some()
        || last(&sources.arguments, "no-default-config").is_some()
        || last(&environment.settings, "no-default-config").is_some_and(|setting| setting.raw == Raw::Bare);

    if !skip_defaults {
        let user_file = sources.home.as_ref().map(|home| home.join(".criu/default.conf"));
        loader.file(LayerKind::SystemFile, sources.system_file.as_deref(), Missing::Fine);
        loader.file(LayerKind::UserFile, user_file.as_deref(), Missing::Fine);
    }
    let env_file = sources.variable("CRIU_CONFIG_FILE").filter(|path| !path.is_empty()).map(Path::new);
    loader.file(LayerKind::EnvFile, env_file, Missing::Warn);
    if let Some(Setting { raw: Raw::Text(path), .. }) = config {
        loader.file(LayerKind::ConfigFile, Some(Path::new(path)), Missing::Error);
    }
    loader.warnings.extend(warnings);
    loader.problems.extend(problems);
    loader.layers.push(environment);
    loader.layers.push(Layer::new(LayerKind::Argument, sources.arguments.clone()));
    if let Some(rpc) = &sources.rpc {
        loader.problems.extend(rpc.problems.iter().cloned());
        loader.layers.push(Layer::new(LayerKind::Rpc, rpc.settings.clone()));
        loader.file(LayerKind::RpcFile, rpc.config_file.as_deref(), Missing::Warn);
    }
    loader.finish(sources.command)
}

/// Checks one file by itself, as `config check FILE` does.
///
/// # Errors
/// Everything that is wrong in it.
pub fn check_file(path: &Path) -> Result<Vec<Setting>, Error> {
    let bytes =
        read(path).map_err(|error| unreadable(path, &error)).map_err(|p| Error { problems: vec![p] })?;
    file_layer(LayerKind::ConfigFile, path, &bytes).map(|layer| layer.settings)
}

fn last<'a>(settings: &'a [Setting], name: &str) -> Option<&'a Setting> {
    settings.iter().rev().find(|setting| setting.option.name == name)
}

/// What a missing file means.
#[derive(PartialEq)]
enum Missing {
    Fine,
    Warn,
    Error,
}

#[derive(Default)]
struct Loader {
    layers: Vec<Layer>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Loader {
    fn file(&mut self, kind: LayerKind, path: Option<&Path>, missing: Missing) {
        let Some(path) = path else { return };
        match read(path) {
            Ok(bytes) => match file_layer(kind, path, &bytes) {
                Ok(layer) => self.layers.push(layer),
                Err(error) => self.problems.extend(error.problems),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::Fine => {}
            Err(error) if missing == Missing::Error => self.problems.push(unreadable(path, &error)),
            Err(error) => self.warnings.push(unreadable(path, &error).to_string()),
        }
    }

    fn finish(mut self, command: Option<Command>) -> Result<Config, Error> {
        let mut stack = Stack::new();
        for layer in &self.layers {
            self.warnings.extend(layer.settings.iter().filter_map(|setting| idle(layer, setting)));
            stack.push(layer);
        }
        let (options, provenance, problems) = stack.finish();
        self.problems.extend(problems);
        if let Some(command) = command.filter(|command| !command.inspects_config()) {
            let remote = self.layers.iter().any(|layer| layer.kind == LayerKind::Rpc);
            let entries = provenance.entries.iter();
            self.problems.extend(entries.filter_map(|entry| unusable(entry, command, &options, remote)));
        }
        if !self.problems.is_empty() {
            return Err(Error { problems: self.problems });
        }
        if let Some(command) = command {
            let entries = provenance.entries.iter();
            self.warnings.extend(entries.filter_map(|entry| unmanaged(entry, command, &options)));
        }
        let read = |layer: &Layer| layer.path.is_some() || !layer.settings.is_empty();
        let mut layers_read = vec![(LayerKind::Default, None)];
        layers_read.extend(self.layers.into_iter().filter(read).map(|layer| (layer.kind, layer.path)));
        Ok(Config { options, provenance, warnings: self.warnings, layers_read })
    }
}

/// What keeps a command from running with an option as it is set.
fn unusable(entry: &Entry, command: Command, options: &Options, remote: bool) -> Option<Problem> {
    let (option, origin) = (entry.option.name, entry.origin.clone());
    let used = entry.is_changed() && entry.option.commands.contains(&command);
    match entry.option.support {
        Support::NotYet if used => Some(Problem::NotSupported { origin, option }),
        Support::Removed(instead) if entry.is_changed() => Some(Problem::Removed { origin, option, instead }),
        // Over RPC, every restore is detached.
        _ if used && option == "restore-sibling" && !options.restore_detached && !remote => {
            Some(Problem::Needs { origin, option, needs: "restore-detached" })
        }
        _ => None,
    }
}

/// A warning for an option that asks for more about control groups than leaving them alone.
fn unmanaged(entry: &Entry, command: Command, options: &Options) -> Option<String> {
    let (name, origin) = (entry.option.name, &entry.origin);
    let modest = match name {
        "manage-cgroups" => matches!(options.manage_cgroups, CgroupMode::Ignore | CgroupMode::Soft),
        _ => entry.option.group != Group::Cgroups,
    };
    let asks = !modest && entry.is_changed() && entry.option.commands.contains(&command);
    asks.then(|| format!("{origin}: {name}: control groups are not dumped or restored yet; it has no effect"))
}

/// A warning for a setting that names files to read, in a file, where it comes too late.
fn idle(layer: &Layer, setting: &Setting) -> Option<String> {
    let late = layer.path.is_some() && matches!(setting.option.name, "config" | "no-default-config");
    late.then(|| format!("{}: {} has no effect in a file", layer.origin(setting.line), setting.option.name))
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem::File { path: path.into(), reason: error.to_string() }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(file::MAX_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > file::MAX_SIZE {
        return Err(io::Error::other(format!("it is larger than {} bytes", file::MAX_SIZE)));
    }
    Ok(bytes)
}

impl Setting {
    /// An option switched on by its bare name, for callers that make settings themselves.
    ///
    /// # Errors
    /// The key that may have been meant, if `key` names no option.
    pub fn bare(key: &str) -> Result<Self, Option<String>> {
        let (option, off) = registry::find_key(key).ok_or_else(|| registry::nearest(key))?;
        Ok(Setting { option, raw: if off { Raw::Off } else { Raw::Bare }, line: None })
    }

    /// An option with a value, for callers that make settings themselves.
    ///
    /// # Errors
    /// The key that may have been meant, if `key` names no option.
    pub fn with(key: &str, value: impl Into<String>) -> Result<Self, Option<String>> {
        let option = registry::find(key).ok_or_else(|| registry::nearest(key))?;
        Ok(Setting { option, raw: Raw::Text(value.into()), line: None })
    }
}

//! The order of the layers, and what is said about it.

use std::path::{Path, PathBuf};

use criu_config::{Command, LayerKind, RpcLayer, RpcValue, Setting, Sources, load};
use serde_json::json;

/// A place with every layer, each of which can set something.
struct House {
    root: tempfile::TempDir,
    sources: Sources,
}

const FILES: [LayerKind; 5] = [
    LayerKind::SystemFile,
    LayerKind::UserFile,
    LayerKind::EnvFile,
    LayerKind::ConfigFile,
    LayerKind::RpcFile,
];

impl House {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(".criu")).unwrap();
        let sources = Sources {
            system_file: Some(root.path().join("system.conf")),
            home: Some(root.path().into()),
            ..Sources::default()
        };
        House { root, sources }
    }

    fn path(&self, layer: LayerKind) -> PathBuf {
        let name = match layer {
            LayerKind::SystemFile => "system.conf",
            LayerKind::UserFile => ".criu/default.conf",
            LayerKind::EnvFile => "env.conf",
            LayerKind::ConfigFile => "config.conf",
            LayerKind::RpcFile => "rpc.conf",
            _ => panic!("{layer:?} is no file"),
        };
        self.root.path().join(name)
    }

    fn rpc(&mut self, field: &str, value: RpcValue) {
        let old = self.sources.rpc.take().unwrap_or_default();
        let mut new = RpcLayer::from_fields([(field.to_owned(), value)]);
        new.settings.splice(0..0, old.settings);
        new.config_file = new.config_file.or(old.config_file);
        self.sources.rpc = Some(new);
    }

    /// Sets `timeout` in one layer; in a file on its second line.
    fn set(&mut self, layer: LayerKind, seconds: i64) {
        match layer {
            LayerKind::Default => {}
            LayerKind::Environment => {
                self.sources.environment.push(("CRIU_TIMEOUT".into(), seconds.to_string()));
            }
            LayerKind::Argument => {
                self.sources.arguments.push(Setting::with("timeout", seconds.to_string()).unwrap());
            }
            LayerKind::Rpc => self.rpc("timeout", RpcValue::Int(seconds)),
            file => {
                let path = self.path(file);
                std::fs::write(&path, format!("# a comment\ntimeout {seconds}\n")).unwrap();
                let path = path.to_str().unwrap().to_owned();
                match file {
                    LayerKind::EnvFile => self.sources.environment.push(("CRIU_CONFIG_FILE".into(), path)),
                    LayerKind::ConfigFile => {
                        self.sources.arguments.push(Setting::with("config", path).unwrap());
                    }
                    LayerKind::RpcFile => self.rpc("config_file", RpcValue::Text(path)),
                    _ => {}
                }
            }
        }
    }

    /// What the report says about a value of this layer.
    fn shown(&self, layer: LayerKind, value: i64) -> serde_json::Value {
        let file = FILES.contains(&layer).then(|| self.path(layer));
        json!({
            "value": value,
            "layer": layer.name(),
            "path": file.as_deref().map(|path| path.to_str().unwrap()),
            "line": file.is_some().then_some(2),
        })
    }

    fn text(&self, layer: LayerKind, value: i64) -> String {
        match FILES.contains(&layer) {
            true => format!("{value} ({}:2)", self.path(layer).display()),
            false => format!("{value} ({})", layer.name()),
        }
    }
}

fn wins(weaker: LayerKind, stronger: LayerKind) {
    let mut house = House::new();
    house.set(weaker, 10);
    house.set(stronger, 20);
    let config = load(&house.sources).unwrap();
    assert_eq!(config.options.timeout, 20, "{stronger:?} over {weaker:?}");

    let report = config.provenance.to_json();
    let entry = report.as_array().unwrap().iter().find(|entry| entry["name"] == "timeout").unwrap();
    let mut expected = house.shown(stronger, 20);
    expected["name"] = json!("timeout");
    // The default is at the bottom of every pile.
    let mut overrides = vec![house.shown(LayerKind::Default, 10)];
    if weaker != LayerKind::Default {
        overrides.push(house.shown(weaker, 10));
    }
    expected["overrides"] = json!(overrides);
    assert_eq!(entry, &expected);

    if weaker != LayerKind::Default {
        let text = config.provenance.to_text(false);
        let line = text.lines().find(|line| line.starts_with("timeout ")).unwrap();
        assert!(line.ends_with(&format!("; overrides {}", house.text(weaker, 10))), "{line}");
        let line = format!("timeout is {}, overriding {}", house.text(stronger, 20), house.text(weaker, 10));
        assert_eq!(config.provenance.overridden(), [line.as_str()]);
        assert_eq!(config.log_lines()[1], format!("option {line}"));
    }
}

#[test]
fn the_stronger_of_two_neighbours_wins_and_both_are_named() {
    use LayerKind::*;
    // --config switches the user's file off, so that EnvFile is the neighbour below it.
    let order = [Default, SystemFile, UserFile, EnvFile, ConfigFile, Environment, Argument, Rpc, RpcFile];
    for pair in order.windows(2) {
        wins(pair[0], pair[1]);
        assert!(pair[0] < pair[1]);
    }
}

#[test]
fn all_layers_at_once() {
    let mut house = House::new();
    for (value, layer) in [LayerKind::SystemFile, LayerKind::UserFile, LayerKind::EnvFile].iter().enumerate()
    {
        house.set(*layer, value as i64);
    }
    for (value, layer) in
        [LayerKind::Environment, LayerKind::Argument, LayerKind::Rpc, LayerKind::RpcFile].iter().enumerate()
    {
        house.set(*layer, 10 + value as i64);
    }
    let config = load(&house.sources).unwrap();
    let entry = config.provenance.get("timeout").unwrap();
    assert_eq!(config.options.timeout, 13);
    assert_eq!(entry.overrides.len(), 7);
    let kinds: Vec<_> = config.layers_read.iter().map(|(kind, _)| kind.name()).collect();
    assert_eq!(kinds.join(" "), "default system-file user-file env-file environment argument rpc rpc-file");
}

#[test]
fn config_and_no_default_config_switch_the_default_files_off() {
    for name in ["config", "no-default-config"] {
        for by_environment in [false, true] {
            let mut house = House::new();
            house.set(LayerKind::SystemFile, 1);
            house.set(LayerKind::UserFile, 2);
            let value = if name == "config" { "/dev/null" } else { "1" };
            if by_environment {
                let variable = format!("CRIU_{}", name.to_uppercase().replace('-', "_"));
                house.sources.environment.push((variable, value.into()));
            } else if name == "config" {
                house.sources.arguments.push(Setting::with(name, value).unwrap());
            } else {
                house.sources.arguments.push(Setting::bare(name).unwrap());
            }
            assert_eq!(load(&house.sources).unwrap().options.timeout, 10, "{name}");
        }
    }
}

#[test]
fn missing_files() {
    let missing = "/nonexistent/criu.conf";
    let mut house = House::new();
    assert!(load(&house.sources).unwrap().warnings.is_empty(), "the default files may be missing");

    house.rpc("config_file", RpcValue::Text(missing.into()));
    house.sources.environment.push(("CRIU_CONFIG_FILE".into(), missing.into()));
    let warnings = load(&house.sources).unwrap().warnings;
    let expected =
        format!("cannot read the configuration file {missing}: No such file or directory (os error 2)");
    assert_eq!(warnings, [expected.as_str(), expected.as_str()]);

    house.sources.arguments.push(Setting::with("config", missing).unwrap());
    assert_eq!(load(&house.sources).unwrap_err().to_string(), expected);
}

#[test]
fn unreadable_and_oversized_files_are_errors_not_hangs() {
    for path in ["/", "/dev/zero"] {
        let arguments = vec![Setting::with("config", path).unwrap()];
        let error = load(&Sources { arguments, ..Sources::default() }).unwrap_err();
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[test]
fn values_add_up_where_the_reference_adds_them() {
    let mut house = House::new();
    let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
    write(&house.path(LayerKind::SystemFile), "verbosity 3\nexternal a[1]\nleave-running\ncpu-cap ^ins");
    write(&house.path(LayerKind::UserFile), "external b[2]\nexternal b[3]\nleave-stopped\ncpu-cap cpu");
    house.sources.arguments = vec![
        Setting::bare("verbosity").unwrap(),
        Setting::bare("verbosity").unwrap(),
        Setting::with("external", "c[4]").unwrap(),
    ];
    let config = load(&house.sources).unwrap();
    assert_eq!(config.options.verbosity, 5);
    assert_eq!(config.options.external, ["a[1]", "b[2]", "b[3]", "c[4]"]);
    assert_eq!(config.options.cpu_cap.to_string(), "fpu,cpu,image");
    assert_eq!(config.options.final_state(), criu_config::FinalState::Stopped);
    let entry = config.provenance.get("leave-running").unwrap();
    assert_eq!((entry.origin.layer, entry.origin.line), (LayerKind::UserFile, Some(3)));
}

#[test]
fn a_value_set_twice_in_one_file_names_the_first() {
    let house = House::new();
    std::fs::write(house.path(LayerKind::SystemFile), "timeout 1\ntimeout 2\n").unwrap();
    let config = load(&house.sources).unwrap();
    let lines: Vec<_> =
        config.provenance.get("timeout").unwrap().overrides.iter().map(|past| past.origin.line).collect();
    assert_eq!(lines, [None, Some(1)]);
}

#[test]
fn all_errors_of_all_layers_at_once() {
    let mut house = House::new();
    let path = house.path(LayerKind::SystemFile);
    std::fs::write(&path, "tcp-establishd\ntimeout never\n--shell-job\nlog-file \"x\nshell-job yes\n")
        .unwrap();
    house.sources.environment = vec![
        ("CRIU_TCP_CLOSE".into(), "maybe".into()),
        ("CRIU_GHOST_LIMIT".into(), "big".into()),
        ("CRIU_SHELL_JOBS".into(), "1".into()),
        ("CRIU_FAULT".into(), "1".into()),
    ];
    house.sources.arguments = vec![Setting::with("tree", "-1").unwrap()];
    let path = path.display();
    assert_eq!(
        load(&house.sources).unwrap_err().to_string(),
        format!(
            "{path}:1: unknown option «tcp-establishd», did you mean «tcp-established»?\n\
             {path}:2: timeout: «never» is not a whole number\n\
             {path}:3: «--shell-job»: write the option without dashes, «shell-job»\n\
             {path}:4: the closing quote is missing\n\
             {path}:5: shell-job: takes no value\n\
             CRIU_TCP_CLOSE: «maybe» is neither on nor off\n\
             CRIU_GHOST_LIMIT: «big» is not a size (a number, with K, M or G behind it if wanted)\n\
             --tree: -1 is not between 1 and 2147483647"
        )
    );
}

#[test]
fn variables_that_name_no_option_are_warned_about() {
    let environment = vec![
        ("CRIU_SHELL_JOBS".into(), "1".into()),
        ("CRIU_TCP_EST".into(), "1".into()),
        ("CRIU_XYZZY".into(), "1".into()),
        ("CRIU_FAULT".into(), "1".into()),
        ("CRIU_REFERENCE".into(), "/criu".into()),
    ];
    let config = load(&Sources { environment, ..Sources::default() }).unwrap();
    assert_eq!(
        config.warnings,
        [
            "the variable CRIU_SHELL_JOBS names no option; did you mean CRIU_SHELL_JOB?",
            "the variable CRIU_TCP_EST names no option; did you mean CRIU_TCP_ESTABLISHED?",
            "the variable CRIU_XYZZY names no option",
        ]
    );
}

#[test]
fn options_that_are_not_built_fail_where_they_would_be_needed() {
    let mut house = House::new();
    std::fs::write(house.path(LayerKind::SystemFile), "lazy-pages\n").unwrap();
    let path = house.path(LayerKind::SystemFile);
    house.sources.command = Some(Command::Dump);
    let error = load(&house.sources).unwrap_err();
    assert_eq!(error.to_string(), format!("{}:1: lazy-pages is not supported yet", path.display()));

    for command in [None, Some(Command::Check), Some(Command::ConfigShow)] {
        house.sources.command = command;
        assert!(load(&house.sources).unwrap().options.lazy_pages, "{command:?}");
    }

    let arguments = vec![Setting::bare("ms").unwrap()];
    let sources = Sources { command: Some(Command::Check), arguments, ..Sources::default() };
    let error = load(&sources).unwrap_err().to_string();
    assert_eq!(error, "--ms is no longer accepted; use `check` without --extra or --all");
}

#[test]
fn a_sibling_must_be_detached() {
    let arguments = |names: &[&str]| names.iter().map(|name| Setting::bare(name).unwrap()).collect();
    let mut sources = Sources {
        command: Some(Command::Restore),
        arguments: arguments(&["restore-sibling"]),
        ..Sources::default()
    };
    let error = load(&sources).unwrap_err().to_string();
    assert_eq!(error, "--restore-sibling works only with restore-detached");
    sources.arguments = arguments(&["restore-sibling", "restore-detached"]);
    assert!(load(&sources).is_ok());
    // Over RPC, every restore is detached.
    sources.arguments = arguments(&["restore-sibling"]);
    sources.rpc = Some(RpcLayer::default());
    assert!(load(&sources).is_ok());
}

#[test]
fn the_table_for_people_shows_what_was_set_first() {
    let mut house = House::new();
    house.set(LayerKind::UserFile, 5);
    house.set(LayerKind::Argument, 6);
    let config = load(&house.sources).unwrap();
    let text = config.provenance.to_text(false);
    let user = house.path(LayerKind::UserFile);
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        format!("{:23}  6        argument; overrides 5 ({}:2)", "timeout", user.display())
    );
    assert_eq!(lines.next().unwrap(), format!("{:23}  -        default", "tree"));
    assert!(!text.contains('\x1b'));
    assert!(config.provenance.to_text(true).contains("\x1b[1mtimeout"));
}

#[test]
fn cgroup_options_are_accepted_and_warned_about() {
    let warnings = |setting: Setting| {
        let sources =
            Sources { command: Some(Command::Dump), arguments: vec![setting], ..Sources::default() };
        load(&sources).unwrap().warnings
    };
    for modest in ["soft", "ignore"] {
        assert!(warnings(Setting::with("manage-cgroups", modest).unwrap()).is_empty(), "{modest}");
    }
    let full = warnings(Setting::with("manage-cgroups", "full").unwrap());
    assert_eq!(
        full,
        ["argument: manage-cgroups: control groups are not dumped or restored yet; it has no effect"]
    );
    assert_eq!(warnings(Setting::with("cgroup-root", "/a").unwrap()).len(), 1);
    assert!(warnings(Setting::bare("track-mem").unwrap()).is_empty());
}

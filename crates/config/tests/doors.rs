//! Every option through every door: file, environment, argument and RPC give the same typed value.

use criu_config::registry::{Arity, OPTIONS, Opt, find};
use criu_config::{Options, RpcLayer, RpcValue, Setting, Sources, args, load};
use serde_json::{Value as Json, json};

/// An option, how it is written (none: the bare name), the RPC field that says the same, and its typed value.
type Row = (&'static str, Option<&'static str>, Option<(&'static str, RpcValue)>, Json);

fn text(text: &str) -> RpcValue {
    RpcValue::Text(text.into())
}

fn message(fields: &[(&str, RpcValue)]) -> RpcValue {
    RpcValue::Message(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn texts(items: &[&str]) -> RpcValue {
    RpcValue::List(items.iter().map(|item| text(item)).collect())
}

fn rows() -> Vec<Row> {
    use RpcValue::{Bool, Int, List};
    let flag = |name, field| (name, None, Some((field, Bool(true))), json!(true));
    let local = |name| (name, None, None, json!(true));
    let string =
        |name, field, value: &'static str| (name, Some(value), Some((field, text(value))), json!(value));
    let list = |name, field, value: &'static str| {
        (name, Some(value), Some((field, texts(&[value]))), json!([value]))
    };
    vec![
        ("tree", Some("123"), Some(("pid", Int(123))), json!(123)),
        flag("leave-running", "leave_running"),
        local("copy-on-write"),
        flag("leave-stopped", "leave_stopped"),
        local("restore-detached"),
        flag("restore-sibling", "rst_sibling"),
        ("exec-cmd", None, Some(("exec_cmd", texts(&["ls", "-l"]))), json!(true)),
        flag("shell-job", "shell_job"),
        ("timeout", Some("30"), Some(("timeout", Int(30))), json!(30)),
        string("freeze-cgroup", "freeze_cgroup", "/sys/fs/cgroup/a b"),
        ("cpu-cap", Some("none,cpu"), Some(("cpu_cap", Int(2))), json!("cpu,image")),
        ("action-script", Some("/bin/true"), None, json!(["/bin/true"])),
        local("dry-run"),
        flag("unprivileged", "unprivileged"),
        local("allow-uprobes"),
        string("images-dir", "images_dir", "/images"),
        string("work-dir", "work_dir", "/my \"work\" # directory"),
        ("pidfile", Some("/run/pid"), None, json!("/run/pid")),
        ("status-fd", Some("7"), Some(("status_fd", Int(7))), json!(7)),
        ("close", Some("5"), None, json!([5])),
        ("libdir", Some("/lib/criu"), None, json!("/lib/criu")),
        local("stream"),
        flag("tcp-established", "tcp_established"),
        flag("tcp-close", "tcp_close"),
        flag("skip-in-flight", "tcp_skip_in_flight"),
        ("network-lock", Some("nftables"), Some(("network_lock", Int(2))), json!("nftables")),
        (
            "ext-unix-sk",
            Some("7,8"),
            Some(("unix_sk_ino", List(vec![message(&[("inode", Int(7))]), message(&[("inode", Int(8))])]))),
            json!([7, 8]),
        ),
        flag("file-locks", "file_locks"),
        flag("link-remap", "link_remap"),
        ("ghost-limit", Some("2M"), Some(("ghost_limit", Int(2 << 20))), json!(2 << 20)),
        local("ghost-fiemap"),
        flag("evasive-devices", "evasive_devices"),
        flag("force-irmap", "force_irmap"),
        list("irmap-scan-path", "irmap_scan_paths", "/etc"),
        ("file-validation", Some("filesize"), None, json!("filesize")),
        flag("skip-file-rwx-check", "skip_file_rwx_check"),
        list("external", "external", "mnt[/a]:b"),
        (
            "inherit-fd",
            Some("fd[3]:pipe[12]"),
            Some(("inherit_fd", List(vec![message(&[("key", text("pipe[12]")), ("fd", Int(3))])]))),
            json!(["fd[3]:pipe[12]"]),
        ),
        (
            "veth-pair",
            Some("eth0=veth1"),
            Some(("veths", List(vec![message(&[("if_in", text("eth0")), ("if_out", text("veth1"))])]))),
            json!(["eth0=veth1"]),
        ),
        (
            "ext-mount-map",
            Some("/a:b"),
            Some(("ext_mnt", List(vec![message(&[("key", text("/a")), ("val", text("b"))])]))),
            json!(["/a:b"]),
        ),
        flag("enable-external-sharing", "ext_sharing"),
        flag("enable-external-masters", "ext_masters"),
        string("root", "root", "/"),
        (
            "join-ns",
            Some("user:12,1,2"),
            Some((
                "join_ns",
                List(vec![message(&[
                    ("ns", text("user")),
                    ("ns_file", text("12")),
                    ("extra_opt", text("1,2")),
                ])]),
            )),
            json!(["user:12,1,2"]),
        ),
        ("empty-ns", Some("net"), Some(("empty_ns", Int(0x4000_0000))), json!("net")),
        list("skip-mnt", "skip_mnt", "/mnt"),
        ("enable-fs", Some("nfs,fuse"), Some(("enable_fs", texts(&["nfs,fuse"]))), json!(["nfs", "fuse"])),
        flag("mntns-compat-mode", "mntns_compat_mode"),
        flag("weak-sysctls", "weak_sysctls"),
        string("lsm-profile", "lsm_profile", "apparmor:a"),
        string("lsm-mount-context", "lsm_mount_context", "system_u:object_r:a_t:s0:c1,c2"),
        ("manage-cgroups", Some("full"), Some(("manage_cgroups_mode", Int(4))), json!("full")),
        (
            "cgroup-root",
            Some("cpu:/new"),
            Some(("cg_root", List(vec![message(&[("ctrl", text("cpu")), ("path", text("/new"))])]))),
            json!(["cpu:/new"]),
        ),
        string("cgroup-props", "cgroup_props", "\"c1\": - \"strategy\": \"merge\""),
        string("cgroup-props-file", "cgroup_props_file", "/props"),
        list("cgroup-dump-controller", "cgroup_dump_controller", "cpu"),
        string("cgroup-yard", "cgroup_yard", "/yard"),
        flag("track-mem", "track_mem"),
        string("prev-images-dir", "parent_img", "../0"),
        flag("auto-dedup", "auto_dedup"),
        ("pre-dump-mode", Some("read"), Some(("pre_dump_mode", Int(2))), json!("read")),
        flag("lazy-pages", "lazy_pages"),
        ("page-server", None, Some(("ps", message(&[]))), json!(true)),
        ("address", Some("::1"), Some(("ps", message(&[("address", text("::1"))]))), json!("::1")),
        ("port", Some("1234"), Some(("ps", message(&[("port", Int(1234))]))), json!(1234)),
        ("ps-socket", Some("9"), Some(("ps", message(&[("fd", Int(9))]))), json!(9)),
        local("daemon"),
        flag("tls", "tls"),
        string("tls-cacert", "tls_cacert", "/ca"),
        string("tls-cacrl", "tls_cacrl", "/crl"),
        string("tls-cert", "tls_cert", "/cert"),
        string("tls-key", "tls_key", "/key"),
        flag("tls-no-cn-verify", "tls_no_cn_verify"),
        local("extra"),
        local("experimental"),
        local("all"),
        ("feature", Some("mem_dirty_track"), None, json!(["mem_dirty_track"])),
        local("ms"),
        string("log-file", "log_file", "dump.log"),
        ("verbosity", Some("4"), Some(("log_level", Int(4))), json!(4)),
        ("log-format", Some("json"), None, json!("json")),
        local("log-pid"),
        flag("display-stats", "display_stats"),
        ("config", Some("/dev/null"), None, json!("/dev/null")),
        local("no-default-config"),
        local("deprecated"),
    ]
}

fn line(option: &Opt, value: Option<&str>) -> String {
    let setting = match value {
        Some(value) => Setting::with(option.name, value).unwrap(),
        None => Setting::bare(option.name).unwrap(),
    };
    criu_config::file::format([&setting]).unwrap()
}

fn value(sources: &Sources, option: &Opt) -> Json {
    let config = load(sources).unwrap_or_else(|error| panic!("{}: {error}", option.name));
    let typed = serde_json::to_value(&config.options).unwrap()[option.name].clone();
    // The report says the same as the struct.
    assert_eq!(config.provenance.get(option.name).unwrap().value.to_json(), typed);
    typed
}

fn by_file(text: &str, option: &Opt) -> Json {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".criu")).unwrap();
    std::fs::write(home.path().join(".criu/default.conf"), text).unwrap();
    value(&Sources { home: Some(home.path().into()), ..Sources::default() }, option)
}

fn by_environment(variable: String, text: &str, option: &Opt) -> Json {
    value(&Sources { environment: vec![(variable, text.into())], ..Sources::default() }, option)
}

fn by_arguments(words: &[String], option: &Opt) -> Json {
    let mut line = vec!["criu-rs".into(), "restore".into()];
    line.extend(words.iter().map(Into::into));
    if option.name == "exec-cmd" {
        line.extend(["--".into(), "ls".into()]);
    }
    let Ok(args::Request::Run(invocation)) = args::parse(line) else { panic!("{words:?}") };
    value(&Sources { arguments: invocation.settings, ..Sources::default() }, option)
}

fn by_rpc(field: (&str, RpcValue), option: &Opt) -> Json {
    let layer = RpcLayer::from_fields([(field.0.to_owned(), field.1)]);
    assert_eq!(layer.unknown, [""; 0]);
    value(&Sources { rpc: Some(layer), ..Sources::default() }, option)
}

fn by_rpc_file(text: &str, option: &Opt) -> Json {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = RpcValue::Text(file.path().to_string_lossy().into());
    by_rpc(("config_file", path), option)
}

#[test]
fn every_option_through_every_door() {
    let rows = rows();
    assert_eq!(rows.len(), OPTIONS.len());
    for (name, written, field, expected) in rows {
        let option = find(name).unwrap_or_else(|| panic!("{name} is no option"));
        let file = line(option, written);
        assert_eq!(by_file(&file, option), expected, "{name} in a file");
        assert_eq!(by_rpc_file(&file, option), expected, "{name} in the file of an RPC client");
        let variable = option.variable();
        assert_eq!(
            by_environment(variable, written.unwrap_or("1"), option),
            expected,
            "{name} in the environment"
        );
        let long = match written {
            None => vec![format!("--{name}")],
            Some(value) => vec![format!("--{name}={value}")],
        };
        assert_eq!(by_arguments(&long, option), expected, "{name} as an argument");
        if let (Some(value), Arity::Required) = (written, option.arity()) {
            let apart = [format!("--{name}"), value.to_owned()];
            assert_eq!(by_arguments(&apart, option), expected, "{name} as an argument of two words");
        }
        if let Some(letter) = option.short {
            let short = format!("-{letter}{}", written.unwrap_or_default());
            assert_eq!(by_arguments(&[short], option), expected, "-{letter}");
        }
        assert_eq!(field.is_some(), !option.rpc.is_empty(), "{name}: an RPC field");
        if let Some(field) = field {
            assert!(option.rpc.iter().any(|known| known.split('.').next() == Some(field.0)), "{name}");
            assert_eq!(by_rpc(field, option), expected, "{name} by RPC");
        }
    }
}

#[test]
fn every_no_form_through_every_door() {
    for option in OPTIONS.iter().filter(|option| option.negatable) {
        let name = option.name;
        let variable = option.variable();
        assert_eq!(by_file(&format!("{name}\nno-{name}\n"), option), json!(false), "{name}");
        assert_eq!(by_environment(variable.clone(), "off", option), json!(false), "{name}");
        let negated = variable.replacen("CRIU_", "CRIU_NO_", 1);
        assert_eq!(by_environment(negated, "1", option), json!(false), "{name}");
        let words = [format!("--{name}"), format!("--no-{name}")];
        assert_eq!(by_arguments(&words, option), json!(false), "{name}");
    }
}

#[test]
fn bare_names_of_options_whose_argument_may_be_left_out() {
    for (name, expected) in [
        ("verbosity", json!(3)),
        ("ext-unix-sk", json!([])),
        ("cpu-cap", json!("fpu,cpu,ins,image")),
        ("manage-cgroups", json!("soft")),
    ] {
        let option = find(name).unwrap();
        assert_eq!(by_file(name, option), expected, "{name}");
        assert_eq!(by_environment(option.variable(), "", option), expected, "{name}");
        assert_eq!(by_arguments(&[format!("--{name}")], option), expected, "{name}");
    }
}

#[test]
fn rpc_fields_with_a_meaning_of_their_own() {
    let options = |fields: Vec<(&str, RpcValue)>| -> Options {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
        load(&Sources { rpc: Some(RpcLayer::from_fields(fields)), ..Sources::default() }).unwrap().options
    };
    use RpcValue::{Bool, Int};
    assert_eq!(options(vec![("ext_unix_sk", Bool(true))]).ext_unix_sk, Some(vec![]));
    assert_eq!(options(vec![("ext_unix_sk", Bool(false))]).ext_unix_sk, None);
    let mode = |fields| serde_json::to_value(options(fields).manage_cgroups).unwrap();
    assert_eq!(mode(vec![("manage_cgroups", Bool(false))]), "ignore");
    assert_eq!(mode(vec![("manage_cgroups_mode", Int(5)), ("manage_cgroups", Bool(true))]), "strict");
    assert_eq!(mode(vec![("manage_cgroups_mode", Int(6))]), "soft");
    assert_eq!(options(vec![("auto_ext_mnt", Bool(true))]).ext_mount_map, ["auto"]);
    let ps = message(&[("port", Int(5)), ("fd", Int(3))]);
    let lazy = options(vec![("ps", ps.clone()), ("lazy_pages", Bool(true))]);
    assert_eq!((lazy.page_server, lazy.port, lazy.ps_socket), (false, Some(5), None));
    let eager = options(vec![("ps", ps)]);
    assert_eq!((eager.page_server, eager.port, eager.ps_socket), (true, Some(5), Some(3)));
}

#[test]
fn rpc_fields_that_make_no_sense_are_named_all_at_once() {
    let layer = RpcLayer::from_fields([
        ("network_lock".to_owned(), RpcValue::Int(9)),
        ("timeout".to_owned(), RpcValue::Int(-1)),
        ("tcp_close".to_owned(), RpcValue::Int(1)),
        ("images_dir_fd".to_owned(), RpcValue::Int(3)),
        ("brand_new".to_owned(), RpcValue::Int(3)),
    ]);
    assert_eq!(layer.unknown, ["brand_new"]);
    let error = load(&Sources { rpc: Some(layer), ..Sources::default() }).unwrap_err().to_string();
    assert_eq!(
        error,
        "RPC option network_lock: 9 is not a known value\n\
         RPC option tcp_close: has an unexpected type\n\
         RPC option timeout: -1 is not between 0 and 4294967295"
    );
}

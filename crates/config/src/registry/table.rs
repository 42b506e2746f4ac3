//! The table itself, in the order of the help text.

use super::{Choice, Group, Item, Kind, Opt, Support};
use crate::Command::{self, *};

const DUMPS: &[Command] = &[Dump, PreDump];
const BOTH: &[Command] = &[Dump, Restore];
const TREES: &[Command] = &[Dump, PreDump, Restore];
const IMAGES: &[Command] =
    &[Dump, PreDump, Restore, PageServer, LazyPages, Service, Dedup, CpuinfoDump, CpuinfoCheck];
const SERVERS: &[Command] = &[PageServer, LazyPages, Service];
const PAGES: &[Command] = &[Dump, PreDump, Restore, PageServer, LazyPages];
const CPU: &[Command] = &[Dump, Restore, CpuinfoDump, CpuinfoCheck];
const NOT_YET: Support = Support::NotYet;
const NO_EFFECT: Support = Support::NoEffect;

const NETWORK_LOCKS: &[Choice] = &[
    Choice::local("auto"),
    Choice::new("iptables", 1),
    Choice::new("nftables", 2),
    Choice { name: "skip", alias: Some("none"), rpc: Some(3) },
];
const CGROUP_MODES: &[Choice] = &[
    Choice::new("ignore", 0),
    Choice::new("none", 1),
    Choice::new("props", 2),
    Choice::new("soft", 3),
    Choice::new("full", 4),
    Choice::new("strict", 5),
];
const PRE_DUMP_MODES: &[Choice] = &[Choice::new("splice", 1), Choice::new("read", 2)];
const FILE_CHECKS: &[Choice] = &[Choice::local("buildid"), Choice::local("filesize")];
const LOG_FORMATS: &[Choice] = &[Choice::local("text"), Choice::local("json")];
const EMPTY_NAMESPACES: &[Choice] = &[Choice::new("net", 0x4000_0000)];

const INHERIT_FD: Item = Item::Form("fd[N]:RESOURCE", |text| crate::InheritFd::parse(text).is_some());
const JOIN_NS: Item = Item::Form("NS:PID or NS:FILE", |text| split(text, ':'));
const VETH_PAIR: Item = Item::Form("IN=OUT", |text| split(text, '='));
const MOUNT_MAP: Item = Item::Form("KEY:VALUE or auto", |text| text == "auto" || split(text, ':'));

fn split(text: &str, at: char) -> bool {
    text.split_once(at).is_some_and(|(left, right)| !left.is_empty() && !right.is_empty())
}

const FD: Kind = Kind::Int(0, i32::MAX as i64);
const PID: Kind = Kind::Int(1, i32::MAX as i64);
const SECONDS: Kind = Kind::Int(0, u32::MAX as i64);
const PORT: Kind = Kind::Int(0, 65535);
const TEXTS: Kind = Kind::List(Item::Text);

const fn flag(name: &'static str, group: Group, help: &'static str) -> Opt {
    Opt::new(name, Kind::Flag, group, help)
}

/// Every option.
#[rustfmt::skip] // one entry, two lines: what it is, and where it applies
pub static OPTIONS: &[Opt] = &[
    // Tasks
    Opt::new("tree", PID, Group::Tasks, "Root of the process tree to checkpoint")
        .short('t').value("PID").on(DUMPS).rpc(&["pid"]),
    flag("leave-running", Group::Tasks, "Let the tasks run on after the checkpoint")
        .short('R').unsets("leave-stopped").on(DUMPS).rpc(&["leave_running"]),
    flag("copy-on-write", Group::Tasks, "With -R: write the pages while the tasks run")
        .no().on(&[Dump]),
    flag("leave-stopped", Group::Tasks, "Leave the tasks stopped in the end")
        .short('s').unsets("leave-running").on(TREES).rpc(&["leave_stopped"]),
    flag("restore-detached", Group::Tasks, "Return once the tree (or server) runs")
        .short('d').no().on(&[Restore, PageServer, LazyPages, Service]),
    flag("restore-sibling", Group::Tasks, "Restore the root as our sibling (with -d)")
        .short('S').no().on(&[Restore]).rpc(&["rst_sibling"]),
    flag("exec-cmd", Group::Tasks, "Run what follows «--» as parent of the root")
        .on(&[Restore]).rpc(&["exec_cmd"]),
    flag("shell-job", Group::Tasks, "Allow a session or terminal shared outside")
        .short('j').no().on(TREES).rpc(&["shell_job"]),
    Opt::new("timeout", SECONDS, Group::Tasks, "Longest wait for a task to react")
        .value("SECONDS").default("10").on(TREES).rpc(&["timeout"]),
    Opt::new("freeze-cgroup", Kind::Path, Group::Tasks, "Freeze the tasks through this cgroup")
        .value("PATH").on(DUMPS).rpc(&["freeze_cgroup"]).support(NO_EFFECT),
    Opt::new("cpu-cap", Kind::CpuCap, Group::Tasks, "CPU checks: cpu fpu ins all none")
        .value("CAPS").default("fpu,ins").implied("all").on(CPU).rpc(&["cpu_cap"]),
    Opt::new("action-script", TEXTS, Group::Tasks, "Run this script at every stage")
        .value("FILE").on(&[Dump, PreDump, Restore, PageServer, LazyPages, Service]),
    flag("dry-run", Group::Tasks, "Check, print the scripts, change nothing")
        .no().on(&[Restore]),
    flag("unprivileged", Group::Tasks, "Accept the limits of running without root")
        .no().rpc(&["unprivileged"]).support(NO_EFFECT),
    flag("allow-uprobes", Group::Tasks, "Allow tasks that have a uprobe mapping")
        .no().on(BOTH).support(NO_EFFECT),
    // Files
    Opt::new("images-dir", Kind::Path, Group::Files, "Image files (default: current directory)")
        .short('D').value("DIR").on(IMAGES).rpc(&["images_dir"]),
    Opt::new("work-dir", Kind::Path, Group::Files, "Logs, pidfiles, statistics (default: as -D)")
        .short('W').value("DIR").rpc(&["work_dir"]),
    Opt::new("pidfile", Kind::Path, Group::Files, "Write the pid of the root or server here")
        .value("FILE").on(&[Restore, PageServer, LazyPages, Service]),
    Opt::new("status-fd", FD, Group::Files, "Write a zero byte here when ready")
        .value("FD").on(&[PageServer, LazyPages, Service]).rpc(&["status_fd"]),
    Opt::new("close", Kind::List(Item::Fd), Group::Files, "Close this descriptor first")
        .value("FD"),
    Opt::new("libdir", Kind::Path, Group::Files, "Directory of plugins")
        .short('L').value("DIR").on(TREES).support(NO_EFFECT),
    flag("stream", Group::Files, "Exchange images with criu-image-streamer")
        .no().on(TREES).support(NOT_YET),
    // Resources
    flag("tcp-established", Group::Resources, "Allow established TCP connections")
        .no().on(TREES).rpc(&["tcp_established"]),
    flag("tcp-close", Group::Resources, "Restore TCP connections as closed")
        .no().on(BOTH).rpc(&["tcp_close"]),
    flag("skip-in-flight", Group::Resources, "Skip half-open TCP connections")
        .no().on(DUMPS).rpc(&["tcp_skip_in_flight"]),
    Opt::new("network-lock", Kind::Choice(NETWORK_LOCKS), Group::Resources, "auto, nftables, iptables or skip")
        .value("METHOD").default("auto").on(TREES).rpc(&["network_lock"]),
    Opt::new("ext-unix-sk", Kind::Ids, Group::Resources, "Allow unix peers outside [inodes]")
        .short('x').value("INODES").on(TREES).rpc(&["ext_unix_sk", "unix_sk_ino"]),
    flag("file-locks", Group::Resources, "Allow file locks")
        .short('l').no().on(TREES).rpc(&["file_locks"]),
    flag("link-remap", Group::Resources, "Allow linking deleted files back")
        .no().on(TREES).rpc(&["link_remap"]),
    Opt::new("ghost-limit", Kind::Size, Group::Resources, "Largest deleted file in the images")
        .value("SIZE").default("1M").on(DUMPS).rpc(&["ghost_limit"]),
    flag("ghost-fiemap", Group::Resources, "Find holes of deleted files by fiemap")
        .no().default("on").on(DUMPS).support(NO_EFFECT),
    flag("evasive-devices", Group::Resources, "Allow another path to a device")
        .no().on(TREES).rpc(&["evasive_devices"]),
    flag("force-irmap", Group::Resources, "Search paths of inotify watches")
        .no().on(DUMPS).rpc(&["force_irmap"]),
    Opt::new("irmap-scan-path", TEXTS, Group::Resources, "Search watched files here")
        .value("PATH").on(DUMPS).rpc(&["irmap_scan_paths"]),
    Opt::new("file-validation", Kind::Choice(FILE_CHECKS), Group::Resources, "Compare files by buildid or filesize")
        .value("METHOD").default("buildid").on(BOTH),
    flag("skip-file-rwx-check", Group::Resources, "Ignore changed file permissions")
        .no().on(&[Restore]).rpc(&["skip_file_rwx_check"]),
    // External
    Opt::new("external", TEXTS, Group::External, "TYPE[ID]:VALUE lies outside")
        .value("RESOURCE").on(TREES).rpc(&["external"]),
    Opt::new("inherit-fd", Kind::List(INHERIT_FD), Group::External, "fd[N]:RESOURCE, use descriptor N")
        .value("SPEC").on(&[Restore]).rpc(&["inherit_fd"]),
    Opt::new("veth-pair", Kind::List(VETH_PAIR), Group::External, "Name of the outer end of a veth")
        .value("IN=OUT").on(&[Restore]).rpc(&["veths"]).support(NOT_YET),
    Opt::new("ext-mount-map", Kind::List(MOUNT_MAP), Group::External, "External mount, KEY:VALUE or auto")
        .short('M').value("MAP").on(TREES).rpc(&["ext_mnt", "auto_ext_mnt"]).support(NOT_YET),
    flag("enable-external-sharing", Group::External, "Allow shared external mounts")
        .on(DUMPS).rpc(&["ext_sharing"]).support(NOT_YET),
    flag("enable-external-masters", Group::External, "Allow slave external mounts")
        .on(DUMPS).rpc(&["ext_masters"]).support(NOT_YET),
    // Namespaces
    Opt::new("root", Kind::Path, Group::Namespaces, "Root of the mount namespace")
        .short('r').value("PATH").on(TREES).rpc(&["root"]).support(NOT_YET),
    Opt::new("join-ns", Kind::List(JOIN_NS), Group::Namespaces, "Join NS:PID or NS:FILE on restore")
        .short('J').value("SPEC").on(&[Restore]).rpc(&["join_ns"]).support(NOT_YET),
    Opt::new("empty-ns", Kind::Choice(EMPTY_NAMESPACES), Group::Namespaces, "Create this namespace (net) empty")
        .value("NS").on(TREES).rpc(&["empty_ns"]).support(NOT_YET),
    Opt::new("skip-mnt", TEXTS, Group::Namespaces, "Ignore this mount point")
        .value("PATH").on(DUMPS).rpc(&["skip_mnt"]).support(NOT_YET),
    Opt::new("enable-fs", Kind::List(Item::Words), Group::Namespaces, "Allow these file systems, or all")
        .value("NAMES").on(TREES).rpc(&["enable_fs"]).support(NOT_YET),
    flag("mntns-compat-mode", Group::Namespaces, "Restore mounts the old way")
        .no().on(&[Restore]).rpc(&["mntns_compat_mode"]).support(NO_EFFECT),
    flag("weak-sysctls", Group::Namespaces, "Skip sysctls that are not there")
        .no().on(&[Restore]).rpc(&["weak_sysctls"]).support(NO_EFFECT),
    Opt::new("lsm-profile", Kind::Text, Group::Namespaces, "Security profile, TYPE:NAME")
        .value("PROFILE").on(&[Restore]).rpc(&["lsm_profile"]).support(NOT_YET),
    Opt::new("lsm-mount-context", Kind::Text, Group::Namespaces, "Context for mounts that have one")
        .value("CONTEXT").on(&[Restore]).rpc(&["lsm_mount_context"]).support(NOT_YET),
    // Cgroups
    Opt::new("manage-cgroups", Kind::Choice(CGROUP_MODES), Group::Cgroups, "How cgroups come back")
        .value("MODE").default("soft").implied("soft").on(TREES).rpc(&["manage_cgroups", "manage_cgroups_mode"]).support(NO_EFFECT),
    Opt::new("cgroup-root", TEXTS, Group::Cgroups, "Root cgroup, [CONTROLLER:]/PATH")
        .value("SPEC").on(BOTH).rpc(&["cg_root"]).support(NO_EFFECT),
    Opt::new("cgroup-props", Kind::Text, Group::Cgroups, "Properties to keep, as YAML")
        .value("TEXT").on(DUMPS).rpc(&["cgroup_props"]).support(NO_EFFECT),
    Opt::new("cgroup-props-file", Kind::Path, Group::Cgroups, "The same, read from a file")
        .value("FILE").on(DUMPS).rpc(&["cgroup_props_file"]).support(NO_EFFECT),
    Opt::new("cgroup-dump-controller", TEXTS, Group::Cgroups, "Dump this controller only")
        .value("NAME").on(DUMPS).rpc(&["cgroup_dump_controller"]).support(NO_EFFECT),
    Opt::new("cgroup-yard", Kind::Path, Group::Cgroups, "Directory of mounted cgroups")
        .value("PATH").on(BOTH).rpc(&["cgroup_yard"]).support(NO_EFFECT),
    // Memory
    flag("track-mem", Group::Memory, "Changes are always found, by comparing")
        .no().on(DUMPS).rpc(&["track_mem"]).support(NO_EFFECT),
    Opt::new("prev-images-dir", Kind::Path, Group::Memory, "Images of the previous dump, under -D")
        .value("DIR").on(DUMPS).rpc(&["parent_img"]),
    flag("auto-dedup", Group::Memory, "Punch out pages once superseded")
        .no().on(&[Dump, PreDump, Restore, PageServer]).rpc(&["auto_dedup"]),
    Opt::new("pre-dump-mode", Kind::Choice(PRE_DUMP_MODES), Group::Memory, "Accepted: splice or read, both are one")
        .value("MODE").default("splice").on(&[PreDump]).rpc(&["pre_dump_mode"]).support(NO_EFFECT),
    flag("lazy-pages", Group::Memory, "Restore pages on demand")
        .on(PAGES).rpc(&["lazy_pages"]).support(NOT_YET),
    flag("page-server", Group::Memory, "Send pages to a page server")
        .no().on(&[Dump, PreDump, LazyPages]).rpc(&["ps"]),
    // Server
    Opt::new("address", Kind::Text, Group::Server, "Page server, or socket of the service")
        .value("ADDRESS").on(&[Dump, PreDump, PageServer, LazyPages, Service]).rpc(&["ps.address"]),
    Opt::new("port", PORT, Group::Server, "Port of the page server; 0 is any")
        .value("PORT").on(&[Dump, PreDump, PageServer, LazyPages]).rpc(&["ps.port"]),
    Opt::new("ps-socket", FD, Group::Server, "Page server on this descriptor")
        .value("FD").on(&[Dump, PreDump, PageServer, LazyPages]).rpc(&["ps.fd"]),
    flag("daemon", Group::Server, "Go to the background once ready")
        .no().on(SERVERS),
    flag("tls", Group::Server, "Encrypt the page server's connection")
        .no().on(PAGES).rpc(&["tls"]),
    Opt::new("tls-cacert", Kind::Path, Group::Server, "Trust certificates of this authority")
        .value("FILE").on(PAGES).rpc(&["tls_cacert"]),
    Opt::new("tls-cacrl", Kind::Path, Group::Server, "Certificates that are revoked")
        .value("FILE").on(PAGES).rpc(&["tls_cacrl"]),
    Opt::new("tls-cert", Kind::Path, Group::Server, "Our certificate")
        .value("FILE").on(PAGES).rpc(&["tls_cert"]),
    Opt::new("tls-key", Kind::Path, Group::Server, "The key of our certificate")
        .value("FILE").on(PAGES).rpc(&["tls_key"]),
    flag("tls-no-cn-verify", Group::Server, "Do not compare the server's name")
        .on(PAGES).rpc(&["tls_no_cn_verify"]),
    // Check
    flag("extra", Group::Check, "Also features that only some tasks need")
        .no().on(&[Check]),
    flag("experimental", Group::Check, "Also experimental features")
        .no().on(&[Check]),
    flag("all", Group::Check, "All of them: --extra --experimental")
        .on(&[Check]),
    Opt::new("feature", TEXTS, Group::Check, "Only this one; «list» names them all")
        .value("NAME").on(&[Check]),
    flag("ms", Group::Check, "Refused: an old name of plain check")
        .on(&[Check]).support(Support::Removed("`check` without --extra or --all")),
    // Logging
    Opt::new("log-file", Kind::Path, Group::Logging, "Write the log here, not to stderr")
        .short('o').value("FILE").rpc(&["log_file"]),
    Opt::new("verbosity", Kind::Count, Group::Logging, "One more, or 1 error .. 4 debug")
        .short('v').value("LEVEL").default("2").rpc(&["log_level"]),
    Opt::new("log-format", Kind::Choice(LOG_FORMATS), Group::Logging, "text or json")
        .value("FORMAT").default("text"),
    flag("log-pid", Group::Logging, "One log file per task")
        .no().on(&[Restore]).support(NO_EFFECT),
    flag("display-stats", Group::Logging, "Print statistics at the end")
        .no().on(BOTH).rpc(&["display_stats"]),
    // General
    Opt::new("config", Kind::Path, Group::General, "Read this file, not the default ones")
        .value("FILE"),
    flag("no-default-config", Group::General, "Do not read the default files"),
    flag("deprecated", Group::General, "Allow deprecated functions")
        .no().support(NO_EFFECT),
];

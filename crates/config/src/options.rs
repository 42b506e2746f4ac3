//! The typed result: one field an option.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::typed::InheritFd;
use crate::typed::{CgroupMode, CpuCap, EmptyNs, FileValidation, LogFormat, NetworkLock, PreDumpMode};

/// Every option with its value in effect. The fields are named as the options are; their meaning stands in
/// [`OPTIONS`](crate::registry::OPTIONS), as does the help text. A test holds the two together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each field is the option of its name, documented once in the registry")]
#[allow(clippy::struct_excessive_bools, reason = "each is one option")]
pub struct Options {
    pub tree: Option<i32>,
    pub leave_running: bool,
    pub copy_on_write: bool,
    pub leave_stopped: bool,
    pub restore_detached: bool,
    pub restore_sibling: bool,
    pub exec_cmd: bool,
    pub shell_job: bool,
    /// Seconds; 0 waits for ever.
    pub timeout: u32,
    pub freeze_cgroup: Option<PathBuf>,
    pub cpu_cap: CpuCap,
    pub action_script: Vec<String>,
    pub dry_run: bool,
    pub unprivileged: bool,
    pub allow_uprobes: bool,
    pub images_dir: Option<PathBuf>,
    pub work_dir: Option<PathBuf>,
    pub pidfile: Option<PathBuf>,
    pub status_fd: Option<i32>,
    pub close: Vec<i32>,
    pub libdir: Option<PathBuf>,
    pub stream: bool,
    pub tcp_established: bool,
    pub tcp_close: bool,
    pub skip_in_flight: bool,
    pub network_lock: NetworkLock,
    /// None: not allowed. An empty list: any socket. Otherwise the inodes that are allowed.
    pub ext_unix_sk: Option<Vec<u32>>,
    pub file_locks: bool,
    pub link_remap: bool,
    /// Bytes.
    pub ghost_limit: u64,
    pub ghost_fiemap: bool,
    pub evasive_devices: bool,
    pub force_irmap: bool,
    pub irmap_scan_path: Vec<PathBuf>,
    pub file_validation: FileValidation,
    pub skip_file_rwx_check: bool,
    pub external: Vec<String>,
    /// `fd[N]:KEY` each; see [`Options::inherited`].
    pub inherit_fd: Vec<String>,
    pub veth_pair: Vec<String>,
    pub ext_mount_map: Vec<String>,
    pub enable_external_sharing: bool,
    pub enable_external_masters: bool,
    pub root: Option<PathBuf>,
    pub join_ns: Vec<String>,
    pub empty_ns: Option<EmptyNs>,
    pub skip_mnt: Vec<PathBuf>,
    pub enable_fs: Vec<String>,
    pub mntns_compat_mode: bool,
    pub weak_sysctls: bool,
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
    pub manage_cgroups: CgroupMode,
    pub cgroup_root: Vec<String>,
    pub cgroup_props: Option<String>,
    pub cgroup_props_file: Option<PathBuf>,
    pub cgroup_dump_controller: Vec<String>,
    pub cgroup_yard: Option<PathBuf>,
    pub track_mem: bool,
    pub prev_images_dir: Option<PathBuf>,
    pub auto_dedup: bool,
    pub pre_dump_mode: PreDumpMode,
    pub lazy_pages: bool,
    pub page_server: bool,
    pub address: Option<String>,
    pub port: Option<u16>,
    pub ps_socket: Option<i32>,
    pub daemon: bool,
    pub tls: bool,
    pub tls_cacert: Option<PathBuf>,
    pub tls_cacrl: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_no_cn_verify: bool,
    pub extra: bool,
    pub experimental: bool,
    pub all: bool,
    pub feature: Vec<String>,
    pub ms: bool,
    pub log_file: Option<PathBuf>,
    /// 0 nothing, 1 errors, 2 warnings, 3 information, 4 and more debug.
    pub verbosity: u8,
    pub log_format: LogFormat,
    pub log_pid: bool,
    pub display_stats: bool,
    pub config: Option<PathBuf>,
    pub no_default_config: bool,
    pub deprecated: bool,
}

/// What becomes of the tasks in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalState {
    /// Killed after a dump, running after a restore.
    Default,
    /// `--leave-running`
    Running,
    /// `--leave-stopped`
    Stopped,
}

impl Options {
    /// What becomes of the tasks: of `--leave-running` and `--leave-stopped` the one set last holds.
    pub fn final_state(&self) -> FinalState {
        match (self.leave_running, self.leave_stopped) {
            (true, _) => FinalState::Running,
            (_, true) => FinalState::Stopped,
            _ => FinalState::Default,
        }
    }

    /// The images directory: `--images-dir`, else the current directory.
    pub fn images_dir(&self) -> PathBuf {
        self.images_dir.clone().unwrap_or_else(|| PathBuf::from("."))
    }

    /// The work directory: `--work-dir`, else the images directory.
    pub fn work_dir(&self) -> PathBuf {
        self.work_dir.clone().unwrap_or_else(|| self.images_dir())
    }

    /// Whether a server goes to the background: `--daemon`, or `-d` as the reference allows.
    pub fn background(&self) -> bool {
        self.daemon || self.restore_detached
    }

    /// Whether `check` looks at extra features.
    pub fn check_extra(&self) -> bool {
        self.extra || self.all
    }

    /// Whether `check` looks at experimental features.
    pub fn check_experimental(&self) -> bool {
        self.experimental || self.all
    }

    /// The descriptors of `--inherit-fd`, taken apart.
    pub fn inherited(&self) -> Vec<InheritFd> {
        self.inherit_fd.iter().filter_map(|spec| InheritFd::parse(spec)).collect()
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            tree: None,
            leave_running: false,
            copy_on_write: false,
            leave_stopped: false,
            restore_detached: false,
            restore_sibling: false,
            exec_cmd: false,
            shell_job: false,
            timeout: 10,
            freeze_cgroup: None,
            cpu_cap: CpuCap::DEFAULT,
            action_script: Vec::new(),
            dry_run: false,
            unprivileged: false,
            allow_uprobes: false,
            images_dir: None,
            work_dir: None,
            pidfile: None,
            status_fd: None,
            close: Vec::new(),
            libdir: None,
            stream: false,
            tcp_established: false,
            tcp_close: false,
            skip_in_flight: false,
            network_lock: NetworkLock::Auto,
            ext_unix_sk: None,
            file_locks: false,
            link_remap: false,
            ghost_limit: 1 << 20,
            ghost_fiemap: true,
            evasive_devices: false,
            force_irmap: false,
            irmap_scan_path: Vec::new(),
            file_validation: FileValidation::Buildid,
            skip_file_rwx_check: false,
            external: Vec::new(),
            inherit_fd: Vec::new(),
            veth_pair: Vec::new(),
            ext_mount_map: Vec::new(),
            enable_external_sharing: false,
            enable_external_masters: false,
            root: None,
            join_ns: Vec::new(),
            empty_ns: None,
            skip_mnt: Vec::new(),
            enable_fs: Vec::new(),
            mntns_compat_mode: false,
            weak_sysctls: false,
            lsm_profile: None,
            lsm_mount_context: None,
            manage_cgroups: CgroupMode::Soft,
            cgroup_root: Vec::new(),
            cgroup_props: None,
            cgroup_props_file: None,
            cgroup_dump_controller: Vec::new(),
            cgroup_yard: None,
            track_mem: false,
            prev_images_dir: None,
            auto_dedup: false,
            pre_dump_mode: PreDumpMode::Splice,
            lazy_pages: false,
            page_server: false,
            address: None,
            port: None,
            ps_socket: None,
            daemon: false,
            tls: false,
            tls_cacert: None,
            tls_cacrl: None,
            tls_cert: None,
            tls_key: None,
            tls_no_cn_verify: false,
            extra: false,
            experimental: false,
            all: false,
            feature: Vec::new(),
            ms: false,
            log_file: None,
            verbosity: 2,
            log_format: LogFormat::Text,
            log_pid: false,
            display_stats: false,
            config: None,
            no_default_config: false,
            deprecated: false,
        }
    }
}
